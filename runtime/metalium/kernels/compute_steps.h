// The frame of a compute kernel's steps.
//
//     cb_in ---copy_tile, all 32 bits--> DST --SFPU--> DST --pack--> cb_out          elementwise work, exact f32
//     cb_rows x cb_weights, cb_left x cb_right --FPU, sums in f32--> DST --> cb_out  products of TF32
//
// cb_in is unpacked straight into DST, so it is no operand of the FPU; the unpacker is set up anew at each change.
#pragma once

#include <cstdint>

#include "api/compute/common.h"
#include "api/compute/compute_kernel_hw_startup.h"
#include "api/compute/matmul.h"
#include "api/compute/pack.h"
#include "api/compute/reconfig_data_format.h"
#include "api/compute/tile_move_copy.h"
#include "share.h"

NOINLINE inline void to_elementwise(uint32_t cb_in) {
    reconfig_data_format_srca(cb_in);
    copy_init(cb_in);
}

NOINLINE inline void to_product(uint32_t cb_left, uint32_t cb_right, uint32_t transposed) {
    reconfig_data_format<SrcOrder::Reverse>(cb_left, cb_right);
    matmul_init(cb_left, cb_right, transposed);
}

// Tiles 0 .. `tiles` - 1 of DST are the result.
NOINLINE inline void pack_results(uint32_t cb_out, uint32_t tiles) {
    tile_regs_commit();
    tile_regs_wait();
    for (uint32_t tile = 0; tile < tiles; ++tile) {
        cb_reserve_back(cb_out, 1);
        pack_tile(tile, cb_out);
        cb_push_back(cb_out, 1);
    }
    tile_regs_release();
}

// Tile `result` of DST is the result.
NOINLINE inline void pack_result(uint32_t result, uint32_t cb_out) {
    tile_regs_commit();
    tile_regs_wait();
    cb_reserve_back(cb_out, 1);
    pack_tile(result, cb_out);
    cb_push_back(cb_out, 1);
    tile_regs_release();
}

// A tile of elementwise work: its operands are the pages of one push to cb_in, `slots` of them though few may be filled.
NOINLINE inline void begin_tile(uint32_t cb_in, uint32_t slots) {
    tile_regs_acquire();
    cb_wait_front(cb_in, slots);
}

NOINLINE inline void load_operand(uint32_t cb_in, uint32_t operand, uint32_t dst) { copy_tile(cb_in, operand, dst); }

NOINLINE inline void end_tile(uint32_t cb_in, uint32_t slots, uint32_t result, uint32_t cb_out) {
    cb_pop_front(cb_in, slots);
    pack_result(result, cb_out);
}

// One block of a streamed matrix: [rows of x, k] x [k, `columns` tiles], k tile by k tile.
//
//     cb_rows     one tile a k tile, in whose rows x lies as `rows.h` says
//     cb_weights  the matrix's tiles in the order in which they lie in DRAM, each as `planes` tiles that are added up
NOINLINE inline void multiply_streamed(
    uint32_t cb_rows, uint32_t cb_weights, uint32_t cb_out, uint32_t k_tiles, uint32_t columns, uint32_t planes) {
    tile_regs_acquire();
    for (uint32_t k = 0; k < k_tiles; ++k) {
        cb_wait_front(cb_rows, 1);
        for (uint32_t column = 0; column < columns; ++column) {
            for (uint32_t plane = 0; plane < planes; ++plane) {
                cb_wait_front(cb_weights, 1);
                matmul_tiles(cb_rows, cb_weights, 0, 0, column);
                cb_pop_front(cb_weights, 1);
            }
        }
        cb_pop_front(cb_rows, 1);
    }
    pack_results(cb_out, columns);
}

// One tile of a product of arrays.  A factor is a sum of `left` or `right` planes, the second of which is what the FPU lost
// of the first; the product of two second planes is below what f32 keeps, and left out.
NOINLINE inline void multiply_planes(
    uint32_t cb_left, uint32_t cb_right, uint32_t cb_out, uint32_t k_tiles, uint32_t left, uint32_t right,
    uint32_t slots) {
    tile_regs_acquire();
    for (uint32_t k = 0; k < k_tiles; ++k) {
        cb_wait_front(cb_left, slots);
        cb_wait_front(cb_right, slots);
        for (uint32_t l = 0; l < left; ++l) {
            for (uint32_t r = 0; r < right && l + r < 2; ++r) {
                matmul_tiles(cb_left, cb_right, l, r, 0);
            }
        }
        cb_pop_front(cb_left, slots);
        cb_pop_front(cb_right, slots);
    }
    pack_results(cb_out, 1);
}
