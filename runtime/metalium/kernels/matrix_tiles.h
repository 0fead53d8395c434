// Matrices as 32x32 tiles for the FPU.  A tile is four faces of 16x16, each row-major:
//
//     face 0 | face 1          word of (row, column) =
//     -------+-------              (row / 16 * 2 + column / 16) * 256 + row % 16 * 16 + column % 16
//     face 2 | face 3
//
// So 32 consecutive numbers of a row are two segments of 16 words, 256 words apart.
#pragma once

#include "tile_maps.h"

constexpr uint32_t FACE_SIDE = 16;
constexpr uint32_t FACE_WORDS = FACE_SIDE * FACE_SIDE;
constexpr uint32_t SFPU_STRIDE = 2;  // it works on a face's even columns, then on the odd ones

constexpr uint32_t tile_word(uint32_t row, uint32_t column) {
    return (row / FACE_SIDE * 2 + column / FACE_SIDE) * FACE_WORDS + row % FACE_SIDE * FACE_SIDE + column % FACE_SIDE;
}

// The word of (row, column) in a matrix of tiles, row-major, `tiles_across` in a row of tiles.
constexpr uint32_t matrix_word(uint32_t row, uint32_t column, uint32_t tiles_across) {
    return (row / TILE_SIDE * tiles_across + column / TILE_SIDE) * TILE_ELEMENTS +
           tile_word(row % TILE_SIDE, column % TILE_SIDE);
}

// A row of a face.  Eight loads before their stores: a load from L1 takes that many cycles, but they overlap.
FORCE_INLINE void copy_face_row(Words out, Words in) {
    constexpr uint32_t OVERLAPPING = 8;
    for (uint32_t i = 0; i < FACE_SIDE; i += OVERLAPPING) {
        const uint32_t a = in[i], b = in[i + 1], c = in[i + 2], d = in[i + 3];
        const uint32_t e = in[i + 4], f = in[i + 5], g = in[i + 6], h = in[i + 7];
        out[i] = a, out[i + 1] = b, out[i + 2] = c, out[i + 3] = d;
        out[i + 4] = e, out[i + 5] = f, out[i + 6] = g, out[i + 7] = h;
    }
}

// `count` consecutive words into a row of the tile, and zeros behind them.
NOINLINE inline void put_row(uint32_t tile, uint32_t row, uint32_t from, uint32_t count) {
    const Words out = words_at(tile) + tile_word(row, 0), in = words_at(from);
    if (count == TILE_SIDE) {
        copy_face_row(out, in);
        copy_face_row(out + FACE_WORDS, in + FACE_SIDE);
        return;
    }
    for (uint32_t c = 0; c < TILE_SIDE; ++c) {
        out[tile_word(0, c)] = c < count ? in[c] : 0;
    }
}

// The same, element by element: in the row lie elements first ... of the box.
template <class Box, class Rule>
FORCE_INLINE void take_row(
    uint32_t tile, uint32_t row, const Array& array, uint32_t first, uint32_t count, Rule rule) {
    const Words out = words_at(tile);
    Box walk(first);
    for (uint32_t c = 0; c < TILE_SIDE; ++c) {
        if (c < count) {
            out[tile_word(row, c)] = words_at(array.at(walk.apply(rule)))[0];
            walk.advance(1);
        } else {
            out[tile_word(row, c)] = 0;
        }
    }
}

// The same where the row's elements are neighbours.
template <class Box, class Rule>
FORCE_INLINE void take_run(
    uint32_t tile, uint32_t row, const Array& array, uint32_t first, uint32_t count, Rule rule) {
    put_row(tile, row, array.at(Box(first).apply(rule)), count);
}

template <class Box, class Value>
FORCE_INLINE void take_row_values(uint32_t tile, uint32_t row, uint32_t first, uint32_t count, Value value) {
    const Words out = words_at(tile);
    Box walk(first);
    for (uint32_t c = 0; c < TILE_SIDE; ++c) {
        if (c < count) {
            out[tile_word(row, c)] = static_cast<uint32_t>(walk.apply(value));
            walk.advance(1);
        } else {
            out[tile_word(row, c)] = 0;
        }
    }
}

// `count` consecutive words down column 0 of the tile, and zeros below them: a factor that is one column.
NOINLINE inline void put_column(uint32_t tile, uint32_t from, uint32_t count) {
    const Words out = words_at(tile), in = words_at(from);
    for (uint32_t r = 0; r < TILE_SIDE; ++r) {
        out[tile_word(r, 0)] = r < count ? in[r] : 0;
    }
}

// Column 0 of the tile: what a column vector is for the SFPU's broadcast.  The SFPU takes the eight even
// columns of a face at once and multiplies the other seven by zero, so they must be numbers.
template <class Box, class Value>
FORCE_INLINE void take_column_values(uint32_t tile, uint32_t first, uint32_t count, Value value) {
    const Words out = words_at(tile);
    Box walk(first);
    for (uint32_t r = 0; r < TILE_SIDE; ++r) {
        uint32_t word = 0;
        if (r < count) {
            word = static_cast<uint32_t>(walk.apply(value));
            walk.advance(1);
        }
        out[tile_word(r, 0)] = word;
        for (uint32_t c = SFPU_STRIDE; c < FACE_SIDE; c += SFPU_STRIDE) {
            out[tile_word(r, c)] = 0;
        }
    }
}

NOINLINE inline void zero_row(uint32_t tile, uint32_t row) {
    const Words out = words_at(tile);
    for (uint32_t c = 0; c < TILE_SIDE; ++c) {
        out[tile_word(row, c)] = 0;
    }
}

// The first `count` words of a row of a result.
NOINLINE inline void give_row(uint32_t to, uint32_t tile, uint32_t row, uint32_t count) {
    const Words out = words_at(to), in = words_at(tile) + tile_word(row, 0);
    if (count == TILE_SIDE) {
        copy_face_row(out, in);
        copy_face_row(out + FACE_SIDE, in + FACE_WORDS);
        return;
    }
    for (uint32_t c = 0; c < count; ++c) {
        out[c] = in[tile_word(0, c)];
    }
}

// A result into a matrix of tiles: whole, with zeros in its padding where it has only `rows` rows and `columns` columns.
NOINLINE inline void give_tile(uint32_t to, uint32_t tile, uint32_t rows, uint32_t columns) {
    copy_words(to, tile, TILE_ELEMENTS);
    const Words out = words_at(to);
    for (uint32_t r = 0; r < TILE_SIDE; ++r) {
        for (uint32_t c = r < rows ? columns : 0; c < TILE_SIDE; ++c) {
            out[tile_word(r, c)] = 0;
        }
    }
}
