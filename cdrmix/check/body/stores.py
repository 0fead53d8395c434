"""Reads of the tensors that an op body declares.

Input: a symbol and where it is read.  Output: its `Value` as a whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from cdrmix.check.axes.axes import AxisVar
from cdrmix.check.body.reading import Reading, read
from cdrmix.check.body.symbols import Bound, Held, Stored
from cdrmix.check.body.tensors import Place, Value, stored
from cdrmix.check.names.values import Failed
from cdrmix.diagnose import Span
from cdrmix.ir.nodes import Ref

if TYPE_CHECKING:
    from cdrmix.check.body.draft import Writing


@read.register
def _(symbol: Stored, span: Span, r: Reading) -> Value:
    if symbol.kind == "history":
        name = symbol.name
        r.draft.fail("E0404", span, f"`{name}` is a history: read it as `{name}[t, …]`",
                     f"with `t` reduced over: `s[t] = sum[n](q[n]*{name}[t,n])`, and `y[n] = "
                     f"sum[t](softmax[t](s[t])*{name}[t,n])`")  # fmt: skip
    return whole(symbol, span, r)


@read.register
def _(symbol: Bound, span: Span, r: Reading) -> Value:
    return symbol.value


@read.register
def _(symbol: Held, span: Span, r: Reading) -> Value:
    how = f"{symbol.name}[…](…)" if symbol.index else f"{symbol.name}(…)"
    r.draft.fail("E0216", span, f"`{symbol.name}` is a part, not a value", f"apply it: `{how}`")


def whole(symbol: Stored, span: Span, r: Reading, following: bool = False) -> Value:
    """A declared tensor as a whole; `following` for a state's next value."""
    if r.mode == "start" and symbol.kind != "param":
        not_at_start(symbol.name, span, r)
    if r.mode == "init":
        not_in_init(symbol.name, span, r)
    axes = own_axes(symbol)
    symbol.used = True
    if symbol.kind == "carry":
        _check_carried(symbol, span, r)
    if symbol.window is not None:
        axes = (symbol.window, *axes)

    def ref(w: Writing) -> Ref:
        if following or symbol.kind == "history":
            if symbol.unit is None:
                raise Failed
            symbol.unit.need()
        return Ref("next" if following else symbol.kind, symbol.name)

    return stored(Place(ref, (), True), axes, symbol.dtype, symbol.varies, symbol.into, span)


def own_axes(symbol: Stored) -> tuple[AxisVar, ...]:
    """The declared axes of a tensor, once known."""
    if symbol.indices is None:
        raise Failed
    return tuple(v.axis for v in symbol.indices if v.axis is not None)


def not_at_start(name: str, span: Span, r: Reading) -> NoReturn:
    """Report a state that starts from what the token decides (E0408)."""
    r.draft.fail("E0408", span, f"state `{r.target}` starts from `{name}`, which changes with the token",
                 "start from a constant or a param; what the first token sets is chosen by `pos == 0`")  # fmt: skip


def not_in_init(name: str, span: Span, r: Reading) -> NoReturn:
    """Report an init rule that reads what exists only while the program runs."""
    r.draft.fail("E0213", span, f"`{name}` is not known before the program runs, so it cannot stand in an init rule",
                 "an init rule is made of indices, sizes and constants")  # fmt: skip


def _check_carried(symbol: Stored, span: Span, r: Reading) -> None:
    if r.frame.is_carried(symbol.name) is None:
        layer = r.frame.context.layer
        where = f"in layer.{layer}" if layer is not None else "here"
        if layer is not None:
            r.frame.placed("layer", span)  # the message names the layer, so the cell is this layer's
        name = symbol.name
        help = f"guard with `when carried({name})`"
        if name not in r.frame.following:
            help = f"write `{name}' = …` in a layer above; `when carried({name})` chooses where none is above"
        r.draft.error("E0503", span, f"carry `{name}` is read {where} and nothing above writes it", help)
