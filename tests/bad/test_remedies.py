"""What a help line says to write is right: written as it says, a program with one mistake is a program with none.

A program of this folder may say `# mends` for its only mistake, or `# mends N` for each of its first N: the remedy is
applied as text.  "add `…`, `…`" puts lines in front of the marked one (`use` and `op` in front of the file), "write
`…`" takes the place of the marked text, or of the equation that ends with it.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cdrmix.check import load
from cdrmix.diagnose import CompileError, Diagnostic

BAD = Path(__file__).resolve().parent
CASES = [path for path in sorted(BAD.glob("*.cdr")) if re.search(rb"^# mends", path.read_bytes(), re.MULTILINE)]
MOST = 40
"""Mistakes that one program may have."""


def mended(text: str, d: Diagnostic) -> str:
    """The text with a diagnostic's remedy applied."""
    lines = text.split("\n")
    added = re.search(r"add ((?:(?:the line )?`[^`]+`(?:, | and )?)+)", d.help)
    put = re.search(r"write `([^`]+)`", d.help)
    assert added or put, f"nothing to write in: {d.help}"
    if put:
        assert d.span.line == d.span.end_line, "the remedy is for one line"
        line = lines[d.span.line - 1]
        whole = re.match(r"[\w']+(\[[^\]]*\])?(, [\w']+(\[[^\]]*\])?)* = ", put[1])
        start = len(line) - len(line.lstrip()) if whole else d.span.col - 1
        lines[d.span.line - 1] = line[:start] + put[1] + line[d.span.end_col - 1 :]
    for new in reversed(re.findall(r"`([^`]+)`", added[1]) if added else []):
        lines.insert(0 if new.startswith(("use ", "op ")) else d.span.line - 1, new)
    return "\n".join(lines)


@pytest.mark.parametrize("path", CASES, ids=[path.stem for path in CASES])
def test_the_remedy_mends(path: Path, tmp_path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    (tmp_path / "lib").symlink_to(BAD / "lib")
    overrides = dict(re.findall(r"^# --set ([\w.]+)=(.*)$", text, re.MULTILINE))
    spec = tmp_path / path.name
    for _ in range(MOST):
        spec.write_text(text, encoding="utf-8")
        try:
            load(spec, overrides)
            return
        except CompileError as error:
            text = mended(text, error.diagnostics[0])
    pytest.fail(f"still wrong:\n{text}")
