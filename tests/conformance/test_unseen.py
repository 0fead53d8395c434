"""Architectures that the compiler was not built around, each written from its paper in `unseen/`, on every backend.

The tinygrad program of every one runs with `CDRMIX_TINYGRAD=all` in the environment, else that of a few: its kernels
are compiled one by one.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from cdrmix.check import load

from .c_program import needs_compiler, rms, stream, worst
from .torch_agree import TOLERANCE, Pair, check_gradients, check_sequence, check_split, check_steps

SPECS = {path.stem: path for path in sorted(Path(__file__).with_name("unseen").glob("*.cdr"))}
EVERYTHING = os.environ.get("CDRMIX_TINYGRAD") == "all"
QUICK = ("delta_product", "hard_memory", "hgrn2", "hippo", "lru", "mamba1", "min_gru", "product_keys", "taylor")

torch.set_num_threads(1)


@cache
def pair(name: str) -> Pair:
    """One model with every parameter randomised, compiled once."""
    return Pair(load(SPECS[name]))


@pytest.mark.parametrize("name", SPECS)
def test_forward_is_the_interpreter(name: str) -> None:
    check_sequence(pair(name), 1, resets=False)
    check_sequence(pair(name), 13, resets=False)
    check_sequence(pair(name), 65, resets=True)


@pytest.mark.parametrize("name", SPECS)
def test_steps_are_the_interpreter(name: str) -> None:
    check_steps(pair(name), 13)


@pytest.mark.parametrize("name", SPECS)
def test_a_sequence_can_be_cut(name: str) -> None:
    check_split(pair(name), 37, 9)


@pytest.mark.parametrize("name", SPECS)
def test_gradients_are_those_of_the_token_loop(name: str) -> None:
    check_gradients(pair(name), 11, resets=True)


@needs_compiler
@pytest.mark.parametrize("name", SPECS)
def test_c_is_the_interpreter(name: str, tmp_path: Path) -> None:
    model, weights, ids = pair(name).model, pair(name).weights, pair(name).inputs(65)
    wanted = pair(name).interpreted(ids)
    program = stream(model, weights, tmp_path)
    logits = np.stack([program.step(int(t)) for t in ids])
    assert rms(logits, wanted.logits) <= TOLERANCE
    assert worst(program.state(), wanted.state) <= TOLERANCE
    program.reset()
    program.prefill(ids[:9])
    assert program.prefill(ids[9:]).tobytes() == logits[-1].tobytes()
    assert worst(program.state(), wanted.state) <= TOLERANCE


@pytest.mark.parametrize("name", SPECS if EVERYTHING else QUICK)
def test_tinygrad_is_the_interpreter(name: str) -> None:
    """Two sessions at once: blocks of eight, then token by token."""
    from . import tinygrad_device  # noqa: F401  (before tinygrad; skips where it has no device)

    tinygrad = pytest.importorskip("tinygrad")
    from . import tinygrad_agree

    with tinygrad.Context(NOOPT=1, PARALLEL=0):  # plain kernels: what is looked for is what they compute
        tinygrad_agree.check(pair(name).model, (8, 8, 1, 1, 1), batch=2)
