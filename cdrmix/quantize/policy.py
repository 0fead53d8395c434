"""Which matrices are held wider: the ones that cost a text most for the bytes that they save.

Input: groups of matrices that are held alike, what each costs in an encoding, and how much all may.  Output: the
encoding of each group, and the rules that say so to `compile`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from cdrmix.ir.layout import Weight
from cdrmix.ir.nodes import Model, Stored
from cdrmix.packing import stored
from cdrmix.passes.encodings import encode
from cdrmix.runtime.encodings import ENCODINGS
from cdrmix.weights import owners

APART = 2.0
"""How many times its group's median error a matrix has that is chosen for by itself."""


@dataclass(frozen=True, slots=True)
class Group:
    """Matrices of one role in every layer, or one alone: `pattern` is what `--encode` names them by."""

    pattern: str
    weights: tuple[Weight, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(w.path for w in self.weights)

    def bytes(self, to: str) -> int:
        """What they take in an encoding."""
        return sum(ENCODINGS[to].bytes(w.shape) for w in self.weights)


Choice = Mapping[Group, str]
"""The encoding of each group."""


def free(model: Model, rules: Sequence[str]) -> tuple[list[Weight], dict[str, str]]:
    """The matrices that no rule holds, and the encodings of those that one does."""
    narrow, wide = ({w.path: w for w in owners(encode(model, to, rules))} for to in ("i8", "f16"))
    left = [w for path, w in narrow.items() if stored(w) != stored(wide[path])]
    fixed = {p: stored(w) for p, w in narrow.items() if stored(w) == stored(wide[p]) != "f32"}
    return left, fixed


def groups(weights: Sequence[Weight], error: Callable[[str], float]) -> list[Group]:
    """Matrices by role; those whose error is far above their role's are groups of their own, behind it."""
    roles: dict[str, list[Weight]] = {}
    for w in weights:
        roles.setdefault(".".join("*" if part.isdigit() else part for part in w.path.split(".")), []).append(w)
    found = []
    for pattern, alike in roles.items():
        usual = median(error(w.path) for w in alike)
        apart = [w for w in alike if len(alike) > 2 and error(w.path) > APART * usual]
        found.append(Group(pattern, tuple(w for w in alike if w not in apart)))
        found += [Group(w.path, (w,)) for w in apart]
    return found


def widen(choice: Choice, ladder: Sequence[str], cost: Callable[[Group, str], float], most: float) -> Choice:
    """The choice with groups widened, step by step of the ladder, until their costs add up to at most `most`.

    The step is always the one that saves the largest cost for the bytes it takes; the widest stay.
    """
    chosen = dict(choice)
    costs = {group: cost(group, to) for group, to in chosen.items()}
    while sum(costs.values()) > most:
        steps = {g: ladder[ladder.index(to) + 1] for g, to in chosen.items() if to != ladder[-1]}
        if not steps:
            break
        worst = max(steps, key=lambda g: costs[g] / max(1, g.bytes(steps[g]) - g.bytes(chosen[g])))
        chosen[worst] = steps[worst]
        costs[worst] = min(costs[worst], cost(worst, steps[worst]))
    return chosen


def rules_of(model: Model, matrices: Stored, choice: Choice, fixed: Sequence[str]) -> list[str]:
    """What `--encode` says besides `--quant` so that `compile` holds the groups so; `fixed` are the user's rules."""
    wanted = {path: to for group, to in choice.items() for path in group.paths}
    rules = [f"{group.pattern}={to}" for group, to in choice.items() if to != matrices]
    held = {w.path: stored(w) for w in owners(encode(model, matrices, rules))}
    exact = [f"{path}={to}" for path, to in wanted.items() if held[path] != to]
    return [*rules, *exact, *fixed]
