// Arithmetic and comparisons of two tiles in destination registers.
#pragma once
#include "api/compute/common_globals.h"

namespace ckernel {

ALWI void add_binary_tile_init() { emulation::sfpu_setup("add_binary_tile_init"); }
template <DstRoundingMode dst_rounding_mode = DstRoundingMode::Default, bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void add_binary_tile(uint32_t idst0, uint32_t idst1, uint32_t odst) {
    emulation::sfpu_pair("add_binary_tile", "add_binary_tile_init", emulation::ADD_PAIR, idst0, idst1, odst);
}
ALWI void sub_binary_tile_init() { emulation::sfpu_setup("sub_binary_tile_init"); }
template <DstRoundingMode dst_rounding_mode = DstRoundingMode::Default, bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void sub_binary_tile(uint32_t idst0, uint32_t idst1, uint32_t odst) {
    emulation::sfpu_pair("sub_binary_tile", "sub_binary_tile_init", emulation::SUB_PAIR, idst0, idst1, odst);
}
ALWI void rsub_binary_tile_init() { emulation::sfpu_setup("rsub_binary_tile_init"); }
template <DstRoundingMode dst_rounding_mode = DstRoundingMode::Default, bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void rsub_binary_tile(uint32_t idst0, uint32_t idst1, uint32_t odst) {
    emulation::sfpu_pair("rsub_binary_tile", "rsub_binary_tile_init", emulation::RSUB_PAIR, idst0, idst1, odst);
}
ALWI void mul_binary_tile_init() { emulation::sfpu_setup("mul_binary_tile_init"); }
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void mul_binary_tile(uint32_t idst0, uint32_t idst1, uint32_t odst) {
    emulation::sfpu_pair("mul_binary_tile", "mul_binary_tile_init", emulation::MUL_PAIR, idst0, idst1, odst);
}
ALWI void div_binary_tile_init() { emulation::sfpu_setup("div_binary_tile_init"); }
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void div_binary_tile(uint32_t idst0, uint32_t idst1, uint32_t odst) {
    emulation::sfpu_pair("div_binary_tile", "div_binary_tile_init", emulation::DIV_PAIR, idst0, idst1, odst);
}
ALWI void power_binary_tile_init() { emulation::sfpu_setup("power_binary_tile_init"); }
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void power_binary_tile(uint32_t idst0, uint32_t idst1, uint32_t odst) {
    emulation::sfpu_pair("power_binary_tile", "power_binary_tile_init", emulation::POWER_PAIR, idst0, idst1, odst);
}
ALWI void eq_binary_tile_init() { emulation::sfpu_setup("eq_binary_tile_init"); }
ALWI void eq_binary_tile(uint32_t idst0, uint32_t idst1, uint32_t odst) {
    emulation::sfpu_pair("eq_binary_tile", "eq_binary_tile_init", emulation::EQ_PAIR, idst0, idst1, odst);
}
ALWI void ne_binary_tile_init() { emulation::sfpu_setup("ne_binary_tile_init"); }
ALWI void ne_binary_tile(uint32_t idst0, uint32_t idst1, uint32_t odst) {
    emulation::sfpu_pair("ne_binary_tile", "ne_binary_tile_init", emulation::NE_PAIR, idst0, idst1, odst);
}
ALWI void lt_binary_tile_init() { emulation::sfpu_setup("lt_binary_tile_init"); }
ALWI void lt_binary_tile(uint32_t idst0, uint32_t idst1, uint32_t odst) {
    emulation::sfpu_pair("lt_binary_tile", "lt_binary_tile_init", emulation::LT_PAIR, idst0, idst1, odst);
}
ALWI void gt_binary_tile_init() { emulation::sfpu_setup("gt_binary_tile_init"); }
ALWI void gt_binary_tile(uint32_t idst0, uint32_t idst1, uint32_t odst) {
    emulation::sfpu_pair("gt_binary_tile", "gt_binary_tile_init", emulation::GT_PAIR, idst0, idst1, odst);
}
ALWI void le_binary_tile_init() { emulation::sfpu_setup("le_binary_tile_init"); }
ALWI void le_binary_tile(uint32_t idst0, uint32_t idst1, uint32_t odst) {
    emulation::sfpu_pair("le_binary_tile", "le_binary_tile_init", emulation::LE_PAIR, idst0, idst1, odst);
}
ALWI void ge_binary_tile_init() { emulation::sfpu_setup("ge_binary_tile_init"); }
ALWI void ge_binary_tile(uint32_t idst0, uint32_t idst1, uint32_t odst) {
    emulation::sfpu_pair("ge_binary_tile", "ge_binary_tile_init", emulation::GE_PAIR, idst0, idst1, odst);
}

}  // namespace ckernel
