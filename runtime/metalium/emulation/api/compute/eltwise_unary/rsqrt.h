// 1 / sqrt(x).
#pragma once
#include "api/compute/common_globals.h"

namespace ckernel {

enum class RsqrtMode { Default, Fast };

ALWI void rsqrt_tile_init() { emulation::sfpu_setup("rsqrt_tile_init"); }
template <RsqrtMode mode = RsqrtMode::Default, bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void rsqrt_tile(uint32_t idst) {
    emulation::sfpu_unary("rsqrt_tile", "rsqrt_tile_init", emulation::RSQRT, idst);
}

}  // namespace ckernel
