"""The interpreter's expressions: one token's value of a `Node`, vectorised over indices.

Input: a `Node` and where its cell's names run over a history's window.
Output: a function from a `Frame` to a float64, int64 or bool array with one axis a free index, in their order.  With
the types of params, what meets a narrow matrix is rounded (`ir/types.py`).

An index over a window ranges over the tokens that are there, so nothing absent is ever computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdrmix.ir import build
from cdrmix.ir.build import FLOATS
from cdrmix.ir.nodes import DType, Index, Node, Ref
from cdrmix.ir.ops import OPS
from cdrmix.ir.types import NARROW, matrix_product, operand_type, rounded
from cdrmix.ir.walk import Windows, multiplied, window_positions, windowed

Array = NDArray[Any]


@dataclass(slots=True)
class Frame:
    """What the names of a cell are at one token; `seen` counts the tokens before it that histories hold."""

    values: dict[Ref, Array]
    context: Mapping[str, int] = field(default_factory=dict)
    seen: int = 0


Expression = Callable[[Frame], Array]
ParamTypes = Mapping[str, DType]


def expression(
    n: Node, windows: Windows | None = None, order: Sequence[Index] | None = None, types: ParamTypes | None = None
) -> Expression:
    """The function that computes `n`; with `order`, over those indices (all of `n.free` and perhaps more)."""
    found = windows or {}
    return _Compiler(found, windowed(n, found), types or {}).over(n, n.free if order is None else tuple(order))


def cast(dtype: DType) -> type[np.generic]:
    """The interpreter's type for values of `dtype`."""
    return np.float64 if dtype in FLOATS else np.bool_ if dtype == "bool" else np.int64


def _aligner(have: tuple[Index, ...], want: tuple[Index, ...]) -> Callable[[Array], Array]:
    """Brings axes `have` to the order of `want`, with length one where `want` has more."""
    if have == want:
        return lambda a: a
    order = [have.index(i) for i in want if i in have]
    place = tuple(slice(None) if i in have else None for i in want)
    return lambda a: a.transpose(order)[place]


class _Compiler:
    """Turns the nodes of one expression into functions; `here` are its indices over a window."""

    def __init__(self, windows: Windows, here: set[Index], types: ParamTypes):
        self.windows = windows
        self.here = here
        self.types = types

    def over(self, n: Node, order: tuple[Index, ...]) -> Expression:
        """`n` with all of `order` as axes, broadcast in full."""
        value = self.compile(n)
        if order == n.free:
            return value
        align, sizes = _aligner(n.free, order), [self.size(i) for i in order]
        return lambda f: np.broadcast_to(align(value(f)), [size(f) for size in sizes])

    def size(self, i: Index) -> Callable[[Frame], int]:
        full = i.axis.size
        return (lambda f: min(full, f.seen + 1)) if i in self.here else (lambda f: full)

    def compile(self, n: Node) -> Expression:
        match n.op:
            case "const":
                fixed = np.asarray(n.arg, cast(n.dtype))
                return lambda f: fixed
            case "index":
                size = self.size(n.arg)
                return lambda f: np.arange(size(f))
            case "context":
                return lambda f: np.asarray(f.context[n.arg], np.int64)
            case "read":
                return self.read(n)
        match OPS[n.op].kind:
            case "elementwise":
                return self.elementwise(n)
            case "reduce":
                return self.reduce(n)
            case "normalise":
                return self.softmax(n)
        raise ValueError(f"no meaning for `{n.op}`")

    def elementwise(self, n: Node) -> Expression:
        compute, kind = OPS[n.op].numpy, cast(n.dtype)
        assert compute is not None
        operands = [(self.compile(a), _aligner(a.free, n.free)) for a in n.args]
        if n.op == "select":
            (cond, put), *branches = operands
            return lambda f: compute(put(cond(f)), *[to(v(f)).astype(kind, copy=False) for v, to in branches])
        if OPS[n.op].result == "bool":
            return lambda f: compute(*[to(v(f)) for v, to in operands])
        return lambda f: compute(*[to(v(f)).astype(kind, copy=False) for v, to in operands])

    def reduce(self, n: Node) -> Expression:
        body = n.args[0]
        if self.types and operand_type(n, self.types) in NARROW:
            return self.product(n)
        if n.op == "sum" and body.op == "mul" and body.dtype in FLOATS and set(n.arg) <= set(body.free):
            return self.summed(n, [(self.compile(a), a.free) for a in multiplied(body)])  # without the product's array
        order = n.free + n.arg
        value, kind, compute = self.over(body, order), cast(n.dtype), OPS[n.op].numpy
        assert compute is not None
        axes = tuple(range(len(n.free), len(order)))
        return lambda f: compute(value(f).astype(kind, copy=False), axis=axes)

    def product(self, n: Node) -> Expression:
        """A value that meets a matrix: it is rounded as one, whatever its factors."""
        product = matrix_product(n)
        assert product is not None
        operand = reduce(build.mul, product.operand)
        value, dtype = self.compile(operand), self.types[product.matrix.arg.ref.name]
        rest = [(self.compile(a), a.free) for a in (product.matrix, *product.outer)]
        return self.summed(n, [(lambda f: rounded(value(f), dtype), operand.free), *rest])

    def summed(self, n: Node, parts: Sequence[tuple[Expression, tuple[Index, ...]]]) -> Expression:
        label = {i: p for p, i in enumerate(n.free + n.arg)}
        factors = [(value, [label[i] for i in free]) for value, free in parts]
        out = [label[i] for i in n.free]

        def value(f: Frame) -> Array:
            operands: list[Any] = []
            for v, labels in factors:
                operands += [v(f).astype(np.float64, copy=False), labels]
            return np.asarray(np.einsum(*operands, out))

        return value

    def softmax(self, n: Node) -> Expression:
        value, axis, compute = self.over(n.args[0], n.free), n.free.index(n.arg), OPS["softmax"].numpy
        assert compute is not None
        return lambda f: compute(value(f).astype(np.float64, copy=False), axis=axis)

    def read(self, n: Node) -> Expression:
        fetch = self.fetch(n)
        lone = [a.arg for a in n.args if a.op == "index"]
        distinct = len(set(lone)) == len(lone)
        if distinct and len(lone) == len(n.args):
            return fetch
        single = distinct and all(a.op == "index" or not a.free for a in n.args)
        places = [self.place(a, n, single) for a in n.args]

        def value(f: Frame) -> Array:
            source, at = fetch(f), tuple(place(f) for place in places)
            for p, where in enumerate(at):
                if not isinstance(where, slice) and (np.min(where) < 0 or np.max(where) >= source.shape[p]):
                    raise IndexError(f"{n.span}: {n.arg.ref.name} is read outside its axis {n.arg.view[p].name}")
            return np.asarray(source[at])

        return value

    def place(self, a: Node, n: Node, single: bool) -> Callable[[Frame], Any]:
        """Where `n` reads on one axis; `single` places and whole axes need no gathering."""
        if single and a.op == "index":
            return lambda f: slice(None)
        value, align = self.compile(a), _aligner(a.free, n.free)
        return (lambda f: int(value(f))) if single else lambda f: align(value(f))

    def fetch(self, n: Node) -> Expression:
        """What is read, under the read's view, cut to the tokens that are there."""
        ref, view = n.arg.ref, n.arg.view
        over_window = window_positions(view, self.windows.get(ref, frozenset()))
        cut = [self.size(a.arg) if a.op == "index" and a.arg in self.here else None for a in n.args]
        narrowed = any(size is not None for size in cut)

        def value(f: Frame) -> Array:
            shape = [min(a.size, f.seen + 1) if p in over_window else a.size for p, a in enumerate(view)]
            source = f.values[ref].reshape(shape)
            if narrowed:
                source = source[tuple(slice(None) if size is None else slice(size(f)) for size in cut)]
            return source

        return value
