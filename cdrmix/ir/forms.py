"""The executable forms of a cell, derived by passes and printed by backends.

A `Program` is what the compiler hands to a backend: the model and, a cell, its step form (inference: one token,
state updated) and its sequence form (training and prefill: batched over [B, T]).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cdrmix.diagnose import NOWHERE, Span
from cdrmix.ir.array_statements import CellArrays, Traits
from cdrmix.ir.nodes import Def, DType, Index, Model, Node, Stmt, Top


# --- sequence form -------------------------------------------------------------------------------------------------
# Statements run in order over whole sequences [B, T].  After a state's scan, reads of `state s` and `next s` are
# ordinary sequences; the states of a `Chunk` are never materialised: every read of them has become a `Query`.
@dataclass(frozen=True, slots=True)
class Delay:
    """s' = e: `next s` is defined just before; `state s` is it, shifted by one token."""

    state: str


@dataclass(frozen=True, slots=True)
class Elementwise:
    """s' = decay * s + addend, both over the state's `indices` (an addend or decay may lack some of them).

    With `combine`, which is `max` or `logaddexp`, the max-plus kind: s' = combine(s + decay, addend).
    """

    state: str
    indices: tuple[Index, ...]
    decay: Node
    addend: Node
    combine: str | None = None


@dataclass(frozen=True, slots=True)
class Coupled:
    """States that mix elementwise: s_f' = sum_g decay[f][g] * s_g + addend[f].  A None decay is zero."""

    states: tuple[str, ...]
    indices: tuple[Index, ...]
    decay: tuple[tuple[Node | None, ...], ...]
    addend: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class LowRank:
    """A term S a bᵀ of the transition: a, b over batch, `rank` and the key; from state `source` into `target`."""

    a: Node
    b: Node
    rank: tuple[Index, ...]
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Outer:
    """An addend v kᵀ: v over batch, `rank` and value; k over batch, `rank` and the key."""

    v: Node
    k: Node
    rank: tuple[Index, ...]
    target: str


@dataclass(frozen=True, slots=True)
class Query:
    """Defines `name[batch…, lead…, value…] = sum[key](S * q)`, S after this token when `after`, else before it.

    `q` is over batch, `lead` and the key: `lead` are several vectors that ask one state.
    """

    name: str
    state: str
    q: Node
    after: bool
    lead: tuple[Index, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """S' = S (diag(decay) + Σ a bᵀ) + Σ v kᵀ along `key`, rows `value`, independent over `batch`.

    One state: `decay` is {(s, s): node over batch and key, or batch alone, or a constant}; `value_decay` multiplies
    it along the value axes (only without low-rank terms).  Coupled states: one entry a (target, source) pair.
    `batch + value + (key,)` are the state's indices in some order; `order` is the state's own.
    """

    states: tuple[str, ...]
    order: tuple[Index, ...]
    batch: tuple[Index, ...]
    value: tuple[Index, ...]
    key: Index
    decay: Mapping[tuple[str, str], Node]
    value_decay: Node | None
    low_rank: tuple[LowRank, ...]
    outer: tuple[Outer, ...]
    queries: tuple[Query, ...]


@dataclass(frozen=True, slots=True)
class Sequential:
    """The general class: `body` runs token by token; `why` is the sentence for the user, `culprit` its place.

    `body` holds the `next` Defs of `states` and what they need that depends on these states.  Its other names are the
    loop's own: a name that is read outside too is defined again outside.
    """

    states: tuple[str, ...]
    body: tuple[Def | Top, ...]
    why: str
    culprit: Span = NOWHERE


@dataclass(frozen=True, slots=True)
class Scored:
    """A part of an attention's scores: sum[contract](query * key), `key` being the read of a history at `t`.

    A part with nothing to contract has one number a token as its key.
    """

    contract: tuple[Index, ...]
    query: Node
    key: Node


@dataclass(frozen=True, slots=True)
class Attend:
    """name[indices] = sum[t](softmax[t](scale·Σ_parts sum[contract](query * K[t, …]) + bias) * V[t, …]), for SDPA.

    Several parts are one product over queries and keys put end to end.  `value` is the history read itself; `bias` may
    read `t` and params, never the token.  `dtype` is the equation's where the attention is all of one, else f32.
    """

    name: str
    indices: tuple[Index, ...]
    t: Index
    parts: tuple[Scored, ...]
    value: Node
    scale: float
    bias: Node | None
    span: Span = field(default=NOWHERE, compare=False)
    dtype: DType = "f32"


SequenceStmt = Stmt | Delay | Elementwise | Coupled | Chunk | Sequential | Attend


@dataclass(frozen=True, slots=True)
class SequenceForm:
    """The statements of a cell over [B, T].

    A `Def` that reads a history under `sum[t]`, `softmax[t]`, … and became no `Attend` runs on unfolded windows
    [B, T, window, …].  `notes` are for the user: the states that must run token by token, and why.
    """

    body: tuple[SequenceStmt, ...]
    notes: tuple[str, ...] = ()


# --- step form -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class StepForm:
    """One token: `body` in an order in which every state of `in_place` is overwritten after its last old read.

    A state that is not in `in_place` needs a second buffer, copied over at the end of the token.
    """

    body: tuple[Stmt, ...]
    in_place: frozenset[str] = frozenset()


def _no_arrays(traits: Traits) -> Mapping[str, CellArrays]:
    raise TypeError("a program without its passes has no array form")


@dataclass(frozen=True, slots=True)
class Program:
    """What a backend gets: `step` and `sequence` by cell name; the types are already decided (`ir/types.py`).

    `array_form` makes the array form of its cells, by name, for a library with the traits it is given.
    """

    model: Model
    step: Mapping[str, StepForm]
    sequence: Mapping[str, SequenceForm]
    hash: str = ""
    array_form: Callable[[Traits], Mapping[str, CellArrays]] = field(default=_no_arrays, compare=False, repr=False)
