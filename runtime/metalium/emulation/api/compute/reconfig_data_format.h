// Data formats of SrcA, SrcB and the packer. With an old CB given, nothing is set where the formats are the same.
#pragma once
#include "api/compute/common_globals.h"
#include "api/compute/src_order.h"

namespace ckernel {

template <SrcOrder src_order = SrcOrder::Regular>
ALWI void reconfig_data_format(const uint32_t icb0_new_operand, const uint32_t icb1_new_operand) {
    constexpr bool reverse = src_order == SrcOrder::Reverse;
    emulation::reconfigure_a(-1, reverse ? icb1_new_operand : icb0_new_operand);
    emulation::reconfigure_b(-1, reverse ? icb0_new_operand : icb1_new_operand);
}
template <SrcOrder src_order = SrcOrder::Regular>
ALWI void reconfig_data_format(const uint32_t icb0_old_operand, const uint32_t icb0_new_operand,
                               const uint32_t icb1_old_operand, const uint32_t icb1_new_operand) {
    constexpr bool reverse = src_order == SrcOrder::Reverse;
    emulation::reconfigure_a(int(reverse ? icb1_old_operand : icb0_old_operand),
                             reverse ? icb1_new_operand : icb0_new_operand);
    emulation::reconfigure_b(int(reverse ? icb0_old_operand : icb1_old_operand),
                             reverse ? icb0_new_operand : icb1_new_operand);
}
ALWI void reconfig_data_format_srca(const uint32_t srca_new_operand) { emulation::reconfigure_a(-1, srca_new_operand); }
ALWI void reconfig_data_format_srca(const uint32_t srca_old_operand, const uint32_t srca_new_operand) {
    emulation::reconfigure_a(int(srca_old_operand), srca_new_operand);
}
ALWI void reconfig_data_format_srcb(const uint32_t srcb_new_operand) { emulation::reconfigure_b(-1, srcb_new_operand); }
ALWI void reconfig_data_format_srcb(const uint32_t srcb_old_operand, const uint32_t srcb_new_operand) {
    emulation::reconfigure_b(int(srcb_old_operand), srcb_new_operand);
}

template <SrcOrder src_order = SrcOrder::Regular>
ALWI void reconfig_full_operand(const uint32_t icb0_new_operand, const uint32_t icb1_new_operand) {
    constexpr bool reverse = src_order == SrcOrder::Reverse;
    emulation::reconfigure_a(-1, reverse ? icb1_new_operand : icb0_new_operand);
    emulation::reconfigure_b(-1, reverse ? icb0_new_operand : icb1_new_operand);
}
template <SrcOrder src_order = SrcOrder::Regular>
ALWI void reconfig_full_operand(const uint32_t icb0_old_operand, const uint32_t icb0_new_operand,
                                const uint32_t icb1_old_operand, const uint32_t icb1_new_operand) {
    constexpr bool reverse = src_order == SrcOrder::Reverse;
    emulation::reconfigure_a(int(reverse ? icb1_old_operand : icb0_old_operand),
                             reverse ? icb1_new_operand : icb0_new_operand);
    emulation::reconfigure_b(int(reverse ? icb0_old_operand : icb1_old_operand),
                             reverse ? icb0_new_operand : icb1_new_operand);
}
ALWI void reconfig_full_operand_srca(const uint32_t srca_new_operand) {
    emulation::reconfigure_a(-1, srca_new_operand);
}
ALWI void reconfig_full_operand_srca(const uint32_t srca_old_operand, const uint32_t srca_new_operand) {
    emulation::reconfigure_a(int(srca_old_operand), srca_new_operand);
}
ALWI void reconfig_full_operand_srcb(const uint32_t srcb_new_operand) {
    emulation::reconfigure_b(-1, srcb_new_operand);
}
ALWI void reconfig_full_operand_srcb(const uint32_t srcb_old_operand, const uint32_t srcb_new_operand) {
    emulation::reconfigure_b(int(srcb_old_operand), srcb_new_operand);
}

template <bool is_tile_dim_reconfig_en = false>
ALWI void pack_reconfig_data_format(const uint32_t new_cb_id) {
    emulation::reconfigure_pack(-1, new_cb_id);
}
template <bool is_tile_dim_reconfig_en = false>
ALWI void pack_reconfig_data_format(const uint32_t old_cb_id, const uint32_t new_cb_id) {
    emulation::reconfigure_pack(int(old_cb_id), new_cb_id);
}

}  // namespace ckernel
