"""The simulated devices do what generated kernels count on: tiles through the FPU, the SFPU's functions, several cores.

Each check_*.py is a script for the environment's private Python; what it prints is judged here.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from . import environment

pytestmark = pytest.mark.skipif(
    not environment.ready(), reason="no simulator: python -m tests.tenstorrent.simulator.environment builds it"
)
HERE = Path(__file__).parent
DEVICES = ("wormhole", "blackhole")

TESTS = ("eq", "ne", "lt", "le", "gt", "ge", "gtz", "ltz", "gez", "lez", "eqz", "nez")
MOVES = ("binary_max", "binary_min", "abs", "sign", "negative", "relu", "floor", "where", "fill", "copy_dest")
EXACT = (*TESTS, *MOVES, "bitwise_and")
ROUNDED = {
    **dict.fromkeys(("add_binary", "sub_binary", "mul_binary", "div_binary", "square", "sqrt"), 1e-7),
    **dict.fromkeys(("add_unary", "sub_unary", "mul_unary", "rsub_unary"), 1e-7),
    **dict.fromkeys(("exp", "log", "rsqrt", "recip", "sigmoid", "silu", "tanh", "log1p", "expm1"), 3e-7),
    **dict.fromkeys((f"{op}_bcast_{way}" for op in ("add", "sub", "mul") for way in ("row", "col")), 1e-7),
    **dict.fromkeys(("sin", "cos"), 1e-6),
    "power": 5e-6,
}


@cache
def printed(script: str, device: str) -> dict[str, Any]:
    """The script's JSON; what else came (the simulator's own lines) if there is none."""
    done = environment.run([str(HERE / script)], 240, environment.variables(device))
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0 and lines, done.stdout[-3000:]
    found: dict[str, Any] = json.loads(lines[-1])
    return found


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", ["float32", "bfloat16", "transposed"])
def test_a_product_of_tiles(case: str, device: str) -> None:
    assert printed("check_matmul.py", device)[case]


@pytest.mark.parametrize("device", DEVICES)
def test_the_multiplier_cuts_off_low_bits_of_fp32(device: str) -> None:
    """What the splitting of an operand is for: 10 explicit bits of the left one survive, 9 of the right one."""
    found = printed("check_matmul.py", device)
    assert (found["dropped_left"], found["dropped_right"]) == (13, 14)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("how", ["WRITE", "MULTICAST", "READ"])
def test_cores_exchange_rows(how: str, device: str) -> None:
    assert printed("check_exchange.py", device)[how]


@pytest.mark.parametrize("device", DEVICES)
def test_state_stays_in_l1_between_programs(device: str) -> None:
    assert printed("check_exchange.py", device)["state"]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", [*EXACT, *ROUNDED])
def test_an_sfpu_function(name: str, device: str) -> None:
    assert printed("check_sfpu.py", device)[name] <= ROUNDED.get(name, 0.0)


def test_a_function_that_is_missing_is_named(tmp_path: Path) -> None:
    """The wheel's SFPU functions without a raw version here: the kernel does not link, and the reason says which."""
    script = tmp_path / "missing.py"
    script.write_text(f"""
import sys
sys.path.insert(0, {str(HERE)!r})
import numpy as np
from check_sfpu import HEADERS, STEP
from programs import Device
source = HEADERS + "void kernel_main() {{" + STEP.replace("{{call}}", "exp2_tile_init(); exp2_tile(0);") + "}}"
with Device() as device:
    device.through(source, [np.zeros((32, 32))] * 3, 1, 1)
""")
    done = environment.run([str(script)], 120)
    assert done.returncode != 0
    assert "calculate_exp2_absent" in done.stdout
