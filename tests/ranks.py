"""Training in 1, 2 and 4 processes, compared: `python -m tests.ranks FOLDER [NAME …]`.

Input: a folder to work in, and which of `CASES` to train, all by default.
Output: a JSON line a case: the largest differences of losses and of final weights from those of one process.  Ranks are
forked from a process that has imported everything; they talk by gloo.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from cdrmix.check import load_text
from cdrmix.train import place
from cdrmix.train.checkpoint import point_last
from cdrmix.train.config import TrainConfig
from cdrmix.train.loop import Trainer
from cdrmix.train.progress import read_metrics
from cdrmix.train.ranks import Ranks, join
from tests.small import SPEC, TEXT, write_spec

DENSE = SPEC.replace("layer % 2 == 1", "layer > 9")
HYBRID = """
use "lib/norm.cdr" { layer_norm, rms_norm }
use "lib/embed.cdr" { embed, head }
use "lib/attention.cdr" { attention }
use "lib/mamba2.cdr" { mamba2 }
use "lib/channel_mix.cdr" { token_shift, relu2 }
use "lib/moe_sigmoid.cdr" { moe_sigmoid }
model hybrid {
  vocab = 256
  d_model = 24
  stack {
    emb: embed(vocab, d_model)
    repeat layer < 2 {
      if layer == 1 {
        att: residual rms_norm >> attention(heads=3, kv_heads=1, window=6)
      } else {
        att: residual layer_norm >> mamba2(N=8, P=12)
      }
      ffn: residual layer_norm >> token_shift >> moe_sigmoid(relu2(hidden=20), experts=3, top_k=2, shared=1)
    }
    ln_out: layer_norm
    head(vocab)
    tie head.W = emb.E
  }
}
"""
CALM = {"lr": 3e-3, "warmup": 0, "eps": 1e-5}  # what has next to no gradient is not moved by its rounding
Z = {"lr": 3e-3, "warmup": 0, "eps": 1e-6, "z_loss": 1e-3, "ema": 0.5}

OUTSIDE = """
use "lib/embed.cdr" { embed, head }
op adds(x: [D]) -> [D] {
  param keep: [D] ~ uniform(0.1, 0.9)
  param first: [D] ~ normal(1)
  param unused: [D] ~ 0
  state S: [D] = first
  S' = keep * S + x
  aux small = mean[tokens](x[0]*x[0]) * sum[i](keep[i]*keep[i])
  metric most = max[i](keep[i])
  return S' + 0 * unused
}
model m {
  vocab = 256
  d_model = 8
  stack {
    emb: embed(vocab, d_model)
    repeat layer < 2 { mix: adds }
    head(vocab)
  }
}
"""
"""Parameters that are read outside of a layer's forward: where its state begins, by `aux` and by a metric."""


@dataclass(frozen=True, slots=True)
class Case:
    """A run by one process and by several; losses and weights differ by no more than `within`."""

    spec: str
    sizes: tuple[int, ...]
    changes: dict[str, Any] = field(default_factory=dict)
    within: float = 1e-6
    resumed: tuple[int, ...] = ()
    """On how many processes the run of the last size goes on from its second step."""


CASES = {
    "dense": Case(DENSE, (2,), {"compile": True, "recompute": "layers"}),
    "experts": Case(SPEC, (4,), {"accumulate": 2, "mesh": {"replicate": 2}, "optim": Z}),
    "hybrid": Case(HYBRID, (2, 4), {"carry_state": True, "recompute": "layers", "optim": CALM}, resumed=(1, 2, 4)),
    "muon": Case(SPEC, (4,), {"optim": {"kind": "muon", "warmup": 0, "eps": 1e-6}}),
    "outside": Case(OUTSIDE, (4,), {"mesh": {"replicate": 2}, "accumulate": 2, "carry_state": True}),
    "narrow": Case(SPEC, (2,), {"precision": "bf16"}, 1e-3),
    "long": Case(SPEC, (2,), {"steps": 24}, 1e-5),
}


def config(folder: Path, run: str, spec: str, **changes: Any) -> TrainConfig:
    """A run of a few steps over documents."""
    (folder / "text.txt").write_text(TEXT[:6000])
    (folder / "held.txt").write_text(TEXT[6000:6500])
    base = {
        "spec": write_spec(folder, spec, f"{run.split('-')[0]}.cdr"),
        "data": {"train": folder / "text.txt", "eval": folder / "held.txt"}, "eval_every": 2, "eval_tokens": 200,
        "out": folder / run, "steps": 4, "batch": 8, "context": 12, "log_every": 1, "save_every": 2, "keep": 9,
        "threads": 1, "device": "cpu",
        "optim": {"lr": 3e-3, "warmup": 0, "eps": 1e-6},
    }  # fmt: skip
    return TrainConfig.model_validate(base | changes)


def world(size: int, work: Callable[[Ranks], None], log: Path) -> list[int]:
    """Do the work in so many forked ranks; their statuses, negative for a signal."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.dup2(os.open(f"{log}-{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), 2)
                os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                ranks = join()
                work(ranks)
                ranks.leave()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def train(folder: Path, run: str, size: int, spec: str, resume: bool = False, **changes: Any) -> None:
    """Train in so many processes."""
    given = config(folder, run, spec, **changes)
    log = folder / f"{run}.log"
    if any(world(size, lambda ranks: Trainer(given, resume, ranks).train(), log)):
        sys.exit("\n".join(p.read_text()[-3000:] for p in sorted(folder.glob(f"{run}.log-*"))))


def losses(run: Path) -> list[float]:
    """The losses of a run, held-out ones too."""
    kinds = ("loss", "eval_loss", "ema_loss")
    return [r[kind] for r in read_metrics(run / "metrics.jsonl") for kind in kinds if kind in r]


def _kept(run: Path) -> dict[str, torch.Tensor]:
    """The weights of the last checkpoint, and their average if there is one."""
    average = run / "last" / "ema.safetensors"
    averages = {f"average of {n}": x for n, x in load_file(average).items()} if average.exists() else {}
    return load_file(run / "last" / "weights.safetensors") | averages


def differ(one: Path, two: Path) -> dict[str, float]:
    """The largest differences between two runs."""
    a, b = losses(one), losses(two)
    weights = [_kept(run) for run in (one, two)]
    assert len(a) == len(b) and weights[0].keys() == weights[1].keys()
    by_name = {n: float((x.float() - weights[1][n].float()).abs().max()) for n, x in weights[0].items()}
    worst = max(by_name, key=lambda n: by_name[n])
    return {"losses": max(abs(x - y) for x, y in zip(a, b, strict=True)), "weights": by_name[worst], "of": worst}


def main(folder: Path, names: list[str]) -> None:
    """Train every case by one process and by several."""
    warnings.simplefilter("ignore")
    place.require_compiler = lambda device: None
    torch.compile = partial(torch.compile, backend="aot_eager")  # the graph, without its compiler
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or CASES:
        case = CASES[name]
        load_text(case.spec)  # the parser's tables, and what it has read of the library, are forked too
        plain = {key: x for key, x in case.changes.items() if key not in ("mesh", "compile")}
        train(folder, f"{name}-1", 1, case.spec, **plain)
        for size in case.sizes:
            train(folder, f"{name}-{size}", size, case.spec, **case.changes)
            found = differ(folder / f"{name}-1", folder / f"{name}-{size}")
            print(json.dumps({"case": name, "ranks": size, **found}), flush=True)
        for size in case.resumed:
            whole, cut = folder / f"{name}-{case.sizes[-1]}", f"{name}-on-{size}"
            shutil.copytree(whole, folder / cut, symlinks=True)
            point_last(folder / cut, folder / cut / "checkpoints" / "step-00000002")
            train(folder, cut, size, case.spec, True, **plain)
            print(json.dumps({"case": name, "resumed": size, **differ(whole, folder / cut)}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
