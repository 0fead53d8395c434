// A core's L1 as the data-movement kernels see it: arrays of 32-bit words at byte addresses that are the same on every
// core.  Floats are moved as their bits: these cores have no FPU, and a word that is only moved keeps every bit.
#pragma once

#include <cstdint>

#include "api/core_local_mem.h"
#include "api/dataflow/dataflow_api.h"
#include "share.h"

constexpr uint32_t WORD_BYTES = sizeof(uint32_t);
constexpr uint32_t L1_ALIGNMENT_BYTES = 16;    // source and destination of a NoC transfer agree modulo this in L1
constexpr uint32_t DRAM_ALIGNMENT_BYTES = 64;  // and modulo this where a read begins in DRAM (Blackhole's; Wormhole's is 32)
constexpr uint32_t NOC_COPY_WORDS = 64;        // from so many words on, the NoC copies faster than this core

using Words = volatile tt_l1_ptr uint32_t*;

// The only place where an address becomes a pointer.
FORCE_INLINE Words words_at(uint32_t address) { return CoreLocalMem<volatile uint32_t>(address).get_unsafe_ptr(); }

// An array in L1.  Elements are counted from the front of the whole array; a core that holds only its own units of it
// begins at element `first`.
struct Array {
    uint32_t address;
    int32_t first;

    FORCE_INLINE uint32_t at(int32_t element) const { return address + (element - first) * WORD_BYTES; }
    FORCE_INLINE int32_t whole(int32_t element) const { return static_cast<int32_t>(words_at(at(element))[0]); }
};

NOINLINE inline void copy_words(uint32_t to, uint32_t from, uint32_t words) {
    if (words == 0) {  // a core without units of its own: the addresses are of nothing
        return;
    }
    if (words >= NOC_COPY_WORDS && (to - from) % L1_ALIGNMENT_BYTES == 0) {
        noc_async_read(get_noc_addr(from), to, words * WORD_BYTES);
        noc_async_read_barrier();
        return;
    }
    const Words out = words_at(to), in = words_at(from);
    for (uint32_t i = 0; i < words; ++i) {
        out[i] = in[i];
    }
}

NOINLINE inline void fill_words(uint32_t to, uint32_t value, uint32_t words) {
    const Words out = words_at(to);
    for (uint32_t i = 0; i < words; ++i) {
        out[i] = value;
    }
}

// Zeros; what is long doubles itself over the NoC.
NOINLINE inline void zero_words(uint32_t to, uint32_t words) {
    uint32_t done = smaller(words, NOC_COPY_WORDS);
    fill_words(to, 0, done);
    while (done < words) {
        const uint32_t run = smaller(done, words - done);
        copy_words(to + done * WORD_BYTES, to, run);
        done += run;
    }
}

// --- pages of circular buffers ---
// The API's calls are inlined wherever they stand; these are not, for a kernel makes hundreds of them.
NOINLINE inline uint32_t reserve_pages(uint32_t cb, uint32_t pages) {
    cb_reserve_back(cb, pages);
    return get_write_ptr(cb);
}

NOINLINE inline void push_pages(uint32_t cb, uint32_t pages) { cb_push_back(cb, pages); }

NOINLINE inline uint32_t wait_page(uint32_t cb) {
    cb_wait_front(cb, 1);
    return get_read_ptr(cb);
}

NOINLINE inline void pop_page(uint32_t cb) { cb_pop_front(cb, 1); }
