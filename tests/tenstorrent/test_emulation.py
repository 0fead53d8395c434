"""The emulated card's arithmetic and movement, by kernels whose results are known."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cdrmix.runtime.metalium import emulated as ttnn

from .agree import needs_compiler
from .emulated_programs import BF16, F32, PACK, Cb, Options, compute, launch, run

pytestmark = needs_compiler

IN = "cb_wait_front(0, 1);"
TWO = "cb_wait_front(0, 1); cb_wait_front(1, 1);"
POP = "cb_pop_front(0, 1);"
POP_TWO = "cb_pop_front(0, 1); cb_pop_front(1, 1);"
START = "if (n == 0) compute_kernel_hw_startup(0, 16);"
START_TWO = "if (n == 0) compute_kernel_hw_startup(0, 1, 16);"


def draw(seed: int, tiles: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((tiles * 32, 32)).astype(np.float32)


def bits(x: np.ndarray, dropped: int) -> np.ndarray:
    """The number without its low bits."""
    return (np.ascontiguousarray(x, np.float32).view(np.uint32) >> dropped << dropped).view(np.float32)


def sfpu(operation: str) -> str:
    """A kernel of functions of DST tile 0, whose operand comes with all bits."""
    return compute(
        f"{START} {IN} tile_regs_acquire(); copy_init(0); copy_tile(0, 0, 0); {operation}"
        f"tile_regs_commit(); {POP} {PACK}"
    )


UNARY: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "exp_tile": ("exp_tile_init", np.exp),
    "recip_tile": ("recip_tile_init", lambda x: 1 / x),
    "sigmoid_tile": ("sigmoid_tile_init", lambda x: 1 / (1 + np.exp(-x))),
    "tanh_tile": ("tanh_tile_init", np.tanh),
    "negative_tile": ("negative_tile_init", np.negative),
    "abs_tile": ("abs_tile_init", np.abs),
    "square_tile": ("square_tile_init", np.square),
    "floor_tile": ("rounding_op_tile_init", np.floor),
    "relu_tile": ("relu_tile_init", lambda x: np.maximum(x, 0)),
    "sign_tile": ("sign_tile_init", np.sign),
    "sin_tile": ("sin_tile_init", np.sin),
    "nez_tile": ("nez_tile_init", lambda x: (x != 0).astype(np.float32)),
}


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_a_tile(name: str) -> None:
    init, function = UNARY[name]
    x = draw(1)
    np.testing.assert_allclose(run(sfpu(f"{init}(); {name}(0);"), [x]), function(x), rtol=2e-6, atol=1e-6)


BINARY = {
    "add_binary_tile": np.add,
    "sub_binary_tile": np.subtract,
    "mul_binary_tile": np.multiply,
    "div_binary_tile": np.divide,
    "binary_max_tile": np.maximum,
    "lt_binary_tile": np.less,
}


@pytest.mark.parametrize("name", BINARY)
def test_functions_of_two_tiles(name: str) -> None:
    a, b = draw(1), draw(2)
    body = (
        f"{START} {TWO} tile_regs_acquire(); copy_init(0); copy_tile(0, 0, 0); copy_tile(1, 0, 1);"
        f"{name}_init(); {name}(0, 1, 0); tile_regs_commit(); {POP_TWO} {PACK}"
    )
    assert np.array_equal(run(compute(body), [a, b]), BINARY[name](a, b).astype(np.float32))


@pytest.mark.parametrize("which", ["row", "col"])
def test_broadcast_of_a_vector_reads_only_what_the_device_reads(which: str) -> None:
    """Row 0, or column 0, in the order of faces."""
    a, b = draw(1, 1), draw(2, 1)
    body = (
        f"{START} {TWO} tile_regs_acquire(); copy_init(0); copy_tile(0, 0, 0); copy_tile(1, 0, 1);"
        f"sfpu_bcast_{which}_init(); sfpu_mul_bcast_{which}(0, 1); tile_regs_commit(); {POP_TWO} {PACK}"
    )
    vector = b[:1] if which == "row" else b[:, :1]
    assert np.array_equal(run(compute(body), [a, b]), a * vector)
    if which == "col":  # but for the even columns of the left face, which are multiplied by zero: Inf becomes NaN
        b[4, 14], b[5, 15], b[6, 16] = np.inf, np.inf, np.inf
        assert np.isnan(run(compute(body), [a, b])).any(1).nonzero()[0].tolist() == [4]


MATMUL = f"""if (n == 0) {{ compute_kernel_hw_startup<SrcOrder::Reverse>(0, 1, 16); matmul_init(0, 1, TRANSPOSED); }}
{TWO} tile_regs_acquire(); matmul_tiles(0, 1, 0, 0, 0); tile_regs_commit(); {POP_TWO} {PACK}"""


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [F32, BF16], ids=["f32", "bf16"])
def test_matrix_product(dtype: Any, transposed: bool) -> None:
    """in0 keeps 10 explicit bits of an f32, in1 9; bf16 is exact; sums are cut to what the unit's lanes hold."""
    a, b = draw(1, 1), draw(2, 1)
    cbs = [Cb(0, dtype), Cb(1, dtype), Cb(16)]
    found = run(compute(MATMUL), [a, b], cbs, Options(defines={"TRANSPOSED": str(int(transposed))}), dtype=dtype)
    if dtype is BF16:
        a, b = (ttnn.Tensor(x, BF16).to_numpy() for x in (a, b))
    right = bits(b, 14).T if transposed else bits(b, 14)
    wanted = bits(a, 13).astype(np.float64) @ right
    assert np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2)) < 1e-3


# each output a sum over all tiles of in0 and in1, paired differently
SUMS = f"""if (n == 0) {{
    compute_kernel_hw_startup<SrcOrder::Reverse>(0, 1, 16);
    matmul_init(0, 1);
    cb_wait_front(0, TILES);
    cb_wait_front(1, TILES);
}}
tile_regs_acquire();
for (uint32_t k = 0; k < TILES; k++) matmul_tiles(0, 1, k, (k + n) % TILES, 0);
tile_regs_commit(); {PACK}
if (n + 1 == TILES) {{ cb_pop_front(0, TILES); cb_pop_front(1, TILES); }}"""

# add, subtract, multiply, and a row times all rows
ELEMENTS = f"""if (n == 0) compute_kernel_hw_startup(0, 1, 16);
{TWO} tile_regs_acquire();
if (n == 0) {{ add_init(0, 1); add_tiles(0, 1, 0, 0, 0); }}
if (n == 1) {{ sub_init(0, 1); sub_tiles(0, 1, 0, 0, 0); }}
if (n == 2) {{ mul_init(0, 1); mul_tiles(0, 1, 0, 0, 0); }}
if (n == 3) {{ mul_bcast_rows_init(0, 1); mul_tiles_bcast_rows(0, 1, 0, 0, 0); }}
tile_regs_commit(); {POP_TWO} {PACK}"""

SIMULATED = {
    ("sums", F32, True): "6b4a1e7add07d787",
    ("sums", BF16, True): "9b4dff3899dc0148",
    ("sums", BF16, False): "705fddf60fdddd1e",
    ("elements", F32, True): "c672366bef39325a",
    ("elements", BF16, True): "0e4d8fa90a2eb877",
}
"""What ttsim, Tenstorrent's simulator of a Wormhole, makes of the same kernels: sha256 of the result as f32."""


def hashed(which: str, dtype: Any, fp32: bool) -> str:
    kernel = compute({"sums": SUMS, "elements": ELEMENTS}[which])
    cbs = [Cb(0, dtype, 4), Cb(1, dtype, 4), Cb(16, dtype)]
    found = run(kernel, [draw(1, 4), draw(2, 4)], cbs, Options(fp32=fp32), dtype=dtype, out=dtype)
    return hashlib.sha256(np.ascontiguousarray(found, np.float32).tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("case", SIMULATED, ids=lambda case: f"{case[0]}-{case[1].name}-{case[2]}")
def test_the_matrix_unit_agrees_with_the_simulator_bit_by_bit(case: tuple[str, Any, bool]) -> None:
    assert hashed(*case) == SIMULATED[case]


@pytest.mark.parametrize("what, numpy", [("add", np.add), ("sub", np.subtract), ("mul", np.multiply)])
def test_elementwise_on_the_fpu(what: str, numpy: np.ufunc) -> None:
    """Sums and differences have eleven bits."""
    a, b = draw(1), draw(2)
    body = (
        f"{START_TWO} {TWO} tile_regs_acquire(); {what}_init(0, 1); {what}_tiles(0, 1, 0, 0, 0);"
        f"tile_regs_commit(); {POP_TWO} {PACK}"
    )
    found = run(compute(body), [a, b], [Cb(0), Cb(1), Cb(16)])
    kept = (14, 13) if what == "mul" else (13, 13)
    wanted = numpy(bits(a, kept[0]), bits(b, kept[1]))
    assert np.abs(found - wanted).max() <= (0 if what == "mul" else 2**-10 * np.abs(wanted).max())


@pytest.mark.parametrize("what, along, axis", [("SUM", "ROW", 1), ("SUM", "COL", 0), ("MAX", "ROW", 1)])
def test_reductions(what: str, along: str, axis: int) -> None:
    a = bits(draw(1, 1), 16)
    args = f"PoolType::{what}, ReduceDim::REDUCE_{along}"
    order = "1, 0" if (what, along) == ("SUM", "ROW") else "0, 1"
    body = (
        f"compute_kernel_hw_startup({order}, 16); {TWO} tile_regs_acquire(); reduce_init<{args}>(0, 1, 16);"
        f"reduce_tile<{args}>(0, 1, 0, 0, 0); reduce_uninit(); tile_regs_commit(); {POP_TWO} {PACK}"
    )
    found = run(compute(body), [a, np.ones_like(a)], [Cb(0), Cb(1), Cb(16)])
    wanted = a.sum(axis) if what == "SUM" else a.max(axis)
    np.testing.assert_allclose(found[:, 0] if axis else found[0], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("direct", [True, False])
def test_only_unpack_to_dest_keeps_all_bits(direct: bool) -> None:
    x = draw(1)
    found = run(sfpu(""), [x], [Cb(0, direct=direct), Cb(16)])
    assert np.array_equal(found, x if direct else bits(x, 13))


def test_the_packer_rounds_ties_away_from_zero() -> None:
    x = draw(1)
    x[0, :2] = 1 + 2**-8, -1 - 2**-8
    found = run(sfpu(""), [x], [Cb(0, direct=True), Cb(16, BF16)], out=BF16)
    wanted = ttnn.Tensor(x, BF16).to_numpy()  # the host rounds ties to even
    wanted[0, :2] = 1 + 2**-7, -1 - 2**-7
    assert np.array_equal(found, wanted)


def test_transposition() -> None:
    x = draw(1, 1)
    body = f"{START} {IN} tile_regs_acquire(); transpose_init(0); transpose_tile(0, 0, 0); tile_regs_commit();"
    assert np.array_equal(run(compute(f"{body} {POP} {PACK}"), [x]), x.T)


def test_denormals_are_zeros() -> None:
    x = np.full((32, 32), 1e-39, np.float32)
    assert np.array_equal(
        run(sfpu("binop_with_scalar_tile_init(); mul_unary_tile(0, 0x7149f2ca);"), [x]), np.zeros((32, 32))
    )


# --- movement --------------------------------------------------------------------------------------------------------
GATHER = """
#include "api/core_local_mem.h"
#include "api/dataflow/dataflow_api.h"
void kernel_main() {
    const uint32_t state = get_arg_val<uint32_t>(0), cores = get_arg_val<uint32_t>(1);
    const uint32_t core = get_arg_val<uint32_t>(2 + 2 * CORES);
    const uint32_t sem = get_semaphore(0), room = get_write_ptr(0);
    const auto place = [](uint32_t n, uint32_t address) {
        return get_noc_addr(get_arg_val<uint32_t>(2 + 2 * n), get_arg_val<uint32_t>(3 + 2 * n), address);
    };
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        for (uint32_t n = 0; n < cores; n++) noc_async_write(state, place(n, room + 64 * core), 64);
        noc_async_write_barrier();
        for (uint32_t n = 0; n < cores; n++) noc_semaphore_inc(place(n, sem), 1);
        noc_async_atomic_barrier();
        noc_semaphore_wait_min(CoreLocalMem<volatile uint32_t>(sem).get_unsafe_ptr(), (2 * round - 1) * cores);
        volatile tt_l1_ptr uint32_t* sum = CoreLocalMem<volatile uint32_t>(state).get_unsafe_ptr();
        volatile tt_l1_ptr uint32_t* in = CoreLocalMem<volatile uint32_t>(room).get_unsafe_ptr();
        uint32_t total = 0;
        for (uint32_t n = 0; n < cores; n++) total += in[16 * n];
        for (uint32_t n = 0; n < cores; n++) noc_semaphore_inc(place(n, sem), 1);
        noc_async_atomic_barrier();
        noc_semaphore_wait_min(CoreLocalMem<volatile uint32_t>(sem).get_unsafe_ptr(), 2 * round * cores);
        sum[0] = total + core;
    }
}
"""


def gather(cores: tuple[int, int], seed: int, kernel: str = GATHER, board: str = "n150") -> np.ndarray:
    """Rounds in which every core adds up everyone's number; the numbers at the end."""
    count = cores[0] * cores[1]
    device = ttnn.open_device(board=board, seed=seed, run_length=seed % 3)
    try:
        where = ttnn.CoreRangeSet([ttnn.CoreRange(ttnn.CoreCoord(0, 0), ttnn.CoreCoord(cores[0] - 1, cores[1] - 1))])
        shard = ttnn.ShardSpec(where, [1, 16], ttnn.ShardOrientation.ROW_MAJOR)
        memory = ttnn.MemoryConfig(ttnn.TensorMemoryLayout.HEIGHT_SHARDED, ttnn.BufferType.L1, shard)
        start = np.arange(count * 16, dtype=np.int32).reshape(count, 16)
        state = ttnn.Tensor(start, ttnn.int32, device, ttnn.ROW_MAJOR_LAYOUT, memory)
        places = [device.worker_core_from_logical_core(core) for core in where]
        args = [state.buffer_address(), count, *(c for p in places for c in (p.x, p.y))]
        options = Options(cores, semaphores=1, defines={"ROUNDS": "3", "CORES": str(count)})
        launch(
            device,
            [state, state],
            {"writer": kernel},
            [Cb(0, pages=1, page_bytes=64 * count)],
            {"writer": args},
            options,
        )
        found: np.ndarray = state.cpu().to_numpy()[:, 0]
        return found
    finally:
        ttnn.close_device(device)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("cores, board", [((2, 2), "n150"), ((8, 8), "n150"), ((13, 2), "p150")])
def test_cores_meet_whatever_their_turns(cores: tuple[int, int], board: str, seed: int) -> None:
    count = cores[0] * cores[1]
    wanted = np.arange(count, dtype=np.int32) * 16
    for _ in range(3):
        wanted = wanted.sum(dtype=np.int32) + np.arange(count, dtype=np.int32)
    assert np.array_equal(gather(cores, seed, board=board), wanted)


MULTICAST = """
#include "api/dataflow/dataflow_api.h"
void kernel_main() {
    if (get_arg_val<uint32_t>(5) == 0) {
        const uint32_t state = get_arg_val<uint32_t>(0);
        const uint64_t all = get_noc_multicast_addr(get_arg_val<uint32_t>(1), get_arg_val<uint32_t>(2),
                                                    get_arg_val<uint32_t>(3), get_arg_val<uint32_t>(4), state);
        noc_async_write_multicast(state, all, 64, RECEIVERS);
        noc_async_write_barrier();
    }
}
"""


def multicast(role: str = "reader", receivers: int = 3) -> np.ndarray:
    """Core 0's 16 numbers to all of 2x2 cores."""
    device = ttnn.open_device()
    try:
        where = ttnn.CoreRangeSet([ttnn.CoreRange(ttnn.CoreCoord(0, 0), ttnn.CoreCoord(1, 1))])
        shard = ttnn.ShardSpec(where, [1, 16], ttnn.ShardOrientation.ROW_MAJOR)
        memory = ttnn.MemoryConfig(ttnn.TensorMemoryLayout.HEIGHT_SHARDED, ttnn.BufferType.L1, shard)
        state = ttnn.Tensor(
            np.arange(64, dtype=np.int32).reshape(4, 16), ttnn.int32, device, ttnn.ROW_MAJOR_LAYOUT, memory
        )
        first, last = (device.worker_core_from_logical_core(ttnn.CoreCoord(n, n)) for n in (0, 1))
        args = [state.buffer_address(), first.x, first.y, last.x, last.y]
        options = Options((2, 2), defines={"RECEIVERS": str(receivers)})
        launch(device, [state, state], {role: MULTICAST}, [], {role: args}, options)
        found: np.ndarray = state.cpu().to_numpy()
        return found
    finally:
        ttnn.close_device(device)


def test_multicast() -> None:
    assert np.array_equal(multicast(), np.tile(np.arange(16), (4, 1)))


def test_tensors_come_back_as_they_went() -> None:
    device = ttnn.open_device()
    rng = np.random.default_rng(0)
    for shape, layout in (
        ((3, 20), ttnn.ROW_MAJOR_LAYOUT),
        ((2, 40, 50), ttnn.TILE_LAYOUT),
        ((29, 16), ttnn.ROW_MAJOR_LAYOUT),
    ):
        x = rng.standard_normal(shape).astype(np.float32)
        assert np.array_equal(ttnn.Tensor(x, F32, device, layout).cpu().to_numpy(), x)
        half = ttnn.Tensor(x, BF16, device, layout).cpu().to_numpy()
        assert np.array_equal(half, ttnn.Tensor(x, BF16).to_numpy()) and np.abs(half - x).max() < 0.02
    whole = np.arange(-5, 27, dtype=np.int32).reshape(2, 16)
    assert np.array_equal(ttnn.Tensor(whole, ttnn.int32, device).cpu().to_numpy(), whole)
    ttnn.close_device(device)


def test_memory_is_given_out_and_back() -> None:
    device = ttnn.open_device()
    a = ttnn.Tensor(np.zeros((4, 64)), F32, device)
    b = ttnn.Tensor(np.zeros((4, 64)), F32, device)
    first = a.buffer_address()
    assert first != b.buffer_address()
    ttnn.deallocate(a)
    assert ttnn.Tensor(np.zeros((4, 64)), F32, device).buffer_address() == first
    with pytest.raises(ttnn.EmulationError, match="deallocated"):
        a.cpu()
    ttnn.close_device(device)
