"""`cdrmix bench`: it runs on every kind of engine, and says what is true; how fast is not a test's business."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from cdrmix.artifact import write_artifact
from cdrmix.check import load_text
from cdrmix.cli import main
from cdrmix.compiler import lower
from cdrmix.ir.cost import cost
from cdrmix.speed import Speed, describe, measure
from tests.good.commands import SMALL
from tests.small import ADDS


def asked(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, object]:
    """The JSON of a short run."""
    words = ["bench", str(folder), "--json", "--prompt", "9", "--tokens", "4", "--streams", "3", "--rounds", "2", *more]
    assert main(words) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_a_c_program(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(home / "made", capsys, "--threads", "2")
    assert found["threads"] == 2
    assert list(found) == [f.name for f in fields(Speed)]
    assert (found["model"], found["target"], found["how"]) == ("small", "cpu", "executed")
    assert str(found["about"]).endswith(" kernels") and found["processor"]
    assert (found["prompt_tokens"], found["tokens"], found["streams"], found["rounds"]) == (9, 4, 3, 2)
    for name in ("prompt", "decode", "bandwidth", "bandwidth_share", "open_seconds", "cores", "threads", "state_bytes"):
        value = found[name]
        assert isinstance(value, int | float) and value > 0, name
    assert found["weight_bytes_read"] == cost(load_text(SMALL)).total.read_bytes()
    assert isinstance(found["resident_bytes"], int | None)
    assert isinstance(found["batch"], float) and found["batch"] > 0 and found["no_batch"] == ""


def test_what_is_shown(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_artifact(lower(load_text(ADDS)), "torch", tmp_path)
    shown = describe(measure(tmp_path, 5, 3, 2, 1))
    for part in (
        "m (torch): torch ",
        "decoding ",
        " of what memory allows (",
        "a prompt ",
        "a batch ",
        "a stream's state",
    ):
        assert part in shown
    assert main(["bench", str(home)]) == 1 and "is not an artefact" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["bench", str(home / "made"), "--rounds", "0"])
    assert "give 1 or more" in capsys.readouterr().err
