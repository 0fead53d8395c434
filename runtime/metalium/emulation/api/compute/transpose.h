// Tiles into destination registers, rows as columns.
#pragma once
#include "api/compute/common.h"

namespace ckernel {

template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void transpose_init(uint32_t icb, uint32_t = 0) {
    emulation::transpose_setup(icb);
}
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void transpose_tile(uint32_t icb, uint32_t itile, uint32_t idst) {
    emulation::transpose(icb, itile, idst);
}

}  // namespace ckernel
