// A library of a kernel: errors name its lines and the kernel's.
#pragma once
#include "api/compute/common.h"
#include "api/compute/tile_move_copy.h"

inline void copy_one(uint32_t cb, uint32_t tile) {
    copy_init(cb);
    copy_tile(cb, tile, 0);
}
