"""What takes long is told, and nothing else."""

from __future__ import annotations

import io
import sys
from time import monotonic

import pytest

from cdrmix import progress
from cdrmix.progress import doing, over, shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def speaker(monkeypatch: pytest.MonkeyPatch) -> progress._Speaker:
    """A speaker that looks when a test says so."""
    made = progress._Speaker()
    monkeypatch.setattr(progress, "_speaker", made)
    return made


def test_a_log_has_a_line_at_first_and_then_every_half_minute(
    speaker: progress._Speaker, capsys: pytest.CaptureFixture[str]
) -> None:
    with doing("outer"), doing("packing", 3, "tensors") as step:
        began = speaker.stack[1].began
        for at in (0.5, 1.9, 2.0, 10.0, 31.0, 32.5):
            speaker.look(began + at)
            step(0 if at < 2 else 1)
    assert capsys.readouterr().err == "packing: 0 of 3 tensors, 2 s\npacking: 3 of 3 tensors, 32 s\n"
    assert speaker.stack == []


def test_a_terminals_line_is_rewritten_and_erased(speaker: progress._Speaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    for number, _ in enumerate(over("ab", "reading", unit="files"), 1):
        speaker.look(speaker.stack[0].began + 2 * number)
    assert screen.getvalue() == "\r\x1b[Kreading …, 2 s\r\x1b[Kreading: 1 files, 4 s\r\x1b[K"


def test_a_failure_ends_the_work(speaker: progress._Speaker) -> None:
    with pytest.raises(ZeroDivisionError), doing("dividing"):
        1 / 0  # noqa: B018
    assert speaker.stack == []


def test_a_librarys_caller_is_left_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "AFTER", 0.0)
    with doing("work") as step:
        step(1)
    assert capsys.readouterr().err == ""


def test_the_thread_looks_by_itself(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    looked = []
    monkeypatch.setattr(progress, "TICK", 0.001)
    monkeypatch.setattr(progress._Speaker, "look", lambda self, now: looked.append(len(self.stack)))
    with shown(), doing("work"):
        until = monotonic() + 60
        while 1 not in looked and monotonic() < until:
            pass
    assert 1 in looked
