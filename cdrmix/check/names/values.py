"""Static values: their kinds, how they are shown, and which op arguments they fit.

Input: a `Static` and the place it came from.  Output: the value as it was asked for, or a mistake in the report and
`Failed`.
"""

from __future__ import annotations

from typing import NoReturn

from cdrmix.check.names.scope import OpDecl, OpValue, Static
from cdrmix.diagnose import Report, Span
from cdrmix.syntax import ast

LARGEST = 2**63 - 1
"""Whole numbers stay below this, so that every target can hold them."""

CONTEXT = ("layer", "layers")
"""Static formals that every op has without naming them."""


class Failed(Exception):
    """A mistake was found and is already in the report."""


def fail(report: Report, code: str, span: Span, message: str, help: str = "") -> NoReturn:
    """Report a mistake and raise `Failed`."""
    report.error(code, span, message, help)
    raise Failed


def kind_of(value: Static) -> str:
    """`int`, `float`, `bool`, `string` or `op`."""
    match value:
        case bool():
            return "bool"
        case int():
            return "int"
        case float():
            return "float"
        case str():
            return "string"
        case OpValue():
            return "op"


def a_kind(kind: str) -> str:
    """The kind with its article."""
    return f"an {kind}" if kind in ("int", "op") else f"a {kind}"


def show(value: Static) -> str:
    """The value as the language writes it, on one line and never long; strings cannot smuggle control characters."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            short = value if len(value) <= 60 else value[:57] + "…"
            return '"' + "".join(c if c.isprintable() else repr(c)[1:-1] for c in short) + '"'
        case OpValue(op=op, args=args):
            return f"{op.name}({', '.join(f'{name}={show(arg)}' for name, arg in args)})" if args else op.name
        case _:
            return repr(value)


def accept(value: Static, kind: str, what: str, at: Span, report: Report) -> Static:
    """The value as one of `kind`: an int serves as a float, nothing else is converted."""
    found = kind_of(value)
    if found == kind:
        return value
    if kind == "float" and found == "int":
        return float(value)  # type: ignore[arg-type]  # LARGEST is far below the largest float
    help = f"give {a_kind(kind)}"
    if kind == "int" and found == "float":
        help += "; `/` gives a float, `//` floors" if float(value).is_integer() else ""  # type: ignore[arg-type]
    elif kind == "op" and found == "string":
        help += ", its name without quotes"
    fail(report, "E0214", at, f"{what} is {a_kind(kind)}, {show(value)} is {a_kind(found)}", help)


def whole(value: Static, what: str, at: Span, report: Report) -> int:
    """A count or size: an int, not a bool and not 4.0."""
    return accept(value, "int", what, at, report)  # type: ignore[return-value]


def inputs(op: OpDecl) -> list[ast.Formal]:
    """The formals that an application gives: tensors and places on an axis."""
    return [f for f in op.formals if f.kind in ("tensor", "index")]


def settable(op: OpDecl) -> list[ast.Formal]:
    """The static formals."""
    return [f for f in op.formals if f.kind not in ("tensor", "index")]


def missing(value: OpValue) -> list[str]:
    """Static formals without a default that nobody has given."""
    given = {name for name, _ in value.args}
    return [f.name for f in settable(value.op) if f.default is None and f.name not in given]


def check_complete(value: OpValue, at: Span, report: Report) -> None:
    """Report the arguments an op still needs before it can be applied (E0210)."""
    if absent := missing(value):
        names = " and ".join(f"`{name}`" for name in absent)
        fail(report, "E0210", at, f"op `{value.op.name}` needs {names}", f"give `{absent[0]}=…`")
