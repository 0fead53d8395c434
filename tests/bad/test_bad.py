"""Bad programs and what the compiler says about them.

Each `eNNNN_what.cdr` here is a text with a mistake, and `eNNNN_what.expected` what a user reads: it must hold the
code of the file's name.  Helper modules stand in `lib/`.  A line `# --set name=value` gives settings on the command
line.  Expectations are written by `pytest tests/bad --update-expected`, and by nothing else.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cdrmix.check import load
from cdrmix.compiler import emit, lower
from cdrmix.diagnose import CompileError, render

BAD = Path(__file__).resolve().parent
CASES = sorted(BAD.glob("*.cdr"))


def said(path: Path) -> str:
    """Everything the compiler says about a bad program, in the short names of its files."""
    text = path.read_bytes().decode("utf-8", "replace")
    overrides = dict(re.findall(r"^# --set ([\w.]+)=(.*)$", text, re.MULTILINE))
    target = re.search(r"^# --target (\w+)$", text, re.MULTILINE)
    with pytest.raises(CompileError) as caught:
        model = load(path, overrides)
        if target:
            emit(lower(model), target[1])
    told = caught.value
    return "\n\n".join(render(d, told.sources.get(d.span.file), told.sources) for d in told.diagnostics) + "\n"


@pytest.mark.parametrize("path", CASES, ids=[path.stem for path in CASES])
def test_bad(path: Path, update_expected: bool) -> None:
    expected = path.with_suffix(".expected")
    found = said(path)
    code = path.stem[:5].upper()
    assert f"error[{code}]" in found, found
    assert str(BAD.parent) not in found, "a path of this machine"
    if update_expected:
        expected.write_text(found, encoding="utf-8")
    assert expected.is_file(), f"no {expected.name}; the compiler says:\n{found}"
    assert found == expected.read_text(encoding="utf-8")


def test_every_expectation_has_its_program() -> None:
    assert {path.stem for path in BAD.glob("*.expected")} == {path.stem for path in CASES}
