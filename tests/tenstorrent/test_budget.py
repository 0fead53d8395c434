"""What plans hold and cost: the repository's specs, the devices' limits, and figures that can be worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cdrmix.codegen.metalium.artefact import deal_out, plan_model
from cdrmix.codegen.metalium.cost.budget import buffer_bytes, inspect, rows
from cdrmix.codegen.metalium.cost.devices import BUFFERS_BYTES, DEVICES
from cdrmix.codegen.metalium.cost.memory import misfits, state_bytes, weight_bytes
from cdrmix.codegen.metalium.cost.rates import RATES, Cost, cost
from cdrmix.codegen.metalium.lower.lines import schedule
from cdrmix.codegen.metalium.plan import Gather, ModelPlan

from cdrmix.check import load
from cdrmix.cli import main
from cdrmix.compiler import lower
from cdrmix.diagnose import CompileError
from cdrmix.inspect import weight_bytes as stored_bytes
from cdrmix.ir.forms import Program
from cdrmix.ir.nodes import Model, Stored

ROOT = Path(__file__).parents[2]
SPECS = sorted(path.stem for path in (ROOT / "spec").glob("*.cdr"))


def lowered(name: str, weights: Stored = "bf16", **settings: str) -> tuple[Model, Program]:
    model = load(ROOT / "spec" / f"{name}.cdr", settings)
    return model, lower(model, weights=weights).program


def dealt(
    name: str, device: str = "n150", weights: Stored = "bf16", cores: int | None = None
) -> tuple[Model, ModelPlan]:
    model, program = lowered(name, weights)
    return model, deal_out(schedule(program), DEVICES[device], cores)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("device", DEVICES)
def test_every_spec_has_a_budget(name: str, device: str) -> None:
    model, plan = dealt(name, device)
    assert sum(row.lines for row in rows(plan, DEVICES[device])) == len(model.lines)
    for row in rows(plan, DEVICES[device]):
        assert 1 <= row.program.cores <= DEVICES[device].cores
        assert buffer_bytes(row.program) <= BUFFERS_BYTES, "what `array_bytes` leaves for them"
        assert row.cost.seconds > row.cost.dram_bytes / DEVICES[device].dram_bandwidth
    text = inspect(lowered(name)[1], {"device": device})
    assert all(row.program.title in text for row in rows(plan, DEVICES[device]))
    assert ("does not fit" in text) == bool(misfits(plan, DEVICES[device], model))


def test_matrices_are_streamed_once_and_padded_little() -> None:
    model, plan = dealt("1b")
    exact = stored_bytes(model, "bf16")
    assert exact <= weight_bytes(plan) < 1.03 * exact


def test_f32_weights_take_twice_the_room() -> None:
    assert 1.9 < weight_bytes(dealt("1b", weights="f32")[1]) / weight_bytes(dealt("1b")[1]) <= 2.0


def test_heads_are_dealt_out_and_their_states_with_them() -> None:
    _, plan = dealt("1b")
    split = next(p.arrays["S"].split for p in plan.programs.values() if "S" in p.arrays)
    assert split is not None and (split.lead, split.each) == (16, 1)
    held = sum(p.arrays["S"].memory == "state" for p in plan.programs.values() if "S" in p.arrays)
    assert held == 2 and plan.programs["att"].state_bytes == 4 * (64 * 64 + 1024)


def test_states_are_spread_where_they_would_not_fit() -> None:
    _, plan = dealt("8b")
    assert state_bytes(plan) < 600_000
    for program in plan.programs.values():
        for step in program.steps:
            if isinstance(step, Gather):
                assert step.source not in program.arrays or program.arrays[step.source].split is not None
    assert all(a.split for p in plan.programs.values() for a in p.arrays.values() if a.memory == "state")
    assert not all(a.split for p in dealt("1b")[1].programs.values() for a in p.arrays.values() if a.memory == "state")


def test_fewer_cores_take_longer_over_a_stream() -> None:
    seconds = []
    for cores in (1, 4, 64):
        program = dealt("1b", cores=cores)[1].programs["head"]
        seconds.append(cost(program, DEVICES["n150"]).stream)
    assert seconds[0] > seconds[1] > seconds[2]
    weights = 32_768 * 1024 * 2
    assert seconds[0] == pytest.approx(weights / 32e9) and seconds[2] == pytest.approx(weights / 288e9)


def test_costs_add_up() -> None:
    one = Cost(dram_bytes=3, stream=1.0, matrix=2.0, compute=4.0, writer=8.0, gathers=16.0, launch=32.0)
    assert (one + one) == one * 2 and (one * 2).dram_bytes == 6
    assert one.seconds == 62.0 and replace(one, stream=3.0).seconds == 63.0


def test_gathers_are_counted_by_what_they_bring() -> None:
    _, plan = dealt("tiny")
    program = next(p for p in plan.programs.values() if any(isinstance(s, Gather) for s in p.steps))
    gathers = [s for s in program.steps if isinstance(s, Gather)]
    found = cost(program, DEVICES["n150"])
    assert found.gathers >= 2 * len(gathers) * RATES.meeting_seconds and found.noc_bytes > 0


@pytest.mark.parametrize(("device", "fits"), [("n150", False), ("p150", True)])
def test_dram_has_to_hold_the_weights(device: str, fits: bool) -> None:
    _, program = lowered("8b")
    if fits:
        assert plan_model(program, device).device == device
        return
    with pytest.raises(CompileError, match="E0909") as refused:
        plan_model(program, device)
    (told,) = refused.value.diagnostics
    assert "DRAM" in told.message and told.span.line > 0 and told.help


@pytest.mark.parametrize(("stored", "said"), [("f32", True), ("bf16", False)])
def test_no_remedy_is_told_that_was_taken(stored: Stored, said: bool) -> None:
    """A router's weights are in two planes also where all others are bf16."""
    program = lower(load(ROOT / "spec" / "8b.cdr"), weights=stored).program
    with pytest.raises(CompileError, match="E0909") as refused:
        plan_model(program, "n150")
    (told,) = refused.value.diagnostics
    assert ("--quant bf16" in told.help) == said and "--device p150" in told.help


def test_l1_has_to_hold_the_states() -> None:
    _, program = lowered("1b")
    with pytest.raises(CompileError, match="E0909") as refused:
        plan_model(program, "n150", cores=2)
    (told,) = refused.value.diagnostics
    assert "a core's memory" in told.message and told.span.line > 0 and told.help


def test_the_command_line_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    spec = str(ROOT / "spec" / "tiny.cdr")
    assert (
        main(["inspect", spec, "--target", "tenstorrent", "--device", "p150", "--cores", "4", "--quant", "bf16"]) == 0
    )
    text = capsys.readouterr().out
    assert "Blackhole p150" in text and "ffn_2: residual" in text
    assert main(["inspect", spec, "--target", "tenstorrent", "--json"]) == 0
    assert "tokens a second" in "".join(json.loads(capsys.readouterr().out)["budget"])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--target", "cpu"], "no account"),
        (["--device", "n150"], "without a target"),
        (["--target", "tenstorrent", "--device", "gs"], "no Tenstorrent device"),
        (["--target", "tenstorrent", "--cores", "65"], "64"),
    ],
)
def test_what_has_no_budget_is_refused(asked: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(ROOT / "spec" / "tiny.cdr"), *asked]) == 1
    assert said in capsys.readouterr().err
