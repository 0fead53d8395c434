"""The part each axis of an affine state plays: key, value or batch; and the form that follows.

Input: an `Affine` update and how the rest of the cell reads the states.
Output: a `Group` of kind diagonal or delta, in chunk form where that is possible, else scan or general.

`key` is the contracted axis: of the low-rank terms, or the one that every read contracts.  `batch` axes are those
that share a factor with the key, or stand in a low-rank term; the rest are rows of `value`, which all undergo one
transition.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from cdrmix.ir import walk
from cdrmix.ir.forms import LowRank, Outer
from cdrmix.ir.nodes import Def, Index, Node
from cdrmix.ir.types import NARROW
from cdrmix.passes import product as algebra
from cdrmix.passes.affine import Affine, Edge
from cdrmix.passes.groups import Group
from cdrmix.passes.readers import Read
from cdrmix.passes.terms import Culprit, Leaves, Term

DEEPEST = 4
"""How many definitions a factor is followed into to pull its key and its value apart."""


def with_roles(states: tuple[str, ...], map_: Affine, leaves: Leaves, reads: list[Read] | Culprit) -> Group:
    """Name the axes and choose the form."""
    positions, whole = _keys(map_, reads)
    groups = [_with_key(states, map_, leaves, reads, p, whole) for p in positions or (None,)]
    return next((g for g in groups if g.form == "chunk"), groups[0])


def _with_key(
    states: tuple[str, ...],
    map_: Affine,
    leaves: Leaves,
    reads: list[Read] | Culprit,
    position: int | None,
    whole: Culprit | None,
) -> Group:
    """The group with the key at this position."""
    axes = map_.indices
    if len(axes) == 1 and not map_.low_rank:  # a vector is no larger than what reads it
        position = None
    if whole is not None and map_.low_rank:
        why = "every token's whole state is needed, which no chunked form of this update keeps"
        return Group(states, "general", indices=axes, why=why, culprit=whole)
    key = None if position is None else axes[position]
    plain = _group(states, map_, key, position, reads, map_.decay, map_.addend)
    if key is not None and not plain.value:
        decay = {e: _apart(leaves, ts, key, axes, only_products=True) for e, ts in map_.decay.items()}
        addend = {s: _apart(leaves, ts, key, axes, only_products=False) for s, ts in map_.addend.items()}
        deeper = _group(states, map_, key, position, reads, decay, addend)
        plain = deeper if deeper.value else plain
    return replace(plain, culprit=whole)


def _group(
    states: tuple[str, ...],
    map_: Affine,
    key: Index | None,
    position: int | None,
    reads: list[Read] | Culprit,
    decay: dict[Edge, list[Term]],
    addend: dict[str, list[Term]],
) -> Group:
    """The group with these factors of its decay and its addend."""
    axes = map_.indices
    factors = [f for ts in decay.values() for f in _decay_factors(ts)]
    batch = _batch(map_, key, position, factors, addend, reads)
    value = tuple(i for i in axes if i not in batch and i != key)
    group = Group(
        states,
        "delta" if map_.low_rank else "diagonal",
        "scan",
        axes,
        {e: _decay(ts) for e, ts in decay.items()},
        addend={s: algebra.total(t.value() for t in ts) for s, ts in addend.items()},
        key=key,
        value=value,
        batch=tuple(i for i in axes if i in batch),
        decays=_decays(factors, key, value),
    )
    if key is None:
        return replace(group, why="it is read whole")
    if not value and not map_.low_rank:
        return replace(group, why=f"no axis is left whose places share one decay and one key along `{key.name}`")
    return _chunk(group, map_, decay, addend)


def _keys(map_: Affine, reads: list[Read] | Culprit) -> tuple[list[int], Culprit | None]:
    """Where the key may be, the longest axis first, of equal ones the last; and the read that leaves no place for it.

    What is contracted and is not the key becomes a batch of products, so the longest axis leaves the fewest.
    """
    given = [] if map_.key is None else [map_.key]
    if isinstance(reads, Culprit):
        return given, reads
    if map_.key is not None:
        away = [r for r in reads if map_.key not in r.touched]
        culprit = Culprit(away[0].term.read, "is contracted along another axis") if away and away[0].term.read else None
        return given, culprit
    if not reads:
        return [], None
    common = set.intersection(*(set(r.touched) for r in reads))
    found = sorted(common, key=lambda p: (map_.indices[p].axis.size, p), reverse=True)
    return found, None if found else _disagreement(reads)


def _disagreement(reads: list[Read]) -> Culprit | None:
    n = reads[-1].term.read
    return Culprit(n, "is contracted along another axis than elsewhere") if n else None


def _batch(
    map_: Affine,
    key: Index | None,
    position: int | None,
    factors: list[Node],
    addend: dict[str, list[Term]],
    reads: list[Read] | Culprit,
) -> set[Index]:
    """The axes whose places have a transition or key vectors of their own."""
    axes = map_.indices
    rest = [i for i in axes if i != key]
    batch = {i for c in map_.low_rank for f in (c.a, c.b) for i in f.free if i in rest}
    for f in factors + [f for ts in addend.values() for t in ts for f in t.coef]:
        if key in f.free:
            batch |= {i for i in f.free if i in rest}
    if position is not None and isinstance(reads, list):
        batch |= {axes[p] for r in reads for p in r.touched.get(position, ())}
    for i in rest:  # a decay along a row axis: a batch axis while another is left for the rows, and always with rank
        others = [j for j in rest if j not in batch and j != i]
        if i not in batch and any(i in f.free for f in factors) and (map_.low_rank or others):
            batch.add(i)
    return batch


def _decay_factors(terms: list[Term]) -> tuple[Node, ...]:
    """The factors of a decay; a sum of terms is one factor."""
    whole = _decay(terms)
    return () if algebra.constant(whole) is not None else walk.factors(whole)


def _decay(terms: list[Term]) -> Node:
    return algebra.total(t.value() for t in terms)


def _decays(factors: list[Node], key: Index | None, value: tuple[Index, ...]) -> str:
    """What the decay runs over, for people: none, scalar, key, value or both."""
    if not factors:
        return "none"
    kinds = {"key" for f in factors if key in f.free} | {"value" for f in factors if set(f.free) & set(value)}
    return "*".join(sorted(kinds)) or "scalar"


def _chunk(group: Group, map_: Affine, decay: dict[Edge, list[Term]], addend: dict[str, list[Term]]) -> Group:
    """The group with its update as diag(decay), low-rank terms and outer products."""
    assert group.key is not None
    value_decay = None
    nodes = dict(group.decay)
    if len(group.states) == 1:
        nodes.setdefault((group.states[0], group.states[0]), algebra.ZERO)
        ((edge, whole),) = nodes.items()
        rows = [f for f in walk.factors(whole) if set(f.free) & set(group.value)]
        if rows:
            value_decay = algebra.product(rows)
            nodes[edge] = algebra.product(f for f in walk.factors(whole) if f not in rows)
    elif any(set(f.free) & set(group.value) for ts in decay.values() for f in _decay_factors(ts)):
        return replace(group, form="scan", why="several states decay along their rows")
    outers = _merged([_outer(t, s, group.key) for s, terms in addend.items() for t in terms])
    low = tuple(LowRank(c.a, c.b, c.rank, c.edge[1], c.edge[0]) for c in map_.low_rank)
    return replace(
        group, form="chunk", decay=nodes, value_decay=value_decay, low_rank=low, outer=tuple(outers), addend={}
    )


def _outer(t: Term, target: str, key: Index) -> Outer:
    ks = tuple(f for f in t.coef if key in f.free)
    vs = tuple(f for f in t.coef if key not in f.free)
    in_k = {i for i in t.bound if any(i in f.free for f in ks)}
    in_v = {i for i in t.bound if any(i in f.free for f in vs)}
    rank = tuple(i for i in t.bound if i in in_k & in_v)
    k = algebra.product(ks, [i for i in t.bound if i in in_k - in_v])
    v = algebra.product(vs, [i for i in t.bound if i not in in_k])
    return Outer(v, k, rank, target)


def _merged(outers: list[Outer]) -> list[Outer]:
    """v k + u k = (v + u) k, and the same on the other side."""

    def join(x: Outer, y: Outer) -> Outer | None:
        if x.target != y.target or x.rank or y.rank:
            return None
        if algebra.same(x.k, y.k):
            return replace(x, v=algebra.total([x.v, y.v]))
        return replace(x, k=algebra.total([x.k, y.k])) if algebra.same(x.v, y.v) else None

    return algebra.joined(outers, join)


# --- factors that hold the key and another axis ------------------------------------------------------------------
def _apart(leaves: Leaves, terms: list[Term], key: Index, axes: tuple[Index, ...], only_products: bool) -> list[Term]:
    """The terms with factors such as `kv[h,i,j]` (kv = v*k) expanded once more, where that frees an axis of the key."""
    out = []
    for t in terms:
        news = [Term((), t.bound)]
        for f in t.coef:
            parts = _deeper(leaves, f, key, axes, DEEPEST)
            if only_products and len(parts) > 1:
                parts = [Term((f,))]
            news = [Term(x.coef + y.coef, x.bound + y.bound) for x in news for y in parts]
        out += news
    return out


def _deeper(leaves: Leaves, f: Node, key: Index, axes: tuple[Index, ...], depth: int) -> list[Term]:
    kept = [Term((f,))]
    tied = _tied([f], key, axes)
    if not tied or not depth:
        return kept
    body = f
    if f.op == "read":
        stmt = leaves.body.source(f.arg.ref)
        sizes = [a.size for a in f.arg.view]
        if not isinstance(stmt, Def) or stmt.ref.kind == "history" or [i.axis.size for i in stmt.indices] != sizes:
            return kept
        if stmt.dtype in NARROW:  # its value would not be rounded
            return kept
        body = _unbound(leaves, walk.substitute(stmt.value, dict(zip(stmt.indices, f.args, strict=True))))
    found = []
    for t in leaves.split(body):
        news = [Term((), t.bound)]
        for g in t.coef:
            parts = [Term((g,))] if g is f else _deeper(leaves, g, key, axes, depth - 1)
            news = [Term(x.coef + y.coef, x.bound + y.bound) for x in news for y in parts]
        found += news
    return found if _tied([g for t in found for g in t.coef], key, axes) < tied else kept


def _tied(factors: Iterable[Node], key: Index, axes: tuple[Index, ...]) -> set[Index]:
    """The axes that share a factor with the key."""
    return {i for f in factors if key in f.free for i in f.free if i != key and i in axes}


def _unbound(leaves: Leaves, n: Node) -> Node:
    """`n` with its bound indices renamed, so that they meet no index around it."""
    inner = {i for m in walk.nodes(n) for i in walk.bound(m)}
    return walk.rename_indices(n, {i: leaves.fresh.index(i) for i in inner})
