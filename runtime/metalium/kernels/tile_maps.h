// Between arrays and the pages of circular buffers, for elementwise work.  A tile of 1024 consecutive elements is worked
// on as it lies: the SFPU does not care which element is where, only that all operands agree.
//
//     array, L1 --take--> page of cb_in --> compute --> page of cb_out --give--> array, L1
//
// A rule says which element of the array belongs to given indices of the step.  `take_runs` and `take_repeats` are for
// rules whose last index moves by one element or by none: they ask it once a row.
#pragma once

#include "walk.h"

constexpr uint32_t TILE_BYTES = TILE_ELEMENTS * WORD_BYTES;

FORCE_INLINE uint32_t page_of(uint32_t front, uint32_t number) { return front + number * TILE_BYTES; }

// page[e] = array[rule(indices of element first + e)]
template <class Box, class Rule>
FORCE_INLINE void take_elements(uint32_t page, const Array& array, uint32_t first, uint32_t count, Rule rule) {
    const Words out = words_at(page);
    Box walk(first);
    for (uint32_t e = 0; e < count; ++e, walk.advance(1)) {
        out[e] = words_at(array.at(walk.apply(rule)))[0];
    }
}

template <class Box, class Rule>
FORCE_INLINE void take_runs(uint32_t page, const Array& array, uint32_t first, uint32_t count, Rule rule) {
    Box walk(first);
    for (uint32_t e = 0; e < count;) {
        const uint32_t run = smaller(walk.row_left(), count - e);
        copy_words(page + e * WORD_BYTES, array.at(walk.apply(rule)), run);
        walk.advance(run);
        e += run;
    }
}

template <class Box, class Rule>
FORCE_INLINE void take_repeats(uint32_t page, const Array& array, uint32_t first, uint32_t count, Rule rule) {
    Box walk(first);
    for (uint32_t e = 0; e < count;) {
        const uint32_t run = smaller(walk.row_left(), count - e);
        fill_words(page + e * WORD_BYTES, words_at(array.at(walk.apply(rule)))[0], run);
        walk.advance(run);
        e += run;
    }
}

// page[e] = value(indices of element first + e): the words themselves, for loads with a condition.
template <class Box, class Value>
FORCE_INLINE void take_values(uint32_t page, uint32_t first, uint32_t count, Value value) {
    const Words out = words_at(page);
    Box walk(first);
    for (uint32_t e = 0; e < count; ++e, walk.advance(1)) {
        out[e] = static_cast<uint32_t>(walk.apply(value));
    }
}

// array[rule(indices of element first + e)] = page[e]
template <class Box, class Rule>
FORCE_INLINE void give_elements(const Array& array, uint32_t page, uint32_t first, uint32_t count, Rule rule) {
    const Words in = words_at(page);
    Box walk(first);
    for (uint32_t e = 0; e < count; ++e, walk.advance(1)) {
        words_at(array.at(walk.apply(rule)))[0] = in[e];
    }
}

template <class Box, class Rule>
FORCE_INLINE void give_runs(const Array& array, uint32_t page, uint32_t first, uint32_t count, Rule rule) {
    Box walk(first);
    for (uint32_t e = 0; e < count;) {
        const uint32_t run = smaller(walk.row_left(), count - e);
        copy_words(array.at(walk.apply(rule)), page + e * WORD_BYTES, run);
        walk.advance(run);
        e += run;
    }
}

// to[target(indices)] = value(indices), from element `first` of the box on, nothing in between: copies of one array
// into another and whole numbers.
template <class Box, class Target, class Value>
FORCE_INLINE void set_elements(const Array& to, uint32_t first, uint32_t count, Target target, Value value) {
    Box walk(first);
    for (uint32_t e = 0; e < count; ++e, walk.advance(1)) {
        words_at(to.at(walk.apply(target)))[0] = static_cast<uint32_t>(walk.apply(value));
    }
}

template <class Box, class Target, class Rule>
FORCE_INLINE void copy_runs(
    const Array& to, const Array& from, uint32_t first, uint32_t count, Target target, Rule rule) {
    Box walk(first);
    for (uint32_t e = 0; e < count;) {
        const uint32_t run = smaller(walk.row_left(), count - e);
        copy_words(to.at(walk.apply(target)), from.at(walk.apply(rule)), run);
        walk.advance(run);
        e += run;
    }
}
