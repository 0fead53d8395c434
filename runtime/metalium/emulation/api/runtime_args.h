// Runtime arguments and coordinates, for kernels of every role. (The real headers have them twice.)
#pragma once
#include <cstdint>

#include "api/compile_time_args.h"
#include "calls.h"

#define tt_l1_ptr
#define tt_reg_ptr

static FORCE_INLINE uintptr_t get_arg_addr(int arg_idx) {
    return reinterpret_cast<uintptr_t>(emulation::argument_at(arg_idx, false));
}
static FORCE_INLINE uintptr_t get_common_arg_addr(int arg_idx) {
    return reinterpret_cast<uintptr_t>(emulation::argument_at(arg_idx, true));
}

template <typename T>
FORCE_INLINE T get_arg_val(int arg_idx) {
    static_assert(sizeof(T) == 4, "Error: only 4B args are supported");
    return *reinterpret_cast<T*>(get_arg_addr(arg_idx));
}
template <typename T>
FORCE_INLINE T get_common_arg_val(int arg_idx) {
    static_assert(sizeof(T) == 4, "Error: only 4B args are supported");
    return *reinterpret_cast<T*>(get_common_arg_addr(arg_idx));
}

inline uint8_t get_absolute_logical_x() { return uint8_t(emulation::coordinate(0)); }
inline uint8_t get_absolute_logical_y() { return uint8_t(emulation::coordinate(1)); }
inline uint8_t get_relative_logical_x() { return uint8_t(emulation::coordinate(0)); }
inline uint8_t get_relative_logical_y() { return uint8_t(emulation::coordinate(1)); }

FORCE_INLINE void invalidate_l1_cache() { emulation::pause(); }

namespace tt {
enum CBIndex : std::uint8_t {
    c_0, c_1, c_2, c_3, c_4, c_5, c_6, c_7, c_8, c_9, c_10, c_11, c_12, c_13, c_14, c_15,
    c_16, c_17, c_18, c_19, c_20, c_21, c_22, c_23, c_24, c_25, c_26, c_27, c_28, c_29, c_30, c_31,
};
}

// Formats and page sizes of this program's circular buffers, as the host wrote them.
FORCE_INLINE constexpr std::int32_t get_tile_size(const std::int32_t operand) {
    return std::int32_t(EMULATED_CB_PAGE_BYTES[operand]);
}
FORCE_INLINE constexpr DataFormat get_dataformat(const std::int32_t operand) {
    return static_cast<DataFormat>(EMULATED_CB_FORMATS[operand]);
}
FORCE_INLINE constexpr uint32_t get_tile_hw(const std::int32_t) { return 1024; }
FORCE_INLINE constexpr uint32_t get_tile_num_faces(const std::int32_t) { return 4; }
