"""Parts and banks: `f(x)`, `F[pick[k]](x)`.

Input: a call of a declared part or bank.  Output: the `Value` of its result; the cell of its op is elaborated.

A part advances once a token, so it has one call site, under no index but its bank's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cdrmix.check.axes.axes import AxisVar, IndexVar, made_one, names, unite
from cdrmix.check.body import tensors
from cdrmix.check.body.draft import Draft, Unit, Writing
from cdrmix.check.body.expressions import store
from cdrmix.check.body.indexing import item_value
from cdrmix.check.body.reading import Reading, value
from cdrmix.check.body.symbols import Held
from cdrmix.check.body.tensors import Place, Value, stored
from cdrmix.check.help.quote import quote
from cdrmix.check.names.scope import OpDecl
from cdrmix.check.names.values import Failed, inputs
from cdrmix.ir import nodes
from cdrmix.ir.nodes import Given, Ref
from cdrmix.syntax import ast


class Application(Unit):
    """One advance of a part; named after the equation that is nothing but this call, else after the part."""

    def __init__(self, draft: Draft, held: Held, select: Value | None, given: Sequence[Value], expr: ast.Call):
        super().__init__(draft)
        self.held, self.select, self.given, self.span = held, select, given, expr.span
        self.outs: tuple[AxisVar, ...] = ()
        self.dtype: nodes.DType = "work"
        self.lead = select.free if select is not None else ()
        self._ref: Ref | None = None

    @property
    def ref(self) -> Ref:  # type: ignore[override]
        """The name of the result, chosen when first asked for."""
        if self._ref is None:
            self._ref = Ref("def", self.draft.unique(f"{self.held.name}_out"))
        return self._ref

    def call(self, name: str) -> bool:
        """Take a name of the text, if none was chosen yet."""
        if self._ref is None:
            self._ref = Ref("def", name)
        return self._ref.name == name

    def write(self) -> nodes.Apply:
        w = Writing(self.draft)
        lead = tuple(w.open(v) for v in self.lead)
        select = w.emit(self.select, (), self.span) if self.select is not None else None
        given = []
        for v in self.given:
            assert v.place is not None
            by = tuple(w.node(item.index).arg for _, item in v.place.lead if item.index is not None)
            given.append(Given(v.place.ref(w), by))
        outs = tuple(w.fresh(a) for a in self.outs)
        return nodes.Apply(self.ref.name, self.held.name, lead, select, tuple(given), outs, self.dtype, self.span)

    def read(self) -> Value:
        """The result."""

        def ref(w: Writing) -> Ref:
            self.need()
            return self.ref

        lead = tuple((None, tensors.index(v, self.span)) for v in self.lead)
        return stored(Place(ref, lead, True, self), self.outs, self.dtype, True, None, self.span)


@dataclass(frozen=True, slots=True)
class _Call:
    held: Held
    expr: ast.Call
    r: Reading

    @property
    def op(self) -> OpDecl:
        assert self.held.op is not None
        return self.held.op.op


def apply_held(held: Held, items: Sequence[ast.Expr] | None, expr: ast.Call, r: Reading) -> Value:
    """A call of a part, or of a bank at `items`."""
    call = _Call(held, expr, r)
    _check_site(call)
    if held.op is None or held.failed:
        raise Failed
    select = _select(call, items)
    lead = select.free if select is not None else ()
    given = [_argument(call, formal, text, lead) for formal, text in _bind(call)]
    _check_index(call, lead)
    bound = _bind_axes(call, given)
    cell = r.frame.home.part(held.op, [v.shape for v in given], r.frame, expr.span)
    if cell is None:
        raise Failed
    if held.index is not None:
        r.frame.home.check_bank(held, cell, r.draft)
    held.cell = cell.name
    unit = Application(r.draft, held, select, [_stored(call, f, v, lead) for f, v in
                                               zip(inputs(call.op), given, strict=True)], expr)  # fmt: skip
    unit.dtype = call.op.type.dtype or "work"  # type: ignore[assignment]
    unit.outs = _result(call, [a.size for a in cell.out_axes], bound)
    return unit.read()


def _check_site(call: _Call) -> None:
    held, r, span = call.held, call.r, call.expr.span
    what = "bank" if held.index is not None else "part"
    if r.mode != "body":
        where = "a training value" if r.mode == "training" else "an init rule"
        r.draft.fail("E0502", span, f"{what} `{held.name}` is applied in {where}",
                     "apply it in an equation and use its value")  # fmt: skip
    if held.calls:
        first = held.calls[0]
        r.draft.fail("E0502", span, f"{what} `{held.name}` is called twice (first at {first.line}:{first.col}), its "
                     "state would advance twice a token",
                     f"name the value and use it twice, or declare a second {what}")  # fmt: skip
    held.calls.append(span)


def _select(call: _Call, items: Sequence[ast.Expr] | None) -> Value | None:
    """Which instances of a bank run; None for a part."""
    held, r, span = call.held, call.r, call.expr.span
    if held.index is None:
        if items is not None:
            r.draft.fail("E0506", span, f"part `{held.name}` is one instance and takes no index",
                         f"make it a `bank`, or call `{held.name}(…)`")  # fmt: skip
        return None
    if items is None or len(items) != 1:
        r.draft.fail("E0506", span, f"bank `{held.name}` is called without choosing among its instances",
                     f"as `{held.name}[{held.index.name}](…)` or `{held.name}[pick[k]](…)`")  # fmt: skip
    found, axis = item_value(items[0], r), held.index.axis
    if axis is None:
        raise Failed
    text = quote(items[0])
    if found.index is not None:
        r.stand(found.index, axis, f"{held.name}[{text}]", found.span)
    elif found.into is None:
        r.draft.fail("E0506", found.span, f"bank `{held.name}` is called at `{text}`, which is neither an index nor a "
                     "pick", f"as `{held.name}[{held.index.name}](…)` or `{held.name}[pick[k]](…)`")  # fmt: skip
    elif not unite(found.into, axis):
        r.draft.fail("E0316", found.span, f"`{text}` places into {names([found.into])} and `{held.name}` is a bank "
                     f"over {names([axis])}", "choose among the bank's own instances")  # fmt: skip
    return found


def _bind(call: _Call) -> list[tuple[ast.Formal, ast.Expr]]:
    """The tensor formals with what each is given."""
    formals, r = inputs(call.op), call.r
    takes = f"it takes {', '.join(f.name for f in formals)}"
    given: dict[str, ast.Expr] = {}
    free = iter([f.name for f in formals if all(a.name != f.name for a in call.expr.args)])
    for arg in call.expr.args:
        name = arg.name or next(free, None)
        if name is None:
            r.draft.fail("E0209", arg.span, f"`{call.held.name}` takes no more arguments", takes)
        if all(f.name != name for f in formals):
            help = takes + (f"; settings go where it is declared: `{call.held.name}: {call.op.name}({name}=…)`"
                            if any(f.name == name for f in call.op.formals) else "")  # fmt: skip
            r.draft.fail("E0209", arg.span, f"`{call.held.name}` has no argument `{name}`", help)
        if name in given:
            r.draft.fail("E0218", arg.span, f"`{name}` of `{call.held.name}` is given twice", "give it once")
        given[name] = arg.value
    for formal in formals:
        if formal.name not in given:
            r.draft.fail("E0210", call.expr.span, f"`{call.held.name}` needs `{formal.name}`", takes)
    return [(f, given[f.name]) for f in formals]


def _argument(call: _Call, formal: ast.Formal, text: ast.Expr, lead: Sequence[IndexVar]) -> Value:
    found = value(text, call.r)
    stray = next((v for v in found.free if v not in lead), None)
    if stray is not None:
        _under(call, stray)
    if any(a.root.window for a in found.shape):
        call.r.draft.fail("E0406", text.span, f"`{quote(text)}` runs over the tokens of a history, and is given to "
                          f"`{call.held.name}`", "reduce over them first")  # fmt: skip
    if isinstance(found.const, str):
        call.r.draft.fail("E0216", text.span, f"`{formal.name}` of `{call.held.name}` is a tensor", "give a value")
    return found


def _check_index(call: _Call, lead: Sequence[IndexVar]) -> None:
    stray = next((v for v in call.r.bound if v not in lead and v.name not in call.r.reached), None)
    if stray is not None:
        _under(call, stray)


def _under(call: _Call, stray: IndexVar) -> None:
    held, shown = call.held, f"`{call.held.name}`"
    what = f"part {shown} is called under the index `{stray.name}`, which it is not a bank over"
    if held.index is not None:
        what = f"bank {shown} is called under the index `{stray.name}`, which does not choose its instances"
    call.r.draft.fail("E0506", call.expr.span, what, "make it a `bank` over that index, or call it outside the sum")


def _bind_axes(call: _Call, given: Sequence[Value]) -> dict[str, AxisVar]:
    """The caller's axes for the names in the shapes of the callee's formals."""
    bound: dict[str, AxisVar] = {}
    for formal, found in zip(inputs(call.op), given, strict=True):
        dims = formal.type.dims if formal.type is not None else ()
        for dim, axis in zip(dims, found.shape, strict=False):
            if isinstance(dim, ast.Name):
                had = bound.setdefault(dim.id, axis)
                if had.size == axis.size and not unite(had, axis):
                    one, two = had.root.name, axis.root.name
                    call.r.draft.fail(
                        "E0304", call.expr.span, f"{one} = {had.size} and {two} = {had.size} have one size but are not "
                        f"one axis, and both are {dim.id} of `{call.op.name}`",
                        f"if they are meant to be, {made_one(axis.root, had.root)}",
                    )  # fmt: skip
    return bound


def _stored(call: _Call, formal: ast.Formal, found: Value, lead: Sequence[IndexVar]) -> Value:
    """What a formal is given, under a name of its own."""
    place = found.place
    if place is not None and place.plain:
        by = [item.index for _, item in place.lead]
        if all(v is not None and v in lead for v in by) and len(set(by)) == len(by):
            return found
    text = ast.Name(found.span, formal.name)
    return store(found, call.r, text, hint=f"{call.held.name}_{formal.name}")


def _result(call: _Call, sizes: Sequence[int], bound: dict[str, AxisVar]) -> tuple[AxisVar, ...]:
    found = []
    for dim, size in zip(call.op.type.dims, sizes, strict=True):
        axis = bound.get(dim.id) if isinstance(dim, ast.Name) else None
        same = axis is not None and axis.size == size
        found.append(axis if axis is not None and same else AxisVar(quote(dim), size, loose=True))
    return tuple(found)
