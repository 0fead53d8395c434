// The bits of each element and a mask.
#pragma once
#include "api/compute/common_globals.h"

namespace ckernel {

ALWI void bitwise_and_tile_init() { emulation::sfpu_setup("bitwise_and_tile_init"); }
template <DataFormat data_format>
ALWI void bitwise_and_tile(uint32_t idst, uint32_t param0) {
    emulation::sfpu_bits("bitwise_and_tile", "bitwise_and_tile_init", emulation::AND, idst, param0);
}

ALWI void bitwise_or_tile_init() { emulation::sfpu_setup("bitwise_or_tile_init"); }
template <DataFormat data_format>
ALWI void bitwise_or_tile(uint32_t idst, uint32_t param0) {
    emulation::sfpu_bits("bitwise_or_tile", "bitwise_or_tile_init", emulation::OR, idst, param0);
}

ALWI void bitwise_xor_tile_init() { emulation::sfpu_setup("bitwise_xor_tile_init"); }
template <DataFormat data_format>
ALWI void bitwise_xor_tile(uint32_t idst, uint32_t param0) {
    emulation::sfpu_bits("bitwise_xor_tile", "bitwise_xor_tile_init", emulation::XOR, idst, param0);
}

}  // namespace ckernel
