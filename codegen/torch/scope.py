"""One method being written: its lines, its names, and what each name of the cell is there.

Input: the cell and which method.
Output: `lines`; `Symbol`s that expressions read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cdrmix.diagnose import NOWHERE, CompileError, Diagnostic, Span
from cdrmix.ir.nodes import Cell, Index, Node, Ref
from cdrmix.ir.walk import Windows

from .names import MODULE_NAMES, Names, attribute, comment
from .value import Type, Value

Mode = Literal["forward", "step", "rows", "init"]


@dataclass(frozen=True, slots=True)
class Symbol:
    """A stored tensor: an atom of code, its declared `sizes`, and which of those axes it really has."""

    code: str
    type: Type
    sizes: tuple[int, ...]
    has: tuple[bool, ...]
    lead: bool
    const: int | float | None = None
    absent_is_zero: bool = False


def refuse(code: str, span: Span, message: str, help: str = "") -> CompileError:
    """What this backend cannot do, as a diagnostic."""
    return CompileError([Diagnostic(code, span, message, help)])


@dataclass(slots=True)
class Scope:
    """See the module.

    `data` is a tensor whose dtype is the model's, `device` one whose device is; `shape` the leading shape, which the
    tensor `first` has.
    `here` are the indices of the current definition that run over a window, `masks` what is there by window size,
    `entries` each history's entry and the arguments that speak of its past; `tokens` emits a reduction over all tokens.
    `written` are the output and this cell's own carries: a read of a carry is of the one from above.
    """

    cell: Cell
    mode: Mode
    names: Names
    data: str
    device: str
    shape: str
    first: str
    windows: Windows = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    symbols: dict[Ref, Symbol] = field(default_factory=dict)
    written: dict[Ref, Symbol] = field(default_factory=dict)
    missing: Callable[[Ref], Symbol | None] = lambda ref: None
    tokens: Callable[[Node, Scope], Value] = lambda n, scope: _no_tokens(n, scope)
    here: frozenset[Index] = frozenset()
    order: tuple[Index, ...] = ()
    masks: dict[int, str] = field(default_factory=dict)
    entries: dict[str, tuple[str, str]] = field(default_factory=dict)
    pos: str = "stream.pos"
    sources: dict[str, str] = field(default_factory=dict)
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

    def let(self, name: str, code: str) -> str:
        """Add `name = code` under a name of its own and return that."""
        name = self.names.fresh(name + self.suffix)
        self.line(f"{name} = {code}")
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

    def parameter(self, ref: Ref) -> str:
        """The module's own tensor, whatever it is read as."""
        return f"self.{attribute(ref.name)}"

    def define(self, ref: Ref, v: Value, indices: Sequence[Index], atom: str) -> None:
        """`ref` is the value `v`, stored as `atom` with its axes in the order of `indices`."""
        has = tuple(i in v.dims for i in indices)
        sizes = tuple(i.axis.size for i in indices)
        into = self.written if ref.kind in ("carry", "output") else self.symbols
        into[ref] = Symbol(atom, v.type, sizes, has, v.lead, v.const, v.absent_is_zero)

    def range(self, i: Index) -> str:
        """The places 0, 1, … of an index, made once a method."""
        key = (i.name, i.axis.size)
        if key not in self._ranges:
            name = self.names.fresh(i.name)
            kind = "dtype=torch.float64" if self.mode == "init" else f"device={self.device}.device"
            self._prelude.append(f"{name} = torch.arange({i.axis.size}, {kind})")
            self._ranges[key] = name
        return self._ranges[key]

    def view(self, code: str, sizes: tuple[int, ...], seen: str, indices: Iterable[Node]) -> str:
        """A name for a local's tensor seen under other axes, made once a method."""
        if not code.isidentifier():
            return seen
        if (code, sizes) not in self._views:
            letters = "".join(i.arg.name[0] if i.op == "index" else "x" for i in indices)
            self._views[code, sizes] = self.let(f"{code.removesuffix(self.suffix)}_{letters}", seen)
        return self._views[code, sizes]

    def shared(self, name: str, code: str) -> str:
        """A name for an expression that may come again, made once a method."""
        if code not in self._shared:
            self._shared[code] = self.let(name, code)
        return self._shared[code]

    def mask(self, i: Index) -> Value:
        """Which tokens of a window are there, over its index."""
        return Value(self.masks[i.axis.size], "bool", (i,), lead=True)

    def adopt(self, inner: Scope) -> None:
        """Take in the lines of a block within this method; what it needs made once is made at the top."""
        self._prelude += inner._prelude
        self.lines += inner.lines

    def text(self) -> list[str]:
        """All lines, ranges first."""
        return [*self._prelude, *self.lines]


def _no_tokens(n: Node, scope: Scope) -> Value:
    raise refuse("E0902", n.span, "a reduction over tokens stands outside a training value")


def method_names(taken: Iterable[str]) -> Names:
    """The names of a method of a class: nothing the module binds."""
    return Names({*MODULE_NAMES, *taken})
