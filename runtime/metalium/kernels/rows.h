// The left factor of a product, a row of numbers x, as rows of one tile, so that the product keeps the digits of f32.
//
// The FPU adds the products of eight neighbouring k at once, and aligns them to the largest before: seven of the eight
// lose digits.  So each of rows 0 to 7 has one of eight neighbours only, and nothing is lost; the FPU works on 32 rows
// whatever is in them.  Row 8 has what its operands' bits cut off x, too small for its own losses to matter.
//
//     row 0   x0 .  .  .  .  .  .  .  x8 .  .  .  .  .  .  .  x16 ...
//     row 1   .  x1 .  .  .  .  .  .  .  x9 .  .  .  .  .  .  .   x17 ...
//      :
//     row 7   .  .  .  .  .  .  .  x7 .  .  .  .  .  .  .  x15
//     row 8   what x lost
//     row 9   x, from which the others are made; alone where the weights are bf16 anyway
#pragma once

#include "matrix_tiles.h"
#include "spread.h"

// Rows 0 to 7 from row 9.  What is between them stays zero from the program's start on.
NOINLINE inline void spread_row(uint32_t tile) {
    const Words words = words_at(tile);
    for (uint32_t c = 0; c < TILE_SIDE; ++c) {
        words[tile_word(c % LANES, c)] = words[tile_word(PLAIN_ROW, c)];
    }
}

// The rows of a result into a page each, from word `first` on, where the compute kernel adds them up.
NOINLINE inline void collect_rows(uint32_t pages, uint32_t first, uint32_t tile, uint32_t rows, uint32_t count) {
    for (uint32_t row = 0; row < rows; ++row) {
        give_row(page_of(pages, row) + first * WORD_BYTES, tile, row, count);
    }
}
