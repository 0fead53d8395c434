"""One equation that is being read: the indices it may use, and what waits until their ranges are known.

Input: a frame, the file whose names the equation sees, and the indices its left side names.
Output: `value(expr, reading)` gives an expression's `Value`; its rules are in `expressions`, `indexing`, `reductions`
and `calls`, one a kind of syntax.  `finish` settles splits and ranges and checks the bounds of index arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import singledispatch
from typing import Literal

from cdrmix.check.axes.axes import AxisVar, IndexVar, is_one, made_one, names, unite
from cdrmix.check.body.draft import Draft
from cdrmix.check.body.frame import Frame, Names
from cdrmix.check.body.symbols import Stored, Symbol
from cdrmix.check.body.tensors import Value
from cdrmix.check.body.waiting import Split, Waiting
from cdrmix.check.names.mentions import nodes
from cdrmix.check.names.scope import Scope
from cdrmix.check.names.values import Failed
from cdrmix.diagnose import Span
from cdrmix.syntax import ast

Mode = Literal["body", "init", "start", "training"]


@dataclass(frozen=True, eq=False, slots=True)
class Reading:
    """Where an expression stands.

    `indices` are the index variables in sight, `bound` those of reductions around it.  `mode`: `init` rules of params
    and buffers stay symbolic in `layer`; `start` values of states read params at most; `training` ones may reduce over
    tokens.  `hint` names what has to be stored on the way.
    `reached` are the indices by which the value of a call is indexed right where it stands.
    """

    frame: Frame
    scope: Scope
    waiting: Waiting
    indices: Mapping[str, IndexVar] = field(default_factory=dict)
    bound: tuple[IndexVar, ...] = ()
    mode: Mode = "body"
    hint: str = "value"
    target: str = ""
    reached: frozenset[str] = frozenset()

    @property
    def draft(self) -> Draft:
        """The cell that is being written."""
        return self.frame.draft

    @property
    def env(self) -> Names:
        """What static expressions see here."""
        return self.frame.names(self.scope)

    @property
    def pure(self) -> bool:
        """Whether nothing may be stored on the way: the expression must stay one."""
        return self.frame.pure or self.mode != "body"

    def under(self, indices: Mapping[str, IndexVar]) -> Reading:
        """Inside a reduction that binds `indices`."""
        return replace(self, indices={**self.indices, **indices}, bound=(*self.bound, *indices.values()), reached=_NONE)

    def named(self, hint: str) -> Reading:
        """With another name for what has to be stored."""
        return replace(self, hint=hint)

    def reaching(self, names: set[str]) -> Reading:
        """For a call whose value is indexed by `names` right where it stands."""
        return replace(self, reached=frozenset(names))

    def declare(self, name: ast.Name) -> IndexVar:
        """A new index variable; it may hide neither a name nor another index."""
        if name.id in self.indices:
            outer = self.indices[name.id]
            around = f"the reduction over `{name.id}` around it" if outer in self.bound else "the left side"
            self.draft.fail("E0208", name.span, f"index `{name.id}` is already bound by {around}",
                            "use another letter")  # fmt: skip
        if self.frame.visible(name.id, self.scope):
            at = self.frame.spans.get(name.id)
            where = f" defined at {at.line}:{at.col}" if at else ""
            what = "value" if name.id in self.frame.symbols else "name"
            self.draft.fail("E0207", name.span, f"index `{name.id}` hides the {what} `{name.id}`{where}",
                            "use another letter for the index")  # fmt: skip
        var = IndexVar(name.id, name.span)
        self.waiting.indices.append(var)
        return var

    def stand(self, var: IndexVar, axis: AxisVar, where: str, span: Span) -> None:
        """Let a lone index range over the axis where it stands."""
        if var.axis is None:
            var.axis, var.where = axis, where
        elif var.axis.root.window is None and axis.root.window is not None and is_one(var.axis, axis.root.window):
            var.axis, var.where = axis, where  # the tokens of a window narrow a param of its length
        elif not _may_stand(var.axis, axis):
            had, now = var.axis.root, axis.root
            if had.window and now.window:
                a, b = var.where.split("[")[0], where.split("[")[0]
                self.draft.fail("E0409", span, f"`{var.name}` runs over {a} ({had.size} tokens) and {b} ({now.size})",
                                "give both histories one window")  # fmt: skip
            both = f"{_named(had)} ({var.where}) and over {_named(now)} ({where})"
            help = f"one index, one axis{_one_size(had, now) or _first_places(var, had, now) or self._axes(var, where)}"
            self.draft.fail("E0305", span, f"index `{var.name}` runs over {both}", help)

    def _axes(self, var: IndexVar, where: str) -> str:
        """The axes of both tensors, where their text declares them."""
        said = []
        for base in dict.fromkeys((var.where.split("[")[0], where.split("[")[0])):
            symbol = self.frame.symbols.get(base.rstrip("'"))
            if isinstance(symbol, Stored) and symbol.indices is not None:
                said.append(f"`{base}` is {names([v.axis for v in symbol.indices if v.axis is not None])}")
        return f"; {' and '.join(said)}" if said else ""


_NONE: frozenset[str] = frozenset()


def _may_stand(had: AxisVar, axis: AxisVar) -> bool:
    window = had.root.window
    return unite(had, axis) or window is not None and is_one(window, axis)


def _named(axis: AxisVar) -> str:
    return f"the tokens of a window of {axis.name}" if axis.window else axis.name


def _one_size(a: AxisVar, b: AxisVar) -> str:
    return f"; if they are meant to be one, {made_one(a, b)}" if a.size == b.size else ""


def _first_places(var: IndexVar, had: AxisVar, now: AxisVar) -> str:
    """How to read a part of a longer axis: arithmetic on an index is checked by its range, not by its axis."""
    if had.window or now.window:
        return ""
    if had.size > now.size and var.axis is not None and "<" in var.where:
        return f"; where a choice takes another branch, write `min({var.name}, {now.size - 1})`"
    fits = had.size < now.size
    return f"; `0 + {var.name}` reads the first {had.size} places of {now.name}" if fits else ""


@singledispatch
def value(expr: ast.Expr, r: Reading) -> Value:
    """The value of an expression; raises `Failed` after a mistake."""
    raise TypeError(type(expr))


@singledispatch
def read(symbol: Symbol, span: Span, r: Reading) -> Value:
    """The value of a name as a whole; an equation that is read is elaborated first."""
    raise TypeError(type(symbol))


def finish(r: Reading) -> None:
    """Settle what waited for ranges."""
    waiting = r.waiting
    progress = True
    while progress:
        progress = False
        for split in waiting.splits:
            if not split.settled:
                progress |= _narrow(split, r)
    for split in waiting.splits:
        if not split.settled:
            ways = " or ".join("*".join(a.root.name for a in way) for way in split.ways[:3])
            example = names(split.ways[0])
            r.draft.fail(
                "E0310", split.span, f"a {names(split.axes)} read as [{', '.join(split.texts)}] could be {ways}",
                f"use an index whose range is known, or `as {example}`",
            )  # fmt: skip
    for var in waiting.indices:
        if var.axis is None:
            at = var.where or r.target  # a reduction binds it, or the left side
            if (history := _aged(var.name, r)) is not None:
                r.draft.fail("E0307", var.span, f"index `{var.name}` has no range: an age has it from a history",
                             f"write this where `{history}[{var.name}, …]` is read, in that equation; a range of its "
                             f"own would make `{var.name}` no age")  # fmt: skip
            r.draft.fail("E0307", var.span, f"index `{var.name}` has no range",
                         f"declare it where it stands: `{at}[{var.name} < …]`" if at else
                         f"declare it: `{var.name} < …`")  # fmt: skip
    for item, check in waiting.checks:
        if waiting.outer is not None and any(v.axis is None for v in item.free):
            waiting.outer.checks.append((item, check))
        else:
            check()


def _aged(name: str, r: Reading) -> str | None:
    """The history that is read at an age of that name elsewhere in the op."""
    for node in nodes(*r.frame.decl.body):
        match node:
            case ast.Index(base=ast.Name(id=base), items=(ast.Name(id=first), *_)) if first == name:
                symbol = r.frame.symbols.get(base)
                if isinstance(symbol, Stored) and symbol.kind == "history":
                    return base
    return None


def _narrow(split: Split, r: Reading) -> bool:
    """Drop the ways that the ranges known by now exclude; True when one is left."""
    fitting = [way for way in split.ways if all(map(_fits, split.items, way))]
    if not fitting:
        _explain(split, r)
    split.ways = fitting
    if len(fitting) > 1:
        return False
    split.settled = True
    for item, axis, text in zip(split.items, fitting[0], split.texts, strict=True):
        where = f"{split.base}[{', '.join(split.texts)}]"
        place(item, axis, text, where, r)
    return True


def _fits(item: Value, axis: AxisVar) -> bool:
    if item.index is not None:
        return item.index.axis is None or is_one(item.index.axis, axis) or _loosely(item.index.axis, axis)
    return item.into is None or is_one(item.into, axis) or _loosely(item.into, axis)


def _loosely(a: AxisVar, b: AxisVar) -> bool:
    return (a.root.loose or b.root.loose) and a.size == b.size


def _explain(split: Split, r: Reading) -> None:
    """Report why no split fits."""
    for item, axis, text in zip(split.items, split.ways[0], split.texts, strict=True):
        if not _fits(item, axis):
            place(item, axis, text, f"{split.base}[{', '.join(split.texts)}]", r)
    raise Failed


def place(item: Value, axis: AxisVar, text: str, where: str, r: Reading) -> None:
    """Check that an index may stand at an axis; a lone one takes its range."""
    if item.index is not None:
        r.stand(item.index, axis, where, item.span)
    elif item.into is not None:
        if not unite(item.into, axis):
            base = where.split("[")[0]
            r.draft.fail("E0316", item.span, f"`{text}` places into {names([item.into])} and `{base}` is indexed by "
                         f"{names([axis])} there", "choose among the places of the axis that is indexed")  # fmt: skip
    else:
        r.waiting.checks.append((item, lambda: check_bounds(item, axis, text, where, r)))


def check_bounds(item: Value, axis: AxisVar, text: str, where: str, r: Reading) -> None:
    """Check index arithmetic against the size of the axis it stands at (E0312)."""
    assert item.bounds is not None
    low, high = item.bounds()
    base = where.split("[")[0]
    if high >= axis.size:
        reach = axis.root.name if high == axis.size and not axis.root.name.isdigit() else str(high)
        r.draft.fail("E0312", item.span, f"index `{text}` reaches {reach}, past the end of {base}: "
                     f"{names([axis])} has {axis.size} places", f"the last place is {axis.size - 1}; where a choice "
                     f"takes another branch beyond it, write `min({text}, {axis.size - 1})`")  # fmt: skip
    if low == high < 0 and -low <= axis.size:
        size = axis.root.name if axis.root.name in r.frame.axes else str(axis.size)
        r.draft.fail("E0312", item.span, f"index `{text}` reaches {low}, before the start of {base}",
                     f"places count from 0: write `{size} - {-low}`")  # fmt: skip
    if low < 0:
        r.draft.fail("E0312", item.span, f"index `{text}` reaches {low}, before the start of {base}",
                     "the first place is 0; where a choice takes another branch before it, write "
                     f"`max({text}, 0)`")  # fmt: skip
