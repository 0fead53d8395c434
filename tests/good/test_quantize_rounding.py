"""How weights are rounded: the best scales without a text, errors that are made up for with one."""

from __future__ import annotations

import numpy as np
import pytest
from cdrmix.runtime.encodings import ENCODINGS, Encoding

from cdrmix.quantize.feedback import damped, round_with


def values(seed: int, *shape: int, tails: bool = False) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.standard_t(4, shape) if tails else random.standard_normal(shape)).astype(np.float32)


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def q4_0(x: np.ndarray) -> np.ndarray:
    """What llama.cpp's Q4_0 holds: groups of 32, the value farthest from zero at -8, a scale in f16."""
    groups = x.reshape(-1, 32)
    scale = np.take_along_axis(groups, np.abs(groups).argmax(-1, keepdims=True), -1) / np.float32(-8)
    numbers = np.clip(np.floor(groups / np.where(scale == 0, 1, scale) + np.float32(8.5)), 0, 15) - 8
    return (numbers * scale.astype(np.float16)).reshape(x.shape)


def q8_0(x: np.ndarray) -> np.ndarray:
    """What its Q8_0 holds: groups of 32, the value farthest from zero at 127, a scale in f16."""
    groups = x.reshape(-1, 32)
    scale = np.abs(groups).max(-1, keepdims=True) / np.float32(127)
    return (np.rint(groups / scale) * scale.astype(np.float16)).reshape(x.shape)


@pytest.mark.parametrize("tails", [False, True])
def test_groups_are_nearer_than_those_of_llama_cpp(tails: bool) -> None:
    x = values(0, 256, 768, tails=tails)
    for name, theirs, share in (("i4", q4_0, 0.97), ("i8g32", q8_0, 0.95)):
        own = ENCODINGS[name]
        assert rms(own.widen(own.narrow(x), x.shape) - x) < share * rms(theirs(x) - x)


@pytest.mark.parametrize("name", ["i4", "i8g32"])
def test_what_counts_more_is_nearer(name: str) -> None:
    x, own = values(1, 64, 320), ENCODINGS[name]
    weight = np.where(np.arange(320) % 4 == 0, np.float32(20), np.float32(0.1))
    plain, weighted = (own.widen(own.narrow(x, w), x.shape) - x for w in (None, np.broadcast_to(weight, x.shape)))
    assert rms(weighted[:, ::4]) < 0.9 * rms(plain[:, ::4])


@pytest.mark.parametrize("name", ["i4", "i8g32", "i8"])
def test_odd_values_have_scales_too(name: str) -> None:
    own = ENCODINGS[name]
    x = np.zeros((3, 40), np.float32)
    x[1, :3], x[2, 35] = (1e4, -1.0, 2.0), 2e-3
    found = own.widen(own.narrow(x), x.shape)
    assert not found[0].any() and abs(found[1, 0] - 1e4) < 1e2 and abs(found[2, 35] - 2e-3) < 1e-5
    if name != "i4":  # whose scales are in f16
        huge = values(2, 4, 40) * np.float32(1e37)
        assert rms((own.widen(own.narrow(huge), huge.shape) - huge) * 1e-37) < 0.01


def correlated(seed: int, width: int) -> np.ndarray:
    """Vectors [2000, width] whose elements go together, some of them large."""
    x = values(seed, 2000, width) @ (values(seed + 1, width, width) * 0.15 + np.eye(width, dtype=np.float32))
    x[:, :: width // 4] *= 6
    return x


@pytest.mark.parametrize("name", ["i4", "i8g32", "i8"])
@pytest.mark.parametrize("turned", [False, True])
def test_errors_are_made_up_for(name: str, turned: bool) -> None:
    own: Encoding = ENCODINGS[name]
    W, x = values(3, 80, 96), correlated(4, 96)
    held = W.T.copy() if turned else W

    def off(planes: dict[str, np.ndarray]) -> float:
        found = own.widen(planes, held.shape)
        return rms(x @ ((found.T if turned else found) - W).T)

    fed = round_with(own, held, damped(x.T @ x), turned)
    assert {s: (p.shape, p.dtype) for s, p in fed.items()} == {
        s: (p.shape, p.dtype) for s, p in own.narrow(held).items()
    }
    assert off(dict(fed)) < 0.8 * off(own.narrow(held))


def test_what_was_never_seen_is_rounded_to_the_nearest() -> None:
    own, W = ENCODINGS["i4"], values(5, 8, 64)
    found, plain = round_with(own, W, damped(np.zeros((64, 64)))), own.narrow(W)
    assert all(np.array_equal(found[s], plain[s]) for s in plain)
