"""The host program of a model on a Tenstorrent card: ttnn, numpy and this folder are all it needs.

    python host.py --tokens 1 2 3 --count 8        # continues token ids, always with the likeliest

Input: `manifest.json`, whose "metalium" entry says what to allocate and to launch; `weights.safetensors`; `kernels/`.
A model is one program a line of its stack.  The programs are launched in the order of the stack, once a token:

    inputs (token, pos) -> [embed] -> x.0 -> [line] -> x.1 -> [line] -> x.0 -> … -> logits

Weights lie in DRAM, tiled in the order in which the kernels stream them.  Each line's state stays in L1 between tokens,
one shard a core.  It runs on Python 3.10 and later, as ttnn does.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .states import begin, from_words
from .weights import Weights

PAGE_BYTES = 64
"""Rows in DRAM begin at multiples of this."""

VECTOR_PAGE = 1024
"""Elements of a page of a line's vectors and constants."""

TILE = 32

CB_MODES = 64
"""A compute kernel's configuration has an entry for each circular buffer: 32 of a Wormhole's core, 64 of a Blackhole's,
and Wormhole takes as many."""


class Model:
    """An artefact on an open device: its weights, its programs, and the one state that is in L1."""

    def __init__(self, ttnn: Any, device: Any, folder: Path, manifest: Mapping[str, Any]):
        self.ttnn, self.device, self.folder = ttnn, device, folder
        self.launch: Mapping[str, Any] = manifest["metalium"]
        self.vocab: int = manifest["vocab"]
        self.weights = Weights(folder / "weights.safetensors")
        self.calls: list[Mapping[str, Any]] = self.launch["calls"]
        self._check_grid()
        self.start = [begin(call["state"], self.cores_of(call), manifest["state"], self.weights) for call in self.calls]
        self._tensors = {name: self._upload(name, of) for name, of in self.launch["tensors"].items()}
        self._states = [self._shards(call, words) for call, words in zip(self.calls, self.start, strict=True)]
        self._programs = [self._program(call, state) for call, state in zip(self.calls, self._states, strict=True)]

    def _check_grid(self) -> None:
        """Refuse a device with fewer cores than the programs were planned for."""
        width = self.launch["grid"][0]
        rows = max(-(-program["cores"] // width) for program in self.launch["programs"].values())
        there = self.device.compute_with_storage_grid_size()
        if there.x < width or there.y < rows:
            raise ValueError(
                f"it is made for {width}x{rows} cores of an {self.launch['device']}, here are {there.x}x{there.y}"
            )

    def cores_of(self, call: Mapping[str, Any]) -> int:
        """How many cores a call's program runs on."""
        cores: int = self.launch["programs"][call["program"]]["cores"]
        return cores

    # --- one token -------------------------------------------------------------------------------------------------
    def step(self, token: int, pos: int, wants_logits: bool = True) -> np.ndarray | None:
        """Read a token; the logits for the next, float32 [vocab], where they are wanted."""
        ttnn, inputs = self.ttnn, np.zeros((1, PAGE_BYTES // 4), np.int32)
        inputs[0, :2] = token, pos
        ttnn.copy_host_to_device_tensor(ttnn.Tensor(inputs, ttnn.int32), self._tensors["inputs"])
        for call, (tensors, program) in zip(self.calls, self._programs, strict=True):
            if wants_logits or "logits" not in call["tensors"].values() or call["state"]["bytes"]:
                ttnn.generic_op(tensors, program)
        if not wants_logits:
            return None
        logits: np.ndarray = self._tensors["logits"].cpu().to_numpy()
        return logits.reshape(-1)[: self.vocab].astype(np.float32)

    # --- the state in L1 -------------------------------------------------------------------------------------------
    def put_state(self, lines: Sequence[np.ndarray]) -> None:
        """Copy a state into L1: an array of 32-bit words [cores, words] a line."""
        for words, there in zip(lines, self._states, strict=True):
            if there is not None:
                self.ttnn.copy_host_to_device_tensor(self.ttnn.Tensor(words.copy(), self.ttnn.float32), there)

    def take_state(self) -> list[np.ndarray]:
        """A copy of the state that is in L1."""
        return [
            words if there is None else there.cpu().to_numpy().reshape(words.shape).copy()
            for words, there in zip(self.start, self._states, strict=True)
        ]

    def _shards(self, call: Mapping[str, Any], words: np.ndarray) -> Any:
        """The line's buffer in L1: a shard a core, at one address on all of them.  None for a line without a state."""
        if words.size == 0:
            return None
        ttnn = self.ttnn
        shard = ttnn.ShardSpec(self._core_ranges(len(words)), [1, words.shape[1]], ttnn.ShardOrientation.ROW_MAJOR)
        memory = ttnn.MemoryConfig(ttnn.TensorMemoryLayout.HEIGHT_SHARDED, ttnn.BufferType.L1, shard)
        shape = ttnn.Shape(list(words.shape))
        return ttnn.allocate_tensor_on_device(shape, ttnn.float32, ttnn.ROW_MAJOR_LAYOUT, self.device, memory)

    # --- tensors in DRAM -------------------------------------------------------------------------------------------
    def _upload(self, name: str, of: Mapping[str, Any]) -> Any:
        """A tensor of the launch description, on the device."""
        ttnn = self.ttnn
        dtype = {"f32": ttnn.float32, "bf16": ttnn.bfloat16, "i32": ttnn.int32}[of["dtype"]]
        if of["kind"] == "tiles":
            pages = self.weights[name].reshape(-1, TILE)  # tile after tile, each [k, columns]
            return ttnn.Tensor(pages, dtype, self.device, ttnn.TILE_LAYOUT)
        rows = self._vectors(of) if of["kind"] == "vectors" else self._rows(name, of)
        return ttnn.Tensor(rows, dtype, self.device, ttnn.ROW_MAJOR_LAYOUT)

    def _vectors(self, of: Mapping[str, Any]) -> np.ndarray:
        """A line's vectors and constants, one after the other in pages."""
        flat = np.zeros(of["pages"] * VECTOR_PAGE, np.float32)
        for source, first, count in of["parts"]:
            constant = source.startswith("=")
            values = np.asarray(of["constants"][source[1:]], np.float32) if constant else self.weights[source]
            flat[first : first + count] = values.reshape(-1)
        return flat.reshape(-1, VECTOR_PAGE)

    def _rows(self, name: str, of: Mapping[str, Any]) -> np.ndarray:
        """A table, or room for what the kernels write; each row filled up to its page."""
        width = of["page_bytes"] // (2 if of["dtype"] == "bf16" else 4)
        rows = np.zeros((of["pages"], width), np.int32 if of["dtype"] == "i32" else np.float32)
        if of["weight"] is not None:
            table = self.weights[name].reshape(of["pages"], -1)
            rows[:, : table.shape[1]] = table
        return rows

    # --- programs --------------------------------------------------------------------------------------------------
    def _core_ranges(self, count: int) -> Any:
        """The first `count` cores of the grid, row by row."""
        ttnn, (width, _) = self.ttnn, self.launch["grid"]
        whole, rest = divmod(count, width)
        ranges = []
        if whole:
            ranges.append(ttnn.CoreRange(ttnn.CoreCoord(0, 0), ttnn.CoreCoord(width - 1, whole - 1)))
        if rest:
            ranges.append(ttnn.CoreRange(ttnn.CoreCoord(0, whole), ttnn.CoreCoord(rest - 1, whole)))
        return ttnn.CoreRangeSet(ranges)

    def _program(self, call: Mapping[str, Any], state: Any) -> tuple[list[Any], Any]:
        """A call's tensors, and its program with their addresses written in."""
        ttnn, of = self.ttnn, self.launch["programs"][call["program"]]
        cores = self._core_ranges(of["cores"])
        at = [ttnn.CoreCoord(n % self.launch["grid"][0], n // self.launch["grid"][0]) for n in range(of["cores"])]
        on_noc = [self.device.worker_core_from_logical_core(core) for core in at] if of["cores"] > 1 else []
        everyone = [coordinate for core in on_noc for coordinate in (core.x, core.y)]
        state_address = state.buffer_address() if state is not None else 0

        def kernel(role: str, names: Sequence[str], config: Any, more: Sequence[int] = ()) -> Any:
            taken = [self._tensors[call["tensors"][name]] for name in names]
            accessors = [arg for t in taken for arg in ttnn.TensorAccessorArgs(t).get_compile_time_args()]
            addresses = [t.buffer_address() for t in taken]
            return ttnn.KernelDescriptor(
                kernel_source=str(self.folder / of["kernels"][role]),
                core_ranges=cores,
                compile_time_args=accessors,
                runtime_args=[(core, [n, state_address, *addresses, *more]) for n, core in enumerate(at)],
                config=config,
                compiler_include_paths=[str(self.folder / "kernels")],
            )

        program = ttnn.ProgramDescriptor(
            kernels=[
                kernel("reader", of["reader_tensors"], ttnn.ReaderConfigDescriptor()),
                kernel("writer", of["writer_tensors"], ttnn.WriterConfigDescriptor(), everyone),
                kernel("compute", (), self._compute_config(of["cbs"])),
            ],
            semaphores=[
                ttnn.SemaphoreDescriptor(id=n, core_ranges=cores, initial_value=0) for n in range(of["semaphores"])
            ],
            cbs=[self._circular_buffer(cb, cores) for cb in of["cbs"]],
        )
        tensors = [self._tensors[name] for name in dict.fromkeys(call["tensors"].values())]
        return [*tensors, *([state] if state is not None else [])], program

    def _circular_buffer(self, cb: Mapping[str, Any], cores: Any) -> Any:
        ttnn = self.ttnn
        data_format = {"f32": ttnn.float32, "bf16": ttnn.bfloat16}[cb["format"]]
        pages = ttnn.CBFormatDescriptor(buffer_index=cb["index"], data_format=data_format, page_size=cb["page_bytes"])
        return ttnn.CBDescriptor(
            total_size=cb["page_bytes"] * cb["pages"], core_ranges=cores, format_descriptors=[pages]
        )

    def _compute_config(self, cbs: Sequence[Mapping[str, Any]]) -> Any:
        """Sums in f32; the buffers whose tiles go to the destination registers unrounded are named one by one."""
        ttnn = self.ttnn
        config = ttnn.ComputeConfigDescriptor()
        config.fp32_dest_acc_en = True
        config.dst_full_sync_en = True  # eight tiles of f32
        config.math_fidelity = ttnn.MathFidelity.HiFi4
        modes = [ttnn.UnpackToDestMode.Default] * CB_MODES
        for cb in cbs:
            if cb["unpack_to_dest"]:
                modes[cb["index"]] = ttnn.UnpackToDestMode.UnpackToDestFp32
        config.unpack_to_dest_mode = ttnn._ttnn.program_descriptor.VectorUnpackToDestMode(modes)
        return config


def record(model: Model, tokens: Sequence[int]) -> dict[str, Any]:
    """`logits` [tokens, vocab] of a document, and every piece of the state after it, flat, by its path."""
    stepped = [model.step(token, pos) for pos, token in enumerate(tokens)]
    found = {"logits": np.stack([logits for logits in stepped if logits is not None])}
    for call, words in zip(model.calls, model.take_state(), strict=True):
        for path, value in from_words(call["state"], words, len(tokens)).items():
            found[f"state:{path}"] = value.reshape(-1)
    return found


def main() -> None:
    """Continue token ids with the likeliest ones."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tokens", type=int, nargs="+", required=True, help="the ids of a prompt's tokens")
    parser.add_argument("--count", type=int, default=8, help="how many tokens to add (%(default)s)")
    parser.add_argument("--device", type=int, default=0, help="the card's number (%(default)s)")
    parser.add_argument("--save", metavar="FILE.npz", help="instead: the logits of --tokens and the state after them")
    a = parser.parse_args()
    try:
        import ttnn
    except ImportError as e:
        parser.exit(
            1, f"error: ttnn cannot be imported ({e})\n  = help: pip install ttnn==0.81.1, with Python 3.10 or 3.12\n"
        )

    folder = Path(__file__).resolve().parent
    device = ttnn.open_device(device_id=a.device)
    try:
        model = Model(ttnn, device, folder, json.loads((folder / "manifest.json").read_text(encoding="utf-8")))
        model.put_state(model.start)
        if a.save:
            np.savez(a.save, **record(model, a.tokens))
            return
        read = list(a.tokens)
        for pos in range(len(a.tokens) + a.count - 1):
            logits = model.step(read[pos], pos, wants_logits=pos + 1 >= len(a.tokens))
            if logits is not None:
                read.append(int(logits.argmax()))
        print(*read[len(a.tokens) :])
    finally:
        ttnn.close_device(device)


if __name__ == "__main__":
    main()
