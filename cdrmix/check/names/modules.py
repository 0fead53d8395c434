"""The names that every expression of a file sees: its ops and its `let`s, own and imported.

Input: a `Scope`.  Output: an `Env` for `statics.evaluate`; a `let` is computed once, by need, in the file
that wrote it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from cdrmix.check.names.needs import Ring, in_turn, surely
from cdrmix.check.names.scope import OpValue, Scope, Static
from cdrmix.check.names.statics import RUNTIME, evaluate, not_static, unknown
from cdrmix.check.names.values import Failed, fail
from cdrmix.diagnose import Report, Span
from cdrmix.syntax import ast


@dataclass(slots=True)
class Lets:
    """Values of `let`s already computed, by `id`; those being computed now, to find cycles.  Share one in a run."""

    values: dict[int, Static | None] = field(default_factory=dict)
    busy: list[ast.Let] = field(default_factory=list)


@dataclass(slots=True)
class ModuleEnv:
    """The names that every expression of a file sees: its `let`s and ops, own and imported."""

    scope: Scope
    report: Report
    cache: Lets = field(default_factory=Lets)

    def lookup(self, name: str, span: Span) -> Static | None:
        """What the file calls `name`, or None."""
        if name in self.scope.broken:
            raise Failed
        if name in self.scope.ops:
            return OpValue(self.scope.ops[name], (), span)
        if name in self.scope.lets:
            return self._let(*self.scope.lets[name])
        return None

    def name(self, node: ast.Name) -> Static:
        if node.id in RUNTIME:
            not_static(node, self.report)
        value = self.lookup(node.id, node.span)
        if value is None:
            unknown(node, self.names(), self.report, self.scope)
        return value

    def path(self, node: ast.Path) -> Static:
        unknown(node, (), self.report, self.scope)

    def call(self, node: ast.Call) -> Static | None:
        return None

    def names(self) -> Iterator[str]:
        """For `did you mean`."""
        yield from self.scope.ops
        yield from self.scope.lets

    def _let(self, let: ast.Let, scope: Scope) -> Static:
        busy, values = self.cache.busy, self.cache.values
        if any(other is let for other in busy):
            self._fail_ring([x.name for x in busy[busy.index(let) :]], let)
        if id(let) not in values:
            found = {id(let): (let, scope)}

            def needs(key: int) -> list[int]:
                """The `let`s without a value yet that a `let` surely needs."""
                let, scope = found[key]
                new = [scope.lets[name] for name in surely(let.value) if name in scope.lets]
                new = [pair for pair in new if id(pair[0]) not in values]
                found.update((id(pair[0]), pair) for pair in new)
                return [id(other) for other, _ in new]

            try:
                for key in in_turn(id(let), needs):
                    if key not in values:
                        self._compute(*found[key])
            except Ring as ring:
                self._fail_ring([found[key][0].name for key in ring.names], let)
        value = values[id(let)]
        if value is None:
            raise Failed
        return value

    def _compute(self, let: ast.Let, scope: Scope) -> None:
        self.cache.busy.append(let)
        self.cache.values[id(let)] = None
        try:
            self.cache.values[id(let)] = evaluate(let.value, ModuleEnv(scope, self.report, self.cache), self.report)
        except Failed:
            pass  # what needs it fails too
        finally:
            self.cache.busy.pop()

    def _fail_ring(self, names: list[str], let: ast.Let) -> NoReturn:
        self.cache.values[id(let)] = None
        fail(self.report, "E0206", let.span, f"`{names[0]}` needs itself: {' → '.join([*names, names[0]])}",
             "give one of them a value of its own")  # fmt: skip
