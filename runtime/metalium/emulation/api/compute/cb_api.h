// Circular buffers, seen from the unpacker and the packer.
#pragma once
#include "api/compute/common_globals.h"

namespace ckernel {

ALWI void cb_wait_front(uint32_t cbid, uint32_t ntiles) { emulation::cb_wait(cbid, ntiles); }
ALWI void cb_pop_front(uint32_t cbid, uint32_t ntiles) { emulation::cb_pop(cbid, ntiles); }
ALWI void cb_reserve_back(uint32_t cbid, uint32_t ntiles) { emulation::cb_reserve(cbid, ntiles); }
ALWI void cb_push_back(uint32_t cbid, uint32_t ntiles) { emulation::cb_push(cbid, ntiles); }

}  // namespace ckernel
