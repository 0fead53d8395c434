// Arithmetic with a number; division takes its reciprocal.
#pragma once
#include "api/compute/common_globals.h"

namespace ckernel {

ALWI void binop_with_scalar_tile_init() { emulation::sfpu_setup("binop_with_scalar_tile_init"); }

template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void add_unary_tile(uint32_t idst, uint32_t param1) {
    emulation::sfpu_unary("add_unary_tile", "binop_with_scalar_tile_init", emulation::ADD_NUMBER, idst, param1);
}

template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void sub_unary_tile(uint32_t idst, uint32_t param1) {
    emulation::sfpu_unary("sub_unary_tile", "binop_with_scalar_tile_init", emulation::SUB_NUMBER, idst, param1);
}

template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void mul_unary_tile(uint32_t idst, uint32_t param1) {
    emulation::sfpu_unary("mul_unary_tile", "binop_with_scalar_tile_init", emulation::MUL_NUMBER, idst, param1);
}

template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void div_unary_tile(uint32_t idst, uint32_t param1) {
    emulation::sfpu_unary("div_unary_tile", "binop_with_scalar_tile_init", emulation::DIV_NUMBER, idst, param1);
}

template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void rsub_unary_tile(uint32_t idst, uint32_t param1) {
    emulation::sfpu_unary("rsub_unary_tile", "binop_with_scalar_tile_init", emulation::RSUB_NUMBER, idst, param1);
}

}  // namespace ckernel
