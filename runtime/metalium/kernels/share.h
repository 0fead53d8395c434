// Which units of an array that is dealt out to the cores are one core's own.  For all three kernels.
#pragma once

#include <cstdint>

#define NOINLINE __attribute__((noinline))

constexpr uint32_t TILE_SIDE = 32;
constexpr uint32_t TILE_ELEMENTS = TILE_SIDE * TILE_SIDE;

constexpr uint32_t smaller(uint32_t a, uint32_t b) { return a < b ? a : b; }

// How many tiles of consecutive elements hold so many.
constexpr uint32_t tiles_of(uint32_t elements) { return (elements + TILE_ELEMENTS - 1) / TILE_ELEMENTS; }

// How many of `length` things there are from `first` on, at most `most`.
constexpr uint32_t from_on(uint32_t length, uint32_t first, uint32_t most) {
    return first < length ? smaller(most, length - first) : 0;
}

// How many of `length` rows or columns lie in the tile that begins at `first`.
constexpr uint32_t in_tile(uint32_t length, uint32_t first) { return from_on(length, first, TILE_SIDE); }

struct Share {
    uint32_t first, count;
};

// `each` of `lead` units a core, the last cores fewer.
constexpr Share share_of(uint32_t core, uint32_t lead, uint32_t each) {
    const uint32_t first = smaller(core * each, lead);
    return {first, smaller(each, lead - first)};
}
