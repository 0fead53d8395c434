// Between rows in DRAM and arrays in L1.  Rows are pages; a transfer's two ends must agree modulo the alignment, so what
// does not agree goes through the bounce page:
//
//     DRAM row --NoC--> bounce page --words--> array            array --words--> bounce page --NoC--> DRAM row
#pragma once

#include "tile_maps.h"

constexpr uint32_t HALF_BYTES = 2;
constexpr uint32_t HALF_BITS = 16;
constexpr uint32_t BOUNCE_BYTES = TILE_BYTES;
constexpr uint32_t BOUNCE_WORDS = (BOUNCE_BYTES - DRAM_ALIGNMENT_BYTES) / WORD_BYTES;  // whatever the skew

// All pages of a tensor, one behind the other: the vectors and constants of a line.
template <class Tensor>
FORCE_INLINE void fetch_pages(const Tensor& tensor, uint32_t to, uint32_t pages, uint32_t page_bytes) {
    for (uint32_t page = 0; page < pages; ++page) {
        noc_async_read(tensor.get_noc_addr(page), to + page * page_bytes, page_bytes);
    }
    noc_async_read_barrier();
}

// Elements first ... of `array` from the tensor's rows of `columns` numbers each; the array's element 0 begins `row`.
template <class Tensor>
FORCE_INLINE void fetch_words(
    const Tensor& tensor, uint32_t columns, uint32_t row, const Array& array, uint32_t first, uint32_t count,
    uint32_t bounce) {
    for (uint32_t e = first, end = first + count; e < end;) {
        const uint32_t column = e % columns;
        const uint32_t run = smaller(smaller(columns - column, end - e), BOUNCE_WORDS);
        const uint32_t skew = column * WORD_BYTES % DRAM_ALIGNMENT_BYTES;
        noc_async_read(
            tensor.get_noc_addr(row + e / columns, column * WORD_BYTES - skew), bounce, skew + run * WORD_BYTES);
        noc_async_read_barrier();
        copy_words(array.at(e), bounce + skew, run);
        e += run;
    }
}

// The same from bf16, which is the upper half of an f32.
template <class Tensor>
FORCE_INLINE void fetch_halves(
    const Tensor& tensor, uint32_t columns, uint32_t row, const Array& array, uint32_t first, uint32_t count,
    uint32_t bounce) {
    for (uint32_t e = first, end = first + count; e < end;) {
        const uint32_t column = e % columns;
        const uint32_t run = smaller(smaller(columns - column, end - e), BOUNCE_WORDS);
        const uint32_t skew = column * HALF_BYTES % DRAM_ALIGNMENT_BYTES;
        noc_async_read(
            tensor.get_noc_addr(row + e / columns, column * HALF_BYTES - skew), bounce, skew + run * HALF_BYTES);
        noc_async_read_barrier();
        const Words in = words_at(bounce), out = words_at(array.at(e));
        for (uint32_t i = 0; i < run; ++i) {
            const uint32_t half = skew / HALF_BYTES + i;
            out[i] = in[half / 2] >> (half % 2 * HALF_BITS) << HALF_BITS;
        }
        e += run;
    }
}

// Words of L1 to a place on the NoC, through the bounce page where the two ends do not agree.
NOINLINE inline void send_words(uint32_t from, uint64_t to, uint32_t words, uint32_t bounce) {
    const uint32_t skew = static_cast<uint32_t>(to) % L1_ALIGNMENT_BYTES;
    if (from % L1_ALIGNMENT_BYTES == skew) {
        noc_async_write(from, to, words * WORD_BYTES);
        return;
    }
    for (uint32_t sent = 0; sent < words;) {
        const uint32_t run = smaller(words - sent, BOUNCE_WORDS);
        noc_async_writes_flushed();  // the bounce page may still be on its way out
        copy_words(bounce + skew, from + sent * WORD_BYTES, run);
        noc_async_write(bounce + skew, to + sent * WORD_BYTES, run * WORD_BYTES);
        sent += run;
    }
}

// Elements first ... of `array` into the tensor's rows.
template <class Tensor>
FORCE_INLINE void write_words(
    const Tensor& tensor, uint32_t columns, const Array& array, uint32_t first, uint32_t count, uint32_t bounce) {
    for (uint32_t e = first, end = first + count; e < end;) {
        const uint32_t column = e % columns;
        const uint32_t run = smaller(columns - column, end - e);
        send_words(array.at(e), tensor.get_noc_addr(e / columns, column * WORD_BYTES), run, bounce);
        e += run;
    }
    noc_async_write_barrier();
}
