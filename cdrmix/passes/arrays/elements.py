"""Expressions: each row of `ir.ops.OPS` as arrays.

Input: a `Node` and the draft it stands in.  Output: an `Array` over its free indices, in the order of the equation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, log

from cdrmix.ir import build, walk
from cdrmix.ir.arrays import Array, Type, union
from cdrmix.ir.build import FLOATS
from cdrmix.ir.nodes import TOKENS, Index, Node
from cdrmix.ir.ops import OPS
from cdrmix.ir.spelling import OF_NUMBERS
from cdrmix.ir.types import NARROW

from .casts import held, number, tensor, to_bool, to_exact, to_float, to_int
from .draft import Draft
from .reads import clipped, read
from .sums import count_of, sum_of, zero_where_absent

Rule = Callable[[Node, Draft], Array]
RULES: dict[str, Rule] = {}
"""Of the rows that are not plainly functions of their operands, place by place."""


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Register a rule."""

    def register(fn: Rule) -> Rule:
        RULES.update(dict.fromkeys(ops, fn))
        return fn

    return register


def lowered(n: Node, draft: Draft) -> Array:
    """A node as an array."""
    return RULES.get(n.op, _function if len(n.args) == 1 else _arithmetic)(n, draft)


def valued(draft: Draft, n: Node, indices: Sequence[Index]) -> Array:
    """The expression of an equation over `indices`."""
    draft.turn_to(indices, [n])
    return lowered(n, draft)


@rule("const")
def _const(n: Node, draft: Draft) -> Array:
    return number(n.arg)


@rule("index")
def _index(n: Node, draft: Draft) -> Array:
    return clipped(draft.range(n.arg), {n.arg}, draft)


@rule("context")
def _context(n: Node, draft: Draft) -> Array:
    return draft.pos if n.arg == "pos" else Array("context", arg=n.arg, type="number")


@rule("read")
def _read(n: Node, draft: Draft) -> Array:
    x = read(n, draft, lowered)
    if n.arg.ref.kind == "param":
        x = held(x, next(p.dtype for p in draft.cell.params if p.name == n.arg.ref.name), draft)
    return to_float(x, draft) if x.type in NARROW else x


# --- elementwise ---------------------------------------------------------------------------------------------------
def _operands(n: Node, draft: Draft, args: Sequence[Node]) -> list[Array]:
    """The operands of a float or int op, of one type."""
    found = [_unless_absent(n, p, lowered(a, draft), draft) for p, a in enumerate(args)]
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


def _folded(n: Node, found: Sequence[Array]) -> Array | None:
    """The number it is, when all operands are known."""
    compute = OPS[n.op].numpy
    if compute is None or any(x.const is None for x in found):
        return None
    kind = float if n.dtype in FLOATS else int
    keep = OPS[n.op].result == "bool" or n.op == "select"
    value = compute(*(x.const if keep else kind(x.const) for x in found))  # type: ignore[arg-type]
    return number(bool(value) if n.dtype == "bool" else kind(value))


def elementwise(op: str, args: Sequence[Array], kind: Type, draft: Draft, zero: bool = False) -> Array:
    """An operation on arrays place by place."""
    return Array(op, tuple(args), None, kind, union(args, draft.order), any(x.lead for x in args), None, zero)


def _type(n: Node, found: Sequence[Array]) -> Type:
    if all(x.type == "number" for x in found):
        return "number"
    if n.dtype not in FLOATS:
        return "exact" if any(x.type == "exact" for x in found) else "int"
    return "float" if any(x.type == "float" for x in found) else "exact"


def _arithmetic(n: Node, draft: Draft) -> Array:
    found = _operands(n, draft, n.args)
    folded = _folded(n, found)
    if folded is not None:
        return folded
    kind = _type(n, found)
    if n.op in ("floordiv", "mod") and kind == "float":
        found[0] = tensor(found[0], draft)
    if OPS[n.op].surface == n.op and n.op not in ("max", "min"):  # a function, which libraries have of tensors alone
        found = [tensor(x, draft) for x in found]
        kind = _type(n, found)
    zero = n.op in ("mul", "div") and zero_where_absent(n.op, found[0], found[1], draft)
    return elementwise(n.op, found, kind, draft, zero)


@rule("neg")
def _neg(n: Node, draft: Draft) -> Array:
    (x,) = _operands(n, draft, n.args)
    return _folded(n, [x]) or elementwise("neg", [x], x.type, draft, x.absent_is_zero)


@rule("eq", "ne", "lt", "le", "gt", "ge")
def _comparison(n: Node, draft: Draft) -> Array:
    found = [to_int(lowered(a, draft)) for a in n.args]
    if any(x.type == "float" for x in found) and not draft.traits.gradients:
        found = [to_float(x, draft) for x in found]
    folded = _folded(n, found)
    if folded is not None:
        return folded
    known = all(x.type == "number" for x in found)
    return elementwise(n.op, found, "number" if known else "bool", draft)


@rule("and", "or", "not")
def _logical(n: Node, draft: Draft) -> Array:
    found = [lowered(a, draft) for a in n.args]
    folded = _folded(n, found)
    if folded is not None:
        return folded
    if all(x.type == "number" for x in found):
        return elementwise(n.op, found, "number", draft)
    return elementwise(n.op, [to_bool(x) for x in found], "bool", draft)


@rule("select")
def _select(n: Node, draft: Draft) -> Array:
    cond = lowered(n.args[0], draft)
    branches = list(n.args[1:])
    if draft.traits.gradients and draft.mode != "init" and cond.type != "number":
        branches = [_guarded(b, n.args[0], taken) for b, taken in zip(branches, (True, False), strict=True)]
        if any(OPS[m.op].kind == "reduce" for m in walk.nodes(n.args[0])):  # guards ask it again
            cond = draft.shared("condition", cond)
    found = _operands(n, draft, branches)
    if cond.const is not None:
        return found[0] if cond.const else found[1]
    kind = _type(n, found)
    if kind == "number" and cond.type != "number":  # two numbers, chosen by a tensor
        kind = "float" if n.dtype in FLOATS and draft.mode != "init" else "exact" if n.dtype in FLOATS else "int"
        found = [tensor(found[0], draft) if kind == "float" else found[0], found[1]]
    if kind == "number":
        return elementwise("select", [cond, *found], "number", draft)
    return elementwise("select", [to_bool(cond), *found], kind, draft)


def _guarded(branch: Node, cond: Node, taken: bool) -> Node:
    """The branch of a choice, taken where `cond` is `taken`, with another operand where it is not.

    A choice alone would multiply the gradient of what was not taken by zero, and zero times infinity is no number.
    """
    if branch.op == "read" or not branch.args or branch.dtype not in FLOATS:
        return branch
    args = [_guarded(a, cond, taken) for a in branch.args]
    at, safe = OPS[branch.op].singular or (0, None)
    if safe is not None and not _whole_power(branch) and any(True for _ in walk.reads(args[at])):
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


def _function(n: Node, draft: Draft) -> Array:
    norm = _norm(n, draft)
    if norm is not None:
        return norm
    (x,) = _operands(n, draft, n.args)
    folded = _folded(n, [x])
    if folded is not None:
        return folded
    if x.type == "number" and n.op not in OF_NUMBERS:
        x = tensor(x, draft)
    if n.op in ("sin", "cos") and x.type == "exact" and draft.mode != "init":
        # whole turns are taken off while the angle has all its digits
        x = draft.shared("angle", Array("turn", (x,), None, "turn", x.dims, x.lead))
        return elementwise(n.op, [x], "exact", draft)
    return elementwise(n.op, [x], x.type, draft, OPS[n.op].zero and x.absent_is_zero)


def _norm(n: Node, draft: Draft) -> Array | None:
    """`sqrt(sum[i](x[i]^2))` as a norm, which has a gradient at zero."""
    if n.op != "sqrt" or n.args[0].op != "sum" or n.args[0].args[0].op != "pow" or draft.mode == "init":
        return None
    total = n.args[0]
    body, exponent = total.args[0].args
    if exponent.op != "const" or exponent.arg != 2 or set(total.arg) & draft.here or total.arg[0].axis == TOKENS:
        return None
    x = lowered(body, draft) if draft.traits.gradients else number(0)
    if x.type != "float" or not set(total.arg) <= set(x.dims):
        return None
    return along("norm", x, total.arg)


# --- along indices -------------------------------------------------------------------------------------------------
def along(op: str, x: Array, indices: Sequence[Index]) -> Array:
    """A reduction over axes that the value has."""
    return Array(op, (x,), tuple(indices), x.type, tuple(d for d in x.dims if d not in indices), x.lead)


@rule("sum", "mean")
def _sum(n: Node, draft: Draft) -> Array:
    return sum_of(n, draft, lowered)


@rule("max_over", "min_over", "logsumexp")
def _reduce(n: Node, draft: Draft) -> Array:
    if any(i.axis == TOKENS for i in n.arg):
        return draft.tokens(n, draft)
    x = _operand(n, draft)
    over = [i for i in n.arg if i in x.dims]
    if n.op == "logsumexp":
        return _logsumexp(tensor(x, draft), over, n, draft)
    return along(n.op, masked(x, over, inf if n.op == "min_over" else -inf, draft), over) if over else x


def _logsumexp(x: Array, over: Sequence[Index], n: Node, draft: Draft) -> Array:
    """Where the operand does not vary, the logarithm of how many places there are."""
    if over:
        x = along("logsumexp", masked(x, over, -inf, draft), over)
    for i in (i for i in n.arg if i not in over):
        places = count_of(i, draft)
        more = (
            number(log(i.axis.size)) if places.const is not None else Array("log", (places,), None, "float", (), True)
        )
        x = elementwise("add", [x, more], x.type, draft)
    return x


@rule("softmax")
def _softmax(n: Node, draft: Draft) -> Array:
    x = _operand(n, draft)
    if n.arg in x.dims:
        x = masked(x, (n.arg,), -inf, draft)
        return Array("softmax", (x,), n.arg, x.type, x.dims, x.lead, None, n.arg in draft.here)
    if n.arg not in draft.here:  # the same everywhere: an even share
        return number(1.0 / n.arg.axis.size)
    share = [to_float(draft.there(n.arg), draft), count_of(n.arg, draft)]
    return Array("div", tuple(share), None, "float", (n.arg,), True, None, True)


def _operand(n: Node, draft: Draft) -> Array:
    """The operand, a truth value as a number."""
    x = lowered(n.args[0], draft)
    if n.dtype in FLOATS:
        return to_float(x, draft) if x.type in ("float", "bool") else to_exact(x)
    return to_int(x)


def masked(x: Array, over: Sequence[Index], fill: float, draft: Draft) -> Array:
    """The value with `fill` where a token of the window is not there."""
    for i in over:
        if i in draft.here:
            x = to_exact(x)
            x = Array("masked", (draft.there(i), x), fill, x.type, x.dims, True)
    return x
