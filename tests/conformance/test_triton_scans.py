"""The Triton kernels, in Triton's interpreter on tensors of this CPU, against the float64 loops; gradients too.

And their code for cards that are not here.  `CDRMIX_TRITON=all` (`make test-triton`) runs every case, else a few.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from cdrmix.runtime.torch import chunk_reads, coupled_scan, gpu, linear_scan, maxplus_scan
from torch import Tensor

from tests.conformance.loops import DECAYS, correlated, element_loop, gradients, matrix_loop, operands, worst

pytest.importorskip("triton", reason="triton is not here")
from cdrmix.runtime.torch.gpu import chunks
from triton.runtime import interpreter

ALL = os.environ.get("CDRMIX_TRITON") == "all"
TOLERANCE = 1e-5


@pytest.fixture(scope="module", autouse=True)
def patched_once() -> Iterator[None]:
    """The interpreter looks all of triton through at each call of a function within a kernel; once will do."""
    seen = set()

    def call(self: interpreter.InterpretedFunction, *args: object, **named: object) -> object:
        if self not in seen:
            seen.add(self)
            interpreter._patch_lang(self.fn)
        return self.rewrite()(*args, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter.InterpretedFunction, "__call__", call)
        yield


@dataclass(frozen=True)
class Case:
    """A state and its operands; `start`: no documents, or ones that begin at zero or at a given state."""

    T: int = 17
    K: int = 16
    V: int = 16
    rank: int = 1
    queries: int = 1
    addends: int = 1
    decay: str | None = "-1 to 1"
    width: int | None = None
    values: bool = False
    start: str | None = None
    batch: tuple[int, int] = (1, 1)
    form: str = "either"

    def distance(self) -> float:
        """From the loop, the worst of the outputs and gradients."""
        rows, heads = self.batch
        given = operands(
            self.T, self.K, self.V, self.queries, self.rank, self.addends, self.decay, self.width, self.batch
        ).all()
        if self.values:
            given[7] = torch.tanh(torch.randn(rows, self.T, heads, self.V))
        initial = torch.randn(self.V, self.K) if self.start == "given" else None
        reset = None
        if self.start:
            reset = torch.zeros(rows, self.T, dtype=torch.bool)
            reset[0, [0, self.T // 3, (self.T + 3) // 3 % self.T, -1]] = True

        def loop(*xs: Tensor | None) -> tuple[Tensor, Tensor]:
            return matrix_loop(*xs[:8], reset=reset, initial=xs[8])  # type: ignore[arg-type]

        def kernel(*xs: Tensor | None) -> tuple[Tensor, Tensor]:
            return gpu.chunk_scan(*xs[:8], reset, xs[8])  # type: ignore[arg-type]

        found = gradients(kernel, [*given, initial], torch.float32)
        return worst(found, gradients(loop, [*given, initial], torch.float64))


# --- matrix states -------------------------------------------------------------------------------------------------
FEW = [
    Case(5, 24, 20, 2, 2, 2, values=True, start="given", batch=(1, 2)),
    Case(18, 16, 16, 1, form="tokens", decay="0 among 1", start="zero"),
    Case(17, 24, 20, 1, decay="0 among 1", start="zero", form="chunks"),
    Case(17, 16, 40, 0, width=1, decay="-1 to 1", form="chunks"),
]
EVERY = [
    *(Case(form=form, decay=decay, rank=r) for form in ("tokens", "chunks") for decay in DECAYS for r in (0, 1)),
    *(Case(form=form, decay=None, rank=r, start="zero") for form in ("tokens", "chunks") for r in (0, 1)),
    *(Case(T, 24, 20, rank=1, queries=2, start="zero") for T in (1, 15, 16, 17, 33)),
    *(Case(33, 16, 16, rank=r, queries=2, width=1, start="zero", form="tokens", batch=(2, 2)) for r in (0, 1)),
    *(Case(4, 8, 12, r, n, m, decay, width) for r in (0, 1, 2, 3) for n in (1, 3) for m in (0, 1, 2)
      for decay, width in ((None, None), ("-1 to 1", 1), ("-1 to 1", None))),
    *(Case(17, K, V, r, form="tokens") for K, V in ((64, 64), (24, 128), (128, 24)) for r in (0, 1)),
    *(Case(17, K, V, r, form="chunks") for K, V in ((16, 16), (24, 128), (64, 64)) for r in (0, 1)),
    *(Case(3, K, V) for K, V in ((1, 1), (5, 3), (256, 256), (33, 70))),
    *(Case(9, 8, 8, r, values=True, width=w, start=start) for r in (0, 1) for w in (1, None)
      for start in (None, "given")),
    *(Case(20, 16, 16, 1, 2, start=start, batch=(2, 1)) for start in ("zero", "given")),
]  # fmt: skip


@pytest.mark.parametrize("case", [*FEW, *(EVERY if ALL else [])], ids=str)
def test_matrix_states(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    if case.form != "either":
        choose = chunks.suits

        def suits(*xs: Tensor) -> bool:
            assert choose(*xs)
            return case.form == "chunks"

        monkeypatch.setattr(chunks, "suits", suits)
    assert case.distance() <= TOLERANCE


@pytest.mark.parametrize("strength", [1.0, 2.0] if ALL else [2.0])
def test_correlated_keys(strength: float) -> None:
    """In chunks too: the triangular system is solved row by row, not by powers of it."""
    T, head = 48 if ALL else 17, slice(0, 1)
    given = [x if x is None else x[:, :T, head] if x.dim() == 5 else x[:, head] for x in correlated(strength)]
    found = gradients(gpu.chunk_scan, given, torch.float32)
    assert worst(found, gradients(matrix_loop, given, torch.float64)) <= TOLERANCE


def test_reads_of_documents_and_narrow_operands(monkeypatch: pytest.MonkeyPatch) -> None:
    """What generated code calls, on its way to the kernels: reads of both states, operands in bf16, f32 gradients."""
    monkeypatch.setattr(gpu, "usable", lambda state: True)
    T = 5
    q, w, k, v, S0, a, b, _ = operands(T, 16, 16, 2, 1, batch=(1, 1)).all()
    reset = torch.zeros(1, T, dtype=torch.bool)
    reset[0, 2] = True
    initial = torch.randn(16, 16)
    narrow = [x.bfloat16().to(x.dtype) for x in (q, k, v, a, b) if x is not None]
    given = [narrow[0], w, narrow[1], narrow[2], S0, narrow[3], narrow[4], initial]

    def loop(q: Tensor, w: Tensor, k: Tensor, v: Tensor, S0: Tensor, a: Tensor, b: Tensor, i: Tensor) -> object:
        return matrix_loop(q, w, k, v, S0, a, b, after=[True, False], reset=reset, initial=i)

    def form(q: Tensor, w: Tensor, k: Tensor, v: Tensor, S0: Tensor, a: Tensor, b: Tensor, i: Tensor) -> object:
        q, k, v, a, b = (x.bfloat16() for x in (q, k, v, a, b))
        # the read after the token is made in the operands' type: here of the same numbers in f32
        y, S = chunk_reads([q[:, :, :, 0].float(), q[:, :, :, 1]], [True, False], w, k, v, S0, a, b, None, reset, i)
        return torch.stack(y, 3), S

    found, true = gradients(form, given, torch.float32), gradients(loop, given, torch.float64)  # type: ignore[arg-type]
    assert worst(found[:2], true[:2]) <= TOLERANCE
    assert worst(found[2:], true[2:]) <= 1e-2  # gradients of bf16 operands are bf16


# --- elementwise states --------------------------------------------------------------------------------------------
T = 5
RESET = torch.zeros(2, T, dtype=torch.bool)
RESET[0, [0, 2, 3]] = RESET[1, T - 1] = True
STARTS = [None, "zero", "given"] if ALL else ["given"]


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the state were on one."""
    monkeypatch.setattr(gpu, "usable", lambda state: True)


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("decay", DECAYS if ALL else ["0 among 1"])
@pytest.mark.parametrize("shape", [(2, T, 3, 4), (1, 1, 3, 4), (2, T, 3, 1), (2, 1, 1, 1)] if ALL else [(1, T, 3, 1)])
@pytest.mark.parametrize("start", STARTS)
def test_linear_scan(shape: tuple[int, ...], start: str | None, decay: str) -> None:
    torch.manual_seed(0)
    reset, first = None if start is None else RESET, torch.randn(3, 4) if start == "given" else None
    given = [DECAYS[decay](torch.randn(shape)).float(), torch.randn(2, T, 3, 4), torch.randn(2, 3, 4), first]

    def loop(a: Tensor, b: Tensor, h: Tensor, first: Tensor | None) -> Tensor:
        a = a.expand(2, T, *a.shape[2:])
        return element_loop(lambda x, t: a[:, t] * x + b[:, t], h, T, reset, first)

    form: Callable[..., Tensor] = lambda a, b, h, first: linear_scan(a, b, h, reset, first)  # noqa: E731
    true = gradients(loop, given, torch.float64)
    assert worst(gradients(form, given, torch.float32), true) <= TOLERANCE


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("states", [2, 3] if ALL else [3])
@pytest.mark.parametrize("start", STARTS)
def test_coupled_scan(start: str | None, states: int) -> None:
    torch.manual_seed(0)
    reset, first = None if start is None else RESET, torch.randn(states, 5) if start == "given" else None
    A, b = 0.6 * torch.randn(2, T, states, states, 5), torch.randn(2, T, states, 5)

    def loop(A: Tensor, b: Tensor, h: Tensor, first: Tensor | None) -> Tensor:
        return element_loop(lambda x, t: torch.einsum("bfgs,bgs->bfs", A[:, t], x) + b[:, t], h, T, reset, first)

    given = [A, b, torch.randn(2, states, 5), first]
    form: Callable[..., Tensor] = lambda A, b, h, first: coupled_scan(A, b, h, reset, first)  # noqa: E731
    true = gradients(loop, given, torch.float64)
    assert worst(gradients(form, given, torch.float32), true) <= TOLERANCE


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("combine", ["max", "logaddexp"])
@pytest.mark.parametrize("start", STARTS)
def test_maxplus_scan(combine: str, start: str | None) -> None:
    torch.manual_seed(0)
    join: Callable[[Tensor, Tensor], Tensor] = torch.maximum if combine == "max" else torch.logaddexp
    reset, first = None if start is None else RESET, torch.randn(()) if start == "given" else None
    given = [-torch.rand(2, T), torch.randn(2, T), torch.full((2,), -1e30), first]  # a state of one number

    def loop(d: Tensor, b: Tensor, p: Tensor, first: Tensor | None) -> Tensor:
        return element_loop(lambda x, t: join(x + d[:, t], b[:, t]), p, T, reset, first)

    form: Callable[..., Tensor] = lambda d, b, p, first: maxplus_scan(d, b, p, combine, reset, first)  # type: ignore[arg-type]  # noqa: E731
    true = gradients(loop, given, torch.float64)
    assert worst(gradients(form, given, torch.float32), true) <= TOLERANCE


# --- operators -----------------------------------------------------------------------------------------------------
def test_operators_are_well_formed_and_one_graph() -> None:
    q, w, k, v, S0, a, b, _ = (
        x if x is None else x.requires_grad_() for x in operands(2, 4, 3, rank=1, batch=(1, 1)).all()
    )
    reset = torch.tensor([[False, True]])
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(gpu.OPS.chunk_scan.default, (q, w, k, v, a, b, None, S0, reset, S0, True), test_utils=checks)
    line = torch.rand(1, 2, 4, requires_grad=True)
    first = torch.rand(1, 4, requires_grad=True)
    torch.library.opcheck(gpu.OPS.maxplus_scan.default, (line, line, first, reset, None, True), test_utils=checks)
    torch.library.opcheck(
        gpu.OPS.mix_scan.default,
        (line[:, :, None, None], line[:, :, None], first[:, None], reset, None),
        test_utils=checks,
    )
    torch._dynamo.reset()
    compiled = torch.compile(gpu.chunk_scan, fullgraph=True, backend="aot_eager")
    found = [
        gradients(lambda *xs, f=f: f(*xs, None, reset), [q, w, k, v, S0, a, b], torch.float32)
        for f in (compiled, gpu.chunk_scan)
    ]
    assert all(torch.equal(x, y) for x, y in zip(*found, strict=True))


def test_without_triton_or_by_choice_the_torch_forms_run(monkeypatch: pytest.MonkeyPatch) -> None:
    state = torch.empty(1, device="meta")
    monkeypatch.setattr(gpu, "_installed", lambda: True)
    assert not gpu.usable(state)  # no GPU's
    for choice, there in (("torch", False), ("auto", True)):
        monkeypatch.undo()
        monkeypatch.setenv("CDRMIX_KERNELS", choice)
        gpu.installed.cache_clear()
        assert gpu.installed() is there
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    gpu.installed.cache_clear()
    assert not gpu.installed()
    gpu.installed.cache_clear()


# --- compiled ------------------------------------------------------------------------------------------------------
def test_code_for_cards_that_are_not_here(tmp_path: Path) -> None:
    """Six architectures of both makers; shared memory and spilled registers within what each has."""
    environment = {n: x for n, x in os.environ.items() if n != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.conformance.triton_compiled", *(["all"] if ALL else [])]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, f"{run.stderr[-3000:]}\n{run.stdout}"
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert {row["card"] for row in rows} == {"80", "90", "100", "gfx90a", "gfx942", "gfx1100"}
    for row in rows:
        assert row["matrix"] or row["kernel"] not in ("state_kernel", "state_backward_kernel"), row
