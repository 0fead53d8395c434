// A number minus x.
#pragma once
#include "api/compute/common_globals.h"

namespace ckernel {

ALWI void rsub_tile_init() { emulation::sfpu_setup("rsub_tile_init"); }
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void rsub_tile(uint32_t idst, uint32_t scalar) {
    emulation::sfpu_unary("rsub_tile", "rsub_tile_init", emulation::RSUB_NUMBER, idst, scalar);
}

}  // namespace ckernel
