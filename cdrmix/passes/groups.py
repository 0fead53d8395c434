"""What classification finds: a group of states that need each other, and the class of their recurrence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cdrmix.ir.forms import LowRank, Outer
from cdrmix.ir.nodes import Index, Node
from cdrmix.passes.terms import Culprit

Kind = Literal["delay", "max-plus", "diagonal", "delta", "history", "general"]


@dataclass(frozen=True, slots=True)
class Group:
    """One strongly connected set of states, dependencies having come before it.

    | kind | update |
    |---|---|
    | delay | s' = e, e free of s |
    | max-plus | s' = combine(s + decay, addend) |
    | diagonal | s' = decay * s + addend; `chunk`: the addend is Σ v kᵀ and every read contracts `key`; else `scan` |
    | delta | S' = S (diag(decay) + Σ a bᵀ) + Σ v kᵀ along `key` |
    | history | the last entries of a history |
    | general | anything else |

    Everything is written over `indices`, the indices of the first state's update.  `decay` is keyed (target, source)
    and `addend` by target.  In a chunk `addend` is also given as `outer`.  `why` says what prevents a faster form and
    `culprit` where.
    """

    states: tuple[str, ...]
    kind: Kind
    form: Literal["", "scan", "chunk"] = ""
    indices: tuple[Index, ...] = ()
    decay: Mapping[tuple[str, str], Node] = field(default_factory=dict)
    value_decay: Node | None = None
    addend: Mapping[str, Node] = field(default_factory=dict)
    low_rank: tuple[LowRank, ...] = ()
    outer: tuple[Outer, ...] = ()
    key: Index | None = None
    value: tuple[Index, ...] = ()
    batch: tuple[Index, ...] = ()
    decays: str = ""
    combine: str = ""
    why: str = ""
    culprit: Culprit | None = None

    def __str__(self) -> str:
        text = f"{'+'.join(self.states)}: {self.kind}" + (f"/{self.form}" if self.form else "")
        if self.kind in ("diagonal", "delta"):
            text += f" decay={self.decays}"
        if self.key:
            text += f" key={self.key.name} value={','.join(i.name for i in self.value) or '-'}"
        if self.low_rank:
            text += f" rank={len(self.low_rank)}"
        return text + (f" [{self.why}]" if self.why else "")
