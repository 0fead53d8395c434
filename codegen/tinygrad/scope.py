"""One function being written: its lines, its names, and what each name of the cell is there.

Input: the cell, and the texts of the spec for comments.
Output: `text()`; `Symbol`s that expressions read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from cdrmix.diagnose import NOWHERE, CompileError, Diagnostic, Span
from cdrmix.ir.nodes import Cell, Index, Param, Ref
from cdrmix.ir.python import Names, comment, text
from cdrmix.ir.walk import Windows

from .levels import Product
from .value import Type, Value


@dataclass(frozen=True, slots=True)
class Symbol:
    """A stored tensor: an atom of code, its declared `sizes`, and which of those axes it really has."""

    code: str
    type: Type
    sizes: tuple[int, ...]
    has: tuple[bool, ...]
    lead: bool
    const: int | float | None = None


def refuse(code: str, span: Span, message: str, help: str = "") -> CompileError:
    """What this backend cannot do, as a diagnostic."""
    return CompileError([Diagnostic(code, span, message, help)])


def axes_of(indices: Iterable[Index]) -> str:
    """A comment on a tensor's axes."""
    return comment(f"[{', '.join(['B', 'T', *(i.axis.name for i in indices)])}]", 60)


@dataclass(slots=True)
class Scope:
    """See the module.

    `lead` is code of the sizes of B and T; `uses` is what the cell's statements read.  `here` are the indices of the
    current definition that run over a window, `masks` what is there by window size, `entries` the code of each
    history's new entries, `scans` how many matrix scans of a state are still to come.  `written` are the output and
    this cell's own carries: a read of a carry is of the one from above.
    """

    cell: Cell
    names: Names
    lead: str
    windows: Windows
    sources: Mapping[str, str]
    uses: Set[Ref]
    pos: str = "here.pos"
    lines: list[str | Product] = field(default_factory=list)
    symbols: dict[Ref, Symbol] = field(default_factory=dict)
    written: dict[Ref, Symbol] = field(default_factory=dict)
    missing: Callable[[Ref], Symbol | None] = lambda ref: None
    here: frozenset[Index] = frozenset()
    order: tuple[Index, ...] = ()
    masks: dict[int, str] = field(default_factory=dict)
    entries: dict[str, str] = field(default_factory=dict)
    scans: Counter[str] = field(default_factory=Counter)
    indent: int = 0
    suffix: str = ""
    _views: dict[tuple[str, tuple[int, ...]], str] = field(default_factory=dict)
    _shared: dict[str, str] = field(default_factory=dict)
    _ranges: dict[tuple[str, int], str] = field(default_factory=dict)
    _prelude: list[str] = field(default_factory=list)
    _said: Span = NOWHERE

    def line(self, code: str) -> None:
        """Add a line."""
        self.lines.append("    " * self.indent + code)

    def let(self, name: str, code: str, axes: str = "") -> str:
        """Add `name = code  # axes` under a name of its own and return that."""
        name = self.names.fresh(name + self.suffix)
        self.line(f"{name} = {code}" + (f"  # {axes}" if axes else ""))
        return name

    def product(self, weight: str, x: str, axes: str) -> str:
        """A name for a product with a weight."""
        name = self.names.fresh(f"{weight}_x{self.suffix}")
        if self.indent:
            self.line(f"{name} = here.product({text(weight)}, {x})  # {axes}")
        else:
            self.lines.append(Product(name, weight, x, axes))
        return name

    def rename(self, code: str, name: str) -> str | None:
        """Give the last product, if `code` is just that, a name of an equation; None if it is not."""
        last = self.lines[-1] if self.lines else None
        if not isinstance(last, Product) or last.name != code or last.whole:
            return None
        last.name, last.whole = self.names.fresh(name), True
        return last.name

    def once(self, name: str, code: str) -> str:
        """A name at the top of the function."""
        name = self.names.fresh(name)
        self._prelude.append(f"{name} = {code}")
        return name

    def say(self, span: Span) -> None:
        """The equation at `span` as a comment, once."""
        if span in (NOWHERE, self._said) or span.file not in self.sources:
            return
        self._said = span
        lines = self.sources[span.file].splitlines()[span.line - 1 : span.end_line]
        if not lines or lines[0][: span.col - 1].strip():  # a piece of an equation
            return
        if len(lines) == 1:
            found = lines[0][span.col - 1 : span.end_col - 1]
        else:
            found = " ".join([lines[0][span.col - 1 :], *lines[1:-1], lines[-1][: span.end_col - 1]])
        if comment(found):
            self.line(f"# {comment(found)}")

    def symbol(self, ref: Ref, span: Span = NOWHERE) -> Symbol:
        """What stands for `ref`."""
        if ref not in self.symbols:
            found = self.missing(ref)
            if found is None:
                raise KeyError(f"{span}: `{ref.kind} {ref.name}` is read before it is defined in {self.cell.name}")
            self.symbols[ref] = found
        return self.symbols[ref]

    def param(self, ref: Ref) -> Param | None:
        """The declaration of a param."""
        return next((p for p in self.cell.params if p.name == ref.name), None) if ref.kind == "param" else None

    def define(self, ref: Ref, v: Value, indices: Sequence[Index], code: str) -> None:
        """`ref` is the value `v`, stored as the atom `code` with its axes in the order of `indices`."""
        has = tuple(i in v.dims for i in indices)
        into = self.written if ref.kind in ("carry", "output") else self.symbols
        into[ref] = Symbol(code, v.type, tuple(i.axis.size for i in indices), has, v.lead, v.const)

    def known(self, ref: Ref, code: str, sizes: Sequence[int]) -> None:
        """`ref` is `code`, f32 over all its axes."""
        self.symbols[ref] = Symbol(code, "float", tuple(sizes), (True,) * len(sizes), True)

    def range(self, i: Index) -> str:
        """The places 0, 1, … of an index, made once a function."""
        key = (i.name, i.axis.size)
        if key not in self._ranges:
            self._ranges[key] = self.once(i.name, f"places({i.axis.size})")
        return self._ranges[key]

    def view(self, code: str, sizes: tuple[int, ...], seen: str, name: str) -> str:
        """A name for a local's tensor seen under other axes, made once a function."""
        if not code.isidentifier():
            return seen
        if (code, sizes) not in self._views:
            self._views[code, sizes] = self.let(f"{code.removesuffix(self.suffix)}_{name}", seen)
        return self._views[code, sizes]

    def shared(self, name: str, code: str) -> str:
        """A name for an expression that may come again, made once a function."""
        if code not in self._shared:
            self._shared[code] = self.let(name, code)
        return self._shared[code]

    def mask(self, i: Index) -> Value:
        """Which tokens of a window are there, over its index."""
        return Value(self.masks[i.axis.size], "bool", (i,), lead=True)

    def adopt(self, inner: Scope) -> None:
        """Take in the lines of a block within this function; what it needs made once is made at the top."""
        self._prelude += inner._prelude
        self.lines += inner.lines

    def text(self) -> list[str | Product]:
        """All lines, ranges first."""
        return [*self._prelude, *self.lines]
