// Functions of a tile in a destination register; more of them in eltwise_unary/.
#pragma once
#include "api/compute/common_globals.h"

namespace ckernel {

template <bool fast_and_approx = false>
ALWI void sigmoid_tile_init() {
    emulation::sfpu_setup("sigmoid_tile_init", fast_and_approx);
}
template <VectorMode vec_mode = VectorMode::RC, bool fast_and_approx = false, bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void sigmoid_tile(uint32_t idst) {
    emulation::sfpu_unary("sigmoid_tile", "sigmoid_tile_init", emulation::SIGMOID, idst, 0, fast_and_approx);
}

ALWI void silu_tile_init() { emulation::sfpu_setup("silu_tile_init"); }
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void silu_tile(uint32_t idst) {
    emulation::sfpu_unary("silu_tile", "silu_tile_init", emulation::SILU, idst);
}

template <bool fast_and_approx = false, bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void tanh_tile_init() {
    emulation::sfpu_setup("tanh_tile_init", fast_and_approx);
}
template <bool fast_and_approx = false, bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void tanh_tile(uint32_t idst) {
    emulation::sfpu_unary("tanh_tile", "tanh_tile_init", emulation::TANH, idst, 0, fast_and_approx);
}

ALWI void square_tile_init() { emulation::sfpu_setup("square_tile_init"); }
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void square_tile(uint32_t idst) {
    emulation::sfpu_unary("square_tile", "square_tile_init", emulation::SQUARE, idst);
}

template <bool fast_and_approx = false, bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void log_tile_init() {
    emulation::sfpu_setup("log_tile_init", fast_and_approx);
}
template <bool fast_and_approx = false, bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void log_tile(uint32_t idst) {
    emulation::sfpu_unary("log_tile", "log_tile_init", emulation::LOG, idst, 0, fast_and_approx);
}

ALWI void signbit_tile_init() { emulation::sfpu_setup("signbit_tile_init"); }
ALWI void signbit_tile(uint32_t idst) {
    emulation::sfpu_unary("signbit_tile", "signbit_tile_init", emulation::SIGNBIT, idst);
}

ALWI void abs_tile_init() { emulation::sfpu_setup("abs_tile_init"); }
ALWI void abs_tile(uint32_t idst) { emulation::sfpu_unary("abs_tile", "abs_tile_init", emulation::ABS, idst); }

ALWI void sign_tile_init() { emulation::sfpu_setup("sign_tile_init"); }
ALWI void sign_tile(uint32_t idst) { emulation::sfpu_unary("sign_tile", "sign_tile_init", emulation::SIGN, idst); }

ALWI void power_tile_init() { emulation::sfpu_setup("power_tile_init"); }
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void power_tile(uint32_t idst, uint32_t param0) {
    emulation::sfpu_unary("power_tile", "power_tile_init", emulation::POWER_NUMBER, idst, param0);
}

template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void exp2_tile_init() {
    emulation::sfpu_setup("exp2_tile_init");
}
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void exp2_tile(uint32_t idst) {
    emulation::sfpu_unary("exp2_tile", "exp2_tile_init", emulation::EXP2, idst);
}

ALWI void heaviside_tile_init() { emulation::sfpu_setup("heaviside_tile_init"); }
ALWI void heaviside_tile(uint32_t idst, uint32_t param0) {
    emulation::sfpu_unary("heaviside_tile", "heaviside_tile_init", emulation::HEAVISIDE, idst, param0);
}

template <bool approx = false, bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void expm1_tile_init() {
    emulation::sfpu_setup("expm1_tile_init", approx);
}
template <bool approx = false, bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void expm1_tile(uint32_t idst) {
    emulation::sfpu_unary("expm1_tile", "expm1_tile_init", emulation::EXPM1, idst, 0, approx);
}

ALWI void unary_max_tile_init() { emulation::sfpu_setup("unary_max_tile_init"); }
ALWI void unary_max_tile(uint32_t idst, uint32_t param0) {
    emulation::sfpu_unary("unary_max_tile", "unary_max_tile_init", emulation::MAX_NUMBER, idst, param0);
}

ALWI void unary_min_tile_init() { emulation::sfpu_setup("unary_min_tile_init"); }
ALWI void unary_min_tile(uint32_t idst, uint32_t param0) {
    emulation::sfpu_unary("unary_min_tile", "unary_min_tile_init", emulation::MIN_NUMBER, idst, param0);
}

}  // namespace ckernel
