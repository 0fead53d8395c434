"""Kernels of plans made by hand, run over the emulation and compared with numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cdrmix.codegen.metalium import plan
from cdrmix.codegen.metalium.emit.registers import ELEMENTWISE
from cdrmix.codegen.metalium.tiles import in_bf16

from cdrmix.ir import build
from cdrmix.ir import steps as form
from cdrmix.ir.ops import OPS

from .agree import needs_compiler
from .plans import at, bank, index, load, number, op, rows, run

pytestmark = needs_compiler
N = 40


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(np.sum((found - wanted) ** 2) / max(np.sum(wanted.astype(np.float64) ** 2), 1e-30)))


def test_every_elementwise_operation(tmp_path: Path) -> None:
    names = sorted(name for name, row in OPS.items() if row.kind == "elementwise")
    assert set(names) <= ELEMENTWISE
    rng = np.random.default_rng(0)
    a, b, c = (rng.standard_normal(N).astype(np.float32) * 3 for _ in range(3))
    a[:4], b[:4] = (0.0, 1.0, -2.0, 90.0), (0.0, 1.0, 3.0, -80.0)  # equal ones, whole powers, far apart
    positive = {"pow", "log", "sqrt"}
    i = index("i", N)
    steps: list[form.Step] = [plan.Fetch(n, n) for n in ("a", "b", "c", "p")]
    for place, name in enumerate(names):
        first = "p" if name in positive else "a"
        loads = tuple(load(n, i) for n in (first, "b", "c")[: OPS[name].arity])
        steps.append(form.Map("out", (i,), op(name, *range(OPS[name].arity)), loads, at(place, i)))
    steps.append(plan.Write("logits", "out"))
    arrays = {n: plan.Array(n, (N,)) for n in ("a", "b", "c", "p")} | {"out": plan.Array("out", (len(names), N))}
    tensors = {n: rows(n, 1, N) for n in ("a", "b", "c", "p")} | {"logits": rows("logits", 1, len(names) * N)}
    given = {"a": a, "b": b, "c": c, "p": np.abs(a) + np.float32(0.1)}
    found = run(tmp_path, plan.Program("ops", "operations", 1, arrays, tensors, tuple(steps)), given)
    for name, row in zip(names, found.reshape(len(names), N), strict=True):
        of = [given["p" if name in positive else "a"], b, c][: OPS[name].arity]
        with np.errstate(all="ignore"):
            wanted = np.asarray(OPS[name].numpy(*(x.astype(np.float64) for x in of)), np.float64)  # type: ignore[misc]
        usual = np.isfinite(wanted) & (np.abs(wanted) < 1e30)
        assert relative(row[usual], wanted[usual]) < 2e-6, name


def test_small_results_keep_their_digits(tmp_path: Path) -> None:
    i = index("i", N)
    x = np.linspace(-60, -10, N).astype(np.float32)
    steps = (
        plan.Fetch("x", "x"),
        form.Map("y", (i,), op("softplus", 0), (load("x", i),)),
        plan.Write("logits", "y"),
    )
    arrays = {n: plan.Array(n, (N,)) for n in ("x", "y")}
    found = run(
        tmp_path, plan.Program("p", "p", 1, arrays, {n: rows(n, 1, N) for n in ("x", "logits")}, steps), {"x": x}
    )
    assert np.max(np.abs(found.reshape(-1) / np.log1p(np.exp(x.astype(np.float64))) - 1)) < 1e-5


@pytest.mark.parametrize(("r", "c", "cores"), [(40, 20, 1), (32, 64, 2), (64, 64, 3), (7, 33, 2)])
def test_matrices_in_tiles(tmp_path: Path, r: int, c: int, cores: int) -> None:
    """m = m * w[row of columns] - u[column of rows] * s, then y = m x, z = x' m, both with m in planes; 5 matrices."""
    H = 5
    h, i, j = index("h", H), index("i", r), index("j", c)
    split = plan.Split(H, -(-H // cores)) if cores > 1 else None
    arrays = {
        n: plan.Array(n, s)
        for n, s in {"m0": (H, r, c), "w": (H, c), "u": (H, r), "s": (H,), "x": (H, c), "v": (H, r)}.items()
    }
    for n in ("m", "hi", "lo"):
        arrays[n] = plan.Array(n, (H, r, c), layout="tiles", split=split)
    for n, s in {"y": (H, r), "z": (H, c)}.items():
        arrays[n] = plan.Array(n, s, split=split)
        arrays[f"{n}_all"] = plan.Array(f"{n}_all", s)
    for n, s in {"x": (H, c), "v": (H, r)}.items():
        arrays |= {f"{n}_hi": plan.Array(f"{n}_hi", s), f"{n}_lo": plan.Array(f"{n}_lo", s)}
    arrays["out"] = plan.Array("out", (H * (r + c),))
    given_names = ("m0", "w", "u", "s", "x", "v")
    steps: list[form.Step] = [plan.Fetch(n, n) for n in given_names]
    update = op("sub", op("mul", 0, 1), op("mul", op("mul", 2, 3), number(0.5)))
    loads = (load("m0", h, i, j), load("w", h, j), load("u", h, i), load("s", h))
    steps.append(form.Map("m", (h, i, j), update, loads))
    low = op("sub", 0, op("tf32", 0))
    for n, k in (("x", j), ("v", i)):
        steps += [
            form.Map(f"{n}_hi", (h, k), op("tf32", 0), (load(n, h, k),)),
            form.Map(f"{n}_lo", (h, k), low, (load(n, h, k),)),
        ]
    steps += [
        form.Map("hi", (h, i, j), op("tf32", 0), (load("m", h, i, j),)),
        form.Map("lo", (h, i, j), low, (load("m", h, i, j),)),
    ]
    planes = lambda n, *at: (load(f"{n}_hi", *at), load(f"{n}_lo", *at))  # noqa: E731
    matrix = (load("hi", h, i, j), load("lo", h, i, j))
    steps += [
        form.Product(("y",), (h,), (), (i,), (j,), planes("x", h, j), matrix, transposed=True),
        form.Product(("z",), (h,), (), (j,), (i,), planes("v", h, i), matrix),
    ]
    for n in ("y", "z"):
        steps.append(
            plan.Gather(f"{n}_all", n)
            if cores > 1
            else form.Copy(f"{n}_all", (h, k := i if n == "y" else j), load(n, h, k))
        )
    e, f = index("e", H * r), index("f", H * c)
    steps += [
        form.Copy("out", (e,), load("y_all", e, view=(H * r,)), at(e)),
        form.Copy("out", (f,), load("z_all", f, view=(H * c,)), (build.add(build.index(f), build.const(H * r)),)),
        plan.Write("logits", "out"),
    ]
    rng = np.random.default_rng(1)
    given = {n: rng.standard_normal(arrays[n].shape).astype(np.float32) for n in given_names}
    tensors = {n: rows(n, 1, given[n].size) for n in given_names} | {"logits": rows("logits", 1, H * (r + c))}
    found = run(tmp_path, plan.Program("m", "matrices", cores, arrays, tensors, tuple(steps)), given).reshape(-1)
    wide = {n: v.astype(np.float64) for n, v in given.items()}
    m = wide["m0"] * wide["w"][:, None] - wide["u"][:, :, None] * wide["s"][:, None, None] * 0.5
    y, z = np.einsum("hij,hj->hi", m, wide["x"]), np.einsum("hij,hi->hj", m, wide["v"])
    assert relative(found, np.concatenate([y.ravel(), z.ravel()])) < 1e-5


@pytest.mark.parametrize("cores", [1, 3])
def test_a_bank_streams_what_is_picked(tmp_path: Path, cores: int) -> None:
    E, D, K = 4, 70, 50
    rng = np.random.default_rng(2)
    given = {
        "table": rng.standard_normal((5, E)).astype(np.float32), "x": rng.standard_normal(K).astype(np.float32),
        "F": in_bf16(rng.standard_normal((E, D, K)).astype(np.float32)),
    }  # fmt: skip
    given["table"][3] = (2.0, -1.0, 2.0, 0.5)
    program = bank(cores)
    found = run(tmp_path, program, given, token=3, pos=1).reshape(-1)
    picked = [given["F"][n].astype(np.float64) @ given["x"].astype(np.float64) for n in (0, 2)]
    assert relative(found[: 2 * D], np.concatenate(picked)) < 1e-5
    window = [[2.0, 2.0], [-1.0, -1.0], [7.0, 7.0]]
    np.testing.assert_array_equal(found[2 * D :], [*np.ravel(window), 1.0, -5.0, -1.0])
