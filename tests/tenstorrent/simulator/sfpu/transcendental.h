// exp, log, sigmoid, SiLU, tanh on fp32 lanes, about one unit in the last place of fp32 (2^-23) each.
#pragma once
#include "lanes.h"
#include "roots.h"

namespace ckernel::sfpu {
namespace lanes {
// P = (e^X - 1 - X) / X^2 for |X| <= ln 2 / 2, the coefficients of Cephes' expf
template <int X, int P, int K> IN_LANES void exp_polynomial() {
    polynomial<P, X, K, 1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f,
               5.0000001201e-1f>();
}

// X = e^X for X clamped to [-87.33, 88.72]: n = round(x / ln 2), r = x - n ln 2 in two parts (Cody-Waite), e^x = 2^n p(r)
// with |r| <= ln 2 / 2; 2^n is an integer addition to the exponent field.
template <int X, int N, int P, int K> IN_LANES void exp_clamped() {
    constant<K, 88.7228f>();
    sort<X, K>();
    constant<K, -87.33654f>();
    sort<K, X>();
    constant<K, 1.44269504f>();
    constant<P, ROUNDER>();
    mad<X, K, P, N>();
    sub<N, P, P>();
    constant<K, -0.693359375f>();
    mad<P, K, X, X>();
    constant<K, 2.12194440e-4f>();
    mad<P, K, X, X>();
    exp_polynomial<X, P, K>();
    mul<X, X, K>();
    mad<P, K, X, P>();
    add<P, ONE, X>();
    shift<N, 23>();
    int_add<N, X>();
}

// LREG0 = e^LREG4, with 0 and infinity where it is no normal number; changes LREG1-3.
IN_LANES void exp_anywhere() {
    move<4, 0>();
    exp_clamped<0, 1, 2, 3>();
    constant<1, -87.33654f>();
    sub<4, 1, 1>();
    if_negative<1>();
    move<ZERO, 0>();
    end_if();
    constant<1, 88.7228f>();
    sub<1, 4, 1>();
    if_negative<1>();
    constant<0, INFINITE>();
    end_if();
}

// LREG4 = log LREG0: x = 2^e m with m in [sqrt(1/2), sqrt(2)), log x = e ln 2 + log1p(m - 1), the coefficients of
// Cephes' logf. Changes LREG0-3 and 5.
IN_LANES void natural_log() {
    TTI_SFPEXEXP(0, 0, 1, 1);        // the biased exponent, an integer
    TTI_SFPCAST(1, 1, 0);            // as a float
    TTI_SFPSETEXP(127, 0, 2, 1);     // m in [1, 2), the sign kept
    constant<3, 1.41421356f>();
    sub<3, 2, 4>();
    constant<3, -127.0f>();
    add<1, 3, 1>();
    if_negative<4>();
    TTI_SFPSETEXP(126, 2, 2, 1);
    add<1, ONE, 1>();
    end_if();
    add<2, MINUS_ONE, 2>();
    mul<2, 2, 3>();
    polynomial<4, 2, 5, 7.0376836292e-2f, -1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f,
               -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f>();
    mul<4, 2, 4>();
    mul<4, 3, 4>();
    constant<5, -2.12194440e-4f>();
    mad<1, 5, 4, 4>();
    constant<5, -0.5f>();
    mad<3, 5, 4, 4>();
    add<2, 4, 4>();
    constant<5, 0.693359375f>();
    mad<1, 5, 4, 4>();
    magnitude<0, 1>();
    if_zero<1>();
    constant<4, -INFINITE>();
    move<ZERO, 0>();  // so that -0.0 is not taken for a negative number below
    end_if();
    if_negative<0>();
    load_bits<4, 0x7fc00000>();
    end_if();
    load_bits<5, 0x7f800000>();
    int_rsub<1, 5>();
    if_not_negative<5>();  // infinity and NaN stay
    if_not_negative<0>();
    move<0, 4>();
    end_if();
}

// X = 1 / (1 + e^-X), and 0 below -85, where the reciprocal would leave the normal numbers
template <int X, int A, int B, int C> IN_LANES void logistic() {
    negate<X, X>();
    exp_clamped<X, A, B, C>();
    add<X, ONE, A>();
    reciprocal_of_normal<A, X, B, C>();  // A = -(1 + e^-X) now
    constant<B, 8.0e36f>();
    add<A, B, B>();
    if_negative<B>();
    move<ZERO, X>();
    end_if();
}
}  // namespace lanes

template <bool, bool, bool SCALED = false, int BLOCKS = 8, bool = true>
KERNEL void calculate_exponential(const std::uint32_t scale = p_sfpu::kCONST_1_FP16B) {
    using namespace lanes;
    rows<BLOCKS>([=] {
        load<4>();
        if constexpr (SCALED) { parameter<5>(scale << 16); mul<4, 5, 4>(); }
        exp_anywhere();
        store<0>();
    });
}
template <bool, std::uint32_t SCALE, bool, bool> IN_LANES void exp_init() {
    static_assert(SCALE == 0x3F800000, "exp_tile_init with a scale works only in the approximate form");
}

template <bool, bool, bool SCALED, bool, int BLOCKS = 8, bool = false>
KERNEL void calculate_log(std::uint32_t scale) {
    using namespace lanes;
    rows<BLOCKS>([=] {
        load<0>();
        natural_log();
        if constexpr (SCALED) { parameter<5>(scale << 16); mul<4, 5, 4>(); }
        store<4>();
    });
}
template <bool, bool, bool> IN_LANES void log_init() {}

// log(1 + x) = log u + (x - (u - 1)) / u with u = 1 + x rounded: the second term gives back what the rounding took. It is
// left out where u is zero or beyond 1e6, where it is not a number or nothing.
template <bool, bool, bool, int BLOCKS = 8> KERNEL void calculate_log1p() {
    using namespace lanes;
    rows<BLOCKS>([] {
        load<6>();
        add<6, ONE, 0>();
        move<0, 7>();
        natural_log();
        add<7, MINUS_ONE, 0>();
        sub<6, 0, 5>();
        magnitude<7, 6>();
        reciprocal_of_normal<7, 1, 2, 3>();
        constant<2, 1.0e6f>();
        sub<6, 2, 2>();
        if_negative<2>();
        if_not_zero<6>();
        mad<5, 1, 4, 4>();
        end_if();
        store<4>();
    });
}
template <bool, bool, bool> IN_LANES void log1p_init() {}

// e^x - 1: near zero the polynomial of e^x without its 1, elsewhere the difference.
template <bool, bool, int BLOCKS> KERNEL void calculate_expm1() {
    using namespace lanes;
    rows<BLOCKS>([] {
        load<4>();
        exp_anywhere();
        add<0, MINUS_ONE, 0>();
        magnitude<4, 1>();
        constant<2, 0.3465f>();
        sub<1, 2, 1>();
        if_negative<1>();
        exp_polynomial<4, 1, 2>();
        mul<4, 4, 2>();
        mad<1, 2, 4, 0>();
        end_if();
        store<0>();
    });
}
template <bool, bool> IN_LANES void expm1_init() {}

template <bool, bool, int BLOCKS = 8> KERNEL void calculate_sigmoid() {
    using namespace lanes;
    rows<BLOCKS>([] { load<0>(); logistic<0, 1, 2, 3>(); store<0>(); });
}
template <bool> IN_LANES void sigmoid_init() {}

template <bool, int BLOCKS> KERNEL void calculate_silu() {
    using namespace lanes;
    rows<BLOCKS>([] { load<5>(); move<5, 0>(); logistic<0, 1, 2, 3>(); mul<0, 5, 0>(); store<0>(); });
}
template <bool> IN_LANES void silu_init() {}

// tanh: below 0.625 an odd polynomial (Cephes' tanhf), which keeps the relative error of small numbers; above it
// 1 - 2 / (e^2|x| + 1) with the sign of x.
template <bool, bool, int BLOCKS> KERNEL void calculate_tanh() {
    using namespace lanes;
    rows<BLOCKS>([] {
        load<5>();
        magnitude<5, 0>();
        constant<3, 20.0f>();
        sort<0, 3>();  // beyond it tanh is 1, and NaN would be a surprise
        add<0, 0, 0>();
        exp_clamped<0, 1, 2, 3>();
        add<0, ONE, 1>();
        reciprocal_of_normal<1, 0, 2, 3>();
        constant<1, -2.0f>();
        mad<0, 1, ONE, 0>();
        move<5, 6>();
        TTI_SFPSETSGN(0, 0, 6, 0);  // LREG6 = that magnitude with x's sign
        magnitude<5, 0>();
        constant<1, 0.625f>();
        sub<0, 1, 0>();
        if_negative<0>();
        mul<5, 5, 1>();
        polynomial<2, 1, 3, -5.70498872745e-3f, 2.06390887954e-2f, -5.37397155531e-2f, 1.33314422036e-1f,
                   -3.33332819422e-1f>();
        mul<2, 1, 2>();
        mad<2, 5, 5, 6>();
        end_if();
        store<6>();
    });
}
template <bool, bool> IN_LANES void tanh_init() {}

// |x|^y = e^(y log |x|), 1 for y = 0; below zero x^y has the sign (-1)^y for a whole y and is NaN for another.
template <bool, int BLOCKS, bool>
KERNEL void calculate_sfpu_binary_pow(const std::uint32_t base, const std::uint32_t power, const std::uint32_t out) {
    using namespace lanes;
    rows<BLOCKS>([=] {
        load_tile<0>(base);
        magnitude<0, 0>();
        natural_log();
        load_tile<6>(power);
        mul<4, 6, 4>();
        magnitude<6, 0>();
        if_zero<0>();
        move<ZERO, 4>();  // also where log was infinite
        end_if();
        exp_anywhere();
        load_tile<5>(base);
        constant<1, ROUNDER>();
        add<6, 1, 2>();
        sub<2, 1, 3>();
        sub<6, 3, 3>();  // what is left of y beside the nearest integer
        shift<2, 31>();  // the sign bit of an odd one
        magnitude<3, 3>();
        if_negative<5>();
        TTI_SFPXOR(0, 2, 0, 0);
        if_not_zero<3>();
        load_bits<0, 0x7fc00000>();
        end_if();
        store_tile<0>(out);
    });
}
template <bool> IN_LANES void sfpu_binary_pow_init() {}
}  // namespace ckernel::sfpu
