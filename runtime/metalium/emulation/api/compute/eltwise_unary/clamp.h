// Into an interval.
#pragma once
#include "api/compute/common_globals.h"

namespace ckernel {

ALWI void clamp_tile_init() { emulation::sfpu_setup("clamp_tile_init"); }
ALWI void clamp_tile(uint32_t idst, uint32_t param0, uint32_t param1) { emulation::sfpu_clamp(idst, param0, param1); }

}  // namespace ckernel
