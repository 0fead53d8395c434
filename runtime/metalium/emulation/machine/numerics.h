// What the units of a Tensix core keep of a number. Found on two simulators, which agree bit for bit.
#pragma once
#include <cstdint>
#include <cstring>

#include "machine.h"

namespace emulation {

// The unpacker drops what TF32 has no room for: 10 explicit bits stay of an f32. bf16 passes whole.
inline uint32_t source_register(uint32_t word) { return word & 0xFFFFE000u; }

// To the nearest bf16, ties away from zero; what packer and 16-bit destination registers hold.
inline uint16_t to_bf16(uint32_t word) {
    if ((word & 0x7F800000u) == 0x7F800000u) return uint16_t(word >> 16 | ((word & 0x7FFFFFu) != 0) << 6);
    return uint16_t((word + 0x8000u) >> 16);
}
inline uint32_t from_bf16(uint16_t half) { return uint32_t(half) << 16; }

// Neither FPU nor SFPU knows denormals.
inline uint32_t flushed(uint32_t word) { return word & 0x7F800000u ? word : word & 0x80000000u; }

}  // namespace emulation
