// sin and cos: x = n pi + r with pi in three parts (Cody-Waite: exact enough for |x| up to some thousands), an odd
// polynomial of r in [-pi/2, pi/2], and the sign (-1)^n. For cos, n - 1/2 stands for n: cos x = (-1)^n sin r.
#pragma once
#include "lanes.h"

namespace ckernel::sfpu {
namespace lanes {
template <bool COSINE> IN_LANES void circular() {
    load<0>();
    constant<3, 0.318309886f>();
    constant<2, ROUNDER>();
    if constexpr (COSINE) {
        constant<4, 0.5f>();
        mad<0, 3, 4, 1>();
        add<1, 2, 1>();
        sub<1, 2, 2>();
        sub<2, 4, 2>();
    } else {
        mad<0, 3, 2, 1>();
        sub<1, 2, 2>();
    }
    constant<3, -3.140625f>();  // 9 bits: the product with n is exact
    mad<2, 3, 0, 0>();
    constant<3, -9.67025757e-4f>();
    mad<2, 3, 0, 0>();
    constant<3, -6.27711415e-7f>();
    mad<2, 3, 0, 0>();
    mul<0, 0, 2>();
    polynomial<4, 2, 3, -2.5052108e-8f, 2.7557319e-6f, -1.9841270e-4f, 8.3333333e-3f, -1.6666667e-1f>();
    mul<4, 2, 4>();
    mad<4, 0, 0, 4>();
    shift<1, 31>();  // n odd: the sign changes
    TTI_SFPXOR(0, 1, 4, 0);
    store<4>();
}
}  // namespace lanes

template <bool, bool, int BLOCKS> KERNEL void calculate_sine() {
    lanes::rows<BLOCKS>([] { lanes::circular<false>(); });
}
template <bool, bool, int BLOCKS> KERNEL void calculate_cosine() {
    lanes::rows<BLOCKS>([] { lanes::circular<true>(); });
}
template <bool> IN_LANES void sine_init() {}
template <bool> IN_LANES void cosine_init() {}
}  // namespace ckernel::sfpu
