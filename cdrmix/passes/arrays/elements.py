"""Expressions: each row of `ir.ops.OPS` as arrays.

Input: a `Node` and the draft it stands in.  Output: an `Array` over its free indices, in the order of the equation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, log

from cdrmix.ir import build, walk
from cdrmix.ir.arrays import Array, Type
from cdrmix.ir.build import FLOATS
from cdrmix.ir.nodes import TOKENS, Index, Node
from cdrmix.ir.ops import OPS
from cdrmix.ir.spelling import OF_NUMBERS
from cdrmix.ir.types import NARROW

from .draft import Draft
from .reads import clipped, read
from .sums import count_of, sum_of, zero_where_absent
from .values import alike, along, cast, elementwise, full, held, number, tensor, to_exact, to_float, to_int

Rule = Callable[[Node, Draft], Array]
RULES: dict[str, Rule] = {}
"""Of the rows that are not functions of their operands place by place, or not of all of them alike."""


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Register a rule."""

    def register(fn: Rule) -> Rule:
        RULES.update(dict.fromkeys(ops, fn))
        return fn

    return register


def lowered(n: Node, draft: Draft) -> Array:
    """A node as an array."""
    return RULES.get(n.op, _elementwise)(n, draft)


def valued(draft: Draft, n: Node, indices: Sequence[Index]) -> Array:
    """The expression of an equation over `indices`."""
    draft.turn_to(indices, [n])
    return lowered(n, draft)


def over(draft: Draft, n: Node, indices: Sequence[Index], lead: bool = True, place: bool = False) -> Array:
    """The expression of an equation over all of `indices`, and the leading axes."""
    return full(valued(draft, n, indices), indices, draft, lead, place)


@rule("const")
def _const(n: Node, draft: Draft) -> Array:
    return number(n.arg)


@rule("index")
def _index(n: Node, draft: Draft) -> Array:
    return clipped(draft.range(n.arg), {n.arg}, draft)


@rule("context")
def _context(n: Node, draft: Draft) -> Array:
    if n.arg == "pos":
        return draft.now(Array("context", arg="pos", type="int", lead=True))
    return Array("context", arg=n.arg, type="number")


@rule("read")
def _read(n: Node, draft: Draft) -> Array:
    x = read(n, draft, lowered)
    if n.arg.ref.kind == "param":
        x = held(x, next(p.dtype for p in draft.cell.params if p.name == n.arg.ref.name), draft)
    return to_float(x, draft) if x.type in NARROW else x


# --- elementwise ---------------------------------------------------------------------------------------------------
def _elementwise(n: Node, draft: Draft) -> Array:
    found = [lowered(a, draft) for a in n.args]
    row = OPS[n.op]
    known = [x.const for x in found if x.const is not None]
    if row.numpy is not None and len(known) == len(found):
        return _folded(n, known)
    if row.result == "bool":
        return _truth(n, found, draft)
    found = _operands(n, draft, found)
    if n.op in ("floordiv", "mod") and _type(n, found) == "float":
        found[0] = tensor(found[0], draft)
    of_numbers = n.op in ("max", "min") or (n.op in OF_NUMBERS and found[0].type == "number")
    if row.surface == n.op and not of_numbers:  # a function, which libraries have of tensors alone
        found = [tensor(x, draft) for x in found]
    if n.op in ("sin", "cos") and found[0].type == "exact" and draft.mode != "init":
        # whole turns are taken off while the angle has all its digits
        (angle,) = found
        angle = draft.shared("angle", Array("turn", (angle,), None, "turn", angle.dims, angle.lead))
        return elementwise(n.op, [angle], "exact", draft)
    return elementwise(n.op, found, _type(n, found), draft, zero_where_absent(n.op, found, draft))


def _folded(n: Node, given: Sequence[int | float]) -> Array:
    """The number it is, when all operands are known."""
    kind: type = float if n.dtype in FLOATS else int
    value = OPS[n.op].numpy(*(given if OPS[n.op].result == "bool" else map(kind, given)))  # type: ignore[misc]
    return number(bool(value) if n.dtype == "bool" else kind(value))


def _truth(n: Node, found: Sequence[Array], draft: Draft) -> Array:
    """A comparison, or what `and`, `or` and `not` make of truth values."""
    if all(x.type == "number" for x in found):
        return elementwise(n.op, found if n.op in LOGICAL else [to_int(x) for x in found], "number", draft)
    if n.op in LOGICAL:
        return elementwise(n.op, [cast(x, "bool") for x in found], "bool", draft)
    found = [to_int(x) for x in found]
    if any(x.type == "float" for x in found) and not draft.traits.gradients:
        found = [to_float(x, draft) for x in found]
    return elementwise(n.op, found, "bool", draft)


LOGICAL = ("and", "or", "not")


def _operands(n: Node, draft: Draft, given: Sequence[Array]) -> list[Array]:
    """The operands of a float or int op, of one type."""
    found = [_unless_absent(n, p, x, draft) for p, x in enumerate(given)]
    if n.dtype not in FLOATS:
        return [to_int(x) for x in found]
    if any(x.type == "float" or (x.type == "bool" and not draft.traits.gradients) for x in found):
        plain = n.op in ("add", "sub", "mul", "div") and draft.traits.gradients  # ints are lifted there
        return [x if plain and x.type == "int" else to_float(x, draft) for x in found]
    return [to_exact(x) for x in found]


def _unless_absent(n: Node, p: int, x: Array, draft: Draft) -> Array:
    """A safe operand in place of a token that is not there, where its value or its gradient might be infinite."""
    at, safe = OPS[n.op].singular or (-1, 0.0)
    if at != p or x.type != "float" or _whole_power(n) or not draft.traits.gradients:
        return x
    if not safe and x.absent_is_zero:
        return x
    for i in x.dims:
        if i in draft.here:
            x = Array("select", (draft.there(i), x, number(safe)), None, "float", x.dims, True)
    return x


def _type(n: Node, found: Sequence[Array]) -> Type:
    if all(x.type == "number" for x in found):
        return "number"
    if n.dtype not in FLOATS:
        return "exact" if any(x.type == "exact" for x in found) else "int"
    return "float" if any(x.type == "float" for x in found) else "exact"


@rule("select")
def _select(n: Node, draft: Draft) -> Array:
    cond = lowered(n.args[0], draft)
    branches = list(n.args[1:])
    if draft.traits.gradients and draft.mode != "init" and cond.type != "number":
        branches = [_guarded(b, n.args[0], taken) for b, taken in zip(branches, (True, False), strict=True)]
        if any(OPS[m.op].kind == "reduce" for m in walk.nodes(n.args[0])):  # guards ask it again
            cond = draft.shared("condition", cond)
    found = _operands(n, draft, [lowered(b, draft) for b in branches])
    if cond.const is not None:
        return found[0] if cond.const else found[1]
    kind = _type(n, found)
    if kind == "number":
        if cond.type == "number":
            return elementwise("select", [cond, *found], "number", draft)
        kind = "float" if n.dtype in FLOATS and draft.mode != "init" else "exact" if n.dtype in FLOATS else "int"
        found[0] = tensor(found[0], draft) if kind == "float" else found[0]  # of two numbers a tensor chooses neither
    return elementwise("select", [cast(cond, "bool"), *found], kind, draft)


def _guarded(branch: Node, cond: Node, taken: bool) -> Node:
    """The branch of a choice, taken where `cond` is `taken`, with another operand where it is not.

    A choice alone would multiply the gradient of what was not taken by zero, and zero times infinity is no number.
    """
    if branch.op == "read" or not branch.args or branch.dtype not in FLOATS:
        return branch
    args = [_guarded(a, cond, taken) for a in branch.args]
    at, safe = OPS[branch.op].singular or (0, None)
    if safe is not None and not _whole_power(branch) and walk.has_reads(args[at]):
        args[at] = _chosen(args[at], cond, taken, safe)
    return walk.rebuild(branch, tuple(args))


def _chosen(operand: Node, cond: Node, taken: bool, safe: float) -> Node:
    other = build.const(safe)
    made = build.select(cond, operand, other) if taken else build.select(cond, other, operand)
    known = operand.op == "select" and operand.args[0] == cond and other in operand.args
    return operand if known else made


def _whole_power(n: Node) -> bool:
    """A power that has a finite gradient everywhere."""
    return n.op == "pow" and n.args[1].op == "const" and n.args[1].arg >= 1


@rule("sqrt")
def _sqrt(n: Node, draft: Draft) -> Array:
    """`sqrt(sum[i](x[i]^2))` is a norm, which has a gradient at zero."""
    total = n.args[0]
    match total.args:
        case (Node(op="pow", args=(body, Node(op="const", arg=2))),) if total.op == "sum" and draft.mode != "init":
            if not set(total.arg) & draft.here and total.arg[0].axis != TOKENS and draft.traits.gradients:
                x = lowered(body, draft)
                if x.type == "float" and set(total.arg) <= set(x.dims):
                    return along("norm", x, total.arg)
    return _elementwise(n, draft)


# --- along indices -------------------------------------------------------------------------------------------------
@rule("sum", "mean", "max_over", "min_over", "logsumexp")
def _reduction(n: Node, draft: Draft) -> Array:
    if any(i.axis == TOKENS for i in n.arg):
        return draft.total(n)
    if n.op in ("sum", "mean"):
        return sum_of(n, draft, lowered)
    x = _operand(n, draft)
    varies = [i for i in n.arg if i in x.dims]
    if n.op == "logsumexp":
        return _logsumexp(tensor(x, draft), varies, n, draft)
    return along(n.op, masked(x, varies, inf if n.op == "min_over" else -inf, draft), varies) if varies else x


def _logsumexp(x: Array, varies: Sequence[Index], n: Node, draft: Draft) -> Array:
    """Where the operand does not vary, the logarithm of how many places there are."""
    if varies:
        x = along("logsumexp", masked(x, varies, -inf, draft), varies)
    for i in (i for i in n.arg if i not in varies):
        places = count_of(i, draft)
        known = places.const is not None
        more = number(log(i.axis.size)) if known else Array("log", (places,), type="float", lead=True)
        x = elementwise("add", [x, more], x.type, draft)
    return x


@rule("softmax")
def _softmax(n: Node, draft: Draft) -> Array:
    x = _operand(n, draft)
    if n.arg in x.dims:
        x = masked(x, (n.arg,), -inf, draft)
        return Array("softmax", (x,), n.arg, x.type, x.dims, x.lead, n.arg in draft.here)
    if n.arg not in draft.here:  # the same everywhere: an even share
        return number(1.0 / n.arg.axis.size)
    share = (to_float(draft.there(n.arg), draft), count_of(n.arg, draft))
    return Array("div", share, None, "float", (n.arg,), True, True)


def _operand(n: Node, draft: Draft) -> Array:
    """The operand, a truth value as a number."""
    x = lowered(n.args[0], draft)
    return alike([x], draft)[0] if n.dtype in FLOATS else to_int(x)


def masked(x: Array, indices: Sequence[Index], fill: float, draft: Draft) -> Array:
    """The value with `fill` where a token of the window is not there."""
    for i in indices:
        if i in draft.here:
            x = to_exact(x)
            x = Array("masked", (draft.there(i), x), fill, x.type, x.dims, True)
    return x
