"""Each mistake that the emulation knows, made by a kernel on purpose: it is an error, and says where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cdrmix.runtime.metalium import emulated as ttnn

from .agree import needs_compiler
from .emulated_programs import BF16, F32, PACK, READER, WRITER, Cb, Options, compute, launch, run
from .test_emulation import GATHER, POP, POP_TWO, START, START_TWO, TWO, gather, multicast

pytestmark = needs_compiler

BAD = Path(__file__).parent / "kernels_bad"
X = np.ones((32, 32), np.float32)
IN = "cb_wait_front(0, 1);"
ACQUIRE = "tile_regs_acquire();"
COPY = "copy_init(0); copy_tile(0, 0, 0);"
COMMIT = "tile_regs_commit();"
GOOD = f"{START} {IN} {ACQUIRE} {COPY} {COMMIT} {POP} {PACK}"

COMPUTE_MISTAKES = {
    "reserves too much": (f"{START} cb_reserve_back(16, 3);", r"cb_reserve_back\(16, 3\): it holds 2 pages"),
    "pushes unreserved": (f"{START} cb_push_back(16, 1);", r"cb_push_back\(16, 1\): 0 pages are reserved"),
    "packs unreserved": (
        f"{START} {IN} {ACQUIRE} {COPY} {COMMIT} tile_regs_wait(); pack_tile(0, 16);",
        "page 0 of CB 16 is packed, 0 are reserved",
    ),
    "packs past the reserved": (
        f"{START} {IN} {ACQUIRE} {COPY} {COMMIT} cb_reserve_back(16, 1); tile_regs_wait();"
        "pack_tile(0, 16); pack_tile(0, 16);",
        "page 1 of CB 16 is packed, 1 are reserved",
    ),
    "packs out of order past the reserved": (
        f"{START} {IN} {ACQUIRE} {COPY} {COMMIT} cb_reserve_back(16, 1); tile_regs_wait(); pack_tile<true>(0, 16, 1);",
        "page 1 of CB 16 is packed, 1 are reserved",
    ),
    "waits for too much": (f"{START} cb_wait_front(0, 3);", r"cb_wait_front\(0, 3\): it holds 2 pages"),
    "pops without waiting": (f"{START} cb_pop_front(0, 1);", r"cb_pop_front\(0, 1\): 0 pages were waited for"),
    "reads without waiting": (f"{START} {ACQUIRE} {COPY}", "tile 0 of CB 0 is read, 0 were waited for"),
    "reads past the waited": (
        f"{START} {IN} {ACQUIRE} copy_init(0); copy_tile(0, 1, 0);",
        "tile 1 of CB 0 is read, 1 were waited for",
    ),
    "a CB that is not there": (f"{START} cb_wait_front(5, 1);", "CB 5 is not in the program"),
    "operates outside acquire": (f"{START} {IN} {COPY}", "copy_tile outside tile_regs_acquire"),
    "acquires twice": (f"{START} {ACQUIRE} {ACQUIRE}", "tile_regs_acquire twice"),
    "packs before wait": (
        f"{START} {IN} {ACQUIRE} {COPY} {COMMIT} cb_reserve_back(16, 1); pack_tile(0, 16);",
        "pack_tile outside tile_regs_wait",
    ),
    "packs before commit": (
        f"{START} {IN} {ACQUIRE} {COPY} cb_reserve_back(16, 1); tile_regs_wait(); pack_tile(0, 16);",
        "tile_regs_wait: nothing is committed",
    ),
    "acquires a third half": (
        f"{START} {ACQUIRE} {COMMIT} {ACQUIRE} {COMMIT} {ACQUIRE}",
        "no half is free",
    ),
    "reads an unset register": (
        f"{START} {IN} {ACQUIRE} {COPY} add_binary_tile_init(); add_binary_tile(0, 1, 0);",
        "add_binary_tile reads DST tile 1, which is not set",
    ),
    "packs an unset register": (
        f"{START} {ACQUIRE} {COMMIT} cb_reserve_back(16, 1); {PACK.replace('cb_reserve_back(16, 1);', '')}",
        "pack_tile reads DST tile 0, which is not set",
    ),
    "a register past the fourth": (
        f"{START} {IN} {ACQUIRE} copy_init(0); copy_tile(0, 0, 4);",
        "DST tile 4, there are 4",
    ),
    "no startup": (f"{IN} {ACQUIRE} {COPY}", "copy_init before compute_kernel_hw_startup"),
    "no copy_init": (f"{START} {IN} {ACQUIRE} copy_tile(0, 0, 0);", "copy_tile without copy_init"),
    "no init of the SFPU": (f"{START} {IN} {ACQUIRE} {COPY} exp_tile(0);", "exp_tile without exp_tile_init"),
    "another operation's init": (
        f"{START} {IN} {ACQUIRE} {COPY} exp_tile_init(); recip_tile(0);",
        "recip_tile runs under exp_tile_init: it needs recip_tile_init",
    ),
    "another variant's init": (
        f"{START} {IN} {ACQUIRE} {COPY} exp_tile_init<true>(); exp_tile(0);",
        "exp_tile runs under a exp_tile_init with other template arguments",
    ),
    "another unpacker's init": (
        f"{START} {IN} {ACQUIRE} {COPY} transpose_init(0); copy_tile(0, 0, 0);",
        "copy_tile runs under transpose_init: it needs copy_init",
    ),
    "an FPU operand in UnpackToDestFp32 mode": (
        f"if (n == 0) compute_kernel_hw_startup(0, 0, 16); {IN} {ACQUIRE} add_init(0, 0); add_tiles(0, 0, 0, 0, 0);",
        "CB 0 is in UnpackToDestFp32 mode",
    ),
    "argument out of range": (f"{START} {IN} get_arg_val<uint32_t>(7);", "runtime argument 7, there are 1"),
}


@pytest.mark.parametrize("mistake", COMPUTE_MISTAKES)
def test_mistakes_of_compute_kernels(mistake: str) -> None:
    body, said = COMPUTE_MISTAKES[mistake]
    with pytest.raises(
        ttnn.EmulationError, match=f"(?s)core \\(0, 0\\), compute kernel inline, inline:\\d+.*: .*{said}"
    ):
        run(compute(body), [X])


def test_registers_are_released_before_the_end() -> None:
    body = GOOD.replace("tile_regs_release();", "")
    with pytest.raises(
        ttnn.EmulationError, match="compute kernel inline: ends with destination registers not released"
    ):
        run(compute(body), [X])


def test_the_kernel_beside_these_is_right() -> None:
    assert np.array_equal(run(compute(GOOD), [X]), X)


@pytest.mark.parametrize(
    "fp32, full_sync, tiles", [(True, False, 4), (True, True, 8), (False, False, 8), (False, True, 16)]
)
def test_how_many_registers_there_are(fp32: bool, full_sync: bool, tiles: int) -> None:
    copies = "copy_init(0); for (uint32_t d = 0; d < REACH; d++) copy_tile(0, 0, d);"
    body = f"{START} {IN} {ACQUIRE} {copies} {COMMIT} {POP} {PACK}"
    cbs = [Cb(0), Cb(16)]
    for reach in (tiles, tiles + 1):
        options = Options(fp32=fp32, full_sync=full_sync, defines={"REACH": str(reach)})
        if reach == tiles:
            run(compute(body), [X], cbs, options)
        else:
            with pytest.raises(ttnn.EmulationError, match=f"DST tile {tiles}, there are {tiles}"):
                run(compute(body), [X], cbs, options)


FORMATS = {
    "SrcA": (
        f"if (n == 0) compute_kernel_hw_startup(1, 16); {TWO} {ACQUIRE} {COPY}",
        r"SrcA is configured for Float16_b, CB 0 holds Float32: reconfig_data_format_srca\(0\) is missing",
    ),
    "SrcB": (
        f"if (n == 0) compute_kernel_hw_startup(0, 0, 16); {TWO} {ACQUIRE} add_init(0, 1); add_tiles(0, 1, 0, 0, 0);",
        r"SrcB is configured for Float32, CB 1 holds Float16_b: reconfig_data_format_srcb\(1\) is missing",
    ),
    "operands of a product come the other way round": (
        f"{START_TWO} {TWO} {ACQUIRE} matmul_init(0, 1); matmul_tiles(0, 1, 0, 0, 0);",
        "SrcA is configured for Float32, CB 1 holds Float16_b",
    ),
    "packer": (
        f"if (n == 0) compute_kernel_hw_startup(0, 1); {TWO} {ACQUIRE} {COPY} {COMMIT} {POP_TWO} {PACK}",
        r"the packer is configured for Float16_b, CB 16 holds Float32: pack_reconfig_data_format\(16\) is missing",
    ),
    "an old CB of the same format changes nothing": (
        f"if (n == 0) compute_kernel_hw_startup(1, 16); {TWO} {ACQUIRE} reconfig_data_format_srca(0, 0); {COPY}",
        "SrcA is configured for Float16_b",
    ),
    "an element that is in another mode": (
        f"{START_TWO} {TWO} {ACQUIRE} reconfig_data_format_srca(2); {COPY}",
        r"SrcA is configured for Float32 \(UnpackToDestFp32\), CB 0 holds Float32",
    ),
}


@pytest.mark.parametrize("which", FORMATS)
def test_formats_have_to_be_configured(which: str) -> None:
    body, said = FORMATS[which]
    cbs = [Cb(0), Cb(1, BF16), Cb(2, direct=True), Cb(16)]
    with pytest.raises(ttnn.EmulationError, match=said):
        run(compute(body), [X, X], cbs, reader=SIMPLE_READER.replace("CBS", "0, 1"))


SIMPLE_READER = """
#include "api/core_local_mem.h"
#include "api/dataflow/dataflow_api.h"
void kernel_main() {
    for (uint32_t cb : {CBS}) {
        cb_reserve_back(cb, 1);
        auto page = CoreLocalMem<volatile uint32_t>(get_write_ptr(cb)).get_unsafe_ptr();
        for (uint32_t n = 0; n < WORDS; n++) page[n] = 0x3f803f80;
        cb_push_back(cb, 1);
    }
}
""".replace("WORDS", "get_tile_size(cb) / 4")


def test_an_element_that_was_never_written() -> None:
    """Found where it is used, not where it is copied."""
    reader = SIMPLE_READER.replace("CBS", "0").replace("get_tile_size(cb) / 4", "300")
    square = f"{START} {IN} {ACQUIRE} {COPY} square_tile_init(); square_tile(0);"
    with pytest.raises(ttnn.EmulationError, match=r"square_tile: element \(2, 28\) of DST tile 0 was never written"):
        run(compute(square), [X], reader=reader)
    with pytest.raises(ttnn.EmulationError, match=r"pack_tile: element \(2, 28\) of DST tile 0 was never written"):
        run(compute(GOOD), [X], reader=reader)
    product = f"{START} {IN} {ACQUIRE} matmul_init(0, 0); matmul_tiles(0, 0, 0, 0, 0);"
    with pytest.raises(
        ttnn.EmulationError, match=r"matmul_tiles: element \(2, 28\) of a tile of CB 0 was never written"
    ):
        run(compute(product), [X], [Cb(0), Cb(16)], reader=reader)


# --- data movement ---------------------------------------------------------------------------------------------------
READ = "noc_async_read_page(n, in, get_write_ptr(CB));"
WRITE = "noc_async_write_page(n, out, get_read_ptr(16));"
BARRIER = "noc_async_read_barrier();"

READER_MISTAKES = {
    "pushes before the barrier": (
        BARRIER + "\n        cb_push_back(CB, 1);",
        f"cb_push_back(CB, 1); cb_reserve_back(CB, 2); {BARRIER}",
        r"compute kernel .* is under way on the NoC: noc_async_read_barrier is missing",
    ),
    "never waits": (BARRIER, "", r"reader kernel .* ends with 1 NoC reads not waited for|is under way"),
    "reads past the tensor": (READ, READ.replace("(n,", "(n + 12,"), "page 12 lies past the end of the tensor"),
    "reads past the page": (
        READ,
        "noc_async_read(in.get_noc_addr(n, 4096), get_write_ptr(CB), 64);",
        "outside the page",
    ),
    "misaligned in DRAM": (
        READ,
        "noc_async_read(in.get_noc_addr(n, 16), get_write_ptr(CB), 64);",
        "in DRAM and 0x[0-9a-f]+ in this core's L1 differ modulo 32",
    ),
    "outside its L1": (
        READ,
        "noc_async_read_page(n, in, get_write_ptr(CB) + 16384);",
        "of this core lies outside what is allocated",
    ),
    "pushes what it has not": ("cb_push_back(CB, 1);", "cb_push_back(CB, 2);", "1 pages are reserved"),
    "consumes another's pages": (READ, READ + "cb_wait_front(CB, 1);", "deadlock|race"),
    "produces another's pages": (
        READ,
        READ + "cb_reserve_back(16, 1);",
        "race, the (reader|compute) kernel is its producer already",
    ),
    "an argument too many": (READ, READ + "get_arg_val<uint32_t>(9);", "runtime argument 9, there are 3"),
    "a compile-time argument too many": (
        READ,
        "get_compile_time_arg_val(9);",
        "(?s)inline does not compile.*Index out of range",
    ),
    "casts an address": (
        READ,
        "*(volatile uint32_t*)get_write_ptr(CB) = 1;",
        "(?s)does not compile.*int-to-pointer-cast",
    ),
    "a pointer to nowhere": (READ, "*CoreLocalMem<volatile uint32_t>(64) = 1;", "L1 0x40 of this core lies outside"),
    "a pointer between words": (
        READ,
        "*CoreLocalMem<volatile uint32_t>(get_write_ptr(CB) + 2) = 1;",
        "is not a multiple of the 4 bytes",
    ),
    "an address as a pointer": (
        READ,
        "reinterpret_cast<volatile uint32_t*>(uintptr_t(4096))[0] = 1;",  # where nothing is ever mapped
        "reader kernel inline, inline:[0-9 <inle:]+: touches memory at 0x",
    ),
    "recurs for ever": (
        READ,
        "struct F { static uint32_t f(uint32_t n) { volatile char room[1000]; room[n % 1000] = 1;"
        "return n ? f(n + 1) + room[n % 7] : 0; } }; get_arg_val<uint32_t>(F::f(1));",
        "runs off its stack",
    ),
    "no such semaphore": (READ, "get_semaphore(0);", "semaphore 0 is not in the program"),
}


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("mistake", READER_MISTAKES)
def test_mistakes_of_readers(mistake: str, seed: int) -> None:
    right, wrong, said = READER_MISTAKES[mistake]
    reader = READER.replace(right, wrong)
    assert reader != READER
    reader = reader.replace('#include "api', '#include "api/core_local_mem.h"\n#include "api', 1)
    with pytest.raises(ttnn.EmulationError, match=said):
        run(compute(GOOD), [X], options=Options(seed=seed), reader=reader)


WRITER_MISTAKES = {
    "pops before the write has left": (
        "noc_async_write_barrier();\n        cb_pop_front(16, 1);",
        "cb_pop_front(16, 1); noc_async_write_barrier();",
        "the source of a NoC write .* was changed before the write had left",
    ),
    "never waits": ("noc_async_write_barrier();", "", "changed before|ends with 1 NoC writes not waited for"),
    "misaligned": (WRITE, "noc_async_write(get_read_ptr(16), out.get_noc_addr(n, 8), 64);", "differ modulo 16"),
    "leaves a page": ("cb_pop_front(16, 1);", "", "CB 16 ends with 1 pages pushed but never popped"),
    "waits for a page too many": (
        "cb_wait_front(16, 1);",
        "cb_wait_front(16, 2);",
        r"(?s)deadlock.*writer.*cb_wait_front\(16, 2\): 1 pages are there",
    ),
    "loops for ever": (WRITE, "volatile uint32_t never = 0; while (!never) {}", "loops without a call"),
}


@pytest.mark.parametrize("mistake", WRITER_MISTAKES)
def test_mistakes_of_writers(mistake: str) -> None:
    right, wrong, said = WRITER_MISTAKES[mistake]
    writer = WRITER.replace(right, wrong)
    assert writer != WRITER
    with pytest.raises(ttnn.EmulationError, match=said):
        run(compute(GOOD), [X], writer=writer)


def test_pages_that_nobody_produces() -> None:
    with pytest.raises(
        ttnn.EmulationError, match=r"(?s)deadlock, every kernel waits:.*compute.*cb_wait_front\(0, 1\): 0 pages"
    ):
        run(compute(GOOD), [X], reader="")


def test_pages_that_nobody_consumes() -> None:
    reader = SIMPLE_READER.replace("CBS", "0, 0, 0")
    with pytest.raises(
        ttnn.EmulationError, match=r"(?s)deadlock.*reader.*cb_reserve_back\(0, 1\): 0 of 2 pages are free"
    ):
        run("void kernel_main() {}", [X], reader=reader, writer="")


def test_a_batch_that_does_not_divide_the_buffer() -> None:
    """The pointers do not wrap inside a batch."""
    body = f"{START} cb_wait_front(0, 2); cb_pop_front(0, 2);"
    reader = """
    #include "api/dataflow/dataflow_api.h"
    void kernel_main() { for (int n = 0; n < 3; n++) { cb_reserve_back(0, 2); cb_push_back(0, 2); } }
    """
    with pytest.raises(ttnn.EmulationError, match="runs past the end"):
        run(compute(body), [np.ones((96, 32))], [Cb(0, pages=3), Cb(16)], reader=reader, writer="")


def test_two_kernels_of_a_role() -> None:
    device = ttnn.open_device()
    tensor = ttnn.Tensor(X, F32, device)
    one = ttnn.CoreRangeSet([ttnn.CoreRange(ttnn.CoreCoord(0, 0), ttnn.CoreCoord(0, 0))])
    kernel = ttnn.KernelDescriptor(str(BAD / "reads_too_far.cpp"), core_ranges=one)
    with pytest.raises(ttnn.EmulationError, match="two kernels of one role"):
        cbs = [cb.describe(one) for cb in (Cb(0), Cb(16))]
        ttnn.generic_op([tensor, tensor], ttnn.ProgramDescriptor(kernels=[kernel, kernel], cbs=cbs))
    ttnn.close_device(device)


def test_circular_buffers_and_tensors_share_l1() -> None:
    device = ttnn.open_device()
    one = ttnn.CoreRangeSet([ttnn.CoreRange(ttnn.CoreCoord(0, 0), ttnn.CoreCoord(0, 0))])
    shard = ttnn.ShardSpec(one, [1, 1 << 18], ttnn.ShardOrientation.ROW_MAJOR)
    memory = ttnn.MemoryConfig(ttnn.TensorMemoryLayout.HEIGHT_SHARDED, ttnn.BufferType.L1, shard)
    state = ttnn.Tensor(np.zeros((1, 1 << 18)), F32, device, ttnn.ROW_MAJOR_LAYOUT, memory)
    with pytest.raises(
        ttnn.EmulationError, match=r"L1 overflow on core \(0, 0\): circular buffers end at .* bytes past"
    ):
        launch(device, [state, state], {"writer": "void kernel_main() {}"}, [Cb(0, pages=100)], {})
    with pytest.raises(ttnn.EmulationError, match="L1 is full"):
        ttnn.Tensor(np.zeros((1, 1 << 18)), F32, device, ttnn.ROW_MAJOR_LAYOUT, memory)
    ttnn.close_device(device)


# --- cores -----------------------------------------------------------------------------------------------------------
GATHER_MISTAKES = {
    "nobody comes to the second meeting": (
        "2 * round * cores",
        "(2 * round + 7) * cores",
        r"(?s)deadlock, every kernel waits:.*semaphore at L1 0x8000 to be at least 36: it is \d+.*core \(1, 1\)",
    ),
    "leaves without its increments": ("noc_async_atomic_barrier();", "", "increments of semaphores not waited for"),
    "misaligned": ("room + 64 * core)", "room + 64 * core + 4)", "in L1 and .* in this core's L1 differ modulo 16"),
    "writes where nothing is": (
        "room + 64 * core)",
        "room + 64 * (core + 4))",
        r"of core \(\d, \d\) lies outside what is allocated",
    ),
    "a core that is not there": ("3 + 2 * n), address", "3 + 2 * n) + 30, address", "there is no core at"),
}


@pytest.mark.parametrize("mistake", GATHER_MISTAKES)
def test_mistakes_between_cores(mistake: str) -> None:
    right, wrong, said = GATHER_MISTAKES[mistake]
    assert right in GATHER
    with pytest.raises(ttnn.EmulationError, match=said):
        gather((2, 2), 1, GATHER.replace(right, wrong))


def test_a_meeting_left_out_shows_under_some_order_of_turns() -> None:
    """Without the second meeting a fast core's next number may overtake."""
    again = "for (uint32_t n = 0; n < cores; n++) noc_semaphore_inc(place(n, sem), 1);"
    start, _, end = GATHER.rpartition(again)
    racy = (start + end).replace(
        "noc_semaphore_wait_min(CoreLocalMem<volatile uint32_t>(sem).get_unsafe_ptr(), 2 * round * cores);", ""
    )
    racy = racy.replace("(2 * round - 1) * cores", "round * cores")
    right = gather((2, 2), 0)
    assert any(not np.array_equal(gather((2, 2), seed, racy), right) for seed in range(12))


def test_multicasts_count_their_receivers() -> None:
    with pytest.raises(ttnn.EmulationError, match="to 4 cores, the rectangle has 3"):
        multicast(receivers=4)
    with pytest.raises(ttnn.EmulationError, match="corners of the rectangle the wrong way round for NoC 1"):
        multicast("writer")


# --- where -----------------------------------------------------------------------------------------------------------
def test_errors_name_the_lines_of_all_calls() -> None:
    with pytest.raises(ttnn.EmulationError) as raised:
        run(str(BAD / "reads_too_far.cpp"), [X])
    assert str(raised.value) == (
        "core (0, 0), compute kernel kernels_bad/reads_too_far.cpp, kernels_bad/tiles.h:8 < "
        "kernels_bad/reads_too_far.cpp:9: tile 1 of CB 0 is read, 1 were waited for"
    )


def test_the_host_names_what_no_kernel_has_written() -> None:
    device = ttnn.open_device()
    out = ttnn.Tensor(np.zeros((1, 1024)), F32, device)
    writer = (
        WRITER.replace("cb_wait_front(16, 1);", "")
        .replace("get_read_ptr", "get_write_ptr")
        .replace("cb_pop_front(16, 1);", "")
    )
    launch(
        device,
        [out, out],
        {"writer": writer},
        [Cb(16)],
        {"writer": [1, out.buffer_address()]},
        accessors={"writer": [out]},
    )
    with pytest.raises(ttnn.EmulationError, match="no kernel has written"):
        out.cpu()
    ttnn.close_device(device)
