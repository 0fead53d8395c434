// One of two tiles, element by element.
#pragma once
#include "api/compute/common_globals.h"

namespace ckernel {

ALWI void where_tile_init() { emulation::sfpu_setup("where_tile_init"); }
template <DataFormat data_format>
ALWI void where_tile(uint32_t idst0, uint32_t idst1, uint32_t idst2, uint32_t odst) {
    emulation::sfpu_where(idst0, idst1, idst2, odst);
}

}  // namespace ckernel
