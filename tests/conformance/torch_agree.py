"""Run a model's generated torch module and the interpreter on the same tokens, and compare.

Input: a checked `Model`.
Output: assertions on outputs and final state by relative RMS error.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cdrmix.codegen.torch import module as backend
from cdrmix.runtime.torch.load import load_module
from numpy.typing import NDArray
from torch import Tensor, nn

from cdrmix.compiler import lower
from cdrmix.ir.initial import random_weights
from cdrmix.ir.interp import Interpreter, Run
from cdrmix.ir.nodes import DType, Model
from cdrmix.passes.precision import decide_precision

Array = NDArray[Any]
TOLERANCE = 1e-5
LENGTHS = (1, 2, 63, 64, 65, 200)


def rms(x: Array, y: Array) -> float:
    """The relative RMS error of x against y; absolute where y is all zero."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    assert x.shape == y.shape, (x.shape, y.shape)
    scale = float(np.sqrt(np.mean(y**2))) if y.size else 0.0
    error = float(np.sqrt(np.mean((x - y) ** 2))) if y.size else 0.0
    return error / scale if scale > 0 else error


def module_of(model: Model, work: DType = "f32") -> nn.Module:
    """The generated module."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.py"
        source = backend.module_text(lower(model, work=work).program)
        path.write_text(source if isinstance(source, str) else source.decode(), encoding="utf-8")
        module: nn.Module = load_module(path).Model(seed=0)
        return module


def resets_of(length: int) -> Array:
    """Documents of several lengths, one of a single token, one that starts at the first token."""
    found = np.zeros(length, bool)
    for t in (0, 1, 2, 7, 31, 64, 65, 130):
        if t < length and length > 1:
            found[t] = True
    return found


@dataclass
class Pair:
    """One model with one set of weights, twice; with a narrow `work`, both of them rounded."""

    model: Model
    seed: int = 0
    work: DType = "f32"

    @cached_property
    def weights(self) -> dict[str, Array]:
        return random_weights(self.model, self.seed)

    @cached_property
    def interpreter(self) -> Interpreter:
        return Interpreter(decide_precision(self.model, self.work), self.weights, rounding=True)

    @cached_property
    def module(self) -> nn.Module:
        module = module_of(self.model, self.work)
        module.load_state_dict({path: torch.from_numpy(np.array(w, np.float32)) for path, w in self.weights.items()})
        return module.eval()

    def inputs(self, length: int) -> Any:
        """Tokens, or for a bare op vectors (a tuple of them when it takes several)."""
        rng = np.random.default_rng(length + 1000 * self.seed)
        if self.model.vocab:
            return rng.integers(0, self.model.vocab, length)
        cell = self.model.cells[self.model.lines[0].chain[0].cell]
        drawn = [rng.normal(size=(length, *(a.size for a in i.axes))).astype(np.float32) for i in cell.inputs]
        return drawn[0] if len(drawn) == 1 else tuple(drawn)

    def fed(self, inputs: Any) -> Any:
        """The inputs as torch takes them, with a batch of one."""
        if isinstance(inputs, tuple):
            return tuple(torch.from_numpy(x)[None] for x in inputs)
        return torch.from_numpy(np.asarray(inputs))[None]

    def interpreted(self, inputs: Any, resets: Array | None = None, state: Mapping[str, Array] | None = None) -> Run:
        rows: Sequence[Any] = list(zip(*inputs, strict=True)) if isinstance(inputs, tuple) else inputs
        return self.interpreter.run(rows, state, resets)


def compare_state(got: Mapping[str, Tensor], want: Mapping[str, Array], tolerance: float = TOLERANCE) -> None:
    """Every slot of the state agrees."""
    assert set(got) == set(want)
    for path, x in want.items():
        error = rms(got[path][0].detach().double().numpy(), x)
        assert error <= tolerance, f"{path}: {error:.2e}"


def check_sequence(pair: Pair, length: int, resets: bool, tolerance: float = TOLERANCE) -> None:
    """`forward` equals the interpreter: outputs and final state."""
    inputs = pair.inputs(length)
    reset = resets_of(length) if resets else None
    want = pair.interpreted(inputs, reset)
    with torch.no_grad():
        got, state = pair.module(pair.fed(inputs), None, None if reset is None else torch.from_numpy(reset)[None])
    error = rms(got[0].double().numpy(), want.logits)
    assert error <= tolerance, f"outputs at T = {length}: {error:.2e}"
    compare_state(state, want.state, tolerance)


def check_steps(pair: Pair, length: int, tolerance: float = TOLERANCE) -> None:
    """`step` after `step` equals the interpreter."""
    inputs = pair.inputs(length)
    want = pair.interpreted(inputs)
    state, found = pair.module.init_state(1), []  # type: ignore[operator]
    fed = pair.fed(inputs)
    with torch.no_grad():
        for t in range(length):
            one = tuple(x[:, t] for x in fed) if isinstance(fed, tuple) else fed[:, t]
            y, state = pair.module.step(one, state)  # type: ignore[operator]
            found.append(y[0].double().numpy())
    error = rms(np.stack(found), want.logits)
    assert error <= tolerance, f"steps: {error:.2e}"
    compare_state(state, want.state, tolerance)


def check_split(pair: Pair, length: int, cut: int, tolerance: float = TOLERANCE) -> None:
    """Two calls, the second from the first's state, equal one; documents start in both parts."""
    inputs, reset = pair.fed(pair.inputs(length)), torch.from_numpy(resets_of(length))[None]

    def part(a: int, z: int) -> Any:
        return tuple(x[:, a:z] for x in inputs) if isinstance(inputs, tuple) else inputs[:, a:z]

    with torch.no_grad():
        for marks in (None, reset):
            whole, end = pair.module(part(0, length), None, marks)
            one, middle = pair.module(part(0, cut), None, None if marks is None else marks[:, :cut])
            two, last = pair.module(part(cut, length), middle, None if marks is None else marks[:, cut:])
            assert rms(torch.cat([one, two], 1).numpy(), whole.numpy()) <= tolerance
            compare_state(last, {path: x[0].numpy() for path, x in end.items()}, tolerance)


def check_gradients(pair: Pair, length: int, resets: bool, tolerance: float = 1e-4) -> None:
    """`forward` in fp32 has the gradients of the token loop in float64: of parameters, inputs, the first state."""
    inputs = pair.fed(pair.inputs(length))
    reset = torch.from_numpy(resets_of(length)) if resets else torch.zeros(length, dtype=torch.bool)
    torch.manual_seed(0)
    with torch.no_grad():  # a state that has seen some tokens; a history's absent entries stay zero
        _, start = pair.module(pair.fed(pair.inputs(3)), None, None)
    start = {p: x if x.dtype == torch.int64 else x * (1 + 0.1 * torch.randn_like(x)) for p, x in start.items()}
    with torch.no_grad():
        weigh = torch.randn_like(pair.module(inputs, None, None)[0], dtype=torch.float64)

    def fast(module: nn.Module, x: Any, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        found: tuple[Tensor, dict[str, Tensor]] = module(x, state, reset[None])
        return found

    def slow(module: nn.Module, x: Any, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        ys = []
        for t in range(length):
            state = module.init_state(1) if reset[t] else state  # type: ignore[operator]
            one = tuple(v[:, t] for v in x) if isinstance(x, tuple) else x[:, t]
            y, state = module.step(one, state)  # type: ignore[operator]
            ys.append(y)
        return torch.stack(ys, 1), state

    got = _gradients(pair.module, fast, inputs, start, weigh.float())
    want = _gradients(copy.deepcopy(pair.module).double(), slow, inputs, start, weigh)
    assert set(got) == set(want)
    for path, x in start.items():  # what a history does not hold has no gradient to speak of
        if f"state {path}" in want:
            got[f"state {path}"] *= x != 0
            want[f"state {path}"] *= x != 0
    for name, g in want.items():
        error = rms(got[name].numpy(), g.numpy())
        assert error <= tolerance or float((got[name] - g).abs().max()) <= 1e-6, f"gradient of {name}: {error:.2e}"


def _gradients(
    module: nn.Module, run: Any, inputs: Any, state: Mapping[str, Tensor], weigh: Tensor
) -> dict[str, Tensor]:
    """Gradients of a weighted sum of the outputs and of the state after the last token."""
    module.zero_grad()
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    leaves = [x.to(weigh.dtype).clone().requires_grad_() if x.is_floating_point() else x for x in tensors]
    old = {p: x if x.dtype == torch.int64 else x.to(weigh.dtype).clone().requires_grad_() for p, x in state.items()}
    y, after = run(module, tuple(leaves) if isinstance(inputs, tuple) else leaves[0], old)
    loss = (y * weigh).sum()
    for _, x in sorted(after.items()):
        if x.is_floating_point() and x.numel():
            factor = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).reshape(x.shape)
            loss = loss + 0.1 * (x.clamp(-1e3, 1e3) * factor).sum()
    loss.backward()
    named = [(name, p) for name, p in module.named_parameters()]
    named += [(f"input {n}", x) for n, x in enumerate(leaves) if x.is_floating_point()]
    named += [(f"state {path}", x) for path, x in old.items() if x.is_floating_point()]
    return {name: (torch.zeros_like(p) if p.grad is None else p.grad).double() for name, p in named}
