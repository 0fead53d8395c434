"""What mixed precision means: where a value is rounded, and to what.  The contract between the types and every backend.

`passes/precision.py` decides; afterwards these fields say the type in which a thing is held, `f32`, or the type of
activations (`Model.work`), when that is narrower:

| field | holds |
|---|---|
| `Model.work` | the stream between lines: each residual sum, and each chain's input |
| `Input.dtype` | the formal; a value given to it (by a line, by an `Apply`) is rounded to it |
| `Def.dtype` | the definition's value: a name, `next s`, an entry of a history, a carry, `out` (which is `return`) |
| `Apply.dtype` | what the part gives: its `out` |
| `State.dtype`, `History.dtype`, `Carry.dtype` | the value along time or depth, and what a state begins with |
| `Param.dtype` | the parameter as it is used: a copy of the f32 master, made by whoever places the weights |
| `Buffer.dtype` | always f32 |
| `Attend.dtype` (`ir.forms`) | the attention's result, when it is a definition of the text; else f32 |

**Expressions are f32.**  A float node's dtype is f32, a read's too: what is read is widened, which loses nothing, and
the arithmetic of an equation is f32 whatever it reads.  Literals that read nothing say `work` and mean f32.
What a backend does at each node:

- `read` of a narrow name: widen to f32.  Where it is given on as it is (an alias, a part's input of the same type, the
  operand of a matrix of the same type) there is nothing to do.
- `sum` for which `matrix_product` finds a matrix: `sum(matrix * rounded(operand)) * outer`.  The product of the
  `operand` factors is computed in f32 and rounded to the matrix's type, `operand_type`.  Products and their sum are f32
  (products of narrow numbers are exact there), and so is the result, which meets the `outer` factors unrounded.  A
  library that gives the result of narrow operands narrow is right only where that result is at once stored under a name
  of that type, or is at once the operand of a matrix of it.
- every other node: f32, no rounding.  Sums, means and softmaxes are f32.
- a definition: round its value to `Def.dtype`, if that is narrow.  Names that passes make are f32: a value is never
  rounded where the text does not name it.
- `top` chooses from f32 and gives f32 values; scans of states run in f32; `aux`, `metric` and `after step` are f32.

Rounding is to the nearest, ties to even, from f32; what is too large becomes infinite, what is too small is kept as a
subnormal number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdrmix.ir import walk
from cdrmix.ir.build import FLOATS
from cdrmix.ir.nodes import Cell, DType, Node

NARROW: frozenset[DType] = frozenset({"bf16", "f16"})
"""The types that a value is rounded to; f32 is what is computed in."""


@dataclass(frozen=True, slots=True)
class Product:
    """`sum(matrix * operand) * outer`: the read of a parameter, and the factors of two products.

    `outer` are those with an index of the matrix's own; a factor that is one number belongs to the operand.
    """

    matrix: Node
    operand: tuple[Node, ...]
    outer: tuple[Node, ...]


def matrix_product(n: Node) -> Product | None:
    """A sum in which a value meets a matrix: a parameter with an index that is summed, and one that no factor of the
    operand has.  `F[t,c]*X[t,c]` summed over t is none: its filters do not mix channels.
    """
    if n.op != "sum" or n.dtype not in FLOATS:
        return None
    summed, factors = set(n.arg), walk.factors(n.args[0])
    for m in factors:
        if m.op != "read" or m.arg.ref.kind != "param" or not all(a.op == "index" for a in m.args):
            continue
        others = [f for f in factors if f is not m]
        met = {i for f in others if summed & set(f.free) for i in f.free}
        own = set(m.free) - summed - met
        if own and summed & set(m.free) & met:
            operand = tuple(f for f in others if not own & set(f.free))
            return Product(m, operand, tuple(f for f in others if own & set(f.free)))
    return None


def operand_type(n: Node, params: Mapping[str, DType]) -> DType | None:
    """What the operand of a matrix product is rounded to, by each parameter's type; None for any other node."""
    found = matrix_product(n)
    return params[found.matrix.arg.ref.name] if found is not None else None


def param_types(cell: Cell) -> dict[str, DType]:
    """The type of each parameter of a cell."""
    return {p.name: p.dtype for p in cell.params}


def rounded(x: NDArray[Any], dtype: DType) -> NDArray[Any]:
    """The nearest numbers of a narrow type, as float64; of any other type, `x` itself."""
    if dtype not in NARROW:
        return x
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        single = np.asarray(x, np.float32)
        if dtype == "f16":
            return single.astype(np.float16).astype(np.float64)
        bits = single.view(np.uint32)
        nearest = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
        return np.where(np.isnan(single), single, nearest.view(np.float32)).astype(np.float64)
