"""Elementwise values as Maps: IR expressions become expressions of loads.

Input: the draft's `Assign`s.  Output: Map, Copy and Whole steps in their places.

What is known now becomes a number or an array of constants; what is made of whole numbers is worked out by the
data-movement core; a value of more loads than a Map may have is cut into several.
"""

from __future__ import annotations

from math import log, prod

from cdrmix.ir import build, walk
from cdrmix.ir.build import FLOATS
from cdrmix.ir.nodes import Index, Node
from cdrmix.ir.places import evaluate
from cdrmix.ir.steps import Copy, Load, Map, Step, Whole, apply, literal, operand

from .draft import LOADS, Assign, Draft, read_array
from .loads import load

REGISTERS = 4
"""Tiles of f32 that the compute core holds at once."""
LARGEST_POWER = 8
"""The largest whole exponent that is multiplied out."""


def finish(draft: Draft) -> None:
    """Replace every `Assign` of the draft."""
    steps, draft.steps = draft.steps, []
    for step in steps:
        if isinstance(step, Assign):
            lower(draft, step)
        else:
            draft.add(step)


def drop_copies(draft: Draft) -> None:
    """Leave out copies of whole arrays that stay as they are."""
    while (copy := next((s for s in draft.steps if _is_needless(draft, s)), None)) is not None:
        assert isinstance(copy, Copy)
        draft.steps = [s.reading({copy.out: copy.load.array}) for s in draft.steps if s is not copy]


def _is_needless(draft: Draft, step: Step) -> bool:
    if not isinstance(step, Copy) or step.place is not None or step.load.when is not None:
        return False
    out, source = draft.arrays[step.out], draft.arrays[step.load.array]
    later = draft.steps[draft.steps.index(step) + 1 :]
    stays = not any({out.name, source.name} & set(s.parts.outs) for s in later)
    same = prod(out.shape) == prod(source.shape) and out.dtype == source.dtype == "f32"
    places = step.load.at == tuple(map(build.index, step.indices))
    return stays and same and places and out.memory == source.memory == "scratch"


def lower(draft: Draft, a: Assign) -> None:
    """The steps of one assignment."""
    draft.span, draft.texts = a.span, a.texts
    if draft.is_whole(a.value) and a.place is None:
        draft.add(Whole(a.out, a.indices, a.value))
        return
    loads: list[Load] = []
    found = _operands(draft, reduced(draft, walk.transform(a.value, powers), a.indices), loads)
    if a.plane:
        high = apply("tf32", found)
        found = high if a.plane == "hi" else apply("sub", found, high)
    if found.op == "operand":
        draft.add(Copy(a.out, a.indices, loads[0], a.place))
    else:
        draft.add(Map(a.out, a.indices, found, tuple(loads), a.place))


# --- expressions ---------------------------------------------------------------------------------------------------
def _operands(draft: Draft, n: Node, loads: list[Load]) -> Node:
    """The expression over operands; `loads` grows by what it reads."""
    n = leaf(draft, n)
    if n.op == "const":
        return literal(float(n.arg))
    if n.op == "read":
        found = load(draft, n)
        if found not in loads:
            loads.append(found)
        return operand(loads.index(found))
    args = [_operands(draft, a, loads) for a in n.args]
    if n.op == "pow":
        return _power(*args)
    if n.op == "div" and args[1].op == "const" and args[1].arg:
        return apply("mul", args[0], literal(1.0 / args[1].arg))
    return apply(n.op, *args)


def leaf(draft: Draft, n: Node) -> Node:
    """The node, or a number or an array that is the same: for what is known now or made of whole numbers."""
    if n.op == "read" and not draft.whole(n.arg.ref):
        return n
    if not walk.has_reads(n):
        if not n.free:
            return build.const(float(evaluate(n, ())))
        return read_array(draft.constant("table", evaluate(n, n.free)), n.free)
    if draft.is_whole(n):
        if n not in draft.wholes:
            name = draft.wholes[n] = draft.array("whole", walk.sizes(n.free))
            draft.add(Whole(name, n.free, n))
        return read_array(draft.wholes[n], n.free)
    return n


def powers(n: Node) -> Node:
    """A power that `exp(e * log(x))` is not: of exponent zero, and of a whole one where x may be negative."""
    if n.op != "pow" or not walk.has_reads(n):
        return n
    x, e = n.args
    if e.op == "const" and e.arg == 0:
        return build.const(1.0, n.span)
    if x.op == "const" and x.arg > 0 or e.op == "const" and (e.arg != int(e.arg) or abs(e.arg) <= LARGEST_POWER):
        return n
    given = build.node("abs", x)
    if e.dtype in FLOATS and e.op != "const":  # a broken power of a negative number is none
        given = build.select(build.node("eq", build.node("floordiv", e, build.const(1)), e), given, x)
    size = build.node("exp", build.mul(e, build.node("log", given)))
    odd = build.node("eq", build.node("mod", e, build.const(2)), build.const(1))
    negative = build.node("and", odd, build.node("lt", x, build.const(0)))
    found = build.select(negative, build.node("neg", size), size)
    return build.select(build.node("eq", e, build.const(0)), build.const(1.0), found)


def _power(base: Node, exponent: Node) -> Node:
    if exponent.op == "const":
        e, made = abs(exponent.arg), None
        if e == 0.5:
            made = apply("sqrt", base)
        elif e == int(e) and 0 < e <= LARGEST_POWER:
            made = _multiplied(base, int(e))
        if made is not None:
            return made if exponent.arg > 0 else apply("div", literal(1.0), made)
    known = base.op == "const" and base.arg > 0
    return apply("exp", apply("mul", exponent, literal(log(base.arg)) if known else apply("log", base)))


def _multiplied(base: Node, times: int) -> Node:
    if times == 1:
        return base
    half = _multiplied(base, times // 2)
    square = apply("mul", half, half)
    return apply("mul", square, base) if times % 2 else square


# --- size ----------------------------------------------------------------------------------------------------------
def loads_in(draft: Draft, n: Node) -> set[Node]:
    """The different values that an expression takes from memory."""
    if n.op == "read" or draft.is_whole(n) and walk.has_reads(n):
        return {n}
    if not walk.has_reads(n):
        return {n} if n.free else set()
    return set().union(*(loads_in(draft, a) for a in n.args))


def registers(draft: Draft, n: Node) -> int:
    """How many tiles an expression has open at once when its largest operand is worked out first."""
    if not (loaded := loads_in(draft, n)) or loaded == {n}:
        return len(loaded)
    args = n.args[:1] if len(n.args) == 2 and n.args[0] == n.args[1] else n.args
    needs = sorted((need for a in args if (need := registers(draft, a))), reverse=True)
    return max(need + held for held, need in enumerate(needs))


def fits(draft: Draft, n: Node) -> bool:
    """Whether an expression is one Map."""
    return len(loads_in(draft, n)) <= LOADS and registers(draft, n) <= REGISTERS


def reduced(draft: Draft, n: Node, indices: tuple[Index, ...]) -> Node:
    """The expression, parts of it taken out into arrays of their own until it is one Map."""
    if fits(draft, n):
        return n
    args = [reduced(draft, a, indices) for a in n.args]
    while not fits(draft, made := walk.rebuild(n, tuple(args))):
        at = max(
            range(len(args)),
            key=lambda p: (args[p].op != "read", len(loads_in(draft, args[p])), registers(draft, args[p])),
        )
        free = tuple(i for i in indices if i in args[at].free)
        name = draft.array("part", walk.sizes(free))
        lower(draft, Assign(name, free, args[at], span=draft.span, texts=draft.texts))
        args[at] = read_array(name, free)
    return made
