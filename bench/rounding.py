"""Where the error of few bits comes from: weights, and the vectors that kernels round to 8 bits as they multiply.

Input: `python -m bench.rounding [--layers N] [--width N] [--vocab N] [--tokens N]`, from the root of the project.
Output: a markdown table: the RMS difference of RWKV-7's logits, with random weights, from those in f32, in parts of
their own RMS, over all tokens: of the weights alone, of the vectors alone, and of both.  Beside our encodings stand
llama.cpp's Q8_0 and Q4_0, rounded here as it rounds them.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Collection
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from cdrmix.runtime.encodings import ENCODINGS

from bench.streaming import ROOT, sane_weights
from cdrmix.check import load
from cdrmix.compiler import lower
from cdrmix.packing import stored
from cdrmix.passes.encodings import encode
from cdrmix.quantize.products import WholeVectors
from cdrmix.train.build import build_module
from cdrmix.weights import owners

Hold = Callable[[np.ndarray], np.ndarray]


def ours(name: str) -> Hold:
    """What an encoding of ours makes of a matrix."""
    return lambda x: ENCODINGS[name].widen(ENCODINGS[name].narrow(x), x.shape)


def q8_0(x: np.ndarray) -> np.ndarray:
    """Groups of 32, the value farthest from zero at 127, a scale in f16."""
    groups = x.reshape(-1, 32)
    scale = np.abs(groups).max(-1, keepdims=True) / np.float32(127)
    return np.asarray(np.rint(groups / scale) * scale.astype(np.float16).astype(np.float32)).reshape(x.shape)


def q4_0(x: np.ndarray) -> np.ndarray:
    """Groups of 32, the value farthest from zero at -8, a scale in f16."""
    groups = x.reshape(-1, 32)
    scale = np.take_along_axis(groups, np.abs(groups).argmax(-1, keepdims=True), -1) / np.float32(-8)
    numbers = np.clip(np.floor(groups / scale + np.float32(8.5)), 0, 15) - 8
    return np.asarray(numbers * scale.astype(np.float16).astype(np.float32)).reshape(x.shape)


def main() -> None:
    """Run them all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    for name, default in (("layers", 12), ("width", 768), ("vocab", 8192), ("tokens", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    settings = {"layers": args.layers, "d_model": args.width, "vocab": args.vocab}
    settings |= {"head_size": 64, "rank": 64, "gate_rank": 128}
    model = load(ROOT / "spec" / "rwkv7.cdr", {name: str(value) for name, value in settings.items()})
    values = sane_weights(model)
    matrices = [w.path for w in owners(encode(model, "i8")) if stored(w) == "i8"]
    with tempfile.TemporaryDirectory() as folder:
        module = build_module(lower(model), Path(folder), None)
    ids = torch.from_numpy(np.random.default_rng(1).integers(1, args.vocab, (1, args.tokens)))

    @torch.no_grad()
    def logits(hold: Hold | None, rounded: Collection[str], wide: Collection[str] = ()) -> np.ndarray:
        held = {p: hold(x) if hold and p in matrices and p not in wide else x for p, x in values.items()}
        module.load_state_dict({p: torch.from_numpy(np.ascontiguousarray(x)) for p, x in held.items()})
        with WholeVectors(module, [p for p in rounded if p not in wide]) if rounded else nullcontext():
            return np.asarray(module(ids)[0].numpy(), np.float64)

    want = logits(None, ())

    def off(*how: object) -> str:
        return f"{np.sqrt(np.mean((logits(*how) - want) ** 2) / np.mean(want**2)):.1e}"  # type: ignore[arg-type]

    ends = ("emb.E", "head.W")
    print(f"vectors alone: {off(None, matrices)}\n")
    print("| | weights | both | both, embedding and head wide |\n|---|---|---|---|")
    for name, hold in {"i8": ours("i8"), "i8g32": ours("i8g32"), "Q8_0": q8_0, "i4": ours("i4"), "Q4_0": q4_0}.items():
        print(f"| {name} | {off(hold, ())} | {off(hold, matrices)} | {off(hold, matrices, ends)} |", flush=True)


if __name__ == "__main__":
    main()
