"""The generated torch module against the interpreter: forward, step, final state, split sequences, gradients."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

from cdrmix.check import load, load_op
from cdrmix.ir.nodes import Model
from tests.conformance.torch_agree import (
    LENGTHS,
    Pair,
    check_gradients,
    check_sequence,
    check_split,
    check_steps,
)
from tests.conformance.torch_specs import LIBRARY, MODELS, OWN

ROOT = Path(__file__).parents[2]
OPS = Path(__file__).with_name("torch_ops.cdr")

torch.set_num_threads(1)


@cache
def pair(name: str) -> Pair:
    """One case, compiled once."""
    return Pair(_model(name))


def _model(name: str) -> Model:
    if name in LIBRARY:
        op, dims, args = LIBRARY[name]
        return load_op(OPS, op, dims, args)
    if name in MODELS:
        file, settings = MODELS[name]
        return load(ROOT / "spec" / f"{file}.cdr", settings)
    dims, args = OWN[name]
    return load_op(OPS, name, dims, args)


ALL = [*LIBRARY, *MODELS, *OWN]


@pytest.mark.parametrize("name", ALL)
def test_forward_is_the_interpreter(name: str) -> None:
    for length in LENGTHS if name not in MODELS or name == "tiny" else (1, 2, 63, 65):
        for resets in (False, True):
            check_sequence(pair(name), length, resets)


@pytest.mark.parametrize("name", ALL)
def test_steps_are_the_interpreter(name: str) -> None:
    check_steps(pair(name), 12)


@pytest.mark.parametrize("name", ALL)
def test_a_sequence_can_be_cut_anywhere(name: str) -> None:
    for cut in (1, 33):
        check_split(pair(name), 70, cut)


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_those_of_the_token_loop(name: str) -> None:
    check_gradients(pair(name), 19, resets=False)
    check_gradients(pair(name), 34, resets=True)
