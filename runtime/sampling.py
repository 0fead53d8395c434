"""Choose the next token from logits.

Input: float logits [vocab] and the tokens so far.  Output: a token id, the same for the same seed and logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from cdrmix.runtime.session import Session


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
        for name, good, want in (
            ("temperature", self.temperature >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0"),
        ):
            if not good:
                raise ValueError(f"{name} must be {want}, not {getattr(self, name)}")


class Sampler:
    """Draws tokens; its random stream begins at the seed."""

    def __init__(self, how: Sampling):
        self.how = how
        self._random = np.random.default_rng(how.seed)

    def __call__(self, logits: np.ndarray, seen: Sequence[int] = ()) -> int:
        """The next token."""
        how = self.how
        x = logits.astype(np.float64)
        if how.repetition_penalty != 1 and len(seen):
            ids = np.unique(np.asarray(seen))
            x[ids] = np.where(x[ids] > 0, x[ids] / how.repetition_penalty, x[ids] * how.repetition_penalty)
        if how.temperature == 0:
            return int(np.argmax(x))
        x /= how.temperature
        order = np.argsort(-x, kind="stable")
        if how.top_k:
            order = order[: how.top_k]
        p = np.exp(x[order] - x[order[0]])
        p /= p.sum()
        # the smallest set whose probability reaches top_p; the first token always stays
        last = int(np.searchsorted(np.cumsum(p), how.top_p)) + 1
        p = p[:last] / p[:last].sum()
        return int(order[min(int(np.searchsorted(np.cumsum(p), self._random.random(), side="right")), len(p) - 1)])


def generate(
    session: Session, prompt: Sequence[int], count: int, sampler: Sampler, stop: int | None = None
) -> Iterator[int]:
    """Up to `count` tokens after the prompt, ending before `stop`.  The prompt is read by the call itself.

    After the last one the session has read all of them: its state is that of the whole text.
    """
    return _draw(session, session.prefill(prompt), list(prompt), count, sampler, stop)


def _draw(
    session: Session, logits: np.ndarray, seen: list[int], count: int, sampler: Sampler, stop: int | None
) -> Iterator[int]:
    for _ in range(count):
        token = sampler(logits, seen)
        if token == stop:
            return
        yield token
        seen.append(token)
        logits = session.step(token)
