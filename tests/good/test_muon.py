"""Muon: torch's own for a matrix, the same for each of a bank, AdamW for the rest."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from cdrmix.check import load, load_text
from cdrmix.compiler import lower
from cdrmix.inspect import by_optimiser, describe
from cdrmix.ir.matrices import is_matrix
from cdrmix.train.build import build_module
from cdrmix.train.config import OptimConfig
from cdrmix.train.muon import MOMENTUM, Muon, orthogonal
from cdrmix.train.optimiser import make_optimiser
from tests.small import write_spec


def parameter(*shape: int, seed: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


def group(params: list[nn.Parameter], muon: bool) -> dict[str, object]:
    return {"params": params, "lr": 0.02, "weight_decay": 0.1, "matrices": muon}


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)])
def test_a_matrix_moves_as_by_torchs_own(shape: tuple[int, int]) -> None:
    ours, theirs = parameter(*shape, seed=0), parameter(*shape, seed=0)
    start = ours.detach().clone()
    own = Muon([group([ours], True)], 0.95)
    other = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, momentum=0.95)
    for step in range(5):
        for p, optimiser in ((ours, own), (theirs, other)):
            p.grad = parameter(*shape, seed=step + 1).detach()
            optimiser.step()
    one, two = ours.detach() - start, theirs.detach() - start
    torch.testing.assert_close(one, two, rtol=0.05, atol=0.05 * float(one.abs().max()))  # theirs is in bf16


def test_matrices_of_a_bank_and_of_other_layers_move_each_by_itself() -> None:
    bank, other, alone = parameter(3, 8, 12, seed=0), parameter(8, 12, seed=9), parameter(8, 12, seed=0)
    alone.data.copy_(bank[1])
    together, single = Muon([group([bank, other], True)], 0.9), Muon([group([alone], True)], 0.9)
    for step in range(3):
        bank.grad, other.grad = parameter(3, 8, 12, seed=step).detach(), parameter(8, 12, seed=step + 50).detach()
        alone.grad = bank.grad[1].clone()
        together.step()
        single.step()
        torch.testing.assert_close(bank[1], alone)


def test_the_rest_moves_by_adamw_and_gradients_stay() -> None:
    matrix, vector, twin = parameter(4, 8, seed=0), parameter(8, seed=1), parameter(8, seed=1)
    both = Muon([group([matrix], True), group([vector], False)], 0.95, betas=(0.9, 0.99))
    plain = torch.optim.AdamW([twin], lr=0.02, weight_decay=0.1, betas=(0.9, 0.99))
    for step in range(3):
        matrix.grad = parameter(4, 8, seed=step).detach()
        vector.grad, twin.grad = parameter(8, seed=step).detach(), parameter(8, seed=step).detach()
        both.step()
        plain.step()
    torch.testing.assert_close(vector, twin, rtol=0, atol=0)
    assert matrix.grad is not None and both.state[matrix].keys() == {MOMENTUM}


def test_singular_values_come_near_one() -> None:
    x = torch.randn(5, 16, 40, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(x))
    assert float(values.min()) > 0.6 and float(values.max()) < 1.3


def test_the_matrices_are_those_between_the_first_and_the_last_line(tmp_path: Path) -> None:
    module = build_module(lower(load(write_spec(tmp_path))), tmp_path, 0)
    optimiser = make_optimiser(module, OptimConfig(kind="muon", lr=1e-3, muon_lr=0.05))
    name_of = {p: name for name, p in module.named_parameters()}
    groups = [(g["matrices"], {name_of[p] for p in g["params"]}) for g in optimiser.param_groups]
    moved, rest = (set[str]().union(*(names for kind, names in groups if kind is muon)) for muon in (True, False))
    assert {"layer.0.att.Wr", "layer.0.att.w1", "layer.1.ffn.F.Wk", "layer.1.ffn.Wg"} <= moved
    assert {"emb.E", "head.W", "ln0.w", "layer.0.att.w0", "layer.0.att.r_k"} <= rest
    assert moved | rest == set(name_of.values()) and not moved & rest
    assert {g["peak"] for g in optimiser.param_groups if g["matrices"]} == {0.05}


KINDS = """
use "lib/embed.cdr" { embed, head }
model m {
  vocab = 16
  d_model = 8
  stack {
    emb: embed(vocab, d_model)
    kinds(N=3)
    head(vocab)
  }
}
op kinds(x: [D], N: int) -> [D] {
  dim D = A * 4
  param W: [D, D] ~ normal(0.1)
  param scales: [N, D] ~ 1
  param rows: [2, D] ~ 1
  param heads: [N, D] ~ 1
  param halved: [D, D] ~ 1
  param quarter: [D, D] ~ 1
  param form: [D, D] ~ 1
  param cut: [D, D] ~ 1
  param within: [D, D] ~ 1
  param pairs: [D, D] ~ 1
  param gated: [D, D] ~ 1
  g[d] = sum[k](scales[k, d])
  s = sum[d](rows[0, d] * x[d])
  h[k] = sum[d](heads[k, d] * x[d] * x[d])
  small = quarter / 4
  b = sum[i,j](x[i] * form[i,j] * g[j])
  c[a,i] = sum[a2,j](cut[a,i,a2,j] * x[a2,j])
  own[a,i] = sum[j](within[a,i,a,j] * x[a,j])
  outer[i,j] = x[i] * g[j]
  all = sum[i,j](pairs[i,j] * outer[i,j])
  y[d] = sum[k](gated[d,k] * x[k] * g[d])
  return (W @ (x * g)) * s + sum[k](h[k]) + (halved / 2) @ x + small @ x + b + (c as [D]) + (own as [D]) + all + y
}
"""


def test_what_multiplies_a_vector_is_a_matrix_and_no_table_or_sum_is() -> None:
    cell = next(c for c in load_text(KINDS).cells.values() if c.op == "kinds")
    assert [p.name for p in cell.params if is_matrix(p, cell)] == [
        "W", "heads", "halved", "quarter", "form", "cut", "gated",
    ]  # fmt: skip


@pytest.mark.parametrize("spec", ["tiny", "hybrid", "rwkv4", "rwkv6"])
def test_inspect_says_what_the_optimiser_takes(spec: str, tmp_path: Path) -> None:
    model = load(
        Path(spec).with_suffix(".cdr"), {"layers": "2", "vocab": "64"} if spec != "hybrid" else {"vocab": "64"}
    )
    module = build_module(lower(model), tmp_path, None)
    names = {p: name for name, p in module.state_dict(keep_vars=True).items()}
    for kind, held in by_optimiser(model).items():
        groups = [g["params"] for g in module.param_groups(1.0, 0.0) if g["matrices"] == (kind == "muon")]
        assert {w.path for w in held} == {names[p] for params in groups for p in params}
        assert sum(p.numel() for params in groups for p in params) == sum(math.prod(w.shape) for w in held)
    said = describe(model)
    assert "moved by" in said and f"in {len(by_optimiser(model)['muon'])} tensors" in said
