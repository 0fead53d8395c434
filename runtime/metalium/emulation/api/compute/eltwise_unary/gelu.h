// GELU, by the error function.
#pragma once
#include "api/compute/common_globals.h"

namespace ckernel {

template <bool fast_and_approx = false>
ALWI void gelu_tile_init() {
    emulation::sfpu_setup("gelu_tile_init", fast_and_approx);
}
template <bool fast_and_approx = false>
ALWI void gelu_tile(uint32_t idst) {
    emulation::sfpu_unary("gelu_tile", "gelu_tile_init", emulation::GELU, idst, 0, fast_and_approx);
}

}  // namespace ckernel
