"""Constructors of IR nodes.

Input: an op's name, its operands and what its row calls `arg`.
Output: a `Node` whose `dtype` and `free` follow from the operands, so that nobody works them out by hand.

dtype: the widest operand, `f32` > `work` > `bf16`, `f16` > `int` > `bool`.  Arithmetic of literals, indices and `pos`
does not widen (`b*0.5` has b's dtype).  What cannot stay whole becomes `work`: `/`, functions, `mean`, and powers
except to a literal whole number.
free: the indices of the operands in order of first appearance, less the bound ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from cdrmix.diagnose import NOWHERE, Span
from cdrmix.ir.nodes import Access, Axis, DType, Index, Node, Ref
from cdrmix.ir.ops import OPS

FLOATS: frozenset[str] = frozenset({"work", "f32", "bf16", "f16"})


def const(value: int | float | bool, span: Span = NOWHERE) -> Node:
    """A literal; `0` is an int and `0.0` a number of the work dtype."""
    dtype: DType = "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "work"
    return Node("const", (), value, dtype, (), span)


def index(i: Index, span: Span = NOWHERE) -> Node:
    """The value of an index variable."""
    return Node("index", (), i, "int", (i,), span)


def context(name: str, span: Span = NOWHERE) -> Node:
    """`pos`, `layer` or `layers`."""
    return Node("context", (), name, "int", (), span)


def read(
    ref: Ref, view: Sequence[Axis], indices: Sequence[Node | Index], dtype: DType = "work", span: Span = NOWHERE
) -> Node:
    """`ref[indices]` seen under the axes `view`; a bare `Index` stands for its value."""
    if len(view) != len(indices):
        raise ValueError(f"{ref.name} is read with {len(indices)} indices under {len(view)} axes")
    args = tuple(index(i, span) if isinstance(i, Index) else i for i in indices)
    return Node("read", args, Access(ref, tuple(view)), dtype, union(a.free for a in args), span)


def node(op: str, *args: Node, arg: Any = None, span: Span = NOWHERE) -> Node:
    """An elementwise op, a reduction (`arg` the bound indices) or a softmax (`arg` the index)."""
    row = OPS[op]
    if row.kind == "leaf":
        raise ValueError(f"`{op}` is made by its own constructor")
    if row.arity != len(args):
        raise ValueError(f"`{op}` takes {row.arity} operands, not {len(args)}")
    free = union(a.free for a in args)
    if row.kind == "reduce":
        arg = tuple(arg)
        free = tuple(i for i in free if i not in arg)
    elif row.kind == "normalise":
        free = union((free, (arg,)))
    return Node(op, args, arg, result_dtype(op, args), free, span)


def again(n: Node, args: Sequence[Node], arg: Any) -> Node:
    """A node like `n` with these operands and this `arg`."""
    match n.op:
        case "const":
            return const(arg, n.span)
        case "index":
            return index(arg, n.span)
        case "context":
            return context(arg, n.span)
        case "read":
            return read(arg.ref, arg.view, args, n.dtype, n.span)
    return node(n.op, *args, arg=arg, span=n.span)


def reduce(op: str, indices: Iterable[Index], body: Node, span: Span = NOWHERE) -> Node:
    """`op[indices](body)`; without indices, the body."""
    bound = tuple(indices)
    return node(op, body, arg=bound, span=span) if bound else body


def softmax(i: Index, body: Node, span: Span = NOWHERE) -> Node:
    """`softmax[i](body)`, which keeps `i` free."""
    return node("softmax", body, arg=i, span=span)


# `a + b`, `a - b`, `a * b`, the true division `a / b`, and `then if cond else other`, as (cond, then, other).
add, sub, mul, div, select = (partial(node, op) for op in ("add", "sub", "mul", "div", "select"))


def union(groups: Iterable[Iterable[Index]]) -> tuple[Index, ...]:
    """The indices of all groups, each once, in order of first appearance."""
    return tuple(dict.fromkeys(i for group in groups for i in group))


def widest(args: Iterable[Node]) -> DType:
    """The widest dtype of the operands; floats that read nothing count only when no other operand is a float."""
    args = tuple(args)
    floats = [a for a in args if a.dtype in FLOATS]
    firm: set[DType] = {a.dtype for a in floats if has_reads(a)}
    if floats:
        if len(firm) == 1:
            return firm.pop()
        return "f32" if firm & {"f32"} or firm == {"bf16", "f16"} else "work"
    kinds = {a.dtype for a in args}
    return "bool" if kinds == {"bool"} else "pick" if kinds == {"pick"} else "int"


def has_reads(n: Node) -> bool:
    """Whether `n` reads anything: else it is known but for indices and `pos`."""
    return n.op == "read" or any(has_reads(a) for a in n.args)


def result_dtype(op: str, args: Sequence[Node]) -> DType:
    """The dtype of `op(args)` by the rules above."""
    if OPS[op].result == "bool":
        return "bool"
    if op == "select":
        return widest(args[1:])
    wide = widest(args)
    if wide in FLOATS:
        return wide
    if op == "pow":
        exponent = args[1]
        return "int" if exponent.op == "const" and exponent.arg >= 0 else "work"
    return "int" if OPS[op].whole else "work"
