"""Choose the next token from logits.  The twin of `c/sample.c`: the same choice from the same numbers.

Input: float logits [vocab] and the tokens so far.  Output: a token id.  The random number of a choice is a function of
the seed and of how many tokens come before it, so a text goes on the same wherever it was cut.
Errors: `ArtifactError` where nothing can be chosen, because a logit is NaN or the largest is not finite.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from cdrmix.runtime.errors import ArtifactError
from cdrmix.runtime.session import Session

_STRIDE, _MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Sampling:
    """`temperature` 0 takes the largest logit.  `top_k` 0 and `top_p` 1 leave all tokens in.

    `repetition_penalty` divides the positive logits of tokens seen before and multiplies the negative ones
    (Keskar et al. 2019, CTRL, section 4.1).
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        largest = float(np.finfo(np.float64).max)
        for name, good, want in (
            ("temperature", 0 <= self.temperature <= largest, "0 or more, and finite"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("top_k", 0 <= self.top_k < 1 << 31, f"from 0 to {(1 << 31) - 1}"),
            ("repetition_penalty", 0 < self.repetition_penalty <= largest, "above 0, and finite"),
            ("seed", 0 <= self.seed <= _MASK, f"from 0 to {_MASK}"),
        ):
            if not good:
                raise ValueError(f"{name} must be {want}, not {getattr(self, name)}")


def draw(seed: int, place: int) -> float:
    """The random number of the choice that follows `place` tokens, in [0, 1): splitmix64 (Steele, Lea, Flood 2014)."""
    z = (seed + (place + 1) * _STRIDE) & _MASK
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & _MASK
    return ((z ^ z >> 31) >> 11) * 2.0**-53


class Sampler:
    """Chooses tokens, one after another.  `place`: how many tokens come before the next choice."""

    def __init__(self, how: Sampling, known: Collection[int] | None = None):
        """`known`: the tokens that may be chosen; without it every one."""
        self.how, self.place = how, 0
        self._known = None if known is None else np.array(sorted(known))

    def __call__(self, logits: np.ndarray, seen: Sequence[int] = ()) -> int:
        """The next token."""
        how, place = self.how, self.place
        self.place += 1
        with np.errstate(all="ignore"):
            x, ids = self._candidates(logits, seen)
            best = int(np.argmax(x))
            if how.temperature == 0:
                return int(ids[best])
            p = np.exp((x - x[best]) / how.temperature)
        likeliest = ids[best]
        if how.top_k > 0 or how.top_p < 1:
            order = np.argsort(-p, kind="stable")[: how.top_k or None]
            p, ids = p[order], ids[order]
            # the smallest set whose probability reaches top_p; the first token always stays
            sums = np.cumsum(p)
            kept = int(np.searchsorted(sums, how.top_p * sums[-1])) + 1
            p, ids = p[:kept], ids[:kept]
        sums = np.cumsum(p)
        at = int(np.searchsorted(sums, draw(how.seed, place) * sums[-1], side="right"))
        return int(ids[at] if at < len(ids) else likeliest)

    def _candidates(self, logits: np.ndarray, seen: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """The logits that may be chosen, in float64, and whose they are."""
        x = np.asarray(logits, np.float64)
        if self.how.repetition_penalty != 1 and len(seen):
            x, ids, penalty = x.copy(), np.unique(np.asarray(seen)), self.how.repetition_penalty
            x[ids] = np.where(x[ids] > 0, x[ids] / penalty, x[ids] * penalty)
        ids = np.arange(len(x)) if self._known is None else self._known
        x = x if self._known is None else x[ids]
        if not len(x) or np.isnan(x).any() or not np.isfinite(x.max()):
            raise ArtifactError(
                "nothing can be chosen: the logits hold NaN or infinity, as the weights or the state do",
                "look at the checkpoint: a run that diverged leaves such weights",
            )
        return x, ids


def generate(
    session: Session, prompt: Sequence[int], count: int, sampler: Sampler, stop: int | None = None
) -> Iterator[int]:
    """Up to `count` tokens after the prompt, ending before `stop`.  The prompt is read by the call itself.

    After the last one the session has read all of them: its state is that of the whole text.
    """
    return _draw(session, session.prefill(prompt), count, sampler, stop)


def _draw(session: Session, logits: np.ndarray, count: int, sampler: Sampler, stop: int | None) -> Iterator[int]:
    sampler.place = session.tokens
    for _ in range(count):
        token = sampler(logits, session.latest)
        if token == stop:
            return
        yield token
        logits = session.step(token)
