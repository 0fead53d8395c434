"""Small programs for the emulation, written in the tests: three kernels as text, tensors in, arrays out.

reader: the operands, tile by tile, into CBs 0, 1, …    compute: given    writer: CB 16 into the last tensor
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from cdrmix.runtime.metalium import emulated as ttnn
from cdrmix.runtime.metalium.emulation.descriptors import SourceType, VectorUnpackToDestMode

F32, BF16 = ttnn.float32, ttnn.bfloat16

READER = """
#include "api/dataflow/dataflow_api.h"
template <uint32_t CB, uint32_t OFFSET> inline void read(uint32_t tiles) {
    constexpr auto args = TensorAccessorArgs<OFFSET>();
    const auto in = TensorAccessor(args, get_arg_val<uint32_t>(1 + CB), get_tile_size(CB));
    for (uint32_t n = 0; n < tiles; n++) {
        cb_reserve_back(CB, 1);
        noc_async_read_page(n, in, get_write_ptr(CB));
        noc_async_read_barrier();
        cb_push_back(CB, 1);
    }
    if constexpr (CB + 1 < OPERANDS) read<CB + 1, args.next_compile_time_args_offset()>(tiles);
}
void kernel_main() { read<0, 0>(get_arg_val<uint32_t>(0)); }
"""

WRITER = """
#include "api/dataflow/dataflow_api.h"
void kernel_main() {
    constexpr auto args = TensorAccessorArgs<0>();
    const auto out = TensorAccessor(args, get_arg_val<uint32_t>(1), get_tile_size(16));
    for (uint32_t n = 0; n < get_arg_val<uint32_t>(0); n++) {
        cb_wait_front(16, 1);
        noc_async_write_page(n, out, get_read_ptr(16));
        noc_async_write_barrier();
        cb_pop_front(16, 1);
    }
}
"""

COMPUTE_HEADERS = "\n".join(
    f'#include "api/compute/{name}.h"'
    for name in (
        "common",
        "tile_move_copy",
        "matmul",
        "bcast",
        "reduce",
        "transpose",
        "eltwise_binary",
        "eltwise_binary_sfpu",
        "binary_max_min",
        "copy_dest_values",
        "sfpu_binary_bcast",
        "compute_kernel_api",
        *(
            f"eltwise_unary/{name}"
            for name in ("exp", "recip", "comp", "relu", "trigonometry", "negative", "rounding", "binop_with_scalar")
        ),
    )
)


def compute(body: str, before: str = "") -> str:
    """A compute kernel: `body` computes DST tile 0 from what has come, and that is packed."""
    return f"""{COMPUTE_HEADERS}
{before}
void kernel_main() {{
    for (uint32_t n = 0; n < TILES; n++) {{
        {body}
    }}
}}
"""


PACK = "cb_reserve_back(16, 1); tile_regs_wait(); pack_tile(0, 16); tile_regs_release(); cb_push_back(16, 1);"


@dataclass(frozen=True, slots=True)
class Cb:
    """A circular buffer of one program."""

    index: int
    dtype: Any = F32
    pages: int = 2
    direct: bool = False
    page_bytes: int = 0

    def describe(self, cores: Any) -> Any:
        """As ttnn takes it."""
        size = self.page_bytes or 1024 * self.dtype.bytes
        pages = ttnn.CBFormatDescriptor(buffer_index=self.index, data_format=self.dtype, page_size=size)
        return ttnn.CBDescriptor(total_size=self.pages * size, core_ranges=cores, format_descriptors=[pages])


@dataclass(frozen=True, slots=True)
class Options:
    """How a program is compiled and run."""

    cores: tuple[int, int] = (1, 1)
    fp32: bool = True
    full_sync: bool = False
    semaphores: int = 0
    seed: int = 1
    run_length: int = 0
    board: str = "n150"
    defines: Mapping[str, str] = field(default_factory=dict)


def grid(cores: tuple[int, int]) -> Any:
    """The first cores of the card."""
    corner = ttnn.CoreCoord(cores[0] - 1, cores[1] - 1)
    return ttnn.CoreRangeSet([ttnn.CoreRange(ttnn.CoreCoord(0, 0), corner)])


def accessor(tensor: Any) -> list[int]:
    """A tensor's description among compile-time arguments."""
    return list(ttnn.TensorAccessorArgs(tensor).get_compile_time_args())


def launch(
    device: Any,
    tensors: Sequence[Any],
    kernels: Mapping[str, str],
    cbs: Sequence[Cb],
    args: Mapping[str, Sequence[int]],
    options: Options = Options(),
    accessors: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    """Run kernels on a rectangle of cores; each kernel's runtime arguments end with the core's number."""
    where = grid(options.cores)
    config = ttnn.ComputeConfigDescriptor()
    config.fp32_dest_acc_en, config.dst_full_sync_en = options.fp32, options.full_sync
    modes = [ttnn.UnpackToDestMode.Default] * 32
    for cb in cbs:
        if cb.direct:
            modes[cb.index] = ttnn.UnpackToDestMode.UnpackToDestFp32
    config.unpack_to_dest_mode = VectorUnpackToDestMode(modes)
    configs = {"reader": ttnn.ReaderConfigDescriptor(), "writer": ttnn.WriterConfigDescriptor(), "compute": config}
    described = {role: [arg for t in (accessors or {}).get(role, ()) for arg in accessor(t)] for role in kernels}
    program = ttnn.ProgramDescriptor(
        kernels=[
            ttnn.KernelDescriptor(
                kernel_source=text,
                source_type=SourceType.FILE_PATH if text.endswith(".cpp") else SourceType.SOURCE_CODE,
                core_ranges=where,
                compile_time_args=described[role],
                runtime_args=[(core, [*args.get(role, ()), n]) for n, core in enumerate(where)],
                defines=list(options.defines.items()),
                config=configs[role],
            )
            for role, text in kernels.items()
        ],
        semaphores=[ttnn.SemaphoreDescriptor(id=n, core_ranges=where) for n in range(options.semaphores)],
        cbs=[cb.describe(where) for cb in cbs],
    )
    ttnn.generic_op(list(tensors), program)


def run(
    kernel: str,
    operands: Sequence[np.ndarray],
    cbs: Sequence[Cb] | None = None,
    options: Options = Options(),
    dtype: Any = F32,
    reader: str = READER,
    writer: str = WRITER,
    out: Any = F32,
) -> np.ndarray:
    """Operands [tiles * 32, 32] through a compute kernel on one core, tile by tile; what it packs into CB 16."""
    device = ttnn.open_device(board=options.board, seed=options.seed, run_length=options.run_length)
    try:
        given = [ttnn.Tensor(x.astype(np.float32), dtype, device, ttnn.TILE_LAYOUT) for x in operands]
        result = ttnn.Tensor(np.zeros_like(operands[0], np.float32), out, device, ttnn.TILE_LAYOUT)
        tiles = operands[0].size // 1024
        defines = {"TILES": f"{tiles}u", "OPERANDS": str(len(operands)), **options.defines}
        kernels = {"reader": reader, "compute": kernel, "writer": writer}
        launch(
            device,
            [*given, result],
            {role: text for role, text in kernels.items() if text},
            cbs or [*(Cb(n, dtype, direct=True) for n in range(len(operands))), Cb(16, out)],
            {"reader": [tiles, *(t.buffer_address() for t in given)], "writer": [tiles, result.buffer_address()]},
            Options(options.cores, options.fp32, options.full_sync, options.semaphores, defines=defines),
            {"reader": given, "writer": [result]},
        )
        found: np.ndarray = result.cpu().to_numpy()
        return found
    finally:
        ttnn.close_device(device)
