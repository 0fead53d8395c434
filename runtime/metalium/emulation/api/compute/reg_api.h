// Destination registers: acquire, compute, commit; wait, pack, release.
#pragma once
#include "api/compute/common_globals.h"

namespace ckernel {

ALWI void tile_regs_acquire() { emulation::acquire(); }
ALWI void tile_regs_wait() { emulation::wait_for_tiles(); }
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void tile_regs_commit() {
    emulation::commit();
}
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void tile_regs_release() {
    emulation::release();
}

}  // namespace ckernel
