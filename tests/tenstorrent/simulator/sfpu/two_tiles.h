// Functions of two or three tiles in DST, chosen by index; the result may take the place of an operand.
#pragma once
#include "lanes.h"
#include "roots.h"
#include "llk_defs.h"
#include "llk_sfpu_types.h"

namespace ckernel::sfpu {
template <bool, BinaryOp OPERATION, int BLOCKS, bool, DstRoundingMode = DstRoundingMode::Default>
KERNEL void calculate_sfpu_binary(const std::uint32_t left, const std::uint32_t right, const std::uint32_t out) {
    using namespace lanes;
    rows<BLOCKS>([=] {
        load_tile<0>(left);
        load_tile<1>(right);
        if constexpr (OPERATION == BinaryOp::ADD) add<0, 1, 0>();
        else if constexpr (OPERATION == BinaryOp::SUB) sub<0, 1, 0>();
        else if constexpr (OPERATION == BinaryOp::RSUB) sub<1, 0, 0>();
        else static_assert(OPERATION == BinaryOp::ADD, "no raw form of this operation");
        store_tile<0>(out);
    });
}
template <bool, BinaryOp, int BLOCKS, bool>
KERNEL void calculate_sfpu_binary_mul(const std::uint32_t left, const std::uint32_t right, const std::uint32_t out) {
    using namespace lanes;
    rows<BLOCKS>([=] { load_tile<0>(left); load_tile<1>(right); mul<0, 1, 0>(); store_tile<0>(out); });
}
// q = a y, y = 1 / b, then one correction q += (a - q b) y, except where b is zero or infinite and that would be NaN.
template <bool, BinaryOp, int BLOCKS, bool>
KERNEL void calculate_sfpu_binary_div(const std::uint32_t left, const std::uint32_t right, const std::uint32_t out) {
    using namespace lanes;
    rows<BLOCKS>([=] {
        load_tile<0>(right);
        load_tile<4>(left);
        reciprocal<0, 1, 2, 3>();  // LREG0 = -b
        mul<4, 1, 5>();
        magnitude<1, 2>();
        load_bits<3, 0x7f800000>();
        int_rsub<2, 3>();
        if_negative<3>();  // y is finite
        if_not_zero<2>();
        mad<5, 0, 4, 2>();
        mad<2, 1, 5, 5>();
        end_if();
        store_tile<5>(out);
    });
}
template <bool, BinaryOp> IN_LANES void sfpu_binary_init() {}

template <bool MAXIMUM = true, int BLOCKS = 8>
KERNEL void calculate_binary_max_min(const std::uint32_t left, const std::uint32_t right, const std::uint32_t out) {
    using namespace lanes;
    rows<BLOCKS>([=] {
        load_tile<0>(left);
        load_tile<1>(right);
        sort<0, 1>();
        store_tile<MAXIMUM ? 1 : 0>(out);
    });
}
template <bool = true> IN_LANES void binary_max_min_init() {}

// where(c, a, b) = a where c is not zero (either zero), else b
template <bool, DataFormat, int BLOCKS>
KERNEL void _calculate_where_(const std::uint32_t condition, const std::uint32_t yes, const std::uint32_t no,
                              const std::uint32_t out) {
    using namespace lanes;
    rows<BLOCKS>([=] {
        load_tile<0>(condition);
        load_tile<1>(yes);
        load_tile<2>(no);
        magnitude<0, 0>();
        if_zero<0>();
        move<2, 1>();
        end_if();
        store_tile<1>(out);
    });
}
template <bool> IN_LANES void _init_where_() {}

template <DataFormat, bool, int BLOCKS = 8>
KERNEL void copy_dest_value(const std::uint32_t from, const std::uint32_t to, const std::uint32_t) {
    using namespace lanes;
    rows<BLOCKS>([=] { load_tile<0>(from); store_tile<0>(to); });
}
template <bool, int BLOCKS = 8> void copy_dest_value(const std::uint32_t, const std::uint32_t, const std::uint32_t);
IN_LANES void copy_dest_value_init() {}
}  // namespace ckernel::sfpu
