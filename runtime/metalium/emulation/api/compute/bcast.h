// The same with a row, a column or one element of the second operand for all.
#pragma once
#include "api/compute/common.h"

namespace ckernel {

ALWI void add_bcast_rows_init(uint32_t icb0, uint32_t icb1, uint32_t = 0) {
    emulation::binary_setup(emulation::ADD, emulation::ROW, icb0, icb1, false);
}
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void add_tiles_bcast_rows(uint32_t icb0, uint32_t icb1, uint32_t itile0, uint32_t itile1, uint32_t idst,
                               uint32_t bcast_row_idx = 0) {
    emulation::binary(emulation::ADD, emulation::ROW, icb0, icb1, itile0, itile1, idst, bcast_row_idx);
}

ALWI void add_bcast_cols_init(uint32_t icb0, uint32_t icb1, uint32_t = 0) {
    emulation::binary_setup(emulation::ADD, emulation::COLUMN, icb0, icb1, false);
}
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void add_tiles_bcast_cols(uint32_t icb0, uint32_t icb1, uint32_t itile0, uint32_t itile1, uint32_t idst) {
    emulation::binary(emulation::ADD, emulation::COLUMN, icb0, icb1, itile0, itile1, idst, 0);
}

ALWI void add_bcast_scalar_init(uint32_t icb0, uint32_t icb1, uint32_t = 0) {
    emulation::binary_setup(emulation::ADD, emulation::SCALAR, icb0, icb1, false);
}
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void add_tiles_bcast_scalar(uint32_t icb0, uint32_t icb1, uint32_t itile0, uint32_t itile1, uint32_t idst) {
    emulation::binary(emulation::ADD, emulation::SCALAR, icb0, icb1, itile0, itile1, idst, 0);
}

ALWI void sub_bcast_rows_init(uint32_t icb0, uint32_t icb1, uint32_t = 0) {
    emulation::binary_setup(emulation::SUB, emulation::ROW, icb0, icb1, false);
}
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void sub_tiles_bcast_rows(uint32_t icb0, uint32_t icb1, uint32_t itile0, uint32_t itile1, uint32_t idst,
                               uint32_t bcast_row_idx = 0) {
    emulation::binary(emulation::SUB, emulation::ROW, icb0, icb1, itile0, itile1, idst, bcast_row_idx);
}

ALWI void sub_bcast_cols_init(uint32_t icb0, uint32_t icb1, uint32_t = 0) {
    emulation::binary_setup(emulation::SUB, emulation::COLUMN, icb0, icb1, false);
}
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void sub_tiles_bcast_cols(uint32_t icb0, uint32_t icb1, uint32_t itile0, uint32_t itile1, uint32_t idst) {
    emulation::binary(emulation::SUB, emulation::COLUMN, icb0, icb1, itile0, itile1, idst, 0);
}

ALWI void sub_bcast_scalar_init(uint32_t icb0, uint32_t icb1, uint32_t = 0) {
    emulation::binary_setup(emulation::SUB, emulation::SCALAR, icb0, icb1, false);
}
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void sub_tiles_bcast_scalar(uint32_t icb0, uint32_t icb1, uint32_t itile0, uint32_t itile1, uint32_t idst) {
    emulation::binary(emulation::SUB, emulation::SCALAR, icb0, icb1, itile0, itile1, idst, 0);
}

ALWI void mul_bcast_rows_init(uint32_t icb0, uint32_t icb1, uint32_t = 0) {
    emulation::binary_setup(emulation::MUL, emulation::ROW, icb0, icb1, false);
}
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void mul_tiles_bcast_rows(uint32_t icb0, uint32_t icb1, uint32_t itile0, uint32_t itile1, uint32_t idst,
                               uint32_t bcast_row_idx = 0) {
    emulation::binary(emulation::MUL, emulation::ROW, icb0, icb1, itile0, itile1, idst, bcast_row_idx);
}

ALWI void mul_bcast_cols_init(uint32_t icb0, uint32_t icb1, uint32_t = 0) {
    emulation::binary_setup(emulation::MUL, emulation::COLUMN, icb0, icb1, false);
}
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void mul_tiles_bcast_cols(uint32_t icb0, uint32_t icb1, uint32_t itile0, uint32_t itile1, uint32_t idst) {
    emulation::binary(emulation::MUL, emulation::COLUMN, icb0, icb1, itile0, itile1, idst, 0);
}

ALWI void mul_bcast_scalar_init(uint32_t icb0, uint32_t icb1, uint32_t = 0) {
    emulation::binary_setup(emulation::MUL, emulation::SCALAR, icb0, icb1, false);
}
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void mul_tiles_bcast_scalar(uint32_t icb0, uint32_t icb1, uint32_t itile0, uint32_t itile1, uint32_t idst) {
    emulation::binary(emulation::MUL, emulation::SCALAR, icb0, icb1, itile0, itile1, idst, 0);
}

template <EltwiseBinaryType tBcastOp, BroadcastType tBcastDim>
ALWI void bcast_init(uint32_t icb0, uint32_t icb1, uint32_t = 0) {
    emulation::binary_setup(emulation::binary_of(tBcastOp), emulation::broadcast_of(tBcastDim), icb0, icb1, false);
}
template <EltwiseBinaryType tBcastOp, BroadcastType tBcastDim, bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void any_tiles_bcast(uint32_t icb0, uint32_t icb1, uint32_t itile0, uint32_t itile1, uint32_t idst,
                          uint32_t bcast_row_idx = 0) {
    emulation::binary(emulation::binary_of(tBcastOp), emulation::broadcast_of(tBcastDim), icb0, icb1, itile0, itile1,
                      idst, bcast_row_idx);
}
template <BroadcastType bcast_type, bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void unary_bcast_init(uint32_t icb) {
    emulation::broadcast_setup(icb, emulation::broadcast_of(bcast_type));
}
template <BroadcastType bcast_type, bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void unary_bcast(uint32_t icb, uint32_t in_tile_index, uint32_t dst_tile_index) {
    emulation::broadcast(icb, in_tile_index, dst_tile_index, emulation::broadcast_of(bcast_type));
}

}  // namespace ckernel
