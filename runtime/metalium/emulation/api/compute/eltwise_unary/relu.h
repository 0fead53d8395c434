// Rectifiers.
#pragma once
#include "api/compute/common_globals.h"

namespace ckernel {

ALWI void relu_tile_init() { emulation::sfpu_setup("relu_tile_init"); }
ALWI void relu_tile(uint32_t idst) { emulation::sfpu_unary("relu_tile", "relu_tile_init", emulation::RELU, idst); }

ALWI void relu_min_tile_init() { emulation::sfpu_setup("relu_min_tile_init"); }
ALWI void relu_min_tile(uint32_t idst, uint32_t param0) {
    emulation::sfpu_unary("relu_min_tile", "relu_min_tile_init", emulation::RELU_MIN, idst, param0);
}

ALWI void relu_max_tile_init() { emulation::sfpu_setup("relu_max_tile_init"); }
ALWI void relu_max_tile(uint32_t idst, uint32_t param0) {
    emulation::sfpu_unary("relu_max_tile", "relu_max_tile_init", emulation::RELU_MAX, idst, param0);
}

ALWI void leaky_relu_tile_init() { emulation::sfpu_setup("leaky_relu_tile_init"); }
ALWI void leaky_relu_tile(uint32_t idst, uint32_t slope) {
    emulation::sfpu_unary("leaky_relu_tile", "leaky_relu_tile_init", emulation::LEAKY_RELU, idst, slope);
}

}  // namespace ckernel
