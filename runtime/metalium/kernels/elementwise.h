// Elementwise functions of tiles in DST, in f32, each with what it needs to be set up.  Each is a function of its own and
// not inlined: a kernel calls them at many places, and its code has little room.
//
// `out` may be one of the operands.  A function of one tile leaves its result there.
#pragma once

#include <cstdint>

#include "api/compute/binary_max_min.h"
#include "api/compute/common.h"
#include "api/compute/compute_kernel_api.h"
#include "api/compute/copy_dest_values.h"
#include "api/compute/eltwise_binary_sfpu.h"
#include "api/compute/eltwise_unary/binop_with_scalar.h"
#include "api/compute/eltwise_unary/bitwise.h"
#include "api/compute/eltwise_unary/comp.h"
#include "api/compute/eltwise_unary/exp.h"
#include "api/compute/eltwise_unary/fill.h"
#include "api/compute/eltwise_unary/log1p.h"
#include "api/compute/eltwise_unary/negative.h"
#include "api/compute/eltwise_unary/recip.h"
#include "api/compute/eltwise_unary/relu.h"
#include "api/compute/eltwise_unary/rounding.h"
#include "api/compute/eltwise_unary/rsqrt.h"
#include "api/compute/eltwise_unary/sqrt.h"
#include "api/compute/eltwise_unary/trigonometry.h"
#include "api/compute/eltwise_unary/where.h"
#include "api/compute/sfpu_binary_bcast.h"
#include "share.h"

// Sign, exponent and nine bits of fraction: what both operands of the FPU's multiplier hold.  (TF32 has a tenth; the
// multiplier drops it of the right operand.)
constexpr uint32_t FPU_BITS = 0xffffc000;

namespace tile {

// --- two tiles ---
#define CDRMIX_BINARY(name, init, operation)                            \
    NOINLINE inline void name(uint32_t a, uint32_t b, uint32_t out) {   \
        init();                                                         \
        operation(a, b, out);                                           \
    }
CDRMIX_BINARY(add, add_binary_tile_init, add_binary_tile)
CDRMIX_BINARY(subtract, sub_binary_tile_init, sub_binary_tile)
CDRMIX_BINARY(multiply, mul_binary_tile_init, mul_binary_tile)
CDRMIX_BINARY(divide, div_binary_tile_init, div_binary_tile)
CDRMIX_BINARY(power, power_binary_tile_init, power_binary_tile)
CDRMIX_BINARY(maximum, binary_max_tile_init, binary_max_tile)
CDRMIX_BINARY(minimum, binary_min_tile_init, binary_min_tile)
CDRMIX_BINARY(equal, eq_binary_tile_init, eq_binary_tile)
CDRMIX_BINARY(not_equal, ne_binary_tile_init, ne_binary_tile)
CDRMIX_BINARY(less, lt_binary_tile_init, lt_binary_tile)
CDRMIX_BINARY(less_equal, le_binary_tile_init, le_binary_tile)
CDRMIX_BINARY(greater, gt_binary_tile_init, gt_binary_tile)
CDRMIX_BINARY(greater_equal, ge_binary_tile_init, ge_binary_tile)
#undef CDRMIX_BINARY

// --- a tile and a number, as its bits ---
#define CDRMIX_SCALAR(name, init, operation)               \
    NOINLINE inline void name(uint32_t x, uint32_t bits) { \
        init();                                            \
        operation(x, bits);                                \
    }
CDRMIX_SCALAR(fill, fill_tile_init, fill_tile_bitcast)
CDRMIX_SCALAR(add_number, binop_with_scalar_tile_init, add_unary_tile)
CDRMIX_SCALAR(subtract_from_number, binop_with_scalar_tile_init, rsub_unary_tile)
CDRMIX_SCALAR(multiply_number, binop_with_scalar_tile_init, mul_unary_tile)
CDRMIX_SCALAR(keep_bits, bitwise_and_tile_init, bitwise_and_tile<DataFormat::Int32>)
#undef CDRMIX_SCALAR

// --- one tile ---
#define CDRMIX_UNARY(name, init, operation) \
    NOINLINE inline void name(uint32_t x) { \
        init();                             \
        operation(x);                       \
    }
CDRMIX_UNARY(negate, negative_tile_init, negative_tile)
CDRMIX_UNARY(absolute, abs_tile_init, abs_tile)
CDRMIX_UNARY(sign, sign_tile_init, sign_tile)
CDRMIX_UNARY(exponential, exp_tile_init, exp_tile)
CDRMIX_UNARY(exponential_minus_one, expm1_tile_init, expm1_tile)
CDRMIX_UNARY(logarithm, log_tile_init, log_tile)
CDRMIX_UNARY(logarithm_plus_one, log1p_tile_init, log1p_tile)
CDRMIX_UNARY(square, square_tile_init, square_tile)
CDRMIX_UNARY(square_root, sqrt_tile_init, sqrt_tile)
CDRMIX_UNARY(reciprocal_root, rsqrt_tile_init, rsqrt_tile)
CDRMIX_UNARY(reciprocal, recip_tile_init, recip_tile)
CDRMIX_UNARY(sine, sin_tile_init, sin_tile)
CDRMIX_UNARY(cosine, cos_tile_init, cos_tile)
CDRMIX_UNARY(tangent_hyperbolic, tanh_tile_init, tanh_tile)
CDRMIX_UNARY(sigmoid, sigmoid_tile_init, sigmoid_tile)
CDRMIX_UNARY(relu, relu_tile_init, relu_tile)
CDRMIX_UNARY(round_down, rounding_op_tile_init, floor_tile)
CDRMIX_UNARY(is_zero, eqz_tile_init, eqz_tile)
CDRMIX_UNARY(is_not_zero, nez_tile_init, nez_tile)
#undef CDRMIX_UNARY

// --- a tile and a row or column vector, in row 0 or column 0 of its tile ---
#define CDRMIX_VECTOR(name, init, operation)                 \
    NOINLINE inline void name(uint32_t x, uint32_t vector) { \
        init();                                              \
        operation(x, vector);                                \
    }
CDRMIX_VECTOR(add_row, sfpu_add_bcast_row_init, sfpu_add_bcast_row)
CDRMIX_VECTOR(subtract_row, sfpu_sub_bcast_row_init, sfpu_sub_bcast_row)
CDRMIX_VECTOR(multiply_row, sfpu_mul_bcast_row_init, sfpu_mul_bcast_row)
CDRMIX_VECTOR(add_column, sfpu_add_bcast_col_init, sfpu_add_bcast_col)
CDRMIX_VECTOR(subtract_column, sfpu_sub_bcast_col_init, sfpu_sub_bcast_col)
CDRMIX_VECTOR(multiply_column, sfpu_mul_bcast_col_init, sfpu_mul_bcast_col)
#undef CDRMIX_VECTOR

NOINLINE inline void copy(uint32_t from, uint32_t to) {
    copy_dest_values_init();
    copy_dest_values<DataFormat::Float32>(from, to);
}

NOINLINE inline void choose(uint32_t condition, uint32_t yes, uint32_t no, uint32_t out) {
    where_tile_init();
    where_tile<DataFormat::Float32>(condition, yes, no, out);
}

// What the FPU sees of a number.
inline void keep_fpu_bits(uint32_t x) { keep_bits(x, FPU_BITS); }

// x * sigmoid(x)
NOINLINE inline void silu(uint32_t x, uint32_t spare) {
    copy(x, spare);
    sigmoid(spare);
    multiply(x, spare, x);
}

// log(1 + exp(-|x|)) for x: what a smooth maximum adds to a plain one; never overflows and keeps the digits of small results.
NOINLINE inline void smoothing(uint32_t x) {
    absolute(x);
    negate(x);
    exponential(x);
    logarithm_plus_one(x);
}

// log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|))
NOINLINE inline void softplus(uint32_t x, uint32_t spare) {
    copy(x, spare);
    smoothing(spare);
    relu(x);
    add(x, spare, x);
}

// log(exp(a) + exp(b)) = max(a, b) + log(1 + exp(-|a - b|)), into a
NOINLINE inline void log_add_exp(uint32_t a, uint32_t b, uint32_t spare) {
    subtract(a, b, spare);
    smoothing(spare);
    maximum(a, b, a);
    add(a, spare, a);
}

// a - floor(a / b) * b, into a
NOINLINE inline void modulo(uint32_t a, uint32_t b, uint32_t spare) {
    divide(a, b, spare);
    round_down(spare);
    multiply(spare, b, spare);
    subtract(a, spare, a);
}

// The whole number next to x, a half to the even one: its floor and what is above; `odd` where that is odd.
NOINLINE inline void round_to_even(uint32_t x, uint32_t whole, uint32_t above, uint32_t odd) {
    copy(x, whole);
    round_down(whole);
    subtract(x, whole, above);
    copy(whole, odd);
    multiply_number(odd, 0x3f000000);  // 0.5
    round_down(odd);
    multiply_number(odd, 0xc0000000);  // -2
    add(odd, whole, odd);
    add_number(above, 0xbf000000);  // -0.5: from here on positive means up, zero a half
    copy(above, x);
    is_zero(x);
    multiply(x, odd, x);
    add(x, whole, x);
    relu(above);
    is_not_zero(above);
    add(x, above, x);
}

// A polynomial of x, its factors by falling powers.
template <typename... Factors>
inline void polynomial(uint32_t x, uint32_t out, uint32_t first, Factors... factors) {
    fill(out, first);
    ((multiply(out, x, out), add_number(out, factors)), ...);
}

// The error function: below 1/2 its Taylor series, beyond 1 - erfc(|x|), which is t exp(p(t) - x^2) for t = 1 / (1 + |x|/2)
// (Numerical Recipes, erfcc: to 1.2e-7 of itself).
NOINLINE inline void error_function(uint32_t x, uint32_t square_of, uint32_t near, uint32_t far) {
    copy(x, near);
    absolute(near);
    multiply_number(near, 0x3f000000);  // 0.5
    add_number(near, 0x3f800000);  // 1
    reciprocal(near);
    polynomial(
        near, far,
        0x3e2ef945, 0xbf527892, 0x3fbe87b0, 0xbf914e5d, 0x3e8ec7cc,
        0xbe3ec24c, 0x3dc636c9, 0x3ebf88fb, 0x3f8000c7, 0xbfa1fc4e);
    copy(x, square_of);
    square(square_of);
    subtract(far, square_of, far);
    exponential(far);
    multiply(far, near, far);
    subtract_from_number(far, 0x3f800000);  // 1
    polynomial(
        square_of, near,
        0x38fcd193, 0xba6016da, 0x3bab2de7, 0xbcdc1672, 0x3de71791,
        0xbec093a3, 0x3f906ebb);
    multiply(near, x, near);
    sign(x);
    multiply(far, x, far);
    subtract_from_number(square_of, 0x3e800000);  // 0.25
    relu(square_of);
    choose(square_of, near, far, x);
}

// 1 - 2 (x < 0), and 1 in x where it is, into `turned`.
NOINLINE inline void below_zero(uint32_t x, uint32_t turned) {
    fill(turned, 0);
    less(x, turned, x);
    copy(x, turned);
    multiply_number(turned, 0xc0000000);  // -2
    add_number(turned, 0x3f800000);  // 1
}

// The angle of (x, y), into y: that of the smaller over the larger, as `turned` times it and `added`.
NOINLINE inline void angle(uint32_t y, uint32_t x, uint32_t added, uint32_t turned, uint32_t steep, uint32_t ratio) {
    copy(y, added);
    absolute(added);
    copy(x, turned);
    absolute(turned);
    minimum(added, turned, ratio);
    greater(added, turned, steep);
    maximum(added, turned, added);
    copy(added, turned);
    is_zero(turned);
    add(added, turned, added);
    divide(ratio, added, ratio);
    // Above tan(pi/8), (ratio - 1) / (ratio + 1) and pi/4 more.
    fill(turned, 0x3ed413cd);  // tan(pi/8)
    greater(ratio, turned, added);
    multiply(ratio, added, turned);
    add_number(turned, 0x3f800000);  // 1
    subtract(ratio, added, ratio);
    divide(ratio, turned, ratio);
    multiply_number(added, 0x3f490fdb);  // pi/4
    // pi/2 - it where |y| > |x|, pi - that where x < 0, with the sign of y.
    copy(steep, turned);
    multiply_number(turned, 0xc0000000);  // -2
    add_number(turned, 0x3f800000);  // 1
    multiply(added, turned, added);
    multiply_number(steep, 0x3fc90fdb);  // pi/2
    add(added, steep, added);
    below_zero(x, steep);
    multiply(added, steep, added);
    multiply(turned, steep, turned);
    multiply_number(x, 0x40490fdb);  // pi
    add(added, x, added);
    below_zero(y, steep);
    multiply(added, steep, added);
    multiply(turned, steep, turned);
    copy(ratio, x);
    square(x);
    polynomial(
        x, y,
        0x3da4f0d1, 0xbe0e1b85, 0x3e4c925f, 0xbeaaaa2a);
    multiply(y, x, y);
    multiply(y, ratio, y);
    add(y, ratio, y);
    multiply(y, turned, y);
    add(y, added, y);
}

}  // namespace tile
