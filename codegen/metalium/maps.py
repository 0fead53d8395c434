"""Elementwise values as Maps: IR expressions become expressions of loads.

Input: the draft's `Assign`s.  Output: Map, Copy and Whole steps in their places.

What is known now becomes a number or an array of constants; what is made of whole numbers is worked out by the
data-movement core; a value of more loads than a Map may have is cut into several.
"""

from __future__ import annotations

from math import log, prod

from cdrmix.ir import build, walk
from cdrmix.ir.build import FLOATS
from cdrmix.ir.nodes import Index, Node, Ref

from . import plan
from .draft import LOADS, Draft, evaluate, read_array
from .drafted import Assign, Drafted, renamed, written
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
            draft.steps.append(step)


def drop_copies(draft: Draft) -> None:
    """Leave out copies of whole arrays that stay as they are."""
    while (copy := next((s for s in draft.steps if _is_needless(draft, s)), None)) is not None:
        assert isinstance(copy, plan.Copy)
        draft.steps = [renamed(s, copy.out, copy.load.array) for s in draft.steps if s is not copy]


def _is_needless(draft: Draft, step: Drafted) -> bool:
    if not isinstance(step, plan.Copy) or step.place is not None or step.load.when is not None:
        return False
    out, source = draft.arrays[step.out], draft.arrays[step.load.array]
    later = draft.steps[draft.steps.index(step) + 1 :]
    once = sum(out.name in written(s) for s in draft.steps) == 1 and not any(source.name in written(s) for s in later)
    same = prod(out.shape) == prod(source.shape) and out.dtype == source.dtype == "f32"
    places = step.load.at == tuple(map(build.index, step.indices))
    return once and same and places and out.memory == source.memory == "scratch"


def lower(draft: Draft, a: Assign) -> None:
    """The steps of one assignment."""
    draft.span, draft.text = a.span, a.text
    value = a.value if a.plane else _plain(draft, a)
    if value is None:
        return
    value = reduced(draft, walk.transform(value, powers), a.indices)
    loads: list[plan.Load] = []
    found = _Expression(draft, loads).visit(value)
    if a.plane:
        high = plan.Call("tf32", (found,))
        found = high if a.plane == "hi" else plan.Call("sub", (found, high))
    if isinstance(found, plan.Operand):
        draft.steps.append(plan.Copy(a.out, a.indices, loads[0], a.place, a.span, a.text))
    else:
        draft.steps.append(plan.Map(a.out, a.indices, found, tuple(loads), a.place, a.span, a.text))


def _plain(draft: Draft, a: Assign) -> Node | None:
    """The value, unless it is of whole numbers or known: then its step is made here."""
    value, free = a.value, tuple(i for i in a.indices if i in a.value.free)
    if draft.is_whole(value):
        if a.place is None:
            draft.steps.append(plan.Whole(a.out, a.indices, value, a.span, a.text))
            return None
        if draft.whole(Ref("def", a.out)):
            name = draft.array(f"{a.out}_entry", [i.axis.size for i in a.indices], "i32")
            draft.steps.append(plan.Whole(name, a.indices, value, a.span, a.text))
            source = load(draft, read_array(name, a.indices, value))
            draft.steps.append(plan.Copy(a.out, a.indices, source, a.place, a.span, a.text))
            return None
        return value
    if not any(True for _ in walk.reads(value)):
        name = draft.constant(f"{a.out}_is", evaluate(value, free))
        return read_array(name, free)
    return value


# --- expressions ---------------------------------------------------------------------------------------------------
class _Expression:
    """Turns nodes into expressions; `loads` grows by what they read."""

    def __init__(self, draft: Draft, loads: list[plan.Load]):
        self.draft, self.loads = draft, loads

    def visit(self, n: Node) -> plan.Expression:
        """One node."""
        n = leaf(self.draft, n)
        if n.op == "const":
            return plan.Call("const", (), float(n.arg))
        if n.op == "read":
            found = load(self.draft, n)
            if found not in self.loads:
                self.loads.append(found)
            return plan.Operand(self.loads.index(found))
        args = tuple(self.visit(a) for a in n.args)
        if n.op == "pow":
            return _power(args[0], args[1])
        if n.op == "div" and isinstance(args[1], plan.Call) and args[1].op == "const" and args[1].value:
            return plan.Call("mul", (args[0], plan.Call("const", (), 1.0 / args[1].value)))
        return plan.Call(n.op, args)


def leaf(draft: Draft, n: Node) -> Node:
    """The node, or a number or an array that is the same: for what is known now or made of whole numbers."""
    if n.op == "read" and not draft.whole(n.arg.ref):
        return n
    if not any(True for _ in walk.reads(n)):
        if not n.free:
            return build.const(float(evaluate(n, ())))
        return read_array(draft.constant("table", evaluate(n, n.free)), n.free)
    if draft.is_whole(n):
        if n not in draft.wholes:
            name = draft.wholes[n] = draft.array("whole", [i.axis.size for i in n.free])
            draft.steps.append(plan.Whole(name, n.free, n, draft.span, draft.text))
        return read_array(draft.wholes[n], n.free)
    return n


def powers(n: Node) -> Node:
    """A power that `exp(e * log(x))` is not: of exponent zero, and of a whole one where x may be negative."""
    if n.op != "pow" or not any(True for _ in walk.reads(n)):
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


def _number(value: float) -> plan.Call:
    return plan.Call("const", (), value)


def _power(base: plan.Expression, exponent: plan.Expression) -> plan.Expression:
    if isinstance(exponent, plan.Call) and exponent.op == "const":
        e = exponent.value
        if e == 0.5:
            return plan.Call("sqrt", (base,))
        if e == int(e) and 0 < abs(e) <= LARGEST_POWER:
            made = _multiplied(base, int(abs(e)))
            return made if e > 0 else plan.Call("div", (_number(1.0), made))
        if e == -0.5:
            return plan.Call("div", (_number(1.0), plan.Call("sqrt", (base,))))
    known = isinstance(base, plan.Call) and base.op == "const" and base.value > 0
    of_base = _number(log(base.value)) if known else plan.Call("log", (base,))  # type: ignore[union-attr]
    return plan.Call("exp", (plan.Call("mul", (exponent, of_base)),))


def _multiplied(base: plan.Expression, times: int) -> plan.Expression:
    if times == 1:
        return base
    half = _multiplied(base, times // 2)
    square = plan.Call("mul", (half, half))
    return plan.Call("mul", (square, base)) if times % 2 else square


# --- size ----------------------------------------------------------------------------------------------------------
def loads_in(draft: Draft, n: Node) -> set[Node]:
    """The different values that an expression takes from memory."""
    if n.op == "read" or draft.is_whole(n) and any(True for _ in walk.reads(n)):
        return {n}
    if not any(True for _ in walk.reads(n)):
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
        name = draft.array("part", [i.axis.size for i in free])
        lower(draft, Assign(name, free, args[at], span=draft.span, text=draft.text))
        args[at] = read_array(name, free)
    return made
