// exp(x).
#pragma once
#include "api/compute/common_globals.h"

namespace ckernel {

enum class InputClamping : uint8_t { ClampToNegative = 1, None = 0 };

template <bool approx = false, uint32_t scale = 0x3F800000,
          InputClamping input_clamping = InputClamping::ClampToNegative, bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void exp_tile_init() {
    static_assert(scale == 0x3F800000, "a scale inside exp is not emulated");
    emulation::sfpu_setup("exp_tile_init", approx);
}
template <bool approx = false, bool scale_en = false, InputClamping input_clamping = InputClamping::ClampToNegative,
          int iterations = 8, bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void exp_tile(uint32_t idst, VectorMode = VectorMode::RC, uint16_t = 0x3F80) {
    static_assert(!scale_en && iterations == 8, "a scale inside exp and parts of a tile are not emulated");
    emulation::sfpu_unary("exp_tile", "exp_tile_init", emulation::EXP, idst, 0, approx);
}

}  // namespace ckernel
