"""Sums and products of factors, put together as a reader would write them.

Input: factors, terms and the indices they are summed over.
Output: one expression, in which every sum stands around only the factors that hold its indices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

from cdrmix.ir import build
from cdrmix.ir.nodes import Index, Node
from cdrmix.ir.ops import OPS

Part = TypeVar("Part")

ZERO = build.const(0.0)
ONE = build.const(1.0)


def is_const(n: Node, value: float) -> bool:
    """Whether `n` is the literal `value`."""
    return n.op == "const" and n.arg == value


def constant(n: Node) -> float | None:
    """The value of an expression of literals alone, else None."""
    if n.op == "const":
        return float(n.arg)
    op = OPS[n.op]
    if op.kind != "elementwise" or op.numpy is None:
        return None
    args = [constant(a) for a in n.args]
    return None if None in args else float(op.numpy(*args))


def product(coef: Iterable[Node], bound: Iterable[Index] = ()) -> Node:
    """The product of the factors, summed over `bound`.

    Factors that share no bound index are summed apart; an index that no factor holds counts its places.
    """
    scale: float = 1
    rest = []
    for f in coef:
        value = constant(f)
        if value is None:
            rest.append(f)
        else:
            scale *= int(f.arg) if f.op == "const" and isinstance(f.arg, int) else value
    pieces = []
    for members, shared in linked(rest, tuple(bound)):
        if members:
            pieces.append(build.reduce("sum", shared, _multiply([rest[m] for m in members])))
        else:
            for i in shared:
                scale *= i.axis.size
    if scale == 0:
        return ZERO
    if not pieces:
        return build.const(float(scale))
    if scale not in (1, -1):
        pieces.insert(0, build.const(scale))
    whole = _multiply(pieces)
    return build.node("neg", whole, span=whole.span) if scale == -1 else whole


def linked(coef: Sequence[Node], bound: tuple[Index, ...]) -> list[tuple[list[int], tuple[Index, ...]]]:
    """The factors in sets that share no bound index, in order, each with the indices to sum it over."""
    sets: list[tuple[list[int], set[Index]]] = []
    for n, f in enumerate(coef):
        held = set(f.free) & set(bound)
        near = [s for s in sets if s[1] & held] if held else []
        sets = [s for s in sets if s not in near]
        sets.append((sorted([m for s in near for m in s[0]] + [n]), held.union(*(s[1] for s in near))))
    used = {i for _, held in sets for i in held}
    sets.sort(key=lambda s: s[0])
    found = [(members, tuple(i for i in bound if i in held)) for members, held in sets]
    idle = tuple(i for i in bound if i not in used)
    return found + ([([], idle)] if idle else [])


def _multiply(coef: Sequence[Node]) -> Node:
    """The product of the factors in order, divisors written as division."""
    out: Node | None = None
    for f in coef:
        if out is not None and f.op == "div" and is_const(f.args[0], 1):
            out = build.div(out, f.args[1], span=f.span)
        else:
            out = f if out is None else build.mul(out, f, span=out.span if out.span == f.span else f.span)
    return ONE if out is None else out


def total(terms: Iterable[Node]) -> Node:
    """The sum of the expressions; a negated one is subtracted."""
    out: Node | None = None
    for t in terms:
        if is_const(t, 0):
            continue
        if out is None:
            out = t
        elif t.op == "neg":
            out = build.sub(out, t.args[0], span=t.span)
        else:
            out = build.add(out, t, span=t.span)
    return ZERO if out is None else out


def same(a: Node, b: Node) -> bool:
    """Whether two expressions are equal up to the order of sums and products and the names of bound indices."""
    return key(a) == key(b)


def key(n: Node, names: Mapping[Index, str] = MappingProxyType({})) -> str:
    """A text that equal expressions share, in the sense of `same`; `names` are those of indices bound around."""
    match n.op:
        case "add" | "sub" | "neg":
            return f"add({','.join(sorted(sign + key(m, names) for sign, m in _signed(n)))})"
        case "mul":
            return f"mul({','.join(sorted(key(a, names) for a in operands(n)))})"
        case "index":
            return names[n.arg] if n.arg in names else str(n.arg.name)
        case "const":
            return repr(float(n.arg))
        case "read":
            view = ",".join(str(a.size) for a in n.arg.view)
            inner = ",".join(key(a, names) for a in n.args)
            return f"{n.arg.ref.kind} {n.arg.ref.name}<{view}>[{inner}]"
        case _ if OPS[n.op].kind == "reduce":
            new = {**names, **{i: f"#{len(names) + p}:{i.axis.name}" for p, i in enumerate(n.arg)}}
            return f"{n.op}[{len(n.arg)}]({key(n.args[0], new)})"
        case _:
            arg = names.get(n.arg, n.arg.name) if isinstance(n.arg, Index) else n.arg
            return f"{n.op}<{arg}>({','.join(key(a, names) for a in n.args)})"


def operands(n: Node) -> list[Node]:
    """The operands of an operation, of the same one in it too."""
    return [m for a in n.args for m in (operands(a) if a.op == n.op else [a])]


def _signed(n: Node, sign: str = "+") -> list[tuple[str, Node]]:
    """The terms of sums, differences and negations, each with its sign."""
    other = "-" if sign == "+" else "+"
    match n.op:
        case "add":
            return _signed(n.args[0], sign) + _signed(n.args[1], sign)
        case "sub":
            return _signed(n.args[0], sign) + _signed(n.args[1], other)
        case "neg":
            return _signed(n.args[0], other)
        case _:
            return [(sign, n)]
