"""A line's program while it is being made: its arrays, tensors and steps, and what is known about its names.

Every name of the line's cells becomes an array here.  Expressions that stand in a draft read arrays as
`Ref("def", array)`, rings as `Ref("history", array)` and parameters as `Ref("param", local name)`; the document's
position and the token are elements of the array `inputs`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cdrmix.diagnose import NOWHERE, CompileError, Diagnostic, Span
from cdrmix.ir import build, walk
from cdrmix.ir.nodes import Axis, Index, Node, Ref, Stored
from cdrmix.ir.steps import Parts, Step
from cdrmix.ir.walk import sizes

from .. import plan

Places = tuple[int, ...]

INPUTS = "inputs"
LOADS = 8
"""The most loads of one Map: as many tiles as an expression may have open at once with four in registers."""


PLANES = ("hi", "lo")
"""What TF32 holds of an f32 factor, and the rest."""


def refuse(span: Span, message: str, help: str = "", code: str = "E0908") -> CompileError:
    """What this target cannot do, as a diagnostic."""
    text = message if code != "E0908" else f"cannot be compiled for tenstorrent: {message}"
    return CompileError([Diagnostic(code, span, text, help)])


@dataclass(frozen=True, slots=True)
class Assign(Step):
    """out[place] = an elementwise value over `indices`; it becomes a Map, a Copy or a Whole.

    `plane` is the one of `PLANES` that is kept of the value.
    """

    out: str
    indices: tuple[Index, ...]
    value: Node
    place: tuple[Node, ...] | None = None
    plane: str = ""

    @property
    def parts(self) -> Parts:
        return Parts((self.out,), self.indices, wholes=(self.value, *(self.place or ())))


@dataclass(frozen=True, slots=True)
class Given:
    """A parameter or buffer of the line: its shape with the `banks` axes in front, and its path below a
    cell of the chain."""

    path: tuple[int, str]
    shape: tuple[int, ...]
    banks: int
    stored: Stored
    span: Span


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a name of a cell lies: a name of the draft, read at fixed places of its first axes."""

    ref: Ref
    axes: tuple[Axis, ...] = ()
    at: tuple[Node, ...] = ()

    def read(self, n: Node) -> Node:
        """A read of the cell's name as a read of the draft's."""
        return build.read(self.ref, (*self.axes, *n.arg.view), (*self.at, *n.args), n.dtype, n.span)

    def over(self, indices: Sequence[Index]) -> Node:
        """All of it, at indices of its own axes."""
        return self.read(build.read(self.ref, [i.axis for i in indices], indices, "f32"))


@dataclass(slots=True)
class Draft:
    """See the module.  `wide` is whether products need both planes of an f32 factor.

    `held` are parameters that are read in other ways than as a matrix, so that they lie in L1 for products too.
    """

    wide: bool
    held: frozenset[str] = frozenset()
    arrays: dict[str, plan.Array] = field(default_factory=dict)
    tensors: dict[str, plan.Tensor] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    given: dict[str, Given] = field(default_factory=dict)
    constants: dict[str, tuple[float, ...]] = field(default_factory=dict)
    windows: dict[Ref, frozenset[tuple[int, int]]] = field(default_factory=dict)
    here: set[Index] = field(default_factory=set)
    """The indices of the equation that is being lowered that run over a window."""
    names: set[str] = field(default_factory=set)
    carries: dict[str, str] = field(default_factory=dict)
    """The tensors of carries by the carry's name."""
    tables: dict[str, str] = field(default_factory=dict)
    """The tensors of rows by parameter."""
    rows: dict[tuple[str, Node, tuple[Index, ...]], str] = field(default_factory=dict)
    planes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    known: dict[tuple[tuple[int, ...], tuple[float, ...]], str] = field(default_factory=dict)
    counts: dict[int, str] = field(default_factory=dict)
    bundles: dict[str, tuple[Places, Places, Mapping[Places, Entry]]] = field(default_factory=dict)
    """What the experts of a call gave: (sizes of the places, sizes of a value, where each lies)."""
    inline: dict[str, tuple[tuple[Index, ...], Node]] = field(default_factory=dict)
    """Whole numbers that have no array: they are worked out where they are used."""
    scaled: dict[str, tuple[tuple[Index, ...], Node]] = field(default_factory=dict)
    """Arrays that are a parameter times something: a sum of them takes the parameter as it lies in DRAM."""
    wholes: dict[Node, str] = field(default_factory=dict)
    """Arrays of floats that hold whole numbers."""
    span: Span = NOWHERE
    texts: tuple[str, ...] = ()

    # --- names and arrays ------------------------------------------------------------------------------------------
    def fresh(self, hint: str) -> str:
        """A name that nothing else has, made of letters, digits and `_`."""
        clean = re.sub(r"[^0-9A-Za-z_]", "_", hint).strip("_") or "value"
        found = walk.fresh(f"v{clean}" if clean[0].isdigit() else clean, self.names)
        self.names.add(found)
        return found

    def array(self, hint: str, shape: Iterable[int], dtype: str = "f32", memory: plan.Memory = "scratch") -> str:
        """A new flat array; a scalar has one element."""
        name = self.fresh(hint)
        self.arrays[name] = plan.Array(name, tuple(shape) or (1,), dtype, memory=memory)  # type: ignore[arg-type]
        return name

    def over(self, hint: str, indices: Sequence[Index]) -> str:
        """A new array over indices; which of its axes run over a window is remembered."""
        name = self.array(hint, sizes(indices))
        if places := walk.window_places(indices, self.here):
            self.windows[Ref("def", name)] = places
        return name

    def whole(self, ref: Ref) -> bool:
        """Whether a name's elements are whole numbers."""
        array = self.arrays.get(ref.name)
        return ref.kind == "def" and (ref.name in self.inline or array is not None and array.dtype == "i32")

    def is_own(self, entry: Entry) -> bool:
        """Whether a name is an array of floats by itself, which no other token sees."""
        array = self.arrays.get(entry.ref.name) if entry.ref.kind == "def" and not entry.axes else None
        return array is not None and array.memory == "scratch" and array.dtype == "f32"

    def constant(self, hint: str, values: np.ndarray) -> str:
        """An array of numbers that are known now; equal ones are one array."""
        flat = tuple(float(v) for v in np.asarray(values, np.float64).ravel())
        key = (values.shape, flat)
        if key not in self.known:
            name = self.known[key] = self.array(hint, values.shape, memory="vectors")
            self.constants[name] = flat
        return self.known[key]

    def carry(self, name: str, size: int) -> str:
        """The tensor of a carry."""
        if name not in self.carries:
            tensor = self.carries[name] = self.fresh(f"carry_{name}")
            self.tensors[tensor] = plan.Tensor(tensor, "rows", "f32", (1, size))
        return self.carries[name]

    # --- steps -----------------------------------------------------------------------------------------------------
    def add(self, step: Step) -> None:
        """One more step, of the equation that is being lowered unless it says what it is of; planes of what it
        overwrites are no longer its planes."""
        self.steps.append(step if step.texts else replace(step, span=self.span, texts=self.texts))
        for name in step.parts.outs:
            self.planes.pop(name, None)

    def assign(
        self, out: str, indices: Sequence[Index], value: Node, place: tuple[Node, ...] | None = None, plane: str = ""
    ) -> None:
        """An elementwise step."""
        value = self.settled(value)
        self.add(Assign(out, tuple(indices), value, place, plane))

    def temporary(self, hint: str, indices: Sequence[Index], value: Node) -> Node:
        """The value in an array of its own, read at its indices."""
        value = self.settled(value)
        name = self.over(hint, indices)
        self.assign(name, indices, value)
        return read_array(name, indices)

    # --- expressions -----------------------------------------------------------------------------------------------
    def is_whole(self, n: Node) -> bool:
        """Whether an expression is of whole numbers throughout, so that the data-movement core can work it out."""
        if n.op == "const":
            return not isinstance(n.arg, float)
        if n.op == "read":
            return self.whole(n.arg.ref)
        return n.dtype in ("int", "bool", "pick") and n.op in WHOLE and all(self.is_whole(a) for a in n.args)

    def settled(self, n: Node) -> Node:
        """An expression that reads only arrays: of experts' values where they lie, of inlined numbers what they are."""
        return walk.transform(n, self._settle) if self.bundles or self.inline else n

    def _settle(self, n: Node) -> Node:
        if n.op != "read" or n.arg.ref.kind != "def" or n.arg.ref.name in self.arrays:
            return n
        name, view = n.arg.ref.name, tuple(a.size for a in n.arg.view)
        if name in self.inline:
            indices, value = self.inline[name]
            if view == sizes(indices):
                return walk.substitute(value, dict(zip(indices, n.args, strict=True)))
            self.arrays[name] = plan.Array(name, sizes(indices) or (1,), "i32")
            self.assign(name, indices, value)
        elif name in self.bundles:
            many, own, found = self.bundles[name]
            front = n.args[: len(many)]
            if all(a.op == "const" for a in front) and view[: len(many)] == many:
                rest = build.read(n.arg.ref, n.arg.view[len(many) :], n.args[len(many) :], n.dtype, n.span)
                return found[tuple(int(a.arg) for a in front)].read(rest)
            self.arrays[name] = plan.Array(name, (*many, *own))
            indices = indices_of(own)
            for at, each in found.items():
                self.assign(name, indices, each.over(indices), (*map(build.const, at), *map(build.index, indices)))
        return n

    def token(self, place: int) -> Node:
        """The token (0) or its place in the document (1)."""
        if INPUTS not in self.arrays:
            self.arrays[INPUTS] = plan.Array(INPUTS, (2,), "i32")
            self.tensors[INPUTS] = plan.Tensor(INPUTS, "rows", "i32", (1, 2))
            self.names.add(INPUTS)
            self.steps.insert(0, plan.Fetch(INPUTS, INPUTS, texts=("the token and its place in the document",)))
        return build.read(Ref("def", INPUTS), (Axis(INPUTS, 2),), (build.const(place),), "int")

    def present(self, window: int) -> Node:
        """How many entries of a window there are, as a float."""
        if window not in self.counts:
            name = self.counts[window] = self.array(f"present_{window}", (1,))
            value = build.node("min", build.add(self.token(1), build.const(1)), build.const(window))
            self.add(Assign(name, (), value, texts=(f"how many of the last {window} tokens there are",)))
        return read_array(self.counts[window], ())


WHOLE = frozenset(
    ("const", "index", "read", "add", "sub", "mul", "floordiv", "mod", "neg", "max", "min", "abs", "sign", "pow")
) | frozenset(("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "select"))
"""The operations of whole numbers that the data-movement core has."""


def read_array(name: str, indices: Sequence[Index]) -> Node:
    """An array at its own indices."""
    return Entry(Ref("def", name)).over(indices)


def indices_of(shape: Iterable[int]) -> tuple[Index, ...]:
    """New indices over the axes of an array."""
    return tuple(Index(f"d{p}", Axis(f"d{p}", size)) for p, size in enumerate(shape))


def every(indices: Sequence[Index]) -> Iterator[dict[Index, Node]]:
    """All values of some indices, one after the other, as constants."""
    for at in np.ndindex(*sizes(indices)):
        yield dict(zip(indices, map(build.const, at), strict=True))


def flat(at: Sequence[Node], shape: Sequence[int]) -> Node:
    """The place in a row-major array, as one number."""
    place = at[0]
    for n, size in zip(at[1:], shape[1:], strict=True):
        place = build.add(build.mul(place, build.const(size)), n)
    return place
