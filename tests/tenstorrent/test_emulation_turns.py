"""A whole model under several orders of its kernels' turns: not a bit of the results depends on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cdrmix.runtime.metalium.emulated import SEED
from cdrmix.runtime.session import Session

from cdrmix.check import load
from tests.small import write_spec

from .agree import compile_to, ids_of, needs_compiler

pytestmark = needs_compiler


@pytest.mark.parametrize("cores", [1, 4])
def test_results_do_not_depend_on_the_order_of_turns(
    cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDR_DEVICE", "emulated")
    model = load(write_spec(tmp_path))
    folder = compile_to(tmp_path / "a", model, "f32", cores)
    found = []
    for seed in range(1, 6):
        monkeypatch.setenv(SEED, str(seed))
        with Session.open(folder) as session:
            logits = np.stack([session.step(token) for token in ids_of(model, 4)])
            found.append({"logits": logits, **session.state()})
    for other in found[1:]:
        assert found[0].keys() == other.keys()
        assert all(np.array_equal(found[0][name], other[name]) for name in other)
