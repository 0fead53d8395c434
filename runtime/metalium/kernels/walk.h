// Steps through the elements of a box row by row, so that an array seen under any axes, a broadcast, a transposition or
// a ring is one rule from indices to elements.
//
//     Walk<2, 3>(4)      element 4 of a [2, 3] box: at (1, 1); then (1, 2); ...
#pragma once

#include <utility>

#include "l1_memory.h"

template <uint32_t... Extents>
struct Walk {
    static constexpr uint32_t axes = sizeof...(Extents);
    static constexpr uint32_t extents[axes] = {Extents...};
    int32_t at[axes];

    explicit FORCE_INLINE Walk(uint32_t element) {
        for (uint32_t axis = axes; axis-- > 0;) {
            at[axis] = static_cast<int32_t>(element % extents[axis]);
            element /= extents[axis];
        }
    }

    // How many elements are left in the row, this one included.
    FORCE_INLINE uint32_t row_left() const { return extents[axes - 1] - at[axes - 1]; }

    // On by `elements`, at most to the start of the next row.
    FORCE_INLINE void advance(uint32_t elements) {
        at[axes - 1] += elements;
        for (uint32_t axis = axes - 1; axis > 0 && at[axis] == static_cast<int32_t>(extents[axis]); --axis) {
            at[axis] = 0;
            ++at[axis - 1];
        }
    }

    // rule(index, index, ...)
    template <class Rule>
    FORCE_INLINE auto apply(Rule& rule) const {
        return apply(rule, std::make_integer_sequence<uint32_t, axes>());
    }

private:
    template <class Rule, uint32_t... Axis>
    FORCE_INLINE auto apply(Rule& rule, std::integer_sequence<uint32_t, Axis...>) const {
        return rule(at[Axis]...);
    }
};

// work(indices of element first), work(indices of element first + 1), ...
template <class Box, class Work>
FORCE_INLINE void each_element(uint32_t first, uint32_t count, Work work) {
    Box walk(first);
    for (uint32_t e = 0; e < count; ++e, walk.advance(1)) {
        walk.apply(work);
    }
}
