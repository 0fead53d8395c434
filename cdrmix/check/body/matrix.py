"""`W @ x`: the product of a matrix and a vector, and what is said of any other.

Input: both operands and their text.  Output: the product's `Value`.
"""

from __future__ import annotations

from cdrmix.check.axes.axes import is_one, names, unite
from cdrmix.check.axes.meeting import check_number, meet, merged
from cdrmix.check.body import tensors
from cdrmix.check.body.draft import Writing
from cdrmix.check.body.reading import Reading, value
from cdrmix.check.body.symbols import Stored
from cdrmix.check.body.tensors import Slots, Value
from cdrmix.check.help.index_forms import Letters, contraction, shape_of
from cdrmix.check.help.quote import quote
from cdrmix.check.names.values import Failed
from cdrmix.ir.nodes import Node
from cdrmix.syntax import ast


def matrix_product(expr: ast.Binary, left: Value, right: Value, r: Reading) -> Value:
    """`W @ x`."""
    for operand, text in ((left, expr.left), (right, expr.right)):
        check_number(operand, "@", text, r)
    if len(left.shape) != 2 or len(right.shape) != 1:
        a, b = quote(expr.left), quote(expr.right)
        help = f"`{a}` wants [M, K] and `{b}` [K]"
        if len(left.shape) == 1 and len(right.shape) == 2 and unite(left.shape[0], right.shape[1]):
            help = f"the matrix stands on the left: write `{b} @ {a}`"
        elif left.shape and right.shape:
            help = merged(right.shape, expr.right, left.shape[1:], None, r) or _sum(expr, left, right, r) or help
        r.draft.fail("E0315", expr.span, f"`{quote(expr)}`: the matrix product wants [M, K] @ [K], got "
                     f"{names(left.shape)} @ {names(right.shape)}", help)  # fmt: skip
    first, last = left.shape
    if not unite(last, right.shape[0]) and is_one(first, right.shape[0]):
        return _turned(expr, left, right, r)
    meet(left.shape[1:], expr.left, right.shape, expr.right, "@", expr.span, r)
    return tensors.product(left, right, expr.span)


def _sum(expr: ast.Binary, left: Value, right: Value, r: Reading) -> str:
    """A product of other things than a matrix and a vector, as a sum."""
    shapes = {id(expr.left): left.shape, id(expr.right): right.shape}
    if len(left.shape) == len(right.shape) == 1:
        letters = Letters(r)
        i, j = letters.index(left.shape[0]), letters.index(right.shape[0])
        outer = f"; an outer product is `u[{i},{j}] = a[{i}]*b[{j}]`"
        return contraction(expr, left.shape, right.shape, False, r, shapes) + outer
    rows = len(right.shape) > 1 and len(left.shape) <= 2 and is_one(left.shape[-1], right.shape[0])
    return contraction(expr, left.shape, right.shape, rows, r, shapes)


def check_turned(expr: ast.Binary, r: Reading) -> None:
    """Report `W.T @ x` and the sum that it is (E0201)."""
    match expr:
        case ast.Binary(op="@", left=ast.Path(parts=(name, "T"), span=span)) if r.frame.own(name):
            matrix, right = ast.Name(span, name), value(expr.right, r)
            left = shape_of(matrix, r, {})
            how = ""
            if left is not None and len(left) == 2 and right.shape and is_one(left[0], right.shape[0]):
                plain = ast.Binary(expr.span, "@", matrix, expr.right)
                how = contraction(plain, (left[1], left[0]), right.shape, True, r, {id(expr.right): right.shape}, True)
            r.draft.fail("E0201", expr.span, f"`{name}` has nothing behind a dot, no `T`", how or
                         f"a transposed product is an equation: `y[j] = sum[i]({name}[i,j]*x[i])`")  # fmt: skip


def _turned(expr: ast.Binary, left: Value, right: Value, r: Reading) -> Value:
    """A matrix whose first axis is the vector's; the product is read on as if it were turned."""
    text, (rows, columns) = quote(expr.left), left.shape
    turned = names((columns, rows))
    symbol = r.frame.symbols.get(expr.left.id) if isinstance(expr.left, ast.Name) else None
    how = _sum(expr, left, right, r)
    if isinstance(symbol, Stored) and symbol.kind == "param":
        how = f"declare `param {text}: {turned}`" + (f", or {how}" if how else "")
    r.draft.error("E0303", expr.span, f"axes differ: `{text}` is {names(left.shape)}, and `@` sums over its last axis; "
                  f"`{quote(expr.right)}` is {names(right.shape)}",
                  how or f"the matrix is {turned} here")  # fmt: skip

    def emit(w: Writing, slots: Slots) -> Node:
        raise Failed

    return Value((columns,), left.dtype, emit, expr.span, left.free, True)
