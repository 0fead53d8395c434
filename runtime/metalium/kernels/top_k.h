// The largest of a row of floats and the extremes of one, on the data-movement core: whole-number comparisons of bits.
#pragma once

#include "integers.h"

constexpr int32_t LOWEST_RANK = static_cast<int32_t>(SIGN_BIT);

// The `K` largest offered so far, largest first; of equal ones the first offered.  NaN comes last.
template <uint32_t K>
struct TopK {
    int32_t rank[K];
    uint32_t bits[K];
    int32_t place[K];
    uint32_t held = 0;

    void offer(uint32_t value, int32_t at) {
        const int32_t own = is_nan(value) ? LOWEST_RANK : rank_of(value);
        if (held == K && own <= rank[K - 1]) {
            return;
        }
        uint32_t slot = held < K ? held++ : K - 1;
        for (; slot > 0 && rank[slot - 1] < own; --slot) {
            rank[slot] = rank[slot - 1];
            bits[slot] = bits[slot - 1];
            place[slot] = place[slot - 1];
        }
        rank[slot] = own;
        bits[slot] = value;
        place[slot] = at;
    }
};

// The largest or smallest offered; NaN if any was.
template <bool Largest>
struct Extreme {
    uint32_t bits = Largest ? INFINITY_BITS | SIGN_BIT : INFINITY_BITS;

    void offer(uint32_t value) {
        if (is_nan(bits)) {
            return;
        }
        const int32_t own = rank_of(value), best = rank_of(bits);
        if (is_nan(value) || (Largest ? own > best : own < best)) {
            bits = value;
        }
    }
};
