// From destination registers into circular buffers.
#pragma once
#include "api/compute/common_globals.h"

namespace ckernel {

ALWI void pack_init(std::uint32_t, std::uint32_t = 0) {}
template <bool out_of_order_output = false, bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void pack_tile(std::uint32_t ifrom_dst, std::uint32_t icb, std::uint32_t output_tile_index = 0) {
    emulation::pack(ifrom_dst, icb, !out_of_order_output, output_tile_index);
}
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void pack_block(std::uint32_t ifrom_dst, std::uint32_t icb, std::uint32_t ntiles) {
    for (std::uint32_t n = 0; n < ntiles; n++) emulation::pack(ifrom_dst + n, icb, true, 0);
}
ALWI void pack_reconfig_l1_acc(const std::uint32_t l1_acc_en) { emulation::pack_accumulate(l1_acc_en); }

}  // namespace ckernel
