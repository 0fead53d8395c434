// Sums, differences and products of tiles on the FPU.
#pragma once
#include "api/compute/common.h"

namespace ckernel {

ALWI void add_init(std::uint32_t icb0, std::uint32_t icb1, bool acc_to_dest = false, std::uint32_t = 0) {
    emulation::binary_setup(emulation::ADD, emulation::FULL, icb0, icb1, acc_to_dest);
}
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void add_tiles(std::uint32_t icb0, std::uint32_t icb1, std::uint32_t itile0, std::uint32_t itile1,
                    std::uint32_t idst) {
    emulation::binary(emulation::ADD, emulation::FULL, icb0, icb1, itile0, itile1, idst, 0);
}
template <EltwiseBinaryReuseDestType reuse_dest>
ALWI void add_reuse_dest_init(std::uint32_t icb, std::uint32_t = 0) {
    static_assert(reuse_dest != EltwiseBinaryReuseDestType::NONE, "reuse_dest must be DEST_TO_SRCA or DEST_TO_SRCB");
    emulation::reuse_setup(emulation::ADD, emulation::Reuse(reuse_dest), icb);
}
template <EltwiseBinaryReuseDestType reuse_dest, bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void add_reuse_dest_tiles(std::uint32_t in_cb_id, std::uint32_t in_tile_index, std::uint32_t dst_tile_index) {
    emulation::reuse(emulation::ADD, emulation::Reuse(reuse_dest), in_cb_id, in_tile_index, dst_tile_index);
}

ALWI void sub_init(std::uint32_t icb0, std::uint32_t icb1, bool acc_to_dest = false, std::uint32_t = 0) {
    emulation::binary_setup(emulation::SUB, emulation::FULL, icb0, icb1, acc_to_dest);
}
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void sub_tiles(std::uint32_t icb0, std::uint32_t icb1, std::uint32_t itile0, std::uint32_t itile1,
                    std::uint32_t idst) {
    emulation::binary(emulation::SUB, emulation::FULL, icb0, icb1, itile0, itile1, idst, 0);
}
template <EltwiseBinaryReuseDestType reuse_dest>
ALWI void sub_reuse_dest_init(std::uint32_t icb, std::uint32_t = 0) {
    static_assert(reuse_dest != EltwiseBinaryReuseDestType::NONE, "reuse_dest must be DEST_TO_SRCA or DEST_TO_SRCB");
    emulation::reuse_setup(emulation::SUB, emulation::Reuse(reuse_dest), icb);
}
template <EltwiseBinaryReuseDestType reuse_dest, bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void sub_reuse_dest_tiles(std::uint32_t in_cb_id, std::uint32_t in_tile_index, std::uint32_t dst_tile_index) {
    emulation::reuse(emulation::SUB, emulation::Reuse(reuse_dest), in_cb_id, in_tile_index, dst_tile_index);
}

ALWI void mul_init(std::uint32_t icb0, std::uint32_t icb1, bool acc_to_dest = true, std::uint32_t = 0) {
    emulation::binary_setup(emulation::MUL, emulation::FULL, icb0, icb1, acc_to_dest);
}
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void mul_tiles(std::uint32_t icb0, std::uint32_t icb1, std::uint32_t itile0, std::uint32_t itile1,
                    std::uint32_t idst) {
    emulation::binary(emulation::MUL, emulation::FULL, icb0, icb1, itile0, itile1, idst, 0);
}
template <EltwiseBinaryReuseDestType reuse_dest>
ALWI void mul_reuse_dest_init(std::uint32_t icb, std::uint32_t = 0) {
    static_assert(reuse_dest != EltwiseBinaryReuseDestType::NONE, "reuse_dest must be DEST_TO_SRCA or DEST_TO_SRCB");
    emulation::reuse_setup(emulation::MUL, emulation::Reuse(reuse_dest), icb);
}
template <EltwiseBinaryReuseDestType reuse_dest, bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void mul_reuse_dest_tiles(std::uint32_t in_cb_id, std::uint32_t in_tile_index, std::uint32_t dst_tile_index) {
    emulation::reuse(emulation::MUL, emulation::Reuse(reuse_dest), in_cb_id, in_tile_index, dst_tile_index);
}

}  // namespace ckernel
