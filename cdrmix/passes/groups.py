"""What classification finds: a group of states that need each other, and the class of their recurrence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cdrmix.ir.forms import Chunk, Coupled, Delay, Elementwise
from cdrmix.passes.terms import Culprit

Kind = Literal["delay", "max-plus", "diagonal", "delta", "history", "general"]


@dataclass(frozen=True, slots=True)
class Group:
    """One strongly connected set of states, dependencies having come before it.

    | kind | update | scan |
    |---|---|---|
    | delay | s' = e, e free of s | `Delay` |
    | max-plus | s' = combine(s + decay, addend) | `Elementwise` |
    | diagonal | s' = decay * s + addend | `Elementwise`; of several states `Coupled` |
    | diagonal | the same where the addend is Σ v kᵀ and every read contracts the key | `Chunk` |
    | delta | S' = S (diag(decay) + Σ a bᵀ) + Σ v kᵀ along the key | `Chunk` |
    | history | the last entries of a history | |
    | general | anything else | |

    An `Elementwise` scan is associative (Blelloch 1990, Prefix Sums and Their Applications).  Scans are
    written over the indices of the first state's update; a chunk is asked nothing yet.  `form`
    says for people which it is and what part each axis plays, `why` what prevents a faster one, and `culprit` where.
    """

    states: tuple[str, ...]
    kind: Kind
    scan: Delay | Elementwise | Coupled | Chunk | None = None
    form: str = ""
    why: str = ""
    culprit: Culprit | None = None

    def __str__(self) -> str:
        return f"{'+'.join(self.states)}: {self.kind}{self.form}" + (f" [{self.why}]" if self.why else "")
