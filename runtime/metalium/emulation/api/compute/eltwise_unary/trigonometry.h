// Trigonometric and hyperbolic functions.
#pragma once
#include "api/compute/common_globals.h"

namespace ckernel {

ALWI void sin_tile_init() { emulation::sfpu_setup("sin_tile_init"); }
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void sin_tile(uint32_t idst) {
    emulation::sfpu_unary("sin_tile", "sin_tile_init", emulation::SIN, idst);
}

ALWI void cos_tile_init() { emulation::sfpu_setup("cos_tile_init"); }
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void cos_tile(uint32_t idst) {
    emulation::sfpu_unary("cos_tile", "cos_tile_init", emulation::COS, idst);
}

ALWI void tan_tile_init() { emulation::sfpu_setup("tan_tile_init"); }
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void tan_tile(uint32_t idst) {
    emulation::sfpu_unary("tan_tile", "tan_tile_init", emulation::TAN, idst);
}

template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void asin_tile_init() {
    emulation::sfpu_setup("asin_tile_init");
}
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void asin_tile(uint32_t idst) {
    emulation::sfpu_unary("asin_tile", "asin_tile_init", emulation::ASIN, idst);
}

template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void acos_tile_init() {
    emulation::sfpu_setup("acos_tile_init");
}
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void acos_tile(uint32_t idst) {
    emulation::sfpu_unary("acos_tile", "acos_tile_init", emulation::ACOS, idst);
}

template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void atan_tile_init() {
    emulation::sfpu_setup("atan_tile_init");
}
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void atan_tile(uint32_t idst) {
    emulation::sfpu_unary("atan_tile", "atan_tile_init", emulation::ATAN, idst);
}

template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void sinh_tile_init() {
    emulation::sfpu_setup("sinh_tile_init");
}
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void sinh_tile(uint32_t idst) {
    emulation::sfpu_unary("sinh_tile", "sinh_tile_init", emulation::SINH, idst);
}

template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void cosh_tile_init() {
    emulation::sfpu_setup("cosh_tile_init");
}
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void cosh_tile(uint32_t idst) {
    emulation::sfpu_unary("cosh_tile", "cosh_tile_init", emulation::COSH, idst);
}

template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void asinh_tile_init() {
    emulation::sfpu_setup("asinh_tile_init");
}
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void asinh_tile(uint32_t idst) {
    emulation::sfpu_unary("asinh_tile", "asinh_tile_init", emulation::ASINH, idst);
}

template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void acosh_tile_init() {
    emulation::sfpu_setup("acosh_tile_init");
}
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void acosh_tile(uint32_t idst) {
    emulation::sfpu_unary("acosh_tile", "acosh_tile_init", emulation::ACOSH, idst);
}

template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void atanh_tile_init() {
    emulation::sfpu_setup("atanh_tile_init");
}
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void atanh_tile(uint32_t idst) {
    emulation::sfpu_unary("atanh_tile", "atanh_tile_init", emulation::ATANH, idst);
}

}  // namespace ckernel
