"""One function of the array form while it is being made: its statements, and what each name of the cell is there.

Input: the cell, the mode, and what the target's arrays can do.  Output: `statements`; `Symbol`s that expressions read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from cdrmix.diagnose import NOWHERE, CompileError, Diagnostic, Span
from cdrmix.ir import walk
from cdrmix.ir.array_statements import Let, Mode, Say, Statement, Traits
from cdrmix.ir.arrays import Array, Local, Stored, Type
from cdrmix.ir.nodes import Axis, Buffer, Cell, Def, DType, Index, Node, Param, Ref
from cdrmix.ir.types import NARROW
from cdrmix.ir.walk import Windows


@dataclass(frozen=True, slots=True)
class Symbol:
    """What has a name: a tensor over those of `indices` that it varies along, in their order."""

    value: Array
    indices: tuple[Index, ...]

    @property
    def has(self) -> tuple[bool, ...]:
        """Along which of its indices it varies."""
        return tuple(i in self.value.dims for i in self.indices)

    def over(self, indices: Sequence[Index]) -> Array:
        """The value, its axes under these indices."""
        return replace(self.value, dims=tuple(i for i, there in zip(indices, self.has, strict=True) if there))


def refuse(code: str, span: Span, message: str, help: str = "") -> CompileError:
    """What arrays cannot do, as a diagnostic."""
    return CompileError([Diagnostic(code, span, message, help)])


@dataclass(slots=True)
class Draft:
    """See the module.  `uses` is what the cell's statements read; `token` the loop's, of what runs token by token.

    `written` are the output and this cell's own carries: a read of a carry is of the one from above.  `totals` are the
    reductions over all tokens, `masks` what is there by window size, `entries` each history's entry and its past.

    Of the current equation, `order` are the indices, and `here` those that run over a window.
    """

    cell: Cell
    mode: Mode
    traits: Traits
    windows: Windows = field(default_factory=dict)
    uses: Collection[Ref] = frozenset()
    token: Array | None = None
    numbers: count[int] = field(default_factory=count)
    prelude: list[Statement] = field(default_factory=list)
    statements: list[Statement] = field(default_factory=list)
    symbols: dict[Ref, Symbol] = field(default_factory=dict)
    written: dict[Ref, Symbol] = field(default_factory=dict)
    totals: Mapping[Node, Array] = field(default_factory=dict)
    masks: dict[int, Array] = field(default_factory=dict)
    entries: dict[str, tuple[Array, Array | None]] = field(default_factory=dict)
    order: tuple[Index, ...] = ()
    here: frozenset[Index] = frozenset()
    _made: dict[object, Array] = field(default_factory=dict)

    # --- names -----------------------------------------------------------------------------------------------------
    @property
    def suffix(self) -> str:
        """What names end in within a loop."""
        return "" if self.token is None else "_t"

    def local(self, hint: str) -> Local:
        """A new name."""
        return Local(hint + self.suffix, next(self.numbers))

    def let(self, hint: str, value: Array) -> Array:
        """`hint = value` as a statement; the name."""
        name = self.local(hint)
        self.statements.append(Let(name, value))
        return named(name, value)

    def shared(self, hint: str, value: Array) -> Array:
        """A name for an expression that may come again, made once a function."""
        key = _form(value, {})
        if key not in self._made:
            self._made[key] = self.let(hint, value)
        return replace(self._made[key], dims=value.dims)

    def range(self, i: Index) -> Array:
        """The places 0, 1, … of an index, made once a function, at its top."""
        key = (i.name, i.axis.size)
        if key not in self._made:
            name = Local(i.name, next(self.numbers))
            value = Array("places", arg=i, type="exact" if self.mode == "init" else "int", dims=(i,))
            self.prelude.append(Let(name, value))
            self._made[key] = named(name, value)
        return replace(self._made[key], dims=(i,))

    def add(self, *statements: Statement) -> None:
        """More statements."""
        self.statements += statements

    def say(self, span: Span) -> None:
        """The equation at `span` is what follows."""
        self.statements.append(Say(span))

    def all(self) -> tuple[Statement, ...]:
        """Every statement, ranges first."""
        return (*self.prelude, *self.statements)

    # --- what names stand for --------------------------------------------------------------------------------------
    def symbol(self, ref: Ref, span: Span = NOWHERE) -> Symbol:
        """What stands for `ref`; a state before the token has a name once it is read."""
        if ref not in self.symbols:
            raise KeyError(f"{span}: `{ref.kind} {ref.name}` is read before it is defined in {self.cell.name}")
        found = self.symbols[ref]
        if found.value.op == "old":
            found = self.symbols[ref] = replace(found, value=self.let(ref.name, found.value))
        return found

    def define(self, ref: Ref, value: Array, indices: Sequence[Index]) -> None:
        """`ref` is the value, its axes in the order of `indices`."""
        into = self.written if ref.kind in ("carry", "output") else self.symbols
        into[ref] = Symbol(value, tuple(indices))

    def known(self, ref: Ref, name: Local, indices: Sequence[Index], kind: Type = "float", zero: bool = False) -> Array:
        """`ref` is what has a name, over all its axes."""
        value = Array("local", arg=name, type=kind, dims=tuple(indices), lead=True, absent_is_zero=zero)
        self.symbols[ref] = Symbol(value, value.dims)
        return value

    def hold(self, *decls: Param | Buffer, lead: bool = False) -> None:
        """Parameters and buffers are what the model holds; `lead`: they differ by row."""
        for d in decls:
            sizes = walk.sizes(d.indices)
            value = Array("stored", arg=Stored(d.name, sizes), dims=own(sizes), lead=lead)
            self.symbols[Ref("param" if isinstance(d, Param) else "buffer", d.name)] = Symbol(value, value.dims)

    def equation(self, ref: Ref) -> Def:
        """The cell's equation of a name."""
        return next(d for d in self.cell.body if isinstance(d, Def) and d.ref == ref)

    # --- equations -------------------------------------------------------------------------------------------------
    def turn_to(self, indices: Sequence[Index], roots: Iterable[Node]) -> None:
        """Begin an equation: the order of its axes, and which of its indices run over a window."""
        roots = tuple(roots)
        inside = [i for n in roots for m in walk.nodes(n) for i in (*m.free, *walk.bound(m))]
        self.order = tuple(dict.fromkeys((*indices, *inside)))
        self.here = frozenset(i for n in roots for i in walk.windowed(n, self.windows))

    def there(self, i: Index) -> Array:
        """Which tokens of a window are there, over its index."""
        return replace(self.masks[i.axis.size], dims=(i,))

    def total(self, n: Node) -> Array:
        """A reduction over all tokens, from what was kept of each call."""
        if n not in self.totals:
            raise refuse("E0902", n.span, "a reduction over tokens stands outside a training value")
        return self.totals[n]

    # --- loops -----------------------------------------------------------------------------------------------------
    def at(self, token: Local) -> Draft:
        """A draft of what is computed at one token of a sequence, from what this one knows."""
        inner = Draft(self.cell, self.mode, self.traits, self.windows, numbers=self.numbers)
        inner.token = Array("local", arg=token, type="int")
        inner.symbols = {ref: replace(s, value=inner.now(s.value)) for ref, s in self.symbols.items()}
        inner.masks = {window: inner.now(x) for window, x in self.masks.items()}
        return inner

    def now(self, x: Array) -> Array:
        """A sequence at the loop's token; outside of loops it is all of it."""
        if self.token is None or not x.lead or x.type == "number":
            return x
        return Array("token", (x, self.token), None, x.type, x.dims, x.lead)


def data(dtype: DType) -> Type:
    """The type of the model's data that is held in `dtype`."""
    return dtype if dtype in NARROW else "float"  # type: ignore[return-value]


def named(name: Local, value: Array) -> Array:
    """A read of a name that holds the value."""
    return replace(value, op="local", args=(), arg=name)


def own(sizes: Sequence[int]) -> tuple[Index, ...]:
    """Indices for axes that have none of their own."""
    return tuple(Index(f"own {p}", Axis("", s)) for p, s in enumerate(sizes))


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
