"""Generated kernels, launched by the artefact's own host.py, on a simulated card are the float64 interpreter.

The specs are in `specs/`; `python -m tests.tenstorrent.simulator.environment` makes what runs them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from cdrmix.ir.nodes import Stored
from cdrmix.verification import relative_rms

from . import environment
from .generated import compare, correlation

pytestmark = pytest.mark.skipif(
    not environment.ready(), reason="no simulator: python -m tests.tenstorrent.simulator.environment builds it"
)
LIMIT = 600
"""Seconds for one run; a pure-Python simulator on a busy machine."""

MIXED, EXACT = 2e-2, 1e-3
"""Where an f32 operand meets bf16 weights in the FPU, wolfpine cuts the operand to bf16 (Tenstorrent's own simulator
keeps TF32, and these very programs are within 1e-5 there).  So what passes through a product with weights is held to
what the target promises of bf16, and only a state that no such product touches to what it promises of f32."""


@dataclass(frozen=True, slots=True)
class Case:
    """A spec, how it is compiled, and what its run is held to."""

    spec: str
    stored: Stored = "f32"
    cores: int = 1
    tokens: int = 2
    state: float = MIXED
    sha256: str = ""


CASES = {
    "a matrix [96, 64] and a vector": Case("product"),
    "the same in bf16, on two cores": Case("product", "bf16", 2),
    "the state step of a head of 64": Case("state", tokens=8, state=EXACT),
    "a whole time mix": Case("time_mix", tokens=3),
    "two of eight experts": Case("route"),
}


@pytest.mark.parametrize("name", CASES)
def test_generated_kernels_are_the_interpreter(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    compared = compare(case.spec, tmp_path / "a", case.stored, case.cores, case.tokens, LIMIT)
    for key, wanted in compared.wanted.items():
        found = compared.found[key]
        error, alike = relative_rms(found, wanted), correlation(found, wanted)
        print(f"{key} {list(wanted.shape)}: relative RMS {error:.1e}, PCC {alike:.6f}")
        assert error <= (MIXED if key == "logits" else case.state)
        assert alike > 0.999
    print(f"sha256 {compared.sha256()}")
    assert compared.sha256() == case.sha256
