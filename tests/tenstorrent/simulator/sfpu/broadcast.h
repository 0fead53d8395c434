// A tile combined with row 0 of another tile (repeated down the rows) or with its column 0 (repeated across the columns).
// The wheel's own version is in raw instructions too and right on one simulator, but not on the other (wolfpine).
//
// Unlike the other functions these walk over the whole tile themselves. A block is 4 rows x 8 columns, even or odd ones;
// as SFPLOAD addresses them a face is 16 rows (64 = a tile), +2 the odd columns, +4 the next four rows.
#pragma once
#include "lanes.h"
#include "llk_defs.h"

namespace ckernel::sfpu {
namespace lanes {
template <int D> IN_LANES void load_at(std::uint32_t address) { TT_SFPLOAD(D, 0, ADDR_MOD_3, address); }
template <int S> IN_LANES void store_at(std::uint32_t address) { TT_SFPSTORE(S, 0, ADDR_MOD_3, address); }

template <BinaryOp OPERATION> IN_LANES void combine() {  // LREG5 = LREG5 op LREG4
    if constexpr (OPERATION == BinaryOp::ADD) add<5, 4, 5>();
    if constexpr (OPERATION == BinaryOp::SUB) sub<5, 4, 5>();
    if constexpr (OPERATION == BinaryOp::MUL) mul<5, 4, 5>();
}

// LREG4 = the first of the four rows at an address, in all four: SFPTRANSP makes row i of register j row j of register i.
IN_LANES void first_row(std::uint32_t address) {
    load_at<0>(address);
    move<0, 1>();
    move<0, 2>();
    move<0, 3>();
    TTI_SFPTRANSP(0, 0, 0, 0);
    move<0, 4>();
}

// LREG4 = column 0 of the four rows at an address, in all eight columns: the others are masked off, and 4, 2, 1 rotations
// within the rows, each added, spread it. Lane numbers come from the constant register 15 (twice the lane).
IN_LANES void first_column(std::uint32_t address) {
    load_at<4>(address);
    move<15, 0>();
    TTI_SFPLOADI(1, sfpi::SFPLOADI_MOD0_USHORT, 14);
    TTI_SFPAND(0, 1, 0, 0);
    if_not_zero<0>();
    move<ZERO, 4>();
    end_if();
    for (int turn = 1; turn < 8; turn *= 2) {
        move<4, 0>();
        for (int i = 0; i < turn; i++) {
            TTI_SFPSHFT2(0, 0, 0, sfpi::SFPSHFT2_MOD1_SUBVEC_SHFLROR1);
            TTI_SFPNOP;
        }
        TTI_SFPOR(0, 0, 4, 0);
    }
}
}  // namespace lanes

template <BinaryOp OPERATION, BroadcastType WAY>
KERNEL void _calculate_sfpu_binary_bcast_full_tile_(std::uint32_t data, std::uint32_t vector, std::uint32_t out) {
    using namespace lanes;
    constexpr bool by_row = WAY == BroadcastType::ROW;
    end_if();
#pragma GCC unroll 0
    for (std::uint32_t line = 0; line < 8; line++) {
        // by row: 2 faces side by side x even/odd columns, 8 blocks under each other; by column: 8 bands, 4 blocks in each
        const std::uint32_t band = line / 4 * 32 + line % 4 * 4;
        if constexpr (!by_row) first_column(vector * TILE + band);
#pragma GCC unroll 0
        for (std::uint32_t half = 0; half < 4; half++) {
            const std::uint32_t across = half / 2 * 16 + half % 2 * 2;
            if constexpr (by_row) first_row(vector * TILE + across);
            load_at<5>(data * TILE + band + across);
            combine<OPERATION>();
            store_at<5>(out * TILE + band + across);
        }
    }
}
template <BroadcastType> IN_LANES void _sfpu_binary_bcast_init_() {}
}  // namespace ckernel::sfpu
