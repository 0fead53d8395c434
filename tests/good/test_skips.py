"""The check of what `.ci/run` lets be skipped."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.conftest import over

ALLOWED = "# a comment\n2 no such card\n1 no weights: set THEM\n"


def test_a_reason_that_is_not_listed_and_one_too_many() -> None:
    assert over(Counter({"no such card": 2, "no weights: set THEM": 1}), ALLOWED) == []
    assert over(Counter({"no such card": 3}), ALLOWED) == ["3 x no such card (2 allowed)"]
    assert over(Counter({"no such": 1}), ALLOWED) == ["1 x no such (0 allowed)"]


def test_the_list_is_read() -> None:
    over(Counter(), (Path(__file__).parents[2] / ".ci" / "skips").read_text())
