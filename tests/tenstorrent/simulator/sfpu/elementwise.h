// Functions of one tile that need a few instructions: signs, comparisons with zero, a number for the other operand, fills.
#pragma once
#include "lanes.h"
#include "llk_sfpu_types.h"

namespace ckernel::sfpu {
// What each *_tile_init does in the wheel besides the common part.
#define RESET_COUNTERS(NAME) IN_LANES void NAME() { math::reset_counters(p_setrwc::SET_ABD_F); }
RESET_COUNTERS(abs_init)
RESET_COUNTERS(sign_init)
RESET_COUNTERS(square_init)
RESET_COUNTERS(relu_min_init)
RESET_COUNTERS(relu_max_init)
RESET_COUNTERS(lrelu_init)
RESET_COUNTERS(equal_zero_init)
RESET_COUNTERS(not_equal_zero_init)
RESET_COUNTERS(less_than_zero_init)
RESET_COUNTERS(less_than_equal_zero_init)
RESET_COUNTERS(greater_than_zero_init)
RESET_COUNTERS(greater_than_equal_zero_init)
RESET_COUNTERS(bitwise_and_init)
RESET_COUNTERS(bitwise_or_init)
RESET_COUNTERS(bitwise_xor_init)
#undef RESET_COUNTERS

template <bool, int BLOCKS = 8> KERNEL void calculate_abs() {
    using namespace lanes;
    rows<BLOCKS>([] { load<0>(); magnitude<0, 0>(); store<0>(); });
}
template <bool, int BLOCKS> KERNEL void _calculate_negative_() {
    using namespace lanes;
    rows<BLOCKS>([] { load<0>(); negate<0, 0>(); store<0>(); });
}
template <bool, bool = false, int BLOCKS = 8> KERNEL void calculate_square() {
    using namespace lanes;
    rows<BLOCKS>([] { load<0>(); mul<0, 0, 0>(); store<0>(); });
}
template <bool, int BLOCKS = 8> KERNEL void calculate_sign(const std::uint32_t) {
    using namespace lanes;
    rows<BLOCKS>([] {
        load<0>();
        magnitude<0, 1>();
        TTI_SFPSETSGN(0, ONE, 0, 0);
        if_zero<1>();
        move<ZERO, 0>();
        end_if();
        store<0>();
    });
}
// The signature covers the integer forms too; the SFPSWAP order (sign, then magnitude) is right for floats and int32.
template <class, bool, int BLOCKS, class T> KERNEL void _relu_min_(T threshold) {
    using namespace lanes;
    rows<BLOCKS>([=] { load<0>(); parameter<1>(static_cast<std::uint32_t>(threshold)); sort<1, 0>(); store<0>(); });
}
template <class, bool, int BLOCKS, class T> KERNEL void _relu_max_(T threshold) {
    using namespace lanes;
    rows<BLOCKS>([=] {
        load<0>();
        parameter<1>(static_cast<std::uint32_t>(threshold));
        sort<0, 1>();
        move<ZERO, 1>();
        sort<1, 0>();
        store<0>();
    });
}

// 1.0 where the comparison with zero holds, else 0.0; -0.0 is zero. LREG0 = |x|, LREG1 = x.
template <bool, SfpuType WHICH, int BLOCKS = 8> KERNEL void calculate_comp() {
    using namespace lanes;
    rows<BLOCKS>([] {
        load<1>();
        magnitude<1, 0>();
        constexpr bool yes_for_zero = WHICH == SfpuType::equal_zero || WHICH == SfpuType::less_than_equal_zero ||
                                      WHICH == SfpuType::greater_than_equal_zero;
        constexpr bool either_sign = WHICH == SfpuType::not_equal_zero;
        move<yes_for_zero ? ONE : ZERO, 2>();
        if_not_zero<0>();
        move<either_sign ? ONE : ZERO, 2>();
        if constexpr (WHICH == SfpuType::less_than_zero || WHICH == SfpuType::less_than_equal_zero) {
            if_negative<1>();
            move<ONE, 2>();
        }
        if constexpr (WHICH == SfpuType::greater_than_zero || WHICH == SfpuType::greater_than_equal_zero) {
            if_not_negative<1>();
            move<ONE, 2>();
        }
        end_if();
        store<2>();
    });
}

enum { ADD = 0, SUB = 1, MUL = 2, DIV = 3, RSUB = 4 };
template <bool, int OPERATION, int BLOCKS, bool> KERNEL void calculate_binop_with_scalar(std::uint32_t param) {
    using namespace lanes;
    rows<BLOCKS>([=] {
        load<0>();
        parameter<1>(param);
        if constexpr (OPERATION == ADD) add<0, 1, 0>();
        if constexpr (OPERATION == SUB) sub<0, 1, 0>();
        if constexpr (OPERATION == RSUB) sub<1, 0, 0>();
        if constexpr (OPERATION == MUL || OPERATION == DIV) mul<0, 1, 0>();  // the caller hands DIV the reciprocal
        store<0>();
    });
}

// On the 32 bits as they are, so also on floats: masking the low 13 bits truncates to TF32.
enum class UnaryBitwiseOp : std::uint8_t { AND = 0, OR = 1, XOR = 2 };
template <bool, UnaryBitwiseOp OPERATION, DataFormat, int BLOCKS = 8>
KERNEL void calculate_sfpu_unary_bitwise(const std::uint32_t value) {
    using namespace lanes;
    rows<BLOCKS>([=] {
        TTI_SFPLOAD(0, 4, ADDR_MOD_3, 0);
        parameter<1>(value);
        if constexpr (OPERATION == UnaryBitwiseOp::AND) TTI_SFPAND(0, 1, 0, 0);
        if constexpr (OPERATION == UnaryBitwiseOp::OR) TTI_SFPOR(0, 1, 0, 0);
        if constexpr (OPERATION == UnaryBitwiseOp::XOR) TTI_SFPXOR(0, 1, 0, 0);
        TTI_SFPSTORE(0, 4, ADDR_MOD_3, 0);
    });
}

template <bool, int BLOCKS> KERNEL void _calculate_fill_bitcast_(const std::uint32_t bits) {
    using namespace lanes;
    parameter<0>(bits);
    rows<BLOCKS>([] { store<0>(); });
}
template <bool APPROXIMATE, int BLOCKS> IN_LANES void _calculate_fill_(const float value) {
    _calculate_fill_bitcast_<APPROXIMATE, BLOCKS>(__builtin_bit_cast(std::uint32_t, value));
}

// To the nearest integer, ties to even, for |x| < 2^22 (larger ones below 2^23 lose their half); and down to it.
template <bool, int BLOCKS = 8> KERNEL void _calculate_floor_() {
    using namespace lanes;
    rows<BLOCKS>([] {
        load<0>();
        constant<2, ROUNDER>();
        add<0, 2, 1>();
        sub<1, 2, 1>();
        sub<0, 1, 3>();  // below zero where rounding went up
        if_negative<3>();
        add<1, MINUS_ONE, 1>();
        end_if();
        magnitude<0, 3>();
        load_bits<4, 0x4A800000>();  // from 2^22 on: taken as whole
        int_rsub<3, 4>();
        if_not_negative<4>();
        move<0, 1>();
        end_if();
        store<1>();
    });
}
}  // namespace ckernel::sfpu
