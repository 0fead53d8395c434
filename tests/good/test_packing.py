"""Weights in the types a target stores them in: what is written, what it stands for, what stays f32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from cdrmix.runtime.encodings import ENCODINGS
from safetensors.numpy import load_file

from cdrmix.check import load
from cdrmix.diagnose import UserError
from cdrmix.ir.cost import cost
from cdrmix.ir.initial import random_weights
from cdrmix.ir.interp import Interpreter
from cdrmix.ir.layout import weights as layout_weights
from cdrmix.ir.nodes import Model, Param, Stored
from cdrmix.packing import entries, pack, read_stored, read_values, stored
from cdrmix.passes.encodings import encode
from cdrmix.passes.precision import decide_precision
from tests.small import write_spec

NARROW: tuple[Stored, ...] = ("f16", "bf16", "i8", "i8g32")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(write_spec(tmp_path_factory.mktemp("spec")))


def test_narrowing_is_to_the_nearest_as_torch_does_it() -> None:
    x = np.random.default_rng(0).standard_normal((64, 33)).astype(np.float32) * np.float32(10.0) ** np.arange(-16, 17)
    x = np.clip(x, -3e38, 3e38)
    x[0, :3] = [0, -0.0, np.nan]
    ours = ENCODINGS["bf16"].widen(ENCODINGS["bf16"].narrow(x), x.shape)
    np.testing.assert_array_equal(ours, torch.from_numpy(x).bfloat16().float().numpy())
    finite = x[1:] / 1e12
    np.testing.assert_array_equal(ENCODINGS["f16"].narrow(finite)[""], torch.from_numpy(finite).half().numpy())
    assert np.isfinite(ENCODINGS["f16"].narrow(np.full((1, 2), 1e9))[""]).all()


def test_whole_numbers_are_within_half_a_step_of_their_row() -> None:
    x = np.random.default_rng(1).standard_normal((5, 7, 16)).astype(np.float32)
    x[2, 3] = 0
    found = ENCODINGS["i8"].narrow(x)
    assert found[""].dtype == np.int8 and found[".scale"].shape == (5, 7)
    error = np.abs(ENCODINGS["i8"].widen(found, x.shape) - x)
    assert (error <= 0.5001 * found[".scale"][..., None]).all() and np.abs(found[""]).max() == 127


def test_a_large_value_costs_its_group_alone() -> None:
    x = np.random.default_rng(1).standard_normal((4, 100)).astype(np.float32)
    x[:, 70] = 1000
    rows, groups = (np.abs(ENCODINGS[e].widen(ENCODINGS[e].narrow(x), x.shape) - x) for e in ("i8", "i8g32"))
    assert groups[:, :64].max() < 0.02 and rows[:, :64].max() > 1 and groups[:, 64:96].max() > 1
    assert groups[:, 96:].max() < 0.02  # a group of what is left


@pytest.mark.parametrize("to", ("f32", *NARROW))
def test_a_file_is_what_the_cost_says_and_reads_back(model: Model, tmp_path: Path, to: Stored) -> None:
    decided = decide_precision(encode(model, to))
    given = random_weights(model, 3)
    pack(tmp_path / "w.safetensors", decided, given.__getitem__)
    total = cost(decided).total.weight_bytes()
    held = sum(x.nbytes for x in read_stored(decided, tmp_path / "w.safetensors").values())
    assert held == total
    if to != "bf16":  # numpy reads no bf16
        assert set(load_file(tmp_path / "w.safetensors")) == set(entries(decided))
    for path, x in read_values(decided, tmp_path / "w.safetensors").items():
        scale = np.abs(given[path]).max()
        assert (
            np.abs(x - given[path]).max()
            <= scale * {"f32": 0, "f16": 2**-11, "bf16": 2**-8, "i8": 1 / 200, "i8g32": 1 / 200}[to]
        )


@pytest.mark.parametrize("to", NARROW)
def test_vectors_and_what_the_spec_declares_stay_f32(model: Model, to: Stored) -> None:
    for w in layout_weights(decide_precision(encode(model, to))):
        declared = isinstance(w.decl, Param) and w.path.endswith("Wg")  # a router: `f32[experts, D]`
        assert stored(w) == ("f32" if len(w.decl.indices) < 2 or declared else to), w.path


def test_a_state_that_begins_with_a_parameter_has_its_start_in_the_file(tmp_path: Path) -> None:
    text = "op running(x: [D]) -> [D] {\n  param first: [i < D] ~ normal(1)\n  state s: [D] = first\n"
    text += "  s' = 0.5*s + x\n  return s'\n}\n"
    spec = write_spec(tmp_path)
    spec.write_text(spec.read_text().replace("ln_out:", "run: running\n    ln_out:") + text)
    model = load(spec)
    decided = decide_precision(encode(model, "bf16"))
    given = random_weights(model, 4)
    pack(tmp_path / "w.safetensors", decided, given.__getitem__)
    found = read_stored(decided, tmp_path / "w.safetensors")
    np.testing.assert_array_equal(found["run.s.start"], Interpreter(model, given).start()["run.s"].astype(np.float32))


def test_another_models_file_is_refused(model: Model, tmp_path: Path) -> None:
    decided = decide_precision(encode(model, "f16"))
    pack(tmp_path / "w.safetensors", decide_precision(encode(model, "bf16")), random_weights(model, 0).__getitem__)
    with pytest.raises(UserError, match="BF16 in the file, not F16"):
        read_stored(decided, tmp_path / "w.safetensors")
