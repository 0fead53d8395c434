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
"""Where an f32 operand meets bf16 weights in the FPU, wolfpine cuts the operand to fewer bits than TF32.  Tenstorrent's
own simulator keeps TF32: run by hand there, these programs are within 5e-5, logits within 5e-6.  So what passes through
a product with weights is held to what the target promises of bf16, here 8e-3 at most, and only a state that no such
product touches to what it promises of f32."""


@dataclass(frozen=True, slots=True)
class Case:
    """A spec, how it is compiled, and what its run is held to."""

    spec: str
    stored: Stored = "f32"
    cores: int = 1
    tokens: int = 2
    state: float = MIXED
    sha256: str = ""
    """Of what came out, known to be good: it changes with what the kernels compute in which order, and only then."""


CASES = {
    "a matrix [96, 64] and a vector": Case(
        "product", sha256="301e97a1f3a38fefadd4926014394691b54fb00f9bcefd258fdabe8a12c1cb91"
    ),
    "the same in bf16, on two cores": Case(
        "product", "bf16", 2, sha256="d80f30224809b04a2d868590a32750802cbbf6c0d0be239974f3b87f9b0b2d90"
    ),
    "the state step of a head of 64": Case(
        "state", tokens=8, state=EXACT, sha256="476d93d07200a64c3fe59bacf684da1199e07c9f18632e37780e4426dfcd432f"
    ),
    "a whole time mix": Case(
        "time_mix", tokens=3, sha256="3c740fde6d535086d9cf712687270d817e41a9df02271582eaa5e31ed8ecbd5b"
    ),
    "two of eight experts": Case("route", sha256="96551b068edd3237974ce346a22076c04f023c7dc59415d34c984ff935c25493"),
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
