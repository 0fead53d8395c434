// The larger and the smaller of two tiles in destination registers.
#pragma once
#include "api/compute/common_globals.h"

namespace ckernel {

ALWI void binary_max_tile_init() { emulation::sfpu_setup("binary_max_tile_init"); }
ALWI void binary_max_tile(uint32_t idst0, uint32_t idst1, uint32_t odst, VectorMode = VectorMode::RC) {
    emulation::sfpu_pair("binary_max_tile", "binary_max_tile_init", emulation::MAX_PAIR, idst0, idst1, odst);
}
ALWI void binary_min_tile_init() { emulation::sfpu_setup("binary_min_tile_init"); }
ALWI void binary_min_tile(uint32_t idst0, uint32_t idst1, uint32_t odst, VectorMode = VectorMode::RC) {
    emulation::sfpu_pair("binary_min_tile", "binary_min_tile_init", emulation::MIN_PAIR, idst0, idst1, odst);
}

}  // namespace ckernel
