"""The loss of a batch without the logits of all its tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cdrmix.runtime.torch.module import Streaming
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cdrmix.check import load_text
from cdrmix.compiler import lower
from cdrmix.train import loss
from cdrmix.train.batches import IGNORE
from cdrmix.train.build import build_module

TEXT = """
use "lib/norm.cdr" { layer_norm }
use "lib/embed.cdr" { embed, head }
use "lib/channel_mix.cdr" { relu2 }
model m {
  vocab = 97
  d_model = 8
  stack {
    emb: embed(vocab, d_model)
    ffn: residual layer_norm >> relu2(hidden=16)
    LAST
  }
}
op odd(x: [D], vocab: int) -> [vocab] {
  param W: [vocab, D] ~ normal(0.3)
  return W @ x + pos
}
"""
LASTS = {
    "head": ("out: layer_norm >> head(vocab)", ("out.layer_norm", "out")),
    "tied": ("head(vocab)\n    tie head.W = emb.E", ("head",)),
    "of its place": ("odd(vocab)", ()),
}


def module_of(last: str, folder: Path, work: Any = "f32") -> Streaming:
    module = build_module(lower(load_text(TEXT.replace("LAST", last)), work=work), folder, 0)
    with torch.no_grad():
        for p in module.parameters():
            p += 0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    return module


def batch() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    tokens, targets = (torch.randint(0, 97, (3, 11), generator=random) for _ in "ab")
    targets[0, :4] = IGNORE
    return tokens, targets


def whole(module: Streaming, tokens: Tensor, targets: Tensor, z: float) -> tuple[Tensor, Tensor]:
    """By all logits at once: the loss, and what the gradient is of."""
    logits, _ = module(tokens)
    logits = logits.float()
    nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")
    return nats, nats + z * (logits.logsumexp(-1).square() * (targets != IGNORE)).sum()


@pytest.mark.parametrize("at_once", [1, 97 * 4, 1 << 24])
@pytest.mark.parametrize("z", [0.0, 0.1])
@pytest.mark.parametrize("last", LASTS)
def test_it_is_the_loss_of_all_logits(
    last: str, z: float, at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "AT_ONCE", at_once)
    text, cells = LASTS[last]
    module, (tokens, targets) = module_of(text, tmp_path), batch()
    assert module.apart == bool(cells) and (not cells or module.last_line == cells)
    params = list(module.parameters())
    nats, both = whole(module, tokens, targets, z)
    want = torch.autograd.grad(both / 7, params)
    found = loss.summed_loss(module, module.hidden(tokens)[0], targets, z)
    torch.testing.assert_close(found, nats)
    assert loss.summed_nats(module, module.hidden(tokens)[0], targets) == pytest.approx(float(nats.detach()), rel=1e-6)
    for got, grad in zip(torch.autograd.grad(found / 7, params), want, strict=True):
        torch.testing.assert_close(got, grad, rtol=1e-4, atol=1e-6)


class Largest(TorchDispatchMode):
    """The most numbers that any operation made."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for x in found if isinstance(found, tuple | list) else [found]:
            if isinstance(x, Tensor):
                self.numbers = max(self.numbers, x.numel())
        return found


@pytest.mark.parametrize("work", ["f32", "bf16"])
def test_the_logits_of_all_tokens_are_never_made(work: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "AT_ONCE", 97 * 4)
    module, (tokens, targets) = module_of(LASTS["head"][0], tmp_path, work), batch()
    with Largest() as made:
        loss.summed_loss(module, module.hidden(tokens)[0], targets, 0.1).backward()
    assert made.numbers < 97 * tokens.numel() / 4
    with Largest() as made:
        loss.summed_nats(module, module.hidden(tokens)[0], targets)
    assert made.numbers < 97 * tokens.numel() / 4
    with Largest() as made:
        whole(module, tokens, targets, 0.1)[0].backward()
    assert made.numbers == 97 * tokens.numel()


def test_frozen_parameters_stay_without_a_gradient(tmp_path: Path) -> None:
    module, (tokens, targets) = module_of(LASTS["head"][0], tmp_path), batch()
    module.get_parameter("out.W").requires_grad_(False)
    loss.summed_loss(module, module.hidden(tokens)[0], targets).backward()
    assert module.get_parameter("out.W").grad is None and module.get_parameter("emb.E").grad is not None


def test_a_parameter_without_a_gradient_stays_without_one(tmp_path: Path) -> None:
    """One that is only compared with something, in the last line."""
    text = TEXT.replace("W @ x + pos", "W @ (x * (1 if x > u else 0.5))").replace(
        "param W:", "param u: [D] ~ 0\n  param W:"
    )
    module = build_module(lower(load_text(text.replace("LAST", "odd(vocab)"))), tmp_path, 0)
    tokens, targets = batch()
    assert module.apart
    loss.summed_loss(module, module.hidden(tokens)[0], targets).backward()
    assert module.get_parameter("odd.u").grad is None and module.get_parameter("odd.W").grad is not None
