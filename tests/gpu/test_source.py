"""The kernels' source, executed on a CPU by the real runner: logits and state are the interpreter's.

Dense and mixtures of experts, every kind of recurrence, attention; step, prompt in blocks, batch; stored types.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cdrmix.codegen.tinygrad import toolchain
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

MODELS: dict[str, tuple[str, Stored]] = {
    "delta rule and experts": (
        """
    repeat layer < layers {
      att: residual layer_norm >> rwkv7(N=8, dw=8, da=8, dv=8, dg=8)
      ffn: residual layer_norm >> token_shift >> moe(relu2(hidden=16), experts=4, top_k=2)
    }
""",
        "f32",
    ),
    "a window, max-plus, and one token at a time": (
        """
    repeat layer < layers {
      old: residual layer_norm >> rwkv4
    }
    win: residual layer_norm >> attention(heads=4, window=6)
    seq: residual layer_norm >> sequential
    new: residual rms_norm >> gated_delta(N=8, V=8)
""",
        "i8",
    ),
    "f16": ("    ffn: residual layer_norm >> relu2(hidden=40)\n", "f16"),
    "bf16": ("    ffn: residual layer_norm >> relu2(hidden=40)\n", "bf16"),
}


@dataclass(frozen=True, slots=True)
class Ready:
    model: Model
    folder: Path
    weights: dict[str, np.ndarray]
    kernels: Path


SOURCES = [("cuda", name) for name in MODELS] + [("rocm", name) for name in list(MODELS)[:2]]


@pytest.fixture(scope="module", params=SOURCES, ids=lambda source: ", ".join(source))
def ready(request: pytest.FixtureRequest, built: Built, tmp_path_factory: pytest.TempPathFactory) -> Ready:
    target, name = request.param
    text, weights = MODELS[name]
    if target == "rocm" and toolchain.llvm() is None:
        pytest.skip("no LLVM 19")
    folder = tmp_path_factory.mktemp("source")
    head = HEAD if "layers" in text else HEAD.replace("  layers = 2\n", "")
    model = load_text(head + text + TAIL)
    with pytest.MonkeyPatch.context() as patch:
        made, stored = compiled.artefact(model, folder, built, patch, target, weights, batches=(1, 2), blocks=(8,))
    return Ready(model, made, read_values(stored, made / "weights.safetensors"), folder / "mock" / "kernels.so")


@pytest.fixture
def engine(ready: Ready, mock: Mock, monkeypatch: pytest.MonkeyPatch) -> Iterator[DeviceEngine]:
    monkeypatch.setenv("MOCK_CODE", str(ready.kernels))
    made = open_engine(ready.folder, compiled.manifest(ready.folder))
    yield made
    made.close()


def reference(ready: Ready, ids: list[int]) -> tuple[np.ndarray, dict[str, Any]]:
    interpreter = Interpreter(ready.model, ready.weights)
    state, logits = interpreter.start(), np.zeros(0)
    for t in ids:
        logits, state = interpreter.step(t, state)
    return logits, state


def same(engine: DeviceEngine, state: Any, wanted: dict[str, Any]) -> None:
    found = engine.read(state)
    assert found.keys() == wanted.keys()
    worst = max(wanted, key=lambda path: compiled.error(found[path], wanted[path]))
    assert compiled.error(found[worst], wanted[worst]) <= TOLERANCE, worst


IDS = [int(t) for t in np.random.default_rng(3).integers(0, 37, 40)]


def test_a_document_begins_as_the_interpreters(ready: Ready, engine: DeviceEngine) -> None:
    same(engine, engine.start(), Interpreter(ready.model, ready.weights).start())


def test_steps(ready: Ready, engine: DeviceEngine) -> None:
    interpreter = Interpreter(ready.model, ready.weights)
    wanted, state = interpreter.start(), engine.start()
    for t in IDS[:9]:
        logits, wanted = interpreter.step(t, wanted)
        assert compiled.error(engine.prefill(state, [t]), logits) <= TOLERANCE
        same(engine, state, wanted)


@pytest.mark.parametrize("parts", [(8,), (16, 8), (3, 8, 1), (21,)])
def test_prompts(parts: tuple[int, ...], ready: Ready, engine: DeviceEngine) -> None:
    state, at = engine.start(), 0
    for n in parts:
        found = engine.prefill(state, IDS[at : at + n])
        at += n
    logits, wanted = reference(ready, IDS[:at])
    assert compiled.error(found, logits) <= TOLERANCE
    same(engine, state, wanted)


def test_a_batch(ready: Ready, engine: DeviceEngine) -> None:
    batch, state = engine.batch(2), engine.start()
    engine.prefill(state, IDS[:9])
    batch.put(1, state)
    for n in range(3):
        found = batch.step([IDS[n], IDS[9 + n]])
    for row, ids in enumerate((IDS[:3], IDS[:12])):
        logits, wanted = reference(ready, ids)
        assert compiled.error(found[row], logits) <= TOLERANCE
        same(engine, batch.take(row), wanted)
    batch.close()


def test_the_likeliest_tokens(ready: Ready, engine: DeviceEngine) -> None:
    found = engine.generate(engine.start(), IDS[0], 5, Sampling(temperature=0)).tolist()
    wanted, ids = [], [IDS[0]]
    for _ in range(5):
        wanted.append(int(np.argmax(reference(ready, ids)[0])))
        ids.append(wanted[-1])
    assert found == wanted


def test_a_state_goes_from_one_target_to_another(
    ready: Ready, built: Built, mock: Mock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A state that the cpu target saved goes on here and back, when the weights are the same."""
    if (stored := compiled.manifest(ready.folder)["stored"]) != "f32":
        pytest.skip(f"the cpu target's weights are f32, these are {stored}")
    monkeypatch.setenv("MOCK_CODE", str(ready.kernels))
    monkeypatch.setenv("CFLAGS", "-O1")
    write_artifact(lower(ready.model), "cpu", tmp_path / "cpu", ready.folder.parent / "checkpoint.safetensors")
    with Session.open(tmp_path / "cpu") as cpu, Session.open(ready.folder) as gpu:
        cpu.prefill(IDS[:11])
        cpu.save(tmp_path / "s")
        gpu.load(tmp_path / "s")
        assert gpu.tokens == 11
        assert compiled.error(gpu.step(3), cpu.step(3)) <= TOLERANCE
        gpu.save(tmp_path / "t")
        cpu.load(tmp_path / "t")
        assert compiled.error(cpu.step(4), gpu.step(4)) <= TOLERANCE
