// A tile from one destination register to another.
#pragma once
#include "api/compute/common_globals.h"

namespace ckernel {

ALWI void copy_dest_values_init() { emulation::sfpu_setup("copy_dest_values_init"); }
template <DataFormat DATA_FORMAT>
ALWI void copy_dest_values(uint32_t idst_in, uint32_t idst_out) {
    emulation::sfpu_copy(idst_in, idst_out);
}

}  // namespace ckernel
