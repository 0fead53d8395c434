"""The algebra of an update: what a group of states does to itself at one token.

Input: the terms of each state's update.
Output: an `Affine`: decays, low-rank parts and addends; or the `Culprit` that is not of this form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, TypeVar

from cdrmix.ir import build, walk
from cdrmix.ir.forms import LowRank, Outer
from cdrmix.ir.nodes import Def, Index, Node, Ref
from cdrmix.passes import algebra, graph
from cdrmix.passes.terms import Culprit, Leaves, Term, Unfit

Edge = tuple[str, str]
Pair = TypeVar("Pair", bound=LowRank | Outer)


@dataclass(slots=True)
class Affine:
    """S' = S (diag(decay) + Σ a bᵀ) + addend, over `indices`.

    `decay` holds the terms of each edge (target, source); `key` is the position of the contracted index, None without
    `low_rank`.
    """

    indices: tuple[Index, ...]
    decay: dict[Edge, list[Term]] = field(default_factory=dict)
    low_rank: list[LowRank] = field(default_factory=list)
    addend: dict[str, list[Term]] = field(default_factory=dict)
    key: int | None = None


def affine(leaves: Leaves, defs: dict[str, Def]) -> Affine:
    """The updates `defs` (by state) as an affine map of those states.  Raises `Unfit`."""
    first, *_ = defs
    home = defs[first].indices
    found = Affine(home, addend={s: [] for s in defs})
    for s, update in defs.items():
        if walk.sizes(update.indices) != walk.sizes(home):
            other = build.read(Ref("next", s), (), (), span=update.span)
            raise Unfit(Culprit(other, f"is coupled to `{first}`, which has other axes"))
        to_home = dict(zip(update.indices, map(build.index, home), strict=True))
        for t in leaves.terms(Ref("next", s)):
            _place(found, t, s, update.indices, to_home)
    found.low_rank = merged(found.low_rank, "a", "b")
    return found


def _place(found: Affine, t: Term, s: str, own: tuple[Index, ...], to_home: dict[Index, Node]) -> None:
    """Put one term where it belongs."""
    if t.culprit:
        raise Unfit(t.culprit)
    at = contracted(t, own) if t.read else []
    if not at:
        free = Term(tuple(walk.substitute(f, to_home) for f in t.coef), t.bound)
        (found.decay.setdefault((s, t.read.arg.ref.name), []) if t.read else found.addend[s]).append(free)
        return
    if len(at) > 1:
        raise Unfit(Culprit(t.leaf, "is contracted along two of its axes; declare them as one axis"))
    p, m = at[0], t.leaf.args[at[0]].arg
    if found.key not in (None, p):
        raise Unfit(Culprit(t.leaf, "is contracted along another axis than in the term before"))
    found.key = p
    for f in t.coef:
        if m in f.free and own[p] in f.free:
            raise Unfit(Culprit(f, "is a dense transition: it takes every place of the state to every other"))
    a, b, rank = sides(t, m)
    a, b = walk.substitute(a, {**to_home, m: to_home[own[p]]}), walk.substitute(b, to_home)
    found.low_rank.append(LowRank(a, b, rank, t.leaf.arg.ref.name, s))


def contracted(t: Term, own: tuple[Index, ...]) -> list[int]:
    """The positions at which a term's read is summed over; every other must stand at its own index, else `Unfit`."""
    if [a.size for a in t.leaf.arg.view] != [i.axis.size for i in own]:
        raise Unfit(Culprit(t.leaf, "is read under other axes than it is written with"))
    at = []
    for p, (a, o) in enumerate(zip(t.leaf.args, own, strict=True)):
        if a.op == "index" and a.arg == o:
            continue
        if a.op != "index" or a.arg not in t.bound or sum(a.arg in b.free for b in t.leaf.args) > 1:
            raise Unfit(Culprit(t.leaf, f"is read at another place along `{o.name}`"))
        at.append(p)
    return at


def sides(t: Term, key: Index) -> tuple[Node, Node, tuple[Index, ...]]:
    """A term as a product of what holds `key` and what does not, and the indices over which that product is summed."""
    over, rest = [f for f in t.coef if key in f.free], [f for f in t.coef if key not in f.free]
    in_over, in_rest = ({i for f in side for i in f.free} for side in (over, rest))
    bound = [i for i in t.bound if i != key]
    one = algebra.product(over, [i for i in bound if i in in_over - in_rest])
    other = algebra.product(rest, [i for i in bound if i not in in_over])
    return one, other, tuple(i for i in bound if i in in_over & in_rest)


def merged(pairs: Sequence[Pair], one: str, other: str) -> list[Pair]:
    """x y + x z = x (y + z), and the same on the other side: the rank is minimal up to syntax.

    `one` and `other` are the fields that hold the two sides.
    """

    def join(x: Pair, y: Pair) -> Pair | None:
        mine: dict[str, Any] = {side: getattr(x, side) for side in (one, other)}
        if not x.rank and x == replace(y, **mine):
            for kept, summed in ((one, other), (other, one)):
                if algebra.same(mine[kept], getattr(y, kept)):
                    mine[summed] = algebra.total([mine[summed], getattr(y, summed)])
                    return replace(x, **mine)
        return None

    out: list[Pair] = []
    for n, new in enumerate(pairs):
        for at, old in enumerate(out):
            if joined := join(old, new):
                return merged([*out[:at], joined, *out[at + 1 :], *pairs[n + 1 :]], one, other)
        out.append(new)
    return out


def max_plus(leaves: Leaves, update: Def) -> tuple[Node, Node, str] | None:
    """(decay, addend, combine) when s' = combine(s + decay, addend), combine being `max` or `logaddexp`.

    `max` is the sum and `+` the product of a semiring (Baccelli et al. 1992): such a state has a parallel scan.  It is
    the running maximum of a softmax that is computed online (Milakov and Gimelshein 2018), as in RWKV-4.
    """
    root: Node | None = update.value
    while root and root.op == "read" and root.arg.ref not in leaves.leaves and leaves.depends(root):
        root = leaves.written(root)
    if root is None or root.op not in ("max", "logaddexp"):
        return None
    moved, free = [], []
    for arg in algebra.operands(root):
        terms = leaves.expand(arg)
        own = [t for t in terms if t.read or t.culprit]
        if own:
            other = own[0].culprit or own[0].coef or own[0].bound or len(own) > 1
            if other or not graph.is_at(own[0].leaf, update.indices):
                return None
            moved.append(algebra.total(t.value() for t in terms if t is not own[0]))
        else:
            free.append(arg)
    if not moved or not free:
        return None

    def combined(args: list[Node]) -> Node:
        return reduce(lambda x, y: build.node(root.op, x, y, span=y.span), args)

    return combined(moved), combined(free), root.op
