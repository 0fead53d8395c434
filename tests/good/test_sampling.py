"""Sampling: the same for the same seed, and only from what its options leave."""

from __future__ import annotations

import numpy as np
import pytest
from cdrmix.runtime.sampling import Sampler, Sampling

LOGITS = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))


def draw(how: Sampling, count: int = 4000, seen: tuple[int, ...] = ()) -> np.ndarray:
    sampler = Sampler(how)
    return np.bincount([sampler(LOGITS, seen) for _ in range(count)], minlength=4) / count


def test_draws_follow_the_distribution() -> None:
    assert np.abs(draw(Sampling()) - [0.4, 0.3, 0.2, 0.1]).max() < 0.03


def test_the_seed_decides() -> None:
    one, two, other = Sampler(Sampling(seed=1)), Sampler(Sampling(seed=1)), Sampler(Sampling(seed=2))
    drawn = [[s(LOGITS) for _ in range(50)] for s in (one, two, other)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("how", "left"),
    [
        (Sampling(temperature=0), [0]),
        (Sampling(top_k=2), [0, 1]),
        (Sampling(top_p=0.65), [0, 1]),
        (Sampling(top_p=0.75), [0, 1, 2]),
        (Sampling(top_p=0.01), [0]),
    ],
)
def test_options_leave_only_the_likely(how: Sampling, left: list[int]) -> None:
    assert np.flatnonzero(draw(how, 500)).tolist() == left


def test_temperature_sharpens_and_repetition_is_penalised() -> None:
    assert draw(Sampling(temperature=0.5))[0] > 0.5
    assert draw(Sampling(repetition_penalty=2.0), seen=(0,))[0] < 0.3


BAD = {
    "temperature": (-1, -5e-324, float("inf"), float("nan")),
    "top_p": (0, -1, 1.1, float("nan")),
    "top_k": (-1, 1 << 31),
    "repetition_penalty": (0, -1, float("inf"), float("nan")),
    "seed": (-1, 1 << 64),
}


@pytest.mark.parametrize("bad", [{name: value} for name, values in BAD.items() for value in values])
def test_options_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Sampling(**bad)  # type: ignore[arg-type]
