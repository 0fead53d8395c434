"""The interpreter against other people's programs for the same models: the `rwkv` package, and trained weights."""

from __future__ import annotations

import importlib.util
import os
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from cdrmix.runtime.session import Session

from cdrmix.artifact import write_artifact
from cdrmix.check import load
from cdrmix.compiler import lower
from cdrmix.ir.initial import random_weights
from cdrmix.ir.interp import Interpreter
from cdrmix.ir.nodes import Model
from cdrmix.ir.verify import verify
from cdrmix.weights import write_weights

SPECS = Path(__file__).parents[2] / "spec"
DATA = Path(os.environ.get("CDRMIX_DATA", SPECS.parent.parent / "shared" / "data"))
Arrays = dict[str, np.ndarray]
Names = Mapping[str, str]

LAYER = {"ln1.weight": "att.layer_norm.w", "ln1.bias": "att.layer_norm.b"}
LAYER |= {"ln2.weight": "ffn.layer_norm.w", "ln2.bias": "ffn.layer_norm.b"}
OUTER = {"emb.weight": "emb.E", "blocks.0.ln0.weight": "ln0.w", "blocks.0.ln0.bias": "ln0.b"}
OUTER |= {"ln_out.weight": "ln_out.w", "ln_out.bias": "ln_out.b", "head.weight": "head.W"}
MATRICES = {"att.receptance.weight": "att.Wr", "att.key.weight": "att.Wk", "att.value.weight": "att.Wv"}
MATRICES |= {"att.output.weight": "att.Wo"}
FINCH = {"att.gate.weight": "att.Wg", "att.ln_x.weight": "att.gn_w", "att.ln_x.bias": "att.gn_b"}
FFN = {"ffn.key.weight": "ffn.Wk", "ffn.receptance.weight": "ffn.Wr", "ffn.value.weight": "ffn.Wv"}

# Their name of a layer's tensor, ours, and what makes theirs of ours.
V7 = LAYER | MATRICES | {"att.ln_x.weight": "att.gn_w", "att.ln_x.bias": "att.gn_b", "att.r_k": "att.r_k"}
V7 |= {f"att.x_{c}": f"att.m{c}" for c in "rwkvag"} | {f"att.{n}": f"att.{n}" for n in ("w0", "a0", "k_k", "k_a")}
V7 |= {f"att.{n}": f"att.{n}.T" for n in ("w1", "w2", "a1", "a2", "g1", "g2")}
V7 |= {"ffn.x_k": "ffn.shift.mk", "ffn.key.weight": "ffn.ffn.Wk", "ffn.value.weight": "ffn.ffn.Wv"}
V7_LATER = {"att.v0": "att.nu0", "att.v1": "att.nu1.T", "att.v2": "att.nu2.T"}
V6 = LAYER | MATRICES | FINCH | FFN
V6 |= {"att.time_maa_x": "att.mx", "att.time_decay": "att.w0", "att.time_faaaa": "att.u"}
V6 |= {"att.time_maa_w1": "att.m1.T", "att.time_maa_w2": "att.m2.T", "att.time_decay_w1": "att.w1.T"}
V6 |= {"att.time_decay_w2": "att.w2.T", "ffn.time_maa_k": "ffn.mk", "ffn.time_maa_r": "ffn.mr"}
V6 |= {f"att.time_maa_{c}": f"att.m0.{n}" for n, c in enumerate("wkvrg")}
V4 = LAYER | MATRICES | FFN | {f"att.time_mix_{c}": f"att.m{c}" for c in "kvr"}
V4 |= {"att.time_decay": "att.decay", "att.time_first": "att.u", "ffn.time_mix_k": "ffn.mk", "ffn.time_mix_r": "ffn.mr"}


def named_as_theirs(weights: Arrays, layers: int, names: Names, later: Names) -> Arrays:
    """Our weights under their names, in their layouts."""
    found = {theirs: weights[ours] for theirs, ours in OUTER.items()}
    for n in range(layers):
        for theirs, ours in ({**names, **(later if n else {})}).items():
            path, _, how = ours.rpartition(".") if ours.rpartition(".")[2] in ("T", *"01234") else (ours, "", "")
            value = weights[f"layer.{n}.{path}"]
            value = value.swapaxes(-1, -2) if how == "T" else value[int(how)] if how else value
            found[f"blocks.{n}.{theirs}"] = value
    return found


def run_package(version: str, checkpoint: Arrays, tokens: np.ndarray, folder: Path) -> Arrays:
    """What the package makes of a checkpoint."""
    import torch

    tensors = {k: torch.tensor(np.ascontiguousarray(v)) for k, v in checkpoint.items()}
    torch.save(tensors, folder / "model.pth")
    np.save(folder / "tokens.npy", tokens)
    script = Path(__file__).with_name("rwkv_package.py")
    command = [sys.executable, str(script), version, *(str(folder / n) for n in ("model.pth", "tokens.npy", "out.npz"))]
    subprocess.run(command, check=True, capture_output=True)
    return dict(np.load(folder / "out.npz"))


def close(got: np.ndarray, want: np.ndarray, relative: float = 1e-4) -> None:
    """Equal to within `relative` of the largest value."""
    np.testing.assert_allclose(got, want, rtol=0, atol=relative * np.abs(want).max())


needs_package = pytest.mark.skipif(importlib.util.find_spec("rwkv") is None, reason="the rwkv package is not installed")


@needs_package
def test_rwkv7_is_the_packages(tmp_path: Path) -> None:
    model = load(SPECS / "rwkv7.cdr", {"layers": "3", "d_model": "128"})
    weights, want, got = against_package("7", model, V7, V7_LATER, tmp_path)
    assert weights["layer.1.att.nu1"].any()
    for n in range(3):
        close(got[f"layer.{n}.att.x_prev"], want[f"state{3 * n}"])
        close(got[f"layer.{n}.att.S"], want[f"state{3 * n + 1}"])
        close(got[f"layer.{n}.ffn.shift.x_prev"], want[f"state{3 * n + 2}"])


@needs_package
def test_rwkv6_is_the_packages(tmp_path: Path) -> None:
    _, want, got = against_package("6", load(SPECS / "rwkv6.cdr"), V6, {}, tmp_path)
    for n in range(3):
        close(got[f"layer.{n}.att.x_prev"], want[f"state{3 * n}"])
        close(got[f"layer.{n}.att.S"], want[f"state{3 * n + 1}"].swapaxes(1, 2))
        close(got[f"layer.{n}.ffn.x_prev"], want[f"state{3 * n + 2}"])


@needs_package
def test_rwkv4_is_the_packages(tmp_path: Path) -> None:
    _, want, got = against_package("4", load(SPECS / "rwkv4.cdr"), V4, {}, tmp_path)
    for n in range(3):
        for p, name in enumerate(("att.x_prev", "att.num", "att.den", "att.p", "ffn.x_prev")):
            close(got[f"layer.{n}.{name}"], want[f"state{5 * n + p}"])


def against_package(
    version: str, model: Model, names: Names, later: Names, folder: Path
) -> tuple[Arrays, Arrays, Arrays]:
    """Logits compared over 64 tokens; the weights, and both final states."""
    verify(model)
    weights = random_weights(model, seed=7)
    layers = int(model.settings["layers"])
    used = named_as_theirs(weights, layers, names, later)
    tokens = np.random.default_rng(0).integers(0, model.vocab, 64)
    want = run_package(version, used, tokens, folder)
    run = Interpreter(model, weights).run(tokens)
    close(run.logits, want["logits"])
    assert np.std(run.logits) > 0.1
    return weights, want, run.state


def read_trained(path: Path) -> Arrays:
    """The tensors of a file of rwkv.cpp."""
    data, at, found = path.read_bytes(), 24, {}
    while at < len(data):
        rank, key, kind = struct.unpack_from("<3i", data, at)
        shape = struct.unpack_from(f"<{rank}i", data, at + 12)[::-1]
        at += 12 + 4 * rank
        name, at = data[at : at + key].decode(), at + key
        assert kind == 0, "not fp32"
        count = int(np.prod(shape))
        found[name] = np.frombuffer(data, "<f4", count, at).reshape(shape)
        at += 4 * count
    return found


@pytest.mark.skipif(not DATA.is_dir(), reason="the trained weights are not here: set CDRMIX_DATA")
def test_trained_weights_give_their_logits(tmp_path: Path) -> None:
    """Through the interpreter, the torch module and the C program."""
    theirs = read_trained(DATA / "tiny-rwkv-7v0-834K-FP32.bin")
    want = np.fromfile(DATA / "expected-logits-7v0-834K.bin", "<f4")
    model = load(SPECS / "rwkv7.cdr", {"layers": "12", "head_size": "64"})
    weights = {ours: theirs[name] for name, ours in OUTER.items()}
    for n in range(12):
        stacked = theirs[f"blocks.{n}.att.x_rwkvag"].reshape(6, -1)
        weights |= {f"layer.{n}.att.m{c}": stacked[p] for p, c in enumerate("rwkvag")}
        for name, ours in (V7 | (V7_LATER if n else {})).items():
            if not name.startswith("att.x_"):
                # these files keep the low-rank matrices the other way round from the package's, as we do
                path = f"layer.{n}.{ours.removesuffix('.T')}"
                weights[path] = theirs[f"blocks.{n}.{name}"]
    shapes = {path: value.shape for path, value in random_weights(model).items()}
    weights = {path: value.reshape(shapes[path]) for path, value in weights.items()}
    run = Interpreter(model, weights).run(list(b'"in'))
    close(run.logits[-1], want, 1e-5)
    lowered, checkpoint = lower(model), tmp_path / "trained.safetensors"
    write_weights(checkpoint, shapes, weights.__getitem__)
    for target in ("torch", "cpu"):
        write_artifact(lowered, target, tmp_path / target, checkpoint)
        with Session.open(tmp_path / target) as session:
            close(session.prefill(list(b'"in')), want, 1e-5)
