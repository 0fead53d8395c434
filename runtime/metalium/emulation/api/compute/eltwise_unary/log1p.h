// log(1 + x).
#pragma once
#include "api/compute/common_globals.h"

namespace ckernel {

template <bool fast_and_approx = false, bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void log1p_tile_init() {
    emulation::sfpu_setup("log1p_tile_init", fast_and_approx);
}
template <bool fast_and_approx = false, bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void log1p_tile(uint32_t idst) {
    emulation::sfpu_unary("log1p_tile", "log1p_tile_init", emulation::LOG1P, idst, 0, fast_and_approx);
}

}  // namespace ckernel
