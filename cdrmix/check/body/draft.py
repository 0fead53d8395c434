"""A cell that is being written: its names, its axes, and statements written by need.

Input: units (definitions, choices, applications of parts), each with values that know how to write themselves.
Output: the cell's body, in an order in which it can be evaluated; a cycle is a mistake of the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NoReturn

from cdrmix.check.axes.axes import AxisVar, IndexVar
from cdrmix.check.body.tensors import Place, Value, stored
from cdrmix.check.body.tensors import index as index_value
from cdrmix.check.names.values import Failed, fail
from cdrmix.diagnose import Report, Span
from cdrmix.ir import build, nodes, walk
from cdrmix.ir.nodes import Axis, DType, Index, Node, Ref

if TYPE_CHECKING:
    from cdrmix.check.body.symbols import Local

TOKENS = AxisVar("tokens", 0)
"""The axis of all tokens of an optimiser step."""

MAX_OPERATIONS = 40_000
"""Operations that the ops of one model may have, written out once for each different use; the largest model of the
library has 800."""

MAX_DEPTH = 200
"""How deep operations may be nested in one statement, functions and `let`s written out."""

CALL, CELL = 10, 20
"""What the call of a function, and an op written out for one more use, count for besides their operations."""


@dataclass(slots=True)
class Budget:
    """How much the ops of one model may still write out; `told` once it is spent."""

    left: int = MAX_OPERATIONS
    told: bool = False


_LETTERS = "ijmnpqruvzabcdefghklostwxy"
"""Names of indices that the text does not name, in the order they are tried."""


@dataclass(eq=False, slots=True)
class Draft:
    """One cell: what its text has declared so far and the statements written.

    `literals` are the axes of sizes given as numbers, `shared` those named by a file's `let`, by the `let`'s `id`;
    `windows` those of the tokens of histories, by the axis of their length.  `budget` is the model's.
    """

    report: Report
    budget: Budget
    names: set[str] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)
    body: list[nodes.Stmt] = field(default_factory=list)
    busy: list[Unit] = field(default_factory=list)
    solving: list[Local] = field(default_factory=list)
    literals: dict[int, AxisVar] = field(default_factory=dict)
    shared: dict[int, AxisVar] = field(default_factory=dict)
    windows: dict[AxisVar, AxisVar] = field(default_factory=dict)
    failed: bool = False
    axes: dict[AxisVar, Axis] = field(default_factory=dict)
    axis_names: set[str] = field(default_factory=set)
    axis_counts: dict[str, int] = field(default_factory=dict)

    def fail(self, code: str, span: Span, message: str, help: str = "") -> NoReturn:
        """Report a mistake; what depends on the value is not looked at further."""
        self.failed = True
        fail(self.report, code, span, message, help)

    def error(self, code: str, span: Span, message: str, help: str = "") -> None:
        """Report a mistake that leaves the value usable."""
        self.failed = True
        self.report.error(code, span, message, help)

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Go on after a mistake that has been reported."""
        try:
            yield
        except Failed:
            self.failed = True

    def spend(self, span: Span, count: int = 1) -> None:
        """Count operations that are written out: a function that calls another twice doubles what that one writes."""
        self.budget.left -= count
        if self.budget.left < 0:
            self.failed = True
            if self.budget.told:
                raise Failed
            self.budget.told = True
            self.fail("E0221", span, f"the ops of this model come to more than {MAX_OPERATIONS} operations, with the "
                      "functions they call written out", "call fewer functions, name a value that is used twice, or "
                      "let fewer layers differ")  # fmt: skip

    def unique(self, name: str) -> str:
        """A name for a definition that the text does not name."""
        found, count = name, self.counts.get(name, 1)
        while found in self.names:
            count += 1
            found = f"{name}_{count}"
        self.names.add(found)
        self.counts[name] = count
        return found

    def literal(self, size: int) -> AxisVar:
        """The axis of a size given as a number; equal numbers are one axis."""
        return self.literals.setdefault(size, AxisVar(str(size), size))

    def axis(self, var: AxisVar) -> Axis:
        """The IR's axis, its name unique in the cell."""
        var = var.root
        if var.window is not None:
            return self.axis(var.window)
        if var is TOKENS:
            return nodes.TOKENS
        if var not in self.axes:
            name, count = var.name, self.axis_counts.get(var.name, 1)
            while name in self.axis_names:
                count += 1
                name = f"{var.name}_{count}"
            self.axis_names.add(name)
            self.axis_counts[var.name] = count
            self.axes[var] = Axis(name, var.size)
        return self.axes[var]


class Writing:
    """One statement that is being written: its index variables have distinct names, none of them a name's."""

    def __init__(self, draft: Draft):
        self.draft = draft
        self.taken: set[str] = set()
        self.counts: dict[str, int] = {}
        self.nodes: dict[IndexVar, Node] = {}

    def open(self, var: IndexVar) -> Index:
        """The index of a variable that is bound from here on."""
        assert var.axis is not None
        index = Index(self._name(var.name), self.draft.axis(var.axis))
        self.nodes[var] = build.index(index, var.span)
        return index

    def fresh(self, axis: AxisVar) -> Index:
        """An index that the text does not name."""
        free = (c for c in _LETTERS if c not in self.taken and c not in self.draft.names)
        return Index(self._name(next(free, "i")), self.draft.axis(axis))

    def emit(self, value: Value, slots: tuple[Node, ...], span: Span) -> Node:
        """The value written out.  Refuses what is nested so deeply that no pass could walk it."""
        try:
            node = value.emit(self, slots)
        except RecursionError:
            node = None
        if node is None or walk.depth(node) > MAX_DEPTH:
            self.draft.fail("E0219", span, f"written out, this is nested more than {MAX_DEPTH} operations deep",
                            "give a part of what it calls an equation of its own")  # fmt: skip
        return node

    def node(self, var: IndexVar) -> Node:
        """What stands for a variable."""
        return self.nodes[var]

    def _name(self, name: str) -> str:
        found, count = name, self.counts.get(name, 1)
        while found in self.taken or found in self.draft.names:
            count += 1
            found = f"{name}{count}"
        self.taken.add(found)
        self.counts[name] = count
        return found


class Unit:
    """A statement of the body, written when first needed."""

    ref: Ref
    span: Span

    def __init__(self, draft: Draft):
        self.draft = draft
        self.status: Literal["new", "busy", "done", "failed"] = "new"

    def need(self) -> None:
        """Make sure that the statement stands in the body."""
        if self.status == "busy":
            self._cycle()
        if self.status == "failed":
            raise Failed
        if self.status == "new":
            self.status = "busy"
            self.draft.busy.append(self)
            try:
                self.draft.body.append(self.write())
                self.status = "done"
            finally:
                self.draft.busy.pop()
                if self.status == "busy":
                    self.status = "failed"

    def write(self) -> nodes.Stmt:
        """The statement; what it needs is written first."""
        raise NotImplementedError

    def shown(self) -> str:
        """The name as the text has it."""
        return self.ref.name + "'" * (self.ref.kind == "next")

    def _cycle(self) -> NoReturn:
        ring = self.draft.busy[self.draft.busy.index(self) :]
        following = next((u for u in ring if u.ref.kind == "next"), None)
        path = " → ".join(u.shown() for u in (*ring, self))
        if following is None:
            help = "a value of the previous token is a `state`"
            if any(u.ref.kind == "history" for u in ring):
                help = "a history holds this token's value too, at age 0: what is kept in it cannot read it, while a " \
                       "`state` is read before it is written"  # fmt: skip
            self.draft.fail("E0206", self.span, f"`{self.shown()}` needs itself: {path}", help)
        s, other = following.shown(), ring[(ring.index(following) + 1) % len(ring)].shown()
        at = f"{following.span.line}:{following.span.col}"
        what = "itself" if other == s else f"`{other}`, and `{other}` needs `{s}`"
        where = "its own equation" if other == s else "one of them"
        self.draft.fail("E0403", following.span, f"`{s}` at {at} needs {what}",
                        f"read `{s[:-1]}` (before this token) in {where}")  # fmt: skip


class Definition(Unit):
    """`ref[lead…, indices…, shape…] = value`."""

    def __init__(
        self, draft: Draft, ref: Ref, indices: Sequence[IndexVar], value: Value, dtype: DType, span: Span
    ) -> None:
        super().__init__(draft)
        self.ref, self.value, self.dtype, self.span = ref, value, dtype, span
        self.lead = tuple(v for v in value.free if v not in indices)
        self.indices = tuple(indices)

    def write(self) -> nodes.Def:
        w = Writing(self.draft)
        named = [w.open(v) for v in (*self.lead, *self.indices)]
        slots = [w.fresh(a) for a in self.value.shape]
        value = w.emit(self.value, tuple(build.index(i, self.span) for i in slots), self.span)
        return nodes.Def(self.ref, (*named, *slots), value, self.dtype, self.span)

    def read(self, span: Span) -> Value:
        """The defined name, its leading indices as they are where it is read, the others not yet given."""

        def ref(w: Writing) -> Ref:
            self.need()
            return self.ref

        lead = tuple((None, index_value(v, span)) for v in self.lead)
        axes = (*(v.axis for v in self.indices if v.axis is not None), *self.value.shape)
        value = self.value
        return stored(Place(ref, lead, True, self), axes, self.dtype, value.varies, value.into, span)
