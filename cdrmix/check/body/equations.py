"""Equations: left sides, what they define, and the time rules of states, carries and histories.

Input: an equation of an op body.  Output: a `Definition` (or a `Choice`, for `top`), and the value that its name reads.

An equation is elaborated when its name is first read; one that needs itself is a mistake.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cdrmix.check.axes.axes import AxisVar, IndexVar, names
from cdrmix.check.axes.dims import axis_of, range_of
from cdrmix.check.axes.meeting import check_number, meet
from cdrmix.check.body import tensors
from cdrmix.check.body.draft import Definition, Draft, Unit, Writing
from cdrmix.check.body.expressions import is_function
from cdrmix.check.body.frame import Frame
from cdrmix.check.body.parts import Application
from cdrmix.check.body.reading import Mode, Reading, finish, read, value
from cdrmix.check.body.reductions import chosen
from cdrmix.check.body.stores import not_at_start, not_in_init, own_axes
from cdrmix.check.body.symbols import Local, Stored
from cdrmix.check.body.tensors import Place, Slots, Value, stored
from cdrmix.check.body.waiting import Split, Waiting
from cdrmix.check.help.index_forms import Letters, indexed
from cdrmix.check.help.other_languages import in_general
from cdrmix.check.help.quote import quote, written
from cdrmix.check.help.remedies import before_this_token, rows_of_top
from cdrmix.check.names.mentions import nodes as nodes_of
from cdrmix.check.names.scope import Scope
from cdrmix.check.names.values import Failed
from cdrmix.diagnose import Span
from cdrmix.ir import build, nodes
from cdrmix.ir.nodes import DType, Node, Ref
from cdrmix.syntax import ast


class Choice(Unit):
    """`values, picks = top[k](source)`."""

    def __init__(self, draft: Draft, names: Sequence[str | None], k: IndexVar, source: Value, lead: Sequence[IndexVar],
                 span: Span):  # fmt: skip
        super().__init__(draft)
        self.values, self.picks = names
        self.k, self.source, self.span = k, source, span
        self.lead = (*lead, *(v for v in source.free if v not in lead))
        self.ref = Ref("def", self.values or self.picks or "top")

    def write(self) -> nodes.Top:
        w = Writing(self.draft)
        lead = tuple(w.open(v) for v in self.lead)
        k, over = w.open(self.k), w.fresh(self.source.shape[0])
        source = w.emit(self.source, (build.index(over, self.span),), self.span)
        return nodes.Top(self.values, self.picks, lead, k, over, source, self.span)


# --- names that equations define -----------------------------------------------------------------------------------
@read.register
def _(local: Local, span: Span, r: Reading) -> Value:
    if r.mode == "start" and not r.frame.pure:
        not_at_start(local.name, span, r)
    if r.mode == "init" and not r.frame.pure:
        not_in_init(local.name, span, r)
    solve(local, r.frame, r.mode if r.frame.pure else "body")
    if local.value is None:
        raise Failed
    found = local.value
    return stored(found.place, found.shape, found.dtype, found.varies, found.into, span) if found.place else found


def solve(local: Local, frame: Frame, mode: Mode = "body") -> None:
    """Elaborate the equation that defines a name, once."""
    draft = frame.draft
    if local.status == "failed":
        raise Failed
    if local.status == "done":
        return
    if local.status == "busy":
        ring = draft.solving[draft.solving.index(local) :]
        start = ring.index(min(ring, key=lambda x: (x.span.line, x.span.col)))
        first, path = ring[start], " → ".join(x.shown for x in (*ring[start:], *ring[: start + 1]))
        draft.fail("E0206", first.span, f"`{first.shown}` needs itself: {path}",
                   before_this_token(first.name, ring[(ring.index(first) + 1) % len(ring)].name))  # fmt: skip
    local.status = "busy"
    draft.solving.append(local)
    try:
        _solve(local, frame, mode)
        local.status = "done"
    finally:
        draft.solving.pop()
        if local.status == "busy":
            for target in local.stmt.targets:  # `top` defines two names, or none
                if (one := _sibling(target, local.stmt, frame)) is not None:
                    one.status = "failed"
            local.status = "failed"


def _solve(local: Local, frame: Frame, mode: Mode) -> None:
    stmt = local.stmt
    for attr in stmt.attrs:
        frame.draft.error("E0209", attr.span, f"an equation has no attribute `!{attr.name}`", "leave it out")
    r = reading(frame, local.scope, local.name, mode, local.shown)
    if len(stmt.targets) > 1:
        _solve_tuple(local, r)
    elif local.target.primed:
        symbol = frame.symbols.get(local.name)
        assert isinstance(symbol, Stored)
        kind = "carry" if symbol.kind == "carry" else "next"
        ref = Ref(kind, local.name)  # type: ignore[arg-type]
        symbol.unit = local.unit = define_stored(ref, symbol, local.target, stmt.value, stmt.span, r)
        if kind == "carry":
            local.value = _written_carry(symbol, symbol.unit, local)
    else:
        _solve_name(local, r)


def _hint(name: str, frame: Frame) -> str:
    return f"{frame.prefix}_{name}" if frame.prefix else f"{name}_in"


def _solve_name(local: Local, r: Reading) -> None:
    frame, stmt = r.frame, local.stmt
    indices = left_side(local.target, r)
    inner = replace(r, indices=indices)
    found = value(stmt.value, inner)
    check_number(found, "=", stmt.value, r)
    check_left(found, local.target, stmt.value, r)
    finish(inner)
    local.indices = tuple(indices.values())
    if r.pure:
        local.value = _in_place(local.indices, found)
        return
    unit = found.place.unit if found.place is not None else None
    whole = not indices and not found.free and found.place is not None and found.place.plain and not found.place.lead
    if isinstance(unit, Application) and whole and not frame.prefix and unit.call(local.name):
        local.unit, local.value = unit, found
        return
    name = r.draft.unique(f"{frame.prefix}_{local.name}") if frame.prefix else local.name
    definition = Definition(r.draft, Ref("def", name), local.indices, found, found.dtype, stmt.span)
    local.unit, local.value = definition, definition.read(stmt.span)


def _in_place(indices: tuple[IndexVar, ...], found: Value) -> Value:
    """The right side, to be written wherever the name is read."""

    def emit(w: Writing, slots: Slots) -> Node:
        w.draft.spend(found.span)
        before = dict(w.nodes)
        w.nodes.update(zip(indices, slots, strict=False))
        node = found.emit(w, slots[len(indices) :])
        w.nodes = before
        return node

    axes = (*(v.axis for v in indices if v.axis is not None), *found.shape)
    free = tuple(v for v in found.free if v not in indices)
    made = Value(axes, found.dtype, emit, found.span, free, found.varies, into=found.into)
    if not axes:
        made.bounds, made.const, made.index = found.bounds, found.const, found.index
    return made


def _written_carry(symbol: Stored, unit: Definition, local: Local) -> Value:
    """What `v0'` reads: the value again, since a carry's own name is what a layer above wrote."""
    if isinstance(unit.value.place, Place) and not unit.indices:
        return unit.value
    copy = Definition(unit.draft, Ref("def", unit.draft.unique(f"{symbol.name}_next")), unit.indices, unit.value,
                      symbol.dtype, local.span)  # fmt: skip
    unit.value, unit.indices, unit.lead = copy.read(local.span), (), ()
    return copy.read(local.span)


# --- left sides ----------------------------------------------------------------------------------------------------
def left_side(target: ast.Target, r: Reading) -> dict[str, IndexVar]:
    """The indices that a left side names; `e < experts` gives the range."""
    found: dict[str, IndexVar] = {}
    for item in target.items or ():
        name, size = range_of(item)
        declared = name is not None
        if name is None and isinstance(size, ast.Name):
            name = size
        if name is None:
            r.draft.fail("E0320", item.span, f"`{quote(item)}` stands on the left, where only indices stand",
                         f"write one equation for all places: `{target.name}[i] = … if i == … else …`")  # fmt: skip
        if name.id in found:
            r.draft.fail("E0208", name.span, f"index `{name.id}` stands twice on the left", "use another letter")
        var = found[name.id] = replace(r, indices=found).declare(name)
        if declared:
            var.axis, var.where = axis_of(size, r.env), quote(item)
    return found


def check_left(found: Value, target: ast.Target, text: ast.Expr, r: Reading) -> None:
    """Report axes that a right side leaves under an indexed left side (E0313)."""
    if target.items is not None and found.shape:
        shown = target.name + "'" * target.primed
        left = f"{shown}[{', '.join(quote(i) for i in target.items)}]"
        culprit = found.leaves if found.leaves is not None else text
        what = f"`{quote(culprit)}` leaves an axis: it is a whole {names(found.shape)}, and `{left}` wants a number"
        help = f"index it, or write `{shown} = …` for all of it at once"
        items = [i.id for i in target.items if isinstance(i, ast.Name)]
        if culprit is text and len(items) == len(target.items) == len(found.shape):
            over = list(zip(found.shape, items, strict=True))
            if (body := indexed(text, over, r, {id(text): found.shape})) is not None:
                help = f"write `{written(body)}`, or `{shown} = …` for all of it at once"
        r.draft.fail("E0313", culprit.span, what, help)


# --- states, carries, histories and outputs ------------------------------------------------------------------------
def define_stored(
    ref: Ref, symbol: Stored, target: ast.Target | None, text: ast.Expr, span: Span, r: Reading
) -> Definition:
    """The definition of something with declared axes."""
    return define(ref, own_axes(symbol), symbol.dtype, target, text, span, r)


def define(
    ref: Ref, axes: tuple[AxisVar, ...], dtype: DType, target: ast.Target | None, text: ast.Expr, span: Span, r: Reading
) -> Definition:
    """`ref = text`, or `ref[i, …] = text` under the indices of `target`, over the declared `axes`."""
    indices = left_side(target, r) if target is not None else {}
    split = _stand_left(indices, axes, target, r) if target is not None and target.items is not None else None
    inner = replace(r, indices=indices)
    found = value(text, inner)
    check_number(found, "=", text, r)
    if target is not None:
        check_left(found, target, text, r)
    if target is None or target.items is None:
        _check_shape(found, axes, ref, text, r)
    finish(inner)
    if any(a.root.window for a in found.shape):
        _unsummed(ref, text, r)
    if split is None:
        return Definition(r.draft, ref, tuple(indices.values()), found, dtype, span)
    name = r.draft.unique(f"{ref.name}_next")
    parts = Definition(r.draft, Ref("def", name), tuple(indices.values()), found, dtype, span)
    return Definition(r.draft, ref, (), tensors.under_view(parts.read(span), axes, span), dtype, span)


def _stand_left(
    indices: dict[str, IndexVar], axes: tuple[AxisVar, ...], target: ast.Target, r: Reading
) -> Split | None:
    """Give the indices of a left side the declared axes, or their factors."""
    shown = target.name + "'" * target.primed
    items = tuple(tensors.index(v, v.span) for v in indices.values())
    texts = tuple(indices)
    where = f"{shown}[{', '.join(texts)}]"
    if len(items) == len(axes):
        for item, axis in zip(items, axes, strict=True):
            assert item.index is not None
            r.stand(item.index, axis, where, item.span)
        return None
    ways = r.frame.products.readings(axes, len(items)) if len(items) > len(axes) else []
    if not ways:
        what = "indexed by 1 name" if len(items) == 1 else f"indexed by {len(items)} names"
        help = "index all of its axes" if len(items) < len(axes) else "no `dim` splits it so: declare one"
        code = "E0313" if len(items) < len(axes) else "E0309"
        r.draft.fail(code, target.span, f"`{shown}` is {names(axes)}, {what} here", help)
    split = Split(axes, items, texts, shown, ways, target.span)
    r.waiting.splits.append(split)
    return split


def _check_shape(found: Value, axes: tuple[AxisVar, ...], ref: Ref, text: ast.Expr, r: Reading) -> None:
    if any(a.root.window for a in found.shape):
        _unsummed(ref, text, r)
    shown = {"next": f"{ref.name}'", "carry": f"{ref.name}'", "output": "the result"}.get(ref.kind, ref.name)
    meet(axes, ast.Name(text.span, shown), found.shape, text, "=", text.span, r, found.leaves)


def _unsummed(ref: Ref, text: ast.Expr, r: Reading) -> None:
    what = "leaves the op" if ref.kind in ("output", "carry") else f"is kept in `{ref.name}`"
    r.draft.fail("E0406", text.span, f"`{quote(text)}` runs over the tokens of a history, and {what} unsummed",
                 "reduce over them: `sum[t](…)`")  # fmt: skip


# --- top -----------------------------------------------------------------------------------------------------------
def _solve_tuple(local: Local, r: Reading) -> None:
    """`gate, pick = top[k < n](p)`."""
    stmt, frame = local.stmt, r.frame
    locals_ = [_sibling(t, stmt, frame) for t in stmt.targets]
    call = stmt.value
    match call:
        case ast.Call(base=ast.Index(base=ast.Name(id="top"), items=items)) if is_function("top", r):
            pass
        case _:
            count = len(stmt.targets)
            name = call.base.id if isinstance(call, ast.Call) and isinstance(call.base, ast.Name) else ""
            if isinstance(call, ast.Call) and isinstance(call.base, ast.Path):
                name = call.base.parts[-1]
            if name and (help := in_general(name)):
                r.draft.fail("E0319", stmt.span, f"only `top` gives two values, no `{name}`", help)
            r.draft.fail("E0319", stmt.span, f"`{quote(call)}` is one value, {count} names stand on the left",
                         "only `top` gives two: `gate, pick = top[k < n](p)`")  # fmt: skip
    if len(stmt.targets) != 2:
        r.draft.fail("E0319", stmt.span, f"`top` gives two values, {len(stmt.targets)} names stand on the left",
                     "write `gate, pick = top[k < n](p)`, `_` for one that is not wanted")  # fmt: skip
    if r.pure:
        r.draft.fail("E0318", stmt.span, "`top` cannot stand in an init rule or a training value",
                     "give it an equation of the op")  # fmt: skip
    indices = left_side(_longest(stmt.targets), r)
    inner = replace(r, indices=indices)
    _check_rows(stmt, call, inner)
    k, source = chosen(items, call, inner)
    lead = tuple(v for v in indices.values() if v is not k)
    _check_tuple_left(stmt, [v.name for v in lead], k.name, r)
    finish(inner)
    assert k.axis is not None
    defined = [_define_name(x, frame) for x in locals_]
    unit = Choice(r.draft, defined, k, source, lead, stmt.span)
    axes = (*(v.axis for v in lead if v.axis is not None), k.axis)
    stray = [v for v in unit.lead if v not in lead]
    for which, one in enumerate(locals_):
        if one is not None:
            place = Place(_reference(unit, str(defined[which])),
                          tuple((None, tensors.index(v, stmt.span)) for v in stray), True, unit)  # fmt: skip
            dtype: DType = "pick" if which else source.dtype
            one.value = stored(place, axes, dtype, True, source.shape[0] if which else None, stmt.span)
            one.unit, one.status = unit, "done"


def _check_rows(stmt: ast.Equation, call: ast.Call, r: Reading) -> None:
    """Report `top` of one place of an axis (E0306), or along two (E0313), and the form that chooses in each row."""
    body = call.args[0].value if len(call.args) == 1 else None
    if body is None:
        return
    items = [i for n in nodes_of(body) if isinstance(n, ast.Index) for i in n.items if isinstance(i, ast.Name)]
    free = list(dict.fromkeys(i.id for i in items if i.id not in r.indices and r.frame.lacks(i.id, r.scope)))
    if free:
        rows = tuple(dict.fromkeys(i.id for i in items if i.id in r.indices or i.id in free))
        r.draft.fail("E0306", call.span, f"`top` chooses along a whole axis, `{quote(body)}` is one place of it",
                     rows_of_top(stmt, call, rows, body, Letters(r)))  # fmt: skip
    shape = value(body, r).shape
    if len(shape) > 1 and not any(a.root.window for a in shape):
        names_ = tuple(name for _, name in Letters(r).over(shape))
        r.draft.fail("E0313", call.span, f"`top` chooses along one axis, `{quote(body)}` is {names(shape)}",
                     rows_of_top(stmt, call, names_, body, Letters(r)))  # fmt: skip


def _reference(unit: Unit, name: str):  # type: ignore[no-untyped-def]
    def ref(w: Writing) -> Ref:
        unit.need()
        return Ref("def", name)

    return ref


def _sibling(target: ast.Target, stmt: ast.Equation, frame: Frame) -> Local | None:
    found = frame.symbols.get(target.name)
    return found if isinstance(found, Local) and found.stmt is stmt else None


def _define_name(local: Local | None, frame: Frame) -> str | None:
    if local is None:
        return None
    return frame.draft.unique(f"{frame.prefix}_{local.name}") if frame.prefix else local.name


def _longest(targets: Sequence[ast.Target]) -> ast.Target:
    return max(targets, key=lambda t: len(t.items or ()))


def _check_tuple_left(stmt: ast.Equation, lead: list[str], k: str, r: Reading) -> None:
    """Both names of `top` stand under the same indices."""
    for target in stmt.targets:
        if target.name == "_":
            continue
        have = [quote(i) for i in target.items or ()]
        if have not in (lead, [*lead, k]):
            want = f"[{', '.join((*lead, k))}]"
            shown = f"{target.name}[{', '.join(have)}]"
            r.draft.fail("E0319", target.span, f"`{shown}`: both names of `top` stand under the same indices, {want} "
                         "here", f"write `{target.name}{want}`")  # fmt: skip


def reading(frame: Frame, scope: Scope, name: str, mode: Mode = "body", shown: str = "") -> Reading:
    """Where an expression that defines `name` stands."""
    waiting = Waiting(outer=frame.calling)
    return Reading(frame, scope, waiting, mode=mode, hint=_hint(name, frame), target=shown or name)
