"""Long lines of generated code, broken before their operators, else inside their widest brackets.

Input: lines of a method body.
Output: the same code, in lines of at most `WIDTH` characters where there is a place to break at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

WIDTH = 108  # a method's body is indented by eight
_OPEN, _CLOSE = "([{", ")]}"
_ASSIGNED = re.compile(r"\s*(?:return |[\w.]+(?:\[[^=]*\])? = )")
_STRING = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'")
_OPERATORS = ((" + ", " - "), (" * ", " / ", " // "))


def wrapped(lines: Iterable[str]) -> list[str]:
    """See the module."""
    return [part for line in lines for part in _wrap(line)]


def _wrap(line: str, inside: bool = False) -> list[str]:
    """The line's parts; `inside` brackets, it may be broken anywhere."""
    if len(line) <= WIDTH or line.lstrip().startswith("#"):
        return [line]
    indent = " " * (len(line) - len(line.lstrip()))
    start = _ASSIGNED.match(line)
    at = start.end() if start else len(indent)
    cuts = _operators(line, at) if start or inside else []
    if cuts:
        pieces = [line[a:z].strip() for a, z in zip([at, *cuts], [*cuts, None], strict=True)]
        if not start:
            return [part for piece in pieces for part in _wrap(f"{indent}{piece}", True)]
        inner = [part for piece in pieces for part in _wrap(f"{indent}    {piece}", True)]
        return [f"{line[:at]}(", *inner, f"{indent})"]
    bracket = _widest(line, at)
    if bracket is None:
        return [line]
    a, z, commas = bracket
    pieces = [line[x + 1 : y].strip() for x, y in zip([a, *commas], [*commas, z], strict=True)]
    end = "," if commas else ""
    inner = [part for piece in pieces if piece for part in _wrap(f"{indent}    {piece}{end}", True)]
    return [line[: a + 1], *inner, *_wrap(indent + line[z:], inside)]


def _plain(line: str) -> str:
    """The line with its strings blanked."""
    return _STRING.sub(lambda m: "_" * len(m[0]), line)


def _operators(line: str, at: int) -> list[int]:
    """Where the loosest operators outside all brackets stand, from `at` on."""
    plain = _plain(line)
    for operators in _OPERATORS:
        depth, cuts = 0, []
        for p in range(at, len(plain)):
            depth += (plain[p] in _OPEN) - (plain[p] in _CLOSE)
            if depth == 0 and any(plain.startswith(o, p) for o in operators):
                cuts.append(p + 1)
        if cuts:
            return cuts
    return []


def _widest(line: str, at: int) -> tuple[int, int, list[int]] | None:
    """The widest of the outermost brackets from `at` on, a call's rather than an index's: its ends and its commas."""
    plain = _plain(line)
    found: list[tuple[int, int, list[int]]] = []
    depth, start = 0, 0
    commas: list[int] = []
    for p in range(at, len(plain)):
        if plain[p] in _OPEN:
            depth += 1
            if depth == 1:
                start, commas = p, []
        elif plain[p] in _CLOSE:
            depth -= 1
            if depth == 0:
                found.append((start, p, commas))
        elif plain[p] == "," and depth == 1:
            commas.append(p)
    return max(found, key=lambda f: (plain[f[0]] != "[" or plain[f[0] - 1] in " (", f[1] - f[0]), default=None)
