"""What a run's banks of experts do: how evenly tokens choose among them, and an alarm where few experts take all.

Input: by bank and step, how often each expert was chosen, and how many places found no room.
Output: a `Report` a bank over the steps since the last ones, for `metrics.jsonl`, and notes for people.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

REPORTS = 10
"""An expert is dead that no token has chosen in so many reports."""
UNEVEN, EVEN = 0.5, 0.6
"""Shares of a bank's experts: the alarm is raised where fewer do the work, and is over where more do again."""
AGAIN = 50
"""Reports until an alarm that lasts is said again."""
REMEDY = "give the spec a stronger balance loss (moe: `balance`) or bias rate (moe_sigmoid: `rate`), or lower optim.lr"


@dataclass(frozen=True, slots=True)
class Report:
    """`load` is the share of choices that fell on each expert, `entropy` its entropy over that of an even load (1 where
    there is one expert), `dropped` the share of choices without room, `dead` the experts that were not chosen lately.
    """

    load: list[float]
    min: float
    max: float
    entropy: float
    dropped: float
    dead: list[int]

    @property
    def at_work(self) -> float:
        """The share of the experts that would, evenly loaded, give this entropy."""
        return float(len(self.load) ** (self.entropy - 1.0))


@dataclass(slots=True)
class Experts:
    """The banks of a run."""

    _banks: dict[str, _Bank] = field(default_factory=dict)

    def count(self, routed: Mapping[str, Tensor], metrics: Mapping[str, Tensor]) -> None:
        """Count a step: by bank how often each expert was chosen; how many choices had no room is a metric."""
        for path, chosen in routed.items():
            bank = self._banks.setdefault(path, _Bank(path))
            bank.chosen = chosen if bank.chosen is None else bank.chosen + chosen
            if (dropped := metrics.get(f"{path}.dropped")) is not None:
                bank.dropped = dropped if bank.dropped is None else bank.dropped + dropped

    def reports(self) -> tuple[dict[str, dict[str, Any]], list[str]]:
        """What happened since this was asked last, by bank, and what there is to say about it."""
        found = {path: bank.report() for path, bank in self._banks.items() if bank.chosen is not None}
        notes = [note for path, report in found.items() for note in self._banks[path].alarm(report)]
        return {path: asdict(report) for path, report in found.items()}, notes


@dataclass(slots=True)
class _Bank:
    """One bank; `told` are the dead experts that were named, and None where no alarm is on."""

    path: str
    chosen: Tensor | None = None
    dropped: Tensor | None = None
    recent: deque[list[float]] = field(default_factory=lambda: deque(maxlen=REPORTS))
    told: set[int] | None = None
    since: int = 0

    def report(self) -> Report:
        """Of the steps since the last report."""
        assert self.chosen is not None
        chosen: list[float] = self.chosen.tolist()
        dropped = 0.0 if self.dropped is None else float(self.dropped)
        self.chosen = self.dropped = None
        self.recent.append(chosen)
        total = max(1.0, sum(chosen))
        load = [n / total for n in chosen]
        entropy = -sum(p * math.log(p) for p in load if p > 0) / math.log(len(load)) if len(load) > 1 else 1.0
        full = len(self.recent) == REPORTS
        dead = [e for e, counts in enumerate(zip(*self.recent, strict=True)) if full and not any(counts)]
        return Report(load, min(load), max(load), entropy, dropped / total, dead)

    def alarm(self, report: Report) -> Iterator[str]:
        """A note where an alarm begins, grows, lasts or ends."""
        on, dead, count = self.told is not None, set(report.dead), len(report.load)
        self.since += 1
        if dead or report.at_work < (EVEN if on else UNEVEN):
            if not on or dead - (self.told or set()) or self.since >= AGAIN:
                said = f"the load is that of {report.at_work * count:.1f} evenly loaded experts of {count}"
                if dead:
                    said = f"no token in {REPORTS} reports chose {_listed(sorted(dead))} of {count} experts"
                yield f"warning: {self.path}: {said}; {REMEDY}"
                self.since = 0
            self.told = dead
        elif on:
            self.told = None
            yield f"note: {self.path}: every expert is chosen again"


def _listed(experts: list[int]) -> str:
    """Experts as people list them, the first ones of many."""
    first = ", ".join(map(str, experts[:8]))
    return f"number {first}" if len(experts) <= 8 else f"{len(experts)} (number {first}, …)"
