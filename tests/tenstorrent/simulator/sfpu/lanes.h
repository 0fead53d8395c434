// The SFPU's 32-lane registers as one-instruction functions: what the SFPI compiler's built-ins would issue.
//
// A tile in DST is 4 faces of 16 rows; one SFPLOAD takes 32 numbers (4 rows, even or odd columns), so a face is 8 blocks.
// The wheel's own macros (SFPU_UNARY_CALL and so on) walk over the faces and call a function once for each; rows() below
// walks over the 8 blocks of a face. Registers: LREG0-7 free, 9 = 0.0, 10 = 1.0, 11 = -1.0 (set by the firmware).
// Every float operation takes two cycles on Wormhole, which does not wait by itself: hence the SFPNOP after each.
#pragma once
#include <cstdint>
#include "ckernel.h"
#include "ckernel_ops.h"
#include "ckernel_instr_params.h"
#include "cmath_common.h"
#include "llk_defs.h"
#include "sfpi.h"

#define IN_LANES inline __attribute__((always_inline))
#define KERNEL inline __attribute__((noinline))  // one copy of each function: kernel text is scarce

namespace ckernel::sfpu::lanes {
constexpr int ZERO = 9, ONE = 10, MINUS_ONE = 11;
constexpr std::uint32_t TILE = 64;  // DST rows of a tile, counted as SFPLOAD counts them
constexpr float INFINITE = __builtin_inff();
constexpr float ROUNDER = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low mantissa bits

// ---- moving numbers
template <int D> IN_LANES void load() { TTI_SFPLOAD(D, 0, ADDR_MOD_3, 0); }
template <int S> IN_LANES void store() { TTI_SFPSTORE(S, 0, ADDR_MOD_3, 0); }
template <int D> IN_LANES void load_tile(std::uint32_t tile) { TT_SFPLOAD(D, 0, ADDR_MOD_3, tile * TILE); }
template <int S> IN_LANES void store_tile(std::uint32_t tile) { TT_SFPSTORE(S, 0, ADDR_MOD_3, tile * TILE); }
template <int D, std::uint32_t BITS> IN_LANES void load_bits() {
    TTI_SFPLOADI(D, sfpi::SFPLOADI_MOD0_FLOATB, (BITS >> 16));
    if constexpr (BITS & 0xffff) TTI_SFPLOADI(D, sfpi::SFPLOADI_MOD0_LOWER, (BITS & 0xffff));
}
template <int D, float V> IN_LANES void constant() { load_bits<D, __builtin_bit_cast(std::uint32_t, V)>(); }
template <int D> IN_LANES void parameter(std::uint32_t bits) {
    TT_SFPLOADI(D, sfpi::SFPLOADI_MOD0_FLOATB, bits >> 16);
    TT_SFPLOADI(D, sfpi::SFPLOADI_MOD0_LOWER, bits & 0xffff);
}
template <int S, int D> IN_LANES void move() { TTI_SFPMOV(0, S, D, 0); }
template <int S, int D> IN_LANES void negate() { TTI_SFPMOV(0, S, D, 1); }
template <int S, int D> IN_LANES void magnitude() { TTI_SFPSETSGN(0, S, D, 1); }  // |S|, NaN included

// ---- float arithmetic, each one rounding
template <int A, int B, int C, int D> IN_LANES void mad() { TTI_SFPMAD(A, B, C, D, 0); TTI_SFPNOP; }  // A * B + C
template <int A, int B, int D> IN_LANES void mul() { TTI_SFPMUL(A, B, ZERO, D, 0); TTI_SFPNOP; }
template <int A, int B, int D> IN_LANES void add() { TTI_SFPADD(ONE, A, B, D, 0); TTI_SFPNOP; }
template <int A, int B, int D> IN_LANES void sub() { mad<B, MINUS_ONE, A, D>(); }  // A - B
template <int LOW, int HIGH> IN_LANES void sort() { TTI_SFPSWAP(0, HIGH, LOW, sfpi::SFPSWAP_MOD1_VEC_MIN_MAX); TTI_SFPNOP; }

// A polynomial in R by Horner's rule, highest coefficient first; K is scratch.
template <int D, int R, int K, float FIRST, float... REST> IN_LANES void polynomial() {
    constant<D, FIRST>();
    ((constant<K, REST>(), mad<D, R, K, D>()), ...);
}

// ---- integers (the bits of a float, or small counts)
template <int S, int D> IN_LANES void int_add() { TTI_SFPIADD(0, S, D, sfpi::SFPIADD_MOD1_CC_NONE); }  // D = S + D
template <int S, int D> IN_LANES void int_rsub() {                                                    // D = S - D
    TTI_SFPIADD(0, S, D, sfpi::SFPIADD_MOD1_ARG_2SCOMP_LREG_DST | sfpi::SFPIADD_MOD1_CC_NONE);
}
template <int D, int BY> IN_LANES void shift() { TTI_SFPSHFT((BY) & 0xfff, 0, D, 1); }  // left, or right if negative

// ---- lanes switched off until end_if(): tests of the sign bit or of all bits, so -0.0 counts as negative and not zero
IN_LANES void end_if() { TTI_SFPENCC(3, 0, 0, 10); }
template <int S> IN_LANES void if_negative() { TTI_SFPSETCC(0, S, 0, sfpi::SFPSETCC_MOD1_LREG_LT0); }
template <int S> IN_LANES void if_not_negative() { TTI_SFPSETCC(0, S, 0, sfpi::SFPSETCC_MOD1_LREG_GTE0); }
template <int S> IN_LANES void if_zero() { TTI_SFPSETCC(0, S, 0, sfpi::SFPSETCC_MOD1_LREG_EQ0); }
template <int S> IN_LANES void if_not_zero() { TTI_SFPSETCC(0, S, 0, sfpi::SFPSETCC_MOD1_LREG_NE0); }

template <class Step> IN_LANES void for_three(Step step) { step(); step(); step(); }

// The blocks of one face: `body` works at the current DST rows, which then move on.
template <int BLOCKS, class Body> IN_LANES void rows(Body body) {
    end_if();
#pragma GCC unroll 0
    for (int i = 0; i < BLOCKS; i++) {
        body();
        TTI_INCRWC(0, 2, 0, 0);
    }
}
}  // namespace ckernel::sfpu::lanes
