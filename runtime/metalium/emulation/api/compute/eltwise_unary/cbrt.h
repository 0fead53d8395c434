// The cube root.
#pragma once
#include "api/compute/common_globals.h"

namespace ckernel {

ALWI void cbrt_tile_init() { emulation::sfpu_setup("cbrt_tile_init"); }
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void cbrt_tile(uint32_t idst) {
    emulation::sfpu_unary("cbrt_tile", "cbrt_tile_init", emulation::CBRT, idst);
}

}  // namespace ckernel
