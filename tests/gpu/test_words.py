"""The runtime's numbers for kinds of error are those of errors.h."""

from __future__ import annotations

import re
from pathlib import Path

from cdrmix.runtime.device import ABSENT


def test_the_kinds_that_mean_no_device() -> None:
    header = (Path(__file__).parents[2] / "runtime" / "c" / "errors.h").read_text()
    kinds = re.findall(r"CDR_[A-Z_]+", header[header.index("enum {") : header.index("CDR_LAST_ERROR")])
    assert {name: kinds.index(name) for name in ABSENT} == ABSENT
