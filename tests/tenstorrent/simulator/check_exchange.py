"""Four cores: each reads its row from DRAM, hands it to the others, and writes all four rows back; then state in L1.

Output: one line of JSON (a script for the environment's private Python). Three ways of handing over: a write to each
core, one write to all (multicast), and reading the others' memory; each is announced by a semaphore.
"""

import json

import numpy as np
import ttnn
from programs import Device, accessors, back, buffer, grid, kernel

EXCHANGE = """
#include <stdint.h>
#include "api/dataflow/dataflow_api.h"
constexpr uint32_t ROW = 128, CORES = 4;
inline uint32_t x(uint32_t core) { return get_arg_val<uint32_t>(3 + 2 * core); }
inline uint32_t y(uint32_t core) { return get_arg_val<uint32_t>(4 + 2 * core); }
void kernel_main() {
    constexpr auto from_args = TensorAccessorArgs<0>();
    constexpr auto to_args = TensorAccessorArgs<from_args.next_compile_time_args_offset()>();
    const auto from = TensorAccessor(from_args, get_arg_val<uint32_t>(0), ROW);
    const auto to = TensorAccessor(to_args, get_arg_val<uint32_t>(1), ROW * CORES);
    const uint32_t me = get_arg_val<uint32_t>(2);
    const uint32_t rows = get_write_ptr(5), mine = rows + ROW * me, semaphore = get_semaphore(0);
    volatile tt_l1_ptr uint32_t* arrived = (volatile tt_l1_ptr uint32_t*)semaphore;
    noc_async_read_page(me, from, mine);
    noc_async_read_barrier();
#ifdef MULTICAST
    noc_async_write_multicast_loopback_src(mine, get_noc_multicast_addr(x(0), y(0), x(3), y(3), mine), ROW, CORES);
    noc_async_write_barrier();
#endif
#ifdef WRITE
    for (uint32_t i = 0; i < CORES; i++)
        if (i != me) noc_async_write(mine, get_noc_addr(x(i), y(i), mine), ROW);
    noc_async_write_barrier();
#endif
    for (uint32_t i = 0; i < CORES; i++)
        if (i != me) noc_semaphore_inc(get_noc_addr(x(i), y(i), semaphore), 1);
    noc_async_atomic_barrier();
    noc_semaphore_wait_min(arrived, CORES - 1);
#ifdef READ
    for (uint32_t i = 0; i < CORES; i++)
        if (i != me) noc_async_read(get_noc_addr(x(i), y(i), rows + ROW * i), rows + ROW * i, ROW);
    noc_async_read_barrier();
#endif
    noc_async_write_page(me, to, rows);
    noc_async_write_barrier();
}
"""
NEGATE = """
#include <stdint.h>
#include "api/dataflow/dataflow_api.h"
void kernel_main() {
    volatile tt_l1_ptr uint32_t* p = (volatile tt_l1_ptr uint32_t*)get_arg_val<uint32_t>(0);
    for (uint32_t i = 0; i < 2 * 64; i++) p[i] ^= 0x80000000u;
}
"""
PLACES = [(0, 0), (1, 0), (0, 1), (1, 1)]


def exchange(device, how):
    cores = grid(2, 2)
    rows = np.random.default_rng(0).standard_normal((1, 1, 4, 32)).astype(np.float32)
    given, taken = device.rows(rows), device.rows(np.zeros((1, 1, 4, 128), np.float32))
    on_network = [device.device.worker_core_from_logical_core(ttnn.CoreCoord(*place)) for place in PLACES]
    addresses = [given.buffer_address(), taken.buffer_address()]

    def arguments(core):
        return [*addresses, PLACES.index((core.x, core.y)), *(v for c in on_network for v in (c.x, c.y))]

    device.launch(
        [
            kernel(
                EXCHANGE,
                ttnn.ReaderConfigDescriptor(),
                accessors(given, taken),
                cores=cores,
                each=arguments,
                defines=[(how, "1")],
            )
        ],
        [buffer(5, 1, cores=cores)],
        [given, taken],
        [ttnn.SemaphoreDescriptor(id=0, core_ranges=cores, initial_value=0)],
    )
    return bool(np.array_equal(back(taken).reshape(4, 128), np.tile(rows.reshape(1, 128), (4, 1))))


def state_in_l1(device):
    """One shard of a tensor on each of four cores, changed in place by two programs in a row."""
    cores = grid(2, 2)
    shards = ttnn.ShardSpec(cores, [2, 64], ttnn.ShardOrientation.ROW_MAJOR)
    memory = ttnn.MemoryConfig(ttnn.TensorMemoryLayout.HEIGHT_SHARDED, ttnn.BufferType.L1, shards)
    first, second = np.random.default_rng(1).standard_normal((2, 1, 1, 8, 64)).astype(np.float32)
    state = ttnn.Tensor(first, ttnn.float32, device.device, ttnn.ROW_MAJOR_LAYOUT, memory)
    seen = []
    for _ in range(2):
        device.launch(
            [kernel(NEGATE, ttnn.ReaderConfigDescriptor(), arguments=[state.buffer_address()], cores=cores)],
            [buffer(5, 1, cores=cores)],
            [state, state],
        )
        seen.append(back(state))
    ttnn.copy_host_to_device_tensor(ttnn.Tensor(second, ttnn.float32), state)
    return np.array_equal(seen[0], -first) and np.array_equal(seen[1], first) and np.array_equal(back(state), second)


if __name__ == "__main__":
    with Device() as device:
        found = {how: exchange(device, how) for how in ("WRITE", "MULTICAST", "READ")}
        print(json.dumps({**found, "state": bool(state_in_l1(device))}))
