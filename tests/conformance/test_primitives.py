"""Every primitive on every target that runs here, over one and several indices, at ordinary and at extreme inputs.

Each number is compared with the interpreter's: to a few units in the last place of f32 of itself or, where terms may
cancel, of the largest number of its state.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from cdrmix.ir.interp import Interpreter
from cdrmix.ir.nodes import Model

from .c_program import needs_compiler, stream
from .primitives import GROUPS, Array, Primitive, extreme, huge, model_of, ordinary, weights_of
from .torch_agree import module_of

torch.set_num_threads(1)
States = list[Mapping[str, Array]]
TINY = 3e-37
"""Numbers near f32's smallest may come out as zero: silu's do where its exponential ends."""
ROWS = 8
LARGEST = 3.4028235e38


INPUTS = {"ordinary": ordinary, "extreme": extreme, "huge": huge}
OVERFLOW = ("add", "sub", "sum", "mean", "neg")
CANCEL = ("add", "sub", "sum", "mean", "logsumexp")
FACTORS = {"softmax": 20}
"""The exponent's rounding is of the size of what is subtracted: 90 / 2 units of the result's."""


def chosen_of(group: str, key: str) -> list[Primitive]:
    return [p for p in GROUPS[group] if key == "ordinary" or p.wide and (key == "extreme" or p.of not in OVERFLOW)]


def of_terms(p: Primitive, y: Array, key: str) -> float:
    """A size that an error may be counted in besides the number's own: of what cancels in it."""
    if not p.wide:
        return float(np.max(np.abs(y), initial=0.0))
    return float(np.max(np.abs(INPUTS[key]()), axis=-1).max()) if p.of in CANCEL else 0.0


@cache
def model_for(group: str, key: str) -> Model:
    with tempfile.TemporaryDirectory() as folder:
        return model_of(chosen_of(group, key), Path(folder))


def tokens_of(group: str, row: int) -> list[int]:
    """What a session reads: its row, and as many more as a window has."""
    return [(row + n) % ROWS for n in range(4 if group == "windows" else 1)]


@cache
def wanted(group: str, key: str) -> States:
    """The interpreter's states of every session."""
    interpreter = Interpreter(model_for(group, key), weights_of(INPUTS[key]()))
    return [interpreter.run(tokens_of(group, row)).state for row in range(ROWS)]


def compare(found: States, group: str, key: str, tolerance: float = 2e-6) -> list[str]:
    """What differs, by primitive."""
    wrong = []
    for row, (got, want) in enumerate(zip(found, wanted(group, key), strict=True)):
        for p in chosen_of(group, key):
            path = f"all.{p.state}"
            x, y = np.asarray(got[path], np.float64), np.asarray(want[path], np.float64)
            y = np.where(np.abs(y) > LARGEST, np.copysign(np.inf, y), y)
            with np.errstate(invalid="ignore"):
                off = np.abs(x - y) / (
                    np.abs(y) * tolerance * FACTORS.get(p.of, 1) + tolerance * of_terms(p, y, key) + TINY
                )
            bad = ~(off <= 1) & ~((x == y) | (np.isnan(x) & np.isnan(y)))
            if bad.any():
                at = int(np.argmax(np.where(bad, np.nan_to_num(off, nan=1e30), 0)))
                wrong.append(f"{p.name} row {row}: {x.flat[at]!r} for {y.flat[at]!r}")
    return wrong


def cases() -> list[tuple[str, str]]:
    return [(g, key) for g in GROUPS for key in INPUTS if chosen_of(g, key)]


@pytest.mark.parametrize(("group", "key"), cases())
def test_torch(group: str, key: str) -> None:
    model = model_for(group, key)
    module = module_of(model)
    module.load_state_dict({path: torch.from_numpy(w) for path, w in weights_of(INPUTS[key]()).items()})
    module.eval()
    tokens = torch.tensor([tokens_of(group, row) for row in range(ROWS)])
    state = module.init_state(ROWS)  # type: ignore[operator]
    with torch.no_grad():
        for token in tokens.T:
            _, state = module.step(token, state)  # type: ignore[operator]
        _, at_once = module(tokens, None, None)
    for found in (state, at_once):
        assert not compare([{p: x[row].numpy() for p, x in found.items()} for row in range(ROWS)], group, key)


@needs_compiler
@pytest.mark.parametrize(("group", "key"), cases())
def test_c(group: str, key: str, tmp_path: Path) -> None:
    model = model_for(group, key)
    program = stream(model, weights_of(INPUTS[key]()), tmp_path / "c")
    stepped, prompted = [], []
    for row in range(ROWS):
        program.reset()
        for token in tokens_of(group, row):
            program.step(token)
        stepped.append(program.state())
        program.reset()
        program.prefill(tokens_of(group, row))
        prompted.append(program.state())
    assert not compare(stepped, group, key)
    assert not compare(prompted, group, key)
