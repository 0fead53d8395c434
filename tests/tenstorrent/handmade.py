"""A small artefact made by hand: the host and its engine have something to run that no compiler wrote.

A token's row of a table goes to `x.0`; the second program adds it and a vector to a state that lies on two cores,
keeps the row's first element in a history of three, and puts out the state plus the sum of the corners of a matrix's
tiles.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from cdrmix.codegen.metalium.artefact import runtime_files
from cdrmix.codegen.metalium.tiles import in_bf16, tilise
from cdrmix.runtime.checksum import file_checksum
from cdrmix.runtime.encodings import ENCODINGS, Entry

from cdrmix.artifact import write_manifest
from cdrmix.weights import write_tensors

WIDTH, WINDOW, CORES = 40, 3, 2
PAGE = 192
"""A row of 40 words, filled up to a multiple of 64 bytes."""

TILED = {
    "bank": [], "lead": [], "columns": [0], "k": [1], "split": {"lead": 40, "each": 20}, "cores": 2, "block": 4,
    "planes": 1,
}  # fmt: skip

EMBED = """// inputs (token, pos) -> the token's row of the table -> x.0
#include <stdint.h>
#include "api/core_local_mem.h"
#include "api/dataflow/dataflow_api.h"
#include "sizes.h"
void kernel_main() {
    constexpr auto inputs_args = TensorAccessorArgs<0>();
    constexpr auto table_args = TensorAccessorArgs<inputs_args.next_compile_time_args_offset()>();
    constexpr auto x_args = TensorAccessorArgs<table_args.next_compile_time_args_offset()>();
    const auto inputs = TensorAccessor(inputs_args, get_arg_val<uint32_t>(2));
    const auto table = TensorAccessor(table_args, get_arg_val<uint32_t>(3));
    const auto x = TensorAccessor(x_args, get_arg_val<uint32_t>(4));
    const uint32_t room = get_write_ptr(cb_room);
    noc_async_read(inputs.get_noc_addr(0), room, 64);
    noc_async_read_barrier();
    const uint32_t token = CoreLocalMem<volatile uint32_t>(room)[0];
    noc_async_read(table.get_noc_addr(token), room, PAGE_BYTES);
    noc_async_read_barrier();
    noc_async_write(room, x.get_noc_addr(0), PAGE_BYTES);
    noc_async_write_barrier();
}
"""

READER = """// this core's pages of W -> cb_in
#include <stdint.h>
#include "api/dataflow/dataflow_api.h"
#include "sizes.h"
void kernel_main() {
    constexpr auto args = TensorAccessorArgs<0>();
    const auto weights = TensorAccessor(args, get_arg_val<uint32_t>(2));
    const uint32_t first = get_arg_val<uint32_t>(0) * PAGES;
    for (uint32_t page = first; page < first + PAGES; ++page) {
        cb_reserve_back(cb_in, 1);
        noc_async_read(weights.get_noc_addr(page), get_write_ptr(cb_in), 2048);
        noc_async_read_barrier();
        cb_push_back(cb_in, 1);
    }
}
"""

COMPUTE = """// cb_in -> destination registers -> cb_out
#include <cstdint>
#include "api/compute/common.h"
#include "api/compute/tile_move_copy.h"
#include "api/compute/compute_kernel_hw_startup.h"
#include "sizes.h"
void kernel_main() {
    compute_kernel_hw_startup(cb_in, cb_out);
    copy_init(cb_in);
    for (uint32_t page = 0; page < PAGES; ++page) {
        tile_regs_acquire();
        cb_wait_front(cb_in, 1);
        copy_tile(cb_in, 0, 0);
        cb_pop_front(cb_in, 1);
        tile_regs_commit();
        tile_regs_wait();
        cb_reserve_back(cb_out, 1);
        pack_tile(0, cb_out);
        cb_push_back(cb_out, 1);
        tile_regs_release();
    }
}
"""

WRITER = """// state += x + shift; the ring has x[0]; logits = state + the corners' sum
#include <stdint.h>
#include "api/core_local_mem.h"
#include "api/dataflow/dataflow_api.h"
#include "sizes.h"
typedef volatile float* Floats;
static Floats floats_at(uint32_t address) { return CoreLocalMem<volatile float>(address).get_unsafe_ptr(); }
void kernel_main() {
    constexpr auto inputs_args = TensorAccessorArgs<0>();
    constexpr auto x_args = TensorAccessorArgs<inputs_args.next_compile_time_args_offset()>();
    constexpr auto vectors_args = TensorAccessorArgs<x_args.next_compile_time_args_offset()>();
    constexpr auto logits_args = TensorAccessorArgs<vectors_args.next_compile_time_args_offset()>();
    const uint32_t core = get_arg_val<uint32_t>(0);
    const uint32_t state = get_arg_val<uint32_t>(1);
    const auto inputs = TensorAccessor(inputs_args, get_arg_val<uint32_t>(2));
    const auto x = TensorAccessor(x_args, get_arg_val<uint32_t>(3));
    const auto vectors = TensorAccessor(vectors_args, get_arg_val<uint32_t>(4));
    const auto logits = TensorAccessor(logits_args, get_arg_val<uint32_t>(5));
    const uint32_t room = get_write_ptr(cb_room);
    noc_async_read(inputs.get_noc_addr(0), room, 64);
    noc_async_read(x.get_noc_addr(0), room + 64, PAGE_BYTES);
    noc_async_read(vectors.get_noc_addr(0), room + 64 + PAGE_BYTES, 4096);
    noc_async_read_barrier();
    float corners = 0;
    for (uint32_t page = 0; page < PAGES; ++page) {
        cb_wait_front(cb_out, 1);
        corners += *floats_at(get_read_ptr(cb_out));
        cb_pop_front(cb_out, 1);
    }
    const uint32_t pos = CoreLocalMem<volatile uint32_t>(room)[1];
    const Floats row = floats_at(room + 64);
    const Floats shift = floats_at(room + 64 + PAGE_BYTES);
    const Floats held = floats_at(state);
    floats_at(state + RING)[pos % WINDOW] = row[0];
    const Floats out = floats_at(room + 64 + PAGE_BYTES + 4096);
    for (uint32_t i = 0; i < SHARE; ++i) {
        held[i] = held[i] + row[core * SHARE + i] + shift[core * SHARE + i] + shift[40];
        out[core * SHARE + i] = held[i] + corners;
    }
    noc_async_write(
        room + 64 + PAGE_BYTES + 4096 + core * SHARE * 4, logits.get_noc_addr(0, core * SHARE * 4), SHARE * 4);
    noc_async_write_barrier();
}
"""

IDLE = '#include <stdint.h>\n#include "api/dataflow/dataflow_api.h"\nvoid kernel_main() {}\n'
IDLE_COMPUTE = '#include <cstdint>\n#include "api/compute/common.h"\nvoid kernel_main() {}\n'

SIZES = f"""#pragma once
constexpr uint32_t cb_in = 0, cb_room = 1, cb_out = 16;
constexpr uint32_t PAGE_BYTES = {PAGE}, PAGES = 2, WINDOW = {WINDOW}, SHARE = 20, RING = 128;
"""


def _cb(name: str, index: int, pages: int, form: str = "f32", direct: bool = False) -> dict[str, Any]:
    size = 2048 if form == "bf16" else 4096
    return {
        "name": name, "index": index, "format": form, "page_bytes": size, "pages": pages, "unpack_to_dest": direct,
    }  # fmt: skip


def _tensor(kind: str, dtype: str, pages: int, page_bytes: int, **more: Any) -> dict[str, Any]:
    empty = {"tiled": None, "shape": None, "weight": None, "parts": [], "constants": {}}
    return {"kind": kind, "dtype": dtype, "pages": pages, "page_bytes": page_bytes, **empty, **more}


def _kernels(name: str) -> dict[str, str]:
    return {role: f"kernels/{name}_{role}.cpp" for role in ("reader", "compute", "writer")}


LAUNCH: dict[str, Any] = {
    "device": "n150",
    "grid": [8, 8],
    "tensors": {
        "inputs": _tensor("rows", "i32", 1, 64),
        "x.0": _tensor("rows", "f32", 1, PAGE),
        "logits": _tensor("rows", "f32", 1, PAGE),
        "table": _tensor("rows", "f32", WIDTH, PAGE, weight="table"),
        "W": _tensor("tiles", "bf16", 4, 2048, weight="W", tiled=TILED, shape=[WIDTH, WIDTH]),
        "sum.vectors": _tensor(
            "vectors", "f32", 1, 4096, parts=[["shift", 0, WIDTH], ["=half", WIDTH, 1]], constants={"half": [0.5]}
        ),
    },
    "programs": {
        "embed": {
            "title": "embed", "cores": 1, "kernels": _kernels("embed"), "cbs": [_cb("cb_room", 1, 2)],
            "semaphores": 0, "tensors": ["inputs", "table", "x"], "reader_tensors": [],
            "writer_tensors": ["inputs", "table", "x"],
        },
        "sum": {
            "title": "sum", "cores": CORES, "kernels": _kernels("sum"), "semaphores": 1,
            "cbs": [_cb("cb_in", 0, 2, "bf16"), _cb("cb_room", 1, 3), _cb("cb_out", 16, 2)],
            "tensors": ["inputs", "x", "vectors", "logits", "W"], "reader_tensors": ["W"],
            "writer_tensors": ["inputs", "x", "vectors", "logits"],
        },
    },
    "calls": [
        {"path": "emb", "program": "embed", "tensors": {"inputs": "inputs", "table": "table", "x": "x.0"},
         "state": {"bytes": 0, "arrays": []}},
        {"path": "sum", "program": "sum",
         "tensors": {"inputs": "inputs", "x": "x.0", "vectors": "sum.vectors", "logits": "logits", "W": "W"},
         "state": {"bytes": 192, "arrays": [
             {"slot": "sum.S", "offset": 0, "shape": [WIDTH], "layout": "flat", "split": [WIDTH, 20], "dtype": "f32",
              "ring": 0},
             {"slot": "sum.K", "offset": 128, "shape": [WINDOW, 1], "layout": "flat", "split": None, "dtype": "f32",
              "ring": WINDOW}]}},
    ],
}  # fmt: skip
"""As `launch_description` gives it."""


class Handmade:
    """What the artefact computes, in numpy."""

    def __init__(self, table: np.ndarray, W: np.ndarray, shift: np.ndarray, first: np.ndarray):
        self.table, self.W, self.shift, self.first = table, W, shift, first

    def run(self, ids: list[int]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The logits after the last token, and the state."""
        state = self.first + sum((self.table[i] + self.shift + 0.5 for i in ids), np.zeros(WIDTH))
        seen = [self.table[i][:1] for i in ids[::-1][: WINDOW - 1]]
        history = np.zeros((WINDOW - 1, 1))
        history[: len(seen)] = seen
        corners = [self.W[c, 0] + self.W[c, 32] for c in (0, 20)]
        found = {"sum.S": state, "sum.K": history, "sum.K.count": np.array(len(seen)), "pos": np.array(len(ids))}
        return state + np.repeat(corners, 20), found


def write(folder: Path) -> Handmade:
    """The artefact's folder."""
    rng = np.random.default_rng(0)
    table, W = rng.standard_normal((WIDTH, WIDTH)).astype(np.float32), rng.standard_normal((WIDTH, WIDTH))
    W = in_bf16(W.astype(np.float32))
    shift, first = (rng.standard_normal(WIDTH).astype(np.float32) for _ in range(2))
    pages = tilise(W, TILED)
    tensors = {"W": ENCODINGS["bf16"].narrow(pages)[""], "table": table, "shift": shift, "sum.S.start": first}
    kernels = {
        "embed_reader": IDLE, "embed_compute": IDLE_COMPUTE, "embed_writer": EMBED,
        "sum_reader": READER, "sum_compute": COMPUTE, "sum_writer": WRITER,
    }  # fmt: skip
    files = {f"kernels/{name}.cpp": text.encode() for name, text in kernels.items()}
    files |= {name: content for name, content in runtime_files().items() if not name.startswith("kernels/")}
    files["kernels/sizes.h"] = SIZES.encode()
    entries = {n: Entry(x.shape) for n, x in tensors.items()} | {"W": Entry(pages.shape, "BF16")}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    write_tensors(folder / "weights.safetensors", entries, tensors.__getitem__)
    slots: list[dict[str, Any]] = [
        {"path": "sum.S", "kind": "state", "shape": [WIDTH], "banks": [], "start": "sum.S.start"},
        {"path": "sum.K", "kind": "history", "shape": [WINDOW - 1, 1], "banks": [], "start": 0.0},
    ]
    manifest = {
        "format": 1, "target": "tenstorrent", "engine": "cdrmix.runtime.metalium.engine", "model": "handmade",
        "hash": "ab" * 32, "vocab": WIDTH, "spec": {}, "set": {}, "state": slots, "stored": "f32",
        "metalium": json.loads(json.dumps(LAUNCH)),
        "files": {
            name: {"bytes": (folder / name).stat().st_size, "checksum": file_checksum(folder / name)}
            for name in sorted([*files, "weights.safetensors"])
        },
    }  # fmt: skip
    write_manifest(folder, manifest)
    return Handmade(table, W, shift, first)
