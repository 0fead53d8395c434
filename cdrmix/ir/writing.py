"""The statements of the array form as Python code: what libraries have in common.

Input: a `Function` (`ir/array_statements.py`), a library's `Spelling` and the spec's texts.
Output: statements of `ir/code.py`.  A library is a subclass with a method for each kind of statement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from cdrmix.diagnose import NOWHERE, Span
from cdrmix.ir import array_statements as form
from cdrmix.ir.array_statements import Function
from cdrmix.ir.arrays import Array, Local
from cdrmix.ir.code import Assign, Block, Code, Comment, Statement, call, item, listed, method, name, written
from cdrmix.ir.nodes import Index
from cdrmix.ir.python import comment, equation
from cdrmix.ir.spelling import reordered
from cdrmix.ir.walk import sizes

KINDS: Mapping[type, str] = {
    form.Say: "say", form.Let: "let", form.Products: "products", form.Moments: "moments", form.TopK: "top",
    form.Measure: "measure", form.Sum: "sum", form.Fill: "fill", form.Keep: "keep", form.Shift: "shift",
    form.Scan: "scan", form.Mix: "mix", form.ChunkScan: "chunk", form.Loop: "loop", form.Entry: "entry",
    form.Attention: "attention", form.CallPart: "part", form.CallBank: "bank",
}  # fmt: skip
"""The method that writes each kind of statement."""


@dataclass(frozen=True, slots=True)
class Written:
    """A function of a generated module: its head, its body, its doc."""

    head: str
    body: tuple[Statement, ...]
    doc: tuple[str, ...] = ()

    def lines(self, indent: int) -> list[str]:
        """The body as text that stands `indent` from the margin."""
        return written(self.body, indent)


@dataclass(slots=True)
class Writer:
    """Writes the statements of one function, in order."""

    function: Function
    spell: Any  # the library's own Spelling
    sources: Mapping[str, str]
    lines: list[Statement] = field(default_factory=list)
    said: Span = NOWHERE

    axes: ClassVar[bool] = False
    """Whether a comment behind what is named tells its axes."""

    def body(self) -> tuple[Statement, ...]:
        """The statements of the function."""
        return self.inner(self.function.body)

    def inner(self, body: Iterable[form.Statement]) -> tuple[Statement, ...]:
        """The statements of a block."""
        outer, self.lines = self.lines, []
        for stmt in body:
            write: Callable[[form.Statement], None] = getattr(self, KINDS[type(stmt)])
            write(stmt)
        made, self.lines = tuple(self.lines), outer
        return made

    def of(self, x: Array) -> Code:
        """The code of an array."""
        code: Code = self.spell.of(x)
        return code

    def assign(self, targets: Code | list[Code], value: Code, dims: Sequence[Index] | None = None) -> None:
        """`targets = value`, and which axes it has."""
        note = axes_of(dims) if self.axes and dims is not None else ""
        self.lines.append(Assign(tuple(targets) if isinstance(targets, list) else (targets,), value, note))

    def define(self, what: Local | str, value: Code, dims: Sequence[Index] | None = None) -> Code:
        """`what = value`, of a local or of a new name near a text; its name."""
        found: Code = self.spell.fresh(what) if isinstance(what, Local) else name(self.spell.names.fresh(what))
        self.assign(found, value, dims)
        return found

    def do(self, code: Code) -> None:
        """A call for what it does."""
        self.lines.append(Assign((), code))

    def equations(self, span: Span) -> list[str]:
        """The equation at `span`, once."""
        if span in (NOWHERE, self.said):
            return []
        self.said = span
        found = equation(span, self.sources)
        return [found] if found else []

    def list_of(self, found: Iterable[Array]) -> Code:
        """A list of arrays."""
        return listed(*map(self.of, found), open="[")

    def beside(self, x: form.Beside, layout: form.Matrix) -> Code:
        """The operand at its state's place on the key axis of coupled states, zero at the others'."""
        code, width = self.of(x.x), layout.key.axis.size
        return code if x.count == 1 else self.padded(code, x.place * width, (x.count - 1 - x.place) * width)

    def side(self, side: form.Side, code: Code) -> Code:
        """Entries as [B, T, groups, features]; a key a head unless heads share them."""
        code = reordered(self.spell.reshaped(code, side.declared, side.view), side.order)
        code = self.spell.reshaped(code, [side.view[p] for p in side.order], side.flat)
        return code if side.table is None else self.heads(code, listed(*side.table, open="["))

    def answered(self, stmt: form.Asked | form.Attention, code: Code) -> None:
        """A tensor [B, T, *flat] is what is asked for, with its axes in order."""
        code = self.spell.reshaped(code, stmt.flat, sizes(stmt.found))
        self.define(stmt.name, self.spell.ordered(code, stmt.found, stmt.dims), stmt.dims)

    # --- what every library writes alike ---------------------------------------------------------------------------
    def say(self, stmt: form.Say) -> None:
        self.lines += map(Comment, self.equations(stmt.span))

    def let(self, stmt: form.Let) -> None:
        value = self.of(stmt.value)
        known = stmt.value.op in ("view", "turn", "places", "spread")  # what is named only because it is used twice
        self.define(stmt.name, value, None if known else stmt.value.dims)

    def top(self, stmt: form.TopK) -> None:
        source = self.of(stmt.source)
        found = [name("_") if x is None else self.spell.fresh(x) for x in (stmt.values, stmt.picks)]
        self.assign(found, call("top", source, stmt.k), stmt.dims)

    def loop(self, stmt: form.Loop) -> None:
        """Token by token: each one's expressions on slices."""
        self.lines.append(Comment(f"token by token: {comment(stmt.why, 90)}"))
        now, seen = ([self.spell.fresh(x) for x in found] for found in (stmt.now, stmt.seen))
        for state, code in zip(stmt.states, now, strict=True):
            self.assign(code, self.before(state))
        for code in seen:
            self.assign(code, listed(open="["))
        t = self.spell.fresh(stmt.token)
        around = self.spell
        tokens, self.spell = around.of_token()
        body = [*self.restarts(stmt, t, now), *self.inner(stmt.body)]
        for every, after in zip(seen, stmt.after, strict=True):
            body.append(Assign((), method(every, "append", self.of(after))))
        body += [Assign((code,), item(every, -1)) for code, every in zip(now, seen, strict=True)]
        self.spell = around
        self.lines.append(Block(Code(("for ", t, " in ", call("range", tokens))), tuple(body)))
        for local, every, dims in zip(stmt.all, seen, stmt.dims, strict=True):
            self.define(local, self.stacked(every), dims)

    # --- what a library says of a loop, and of what is shared ------------------------------------------------------
    def before(self, state: str) -> Code:
        """A state before the loop's first token."""
        raise NotImplementedError

    def restarts(self, stmt: form.Loop, t: Code, now: Sequence[Code]) -> list[Statement]:
        """What begins the states anew where a document begins."""
        return []

    def stacked(self, every: Code) -> Code:
        """The sequence of what a loop has seen."""
        raise NotImplementedError

    def padded(self, code: Code, before: int, behind: int) -> Code:
        """Zeros on both sides along the last axis."""
        raise NotImplementedError

    def heads(self, code: Code, table: Code) -> Code:
        """Entries by head, from those by group: the group of each."""
        raise NotImplementedError


def axes_of(indices: Iterable[Index]) -> str:
    """A comment on a tensor's axes."""
    return comment(f"[{', '.join(['B', 'T', *(i.axis.name for i in indices)])}]", 60)
