"""The one way from a spec's texts to generated Python: identifiers, string literals, comments, docstrings.

Input: any text a spec can hold.
Output: Python that cannot mean anything else.  Identifiers are kept where they can be, and end in `_` where Python or
the generated code has taken them; strings go through `ascii`; comments and docs stay on their lines.
"""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterable, Mapping

from cdrmix.diagnose import NOWHERE, Span

RESERVED = frozenset({*keyword.kwlist, *keyword.softkwlist, *dir(builtins)})
"""What no identifier may be: keywords and builtins."""


def identifier(name: str) -> str:
    """A Python identifier near `name`, no keyword and no builtin."""
    found = re.sub(r"[^A-Za-z0-9_]", "_", name)
    if not found.strip("_") or found[0].isdigit() or found.startswith("__"):
        found = f"n{found}"
    while found in RESERVED:
        found += "_"
    return found


def text(value: str) -> str:
    """A string literal."""
    code = ascii(value)
    return f'"{code[1:-1]}"' if code[0] == "'" and '"' not in code else code


def comment(value: str, width: int = 110) -> str:
    """What may follow `# `: one line of printable text."""
    flat = "".join(c if c.isprintable() else " " for c in value)
    flat = " ".join(flat.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def equation(span: Span, sources: Mapping[str, str]) -> str:
    """The equation at `span` as a comment; nothing where it is only a piece of one."""
    if span == NOWHERE or span.file not in sources:
        return ""
    lines = sources[span.file].splitlines()[span.line - 1 : span.end_line]
    if not lines or lines[0][: span.col - 1].strip():
        return ""
    if len(lines) == 1:
        return comment(lines[0][span.col - 1 : span.end_col - 1])
    return comment(" ".join([lines[0][span.col - 1 :], *lines[1:-1], lines[-1][: span.end_col - 1]]))


def doc(value: str) -> list[str]:
    """The lines of a docstring's body: no quotes that end it, no escapes, no control characters."""
    lines = []
    for line in value.splitlines():
        plain = "".join(c if c.isprintable() else " " for c in line)
        lines.append(plain.replace("\\", "/").replace('"""', "'''").rstrip().removesuffix('"'))
    while lines and not lines[-1]:
        lines.pop()
    return lines


class Names:
    """The identifiers of one Python scope."""

    def __init__(self, taken: Iterable[str] = ()):
        self._taken = {*taken}

    def fresh(self, name: str) -> str:
        """A new identifier near `name`."""
        base = identifier(name)
        found, count = base, 1
        while found in self._taken:
            count += 1
            found = f"{base}_{count}"
        self._taken.add(found)
        return found
