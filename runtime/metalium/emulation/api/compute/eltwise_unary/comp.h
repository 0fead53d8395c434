// Comparisons with a number, or with zero: 1 or 0.
#pragma once
#include "api/compute/common_globals.h"

namespace ckernel {

ALWI void unary_ne_tile_init() { emulation::sfpu_setup("unary_ne_tile_init"); }
ALWI void unary_ne_tile(uint32_t idst, uint32_t param0) {
    emulation::sfpu_unary("unary_ne_tile", "unary_ne_tile_init", emulation::NE_NUMBER, idst, param0);
}

ALWI void unary_eq_tile_init() { emulation::sfpu_setup("unary_eq_tile_init"); }
ALWI void unary_eq_tile(uint32_t idst, uint32_t param0) {
    emulation::sfpu_unary("unary_eq_tile", "unary_eq_tile_init", emulation::EQ_NUMBER, idst, param0);
}

ALWI void unary_gt_tile_init() { emulation::sfpu_setup("unary_gt_tile_init"); }
ALWI void unary_gt_tile(uint32_t idst, uint32_t param0) {
    emulation::sfpu_unary("unary_gt_tile", "unary_gt_tile_init", emulation::GT_NUMBER, idst, param0);
}

ALWI void unary_ge_tile_init() { emulation::sfpu_setup("unary_ge_tile_init"); }
ALWI void unary_ge_tile(uint32_t idst, uint32_t param0) {
    emulation::sfpu_unary("unary_ge_tile", "unary_ge_tile_init", emulation::GE_NUMBER, idst, param0);
}

ALWI void unary_lt_tile_init() { emulation::sfpu_setup("unary_lt_tile_init"); }
ALWI void unary_lt_tile(uint32_t idst, uint32_t param0) {
    emulation::sfpu_unary("unary_lt_tile", "unary_lt_tile_init", emulation::LT_NUMBER, idst, param0);
}

ALWI void unary_le_tile_init() { emulation::sfpu_setup("unary_le_tile_init"); }
ALWI void unary_le_tile(uint32_t idst, uint32_t param0) {
    emulation::sfpu_unary("unary_le_tile", "unary_le_tile_init", emulation::LE_NUMBER, idst, param0);
}

ALWI void gtz_tile_init() { emulation::sfpu_setup("gtz_tile_init"); }
ALWI void gtz_tile(uint32_t idst) { emulation::sfpu_unary("gtz_tile", "gtz_tile_init", emulation::GTZ, idst); }

ALWI void nez_tile_init() { emulation::sfpu_setup("nez_tile_init"); }
ALWI void nez_tile(uint32_t idst) { emulation::sfpu_unary("nez_tile", "nez_tile_init", emulation::NEZ, idst); }

ALWI void gez_tile_init() { emulation::sfpu_setup("gez_tile_init"); }
ALWI void gez_tile(uint32_t idst) { emulation::sfpu_unary("gez_tile", "gez_tile_init", emulation::GEZ, idst); }

ALWI void ltz_tile_init() { emulation::sfpu_setup("ltz_tile_init"); }
ALWI void ltz_tile(uint32_t idst) { emulation::sfpu_unary("ltz_tile", "ltz_tile_init", emulation::LTZ, idst); }

ALWI void eqz_tile_init() { emulation::sfpu_setup("eqz_tile_init"); }
ALWI void eqz_tile(uint32_t idst) { emulation::sfpu_unary("eqz_tile", "eqz_tile_init", emulation::EQZ, idst); }

ALWI void lez_tile_init() { emulation::sfpu_setup("lez_tile_init"); }
ALWI void lez_tile(uint32_t idst) { emulation::sfpu_unary("lez_tile", "lez_tile_init", emulation::LEZ, idst); }

}  // namespace ckernel
