"""A cell over a block of tokens: what each token passes through by itself, and products that take all tokens at once.

Input: a cell, and its statements in the order of one token.
Output: `Segment`s.  In each, every token passes through `each`, one token after the other, and then `whole` is made for
all of them: products with a weight, which is read once for the block, and parts.  Whatever touches a state, a history
or its window stands in the loop of one segment, so that a token meets the state that the token before it left; a
product that a state needs for its own next value stands in that loop too.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

from cdrmix.ir import build, walk
from cdrmix.ir.build import FLOATS
from cdrmix.ir.nodes import Apply, Cell, Def, Index, Node, Ref, Stmt

LEAST = 8
"""Rows of a matrix that is worth being packed, in blocks of 16."""


@dataclass(frozen=True, slots=True)
class Product:
    """`y[rows] = sum[k](weight[rows, k] * vector[k])`: all of a parameter with all of a vector."""

    weight: str
    vector: Ref
    rows: int
    cols: int


@dataclass(frozen=True, slots=True)
class Segment:
    """Statements for each token, and then statements for all of them.

    Where `by_lead`, each statement stands at one value of its first index: a loop over that index goes around the one
    over the tokens, so that a matrix of a state stays in the caches for all of them, and threads share its values.
    """

    each: tuple[Stmt, ...]
    whole: tuple[Stmt, ...]
    by_lead: bool = False


# --- products --------------------------------------------------------------------------------------------------------
def products(cell: Cell) -> dict[Ref, Product]:
    """The definitions that are products, of weights that are read in no other way; by the names that they define."""
    read = [(stmt, _product(stmt, cell)) for stmt in cell.body]
    otherwise = {r for stmt, product in read for r in walk.uses(stmt) if product is None or r.name != product.weight}
    otherwise |= {r for state in cell.states for r in walk.refs(state.init)}
    return {
        ref: product
        for stmt, product in read
        if product is not None and Ref("param", product.weight) not in otherwise
        for ref in walk.defines(stmt)
    }


def _product(stmt: Stmt, cell: Cell) -> Product | None:
    if not isinstance(stmt, Def) or stmt.value.op != "sum" or len(stmt.value.arg) != 1 or not stmt.indices:
        return None
    (k,), pair = stmt.value.arg, list(walk.multiplied(stmt.value.args[0]))
    if len(pair) != 2 or any(n.op != "read" or n.dtype not in FLOATS for n in pair):
        return None
    for matrix, vector in (pair, pair[::-1]):
        param = next((p for p in cell.params if Ref("param", p.name) == matrix.arg.ref), None)
        if param is not None and _stands(matrix, (*stmt.indices, k)) and _stands(vector, (k,)):
            rows, cols = walk.size(stmt.indices), k.axis.size
            if rows < LEAST:
                return None
            whole = walk.size(param.indices) == rows * cols and param.indices[-1].axis.size == cols
            if whole and _size(vector.arg.ref, cell) == cols:
                return Product(param.name, vector.arg.ref, rows, cols)
    return None


def _stands(n: Node, indices: tuple[Index, ...]) -> bool:
    """Whether a read is at just these indices, in order."""
    return all(a.op == "index" for a in n.args) and tuple(a.arg for a in n.args) == indices


def _size(ref: Ref, cell: Cell) -> int | None:
    """How many numbers a name is that may be a vector of a product; None for names that are not of one token."""
    match ref.kind:
        case "def":
            return next((_made(s, ref) for s in cell.body if ref in walk.defines(s)), None)
        case "input":
            return next(prod(a.size for a in i.axes) for i in cell.inputs if i.name == ref.name)
        case "state" | "next":
            return next(walk.size(s.indices) for s in cell.states if s.name == ref.name)
        case "carry":
            return next(prod(a.size for a in c.axes) for c in cell.carries if c.name == ref.name)
    return None


def _made(stmt: Stmt, ref: Ref) -> int | None:
    if isinstance(stmt, Def):
        return walk.size(stmt.indices)
    return walk.size((*stmt.lead, *stmt.outs)) if isinstance(stmt, Apply) else None


def named_for_blocks(cell: Cell, body: Sequence[Stmt]) -> tuple[Stmt, ...]:
    """The statements with copies around products: the vector of one, and what it makes, are names of this cell, of
    which each token of a block has its own."""
    cell = replace(cell, body=tuple(body))
    known, taken, found = products(cell), walk.names(cell), list[Stmt]()
    for stmt in body:
        product = known.get(walk.defines(stmt)[0])
        if product is None or not isinstance(stmt, Def):
            found.append(stmt)
            continue
        if product.vector.kind not in ("def", "input"):
            copy = _copy(product.vector, f"{product.vector.name}_given", stmt, taken)
            stmt = walk.map_roots(stmt, lambda n, by={product.vector: copy.ref}: walk.rename_refs(n, by))  # type: ignore[misc]
            found.append(copy)
        if stmt.ref.kind in ("def", "output"):
            found.append(stmt)
            continue
        ref = Ref("def", walk.fresh(f"{stmt.ref.name}_product", taken))
        taken.add(ref.name)
        own = build.read(ref, [i.axis for i in stmt.indices], stmt.indices, stmt.dtype, stmt.span)
        found += [replace(stmt, ref=ref), replace(stmt, value=own)]
    return tuple(found)


def _copy(ref: Ref, name: str, by: Def, taken: set[str]) -> Def:
    """`name[k] = ref[k]`, for the product that reads it."""
    read = next(n for n in walk.reads(by.value) if n.arg.ref == ref)
    name = walk.fresh(name, taken)
    taken.add(name)
    return Def(Ref("def", name), tuple(a.arg for a in read.args), read, read.dtype, by.span)


# --- segments --------------------------------------------------------------------------------------------------------
def segments(
    cell: Cell, known: Collection[Ref], carrying: Collection[str] = (), grouping: Collection[str] = ()
) -> tuple[Segment, ...]:
    """The segments of a cell's body; `known` are its products, `carrying` its parts that read or write what goes along
    depth, `grouping` those that may be applied to tokens in another order."""
    body = cell.body
    units = _units(cell, carrying)
    at = {n: u for u, unit in enumerate(units) for n in unit}
    made = {ref: n for n, stmt in enumerate(body) for ref in walk.defines(stmt) if ref.kind != "carry"}
    needs = [{at[made[r]] for n in unit for r in walk.uses(body[n]) if r in made} - {u} for u, unit in enumerate(units)]
    floats = {Ref("input", i.name) for i in cell.inputs if i.dtype in FLOATS}
    floats |= {s.ref for s in body if isinstance(s, Def) and s.ref.kind == "def" and s.dtype in FLOATS}
    floats |= {Ref("def", s.name) for s in body if isinstance(s, Apply)}
    whole = {u for u, unit in enumerate(units) if len(unit) == 1 and _is_whole(body[unit[0]], known, floats, grouping)}
    whole -= _in_circles(needs)
    level = [0] * len(units)
    while True:
        later = [
            max((level[d] + (d in whole and u not in whole) for d in needs[u]), default=0) for u in range(len(units))
        ]
        if later == level:
            break
        level = later
    found = []
    for now in range(max(level, default=-1) + 1):
        here = [n for n in range(len(body)) if level[at[n]] == now]
        each = tuple(body[n] for n in here if at[n] not in whole)
        found.append(Segment(each, tuple(body[n] for n in here if at[n] in whole)))
    return tuple(found)


def _units(cell: Cell, carrying: Collection[str]) -> list[list[int]]:
    """The statements' numbers, those together that must stand in one loop over the tokens."""
    windows = walk.windows(cell)
    units: list[tuple[set[Hashable], list[int]]] = []
    for n, stmt in enumerate(cell.body):
        keys, numbers = set(_kept(stmt, cell, windows, carrying)), [n]
        for unit in [u for u in units if u[0] & keys]:
            units.remove(unit)
            keys |= unit[0]
            numbers = unit[1] + numbers
        units.append((keys, sorted(numbers)))
    return [numbers for _, numbers in units]


def _kept(stmt: Stmt, cell: Cell, windows: walk.Windows, carrying: Collection[str]) -> Iterator[Hashable]:
    """What a statement touches that goes from token to token; or along depth, where parts touch it out of sight."""
    touched = {*walk.uses(stmt), *walk.defines(stmt)}
    if carrying and any(r.kind == "carry" for r in touched) or isinstance(stmt, Apply) and stmt.part in carrying:
        yield "carries"
    for ref in touched:
        if ref.kind in ("state", "next"):
            yield "state", ref.name
        elif ref.kind == "history":
            yield "window", next(h.window.size for h in cell.histories if h.name == ref.name)
    for root in walk.roots(stmt):
        for i in walk.windowed(root, windows):
            yield "window", i.axis.size
    if isinstance(stmt, Apply):
        yield "part", stmt.part


def _is_whole(stmt: Stmt, known: Collection[Ref], floats: Collection[Ref], grouping: Collection[str]) -> bool:
    """Whether a statement may be made for all tokens at once; `floats` are names of which each token has its own."""
    if isinstance(stmt, Apply):
        own = all(g.ref in floats and g.lead in ((), stmt.lead) for g in stmt.inputs)
        return own and (stmt.part in grouping or stmt.select is None and not stmt.lead)
    return walk.defines(stmt)[0] in known


def _in_circles(needs: Sequence[set[int]]) -> set[int]:
    """The units that need themselves."""
    reach = [sum(1 << d for d in found) for found in needs]
    for middle in range(len(reach)):
        for u in range(len(reach)):
            if reach[u] >> middle & 1:
                reach[u] |= reach[middle]
    return {u for u in range(len(reach)) if reach[u] >> u & 1}


def by_lead(
    segment: Segment, cell: Cell, known: Collection[Ref], in_place: Collection[str], alone: Collection[Ref]
) -> tuple[Segment, ...]:
    """The segment, or three: what comes before a loop over the first index of a matrix state, that loop, and what comes
    after it.  It stays as it is where states are written to another place first, where the loop reads or makes what is
    `alone`, known in the cell's own function only, and where it makes no definition, which are what it works in."""
    groups = list(sharing(segment.each, cell, known))
    loops = [n for n, group in enumerate(groups) if len(group) > 1]
    if len(loops) != 1:
        return (segment,)
    at, windows = loops[0], walk.windows(cell)
    before, loop, after = (tuple(s for g in part for s in g) for part in (groups[:at], [groups[at]], groups[at + 1 :]))
    kept = [{key for s in part for key in _kept(s, cell, windows, ())} for part in (before, loop, after)]
    made, read = ({ref for s in loop for ref in of(s)} for of in (walk.defines, walk.uses))
    plain = all(r.kind in ("def", "output") or r.kind == "next" and r.name in in_place for r in made)
    if not plain or not any(r.kind == "def" for r in made) or (made | read) & set(alone):
        return (segment,)
    # what goes from token to token must not be touched on two sides: all tokens pass one before any passes the next
    if kept[0] & kept[1] or kept[1] & kept[2] or kept[0] & kept[2]:
        return (segment,)
    parts = (Segment(before, ()), Segment(loop, (), by_lead=True), Segment(after, segment.whole))
    return tuple(part for part in parts if part.each or part.whole)


# --- loops that several statements share -----------------------------------------------------------------------------
def sharing(stmts: Sequence[Stmt], cell: Cell, known: Collection[Ref]) -> Iterator[tuple[Stmt, ...]]:
    """The statements in order, those together that can share their outermost loop: where a matrix state is among what
    they touch, each of its matrices is read and written while the caches hold it."""
    windows, matrices = walk.windows(cell), {s.name for s in cell.states if len(s.indices) > 2}
    run: list[Stmt] = []

    def done() -> Iterator[tuple[Stmt, ...]]:
        touched = {
            r.name for stmt in run for r in (*walk.uses(stmt), *walk.defines(stmt)) if r.kind in ("state", "next")
        }
        yield from [tuple(run)] if touched & matrices else [(stmt,) for stmt in run]

    for stmt in stmts:
        begins = _may_begin(stmt, known, windows)
        if run and not (begins and _may_share(stmt, run)):
            yield from done()
            run = []
        if begins:
            run.append(stmt)
        else:
            yield (stmt,)
    yield from done()


def _may_begin(stmt: Stmt, known: Collection[Ref], windows: walk.Windows) -> bool:
    """Whether a statement has an outermost loop of its own, in which nothing is summed or normalised along it."""
    if not isinstance(stmt, Def) or not stmt.indices or stmt.ref in known or stmt.ref.kind == "history":
        return False
    lead = stmt.indices[0]
    along = any(n.op == "softmax" and n.arg == lead for n in walk.nodes(stmt.value))
    return not along and lead not in walk.windowed(stmt.value, windows)


def _may_share(stmt: Stmt, run: Sequence[Stmt]) -> bool:
    """Whether a statement may stand in the loop of others: what they make, it reads at the loop's own index."""
    if not isinstance(stmt, Def):
        return False
    lead = stmt.indices[0] if stmt.indices else None
    made = {ref for other in run for ref in walk.defines(other)}
    if lead is None or any(lead.axis != other.indices[0].axis for other in run if isinstance(other, Def)):
        return False

    def at_lead(n: Node, i: Index) -> bool:
        return bool(n.args) and n.args[0].op == "index" and n.args[0].arg == i and n.arg.view[0].size == i.axis.size

    own = all(
        at_lead(n, lead) for n in walk.reads(stmt.value) if n.arg.ref in made or n.arg.ref.kind in ("state", "next")
    )
    old = Ref("state", stmt.ref.name) if stmt.ref.kind == "next" else None
    others = all(
        at_lead(n, other.indices[0])
        for other in run
        if isinstance(other, Def)
        for n in walk.reads(other.value)
        if n.arg.ref == old
    )
    return own and others
