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

}  // namespace tile
