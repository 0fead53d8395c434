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
from cdrmix.ir.arrays import Array
from cdrmix.ir.code import Assign, Code, Comment, For, Listed, Statement, call, item, method, name
from cdrmix.ir.nodes import Index
from cdrmix.ir.python import comment, equation

KINDS: Mapping[type, str] = {
    form.Say: "say", form.Let: "let", form.Products: "products", form.Moments: "moments", form.TopK: "top",
    form.Measure: "measure", form.Sum: "sum", form.Fill: "fill", form.Keep: "keep", form.Delay: "delay",
    form.Shift: "shift", form.Scan: "scan", form.Mix: "mix", form.ChunkScan: "chunk", form.Answer: "answer",
    form.Loop: "loop", form.Entry: "entry", form.Attention: "attention", form.CallPart: "part", form.CallBank: "bank",
}  # fmt: skip
"""The method that writes each kind of statement."""


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

    def do(self, code: Code) -> None:
        """A call for what it does."""
        self.lines.append(Assign((), code))

    def equations(self, span: Span) -> list[str]:
        """The equation at `span`, once."""
        if span == self.said:
            return []
        self.said = span
        found = equation(span, self.sources)
        return [found] if found else []

    def ordered(self, code: Code, found: Sequence[Index], dims: Sequence[Index]) -> Code:
        """A tensor [B, T, *found] with its axes in the order of `dims`."""
        order = [[*found].index(i) for i in dims]
        return code if order == sorted(order) else method(code, "permute", 0, 1, *(p + 2 for p in order))

    # --- what every library writes alike ---------------------------------------------------------------------------
    def say(self, stmt: form.Say) -> None:
        self.lines += map(Comment, self.equations(stmt.span))

    def let(self, stmt: form.Let) -> None:
        value = self.of(stmt.value)
        known = stmt.value.op in ("view", "turn", "places", "spread")  # what is named only because it is used twice
        self.assign(self.spell.fresh(stmt.name), value, None if known else stmt.value.dims)

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
            self.assign(code, Listed("[", ()))
        t = self.spell.fresh(stmt.token)
        tokens = self.spell.enter_loop()
        body = [*self.restarts(stmt, t, now), *self.inner(stmt.body)]
        for every, after in zip(seen, stmt.after, strict=True):
            body.append(Assign((), method(every, "append", self.of(after))))
        body += [Assign((code,), item(every, -1)) for code, every in zip(now, seen, strict=True)]
        self.spell.leave_loop()
        self.lines.append(For(t, call("range", tokens), tuple(body)))
        for local, every, dims in zip(stmt.all, seen, stmt.dims, strict=True):
            self.assign(self.spell.fresh(local), self.stacked(every), dims)

    # --- what a library says of a loop -----------------------------------------------------------------------------
    def before(self, state: str) -> Code:
        """A state before the loop's first token."""
        raise NotImplementedError

    def restarts(self, stmt: form.Loop, t: Code, now: Sequence[Code]) -> list[Statement]:
        """What begins the states anew where a document begins."""
        return []

    def stacked(self, every: Code) -> Code:
        """The sequence of what a loop has seen."""
        raise NotImplementedError


def axes_of(indices: Iterable[Index]) -> str:
    """A comment on a tensor's axes."""
    return comment(f"[{', '.join(['B', 'T', *(i.axis.name for i in indices)])}]", 60)
