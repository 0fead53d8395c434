// To whole numbers.
#pragma once
#include "api/compute/common_globals.h"

namespace ckernel {

ALWI void rounding_op_tile_init() { emulation::sfpu_setup("rounding_op_tile_init"); }

ALWI void ceil_tile(uint32_t idst) {
    emulation::sfpu_unary("ceil_tile", "rounding_op_tile_init", emulation::CEIL, idst);
}

ALWI void floor_tile(uint32_t idst) {
    emulation::sfpu_unary("floor_tile", "rounding_op_tile_init", emulation::FLOOR, idst);
}

ALWI void trunc_tile(uint32_t idst) {
    emulation::sfpu_unary("trunc_tile", "rounding_op_tile_init", emulation::TRUNC, idst);
}

ALWI void frac_tile(uint32_t idst) {
    emulation::sfpu_unary("frac_tile", "rounding_op_tile_init", emulation::FRAC, idst);
}

}  // namespace ckernel
