"""Axes are nominal: reads under factors, `as`, partial reads, banks and choices, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from tests.good.elaborated import agrees, elaborate, tokens

HEADS = "op f(x: [D], N: int = 4) -> [D] {\n  dim D = H * N\n"


def test_a_flat_axis_is_read_as_its_factors() -> None:
    agrees(HEADS + "  param b: [H, N] ~ 0\n  y[h,n] = x[h,n] + b[h,n]\n  return y as [D]\n}\n",
           [8], lambda x, w: x + w["b"].reshape(-1))  # fmt: skip


def test_factors_nest() -> None:
    text = "op f(x: [D], A: int = 2) -> [A, B, N] {\n  dim D = H * 4\n  dim H = A * B\n  dim N = 4\n" \
           "  y[a,b,n] = x[a,b,n]*(1 + a + 10*b + 100*n)\n  return y as [A, B, N]\n}\n"  # fmt: skip
    found = elaborate(text, sizes=[[16]])
    assert [d.code for d in found.said] == ["E0311"]  # [4] and [N] have one size and are not one axis
    a, b, n = np.ogrid[:2, :2, :4]
    weights = 1 + a + 10 * b + 100 * n
    agrees(text.replace("dim D = H * 4", "dim D = H * N"), [16], lambda x, w: x.reshape(2, 2, 4) * weights)


def test_what_is_computed_is_read_as_factors_too() -> None:
    agrees(HEADS + "  param b: [H, N] ~ 0\n  y[h,n] = (2*x + 1)[h,n]*b[h,n]\n  return y as [D]\n}\n",
           [8], lambda x, w: (2 * x + 1) * w["b"].reshape(-1))  # fmt: skip


def test_a_state_is_written_by_its_factors() -> None:
    found = elaborate(HEADS + "  param b: [H, N] ~ 0\n  state s: [D]\n  s'[h,n] = x[h,n]*b[h,n]\n  return s\n}\n")
    fed = tokens([8])
    outputs, weights = found.run(fed)
    np.testing.assert_allclose(outputs[1:], np.array(fed)[:-1] * weights["b"].reshape(-1))


def test_an_index_known_from_elsewhere_decides_between_factorings() -> None:
    text = "op f(x: [D]) -> [D] {{\n  dim D = H * 4\n  dim D = G * 2\n  param b: [{0}] ~ 0\n  y[h,n] = x[h,n]*b[h]\n" \
           "  return y as [D]\n}}\n"  # fmt: skip
    for axis, size in (("H", 2), ("G", 4)):
        agrees(text.format(axis), [8], lambda x, w, n=8 // size: x * np.repeat(w["b"], n))  # type: ignore[misc]


def test_products_in_shapes_are_axes() -> None:
    agrees(
        "op f(x: [D], K: int = 3, N: int = 2) -> [K, N] {\n  param W: [K*N, D] ~ 0\n  return (W @ x) as [K, N]\n}\n",
        [8], lambda x, w: (w["W"] @ x).reshape(3, 2),
    )  # fmt: skip


def test_a_row_is_a_value() -> None:
    agrees("op f(x: [D]) -> [D] {\n  param m: [3, D, D] ~ 0\n  return m[0] @ x + m[2] @ (x*2)\n}\n",
           [8], lambda x, w: w["m"][0] @ x + w["m"][2] @ (2 * x))  # fmt: skip


def test_index_arithmetic() -> None:
    def reference(x: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
        return np.array([x[7 - i] + x[i // 2] + x[(3 * i + 1) % 8] * i + x[max(i - 1, 0)] for i in range(8)])

    arithmetic = "x[7 - i] + x[i//2] + x[(3*i + 1) % 8]*i + x[max(i - 1, 0)]"
    agrees(f"op f(x: [D]) -> [D] {{\n  y[i < D] = {arithmetic}\n  return y\n}}\n", [8], reference)


def test_two_axes_are_declared_one() -> None:
    agrees("op f(x: [D], E: int = 8) -> [D] {\n  dim E = D\n  param W: [E, D] ~ 0\n  return x + W @ x\n}\n",
           [8], lambda x, w: x + w["W"] @ x)  # fmt: skip


def test_a_function_reads_the_callers_axes() -> None:
    agrees(
        'use "lib/norm.cdr" { unit }\nop f(x: [D]) -> [D] {\n  dim D = H * 4\n  param a: [3, H, 4] ~ 0\n'
        "  y[h,n] = sum[k](unit((x as [H, 4])*a[k])[h,n])\n  return y as [D]\n}\n",
        [8], lambda x, w: sum(
            (v / np.linalg.norm(v, axis=1, keepdims=True)).reshape(-1) for v in (x.reshape(2, 4) * a for a in w["a"])
        ),
    )  # fmt: skip


def test_softmax_whole_and_along_an_index() -> None:
    def reference(x: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
        e = np.exp(x - x.max(1, keepdims=True))
        p = e / e.sum(1, keepdims=True)
        return p + p * np.diag(p)[:, None]

    agrees("op f(x: [H, N]) -> [H, N] {\n  dim H = N\n  d[h] = softmax(x[h])[h]\n"
           "  y[h,n] = softmax(x[h])[n] + softmax[n](x[h,n])*d[h]\n  return y\n}\n", [4, 4], reference)  # fmt: skip


@pytest.mark.parametrize("left", ["g[h,k], p[h,k]", "g[h], p[h]"])
def test_top_under_an_index(left: str) -> None:
    def reference(x: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
        return np.array([(np.sort(row)[::-1][:2] ** 2).sum() for row in x])

    agrees(f"op f(x: [H, N]) -> [H] {{\n  {left} = top[k < 2](x[h])\n"
           "  y[h] = sum[k](g[h,k]*x[h,p[h,k]])\n  return y\n}\n", [3, 5], reference)  # fmt: skip


def test_every_expert_of_a_bank() -> None:
    agrees(
        'use "lib/channel_mix.cdr" { relu2 }\nop f(x: [D]) -> [D] {\n  bank F: [e < 3] of relu2(hidden=5)\n'
        "  param g: [3, D] ~ 1\n  return sum[e](F[e](x*g[e]))\n}\n",
        [8], lambda x, w: sum(
            w["F.Wv"][e] @ np.maximum(w["F.Wk"][e] @ (x * w["g"][e]), 0) ** 2 for e in range(3)
        ),
    )  # fmt: skip


def test_a_place_is_an_argument() -> None:
    agrees(
        "op look(e: index[E], w: [E]) -> [] {\n  return w[e]\n}\n"
        "op f(x: [D]) -> [] {\n  _, p = top[k < 2](x)\n  return sum[k](look(p[k], x))\n}\n",
        [8], lambda x, w: np.asarray(np.sort(x)[-2:].sum()),
    )  # fmt: skip
