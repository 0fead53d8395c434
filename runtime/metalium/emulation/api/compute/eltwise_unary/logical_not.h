// 1 where x is 0, else 0.
#pragma once
#include "api/compute/common_globals.h"

namespace ckernel {

ALWI void logical_not_tile_init() { emulation::sfpu_setup("logical_not_tile_init"); }
ALWI void logical_not_tile(uint32_t idst) {
    emulation::sfpu_unary("logical_not_tile", "logical_not_tile_init", emulation::LOGICAL_NOT, idst);
}

}  // namespace ckernel
