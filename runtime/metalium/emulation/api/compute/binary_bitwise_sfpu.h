// Bits of two tiles in destination registers.
#pragma once
#include "api/compute/common_globals.h"

namespace ckernel {

ALWI void binary_bitwise_tile_init() { emulation::sfpu_setup("binary_bitwise_tile_init"); }
template <DataFormat data_format>
ALWI void bitwise_and_binary_tile(uint32_t idst0, uint32_t idst1, uint32_t odst) {
    emulation::sfpu_pair_bits("bitwise_and_binary_tile", emulation::AND, idst0, idst1, odst);
}
template <DataFormat data_format>
ALWI void bitwise_or_binary_tile(uint32_t idst0, uint32_t idst1, uint32_t odst) {
    emulation::sfpu_pair_bits("bitwise_or_binary_tile", emulation::OR, idst0, idst1, odst);
}
template <DataFormat data_format>
ALWI void bitwise_xor_binary_tile(uint32_t idst0, uint32_t idst1, uint32_t odst) {
    emulation::sfpu_pair_bits("bitwise_xor_binary_tile", emulation::XOR, idst0, idst1, odst);
}

}  // namespace ckernel
