"""Rounding that makes up for itself: what one weight loses, those after it give back where they can.

Input: a matrix, its encoding, and the second moments H of the vectors that it is multiplied with.  Output: its planes.
Weights are rounded one input after the other, those with the largest moments first; each error is spread over the
inputs still to come so that the products with such vectors change least (Frantar et al. 2022, GPTQ).  A row for which
that is no better than rounding to the nearest is rounded so.
"""

from __future__ import annotations

import numpy as np

from cdrmix.packing import Planes
from cdrmix.runtime.encodings import Encoding

DAMPING = 0.01
"""The part of the mean moment that is added to each: what a sample of text hardly showed may come yet."""

AT_ONCE = 128
"""Inputs whose errors are spread together."""


def damped(moments: np.ndarray) -> np.ndarray:
    """Second moments [K, K] in f64, with something on the diagonal, whatever was seen."""
    H = np.asarray(moments, np.float64)
    mean = float(np.trace(H)) / len(H)
    return H + np.eye(len(H)) * (DAMPING * mean if mean else 1.0)


def round_with(encoding: Encoding, W: np.ndarray, H: np.ndarray, turned: bool = False) -> Planes:
    """The planes of W [R, K] in f32 that is multiplied with vectors [K] of damped moments H [K, K].

    With `turned` it is W's transpose that is: W is [K, R].
    """
    weight = None if turned else np.broadcast_to(np.diag(H).astype(np.float32), W.shape)
    scale = encoding.scales(W, weight)
    steps = np.broadcast_to(encoding.spread(scale, W.shape), W.shape)
    wanted, steps = (W, steps) if turned else (W.T, steps.T)  # [K, R]: an input's weights lie together
    nearest = encoding.numbers(W, scale) if turned else encoding.numbers(W, scale).T
    fed = _feed_back(wanted, steps, H, encoding.limits)
    better = _error(wanted, fed * steps, H) < _error(wanted, nearest * steps, H)
    numbers = np.where(better, fed, nearest)
    return encoding.planes_of(np.ascontiguousarray(numbers if turned else numbers.T), scale)


def _feed_back(wanted: np.ndarray, steps: np.ndarray, H: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Whole numbers [K, R]: `steps` times them stand for `wanted`."""
    order = np.argsort(-np.diag(H), kind="stable")
    left = np.ascontiguousarray(wanted[order], np.float32)
    steps = np.ascontiguousarray(np.where(steps == 0, 1, steps)[order], np.float32)
    U = np.linalg.cholesky(np.linalg.inv(H[np.ix_(order, order)])).T.astype(np.float32)  # upper, of the inverse
    numbers, K = np.empty_like(left), len(left)
    for start in range(0, K, AT_ONCE):
        stop = min(start + AT_ONCE, K)
        errors = np.empty((stop - start, left.shape[1]), np.float32)
        for k in range(start, stop):
            numbers[k] = np.clip(np.rint(left[k] / steps[k]), *limits)
            errors[k - start] = (left[k] - numbers[k] * steps[k]) / U[k, k]
            left[k + 1 : stop] -= U[k, k + 1 : stop, None] * errors[k - start]
        left[stop:] -= U[start:stop, stop:].T @ errors
    back = np.empty_like(numbers)
    back[order] = numbers
    return back


def _error(wanted: np.ndarray, found: np.ndarray, H: np.ndarray) -> np.ndarray:
    """The squared error of each row's products, over the vectors that were seen: [R]."""
    off = (found - wanted).astype(np.float32)
    return np.asarray(np.einsum("kr,kr->r", off, H.astype(np.float32) @ off))


def shares(W: np.ndarray, held: np.ndarray, H: np.ndarray, turned: bool) -> tuple[float, float]:
    """The squared error of the products with what a matrix is held as, and the square of the products themselves."""
    W, held = (W, held) if turned else (W.T, held.T)
    return float(_error(W, held, H).sum()), float(_error(W, np.zeros_like(W), H).sum())
