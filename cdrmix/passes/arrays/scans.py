"""The sequence form's own statements: each state's scan over [B, T].

Input: a statement of `ir.forms` and the draft of a function over sequences.  Output: the scan, what the state is after
the last token, and the names of what is read of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch

from cdrmix.diagnose import Span
from cdrmix.ir.array_statements import Delay, Keep, Loop, Mix, Scan, Shift
from cdrmix.ir.arrays import Array, Local
from cdrmix.ir.forms import Coupled, Elementwise, MaxPlus, Sequential
from cdrmix.ir.forms import Delay as Delayed
from cdrmix.ir.nodes import Def, Index, Node, Ref, State, Top

from .casts import full, held, ordered, to_float
from .draft import Draft, Symbol
from .elements import valued
from .equations import define, take_top


def declared(draft: Draft, name: str) -> State:
    """The declaration of a state."""
    return next(s for s in draft.cell.states if s.name == name)


def update_of(draft: Draft, name: str) -> Span:
    """Where a state's update is written."""
    found = [d for d in draft.cell.body if isinstance(d, Def) and d.ref == Ref("next", name)]
    return found[0].span if found else declared(draft, name).span


def over(draft: Draft, n: Node, indices: Sequence[Index]) -> Array:
    """An expression over [B, T, *indices], in full."""
    return full(valued(draft, n, indices), indices, draft)


def decay_over(draft: Draft, n: Node, indices: Sequence[Index]) -> Array:
    """A decay, which may lack indices and the leading axes; in full where gradients are wanted."""
    if draft.traits.gradients:
        return over(draft, n, indices)
    x = valued(draft, n, indices)
    return full(x, (), draft, lead=False) if x.type == "number" else ordered(to_float(x, draft), indices)


def beginning(draft: Draft, state: State) -> Array | None:
    """What a document starts from, [*state]; None for zero, and where no document begins within a sequence."""
    if not draft.traits.resets:
        return None
    x = valued(draft, state.init, state.indices)
    return None if x.const == 0 else full(x, state.indices, draft, lead=False)


def after_of(draft: Draft, state: State) -> Array:
    """A state after each token, in full."""
    after = full(draft.symbol(Ref("next", state.name)).over(state.indices), state.indices, draft)
    return held(after, state.dtype, draft)


def _settle(draft: Draft, state: State, after: Local, begin: Array | None, scanned: bool = True) -> None:
    """Make the states before each token if anything reads them."""
    found = draft.known(Ref("next", state.name), after, state.indices)
    if Ref("state", state.name) in draft.uses:
        before = draft.local(state.name)
        draft.add(Shift(before, state.name, found, begin, scanned))
        draft.known(Ref("state", state.name), before, state.indices)


@singledispatch
def scan(stmt: object, draft: Draft) -> None:
    """The statements of one of the sequence form."""
    raise TypeError(type(stmt))


@scan.register
def _(stmt: Delayed, draft: Draft) -> None:
    state = declared(draft, stmt.state)
    after = after_of(draft, state)
    begin = beginning(draft, state)
    before = draft.local(state.name)
    draft.add(Delay(before, state.name, after, begin))
    draft.known(Ref("state", state.name), before, state.indices, dtype=state.dtype)


@scan.register
def _(stmt: Elementwise, draft: Draft) -> None:
    _alone(stmt, None, draft)


@scan.register
def _(stmt: MaxPlus, draft: Draft) -> None:
    _alone(stmt, stmt.combine, draft)


def _alone(stmt: Elementwise | MaxPlus, combine: str | None, draft: Draft) -> None:
    state = declared(draft, stmt.state)
    draft.say(update_of(draft, state.name))
    decay, addend = decay_over(draft, stmt.decay, stmt.indices), over(draft, stmt.addend, stmt.indices)
    begin = beginning(draft, state)
    after, last = draft.local(f"{state.name}_next"), draft.local(f"{state.name}_last")
    draft.add(Scan(after, last, state.name, decay, addend, combine, begin, tuple(stmt.indices)))
    _settle(draft, state, after, begin)


@scan.register
def _(stmt: Coupled, draft: Draft) -> None:
    states = [declared(draft, s) for s in stmt.states]
    for s in stmt.states:
        draft.say(update_of(draft, s))
    decay = tuple(tuple(None if d is None else decay_over(draft, d, stmt.indices) for d in row) for row in stmt.decay)
    addend = tuple(over(draft, a, stmt.indices) for a in stmt.addend)
    begin = tuple(beginning(draft, s) for s in states)
    after = tuple(draft.local(f"{s}_next") for s in stmt.states)
    last = tuple(draft.local(f"{s}_last") for s in stmt.states)
    draft.add(Mix(after, last, stmt.states, decay, addend, begin, stmt.indices))
    for state, name, first in zip(states, after, begin, strict=True):
        _settle(draft, state, name, first)


# --- the general class ---------------------------------------------------------------------------------------------
@scan.register
def _(stmt: Sequential, draft: Draft) -> None:
    """A loop over the tokens, each one's expressions on slices."""
    states = [declared(draft, s) for s in stmt.states]
    begin = tuple(beginning(draft, s) for s in states)
    now = tuple(draft.local(f"{s.name}_t") for s in states)
    seen = tuple(draft.local(f"{s.name}_all") for s in states)
    token = draft.local("t")
    inner = Draft(
        draft.cell, "step", draft.traits, draft.windows, short=draft.short, numbers=draft.numbers, suffix="_t"
    )
    inner.pos = _token(draft.pos, token)
    inner.masks = {window: _token(x, token) for window, x in draft.masks.items()}
    inner.missing = lambda ref: _at(draft.symbol(ref), token)
    for state, name in zip(states, now, strict=True):
        inner.known(Ref("state", state.name), name, state.indices)
    for d in stmt.body:
        take_top(d, inner) if isinstance(d, Top) else define(d, inner)
    after = tuple(after_of(inner, state) for state in states)
    draft.adopt(inner)
    whole = tuple(draft.local(f"{s.name}_next") for s in states)
    body = tuple(inner.statements)
    dims = tuple(s.indices for s in states)
    draft.add(Loop(token, stmt.states, dims, now, seen, whole, body, after, begin, stmt.why))
    for state, name, first in zip(states, whole, begin, strict=True):
        draft.add(Keep(state.name, Array("local", arg=name, dims=state.indices, lead=True)))
        _settle(draft, state, name, first, scanned=False)


def _token(x: Array, token: Local) -> Array:
    """A sequence at one token."""
    return Array("token", (x, Array("local", arg=token, type="int")), None, x.type, x.dims, x.lead)


def _at(symbol: Symbol, token: Local) -> Symbol:
    """The symbol of a sequence at one token."""
    if not symbol.value.lead or symbol.value.type == "number":
        return symbol
    return Symbol(_token(symbol.value, token), symbol.sizes, symbol.has)
