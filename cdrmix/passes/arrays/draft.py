"""One function of the array form while it is being made: its statements, and what each name of the cell is there.

Input: the cell, the mode, and what the target's arrays can do.  Output: `statements`; `Symbol`s that expressions read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from cdrmix.diagnose import NOWHERE, CompileError, Diagnostic, Span
from cdrmix.ir import walk
from cdrmix.ir.array_statements import Let, Mode, Say, Statement, Traits
from cdrmix.ir.arrays import Array, Local, Stored, Type
from cdrmix.ir.nodes import Axis, Cell, DType, Index, Node, Ref
from cdrmix.ir.types import NARROW
from cdrmix.ir.walk import Windows


@dataclass(frozen=True, slots=True)
class Symbol:
    """A tensor that has a name: `value`'s axes are those of `sizes` that it `has`, in their order."""

    value: Array
    sizes: tuple[int, ...]
    has: tuple[bool, ...]

    def over(self, indices: Sequence[Index]) -> Array:
        """The value, its axes under these indices."""
        return replace(self.value, dims=tuple(i for i, there in zip(indices, self.has, strict=True) if there))


def refuse(code: str, span: Span, message: str, help: str = "") -> CompileError:
    """What arrays cannot do, as a diagnostic."""
    return CompileError([Diagnostic(code, span, message, help)])


@dataclass(slots=True)
class Draft:
    """See the module.  `uses` is what the cell's statements read; `order` the indices of the current equation.

    `here` are its indices that run over a window, which holds as many places as there are tokens where it is `short`;
    `masks` what is there by window size, `entries` each history's entry and its past; `scans` how many matrix scans of
    a state are to come; `tokens` makes a reduction over all tokens.
    `written` are the output and this cell's own carries: a read of a carry is of the one from above.
    """

    cell: Cell
    mode: Mode
    traits: Traits
    windows: Windows = field(default_factory=dict)
    uses: Collection[Ref] = frozenset()
    statements: list[Statement] = field(default_factory=list)
    symbols: dict[Ref, Symbol] = field(default_factory=dict)
    written: dict[Ref, Symbol] = field(default_factory=dict)
    missing: Callable[[Ref], Symbol | None] = lambda ref: None
    tokens: Callable[[Node, Draft], Array] = lambda n, draft: _no_tokens(n)
    short: bool = False
    here: frozenset[Index] = frozenset()
    order: tuple[Index, ...] = ()
    masks: dict[int, Array] = field(default_factory=dict)
    entries: dict[str, tuple[Array, Array | None]] = field(default_factory=dict)
    scans: Counter[str] = field(default_factory=Counter)
    pos: Array = Array("context", arg="pos", type="int", lead=True)
    suffix: str = ""
    numbers: count[int] = field(default_factory=count)
    prelude: list[Statement] = field(default_factory=list)
    views: dict[tuple[Local, tuple[int, ...]], Array] = field(default_factory=dict)
    same: dict[object, Array] = field(default_factory=dict)
    _ranges: dict[tuple[str, int], Local] = field(default_factory=dict)
    _said: Span = NOWHERE

    # --- names -----------------------------------------------------------------------------------------------------
    def local(self, hint: str) -> Local:
        """A new name."""
        return Local(hint + self.suffix, next(self.numbers))

    def let(self, hint: str, value: Array, whole: bool = False) -> Array:
        """`hint = value` as a statement; the name."""
        name = self.local(hint)
        self.statements.append(Let(name, value, whole))
        return named(name, value)

    def shared(self, hint: str, value: Array) -> Array:
        """A name for an expression that may come again, made once a function."""
        key = _form(value, {})
        if key not in self.same:
            self.same[key] = self.let(hint, value)
        return replace(self.same[key], dims=value.dims)

    def add(self, *statements: Statement) -> None:
        """More statements."""
        self.statements += statements

    def say(self, span: Span) -> None:
        """The equation at `span`, once."""
        if span not in (NOWHERE, self._said):
            self._said = span
            self.statements.append(Say(span))

    def range(self, i: Index) -> Array:
        """The places 0, 1, … of an index, made once a function."""
        key = (i.name, i.axis.size)
        value = Array("places", arg=i, type="exact" if self.mode == "init" else "int", dims=(i,))
        if key not in self._ranges:
            self._ranges[key] = Local(i.name, next(self.numbers))
            self.prelude.append(Let(self._ranges[key], value))
        return replace(named(self._ranges[key], value), dims=(i,))

    # --- what names stand for --------------------------------------------------------------------------------------
    def symbol(self, ref: Ref, span: Span = NOWHERE) -> Symbol:
        """What stands for `ref`."""
        if ref not in self.symbols:
            found = self.missing(ref)
            if found is None:
                raise KeyError(f"{span}: `{ref.kind} {ref.name}` is read before it is defined in {self.cell.name}")
            self.symbols[ref] = found
        return self.symbols[ref]

    def define(self, ref: Ref, value: Array, indices: Sequence[Index]) -> None:
        """`ref` is the value, its axes in the order of `indices`."""
        into = self.written if ref.kind in ("carry", "output") else self.symbols
        sizes = tuple(i.axis.size for i in indices)
        into[ref] = Symbol(value, sizes, tuple(i in value.dims for i in indices))

    def known(self, ref: Ref, name: Local, indices: Sequence[Index], zero: bool = False, dtype: DType = "f32") -> Array:
        """`ref` is the model's data under a name, over all its axes; `dtype` is what it is held in."""
        value = Array("local", arg=name, type=data(dtype), dims=tuple(indices), lead=True, absent_is_zero=zero)
        sizes = tuple(i.axis.size for i in indices)
        self.symbols[ref] = Symbol(value, sizes, (True,) * len(sizes))
        return value

    def turn_to(self, indices: Sequence[Index], roots: Iterable[Node]) -> None:
        """Begin an equation: the order of its axes, and which of its indices run over a window."""
        roots = tuple(roots)
        inside = [i for n in roots for m in walk.nodes(n) for i in (*m.free, *walk.bound(m))]
        self.order = tuple(dict.fromkeys((*indices, *inside)))
        self.here = frozenset(i for n in roots for i in walk.windowed(n, self.windows))

    def there(self, i: Index) -> Array:
        """Which tokens of a window are there, over its index."""
        return replace(self.masks[i.axis.size], dims=(i,))

    def adopt(self, inner: Draft) -> None:
        """Take in what a block within this function needs made once, at the top."""
        self.prelude += inner.prelude

    def all(self) -> tuple[Statement, ...]:
        """Every statement, ranges first."""
        return (*self.prelude, *self.statements)


def data(dtype: DType) -> Type:
    """The type of the model's data that is held in `dtype`."""
    return dtype if dtype in NARROW else "float"  # type: ignore[return-value]


def named(name: Local, value: Array) -> Array:
    """A read of a name that holds the value."""
    return Array("local", arg=name, type=value.type, dims=value.dims, lead=value.lead, const=value.const,
                 absent_is_zero=value.absent_is_zero)  # fmt: skip


def stored(name: str, sizes: Sequence[int], lead: bool = False) -> Symbol:
    """The symbol of a parameter or buffer; `lead`: it differs by row."""
    shape = tuple(sizes)
    indices = tuple(Index(f"axis {p}", _axis(s)) for p, s in enumerate(shape))
    return Symbol(Array("stored", arg=Stored(name, shape), dims=indices, lead=lead), shape, (True,) * len(shape))


def _axis(size: int) -> Axis:
    return Axis("", size)


def own(sizes: Sequence[int]) -> tuple[Index, ...]:
    """Indices for axes that have none of their own."""
    return tuple(Index(f"own {p}", _axis(s)) for p, s in enumerate(sizes))


def _form(x: Array, seen: dict[Index, int]) -> object:
    """What makes two expressions the same, whatever their indices are called."""

    def axis(i: Index) -> tuple[int, int]:
        return seen.setdefault(i, len(seen)), i.axis.size

    def plain(arg: object) -> object:
        if isinstance(arg, Index):
            return axis(arg)
        return tuple(map(plain, arg)) if isinstance(arg, tuple) else arg

    dims = tuple(axis(i) for i in x.dims)
    return x.op, plain(x.arg), x.type, dims, x.lead, tuple(_form(a, seen) for a in x.args)


def _no_tokens(n: Node) -> Array:
    raise refuse("E0902", n.span, "a reduction over tokens stands outside a training value")
