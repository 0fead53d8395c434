"""The generated torch module through torch's compiler: one graph without a break, and what it gives without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from cdrmix.diagnose import UserError
from cdrmix.train.place import require_compiler
from tests.conformance.test_torch import pair
from tests.conformance.torch_specs import LIBRARY

LENGTH = 20
WHOLE = [*LIBRARY, "delta_product", "lstm", "m_lstm", "max_log", "momentum", "started", "titans", "two_sided"]
"""Not an expert with a state, which runs its own tokens however many chose it: that breaks the graph."""


@pytest.fixture(autouse=True)
def compiled_anew() -> Iterator[None]:
    """No graph of another test."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def run(name: str, forward: Callable[..., Any]) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and state of two documents in a row, and the gradients."""
    found = pair(name)
    x, reset = found.fed(found.inputs(LENGTH)), torch.zeros(1, LENGTH, dtype=torch.bool)
    reset[0, 7] = True
    y, state = forward(x, None, reset)
    given = [p for p in found.module.parameters() if p.requires_grad]
    grads = torch.autograd.grad(y.float().square().mean(), given, allow_unused=True) if y.requires_grad else []
    return [y.detach(), *(x.detach() for x in state.values())], [g for g in grads if g is not None]


def compare(name: str, compiled: Callable[..., Any], tolerance: float) -> None:
    module: Any = pair(name).module
    for one, two in zip(run(name, module), run(name, compiled), strict=True):
        for want, got in zip(one, two, strict=True):
            torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", WHOLE)
def test_every_op_is_one_graph(name: str) -> None:
    compare(name, torch.compile(pair(name).module, backend="aot_eager", fullgraph=True), 1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_inductors_code_computes_the_same() -> None:
    try:
        require_compiler("cpu")
    except UserError as e:
        pytest.skip(e.message)
    compare("rwkv7", torch.compile(pair("rwkv7").module, fullgraph=True), 1e-5)
