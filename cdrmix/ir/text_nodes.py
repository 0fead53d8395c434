"""Expressions as text, in the language's own notation.

Input: a `Node`, and the axes that index names stand for in the cell.
Output: one line, with the fewest parentheses that keep the tree: `x[k] + (x_prev[k] - x[k])*mr[k]`.
"""

from __future__ import annotations

from collections.abc import Mapping

from cdrmix.ir.nodes import Axis, Index, Node, Ref
from cdrmix.ir.ops import OPS

# Loosest first, as the grammar has them.
_BINDS = {"select": 1, "or": 2, "and": 3, "not": 4, "add": 6, "sub": 6, "mul": 7, "div": 7, "floordiv": 7, "mod": 7}
_BINDS |= dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge"), 5)
_BINDS |= {"neg": 8, "pow": 9}
_ATOM = 10

Known = Mapping[str, Axis]
"""The axis of an index name, where the cell's heading already says it."""


def expression(n: Node, known: Known) -> str:
    """The text of a node."""
    return _show(n, known)[0]


def _show(n: Node, known: Known) -> tuple[str, int]:
    """The text and how tightly it binds."""
    match n.op:
        case "const":
            return _number(n.arg)
        case "index":
            return n.arg.name, _ATOM
        case "context":
            return n.arg, _ATOM
        case "read":
            inside = ",".join(expression(a, known) for a in n.args)
            return name(n.arg.ref) + (f"[{inside}]" if n.args else ""), _ATOM
        case "select":
            cond, then, other = n.args
            text = f"{_inside(then, 2, known)} if {_inside(cond, 2, known)} else {_inside(other, 1, known)}"
            return text, _BINDS["select"]
        case "neg":
            return f"-{_inside(n.args[0], 8, known)}", 8
        case "not":
            return f"not {_inside(n.args[0], 4, known)}", 4
    row = OPS[n.op]
    surface = row.surface or row.name
    if row.kind != "elementwise":
        bound = n.arg if row.kind == "reduce" else (n.arg,)
        return f"{surface}{listed(bound, known)}({expression(n.args[0], known)})", _ATOM
    if n.op not in _BINDS:
        return f"{surface}({', '.join(expression(a, known) for a in n.args)})", _ATOM
    # `^` groups to the right, comparisons not at all, the rest to the left.
    level = _BINDS[n.op]
    left = level + 1 if n.op == "pow" or level == 5 else level
    right = level if n.op == "pow" else level + 1
    gap = "" if n.op in ("mul", "div", "pow") else " "
    return f"{_inside(n.args[0], left, known)}{gap}{surface}{gap}{_inside(n.args[1], right, known)}", level


def _inside(n: Node, least: int, known: Known) -> str:
    text, level = _show(n, known)
    return text if level >= least else f"({text})"


def _number(value: bool | int | float) -> tuple[str, int]:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text, 8 if text.startswith("-") else _ATOM


def binder(i: Index, known: Known) -> str:
    """An index where it is bound, with its axis when the heading gives the name another one."""
    return i.name if known.get(i.name) == i.axis else f"{i.name} < {i.axis.name}"


def name(ref: Ref) -> str:
    """A name as the language writes it: `S'` for the state after this token."""
    return f"{ref.name}'" if ref.kind == "next" else ref.name


def over(ref: Ref, indices: tuple[Index, ...], known: Known) -> str:
    """A left side."""
    return name(ref) + (listed(indices, known) if indices else "")


def listed(indices: tuple[Index, ...], known: Known) -> str:
    """Indices where they are bound together."""
    return f"[{','.join(binder(i, known) for i in indices)}]"
