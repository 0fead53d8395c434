// Activations.
#pragma once
#include "api/compute/common_globals.h"

namespace ckernel {

ALWI void softsign_tile_init() { emulation::sfpu_setup("softsign_tile_init"); }
ALWI void softsign_tile(uint32_t idst) {
    emulation::sfpu_unary("softsign_tile", "softsign_tile_init", emulation::SOFTSIGN, idst);
}

}  // namespace ckernel
