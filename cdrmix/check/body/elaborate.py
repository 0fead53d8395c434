"""One op body to one `Cell`.

Input: an `OpValue`, the sizes of its tensor formals' axes, and where it stands.
Output: the name of its cell in `Elaborator.cells`, callees before their callers; None after a mistake, which is in the
report.

Two places share a cell when they agree on everything that its text asked of them: static arguments, sizes, which
carries something above has written, and the layer only if something besides an init rule asked for it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from cdrmix.check.axes.axes import AxisVar, IndexVar
from cdrmix.check.axes.dims import axis_of, bind_axes, check_axes
from cdrmix.check.body import calls as _calls  # noqa: F401  # registers how expressions are read
from cdrmix.check.body import indexing as _indexing  # noqa: F401
from cdrmix.check.body import training
from cdrmix.check.body.bodies import open_body
from cdrmix.check.body.declarations import (
    declare_buffer,
    declare_carry,
    declare_history,
    declare_param,
    declare_part,
    declare_state,
)
from cdrmix.check.body.draft import CELL, Budget, Draft, Unit
from cdrmix.check.body.equations import define, define_stored, reading, solve
from cdrmix.check.body.frame import Context, Frame
from cdrmix.check.body.order import in_order
from cdrmix.check.body.reach import check_reach
from cdrmix.check.body.symbols import Held, Local, Stored
from cdrmix.check.help.quote import quote
from cdrmix.check.names.mentions import mentioned
from cdrmix.check.names.modules import Lets
from cdrmix.check.names.scope import OpValue, Scope
from cdrmix.check.names.values import Failed, check_complete, inputs
from cdrmix.diagnose import Report, Span
from cdrmix.ir import nodes
from cdrmix.ir.nodes import Axis, Cell, Ref
from cdrmix.syntax import ast

__all__ = ["Context", "Elaborator"]

MAX_PARTS = 24
"""How deep parts may hold parts."""

Question = tuple[str, ...]
Asked = dict[Question, object]


class _Built(NamedTuple):
    """A cell that was tried, and what its text asked of its place."""

    asked: Mapping[Question, object]
    name: str | None


class Elaborator:
    """Elaborates the ops of one model.  `settings` are the names of the model's settings, which ops do not see."""

    def __init__(self, report: Report, settings: frozenset[str] = frozenset()):
        self.report = report
        self.settings = settings
        self.lets = Lets()
        self.cells: dict[str, Cell] = {}
        self.budget = Budget()
        self._built: dict[tuple[object, ...], dict[tuple[Question, ...], dict[tuple[object, ...], _Built]]] = {}
        self._busy: list[tuple[object, ...]] = []
        self._begun: list[str] = []
        self._reached: set[tuple[object, ...]] = set()
        self._counts: dict[str, int] = {}

    def cell(self, op: OpValue, inputs: Sequence[Sequence[Axis]], context: Context) -> str | None:
        """The name of the op's cell for inputs of these sizes."""
        return self._cell(op, tuple(tuple(a.size for a in axes) for axes in inputs), context).name

    def part(self, op: OpValue, given: Sequence[Sequence[AxisVar]], frame: Frame, span: Span) -> Cell | None:
        """The cell of a part of the op that `frame` elaborates."""
        sizes = tuple(tuple(a.size for a in axes) for axes in given)
        built = self._cell(op, sizes, replace(frame.context, span=span))
        frame.ask(op, built.asked)
        return self.cells[built.name] if built.name is not None else None

    def acts(self, name: str | None) -> bool:
        """Whether a cell does something besides giving its result: it writes a carry or holds a training value."""
        if name is None:
            return False
        cell = self.cells[name]
        inner = any(self.acts(part.cell) for part in cell.parts)
        return inner or bool(cell.training) or any(carry.writes for carry in cell.carries)

    def check_reach(self, frame: Frame, also: Collection[ast.Stmt] = ()) -> None:
        """Report what leads nowhere in an op's body, once for each choice of its branches."""
        taken = [stmt for stmt, _ in frame.statements]
        key = (frame.decl, *map(id, taken))
        if key not in self._reached:
            self._reached.add(key)
            check_reach(frame.decl, taken, also, self.report)

    def check_bank(self, held: Held, cell: Cell, draft: Draft) -> None:
        """Report an expert that holds a carry, itself or in a part (E0505)."""
        todo = [cell]
        while todo:
            inner = todo.pop()
            if inner.carries:
                what = f"`{inner.op}` holds `{inner.carries[0].name}`"
                draft.fail("E0505", held.span, f"a bank's expert cannot hold a `carry`, and {what}: not every token "
                           "reaches it", "carry it outside the bank")  # fmt: skip
            todo += [self.cells[p.cell] for p in inner.parts]

    def _cell(self, op: OpValue, sizes: tuple[tuple[int, ...], ...], context: Context) -> _Built:
        key = (op.op, op.args, sizes)
        context = context.of(op)
        for questions, by_answers in self._built.get(key, {}).items():
            if built := by_answers.get(tuple(_answer(question, context) for question in questions)):
                return built
        if key in self._busy or len(self._busy) >= MAX_PARTS:
            if any(op.op is other[0] for other in self._busy):
                self.report.error("E0206", context.span, f"op `{op.op.name}` holds itself as a part, without end",
                                  "a part is of another op")  # fmt: skip
            else:
                self.report.error("E0219", context.span, f"parts hold parts more than {MAX_PARTS} levels deep",
                                  "write the equations of the inner ones where they are used")  # fmt: skip
            return _Built({}, None)
        self._busy.append(key)
        try:
            with self.report.used(op.span or context.span):
                built = self._build(op, sizes, context)
        finally:
            self._busy.pop()
        by_answers = self._built.setdefault(key, {}).setdefault(tuple(built.asked), {})
        return by_answers.setdefault(tuple(built.asked.values()), built)

    def _build(self, op: OpValue, sizes: Sequence[Sequence[int]], context: Context) -> _Built:
        asked: Asked = {}
        draft = Draft(self.report, self.budget)
        frame = Frame(draft, op, context, self, asked)
        cell, name = None, self._unique(op.op.name)
        with draft.attempt():
            draft.spend(context.span, CELL)
            cell = _Body(frame, sizes).elaborate(name)
        self._begun.pop()
        if cell is None or draft.failed:
            return _Built(asked, None)
        self.cells[cell.name] = cell
        return _Built(asked, cell.name)

    def _unique(self, name: str) -> str:
        found, count = name, self._counts.get(name, 1)
        while found in self.cells or found in self._begun:
            count += 1
            found = f"{name}_{count}"
        self._counts[name] = count
        self._begun.append(found)
        return found


def _answer(question: tuple[str, ...], context: Context) -> object:
    match question:
        case ("layer",):
            return context.layer
        case ("layers",):
            return context.layers
        case ("inside",):
            return context.layer is not None
        case _:
            return context.carried.get(question[-1])


class _Body:
    """One op body on its way to a cell."""

    def __init__(self, frame: Frame, sizes: Sequence[Sequence[int]]):
        self.frame, self.draft, self.decl = frame, frame.draft, frame.decl
        self.sizes = sizes
        self.units: list[Unit] = []

    def elaborate(self, name: str) -> Cell:
        """The cell, when nothing failed."""
        frame, draft, decl = self.frame, self.draft, self.decl
        frame.statics.update(frame.op.args)
        given = self._bind()
        open_body(frame)
        self._check_inputs(given)
        draft.names |= {*frame.symbols, *(f.name for f in decl.formals), "out"}
        for axis in frame.axes.values():
            draft.axis(axis)
        out_axes: tuple[AxisVar, ...] = ()
        with draft.attempt():
            scope = frame.scope_of(decl.type, decl.scope)
            out_axes = tuple(axis_of(d, frame.names(scope)) for d in decl.type.dims)
        for symbol in in_order(frame):
            with draft.attempt():
                self._define(symbol)
        for stmt, scope in frame.statements:
            if isinstance(stmt, ast.Return):
                with draft.attempt():
                    self._result(stmt, scope, out_axes)
        if "return" not in frame.spans and "return" not in frame.broken:
            draft.error("E0217", decl.span, f"op `{decl.name}` returns nothing", "end it with `return …`")
        for unit in self.units:
            with draft.attempt():
                unit.need()
        trained = self._training()
        cell = self._assemble(name, tuple(draft.axis(a) for a in out_axes), trained)
        failed = draft.failed
        self._check_used()
        if not failed:
            self._check_reach()
        if draft.failed:
            raise Failed
        return cell

    # ---- formals
    def _bind(self) -> dict[str, tuple[AxisVar, ...]]:
        frame, decl, at = self.frame, self.decl, self.frame.context.span
        formals = inputs(decl)
        check_complete(frame.op, at, frame.report)
        if len(formals) != len(self.sizes):
            self.draft.fail("E0210", at, f"op `{decl.name}` takes {len(formals)} tensors, {len(self.sizes)} are given",
                            f"it takes {', '.join(f.name for f in formals)}")  # fmt: skip
        given: dict[str, tuple[AxisVar, ...]] = {}
        for formal, sizes in zip(formals, self.sizes, strict=True):
            dims = formal.type.dims if formal.type is not None else ()
            names = [quote(d) for d in dims] if len(dims) == len(sizes) else [str(n) for n in sizes]
            axes = tuple(AxisVar(name, size, loose=True) for name, size in zip(names, sizes, strict=True))
            given[formal.name] = axes
            if formal.type is not None:
                bind_axes(frame, formal, axes, at)
            dtype = "pick" if formal.kind == "index" else formal.type.dtype or "work" if formal.type else "work"
            scope = frame.scope_of(formal, decl.scope)
            indices = tuple(IndexVar("", formal.span, a) for a in axes)
            frame.declare(formal.name, Stored("input", formal.name, formal, scope, dtype, formal.span, indices))  # type: ignore[arg-type]
        return given

    def _check_inputs(self, given: Mapping[str, tuple[AxisVar, ...]]) -> None:
        frame = self.frame
        for formal in inputs(self.decl):
            with self.draft.attempt():
                if formal.type is not None:
                    check_axes(frame, formal, given[formal.name], frame.context.span)
                symbol = frame.symbols.get(formal.name)
                if formal.extent is not None and isinstance(symbol, Stored):
                    symbol.into = axis_of(formal.extent, frame.names(symbol.scope))
        for axes in given.values():
            for axis in axes:
                axis.root.loose = False

    # ---- equations
    def _define(self, symbol: Local | Stored) -> None:
        """An equation, or this token's entry of a history."""
        if isinstance(symbol, Local):
            solve(symbol, self.frame)
        else:
            stmt = symbol.stmt
            assert isinstance(stmt, ast.History)
            r = reading(self.frame, symbol.scope, stmt.name)
            symbol.unit = define_stored(Ref("history", stmt.name), symbol, None, stmt.value, stmt.span, r)
        self._keep(symbol.unit)

    def _result(self, stmt: ast.Return, scope: Scope, axes: tuple[AxisVar, ...]) -> None:
        r = reading(self.frame, scope, "out")
        dtype = self.decl.type.dtype or "work"
        self._keep(define(Ref("output", "out"), axes, dtype, None, stmt.value, stmt.span, r))  # type: ignore[arg-type]

    def _keep(self, unit: Unit | None) -> None:
        if unit is not None and unit not in self.units:
            self.units.append(unit)

    def _training(self) -> list[nodes.Training]:
        found: list[nodes.Training] = []
        first: dict[str, Span] = {}
        for stmt, scope in self.frame.statements:
            with self.draft.attempt():
                match stmt:
                    case ast.Aux():
                        made = training.aux(stmt, scope, self.frame)
                    case ast.Metric():
                        made = training.metric(stmt, scope, self.frame)
                    case ast.AfterStep():
                        made = training.after(stmt, scope, self.frame)
                    case _:
                        continue
                if made.name in first:
                    at = f"{first[made.name].line}:{first[made.name].col}"
                    self.draft.fail("E0205", stmt.span, f"`{made.name}` is defined twice (first at {at})", "rename one")
                first[made.name] = stmt.span
                found.append(made)
        return found

    # ---- the cell
    def _assemble(self, name: str, out_axes: tuple[Axis, ...], trained: Sequence[nodes.Training]) -> Cell:
        frame, draft, decl = self.frame, self.draft, self.decl
        made: dict[type, list[object]] = {}
        for symbol in frame.symbols.values():
            with draft.attempt():
                record = self._record(symbol)
                if record is not None:
                    made.setdefault(type(record), []).append(record)
        return Cell(
            name,
            decl.name,
            tuple(made.get(nodes.Input, ())),  # type: ignore[arg-type]
            out_axes,
            tuple(draft.body),
            tuple(made.get(nodes.Param, ())),  # type: ignore[arg-type]
            tuple(made.get(nodes.State, ())),  # type: ignore[arg-type]
            tuple(made.get(nodes.History, ())),  # type: ignore[arg-type]
            tuple(made.get(nodes.Carry, ())),  # type: ignore[arg-type]
            tuple(made.get(nodes.Buffer, ())),  # type: ignore[arg-type]
            tuple(made.get(nodes.Part, ())),  # type: ignore[arg-type]
            tuple(trained),
            decl.doc,
            decl.span,
        )

    def _record(self, symbol: object) -> object:
        """The record of a declaration; None for what needs none."""
        frame = self.frame
        match symbol:
            case Stored(kind="input"):
                axes = tuple(frame.draft.axis(v.axis) for v in symbol.indices or () if v.axis is not None)
                extent = frame.draft.axis(symbol.into) if symbol.into is not None else None
                return nodes.Input(symbol.name, axes, symbol.dtype, extent)
            case Stored(kind="param"):
                return declare_param(symbol, frame)
            case Stored(kind="state"):
                return declare_state(symbol, frame)
            case Stored(kind="history"):
                return declare_history(symbol, frame)
            case Stored(kind="buffer"):
                return declare_buffer(symbol, frame)
            case Stored(kind="carry"):
                carry = declare_carry(symbol, frame)
                return carry if carry.reads or carry.writes else None
            case Held() if symbol.calls:
                return declare_part(symbol, frame)
            case _:
                return None

    def _check_reach(self) -> None:
        """Report what leads nowhere (E0507); a part that has an effect of its own does not."""
        frame = self.frame
        acting = {s.name for s in frame.symbols.values() if isinstance(s, Held) and frame.home.acts(s.cell)}
        taken = [stmt for stmt, _ in frame.statements]
        also = [s for s in taken if isinstance(s, ast.Equation) and acting & mentioned(s.value)]
        frame.home.check_reach(frame, also)

    def _check_used(self) -> None:
        """Report params and parts that nothing uses (E0507)."""
        named = mentioned(*self.decl.body)
        for name, symbol in self.frame.symbols.items():
            match symbol:
                case Stored(kind="param") if not symbol.used:
                    what, use = "param", "used"
                case Held() if not symbol.calls:
                    what, use = "bank" if symbol.index is not None else "part", "called"
                case _:
                    continue
            if name not in named:
                self.draft.error("E0507", symbol.span, f"{what} `{name}` is never {use}", "use it or delete it")
            elif not self.draft.failed:
                self.draft.error("E0507", symbol.span, f"{what} `{name}` is never {use} here",
                                 "declare it inside the `when` that uses it")  # fmt: skip
