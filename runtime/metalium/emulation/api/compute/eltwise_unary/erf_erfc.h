// The error function.
#pragma once
#include "api/compute/common_globals.h"

namespace ckernel {

template <bool fast_and_approx = true>
ALWI void erf_tile_init() {
    emulation::sfpu_setup("erf_tile_init", fast_and_approx);
}
template <bool fast_and_approx = true>
ALWI void erf_tile(uint32_t idst) {
    emulation::sfpu_unary("erf_tile", "erf_tile_init", emulation::ERF, idst, 0, fast_and_approx);
}

ALWI void erfc_tile_init() { emulation::sfpu_setup("erfc_tile_init"); }
ALWI void erfc_tile(uint32_t idst) { emulation::sfpu_unary("erfc_tile", "erfc_tile_init", emulation::ERFC, idst); }

}  // namespace ckernel
