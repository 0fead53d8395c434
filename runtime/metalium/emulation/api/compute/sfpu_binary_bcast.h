// A tile in a destination register and row 0 or column 0 of another.
#pragma once
#include "api/compute/common_globals.h"

namespace ckernel {

ALWI void sfpu_bcast_col_init() { emulation::sfpu_setup("sfpu_bcast_col_init"); }
ALWI void sfpu_sub_bcast_col_init() { sfpu_bcast_col_init(); }
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void sfpu_sub_bcast_col(uint32_t dst_data_idx, uint32_t dst_col_vec_idx) {
    emulation::sfpu_broadcast("sfpu_sub_bcast_col", emulation::SUB, emulation::COLUMN, dst_data_idx, dst_col_vec_idx);
}
ALWI void sfpu_add_bcast_col_init() { sfpu_bcast_col_init(); }
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void sfpu_add_bcast_col(uint32_t dst_data_idx, uint32_t dst_col_vec_idx) {
    emulation::sfpu_broadcast("sfpu_add_bcast_col", emulation::ADD, emulation::COLUMN, dst_data_idx, dst_col_vec_idx);
}
ALWI void sfpu_mul_bcast_col_init() { sfpu_bcast_col_init(); }
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void sfpu_mul_bcast_col(uint32_t dst_data_idx, uint32_t dst_col_vec_idx) {
    emulation::sfpu_broadcast("sfpu_mul_bcast_col", emulation::MUL, emulation::COLUMN, dst_data_idx, dst_col_vec_idx);
}
ALWI void sfpu_bcast_row_init() { emulation::sfpu_setup("sfpu_bcast_row_init"); }
ALWI void sfpu_sub_bcast_row_init() { sfpu_bcast_row_init(); }
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void sfpu_sub_bcast_row(uint32_t dst_data_idx, uint32_t dst_row_vec_idx) {
    emulation::sfpu_broadcast("sfpu_sub_bcast_row", emulation::SUB, emulation::ROW, dst_data_idx, dst_row_vec_idx);
}
ALWI void sfpu_add_bcast_row_init() { sfpu_bcast_row_init(); }
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void sfpu_add_bcast_row(uint32_t dst_data_idx, uint32_t dst_row_vec_idx) {
    emulation::sfpu_broadcast("sfpu_add_bcast_row", emulation::ADD, emulation::ROW, dst_data_idx, dst_row_vec_idx);
}
ALWI void sfpu_mul_bcast_row_init() { sfpu_bcast_row_init(); }
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void sfpu_mul_bcast_row(uint32_t dst_data_idx, uint32_t dst_row_vec_idx) {
    emulation::sfpu_broadcast("sfpu_mul_bcast_row", emulation::MUL, emulation::ROW, dst_data_idx, dst_row_vec_idx);
}
template <BroadcastType Dim>
ALWI void sfpu_bcast_init() {
    static_assert(Dim == BroadcastType::COL || Dim == BroadcastType::ROW,
                  "only BroadcastType::COL / BroadcastType::ROW");
    if constexpr (Dim == BroadcastType::COL)
        sfpu_bcast_col_init();
    else
        sfpu_bcast_row_init();
}
template <BroadcastType Dim, EltwiseBinaryType Op, bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void sfpu_bcast(uint32_t dst_data_idx, uint32_t dst_bcast_idx) {
    static_assert(Dim == BroadcastType::COL || Dim == BroadcastType::ROW,
                  "only BroadcastType::COL / BroadcastType::ROW");
    emulation::sfpu_broadcast("sfpu_bcast", emulation::binary_of(Op), emulation::broadcast_of(Dim), dst_data_idx,
                              dst_bcast_idx);
}

}  // namespace ckernel
