"""A model's stack, line by line, to the IR: layers repeated, branches taken, paths given.

Input: the settings of a model, its stack and a source of cells (`Elaborator`).
Output: an `ir.nodes.Model`; None when something was wrong.

A line's label is its path, inside `layer.<i>.` in a `repeat layer < n`; the last op of a chain stands at the line's
path and the ones before it at `<path>.<name as written>`.  What flows down the stack is a token first and a vector
from the first op on.  Carries are keyed by name and known to all lines below the one that writes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import NoReturn, Protocol

from cdrmix.check.body.frame import Context
from cdrmix.check.names.derive import explain_axes
from cdrmix.check.names.scope import OpValue, Scope, Static
from cdrmix.check.names.settings import ModelEnv, Settings, check_require
from cdrmix.check.names.statics import RESERVED, evaluate, truth
from cdrmix.check.names.values import Failed, a_kind, check_complete, inputs, kind_of, show, whole
from cdrmix.diagnose import Report, Span
from cdrmix.ir.nodes import Axis, Carry, Cell, Instance, Line
from cdrmix.syntax import ast

MAX_LINES = 10_000
"""Lines a stack may have when its `repeat`s are written out."""

MAX_PLACES = 2 * MAX_LINES
"""Ops that a stack may have, parts of ops counted."""

MAX_STEPS = 10 * MAX_LINES
"""Lines, branches and rounds of `repeat` that may be looked at on the way: empty loops end too."""


class Cells(Protocol):
    """Makes cells of ops: `check.elaborate.Elaborator`."""

    cells: dict[str, Cell]

    def cell(self, op: OpValue, inputs: Sequence[Sequence[Axis]], context: Context) -> str | None:
        """The name in `cells` of the op applied to values of these axes; None when it is wrong, which is reported."""


@dataclass(frozen=True, slots=True)
class Block:
    """The lines of a `{ … }`: their names, the front of their paths and the round of `repeat layer` they are in."""

    env: ModelEnv
    prefix: str = ""
    outer: tuple[str, ...] = ()
    layer: int | None = None
    layers: int | None = None

    def local(self, name: str, value: Static | None) -> Block:
        """The block with one more name."""
        return replace(self, env=replace(self.env, local={**self.env.local, name: value}))


@dataclass(slots=True)
class Expander:
    """Walks the lines in order; what it has seen so far is its state."""

    settings: Settings
    cells: Cells
    lines: list[Line] = field(default_factory=list)
    ties: list[tuple[ast.Tie, tuple[str, ...]]] = field(default_factory=list)
    stream: tuple[Axis, ...] | None = ()
    vocab: Axis | None = None
    width: int = 0
    carried: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _writers: dict[str, tuple[int | None, str]] = field(default_factory=dict)
    _paths: dict[str, Span] = field(default_factory=dict)
    _repeats: dict[str, Span] = field(default_factory=dict)
    _wrong: set[int] = field(default_factory=set)
    _told: set[tuple[str, Span]] = field(default_factory=set)
    _steps: int = 0
    _places: int = 0
    _counts: dict[str, int] = field(default_factory=dict)
    _begun: bool = False
    _guessed: bool = False

    @property
    def report(self) -> Report:
        return self.settings.report

    def expand(self, stack: ast.Stack, scope: Scope) -> None:
        """All lines of the stack, then what must hold at its end."""
        block = Block(ModelEnv(self.settings, scope, carried=self.carried))
        try:
            self._block(stack.lines, block)
        except _TooMany:
            return
        if not self._begun:
            self._once("E0711", stack.span, "the stack has no line with an op", "begin with `embed(vocab, d_model)`")
        elif self._guessed or self.stream is None or self.vocab is None:
            return
        elif [a.size for a in self.stream] != [self.vocab.size]:
            last = self.lines[-1].span if self.lines else stack.span
            self._once("E0707", last, f"the stack takes a token and ends in {shape(self.stream)}",
                       f"end it with an op that returns [{self.vocab.size}], for instance `head(vocab)`")  # fmt: skip

    def _once(self, code: str, span: Span, message: str, help: str) -> None:
        """Report a mistake that each round of a `repeat` would find again."""
        if (code, span) not in self._told:
            self._told.add((code, span))
            self.report.error(code, span, message, help)

    def _fail(self, code: str, span: Span, message: str, help: str) -> NoReturn:
        self._once(code, span, message, help)
        raise Failed

    # ---- lines
    def _block(self, lines: Sequence[ast.Syntax], block: Block) -> None:
        for line in lines:
            self._step(line.span)
            try:
                match line:
                    case ast.Let():
                        block = self._let(line, block)
                    case ast.Require():
                        check_require(line, block.env)
                    case ast.Repeat():
                        self._repeat(line, block)
                    case ast.Branch():
                        taken = truth(evaluate(line.cond, block.env, self.report), line.cond, self.report)
                        self._block(line.lines if taken else line.other, block)
                    case ast.Tie():
                        self.ties.append((line, (*block.outer, block.prefix)))
                    case ast.Line():
                        self._line(line, block)
            except Failed:
                if not isinstance(line, ast.Line):
                    self.stream = None  # lines that were not seen may have changed it

    def _step(self, span: Span) -> None:
        self._steps += 1
        if len(self.lines) >= MAX_LINES or self._steps > MAX_STEPS:
            self._once("E0713", span, f"the stack has more than {MAX_LINES} lines", "repeat fewer times")
            raise _TooMany

    def _let(self, let: ast.Let, block: Block) -> Block:
        self._check_new(let.name, let.span, block)
        try:
            return block.local(let.name, evaluate(let.value, block.env, self.report))
        except Failed:
            return block.local(let.name, None)

    def _check_new(self, name: str, span: Span, block: Block) -> None:
        taken = self.settings.entries.get(name)
        scope = block.env.scope
        if taken and any(d.code == "E0701" and d.span == taken.first.span for d in self.report.diagnostics):
            return  # meant to be another setting, and told so
        if taken:
            first = f"a setting in {taken.first.span.file}"
        elif name in block.env.local:
            first = "a name of the lines around it"
        elif name in scope.ops or name in scope.lets:
            first = "a name of the file"
        elif name in RESERVED and name != "layer":
            first = "a name of the language"
        else:
            return
        self._fail("E0205", span, f"`{name}` is already {first}", "choose another name")

    def _repeat(self, repeat: ast.Repeat, block: Block) -> None:
        self._check_new(repeat.name, repeat.span, block)
        what = f"the number of rounds of `repeat {repeat.name}`"
        count = whole(evaluate(repeat.count, block.env, self.report), what, repeat.count.span, self.report)
        if not 0 <= count <= MAX_LINES:
            self._fail("E0713", repeat.count.span, f"{what} is {count}", f"it runs from 0 to {MAX_LINES}")
        label = block.prefix + repeat.name
        if label in self._paths:
            self._same(repeat.name, repeat.span, self._paths[label])
        self._repeats.setdefault(label, repeat.span)
        for i in range(count):
            self._step(repeat.span)
            prefix = f"{block.prefix}{repeat.name}.{i}."
            inner = replace(block.local(repeat.name, i), prefix=prefix, outer=(*block.outer, block.prefix))
            if repeat.name == "layer":
                inner = replace(inner, layer=i, layers=count)
            self._block(repeat.lines, inner)

    def _line(self, line: ast.Line, block: Block) -> None:
        begun, before = self._begun, self.stream
        self._begun = True
        if id(line) in self._wrong:  # told in an earlier round
            self._lost(before)
            return
        chain = [self._op(expr, block) for expr in _chain(line.value)]
        names = [_written(expr) or (op.op.name if op else "") for expr, op in chain]
        path = block.prefix + (line.label or names[-1])
        paths = [f"{path}.{name}" for name in names[:-1]] + [path]
        self._check_paths(line, paths)
        made: list[Instance] = []
        for at, ((expr, op), where) in enumerate(zip(chain, paths, strict=True)):
            first = not begun and at == 0
            cell = self._apply(op, expr.span, block, first) if op and (self.stream is not None) else None
            if op is None or cell is None:
                self._wrong.add(id(line))
                self._lost(before if begun else None)
                return
            self._depth(cell, op, expr.span, block)
            made.append(Instance(where, cell.name, block.layer or 0, block.layers or 1))
            self.stream = cell.out_axes
        self._check_inside(line, made)
        if line.residual:
            self._check_residual(line, before if begun else None)
        self.lines.append(Line(path, line.residual, tuple(made), line.span))

    def _lost(self, before: tuple[Axis, ...] | None) -> None:
        """After a line that is wrong: most ops return what they take, so the lines below are checked as if it did."""
        self.stream, self._guessed = before, True

    def _op(self, expr: ast.Expr, block: Block) -> tuple[ast.Expr, OpValue | None]:
        """The op an element of a chain stands for; None when it is wrong."""
        try:
            value = evaluate(expr, block.env, self.report)
        except Failed:
            return expr, None
        if isinstance(value, OpValue):
            return expr, value
        self._once("E0709", expr.span, f"this stack line is {a_kind(kind_of(value))} ({show(value)}), not an op",
                   "name an op, for instance `layer_norm`")  # fmt: skip
        return expr, None

    def _apply(self, op: OpValue, span: Span, block: Block, first: bool) -> Cell | None:
        """The cell of the op for what flows into it, and the checks that belong to the place in the stack."""
        formals = inputs(op.op)
        name = op.op.name
        if len(formals) != 1:
            self._once("E0712", span, f"op `{name}` takes {len(formals)} inputs, an op of the stack takes one",
                       "call it inside another op")  # fmt: skip
            return None
        if first and formals[0].kind != "index":
            self._once("E0707", span, f"the stack takes a token, and op `{name}` takes a tensor",
                       "begin with `embed(vocab, d_model)`")  # fmt: skip
            return None
        if not first and formals[0].kind == "index":
            self._once("E0712", span, f"op `{name}` takes a token, and {shape(self.stream or ())} flows into it",
                       "only the first line of the stack takes the token")  # fmt: skip
            return None
        try:
            check_complete(op, op.span or span, self.report)  # where its other arguments were given
        except Failed:
            return None
        context = Context(block.layer, block.layers, self.carried, span)
        made = self.cells.cell(op, [self.stream or ()], context)
        if made is None:
            explain_axes(op.op, self.report)
            return None
        self._places += self._places_of(made)
        if self._places > MAX_PLACES:
            self._once("E0713", span, f"the stack has more than {MAX_PLACES} ops, parts of ops counted",
                       "make a `bank` of parts that are alike")  # fmt: skip
            raise _TooMany
        cell = self.cells.cells[made]
        if first:
            self.vocab = cell.inputs[0].extent
            self.width = prod(a.size for a in cell.out_axes)
        return cell

    def _places_of(self, name: str) -> int:
        """How many ops a cell is, with its parts and theirs; a bank's instances count once."""
        if name not in self._counts:
            self._counts[name] = 1 + sum(self._places_of(part.cell) for part in self.cells.cells[name].parts)
        return self._counts[name]

    # ---- depth
    def _depth(self, cell: Cell, op: OpValue, span: Span, block: Block) -> None:
        """Check the carries of the cell against those above, and note those it writes."""
        for carry in carries(cell, self.cells.cells):
            sizes = tuple(a.size for a in carry.axes)
            above = self.carried.get(carry.name)
            name = carry.name
            if above is not None and above != sizes:
                both = f"{_sizes(above)} in {self._writers[name][1]} and of {_sizes(sizes)} in {op.op.name}"
                self._once("E0504", span, f"`{name}` is a carry of {both}",
                           "carries are shared by name: rename one of the two")  # fmt: skip
            if carry.writes:
                layer, writer = self._writers.get(name, (None, ""))
                if layer is not None and layer == block.layer:
                    self._once("E0509", span, f"carry `{name}` is written twice in one layer, first by {writer}",
                               "a layer writes a carry once: rename one of the two, or let each be a layer of its own, "
                               "`repeat layer < 2*layers`")  # fmt: skip
                self._writers[name] = (block.layer, op.op.name)
                self.carried[name] = sizes

    # ---- checks of a line
    def _check_paths(self, line: ast.Line, paths: Sequence[str]) -> None:
        for path in paths:
            label = path.rpartition(".")[2]
            if path in self._repeats:
                self._same(label, line.span, self._repeats[path])
            if path in self._paths:
                first = self._paths[path]
                if first == line.span and paths.count(path) > 1:
                    what, help = f"two ops of the line are both named `{label}`", "give one a line of its own"
                else:
                    what, help = f"two lines are both named `{label}`", f"label one: `other_{label}: …`"
                self._fail("E0704", line.span, f"{what} (first at {first.line}:{first.col})", help)
            self._paths[path] = line.span

    def _same(self, name: str, span: Span, first: Span) -> None:
        self._fail("E0704", span, f"`{name}` names a line and a `repeat` (first at {first.line}:{first.col})",
                   f"label the line: `{name}_in: …`")  # fmt: skip

    def _check_inside(self, line: ast.Line, made: Sequence[Instance]) -> None:
        """An op before the last must not sit where the last one keeps something of its own."""
        last = self.cells.cells[made[-1].cell]
        kept = (last.params, last.states, last.histories, last.buffers, last.parts)
        inside = {d.name for decls in kept for d in decls}
        for instance in made[:-1]:
            name = instance.path.rpartition(".")[2]
            if name in inside:
                self._fail("E0704", line.span, f"`{name}` names an op of the line and something inside `{last.op}`",
                           f"give `{name}` a line of its own")  # fmt: skip

    def _check_residual(self, line: ast.Line, before: tuple[Axis, ...] | None) -> None:
        after = self.stream or ()
        if before is None:
            self._fail("E0508", line.span, f"`residual` adds {shape(after)} to a token",
                       "the first line embeds the token: write it without `residual`")  # fmt: skip
        elif [a.size for a in before] != [a.size for a in after]:
            self.stream = before
            if self._guessed:
                return
            self._fail("E0508", line.span, f"`residual` adds {shape(after)} to {shape(before)}",
                       "the ops of the line must return what they take")  # fmt: skip
        else:
            self.stream = before


class _TooMany(Exception):
    """The stack is larger than any model; the rest of it is not looked at."""


def shape(axes: Sequence[Axis]) -> str:
    """`[1024]`."""
    return _sizes(tuple(a.size for a in axes))


def _sizes(sizes: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, sizes))}]"


def _chain(expr: ast.Expr) -> list[ast.Expr]:
    """The ops of `a >> b >> c`."""
    found: list[ast.Expr] = []
    while isinstance(expr, ast.Compose):
        found.insert(0, expr.right)
        expr = expr.left
    return [expr, *found]


def _written(expr: ast.Expr) -> str:
    """The name the text gives an op: it labels the op's parameters, whatever a setting puts there."""
    match expr:
        case ast.Name(id=name):
            return name
        case ast.Path(parts=parts):
            return parts[-1]
        case ast.Call(base=base):
            return _written(base)
    return ""


def carries(cell: Cell, cells: Mapping[str, Cell]) -> Iterator[Carry]:
    """The carries of a cell and of its parts."""
    for part in cell.parts:
        yield from carries(cells[part.cell], cells)
    yield from cell.carries
