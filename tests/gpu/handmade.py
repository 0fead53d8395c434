"""A little model made by hand: its kernels as CUDA C, its manifest, its weights, and what it computes in numpy.

It has one of everything the runner must do: stored types, a state updated in place, a history, carries that are read,
written, and both; a unit that runs token by token, calls for the last token only, a batch, choices, and rows of no
whole number of vectors.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cdrmix.runtime.checksum import checksum, file_checksum

VOCAB, D, RING = 13, 6, 3
BATCHES, BLOCKS = (1, 4), (8, 4)
START = 0.25
IDENTITY = "0123456789abcdef" * 4

COMMON = """
#include <cuda_fp16.h>
typedef unsigned int uint;
static __device__ float bf(unsigned short v) { union { uint u; float f; } x; x.u = (uint)v << 16; return x.f; }
"""

EMB = """
extern "C" __global__ void __launch_bounds__({d}) emb_{b}x{t}(float* out, int* x, float* E) {{
  int row = blockIdx.x, d = threadIdx.x;
  out[row * {d} + d] = E[(x[row] < 0 ? 0 : x[row]) * {d} + d];
}}
"""

# shared memory and a barrier: the row is loaded once; then a state and a ring in place, token after token
MIX = """
extern "C" __global__ void __launch_bounds__({d}) mix{n}_{b}x{t}_h(float* h, float* x, half* W) {{
  __shared__ float row[{d}];
  int d = threadIdx.x;
  row[d] = x[blockIdx.x * {d} + d];
  __syncthreads();
  float sum = 0;
  for (int k = 0; k < {d}; k++) sum += (float)W[d * {d} + k] * row[k];
  h[blockIdx.x * {d} + d] = sum;
}}
extern "C" __global__ void __launch_bounds__({d}) mix{n}_{b}x{t}(
    float* out, float* x, float* h, float* g, float* S, float* K, int* pos, float* v, float* v2) {{
  int b = blockIdx.x, d = threadIdx.x;
  float s = S[b * {d} + d];
  for (int t = 0; t < {t}; t++) {{
    int row = b * {t} + t, at = pos[b] + t;
    float sum = 0, here = h[row * {d} + d];
    for (int a = 1; a <= {ring} && a <= at; a++) sum += K[(b * {ring} + (at - a) % {ring}) * {d} + d];
    s = 0.5f * s + here;
    out[row * {d} + d] = x[row * {d} + d] + 0.25f * s + 0.125f * sum + g[d]{plus};
    v2[row * {d} + d] = {carry};
    K[(b * {ring} + at % {ring}) * {d} + d] = here;
  }}
  S[b * {d} + d] = s;
}}
"""

SEQ = """
extern "C" __global__ void __launch_bounds__({d}) seq_{b}x1(
    float* out, float* x, unsigned short* w, float* p, float* v) {{
  int row = blockIdx.x * {d} + threadIdx.x;
  float old = p[row];
  out[row] = x[row] + old * bf(w[threadIdx.x]) + 0.5f * v[row];
  p[row] = 0.5f * old + 0.25f * x[row];
}}
"""

END = """
extern "C" __global__ void __launch_bounds__({d}) twice_{b}x1(float* out, float* x) {{
  out[blockIdx.x * {d} + threadIdx.x] = 2.0f * x[blockIdx.x * {d} + threadIdx.x];
}}
extern "C" __global__ void __launch_bounds__({vocab}) head_{b}x1(float* out, float* x, signed char* H, float* scale) {{
  int v = threadIdx.x;
  float sum = 0;
  for (int k = 0; k < {d}; k++) sum += (float)H[v * {d} + k] * x[blockIdx.x * {d} + k];
  out[blockIdx.x * {vocab} + v] = sum * scale[v];
}}
extern "C" __global__ void __launch_bounds__(1) argmax_{b}x1(int* out, float* x) {{
  float* row = x + blockIdx.x * {vocab};
  int best = 0;
  for (int i = 0; i < {vocab}; i++) if (row[i] > row[best] || row[i] != row[i]) best = i;
  out[blockIdx.x] = row[best] - row[best] == 0 ? best : -1;
}}
extern "C" __global__ void __launch_bounds__(1) sample_{b}x1(
    int* out, float* x, float* temperature, float* top_p, float* u) {{
  float* row = x + blockIdx.x * {vocab}, sum = 0, total = 0;
  for (int i = 0; i < {vocab}; i++) total += exp2(row[i] / temperature[blockIdx.x]);
  int found = 0;
  for (; found < {vocab} - 1; found++) {{
    sum += exp2(row[found] / temperature[blockIdx.x]);
    if (sum > u[blockIdx.x] * total * top_p[blockIdx.x]) break;
  }}
  out[blockIdx.x] = total - total == 0 ? found : -1;
}}
"""

ADVANCE = """
extern "C" __global__ void __launch_bounds__(1) advance_{b}x{t}(int* pos) {{ pos[blockIdx.x] += {t}; }}
"""


def shapes() -> list[tuple[int, int]]:
    return [(b, 1) for b in BATCHES] + [(1, t) for t in BLOCKS]


def source() -> str:
    """The kernels."""
    text, old = COMMON, f"v[row * {D} + d]"
    for b, t in shapes():
        sizes = {"d": D, "ring": RING, "vocab": VOCAB, "b": b, "t": t}
        text += EMB.format(**sizes) + ADVANCE.format(**sizes)
        text += MIX.format(n=0, plus="", carry="here", **sizes)
        text += MIX.format(n=1, plus=f" + {old}", carry=f"{old} + here", **sizes)
        if t == 1:
            text += SEQ.format(**sizes) + END.format(**sizes)
    return text


def units() -> dict[str, Any]:
    def unit(x: Any, out: Any, dtype: str = "f32", **given: Any) -> dict[str, Any]:
        plain = {"weights": [], "states": [], "reads": [], "writes": [], "blocked": True}
        return {"x": x, "x_dtype": dtype, "out": out, **plain, **given}

    mix: dict[str, Any] = {
        "weights": [["W", [D, D], "f16"], ["g", [D], "f32"]],
        "states": [["S", [D], "f32"], ["K", [RING, D], "f32"], ["pos", [], "i32"]],
        "writes": [["v", [D]]],
    }
    return {
        "emb": unit([], [D], "i32", weights=[["E", [VOCAB, D], "f32"]]),
        "mix0": unit([D], [D], **mix),
        "mix1": unit([D], [D], **mix, reads=[["v", [D]]]),
        "seq": unit(
            [D], [D], weights=[["w", [D], "bf16"]], states=[["p", [D], "f32"]], reads=[["v", [D]]], blocked=False
        ),
        "twice": unit([D], [D]),
        "head": unit([D], [VOCAB], weights=[["H", [VOCAB, D], "i8"], ["H.scale", [VOCAB], "f32"]]),
        "advance": unit([], [], "i32", states=[["pos", [], "i32"]]),
        "argmax": unit([VOCAB], []),
        "sample": unit([VOCAB], [], reads=[["temperature", []], ["top_p", []], ["u", []]]) | {"top_k": 5},
    }


def calls() -> list[dict[str, Any]]:
    def call(unit: str, path: str, weights: Sequence[str] = (), states: Sequence[str] = (), last: bool = False) -> Any:
        return {"unit": unit, "path": path, "weights": list(weights), "states": list(states), "last_only": last}

    def mix(n: int) -> Any:
        where = f"layer.{n}.mix"
        return call(f"mix{n}", where, [f"{where}.W", f"{where}.g"], [f"{where}.S", f"{where}.K", "pos"])

    return [
        call("emb", "emb", ["emb.E"]),
        mix(0),
        call("seq", "layer.0.seq", ["layer.0.seq.w"], ["layer.0.seq.p"]),
        mix(1),
        call("twice", "twice", last=True),
        call("head", "head", ["head.H", "head.H.scale"], last=True),
        call("advance", "pos", states=["pos"]),
    ]


def program(code: str, vendor: str) -> dict[str, Any]:
    """The launches for one arch."""
    kernels: list[str] = []
    found: dict[str, Any] = {}

    def launch(name: str, grid: int, block: int, args: list[list[Any]]) -> dict[str, Any]:
        if name not in kernels:
            kernels.append(name)
        return {"kernel": kernels.index(name), "grid": [grid, 1, 1], "block": [block, 1, 1], "args": args}

    out, x = ["out", 0, 0], ["x", 0, 0]
    for b, t in shapes():
        rows, size = b * t, f"{b}x{t}"
        h = ["tmp", 0, 256]
        found[f"emb@{size}"] = {"scratch": 0, "launches": [launch(f"emb_{size}", rows, D, [out, x, ["w", 0, 0]])]}
        found[f"advance@{size}"] = {"scratch": 0, "launches": [launch(f"advance_{size}", b, 1, [["s", 0, 0]])]}
        for n in (0, 1):
            name, old = f"mix{n}_{size}", ["r", 0, 0] if n else ["c", 0, 0]
            rest = [out, x, h, ["w", 1, 0], ["s", 0, 0], ["s", 1, 0], ["s", 2, 0], old, ["c", 0, 0]]
            steps = [launch(f"{name}_h", rows, D, [h, x, ["w", 0, 0]]), launch(name, b, D, rest)]
            found[f"mix{n}@{size}"] = {"scratch": 256 + rows * D * 4, "launches": steps}
        if t > 1:
            continue
        ends = {
            "seq": (D, [out, x, ["w", 0, 0], ["s", 0, 0], ["r", 0, 0]]),
            "twice": (D, [out, x]),
            "head": (VOCAB, [out, x, ["w", 0, 0], ["w", 1, 0]]),
            "argmax": (1, [out, x]),
            "sample": (1, [out, x, ["r", 0, 0], ["r", 1, 0], ["r", 2, 0]]),
        }
        for name, (block, args) in ends.items():
            found[f"{name}@{size}"] = {"scratch": 0, "launches": [launch(f"{name}_{size}", b, block, args)]}
    return {"vendor": vendor, "code": code, "kernels": [{"name": k} for k in kernels], "units": found}


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    """In stored form; bf16 as uint16."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.4, shape).astype(np.float32)

    found: dict[str, np.ndarray] = {
        "emb.E": normal(VOCAB, D),
        "layer.0.seq.w": (normal(D).view(np.uint32) >> 16).astype(np.uint16),
        "head.H": rng.integers(-127, 128, (VOCAB, D)).astype(np.int8),
        "head.H.scale": (np.abs(normal(VOCAB)) / 64).astype(np.float32),
    }
    for n in (0, 1):
        found |= {f"layer.{n}.mix.W": normal(D, D).astype(np.float16), f"layer.{n}.mix.g": normal(D)}
    return found | {"layer.1.mix.S.start": normal(D)}


DTYPES = {"float32": ("F32", "f32"), "float16": ("F16", "f16"), "uint16": ("BF16", "bf16"), "int8": ("I8", "i8")}


def safetensors(tensors: Mapping[str, np.ndarray]) -> bytes:
    """A weights file; the wider types first, so that each begins where it may."""
    header: dict[str, Any] = {}
    data = b""
    for name, a in sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])):
        header[name] = {
            "dtype": DTYPES[str(a.dtype)][0],
            "shape": list(a.shape),
            "data_offsets": [len(data), len(data) + a.nbytes],
        }
        data += a.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def manifest(folder: Path, tensors: Mapping[str, np.ndarray], archs: Mapping[str, str]) -> dict[str, Any]:
    """What `manifest.json` says without its own checksum.  `archs`: vendor by arch."""
    state: list[dict[str, Any]] = []
    for n in (0, 1):
        start = "layer.1.mix.S.start" if n else 0.0
        state += [
            {"path": f"layer.{n}.mix.S", "kind": "state", "shape": [D], "banks": [], "start": start},
            {"path": f"layer.{n}.mix.K", "kind": "history", "shape": [RING, D], "banks": [], "start": 0.0},
        ]
        if n == 0:
            state.append({"path": "layer.0.seq.p", "kind": "state", "shape": [D], "banks": [], "start": START})
    codes = [f"{arch}.bin" for arch in archs]
    sums = {name: listed(folder / name) for name in ("weights.safetensors", *codes)}
    return {
        "format": 1,
        "target": "cuda",
        "engine": "cdrmix.runtime.device",
        "model": "handmade",
        "hash": IDENTITY,
        "spec": {},
        "set": {},
        "vocab": VOCAB,
        "state": state,
        "tensors": [
            {"path": p, "shape": list(a.shape), "stored": DTYPES[str(a.dtype)][1]}
            for p, a in tensors.items()
            if not p.endswith((".scale", ".start"))
        ],
        "schedule": {
            "batches": list(BATCHES),
            "blocks": list(BLOCKS),
            "units": units(),
            "calls": calls(),
        },
        "programs": {arch: program(f"{arch}.bin", vendor) for arch, vendor in archs.items()},
        "files": sums,
    }


def listed(path: Path) -> dict[str, Any]:
    """What a manifest says of a file."""
    return {"bytes": path.stat().st_size, "checksum": file_checksum(path)}


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    seal(folder, json.dumps(content, indent=1).encode())


def seal(folder: Path, text: bytes) -> None:
    """Write a manifest's text with the checksum that belongs to it."""
    text = text.removesuffix(b"\n}") + b","
    tail = f'\n "checksum": "{checksum([text])}"\n}}\n'
    (folder / "manifest.json").write_bytes(text + tail.encode())


def write(
    folder: Path, archs: Mapping[str, str] | None = None, seed: int = 0, library: Path | None = None
) -> dict[str, Any]:
    """The artefact without the runner's files but perhaps its library."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = weights(seed)
    (folder / "weights.safetensors").write_bytes(safetensors(tensors))
    archs = archs or {"sm_90": "cuda", "gfx1100": "hip"}
    for arch in archs:
        (folder / f"{arch}.bin").write_bytes(f"code for {arch}".encode() * 50)
    content = manifest(folder, tensors, archs)
    if library:
        if not (folder / "libmodel.so").exists():
            (folder / "libmodel.so").symlink_to(library)
        content["files"]["libmodel.so"] = listed(library)
    write_manifest(folder, content)
    return content


class Reference:
    """The model in numpy, one token at a time."""

    def __init__(self, tensors: Mapping[str, np.ndarray]):
        self.w = {k: v.astype(np.float64) for k, v in tensors.items() if v.dtype != np.uint16}
        self.w |= {
            k: (v.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
            for k, v in tensors.items()
            if v.dtype == np.uint16
        }
        self.state: dict[str, np.ndarray] = {
            "layer.0.mix.S": np.zeros(D),
            "layer.0.seq.p": np.full(D, START),
            "layer.1.mix.S": self.w["layer.1.mix.S.start"].copy(),
        }
        for n in (0, 1):
            self.state |= {f"layer.{n}.mix.K": np.zeros((RING, D)), f"layer.{n}.mix.K.count": np.array(0)}
        self.state["pos"] = np.array(0)

    def step(self, token: int) -> np.ndarray:
        x = self.w["emb.E"][token]
        x, v = self._mix(0, x, None)
        old = self.state["layer.0.seq.p"]
        self.state["layer.0.seq.p"] = 0.5 * old + 0.25 * x
        x = x + old * self.w["layer.0.seq.w"] + 0.5 * v
        x, v = self._mix(1, x, v)
        self.state["pos"] = self.state["pos"] + 1
        return self.w["head.H"] @ (2 * x) * self.w["head.H.scale"]

    def _mix(self, n: int, x: np.ndarray, v: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        where = f"layer.{n}.mix"
        h = self.w[f"{where}.W"] @ x
        ring = self.state[f"{where}.K"]
        s = self.state[f"{where}.S"] = 0.5 * self.state[f"{where}.S"] + h
        out = x + 0.25 * s + 0.125 * ring.sum(0) + self.w[f"{where}.g"] + (0 if v is None else v)
        self.state[f"{where}.K"] = np.concatenate([h[None], ring[:-1]])
        self.state[f"{where}.K.count"] = np.minimum(self.state[f"{where}.K.count"] + 1, RING)
        return out, h if v is None else v + h
