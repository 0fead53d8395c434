// A product whose left factor is spread over rows (see `rows.h`), and the sum of its rows.
//
//     cb_rows x cb_weights or cb_right --> cb_out --writer--> a page of cb_in for each row --> sum --> cb_out
#pragma once

#include "compute_steps.h"
#include "elementwise.h"
#include "spread.h"

// One tile of columns of an array, `planes` tiles of it a k tile that are added up.
NOINLINE inline void multiply_rows(
    uint32_t cb_rows, uint32_t cb_right, uint32_t cb_out, uint32_t k_tiles, uint32_t planes, uint32_t slots) {
    tile_regs_acquire();
    for (uint32_t k = 0; k < k_tiles; ++k) {
        cb_wait_front(cb_rows, 1);
        cb_wait_front(cb_right, slots);
        for (uint32_t plane = 0; plane < planes; ++plane) {
            matmul_tiles(cb_rows, cb_right, 0, plane, 0);
        }
        cb_pop_front(cb_rows, 1);
        cb_pop_front(cb_right, slots);
    }
    pack_results(cb_out, 1);
}

// The sum of so many pages.
NOINLINE inline void add_rows(uint32_t cb_in, uint32_t slots, uint32_t cb_out, uint32_t rows) {
    begin_tile(cb_in, slots);
    load_operand(cb_in, 0, 0);
    for (uint32_t row = 1; row < rows; ++row) {
        load_operand(cb_in, row, 1);
        tile::add(0, 1, 0);
    }
    end_tile(cb_in, slots, 0, cb_out);
}
