"""Simplifies expressions without changing what they mean.

Input: a `Cell`.
Output: the cell with constants folded (in float64, in the text's order), units and double negations gone, choices
on constants made, reductions over what does not vary replaced, and definitions that nothing reads dropped.  Whole
numbers are divided by nothing that may be zero: `a // b` and `a % b` are zero there.

Nothing that could be NaN or infinite is dropped (`0*x` stays), and a definition keeps the tokens it ranges over: a
rewrite that would lose the last read of a history's window is not made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf, isfinite, log

import numpy as np

from cdrmix.ir import build, walk
from cdrmix.ir.build import FLOATS
from cdrmix.ir.nodes import TOKENS, Cell, Node
from cdrmix.ir.ops import OPS
from cdrmix.ir.places import bounds
from cdrmix.passes import graph


def simplify(cell: Cell) -> Cell:
    """The simplified cell."""
    over_window = walk.windows(cell)
    return drop_unread(walk.map_roots(cell, lambda n: simplify_node(n, over_window)))


def simplify_node(n: Node, over_window: walk.Windows | None = None) -> Node:
    """The simplified expression."""
    found = over_window or {}
    ranged = walk.windowed(n, found)

    def rewrite(m: Node) -> Node:
        emptied = any(i in ranged and i not in m.args[0].free for i in walk.bound(m))
        return m if emptied else _rewrite(m)

    new = walk.transform(n, rewrite)
    lost = (ranged & walk.indices(new)) - walk.windowed(new, found)
    return n if lost else new


def drop_unread(cell: Cell) -> Cell:
    """The cell without the definitions that nothing reads; parts run all the same, since they may hold state."""
    kept = graph.Body(cell.body).needed(walk.refs(cell.training), graph.is_root)
    return cell if len(kept) == len(cell.body) else replace(cell, body=tuple(kept))


def _rewrite(n: Node) -> Node:
    for rule in RULES.get(n.op, ()):
        new = rule(n)
        if new is not None and new.dtype == n.dtype:
            return _rewrite(new)
    return n


# --- rules: the new node, or None ----------------------------------------------------------------------------------
Rule = Callable[[Node], Node | None]


def _is(n: Node, value: float) -> bool:
    return n.op == "const" and not isinstance(n.arg, bool) and n.arg == value


def _fold(n: Node) -> Node | None:
    """An elementwise op on constants."""
    if any(a.op != "const" for a in n.args) or (n.op in ("floordiv", "mod") and n.args[1].arg == 0):
        return None
    kind = np.float64 if n.dtype in FLOATS else np.bool_ if n.dtype == "bool" else np.int64
    compute = OPS[n.op].numpy
    assert compute is not None
    keep = OPS[n.op].result == "bool"
    with np.errstate(all="ignore"):
        value = compute(*(np.asarray(a.arg) if keep else np.asarray(a.arg, kind) for a in n.args)).item()
    return build.const(value, n.span) if isfinite(value) else None


def _add_nothing(n: Node) -> Node | None:
    a, b = n.args
    return a if _is(b, 0) else b if n.op == "add" and _is(a, 0) else None


def _multiply_by_one(n: Node) -> Node | None:
    a, b = n.args
    return a if _is(b, 1) else b if n.op == "mul" and _is(a, 1) else None


def _negate_twice(n: Node) -> Node | None:
    inner = n.args[0]
    return inner.args[0] if inner.op == n.op else None


def _gather_whole_constants(n: Node) -> Node | None:
    """`(i + 2) + 3` is `i + 5`; only whole numbers, since floats do not associate."""
    a, b = n.args
    if n.dtype != "int" or b.op != "const" or a.op not in ("add", "sub") or a.args[1].op != "const":
        return None
    total = (a.args[1].arg if a.op == "add" else -a.args[1].arg) + (b.arg if n.op == "add" else -b.arg)
    op, size = ("add", total) if total >= 0 else ("sub", -total)
    return build.node(op, a.args[0], build.const(size), span=n.span)


def _choose(n: Node) -> Node | None:
    cond, then, other = n.args
    return (then if cond.arg else other) if cond.op == "const" else None


def _decide(n: Node) -> Node | None:
    """`and` and `or` with one side known."""
    deciding = n.op == "or"
    for known, rest in (n.args, n.args[::-1]):
        if known.op == "const":
            return build.const(deciding, n.span) if bool(known.arg) == deciding else rest
    return None


def _reduce_what_does_not_vary(n: Node) -> Node | None:
    """`sum[k](c)` is `c` times the length of k; a mean or a maximum is `c` itself."""
    body = n.args[0]
    idle = [i for i in n.arg if i not in body.free and i.axis != TOKENS]  # what differs by token does not say so
    if not idle:
        return None
    rest = build.reduce(n.op, (i for i in n.arg if i not in idle), body, n.span)
    count = walk.size(idle)
    if n.op == "sum":
        return build.mul(rest, build.const(count), span=n.span) if count != 1 else rest
    if n.op == "logsumexp":
        return build.add(rest, build.const(log(count)), span=n.span) if count != 1 else rest
    return rest


def _divide_by_no_zero(n: Node) -> Node | None:
    """Whole numbers by zero are zero, on every device."""
    a, b = n.args
    if n.dtype != "int" or bounds(b, reads=(-inf, inf))[0] > 0 or b.op == "const" and b.arg != 0:
        return None
    zero, one = build.const(0), build.const(1)
    if b.op == "const":
        return zero
    if b.op == "select" and b.args[0] == build.node("eq", b.args[2], zero) and b.args[1] == one:
        return None
    found = build.node("eq", b, zero)
    return build.select(found, zero, build.node(n.op, a, build.select(found, one, b), span=n.span), span=n.span)


def _read_a_part(n: Node) -> Node | None:
    """`v[0 + i]` for an `i` of fewer places than `v` has stays arithmetic: an index alone means a whole axis."""
    args = tuple(
        build.add(a, build.const(0), span=a.span) if a.op == "index" and a.arg.axis.size != axis.size else a
        for a, axis in zip(n.args, n.arg.view, strict=True)
    )
    return None if args == n.args else replace(n, args=args)


RULES: dict[str, tuple[Rule, ...]] = {row.name: (_fold,) for row in OPS.values() if row.kind == "elementwise"}
RULES |= {row.name: (_reduce_what_does_not_vary,) for row in OPS.values() if row.kind == "reduce"}
RULES |= {
    "add": (_fold, _add_nothing, _gather_whole_constants),
    "sub": (_fold, _add_nothing, _gather_whole_constants),
    "mul": (_fold, _multiply_by_one),
    "div": (_fold, _multiply_by_one),
    "pow": (_fold, _multiply_by_one),
    "neg": (_fold, _negate_twice),
    "not": (_fold, _negate_twice),
    "select": (_fold, _choose),
    "and": (_fold, _decide),
    "or": (_fold, _decide),
    "floordiv": (_fold, _divide_by_no_zero),
    "mod": (_fold, _divide_by_no_zero),
    "read": (_read_a_part,),
}
