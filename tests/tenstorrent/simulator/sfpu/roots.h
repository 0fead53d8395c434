// Reciprocal, division, square root and its reciprocal: a guess by integer arithmetic on the bits, then Newton's steps.
#pragma once
#include "lanes.h"

namespace ckernel::sfpu {
namespace lanes {
// Y = 1 / X for a normal X below 2^126; X is negated in place. The guess (magic - bits) is within 12%; each step
// y += y (1 - x y) squares the error: three leave fp32's own rounding.
template <int X, int Y, int E, int MAGIC> IN_LANES void reciprocal_of_normal() {
    magnitude<X, E>();
    load_bits<MAGIC, 0x7EF311C7>();
    int_rsub<MAGIC, E>();
    move<X, Y>();
    TTI_SFPSETSGN(0, E, Y, 0);  // Y's sign, E's magnitude
    negate<X, X>();
    for_three([] { mad<X, Y, ONE, E>(); mad<Y, E, Y, Y>(); });
}

// Y = 1 / X for any X: +-0 gives +-infinity, beyond 2^126 (where the result is no normal number) +-0. X is negated.
template <int X, int Y, int E, int MAGIC> IN_LANES void reciprocal() {
    reciprocal_of_normal<X, Y, E, MAGIC>();
    magnitude<X, E>();
    load_bits<MAGIC, 0x7E800000>();
    int_rsub<E, MAGIC>();       // bits - limit
    if_not_negative<MAGIC>();
    constant<Y, 0.0f>();
    end_if();
    mul<X, ONE, E>();  // numbers below the normal ones become zero here as in every multiplication
    magnitude<E, E>();
    if_zero<E>();
    constant<Y, INFINITE>();
    end_if();
    negate<X, E>();
    TTI_SFPSETSGN(0, Y, E, 0);  // E = |Y| with the sign X had
    move<E, Y>();
}

// Y = 1 / sqrt(X) for a normal X > 0: the guess (magic - bits / 2) is within 3.4%; a step is y += y (1/2 - (x y / 2) y).
template <int X, int Y, int E, int HALF> IN_LANES void inverse_root_of_normal() {
    load_bits<Y, 0x5F375A86>();
    move<X, E>();
    shift<E, -1>();
    int_rsub<Y, E>();
    move<E, Y>();
    constant<HALF, -0.5f>();
    for_three([] {
        mul<X, Y, E>();
        mul<E, HALF, E>();      // -x y / 2
        mul<E, Y, E>();
        sub<E, HALF, E>();      // 1/2 - x y y / 2
        mad<Y, E, Y, Y>();
    });
}
}  // namespace lanes

template <bool, bool, int BLOCKS = 8> KERNEL void calculate_reciprocal() {
    using namespace lanes;
    rows<BLOCKS>([] { load<0>(); reciprocal<0, 1, 2, 3>(); store<1>(); });
}
template <bool, bool, bool = false> IN_LANES void recip_init() {}

// sqrt x = x y + (x - s s) y / 2 with s = x y: one correction after the inverse root
template <bool, int BLOCKS = 8, bool, bool> KERNEL void calculate_sqrt() {
    using namespace lanes;
    rows<BLOCKS>([] {
        load<0>();
        inverse_root_of_normal<0, 1, 2, 3>();
        mul<0, 1, 2>();
        negate<2, 4>();
        mad<4, 2, 0, 4>();
        mul<4, 1, 4>();
        mul<4, 3, 4>();
        sub<2, 4, 2>();
        if_zero<0>();
        move<ZERO, 2>();
        end_if();
        if_negative<0>();
        load_bits<2, 0x7fc00000>();
        end_if();
        magnitude<0, 1>();
        load_bits<3, 0x7f800000>();
        int_rsub<1, 3>();
        if_zero<3>();
        if_not_negative<0>();
        constant<2, INFINITE>();
        end_if();
        if_zero<1>();
        move<0, 2>();  // +-0
        end_if();
        store<2>();
    });
}
template <bool> IN_LANES void sqrt_init() {}

template <bool, int BLOCKS = 8, bool, bool> KERNEL void calculate_rsqrt() {
    using namespace lanes;
    rows<BLOCKS>([] {
        load<0>();
        inverse_root_of_normal<0, 1, 2, 3>();
        if_negative<0>();
        load_bits<1, 0x7fc00000>();
        end_if();
        magnitude<0, 2>();
        if_zero<2>();
        constant<1, INFINITE>();
        end_if();
        load_bits<3, 0x7f800000>();
        int_rsub<0, 3>();
        if_zero<3>();
        move<ZERO, 1>();
        end_if();
        store<1>();
    });
}
template <bool> IN_LANES void rsqrt_init() {}
}  // namespace ckernel::sfpu
