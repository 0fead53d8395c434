"""Long lines of generated code, broken inside their widest brackets.

Input: lines of a function's body.
Output: the same code, in lines of at most `WIDTH` characters where there is a bracket to break at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

WIDTH = 112  # a body is indented by four
_STRING = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'")


def wrapped(lines: Iterable[str]) -> list[str]:
    """See the module."""
    return [part for line in lines for part in _wrap(line)]


def _wrap(line: str) -> list[str]:
    code, _, axes = line.partition("  # ")
    if len(line) <= WIDTH or line.lstrip().startswith("#"):
        return [line]
    if axes:
        return [f"{line[: len(line) - len(line.lstrip())]}# {axes}", *_wrap(code)]
    found = _widest(line)
    if found is None:
        return [line]
    start, *commas, end = found
    indent = line[: len(line) - len(line.lstrip())]
    pieces = [line[a + 1 : z].strip() for a, z in zip([start, *commas], [*commas, end], strict=True)]
    inner = [part for piece in pieces if piece for part in _wrap(f"{indent}    {piece}{',' * bool(commas)}")]
    return [line[: start + 1], *inner, *_wrap(indent + line[end:])]


def _widest(line: str) -> list[int] | None:
    """The widest of the outermost brackets of calls and tables: where it opens, its commas, where it closes."""
    plain = _STRING.sub(lambda m: "_" * len(m[0]), line)
    found: list[list[int]] = []
    open_at: list[int] = []
    for p, c in enumerate(plain):
        if c in "([{":
            open_at.append(p)
            if len(open_at) == 1:
                found.append([p])
        elif c in ")]}" and open_at:
            open_at.pop()
            if not open_at:
                found[-1].append(p)
        elif c == "," and len(open_at) == 1:
            found[-1].append(p)
    spans = [f for f in found if len(f) > 1 and plain[f[0]] in "({" and f[-1] - f[0] > 1]
    return max(spans, key=lambda f: f[-1] - f[0], default=None)
