"""Functions with a gradient of their own: values and gradients as by torch's rules."""

from __future__ import annotations

import torch
from cdrmix.runtime.torch.activations import squared_relu


def test_the_square_of_relu_and_its_gradient() -> None:
    x = torch.randn(7, 33, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    with torch.no_grad():
        x[0, :3] = torch.tensor([0.0, -0.0, 1e-200])
    dy = torch.randn(7, 33, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    got, want = squared_relu(x), torch.relu(x) ** 2
    assert torch.equal(got, want)
    (one,), (two,) = (torch.autograd.grad(y, x, dy) for y in (got, want))
    torch.testing.assert_close(one, two, rtol=1e-15, atol=0)
    assert torch.autograd.gradcheck(squared_relu, (x + 0.1,))
