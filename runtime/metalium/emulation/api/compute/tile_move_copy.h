// Tiles from circular buffers into destination registers.
#pragma once
#include "api/compute/common.h"

namespace ckernel {

template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void copy_init(std::uint32_t cbid, std::uint32_t transpose = 0, std::uint32_t transpose_within_16x16_face = false,
                    std::uint32_t = 0) {
    emulation::copy_setup(cbid, (transpose ? 1 : 0) | (transpose_within_16x16_face ? 2 : 0));
}
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void copy_tile(std::uint32_t in_cb_id, std::uint32_t in_tile_index, std::uint32_t dst_tile_index) {
    emulation::copy(in_cb_id, in_tile_index, dst_tile_index);
}
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void copy_block(std::uint32_t in_cb_id, std::uint32_t start_in_tile_index, std::uint32_t start_dst_tile_index,
                     std::uint32_t ntiles) {
    for (std::uint32_t n = 0; n < ntiles; n++)
        emulation::copy(in_cb_id, start_in_tile_index + n, start_dst_tile_index + n);
}

}  // namespace ckernel
