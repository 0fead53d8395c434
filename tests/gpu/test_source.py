"""The kernels' source, executed on a CPU by the real runner: logits and state are the interpreter's.

Dense and mixtures of experts, every kind of recurrence, attention; step, prompt in blocks, batch; stored types.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cdrmix.runtime.device import DeviceEngine, open_engine
from cdrmix.runtime.sampling import Sampling
from cdrmix.runtime.session import Session

from cdrmix.artifact import write_artifact
from cdrmix.check import load_text
from cdrmix.compiler import lower
from cdrmix.ir.interp import Interpreter
from cdrmix.ir.nodes import Model, Stored
from cdrmix.packing import read_values

from . import compiled
from .build import Mock, needs_compilers
from .conftest import Built

pytest.importorskip("tinygrad")
pytestmark = needs_compilers
TOLERANCE = 1e-4

HEAD = """
use "lib/norm.cdr" { layer_norm, rms_norm }
use "lib/embed.cdr" { embed, head }
use "lib/rwkv7.cdr" { rwkv7 }
use "lib/rwkv4.cdr" { rwkv4 }
use "lib/attention.cdr" { attention }
use "lib/gated_delta.cdr" { gated_delta }
use "lib/channel_mix.cdr" { token_shift, relu2 }
use "lib/moe.cdr" { moe }

op sequential(x: [D]) -> [D] {
  param s0: [D] ~ 0
  state s: [D] = s0
  s' = tanh(s + x)
  return s'
}

model mixed {
  vocab = 37
  d_model = 24
  layers = 2
  stack {
    emb: embed(vocab, d_model)
"""

TAIL = """
    ln_out: layer_norm
    head(vocab)
  }
}
"""


@dataclass(frozen=True, slots=True)
class Case:
    """A model, the target it is compiled for, and how."""

    target: str
    text: str
    weights: Stored = "f32"
    batches: tuple[int, ...] = (1,)


DELTA = """
    repeat layer < layers {
      att: residual layer_norm >> rwkv7(N=8, dw=8, da=8, dv=8, dg=8)
      ffn: residual layer_norm >> token_shift >> moe(relu2(hidden=16), experts=4, top_k=2)
    }
"""
WINDOW = """
    repeat layer < layers {
      old: residual layer_norm >> rwkv4
    }
    win: residual layer_norm >> attention(heads=4, window=6)
    seq: residual layer_norm >> sequential
    new: residual rms_norm >> gated_delta(N=8, V=8)
"""
DENSE = "    ffn: residual layer_norm >> relu2(hidden=40)\n"

CASES = {
    "delta rule and experts": Case("cuda", DELTA, batches=(1, 2)),
    "a window, max-plus, and one token at a time": Case("cuda", WINDOW, "i8"),
    "f16": Case("cuda", DENSE, "f16"),
    "bf16": Case("cuda", DENSE, "bf16"),
    "LLVM IR": Case("rocm", DELTA, "f16", batches=(1, 2)),
}
IDS = [int(t) for t in np.random.default_rng(3).integers(0, 37, 40)]


@dataclass(frozen=True, slots=True)
class Ready:
    """The model, its artefact, and the values of its weights."""

    model: Model
    folder: Path
    weights: dict[str, np.ndarray]

    def after(self, ids: Sequence[int]) -> tuple[np.ndarray, dict[str, Any]]:
        """The interpreter's logits and state."""
        interpreter = Interpreter(self.model, self.weights)
        state, logits = interpreter.start(), np.zeros(0)
        for t in ids:
            logits, state = interpreter.step(t, state)
        return logits, state


@pytest.mark.parametrize("name", CASES)
def test_logits_and_state_are_the_interpreters(
    name: str, built: Built, mock: Mock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    case = CASES[name]
    model = load_text((HEAD if "layers" in case.text else HEAD.replace("  layers = 2\n", "")) + case.text + TAIL)
    folder, stored = compiled.artefact(
        model, tmp_path, built, monkeypatch, case.target, case.weights, case.batches, blocks=(8,)
    )
    monkeypatch.setenv("MOCK_CODE", str(tmp_path / "mock" / "kernels.so"))
    ready = Ready(model, folder, read_values(stored, folder / "weights.safetensors"))
    engine = open_engine(folder, compiled.manifest(folder))
    steps(ready, engine)
    for parts in ((8,), (16, 8), (3, 8, 1), (21,)):
        prompts(ready, engine, parts)
    likeliest(ready, engine)
    drawn(ready, engine)
    if 2 in case.batches:
        batch_of_two(ready, engine)
    engine.close()
    if case.weights == "f32":
        exchange(ready, tmp_path, monkeypatch)


def same(engine: DeviceEngine, state: Any, wanted: dict[str, Any]) -> None:
    found = engine.read(state)
    assert found.keys() == wanted.keys()
    worst = max(wanted, key=lambda path: compiled.error(found[path], wanted[path]))
    assert compiled.error(found[worst], wanted[worst]) <= TOLERANCE, worst


def steps(ready: Ready, engine: DeviceEngine) -> None:
    """Also a document's beginning, before any token."""
    interpreter = Interpreter(ready.model, ready.weights)
    wanted, state = interpreter.start(), engine.start()
    same(engine, state, wanted)
    for t in IDS[:9]:
        logits, wanted = interpreter.step(t, wanted)
        assert compiled.error(engine.prefill(state, [t]), logits) <= TOLERANCE
        same(engine, state, wanted)


def prompts(ready: Ready, engine: DeviceEngine, parts: Sequence[int]) -> None:
    state, at = engine.start(), 0
    for n in parts:
        found = engine.prefill(state, IDS[at : at + n])
        at += n
    logits, wanted = ready.after(IDS[:at])
    assert compiled.error(found, logits) <= TOLERANCE, parts
    same(engine, state, wanted)


def batch_of_two(ready: Ready, engine: DeviceEngine) -> None:
    batch, state = engine.batch(2), engine.start()
    engine.prefill(state, IDS[:9])
    batch.put(1, state)
    for n in range(3):
        found = batch.step([IDS[n], IDS[9 + n]])
    for row, ids in enumerate((IDS[:3], IDS[:12])):
        logits, wanted = ready.after(ids)
        assert compiled.error(found[row], logits) <= TOLERANCE, row
        same(engine, batch.take(row), wanted)
    batch.close()


def likeliest(ready: Ready, engine: DeviceEngine) -> None:
    found = engine.generate(engine.start(), IDS[0], 5, Sampling(temperature=0)).tolist()
    ids = [IDS[0]]
    for _ in range(5):
        ids.append(int(np.argmax(ready.after(ids)[0])))
    assert found == ids[1:]


def drawn(ready: Ready, engine: DeviceEngine) -> None:
    """Chosen on the device as `cdr_sample` chooses here, by the same random numbers."""
    how = Sampling(temperature=0.9, top_p=0.8, top_k=64, seed=7)
    assert compiled.manifest(ready.folder)["schedule"]["units"]["sample"]["top_k"] == how.top_k
    found = engine.generate(engine.start(), IDS[0], 6, how).tolist()
    ids, random = [IDS[0]], how.seed
    for _ in range(6):
        logits, _ = ready.after(ids)
        order = np.argsort(-logits, kind="stable")
        p = np.exp((logits[order] - logits[order[0]]) / how.temperature)
        kept = int(np.searchsorted(np.cumsum(p), how.top_p * p.sum())) + 1
        random, u = splitmix(random)
        ids.append(int(order[np.searchsorted(np.cumsum(p[:kept]), u * p[:kept].sum(), side="right")]))
    assert found == ids[1:]


def splitmix(state: int) -> tuple[int, float]:
    """The generator of sample.c."""
    state = z = (state + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return state, ((z ^ z >> 31) >> 11) * 2.0**-53


def exchange(ready: Ready, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """A state that the cpu target saved goes on here and back."""
    patch.setenv("CFLAGS", "-O1")
    write_artifact(lower(ready.model), "cpu", folder / "cpu", folder / "checkpoint.safetensors")
    with Session.open(folder / "cpu") as cpu, Session.open(ready.folder) as gpu:
        cpu.prefill(IDS[:11])
        cpu.save(folder / "s")
        gpu.load(folder / "s")
        assert gpu.tokens == 11
        assert compiled.error(gpu.step(3), cpu.step(3)) <= TOLERANCE
        gpu.save(folder / "t")
        cpu.load(folder / "t")
        assert compiled.error(cpu.step(4), gpu.step(4)) <= TOLERANCE
