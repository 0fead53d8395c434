"""The names that every expression of a file sees: its ops and its `let`s, own and imported.

Input: a `Scope`.  Output: an `Env` for `statics.evaluate`; a `let` is computed once, by need, in the file
that wrote it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from cdrmix.check.scope import OpValue, Scope, Static
from cdrmix.check.statics import RUNTIME, evaluate, not_static, unknown
from cdrmix.check.values import Failed, fail
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
        if any(other is let for other in self.cache.busy):
            ring = [*self.cache.busy[self.cache.busy.index(let) :], let]
            fail(self.report, "E0206", let.span, f"`{let.name}` needs itself: {' → '.join(x.name for x in ring)}",
                 "give one of them a value of its own")  # fmt: skip
        if id(let) not in self.cache.values:
            self.cache.busy.append(let)
            self.cache.values[id(let)] = None
            try:
                env = ModuleEnv(scope, self.report, self.cache)
                self.cache.values[id(let)] = evaluate(let.value, env, self.report)
            finally:
                self.cache.busy.pop()
        value = self.cache.values[id(let)]
        if value is None:
            raise Failed
        return value
