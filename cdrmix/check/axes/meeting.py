"""Where two operands meet: their axes must be the same.

Input: the axes of both and their text.  Output: nothing, or a mistake (E0303, E0304, E0313) that says how the reader's
own values can be made to meet.
"""

from __future__ import annotations

from collections.abc import Sequence

from cdrmix.check.axes.axes import AxisVar, made_one, names, unite
from cdrmix.check.body.reading import Reading
from cdrmix.check.body.symbols import Stored
from cdrmix.check.body.tensors import Value
from cdrmix.check.help.index_forms import together
from cdrmix.check.help.quote import quote
from cdrmix.check.names.scope import OpValue
from cdrmix.check.names.values import a_kind, kind_of, show
from cdrmix.diagnose import Span
from cdrmix.syntax import ast


def check_number(operand: Value, symbol: str, text: ast.Expr, r: Reading) -> None:
    """Report a string or an op where a number is wanted."""
    if isinstance(operand.const, str | OpValue):
        r.draft.fail("E0216", text.span, f"`{symbol}` wants numbers, {show(operand.const)} is "
                     f"{a_kind(kind_of(operand.const))}", "only `==` and `!=` compare strings and ops")  # fmt: skip


def meet(
    left: Sequence[AxisVar],
    left_text: ast.Expr,
    right: Sequence[AxisVar],
    right_text: ast.Expr,
    symbol: str,
    span: Span,
    r: Reading,
    leaves: ast.Expr | None = None,
    whole: ast.Expr | None = None,
) -> None:
    """Check that two operands have the same axes (E0303, E0304; E0313 where an index left some).  `whole` is what they
    are operands of.
    """
    same = len(left) == len(right)
    clash = next(((a.root, b.root) for a, b in zip(left, right, strict=False) if not unite(a, b)), None)
    if same and clash is None:
        return
    if leaves is not None and (not same or r.indices):
        mine, other = (left, right) if leaves is left_text or leaves is not right_text else (right, left)
        r.draft.fail("E0313", leaves.span, f"`{quote(leaves)}` leaves an axis: it is a whole {names(mine)} here, and "
                     f"meets {names(other)} at `{symbol}`", "index all of its axes")  # fmt: skip
    if same and clash is not None and clash[0].size == clash[1].size and not (clash[0].window or clash[1].window):
        one, two = clash
        r.draft.fail("E0304", span, f"{one.name} = {one.size} and {two.name} = {two.size} have one size but are not "
                     f"one axis: `{quote(left_text)}` is {names(left)}, `{quote(right_text)}` is {names(right)}",
                     f"if they are meant to be, {made_one(two, one)}")  # fmt: skip
    turned = symbol == "="
    help = merged(right, right_text, left, None, r) if turned else merged(left, left_text, right, right_text, r)
    if turned:
        help = help.replace("they are the same elements: ", "write ")
    if whole is not None and not help:
        help = together(whole, left, right, r, {id(left_text): tuple(left), id(right_text): tuple(right)})
    help = (
        help
        or f"they meet at `{symbol}`, where axes must be the same{_declared(left, left_text, right, right_text, r)}"
    )
    r.draft.fail("E0303", span, f"axes differ: `{quote(left_text)}` is {names(left)}, `{quote(right_text)}` is "
                 f"{names(right)}", help)  # fmt: skip


def _declared(
    left: Sequence[AxisVar], left_text: ast.Expr, right: Sequence[AxisVar], right_text: ast.Expr, r: Reading
) -> str:
    """What a param would be declared as, to meet the other operand."""
    for text, mine, other in ((right_text, right, left), (left_text, left, right)):
        symbol = r.frame.symbols.get(text.id) if isinstance(text, ast.Name) else None
        if isinstance(symbol, Stored) and symbol.kind == "param" and len(mine) == len(other) == 1:
            return f": as in `param {symbol.name}: {names(other)}`"
    return ""


def merged(
    left: Sequence[AxisVar], left_text: ast.Expr, right: Sequence[AxisVar], right_text: ast.Expr | None, r: Reading
) -> str:
    """How to make one value's axes those of the other, where they are the same elements; a `None` has no text."""
    if not left or not right or not r.frame.products.same_elements(left, right):
        return ""
    longer = right_text is None or len(left) >= len(right)
    text, axes = (left_text, right) if longer else (right_text, left)
    assert text is not None
    shown = quote(text) if isinstance(text, ast.Name | ast.Primed | ast.Call) else f"({quote(text)})"
    return f"they are the same elements: `{shown} as {names(axes)}`"
