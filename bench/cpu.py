"""RWKV-7 on a CPU: `cpu` artefacts against llama.cpp and the `rwkv` package on the same random weights.

Input: `python -m bench.cpu [--shape 0.1B|0.4B] [--threads N] [--encodings f16,i8] [--moe bf16,i8] [--rounds N]`, from
the root of the project, with its `dev` extra and, for llama.cpp, the packages of `bench/llama.py`.
Output: how far the logits of each are from those of our f32 artefact, then a markdown table: tokens a second of
decoding, of a prompt and of batches, the share of what memory allows, and each peer's rate with the ratio of ours to
it; then the time to open and the memory of each program.  A mixture of experts (8, of which a token takes 2), which no
peer has, is measured against the bytes of the weights that a token needs.

Every program is a process of its own below this one, opened once; they take turns, in one order and then in the other.
With one thread time is the CPU time of the process that runs, for machines that others use; with more it is the wall's.
Figures are medians over the rounds, those of ratios and shares of each round's own.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from bench.llama import quantise, write_gguf
from bench.programs import ROOT, Program, clocked
from bench.streaming import sane_weights
from cdrmix.artifact import write_artifact
from cdrmix.check import load
from cdrmix.compiler import lower
from cdrmix.ir.cost import cost
from cdrmix.ir.nodes import Model
from cdrmix.speed import READ_SIZE, Memory
from cdrmix.weights import write_weights
from tests.conformance.test_oracles import V7, V7_LATER, named_as_theirs

SHAPES = {"0.1B": (12, 768), "0.4B": (24, 1024)}
"""Layers and width."""

PEERS = {
    "f32": ["rwkv fp32"],
    "f16": ["llama.cpp f16"],
    "bf16": ["llama.cpp f16", "llama.cpp bf16", "rwkv bf16"],
    "i8": ["llama.cpp q8_0"],
    "i8g32": ["llama.cpp q8_0"],
    "i4": ["llama.cpp q4_0"],
}
"""What each of our encodings is compared with."""

ROWS = (8, 32)
THEIR_ROWS = 8
"""Of batches: ours, and the peer's that all of ours are compared with."""


@dataclass
class Running:
    """A program, the bytes that a token needs of its weights, and what it took, a round."""

    program: Program
    read_bytes: int
    peers: Sequence[str] = ()
    rounds: list[dict[str, Any]] = field(default_factory=list)

    def rates(self, work: str, amounts: Mapping[str, int], clock: str) -> list[float]:
        """Tokens a second of a kind of work, a round; none where the program cannot do it."""
        return [amounts[work] / one[work][clock] for one in self.rounds if work in one]


def peers_here(encodings: Sequence[str]) -> Iterator[str]:
    """The peers of these encodings that are installed; what is not is said."""
    packages = {"llama.cpp": "llama_cpp", "rwkv": "rwkv"}
    here = {peer: importlib.util.find_spec(package) is not None for peer, package in packages.items()}
    for peer in (name for name, found in here.items() if not found):
        print(f"note: {peer} is not installed, and left out", file=sys.stderr)
    wanted = dict.fromkeys(peer for encoding in encodings for peer in PEERS[encoding])
    return (peer for peer in wanted if here[peer.split()[0]])


def artefact(model: Model, encoding: str, folder: Path, given: Path, threads: int) -> Running:
    """One of ours."""
    lowered = lower(model, weights=encoding)
    write_artifact(lowered, "cpu", folder, given)
    return Running(Program("ours", folder, threads), cost(lowered.program.model).total.read_bytes())


def start(args: argparse.Namespace, settings: dict[str, int], folder: Path) -> dict[str, Running]:
    """Everything that is timed, by name."""
    texts = {k: str(v) for k, v in settings.items()}
    model = load(ROOT / "spec" / "rwkv7.cdr", texts)
    weights, given = sane_weights(model), folder / "given.safetensors"
    write_weights(given, {n: x.shape for n, x in weights.items()}, weights.__getitem__)
    found = {}
    for encoding in dict.fromkeys(("f32", *args.encodings)):
        found[encoding] = artefact(model, encoding, folder / encoding, given, args.threads)
        found[encoding].peers = PEERS[encoding]
    for peer in peers_here(list(found)):
        program, kind = peer.split()
        if program == "rwkv":
            path = folder / "theirs.pth"
            if not path.exists():
                named = named_as_theirs(weights, settings["layers"], V7, V7_LATER)
                torch.save({k: torch.tensor(np.ascontiguousarray(v)) for k, v in named.items()}, path)
            found[peer] = Running(Program("rwkv", f"{path}:{kind}", args.threads), 0)
        else:
            if not (folder / "f32.gguf").exists():
                write_gguf(folder / "f32.gguf", weights, settings)
            quantise(folder / "f32.gguf", folder / f"{kind}.gguf", kind)
            found[peer] = Running(Program("llama", folder / f"{kind}.gguf", args.threads), 0)
    del weights
    if args.moe:
        mixture = load(ROOT / "bench" / "rwkv7_moe.cdr", texts)
        weights = sane_weights(mixture)
        write_weights(given, {n: x.shape for n, x in weights.items()}, weights.__getitem__)
        del weights
        for encoding in args.moe:
            found[f"moe {encoding}"] = artefact(mixture, encoding, folder / f"moe-{encoding}", given, args.threads)
    return found


def compare(running: Mapping[str, Running], ids: Sequence[int]) -> None:
    """Say how far the logits of each program are from those of our f32, and those of the mixtures from their first."""
    logits = {n: np.asarray(r.program.run(ids[:16], ids[16:20], logits=True)["logits"]) for n, r in running.items()}
    first = next((name for name in running if name.startswith("moe")), "")
    for name, x in logits.items():
        want = logits[first if name.startswith("moe") else "f32"]
        error = np.sqrt(np.mean((x - want) ** 2) / np.mean(want**2))
        print(f"{name}: RMS difference from our {first if name.startswith('moe') else 'f32'} {error:.1e}", flush=True)


def take_turns(running: Mapping[str, Running], args: argparse.Namespace, ids: Sequence[int]) -> list[float]:
    """Run all, `rounds` times and once before; the bytes a second that are read from memory, a round."""
    memory, bandwidth = Memory(args.threads), []
    prompt, tokens = ids[: args.prompt], ids[args.prompt :]
    for turn in range(args.rounds + 1):
        for name in list(running)[:: -1 if turn % 2 else 1]:
            taken = running[name].program.run(prompt, tokens, args.rows)
            if turn:  # the first round is not counted
                running[name].rounds.append(taken)
        _, seconds = clocked(memory.read)
        if turn:
            bandwidth.append(READ_SIZE / seconds[args.clock])
    memory.close()
    return bandwidth


def table(running: Mapping[str, Running], args: argparse.Namespace, bandwidth: Sequence[float]) -> Iterator[str]:
    """The lines of the markdown tables."""
    amounts = {"decode": args.tokens, "prompt": args.prompt} | {f"batch {n}": n * args.tokens for n in args.rows}
    yield f"{args.threads} thread(s), {args.clock} time; memory reads {median(bandwidth) / 1e9:.1f} GB/s"
    yield from ("", "| | | tokens/s | of memory | peers: tokens/s, ratio |", "|---|---|---|---|---|")
    for work in amounts:
        for name, one in running.items():
            ours = one.rates(work, amounts, args.clock)
            if not one.read_bytes or not ours:
                continue
            shares = [a * one.read_bytes / b for a, b in zip(ours, bandwidth, strict=True)]
            told = []
            for peer in (p for p in one.peers if p in running):
                theirs = running[peer].rates(f"batch {THEIR_ROWS}" if "batch" in work else work, amounts, args.clock)
                if theirs:
                    ratio = median(a / b for a, b in zip(ours, theirs, strict=True))
                    told.append(f"{peer} {median(theirs):.1f}, {ratio:.2f}")
            share = f"{median(shares):.2f}" if work == "decode" else ""
            yield f"| {work} | {name} | {median(ours):.1f} | {share} | {'; '.join(told)} |"
    yield from ("", "| | open, s | resident, MB | a token needs, MB |", "|---|---|---|---|")
    for name, one in running.items():
        needs = f"{one.read_bytes / 1e6:.1f}" if one.read_bytes else ""
        held = median(each["resident"] for each in one.rounds)
        yield f"| {name} | {one.program.open:.3f} | {held / 1e6:.1f} | {needs} |"


def _encodings(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    if wrong := [name for name in names if name not in PEERS]:
        raise argparse.ArgumentTypeError(f"{wrong[0]} is none of {', '.join(PEERS)}")
    return names


def main() -> None:
    """Build all, compare their logits, and let them take turns."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--shape", choices=SHAPES, default="0.1B")
    parser.add_argument("--layers", type=int, help="instead of the shape's")
    parser.add_argument("--width", type=int, help="instead of the shape's, a multiple of 64")
    parser.add_argument("--vocab", type=int, default=65536)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--encodings", type=_encodings, default=list(PEERS), help="ours; f32 is always there")
    parser.add_argument("--moe", type=_encodings, default=["bf16", "i8", "i4"], help="of the mixtures; '' for none")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=48, help="tokens decoded a round, 4 or more")
    args = parser.parse_args()
    args.clock, args.rows = "cpu" if args.threads == 1 else "wall", ROWS
    layers, width = SHAPES[args.shape]
    settings = {"layers": args.layers or layers, "d_model": args.width or width, "vocab": args.vocab, "head_size": 64}
    settings |= {"rank": 64, "gate_rank": 128}
    ids = np.random.default_rng(1).integers(1, args.vocab, args.prompt + args.tokens).tolist()
    with tempfile.TemporaryDirectory() as name:
        running = start(args, settings, Path(name))
        try:
            compare(running, [*ids, *ids][:20])
            bandwidth = take_turns(running, args, ids)
            print("\n".join(table(running, args, bandwidth)))
        finally:
            for one in running.values():
                one.program.close()


if __name__ == "__main__":
    main()
