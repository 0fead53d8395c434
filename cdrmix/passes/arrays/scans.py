"""The sequence form's own statements: each state's scan over [B, T].

Input: a statement of `ir.forms` and the draft of a function over sequences.  Output: the scan, what the state is after
the last token, and the names of what is read of it.

Linear and max-plus scans are associative, so that a library may run them in log T steps (Blelloch 1990, "Prefix sums
and their applications").
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from typing import Literal

from cdrmix.diagnose import Span
from cdrmix.ir.array_statements import Keep, Loop, Mix, Scan, Shift
from cdrmix.ir.arrays import Array, Local
from cdrmix.ir.forms import Coupled, Delay, Elementwise, Sequential
from cdrmix.ir.nodes import Index, Node, Ref, State, Top

from .draft import Draft, data
from .elements import over, valued
from .equations import define, take_top
from .values import full, held, ordered, to_float


def declared(draft: Draft, name: str) -> State:
    """The declaration of a state."""
    return next(s for s in draft.cell.states if s.name == name)


def update_of(draft: Draft, name: str) -> Span:
    """Where a state's update is written."""
    return draft.equation(Ref("next", name)).span


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


@singledispatch
def scan(stmt: object, draft: Draft) -> None:
    """The statements of one of the sequence form."""
    raise TypeError(type(stmt))


@scan.register
def _(stmt: Delay, draft: Draft) -> None:
    state = declared(draft, stmt.state)
    after, begin = after_of(draft, state), beginning(draft, state)
    before = draft.local(state.name)
    draft.add(Shift(before, state.name, after, begin, "equation"))
    draft.known(Ref("state", state.name), before, state.indices, data(state.dtype))


@scan.register
def _(stmt: Elementwise, draft: Draft) -> None:
    state = declared(draft, stmt.state)
    draft.say(update_of(draft, state.name))
    decay, addend = decay_over(draft, stmt.decay, stmt.indices), over(draft, stmt.addend, stmt.indices)
    begin = beginning(draft, state)
    after, last = draft.local(f"{state.name}_next"), draft.local(f"{state.name}_last")
    draft.add(Scan(after, last, state.name, decay, addend, stmt.combine, begin, stmt.indices))
    _settle(draft, state, after, begin)


@scan.register
def _(stmt: Coupled, draft: Draft) -> None:
    states = [declared(draft, s) for s in stmt.states]
    for s in stmt.states:
        draft.say(update_of(draft, s))
    decay = tuple(tuple(None if d is None else decay_over(draft, d, stmt.indices) for d in row) for row in stmt.decay)
    addend = tuple(over(draft, a, stmt.indices) for a in stmt.addend)
    begin = tuple(beginning(draft, s) for s in states)
    after, last = (tuple(draft.local(f"{s}_{end}") for s in stmt.states) for end in ("next", "last"))
    draft.add(Mix(after, last, stmt.states, decay, addend, begin, stmt.indices))
    for state, name, first in zip(states, after, begin, strict=True):
        _settle(draft, state, name, first)


def _settle(
    draft: Draft, state: State, after: Local, begin: Array | None, by: Literal["scan", "loop"] = "scan"
) -> None:
    """Make the states before each token if anything reads them."""
    found = draft.known(Ref("next", state.name), after, state.indices)
    if Ref("state", state.name) in draft.uses:
        before = draft.local(state.name)
        draft.add(Shift(before, state.name, found, begin, by))
        draft.known(Ref("state", state.name), before, state.indices)


# --- the general class ---------------------------------------------------------------------------------------------
@scan.register
def _(stmt: Sequential, draft: Draft) -> None:
    """A loop over the tokens, each one's expressions on slices."""
    states = [declared(draft, s) for s in stmt.states]
    begin = tuple(beginning(draft, s) for s in states)
    now, seen, whole = (tuple(draft.local(f"{s.name}_{end}") for s in states) for end in ("t", "all", "next"))
    token = draft.local("t")
    inner = draft.at(token)
    for state, name in zip(states, now, strict=True):
        inner.known(Ref("state", state.name), name, state.indices)
    for d in stmt.body:
        take_top(d, inner) if isinstance(d, Top) else define(d, inner)
    after = tuple(after_of(inner, state) for state in states)
    draft.prelude += inner.prelude
    dims = tuple(s.indices for s in states)
    draft.add(Loop(token, stmt.states, dims, now, seen, whole, tuple(inner.statements), after, begin, stmt.why))
    for state, name, first in zip(states, whole, begin, strict=True):
        draft.add(Keep(state.name, Array("local", arg=name, dims=state.indices, lead=True)))
        _settle(draft, state, name, first, "loop")
