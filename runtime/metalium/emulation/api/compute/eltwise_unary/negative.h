// -x.
#pragma once
#include "api/compute/common_globals.h"

namespace ckernel {

ALWI void negative_tile_init() { emulation::sfpu_setup("negative_tile_init"); }
ALWI void negative_tile(uint32_t idst) {
    emulation::sfpu_unary("negative_tile", "negative_tile_init", emulation::NEGATIVE, idst);
}

}  // namespace ckernel
