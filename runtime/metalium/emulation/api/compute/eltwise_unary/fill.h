// One number in every place.
#pragma once
#include "api/compute/common_globals.h"

namespace ckernel {

ALWI void fill_tile_init() { emulation::sfpu_setup("fill_tile_init"); }
ALWI void fill_tile(uint32_t idst, float param0) {
    uint32_t word;
    __builtin_memcpy(&word, &param0, 4);
    emulation::sfpu_fill("fill_tile", idst, word);
}
template <DataFormat DATA_FORMAT>
ALWI void fill_tile_int(uint32_t idst, uint32_t param0) {
    emulation::sfpu_fill("fill_tile_int", idst, param0);
}
ALWI void fill_tile_bitcast(uint32_t idst, uint32_t param0) { emulation::sfpu_fill("fill_tile_bitcast", idst, param0); }

}  // namespace ckernel
