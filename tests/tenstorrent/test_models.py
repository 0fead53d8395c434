"""Whole models: compiled, their kernels run over the emulation, and compared with the interpreter.

A few small ones run always.  With `CDRMIX_TENSTORRENT=all` in the environment so do the library's other mixers, every
architecture of `tests/conformance/unseen`, more cores, heads of 32 to 128 and widths that fill no tiles.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from cdrmix.runtime.session import Session

from cdrmix.check import load, load_text
from cdrmix.ir.nodes import Model, Stored

from .agree import TOLERANCES, compare, compile_to, definition, ids_of, needs_compiler

TOKENS = 16
ROOT = Path(__file__).parents[2]
UNSEEN = {path.stem: path for path in sorted((ROOT / "tests" / "conformance" / "unseen").glob("*.cdr"))}
everything = pytest.mark.skipif(
    os.environ.get("CDRMIX_TENSTORRENT") != "all", reason="CDRMIX_TENSTORRENT=all runs every model"
)

USES = """
use "lib/norm.cdr" { layer_norm, rms_norm }
use "lib/embed.cdr" { embed, head }
use "lib/channel_mix.cdr" { channel_mix, swiglu }
use "lib/rwkv4.cdr" { rwkv4, channel_mix4 }
use "lib/rwkv6.cdr" { rwkv6, channel_mix6 }
use "lib/rwkv7.cdr" { rwkv7, rwkv7_gdn }
use "lib/mamba2.cdr" { mamba2 }
use "lib/retnet.cdr" { retnet }
use "lib/gated_delta.cdr" { gated_delta }
use "lib/attention.cdr" { attention, attention_alibi }
"""


@dataclass(frozen=True)
class Case:
    """A model: a file with settings, or a stack of one mixer and one channel mixer."""

    path: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    mixer: str = ""
    channels: str = ""
    width: int = 64
    layers: int = 2

    def load(self) -> Model:
        """The checked model."""
        if self.path:
            return load(ROOT / self.path, self.settings)
        channels = f"      ffn: residual layer_norm >> {self.channels}\n" if self.channels else ""
        text = f"""{USES}
model one {{
  vocab = 80
  d_model = {self.width}
  layers = {self.layers}
  context = 64
  stack {{
    emb: embed(vocab, d_model)
    repeat layer < layers {{
      mix: residual layer_norm >> {self.mixer}
{channels}    }}
    ln_out: layer_norm
    head(vocab)
  }}
}}
"""
        return load_text(text, "case.cdr")


TINY = Case("spec/tiny.cdr", {
    "vocab": "256", "d_model": "64", "layers": "2", "mixer": "rwkv7(N=32, dw=8, da=8, dv=8, dg=16)", "moe.hidden": "48",
    "moe.experts": "4",
})  # fmt: skip
GATED_DELTA = Case(mixer="gated_delta(N=32, V=32)", channels="swiglu(hidden=48)", layers=1)
HYBRID = Case("spec/hybrid.cdr", {
    "d_model": "64", "layers": "4", "vocab": "256", "mixer": "rwkv7(N=32, dw=8, da=8, dv=8, dg=8)",
    "moe.hidden": "48", "moe.experts": "4", "attn.heads": "4", "attn.kv_heads": "2", "attn.window": "8",
})  # fmt: skip

SMALL: dict[str, tuple[Case, Stored, int | None]] = {
    "tiny, f32": (TINY, "f32", 1),
    "tiny, bf16, several cores": (TINY, "bf16", None),
    "gated DeltaNet, f32, several cores": (GATED_DELTA, "f32", None),
    "hybrid, bf16": (HYBRID, "bf16", 1),
}
"""Those that always run."""

MORE = {
    "tiny as it is": Case("spec/tiny.cdr"),
    "hybrid": HYBRID,
    "gated DeltaNet": GATED_DELTA,
    "rwkv4": Case("spec/rwkv4.cdr"),
    "rwkv6": Case("spec/rwkv6.cdr"),
    "rwkv7": Case("spec/rwkv7.cdr"),
    "mamba2": Case(mixer="mamba2(expand=2, N=16, P=32)"),
    "retnet": Case(mixer="retnet(N=32)"),
    "attention with alibi": Case(mixer="attention_alibi(heads=4, window=5)", channels="channel_mix(hidden=100)"),
    "a head of 64": Case(mixer="rwkv7(N=64, dw=16, da=16, dv=16, dg=16)", width=128, layers=1),
    "a head of 128": Case(mixer="rwkv7(N=128, dw=16, da=16, dv=16, dg=16)", width=256, layers=1),
    "a head of 48": Case(mixer="rwkv7(N=48, dw=16, da=16, dv=16, dg=16)", width=96),
    "heads of 20": Case(mixer="rwkv7(N=20, dw=6, da=5, dv=4, dg=7)", channels="channel_mix(hidden=90)", width=60),
    "one decay a head, width 45": Case(mixer="rwkv7_gdn(N=15, dw=6, da=5, dv=4, dg=7)", width=45, layers=1),
    "a wide value": Case(mixer="gated_delta(N=48, V=80)", width=96, layers=1),
} | {name: Case(f"tests/conformance/unseen/{name}.cdr") for name in UNSEEN}
"""Those that run when they are asked for."""


@pytest.fixture(autouse=True)
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions run over the emulation, whatever this machine has."""
    monkeypatch.setenv("CDR_DEVICE", "emulated")


def agree(case: Case, folder: Path, stored: Stored, cores: int | None) -> None:
    model = case.load()
    compile_to(folder, model, stored, cores)
    found = compare(folder, model, ids_of(model, TOKENS))
    wrong = {what: error for what, error in found.errors.items() if not error <= TOLERANCES[stored]}
    assert not wrong, wrong


@needs_compiler
@pytest.mark.parametrize("name", SMALL)
def test_small_models_are_the_interpreter(name: str, tmp_path: Path) -> None:
    case, stored, cores = SMALL[name]
    agree(case, tmp_path / "a", stored, cores)


@everything
@needs_compiler
@pytest.mark.parametrize("cores", [1, None], ids=["one core", "all cores"])
@pytest.mark.parametrize("stored", ["f32", "bf16"])
@pytest.mark.parametrize("name", MORE)
def test_every_model_is_the_interpreter(name: str, stored: Stored, cores: int | None, tmp_path: Path) -> None:
    agree(MORE[name], tmp_path / "a", stored, cores)


@needs_compiler
def test_a_state_is_saved_loaded_forked_and_begun_anew(tmp_path: Path) -> None:
    """Every kind of state there is: vectors, matrices in tiles, and histories."""
    model = HYBRID.load()
    folder = compile_to(tmp_path / "a", model, "bf16", 1)
    ids = ids_of(model, 12)
    twin = definition(folder, model)
    with Session.open(folder) as session:
        session.prefill(ids[:10])
        session.save(tmp_path / "state")
        other = session.fork()
        after = session.step(ids[10])
        assert np.array_equal(other.step(ids[10]), after)
        session.step(ids[11])
        session.load(tmp_path / "state")
        assert session.tokens == 10
        assert np.array_equal(session.step(ids[10]), after)
        session.reset()
        again = session.prefill(ids[:3])
        wanted, _ = twin.run(ids[:3])
        assert np.sqrt(np.mean((again - wanted[-1]) ** 2) / np.mean(np.square(wanted[-1]))) <= TOLERANCES["bf16"]
