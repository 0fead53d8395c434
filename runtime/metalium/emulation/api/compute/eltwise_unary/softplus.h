// log(1 + exp(beta * x)) / beta.
#pragma once
#include "api/compute/common_globals.h"

namespace ckernel {

ALWI void softplus_tile_init() { emulation::sfpu_setup("softplus_tile_init"); }
ALWI void softplus_tile(uint32_t idst, uint32_t beta, uint32_t, uint32_t) {
    emulation::sfpu_unary("softplus_tile", "softplus_tile_init", emulation::SOFTPLUS_OF, idst, beta);
}

}  // namespace ckernel
