"""A tile matmul on the FPU: small integers (exact in every format), and what the multiplier keeps of an fp32 number.

Output: one line of JSON (a script for the environment's private Python).
"""

import json

import numpy as np
import ttnn
from programs import Device

SOURCE = """
#include <cstdint>
#include "api/compute/common.h"
#include "api/compute/tile_move_copy.h"
#include "api/compute/matmul.h"
#include "api/compute/compute_kernel_hw_startup.h"
void kernel_main() {
    compute_kernel_hw_startup<SrcOrder::Reverse>(0, 1, 16);
    matmul_init(0, 1, TRANSPOSE);
    tile_regs_acquire();
    for (uint32_t k = 0; k < TILES; k++) {
        cb_wait_front(0, 1);
        cb_wait_front(1, 1);
        matmul_tiles(0, 1, 0, 0, 0);
        cb_pop_front(0, 1);
        cb_pop_front(1, 1);
    }
    tile_regs_commit();
    tile_regs_wait();
    cb_reserve_back(16, 1);
    pack_tile(0, 16);
    cb_push_back(16, 1);
    tile_regs_release();
}
"""
TILES = 2


def product(device, a, b, transpose=0, dtype=ttnn.float32):
    source = SOURCE.replace("TRANSPOSE", str(transpose)).replace("TILES", str(TILES))
    return device.through(source, [a, b], TILES, 1, exact=False, dtype=dtype)


def dropped_bits(got, x):
    """How many low bits of x were cut off to make what came back, or -1."""
    for bits in range(24):
        mask = np.uint32(0xFFFFFFFF << bits & 0xFFFFFFFF)
        if np.array_equal(got, (x.view(np.uint32) & mask).view(np.float32)):
            return bits
    return -1


def check(device):
    rng = np.random.default_rng(0)
    a = rng.integers(-4, 5, (32, 32 * TILES)).astype(np.float32)
    b = rng.integers(-4, 5, (32 * TILES, 32)).astype(np.float32)
    across = np.concatenate([b[:32].T, b[32:].T], 0)  # each tile transposed
    x = rng.standard_normal((32, 32)).astype(np.float32)
    one, zero = np.eye(32, dtype=np.float32), np.zeros((32, 32), np.float32)
    return {
        "float32": bool(np.array_equal(product(device, a, b), a @ b)),
        "bfloat16": bool(np.array_equal(product(device, a, b, dtype=ttnn.bfloat16), a @ b)),
        "transposed": bool(np.array_equal(product(device, a, across, 1), a @ b)),
        "dropped_left": dropped_bits(product(device, np.hstack([x, zero]), np.vstack([one, zero])), x),
        "dropped_right": dropped_bits(product(device, np.hstack([one, zero]), np.vstack([x, zero])), x),
    }


if __name__ == "__main__":
    with Device() as device:
        print(json.dumps(check(device)))
