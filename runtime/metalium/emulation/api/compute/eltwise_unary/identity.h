// x.
#pragma once
#include "api/compute/common_globals.h"

namespace ckernel {

ALWI void identity_tile_init() { emulation::sfpu_setup("identity_tile_init"); }
ALWI void identity_tile(uint32_t idst) {
    emulation::sfpu_unary("identity_tile", "identity_tile_init", emulation::IDENTITY, idst);
}

}  // namespace ckernel
