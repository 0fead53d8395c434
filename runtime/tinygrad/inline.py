"""What a kernel is given may be an expression: it is computed where it is read, with no kernel and buffer of its own.

    forms, leaves = expressions(tensors, most, costly)   lazy tensors as `Forms` over buffers they share, their `leaves`
    forms.read(n, buffers, at, *gates)           in a kernel: tensor n's value at a place of it flattened; 0 where gated

Input: lazy tensors; an expression of more than `most` buffers is computed into one of its own.  Elementwise ops, casts,
reshapes, permutations, expansions and slices are computed on the way.  A sum, whatever already has a buffer, and what
an expression uses twice (unless it is cheap) are leaves.
Output: f32 values.  `Forms` is hashable and knows nothing of the buffers: equal expressions make one kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from tinygrad import Tensor, dtypes

from .kernel import DType, GroupOp, Ops, UOp, added, buffer, gated, real

COMPUTED = GroupOp.ALU | {Ops.CAST, Ops.BITCAST}
MOVED = {Ops.RESHAPE, Ops.EXPAND, Ops.PERMUTE, Ops.SHRINK}
COSTLY = {Ops.EXP2, Ops.LOG2, Ops.SIN, Ops.SQRT, Ops.RECIPROCAL, Ops.POW, Ops.FDIV}
LONG = 48  # nodes; a longer expression gets a kernel of its own

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Forms:
    """Expressions of the arguments 0, 1, …, whose sizes are `leaves`."""

    uops: tuple[UOp, ...]
    leaves: tuple[tuple[int, DType], ...]

    def buffers(self, slot: int) -> list[UOp]:
        """The arguments, from a slot on."""
        return [buffer(slot + n, size, dtype) for n, (size, dtype) in enumerate(self.leaves)]

    def read(self, n: int, buffers: Sequence[UOp], at: UOp, *gates: UOp | None) -> UOp:
        """See the module."""
        u = self.uops[n]
        value = _value(u, at, buffers, gates)
        there = [g for g in gates if g is not None]
        if not there or _base(u).op is Ops.PARAM:
            return value
        for g in there:  # an expression of zeros need not be zero
            value = g.where(value, real(0))
        return value


def expressions(tensors: Sequence[Tensor], most: int, costly: int | None = None) -> tuple[Forms, list[Tensor]]:
    """See the module; single numbers are not counted.  `costly`: at most so many exponentials, roots and the like."""
    roots = [t.cast(dtypes.float32).uop for t in tensors]
    cut = set().union(*(_used_twice(u) for u in roots)) - {_base(u) for u in roots}
    for u in roots:
        if not _fits(u, cut, most, costly):
            cut.add(_base(u))
    leaves = list(dict.fromkeys(x for u in roots for x in _inside(u, cut) or [] if x in cut or not _parts(x)))
    sizes = tuple((prod(_shape(u)), u.dtype) for u in leaves)
    names = {u: buffer(n, *size).reshape(_shape(u)) for n, (u, size) in enumerate(zip(leaves, sizes, strict=True))}
    return Forms(tuple(_rebuilt(u, names) for u in roots), sizes), [Tensor(u) for u in leaves]


def _fits(root: UOp, cut: set[UOp], most: int, costly: int | None) -> bool:
    """Whether an expression is worth being computed where it is read."""
    inside = _inside(root, cut)
    if inside is None:
        return False
    leaves = [u for u in inside if u in cut or not _parts(u)]
    price = sum(u not in cut and _costs(u) for u in inside)
    large = sum(prod(_shape(u)) > 1 for u in leaves)
    return large <= most and len(leaves) <= 2 * most and (costly is None or price <= costly)


def _costs(u: UOp) -> bool:
    """Whether an op is worth many additions; a small power is a few products."""
    small = u.op is Ops.POW and (n := _base(u.src[1])).op is Ops.CONST and n.arg in (1, 2, 3, 4)
    return u.op in COSTLY and not small and prod(_shape(u)) > 1


def _shape(u: UOp) -> Shape:
    return tuple(int(n) for n in u.shape)


def _base(u: UOp) -> UOp:
    """What a tensor is a reshape of."""
    while u.op is Ops.RESHAPE:
        u = u.src[0]
    return u


def _parts(u: UOp) -> tuple[UOp, ...]:
    """The values an op computes with; none of a leaf."""
    if u.op in MOVED:
        return (u.src[0],)
    same = u.op is not Ops.BITCAST or u.dtype.itemsize == u.src[0].dtype.itemsize
    return tuple(u.src) if u.op in COMPUTED and same else ()


def _inside(root: UOp, cut: set[UOp]) -> list[UOp] | None:
    """The ops of an expression and its leaves, operands first, without constants; None of a long one."""
    found: dict[UOp, None] = {}
    waiting = [root]
    while waiting:
        u = waiting[-1]
        inner = [p for p in (() if u in cut else _parts(u)) if p.op is not Ops.CONST and p not in found]
        waiting += inner
        if not inner:
            found[waiting.pop()] = None
        if len(found) > LONG or len(waiting) > 4 * LONG:
            return None
    return [u for u in found if u.op is not Ops.CONST]


def _used_twice(root: UOp) -> set[UOp]:
    """What an expression would compute twice, and is not cheap."""
    inside = _inside(root, set()) or []
    under: dict[UOp, set[UOp]] = {}  # the leaves under an op
    uses: dict[UOp, set[UOp]] = {}
    for u in inside:
        under[u] = set().union(*(under[p] for p in _parts(u) if p in under)) if _parts(u) else {u}
        for part in _parts(u) if u.op in COMPUTED else ():
            while part.op in MOVED:
                part = part.src[0]
            uses.setdefault(part, set()).add(u)
    return {
        u
        for u in inside
        if u.op in COMPUTED
        and len(uses.get(u, ())) > 1
        and (sum(prod(_shape(x)) > 1 for x in under[u]) > 1 or any(x.op is Ops.REDUCE for x in under[u]))
    }


def _rebuilt(root: UOp, names: dict[UOp, UOp]) -> UOp:
    """The expression with its leaves named."""
    made = dict(names)

    def visit(u: UOp) -> UOp:
        if u not in made:
            parts = _parts(u)
            made[u] = u.replace(src=(*(visit(p) for p in parts), *u.src[len(parts) :])) if parts else u
        return made[u]

    return visit(root)


# --- in a kernel ---------------------------------------------------------------------------------------------------
def _value(u: UOp, at: UOp, buffers: Sequence[UOp], gates: Sequence[UOp | None]) -> UOp:
    """The value of an expression at a place of it flattened."""
    if u.op is Ops.PARAM:
        return buffers[u.arg.slot][gated(at, *gates)].load()
    if u.op is Ops.CONST:
        return u
    if u.op is Ops.RESHAPE:
        return _value(u.src[0], at, buffers, gates)
    if u.op in COMPUTED:
        shape = _shape(u)
        parts = [_value(p, _narrowed(at, shape, _shape(p)), buffers, gates) for p in u.src]
        return u.replace(dtype=None, src=tuple(parts))
    inner, axes = _shape(u.src[0]), _split(at, _shape(u))
    match u.op:
        case Ops.EXPAND:
            return _value(u.src[0], at % prod(inner) if prod(inner) > 1 else UOp.const(0), buffers, gates)
        case Ops.PERMUTE:
            axes = [axes[u.marg.index(n)] for n in range(len(axes))]
        case Ops.SHRINK:
            axes = [a + int(first) for a, (first, _) in zip(axes, u.marg, strict=True)]
    return _value(u.src[0], _joined(axes, inner), buffers, gates)


def _narrowed(at: UOp, shape: Shape, inner: Shape) -> UOp:
    """The place in an operand that broadcasts to `shape`."""
    if shape == inner:
        return at
    if prod(inner) == 1:
        return UOp.const(0)
    inner = (1,) * (len(shape) - len(inner)) + inner
    wide = [n for n, (a, b) in enumerate(zip(shape, inner, strict=True)) if a != b]
    if not wide:
        return at
    if all(n == 1 for n in shape[: wide[0]]) and wide == list(range(wide[0], wide[-1] + 1)):
        return at % prod(inner)  # the outer axes are broadcast
    if all(n == 1 for n in inner[wide[0] :]):
        return at // prod(shape[wide[0] :])  # the inner axes are
    axes = _split(at, shape)
    return _joined([UOp.const(0) if n in wide else a for n, a in enumerate(axes)], inner)


def _split(at: UOp, shape: Shape) -> list[UOp]:
    """A place along each axis."""
    found, below = [], prod(shape)
    for n in shape:
        above, below = below, below // n
        found.append(UOp.const(0) if n == 1 else (at if above == prod(shape) else at % above) // below)
    return found


def _joined(axes: Sequence[UOp], shape: Shape) -> UOp:
    """A place of the flattened tensor."""
    terms = [a * prod(shape[n + 1 :]) for n, a in enumerate(axes) if shape[n] > 1]
    return added(terms) if terms else UOp.const(0)
