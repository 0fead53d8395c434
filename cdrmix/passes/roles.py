"""The part each axis of an affine state plays: key, value or batch; and the form that follows.

Input: an `Affine` update and how the rest of the cell reads the states.
Output: a `Group` of kind diagonal or delta, in chunk form where that is possible, else scan or general.

`key` is the contracted axis: of the low-rank terms, or the one that every read contracts.  `batch` axes are those
that share a factor with the key, or stand in a low-rank term; the rest are rows of `value`, which all undergo one
transition.  A chunk is then S' = S (diag(decay) + Σ a bᵀ) + Σ v kᵀ, the linear attention of Katharopoulos et al. 2020
with decay; with low-rank terms it is the gated delta rule (Yang et al. 2024, Parallelizing Linear Transformers with the
Delta Rule over Sequence Length; Yang et al. 2025, Gated Delta Networks), whose product of transitions over a chunk has
the WY form of Bischof and Van Loan 1987.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from cdrmix.ir import walk
from cdrmix.ir.forms import Chunk, Coupled, Elementwise, Outer
from cdrmix.ir.nodes import Def, Index, Node
from cdrmix.ir.types import NARROW
from cdrmix.passes import algebra
from cdrmix.passes.affine import Affine, merged, sides
from cdrmix.passes.groups import Group, Kind
from cdrmix.passes.readers import Read
from cdrmix.passes.terms import Culprit, Leaves, Term

DEEPEST = 4
"""How many definitions a factor is followed into to pull its key and its value apart."""


def with_roles(
    states: tuple[str, ...], update: Affine, leaves: Leaves, reads: list[Read], whole: Culprit | None
) -> Group:
    """Name the axes and choose the form; `whole` is a read that needs the whole state."""
    positions, other = _keys(update, reads)
    whole = whole or other
    if whole and update.low_rank:
        why = "every token's whole state is needed, which no chunked form of this update keeps"
        return Group(states, "general", why=why, culprit=whole)
    if len(update.indices) == 1 and not update.low_rank:  # a vector is no larger than what reads it
        positions = []
    groups = (_with_key(states, update, reads, position, leaves) for position in positions or (None,))
    first = next(groups)
    assert first is not None
    if not isinstance(first.scan, Chunk):
        first = next((g for g in groups if g and isinstance(g.scan, Chunk)), first)
    return replace(first, culprit=whole)


def _keys(update: Affine, reads: list[Read]) -> tuple[list[int], Culprit | None]:
    """Where the key may be, the longest axis first, of equal ones the last; and the read that leaves no place for it.

    What is contracted and is not the key becomes a batch of products, so the longest axis leaves the fewest.
    """
    if update.key is not None:
        away = next((r for r in reads if update.key not in r.touched), None)
        return [update.key], Culprit(away.term.leaf, "is contracted along another axis") if away else None
    if not reads:
        return [], None
    common = set.intersection(*(set(r.touched) for r in reads))
    found = sorted(common, key=lambda p: (update.indices[p].axis.size, p), reverse=True)
    return found, None if found else Culprit(reads[-1].term.leaf, "is contracted along another axis than elsewhere")


def _with_key(
    states: tuple[str, ...], update: Affine, reads: list[Read], position: int | None, leaves: Leaves | None
) -> Group | None:
    """The group with its key at this position.

    Where no rows are left, factors of the update are pulled apart with `leaves`; without these, there is no group then.
    """
    axes = update.indices
    key = None if position is None else axes[position]
    decay = {e: algebra.total(t.value() for t in ts) for e, ts in update.decay.items()}
    if len(states) == 1:
        decay = decay or {(states[0], states[0]): algebra.ZERO}
    factors = [f for whole in decay.values() for f in walk.factors(whole)]
    batch = _batch(update, key, position, factors, reads)
    value = tuple(i for i in axes if i not in batch and i != key)
    if key is not None and not value:
        deeper = _with_key(states, _apart(leaves, update, key), reads, position, None) if leaves else None
        if deeper or not leaves:
            return deeper
    rows = [f for f in factors if set(f.free) & set(value)]
    kinds = {"key" for f in factors if key in f.free} | {"value" for f in rows}
    varying = any(algebra.constant(f) is None for f in factors)
    form = f" decay={'*'.join(sorted(kinds)) or ('scalar' if varying else 'none')}"
    if key is not None:
        form += f" key={key.name} value={','.join(i.name for i in value) or '-'}"
    if update.low_rank:
        form += f" rank={len(update.low_rank)}"
    kind: Kind = "delta" if update.low_rank else "diagonal"
    if key is None:
        why = "it is read whole"
    elif not value and not update.low_rank:
        why = f"no axis is left whose places share one decay and one key along `{key.name}`"
    elif rows and len(states) > 1:
        why = "several states decay along their rows"
    else:
        over_rows = algebra.product(rows) if rows else None
        if over_rows:  # of one state
            decay = dict.fromkeys(decay, algebra.product(f for f in factors if f not in rows))
        outer = merged([_outer(t, s, key) for s, ts in update.addend.items() for t in ts], "k", "v")
        batch_axes = tuple(i for i in axes if i in batch)
        low_rank = tuple(update.low_rank)
        chunk = Chunk(states, axes, batch_axes, value, key, decay, over_rows, low_rank, tuple(outer), ())
        return Group(states, kind, chunk, "/chunk" + form)
    addend = tuple(algebra.total(t.value() for t in update.addend[s]) for s in states)
    if len(states) == 1:
        scan = Elementwise(states[0], axes, decay[states[0], states[0]], addend[0])
        return Group(states, kind, scan, "/scan" + form, why)
    matrix = tuple(tuple(decay.get((to, of)) for of in states) for to in states)
    return Group(states, kind, Coupled(states, axes, matrix, addend), "/scan" + form, why)


def _batch(
    update: Affine, key: Index | None, position: int | None, factors: list[Node], reads: list[Read]
) -> set[Index]:
    """The axes whose places have a transition or key vectors of their own."""
    rest = [i for i in update.indices if i != key]
    batch = {i for c in update.low_rank for f in (c.a, c.b) for i in f.free if i in rest}
    if position is not None:
        batch |= _tied(factors + [f for ts in update.addend.values() for t in ts for f in t.coef], key, update.indices)
        batch |= {update.indices[p] for r in reads for p in r.touched.get(position, ())}
    for i in rest:  # a decay along a row axis: a batch axis while another is left for the rows, and always with rank
        others = [j for j in rest if j not in batch and j != i]
        if i not in batch and any(i in f.free for f in factors) and (update.low_rank or others):
            batch.add(i)
    return batch


# --- factors that hold the key and another axis ------------------------------------------------------------------
def _apart(leaves: Leaves, update: Affine, key: Index) -> Affine:
    """The update with factors such as `kv[h,i,j]`, kv = v*k, read through, where that frees an axis of the key."""

    def parts(f: Node) -> list[Term]:
        return _deeper(leaves, f, key, update.indices, DEEPEST)

    def product(f: Node) -> list[Term]:
        found = parts(f)
        return found if len(found) == 1 else [Term((f,))]

    decay = {e: [n for t in ts for n in _multiplied(t, product)] for e, ts in update.decay.items()}
    addend = {s: [n for t in ts for n in _multiplied(t, parts)] for s, ts in update.addend.items()}
    return replace(update, decay=decay, addend=addend)


def _multiplied(t: Term, parts: Callable[[Node], list[Term]]) -> list[Term]:
    """The terms of a product of which each factor is the sum of its `parts`."""
    news = [Term((), t.bound)]
    for f in t.coef:
        found = parts(f)
        news = [Term(x.coef + y.coef, x.bound + y.bound) for x in news for y in found]
    return news


def _deeper(leaves: Leaves, f: Node, key: Index, axes: tuple[Index, ...], depth: int) -> list[Term]:
    """The terms of a factor, definitions in it read through, where fewer axes share a factor with the key then."""
    tied = _tied([f], key, axes)
    body: Node | None = f
    if tied and depth and f.op == "read":
        stmt = leaves.body.source(f.arg.ref)
        rounded = isinstance(stmt, Def) and stmt.dtype in NARROW  # what it stands for is not
        body = None if rounded else leaves.written(f)
    if not tied or not depth or body is None:
        return [Term((f,))]

    def parts(g: Node) -> list[Term]:
        return [Term((g,))] if g is f else _deeper(leaves, g, key, axes, depth - 1)

    found = [n for t in leaves.expand(body) for n in _multiplied(t, parts)]
    return found if _tied((g for t in found for g in t.coef), key, axes) < tied else [Term((f,))]


def _tied(factors: Iterable[Node], key: Index | None, axes: tuple[Index, ...]) -> set[Index]:
    """The axes that share a factor with the key."""
    return {i for f in factors if key in f.free for i in f.free if i != key and i in axes}


def _outer(t: Term, target: str, key: Index) -> Outer:
    k, v, rank = sides(t, key)
    return Outer(v, k, rank, target)
