"""Single ops of the library against plain torch in float64: attention, mixtures of experts, recurrences."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cdrmix.check import load_op, load_text
from cdrmix.ir.initial import random_weights
from cdrmix.ir.interp import Interpreter, Run
from cdrmix.ir.nodes import Model
from cdrmix.ir.verify import verify

LIB = Path(__file__).parents[2] / "spec" / "lib"
D, T = 48, 19


def op(name: str, file: str = "", **args: str) -> Model:
    """An op of the library on a [D]."""
    model = load_op(LIB / f"{file or name}.cdr", name, {"D": D}, args)
    verify(model)
    return model


def run(model: Model, seed: int = 3) -> tuple[dict[str, Tensor], Tensor, Tensor, Run]:
    """Weights by name, inputs, outputs, and the interpreter's run."""
    path = model.lines[-1].path
    weights = random_weights(model, seed)
    x = np.random.default_rng(seed).normal(size=(T, D))
    found = Interpreter(model, weights).run(x)
    named = {k.removeprefix(f"{path}."): torch.tensor(v, dtype=torch.float64) for k, v in weights.items()}
    return named, torch.tensor(x), torch.tensor(found.logits), found


def close(got: Tensor, want: Tensor) -> None:
    """Equal to rounding in float64."""
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-11)


def turn(q: Tensor, base: float = 10_000.0) -> Tensor:
    """Rotary position of [T, heads, N], component m with component m + N/2."""
    half = q.shape[-1] // 2
    angle = torch.arange(len(q), dtype=torch.float64)[:, None, None] * base ** -(torch.arange(half).double() / half)
    a, b = q[..., :half], q[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def window_bias(window: int, slope: Tensor | None = None) -> Tensor:
    """0 (less slope times age) inside the window, -inf outside it."""
    age = torch.arange(T)[:, None] - torch.arange(T)
    bias = torch.zeros(T, T, dtype=torch.float64) if slope is None else -slope[:, None, None] * age
    return bias.masked_fill((age < 0) | (age >= window), -torch.inf)


@pytest.mark.parametrize(("heads", "kv_heads", "window"), [(6, 2, 5), (6, 6, 5), (6, 1, 64), (3, 1, 1)])
def test_attention_is_sdpa_with_a_mask(heads: int, kv_heads: int, window: int) -> None:
    model = op("attention", heads=str(heads), kv_heads=str(kv_heads), window=str(window))
    p, x, y, _ = run(model)
    q = turn((x @ p["Wq"].T).view(T, heads, -1)).transpose(0, 1)
    k = turn((x @ p["Wk"].T).view(T, kv_heads, -1)).transpose(0, 1).repeat_interleave(heads // kv_heads, 0)
    v = (x @ p["Wv"].T).view(T, kv_heads, -1).transpose(0, 1).repeat_interleave(heads // kv_heads, 0)
    o = F.scaled_dot_product_attention(q, k, v, attn_mask=window_bias(window))
    close(y, o.transpose(0, 1).reshape(T, D) @ p["Wo"].T)


def test_attention_alibi_is_sdpa_with_a_bias() -> None:
    model = op("attention_alibi", "attention", heads="6", kv_heads="2", window="7")
    p, x, y, _ = run(model)
    q = (x @ p["Wq"].T).view(T, 6, -1).transpose(0, 1)
    k = (x @ p["Wk"].T).view(T, 2, -1).transpose(0, 1).repeat_interleave(3, 0)
    v = (x @ p["Wv"].T).view(T, 2, -1).transpose(0, 1).repeat_interleave(3, 0)
    slope = 2.0 ** (-8 * (torch.arange(6, dtype=torch.float64) + 1) / 6)
    o = F.scaled_dot_product_attention(q, k, v, attn_mask=window_bias(7, slope))
    close(y, o.transpose(0, 1).reshape(T, D) @ p["Wo"].T)


# --- recurrences ---------------------------------------------------------------------------------------------------
def convolve(x: Tensor, filters: Tensor, bias: Tensor) -> Tensor:
    """The causal depthwise convolution of [T, C], `filters[0]` on this token, then SiLU."""
    padded = F.pad(x.T[None], (len(filters) - 1, 0))
    return F.silu(F.conv1d(padded, filters.flip(0).T[:, None], bias, groups=x.shape[1])[0].T)


def test_gated_delta_is_its_recurrence() -> None:
    model = op("gated_delta", N="16", V="8", width="4")
    p, x, y, found = run(model)
    conv = {c: convolve(x @ p[f"W{c}"].T, p[f"conv_{c}.F"], p[f"conv_{c}.b"]) for c in "qkv"}
    q, k = (F.normalize(conv[c].view(T, 3, 16), dim=-1) for c in "qk")
    v = conv["v"].view(T, 3, 8)
    beta = torch.sigmoid(x @ p["Wb"].T)
    keep = torch.exp(-p["A_log"].exp() * F.softplus(x @ p["Wa"].T + p["dt0"]))
    s, out = torch.zeros(3, 8, 16, dtype=torch.float64), []
    for t in range(T):
        s = keep[t][:, None, None] * s
        seen = torch.einsum("hij,hj->hi", s, k[t])
        s = s + torch.einsum("hi,hj->hij", beta[t][:, None] * (v[t] - seen), k[t])
        out.append(torch.einsum("hij,hj->hi", s, q[t]) / 4)
    o = torch.stack(out)
    o = o * torch.rsqrt(o.square().mean(-1, keepdim=True) + 1e-5) * p["gn_w"]
    close(y, (o.reshape(T, 24) * F.silu(x @ p["Wz"].T)) @ p["Wo"].T)
    close(torch.tensor(found.state[f"{model.lines[-1].path}.S"]), s)


def test_mamba2_is_its_recurrence() -> None:
    model = op("mamba2", N="8", P="16", width="4")
    p, x, y, found = run(model)
    conv = {c: convolve(x @ p[f"W{c}"].T, p[f"conv_{c}.F"], p[f"conv_{c}.b"]) for c in "xBC"}
    v = conv["x"].view(T, 6, 16)
    dt = F.softplus(x @ p["Wdt"].T + p["dt0"])
    s, out = torch.zeros(6, 16, 8, dtype=torch.float64), []
    for t in range(T):
        decay = torch.exp(-dt[t] * p["A_log"].exp())[:, None, None]
        s = decay * s + torch.einsum("h,hp,n->hpn", dt[t], v[t], conv["B"][t])
        out.append(s @ conv["C"][t] + p["skip"][:, None] * v[t])
    o = torch.stack(out).reshape(T, 96) * F.silu(x @ p["Wz"].T)
    close(y, F.rms_norm(o, (96,), p["norm.w"], 1e-5) @ p["Wo"].T)
    close(torch.tensor(found.state[f"{model.lines[-1].path}.S"]), s)


def test_retnet_is_its_parallel_form() -> None:
    model = op("retnet", N="16")
    p, x, y, _ = run(model)

    def turn_pairs(q: Tensor) -> Tensor:
        angle = torch.arange(T, dtype=torch.float64)[:, None] * 10_000.0 ** -(torch.arange(8).double() / 8)
        turned = torch.view_as_complex(q.view(T, 3, 8, 2)) * torch.polar(torch.ones_like(angle), angle)[:, None]
        return torch.view_as_real(turned).flatten(-2)

    q, k = (turn_pairs((x @ p[w].T).view(T, 3, 16)) for w in ("Wq", "Wk"))
    v = (x @ p["Wv"].T).view(T, 3, 16)
    age = (torch.arange(T)[:, None] - torch.arange(T)).double()
    decay = (1 - 2.0 ** (-5 - torch.arange(3, dtype=torch.float64)))[:, None, None] ** age.clamp(min=0) * (age >= 0)
    o = torch.einsum("thj,shj,hts,shi->thi", q, k, decay, v) / 4
    o = F.group_norm(o.reshape(T, D), 3, eps=1e-5)
    close(y, (F.silu(x @ p["Wg"].T) * o) @ p["Wo"].T)


# --- mixtures of experts ---------------------------------------------------------------------------------------------
def relu2(x: Tensor, p: Mapping[str, Tensor], bank: str, e: int) -> Tensor:
    """Expert `e` on one token."""
    return p[f"{bank}.Wv"][e] @ torch.relu(p[f"{bank}.Wk"][e] @ x).square()


MIXTURE = """
use "lib/{op}.cdr" {{ {op} }}
use "lib/channel_mix.cdr" {{ {expert} }}
use "lib/embed.cdr" {{ embed, head }}
model m {{
  vocab = 40
  d_model = 48
  layers = 1
  context = 8
  stack {{
    emb: embed(vocab, d_model)
    repeat layer < layers {{
      moe: {op}({expert}(hidden=32), experts={experts}, top_k=2{more})
    }}
    head(vocab)
  }}
}}
"""


def mixture(
    op: str, experts: int, expert: str = "relu2", more: str = ""
) -> tuple[dict[str, Tensor], Tensor, Interpreter]:
    """A mixture between an embedding and a head: its weights and the embeddings in torch."""
    model = load_text(MIXTURE.format(op=op, expert=expert, experts=experts, more=more))
    verify(model)
    weights = random_weights(model, 5)
    weights["emb.E"] = np.random.default_rng(0).normal(size=weights["emb.E"].shape).astype(np.float32)
    weights["layer.0.moe.Wg"] = 0.3 * np.random.default_rng(1).normal(size=weights["layer.0.moe.Wg"].shape).astype(
        np.float32
    )
    named = {k.removeprefix("layer.0.moe."): torch.tensor(v, dtype=torch.float64) for k, v in weights.items()}
    return named, named["emb.E"], Interpreter(model, weights)


def test_moe_is_a_loop_over_its_experts() -> None:
    p, table, interpreter = mixture("moe", 6, more=", shared=2")
    ids = np.random.default_rng(2).integers(0, 40, T)
    found = interpreter.run(ids)
    x = table[ids]
    logits = x @ p["Wg"].T
    probs = logits.softmax(-1)
    gate, pick = probs.topk(2, -1)
    gate = gate / gate.sum(-1, keepdim=True)
    rows = []
    for t in range(T):
        y = sum(gate[t, k] * relu2(x[t], p, "F", int(pick[t, k])) for k in range(2))
        rows.append(y + sum(relu2(x[t], p, "A", s) for s in range(2)))
    close(torch.tensor(found.logits), torch.stack(rows) @ p["head.W"].T)

    chosen = F.one_hot(pick, 6).sum(1).double().mean(0)
    halves = [interpreter.run(ids[:7], collect=True), interpreter.run(ids[7:], collect=True)]
    values = interpreter.training_values(halves)
    close(torch.tensor(values.aux["layer.0.moe.balance_loss"]), 0.01 * 6 * (chosen / 2 * probs.mean(0)).sum())
    close(torch.tensor(values.aux["layer.0.moe.z_loss"]), 1e-3 * logits.logsumexp(-1).square().mean())
    close(torch.tensor(values.metrics["layer.0.moe.load"]), chosen / 2)


def test_moe_sigmoid_chooses_by_its_bias_and_moves_it() -> None:
    p, table, interpreter = mixture("moe_sigmoid", 6, more=", rate=0.05, scale=2.5")
    bias = p["bias"]
    for step in range(3):
        ids = np.random.default_rng(step).integers(0, 40, T)
        interpreter.weights["layer.0.moe.bias"][:] = bias.numpy()
        found = interpreter.run(ids, collect=True)
        x = table[ids]
        probs = torch.sigmoid(x @ p["Wg"].T)
        pick = (probs + bias).topk(2, -1).indices
        gate = probs.gather(-1, pick)
        gate = gate / gate.sum(-1, keepdim=True)
        rows = [2.5 * sum(gate[t, k] * relu2(x[t], p, "F", int(pick[t, k])) for k in range(2)) for t in range(T)]
        close(torch.tensor(found.logits), torch.stack(rows) @ p["head.W"].T)
        load = F.one_hot(pick, 6).sum(1).double().mean(0)
        bias = bias + 0.05 * torch.sign(2 / 6 - load)
        values = interpreter.training_values([found])
        close(torch.tensor(values.after["layer.0.moe.bias"]), bias)
        assert not values.aux


def test_an_expert_with_state_advances_on_its_own_tokens() -> None:
    p, table, interpreter = mixture("moe", 4, "channel_mix")
    ids = np.random.default_rng(2).integers(0, 40, T)
    found = interpreter.run(ids)
    last = torch.zeros(4, D, dtype=torch.float64)
    rows = []
    for x in table[ids]:
        probs = (p["Wg"] @ x).softmax(-1)
        gate, pick = probs.topk(2)
        y = torch.zeros(D, dtype=torch.float64)
        for g, e in zip(gate / gate.sum(), pick.tolist(), strict=True):
            shifted = x + (last[e] - x) * p["F.shift.mk"][e]
            y += g * relu2(shifted, p, "F.ffn", e)
            last[e] = x
        rows.append(y)
    close(torch.tensor(found.logits), torch.stack(rows) @ p["head.W"].T)
    close(torch.tensor(found.state["layer.0.moe.F.shift.x_prev"]), last)
