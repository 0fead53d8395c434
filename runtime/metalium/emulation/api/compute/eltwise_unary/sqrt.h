// sqrt(x).
#pragma once
#include "api/compute/common_globals.h"

namespace ckernel {

ALWI void sqrt_tile_init() { emulation::sfpu_setup("sqrt_tile_init"); }
template <bool FAST_APPROX = false, bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void sqrt_tile(uint32_t idst) {
    emulation::sfpu_unary("sqrt_tile", "sqrt_tile_init", emulation::SQRT, idst);
}

}  // namespace ckernel
