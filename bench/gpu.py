"""A `cuda` or `rocm` artefact on its GPU: right, and how fast, beside PyTorch and flash-linear-attention.

Input: `python bench/gpu.py ARTEFACT [--reference FILE] [--torch TORCH_ARTEFACT] [--rounds N]`.  It needs the artefact
and numpy, nothing else; what it finds installed besides becomes a peer.  `--reference` are logits of the float64
interpreter, written on any machine by `python bench/gpu.py ARTEFACT --write-reference FILE`.
Output: markdown: whether step, prompt, batch, fork, file and choice agree; tokens a second of decoding at each batch
the artefact holds and of reading a prompt, with the share of the card's bandwidth as a copy measures it in the same
rounds; each kernel of a step with its time and bytes; the peers, taking turns with us, as medians of ratios.

Bytes of a token are the manifest's: the weights that one token reads, and the state read and written.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

TOKENS = 64


class Sampling(ctypes.Structure):
    """`cdr_sampling` of the artefact's sample.h."""

    _fields_ = [
        ("temperature", ctypes.c_double),
        ("top_p", ctypes.c_double),
        ("top_k", ctypes.c_int32),
        ("random", ctypes.c_uint64),
        ("known", ctypes.c_void_p),
    ]


class Model:
    """The artefact's library, as its model.h says."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.manifest = json.loads((folder / "manifest.json").read_text())
        self.lib = lib = ctypes.CDLL(str((folder / "libmodel.so").resolve()))
        lib.cdr_error_text.restype = lib.cdr_about.restype = ctypes.c_char_p
        lib.cdr_state_size.restype = ctypes.c_size_t
        self.handle = ctypes.c_void_p()
        self.check(lib.cdr_open(ctypes.byref(self.handle), str(folder / "weights.safetensors").encode()))
        self.vocab: int = lib.cdr_vocab(self.handle)
        self.about: str = lib.cdr_about(self.handle).decode()

    def check(self, code: int) -> None:
        if code:
            sys.exit(f"error: {self.lib.cdr_error_text(code).decode()}")

    def call(self, name: str, *arguments: Any) -> None:
        """A function of model.h that returns a code."""
        self.check(getattr(self.lib, name)(*arguments))

    @contextmanager
    def state(self) -> Iterator[ctypes.Array[Any]]:
        """A new document's state."""
        room = (ctypes.c_uint64 * (self.lib.cdr_state_size(self.handle) // 8 + 2))()
        self.call("cdr_state_init", self.handle, room)
        yield room
        self.lib.cdr_state_free(self.handle, room)

    def prefill(self, state: Any, ids: Sequence[int], wanted: bool = True) -> np.ndarray:
        tokens, logits = np.asarray(ids, np.int32), np.empty(self.vocab, np.float32)
        into = logits.ctypes.data if wanted else None
        count = ctypes.c_size_t(len(tokens))
        self.call("cdr_prefill", self.handle, state, ctypes.c_void_p(tokens.ctypes.data), count, ctypes.c_void_p(into))
        return logits

    def generate(self, state: Any, token: int, count: int) -> np.ndarray:
        """The likeliest tokens, chosen on the device."""
        out, how = np.empty(count, np.int32), Sampling(0.0, 1.0, 0, 0)
        place = ctypes.c_void_p(out.ctypes.data)
        self.call("cdr_generate", self.handle, state, token, ctypes.c_size_t(count), ctypes.byref(how), place)
        return out

    @contextmanager
    def batch(self, rows: int) -> Iterator[ctypes.c_void_p]:
        """Rows that step together."""
        found = ctypes.c_void_p()
        self.call("cdr_batch_open", ctypes.byref(found), self.handle, rows)
        yield found
        self.lib.cdr_batch_close(found)

    def batch_generate(self, batch: Any, rows: int, count: int) -> np.ndarray:
        ids, out, how = (
            np.arange(rows, dtype=np.int32) % self.vocab,
            np.empty((count, rows), np.int32),
            Sampling(0, 1, 0, 0),
        )
        at = (
            ctypes.c_void_p(ids.ctypes.data),
            ctypes.c_size_t(count),
            ctypes.byref(how),
            ctypes.c_void_p(out.ctypes.data),
        )
        self.call("cdr_batch_generate", batch, *at)
        return out


# --- right --------------------------------------------------------------------------------------------------------
def error(found: np.ndarray, wanted: np.ndarray) -> float:
    """Relative RMS."""
    return float(np.sqrt(np.mean((found - wanted) ** 2.0) / max(np.mean(wanted**2.0), 1e-300)))


def correctness(model: Model, ids: np.ndarray, reference: np.ndarray | None) -> list[tuple[str, float]]:
    """Each way to run the same tokens against the others, and all against the interpreter's logits."""
    rows = []
    with model.state() as one, model.state() as two, model.state() as three:
        stepped = np.stack([model.prefill(one, [t]) for t in ids])
        rows.append(("a prompt in blocks against steps", error(model.prefill(two, ids), stepped[-1])))
        if reference is not None:
            rows.append(("steps against the float64 interpreter", error(stepped, reference)))
        model.call("cdr_state_fork", model.handle, one, three)
        again = model.prefill(three, [1])
        rows.append(("a fork against its origin", error(model.prefill(one, [1]), again)))
        model.call("cdr_state_fork", model.handle, two, three)
        chosen, token = model.generate(three, 1, 16), 1
        wrong = 0
        for got in chosen:
            token = int(model.prefill(two, [token]).argmax())
            wrong += token != got
        rows.append(("tokens chosen on the device that differ, of 16", wrong))
    for size in [b for b in model.manifest["schedule"]["batches"] if b > 1][:1]:
        with model.batch(size) as batch, model.state() as alone:
            logits = np.empty((size, model.vocab), np.float32)
            for t in ids[:4]:
                tokens = np.full(size, t, np.int32)
                place = (ctypes.c_void_p(tokens.ctypes.data), ctypes.c_void_p(logits.ctypes.data))
                model.call("cdr_batch_step", batch, *place)
            model.prefill(alone, ids[:3])
            wanted = model.prefill(alone, ids[3:4])
            rows.append((f"a batch of {size} against one session", max(error(x, wanted) for x in logits)))
    return rows


# --- fast ---------------------------------------------------------------------------------------------------------
def clock(work: Callable[[], Any]) -> float:
    """Seconds of one call, which waits for the device by itself."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def take_turns(works: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, one after the other in every round, after one round that does not count."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for n in range(rounds + 1):
        for name, work in works.items():
            seconds = clock(work)
            if n:
                found[name].append(seconds)
    return found


class Driver:
    """The few calls of the driver that measure it, on the context that the model made."""

    CUDA = ("libcuda.so.1", "cu", "_v2")
    HIP = ("libamdhip64.so", "hip", "")

    def __init__(self, target: str):
        name, self.front, back = self.HIP if target == "rocm" else self.CUDA
        self.lib = ctypes.CDLL(os.environ.get("CDR_DRIVER", name))
        self.names = {
            "alloc": f"cuMemAlloc{back}" if back else "hipMalloc",
            "free": f"cuMemFree{back}" if back else "hipFree",
            "copy": f"cuMemcpyDtoDAsync{back}" if back else "hipMemcpyDtoDAsync",
            "load": f"{self.front}ModuleLoadData",
            "function": f"{self.front}ModuleGetFunction",
            "launch": "cuLaunchKernel" if back else "hipModuleLaunchKernel",
            "wait": f"{self.front}StreamSynchronize",
        }
        if back:
            context = ctypes.c_void_p()
            for call in (self.lib.cuInit(0), self.lib.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)):
                self.check("the context", call)
            self.check("the context", self.lib.cuCtxPushCurrent_v2(context))

    def check(self, what: str, code: int) -> None:
        if code:
            raise RuntimeError(f"{what}: the driver's error {code}")

    def __call__(self, what: str, *arguments: Any) -> None:
        self.check(what, getattr(self.lib, self.names[what])(*arguments))

    def room(self, size: int) -> ctypes.c_uint64:
        found = ctypes.c_uint64()
        self("alloc", ctypes.byref(found), ctypes.c_size_t(size))
        return found

    def copying(self, size: int, times: int) -> Callable[[], None]:
        """Copies between two pieces of memory; each moves 2 * size * times bytes."""
        a, b = self.room(size), self.room(size)

        def work() -> None:
            for _ in range(times):
                self("copy", b, a, ctypes.c_size_t(size), None)
            self("wait", None)

        return work


def decode(model: Model, driver: Driver, rounds: int, tokens: int, size: int) -> list[str]:
    """Tokens a second at each batch, and the share of the card's bandwidth."""
    cost, times = model.manifest["cost"], 8
    lines = [
        "| sessions | tokens/s | ms a step | GB/s of weights and state | share of a copy |",
        "|---|---|---|---|---|",
    ]
    copy = driver.copying(size, times)
    for rows in model.manifest["schedule"]["batches"]:
        with model.batch(rows) as batch:
            seconds = take_turns(
                {"us": lambda b=batch, r=rows: model.batch_generate(b, r, tokens), "copy": copy}, rounds
            )
        step = statistics.median(seconds["us"]) / tokens
        moved = (
            cost["weight_bytes_read"] + 2 * rows * cost["state_bytes"]
        )  # experts that only some rows chose: not counted
        card = [2 * size * times / s for s in seconds["copy"]]
        share = statistics.median(moved * tokens / s / c for s, c in zip(seconds["us"], card, strict=True))
        lines.append(f"| {rows} | {rows / step:.0f} | {1e3 * step:.3f} | {moved / step / 1e9:.0f} | {share:.2f} |")
    return [*lines, f"\nA copy moves {statistics.median(card) / 1e9:.0f} GB/s, read and written."]


def prompt(model: Model, rounds: int, length: int) -> str:
    """Tokens a second of reading a prompt."""
    ids = np.random.default_rng(0).integers(0, model.vocab, length)
    with model.state() as state:
        seconds = take_turns({"us": lambda: model.prefill(state, ids)}, rounds)["us"]
    return f"A prompt of {length} tokens: {length / statistics.median(seconds):.0f} tokens/s."


def kernels(model: Model, driver: Driver, shape: str, repeats: int) -> list[str]:
    """Every kernel of a token's launches by its own time: what to make faster first."""
    arch = model.about.rsplit(" ", 1)[-1]
    entry = model.manifest["programs"][arch]
    module, image = ctypes.c_void_p(), (model.folder / entry["code"]).read_bytes()
    driver("load", ctypes.byref(module), image)
    most = max(4 * math.prod(t["shape"]) for t in model.manifest["tensors"])
    each = max(most, *(unit["scratch"] for unit in entry["units"].values()))
    each += -each % 256
    memory = driver.room(8 * each)  # zeros or not: times do not depend on the values
    calls: dict[int, int] = {}
    for call in model.manifest["schedule"]["calls"]:
        for launch in entry["units"][f"{call['unit']}@{shape}"]["launches"]:
            calls[launch["kernel"]] = calls.get(launch["kernel"], 0) + 1
    launches = {x["kernel"]: x for unit in entry["units"].values() for x in unit["launches"]}
    rows = []
    for number, times in calls.items():
        kernel, launch = entry["kernels"][number], launches[number]
        function = ctypes.c_void_p()
        driver("function", ctypes.byref(function), module, kernel["name"].encode())
        slots = [ctypes.c_uint64(memory.value + n * each) for n, _ in enumerate(launch["args"])][:8]
        slots += [ctypes.c_uint64(memory.value)] * (len(launch["args"]) - len(slots))
        given = (ctypes.c_void_p * len(slots))(*(ctypes.cast(ctypes.pointer(s), ctypes.c_void_p) for s in slots))
        sizes = [ctypes.c_uint(n) for n in (*launch["grid"], *launch["block"])]

        def work(f: Any = function, s: Any = sizes, g: Any = given) -> None:
            for _ in range(repeats):
                driver("launch", f, *s, 0, None, g, None)
            driver("wait", None)

        work()
        rows.append((times, clock(work) / repeats, kernel))
    whole = sum(times * seconds for times, seconds, _ in rows)
    lines = [f"{sum(calls.values())} launches a step, {1e3 * whole:.3f} ms one after another:", "",
             "| kernel | launches | µs each | share | GB/s |", "|---|---|---|---|---|"]  # fmt: skip
    for times, seconds, kernel in sorted(rows, key=lambda r: -r[0] * r[1])[:15]:
        moved = kernel["bytes_read"] + kernel["bytes_written"]
        share = times * seconds / whole
        lines.append(
            f"| {kernel['name']} | {times} | {1e6 * seconds:.1f} | {share:.2f} | {moved / seconds / 1e9:.0f} |"
        )
    return lines


# --- peers --------------------------------------------------------------------------------------------------------
def torch_peer(model: Model, folder: Path, rounds: int, tokens: int) -> list[str]:
    """The generated torch module of the same spec on the GPU: eager, and as a CUDA graph."""
    import torch
    from safetensors.torch import load_file

    sys.path.insert(0, str(folder))
    module = importlib.import_module("model").Model()
    module.load_state_dict(load_file(folder / "weights.safetensors"))
    module = module.cuda().eval()
    lines = ["| sessions | peer | us : peer, tokens/s | peer tokens/s |", "|---|---|---|---|"]
    for rows in model.manifest["schedule"]["batches"]:
        token = torch.arange(rows, device="cuda") % model.vocab
        state = {k: v.cuda() for k, v in module.init_state(rows).items()}

        def eager(count: int = tokens, first: Any = token, held: Any = state) -> None:
            at, now = first, held
            with torch.inference_mode():
                for _ in range(count):
                    logits, now = module.step(at, now)
                    at = logits.argmax(-1)
            torch.cuda.synchronize()

        works: dict[str, Callable[[], Any]] = {"torch eager": eager}
        try:
            works["torch with a CUDA graph"] = _graph(torch, module, token, state, tokens)
        except Exception as e:
            lines.append(f"| {rows} | torch with a CUDA graph | cannot be captured: {str(e).splitlines()[0]} | |")
        with model.batch(rows) as batch:
            seconds = take_turns({"us": lambda b=batch, r=rows: model.batch_generate(b, r, tokens), **works}, rounds)
        for name in works:
            ratio = statistics.median(t / u for t, u in zip(seconds[name], seconds["us"], strict=True))
            lines.append(f"| {rows} | {name} | {ratio:.2f} | {rows * tokens / statistics.median(seconds[name]):.0f} |")
    return lines


def _graph(torch: Any, module: Any, token: Any, state: Any, tokens: int) -> Callable[[], None]:
    token, state = token.clone(), {k: v.clone() for k, v in state.items()}

    def once() -> None:
        logits, after = module.step(token, state)
        for name, value in after.items():
            state[name].copy_(value)
        token.copy_(logits.argmax(-1))

    with torch.inference_mode():
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            once()
        side.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            once()

    def work() -> None:
        for _ in range(tokens):
            graph.replay()
        torch.cuda.synchronize()

    return work


def fla_peer(rounds: int) -> list[str]:
    """flash-linear-attention's RWKV-7 kernels, by themselves: one token and 512, in milliseconds."""
    import torch
    from fla.ops.rwkv7 import chunk_rwkv7, fused_recurrent_rwkv7

    lines = ["| fla kernel | heads | sessions | tokens | ms |", "|---|---|---|---|---|"]
    for rows, length, kernel in ((1, 1, fused_recurrent_rwkv7), (64, 1, fused_recurrent_rwkv7), (1, 512, chunk_rwkv7)):
        r, w, k, v, a, b = (torch.randn(rows, length, 16, 64, device="cuda") * 0.1 for _ in range(6))
        first, operands = torch.zeros(rows, 16, 64, 64, device="cuda"), (r, -w.abs(), k, v, a, b)

        def work(f: Any = kernel, x: Any = operands, s: Any = first) -> None:
            for _ in range(50):
                f(*x, scale=1.0, initial_state=s, output_final_state=True)
            torch.cuda.synchronize()

        ms = 1e3 * statistics.median(take_turns({"fla": work}, rounds)["fla"]) / 50
        lines.append(f"| {kernel.__name__} | 16 of 64 | {rows} | {length} | {ms:.4f} |")
    return lines


def has(name: str) -> bool:
    """Whether a peer is installed and has a GPU."""
    try:
        importlib.import_module(name)
        return bool(importlib.import_module("torch").cuda.is_available())
    except ImportError:
        return False


def write_reference(folder: Path, out: Path, ids: np.ndarray) -> None:
    """The interpreter's logits of the tokens that `correctness` runs."""
    from cdrmix.ir.interp import Interpreter
    from cdrmix.packing import read_values
    from cdrmix.verification import spec_of

    model = spec_of(json.loads((folder / "manifest.json").read_text()))
    logits, _ = Interpreter(model, read_values(model, folder / "weights.safetensors")).run(ids.tolist())
    np.save(out, logits.astype(np.float32))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artefact", type=Path)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--write-reference", type=Path)
    parser.add_argument("--torch", type=Path, help="the same spec and weights compiled with --target torch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--copy", type=int, default=512, help="megabytes of the copy that measures the card")
    a = parser.parse_args()
    vocab = json.loads((a.artefact / "manifest.json").read_text())["vocab"]
    ids = np.random.default_rng(0).integers(0, vocab, TOKENS)
    if a.write_reference:
        write_reference(a.artefact, a.write_reference, ids)
        return
    model = Model(a.artefact)
    print(f"## {model.manifest['model']}, weights in {model.manifest['stored']}\n{model.about}\n", flush=True)
    for what, value in correctness(model, ids, np.load(a.reference) if a.reference else None):
        print(f"- {what}: {value:.2e}", flush=True)
    driver = Driver(model.manifest["target"])
    sections: list[Callable[[], list[str]]] = [
        lambda: decode(model, driver, a.rounds, a.tokens, a.copy << 20),
        lambda: [prompt(model, a.rounds, a.prompt)],
        lambda: kernels(model, driver, "1x1", 200),
    ]
    if a.torch and has("torch"):
        sections.append(lambda: torch_peer(model, a.torch, a.rounds, a.tokens))
    if has("fla"):
        sections.append(lambda: fla_peer(a.rounds))
    for section in sections:
        print("\n" + "\n".join(section()), flush=True)


if __name__ == "__main__":
    main()
