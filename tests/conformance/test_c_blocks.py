"""A prompt in blocks is the tokens one after the other, bit for bit, and both are the interpreter's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cdrmix.codegen.c.program import BLOCK

from cdrmix.check import load_text
from cdrmix.ir.initial import random_weights
from cdrmix.ir.interp import Interpreter

from .c_program import TOLERANCE, needs_compiler, rms, stream, worst

pytestmark = needs_compiler

OPS = {
    # a part reads the carry of the layer above, after a product and before this layer writes its own
    "a carry that a part reads": """
op reads(x: [D]) -> [D] {
  carry c: [D]
  return x * c
}
op mix(x: [D]) -> [D] {
  carry c: [D]
  param W: [D, D] ~ normal(0.3)
  param U: [D, D] ~ normal(0.3)
  part p: reads
  h = tanh(U @ x)
  y = p(U @ h)
  c' = W @ x
  return y
}
""",
    "a carry that is read and written": """
op mix(x: [D]) -> [D] {
  carry c: [D]
  param W: [D, D] ~ normal(0.3)
  c' = W @ (c + x)
  return W @ c
}
""",
    "a product within a recurrence": """
op mix(x: [D]) -> [D] {
  param W: [D, D] ~ normal(0.3)
  param U: [D, D] ~ normal(0.3)
  state h: [D]
  h' = tanh(W @ h + U @ x)
  return U @ h'
}
""",
    "states that need each other's products": """
op mix(x: [D]) -> [D] {
  param W: [D, D] ~ normal(0.3)
  param U: [D, D] ~ normal(0.3)
  param V: [D, D] ~ normal(0.3)
  state a: [D]
  state b: [D]
  a' = 0.5*a + U @ x
  g = sigmoid(W @ a')
  b' = g*b + tanh(V @ b) + x
  return tanh(W @ (b' - a))
}
""",
    "a window behind a product, and one within": """
op mix(x: [D]) -> [D] {
  dim D = H * N
  let H = 4
  param W: [D, D] ~ normal(0.3)
  param U: [D, D] ~ normal(0.3)
  q = W @ x
  history K: [H, N] last 5 = q as [H, N]
  s[h,t] = sum[n](K[t,h,n] * q[h,n])
  y[h,n] = sum[t](softmax[t](s[h,t]) * K[t,h,n])
  history Y: [D] last 3 = U @ (y as [D])
  z[i] = sum[t](Y[t,i])
  return x + z
}
""",
    "a matrix state whose heads share a loop with what is not theirs": """
op mix(x: [D]) -> [D] {
  dim D = H * N
  let H = 4
  param W: [D, D] ~ normal(0.3)
  state S: [H, N, N]
  k = W @ x
  S'[h,i,j] = 0.9*S[h,i,j] + k[h,i]*x[h,j]
  y[h,i] = sum[j](S'[h,i,j]*k[h,j])
  other[h < H,i < N] = y[H - 1 - h,i] + S[H - 1 - h,i,0]
  return (y as [D]) + (other as [D])
}
""",
    "a matrix state whose heads are by themselves": """
op mix(x: [D]) -> [D] {
  dim D = H * N
  let H = 4
  param W: [D, D] ~ normal(0.3)
  param scale: [H, N] ~ uniform(0.5, 1)
  state S: [H, N, N]
  state before: [D]
  k = 0.1*tanh(W @ x + 0.2*before)
  before' = x
  old[h,i] = sum[m](S[h,i,m]*k[h,m])
  S'[h,i,j] = 0.9*S[h,i,j] + (x[h,i] - old[h,i])*k[h,j]*scale[h,j]
  y[h,i] = sum[j](S'[h,i,j]*x[h,j])
  mu[h] = mean[i](y[h,i])
  out[h,i] = y[h,i] - mu[h]
  return out as [D]
}
""",
    "two matrix states with a product between them": """
op mix(x: [D]) -> [D] {
  dim D = H * N
  let H = 4
  param W: [D, D] ~ normal(0.3)
  param U: [D, D] ~ normal(0.3)
  state S: [H, N, N]
  state T: [H, N, N]
  k = tanh(W @ x)
  S'[h,i,j] = 0.9*S[h,i,j] + k[h,i]*x[h,j]
  y[h,i] = tanh(sum[j](S'[h,i,j]*k[h,j]))
  z = U @ (y as [D])
  T'[h,i,j] = 0.8*T[h,i,j] + z[h,i]*k[h,j]
  q[h,i] = tanh(sum[j](T'[h,i,j]*k[h,j]))
  return q as [D]
}
""",
    "experts with a state, and two parts of one op": """
op keeps(x: [D]) -> [D] {
  param W: [D, D] ~ normal(0.3)
  state s: [D]
  s' = 0.5*s + W @ x
  return s' + x
}
op mix(x: [D]) -> [D] {
  param Wg: [E, D] ~ normal(0.5)
  bank F: [e < E] of keeps
  part p: keeps
  part q: keeps
  let E = 3
  gate, pick = top[k < 2](softmax(Wg @ x))
  y[d] = sum[k](gate[k] * F[pick[k]](x)[d])
  return q(p(y) + x)
}
""",
    "experts that are chosen": """
op expert(x: [D]) -> [D] {
  param W: [D, D] ~ normal(0.3)
  return tanh(W @ x) * (1 + 0*pos)
}
op mix(x: [D]) -> [D] {
  param R: [n < 5, D] ~ normal(1)
  bank F: [n < 5] of expert
  s = R @ x
  value, pick = top[k < 2](s)
  return sum[k](value[k] * F[pick[k]](x))
}
""",
    "an instance for each head": """
op expert(x: [M]) -> [M] {
  param W: [M, M] ~ normal(0.3)
  return tanh(W @ x)
}
op mix(x: [D]) -> [D] {
  dim D = H * M
  let H = 2
  bank F: [h < H] of expert
  z = x as [H, M]
  y[h,m] = F[h](z[h])[m]
  return y as [D]
}
""",
}

AROUND = """
use "lib/embed.cdr" {{ embed, head }}
use "lib/norm.cdr" {{ layer_norm }}
{op}
model around {{
  vocab = 32
  d_model = 20
  stack {{
    emb: embed(vocab, d_model)
    {first}
    repeat layer < 2 {{
      mix: residual layer_norm >> mix
    }}
    head(vocab)
  }}
}}
"""
WRITES = """
op writes(x: [D]) -> [D] {
  carry c: [D]
  c' = 2*x
  return x
}
"""


@pytest.mark.parametrize("name", OPS)
def test_a_prompt_is_its_tokens(name: str, tmp_path: Path) -> None:
    carried = "carry" in OPS[name]
    model = load_text(AROUND.format(op=OPS[name] + WRITES * carried, first="first: writes" if carried else ""))
    weights, ids = random_weights(model, 1), np.random.default_rng(0).integers(0, 32, 2 * BLOCK + 12).tolist()
    wanted, program = Interpreter(model, weights).run(ids), stream(model, weights, tmp_path)
    stepped = np.stack([program.step(token) for token in ids])
    assert rms(stepped, wanted.logits) <= TOLERANCE
    after = program.state()
    assert worst(after, wanted.state) <= TOLERANCE
    for cut in (0, 1, BLOCK, BLOCK + 5):
        program.reset()
        if cut:
            assert program.prefill(ids[:cut]).tobytes() == stepped[cut - 1].tobytes()
        assert program.prefill(ids[cut:]).tobytes() == stepped[-1].tobytes()
        assert all(x.tobytes() == after[path].tobytes() for path, x in program.state().items())


def test_a_state_has_no_room_for_the_logits_of_a_block(tmp_path: Path) -> None:
    """Logits are made of a block's last token alone: a vocabulary of 5,000 is 60 kB of lines, not 1.4 MB."""
    op = OPS["a product within a recurrence"]
    text = AROUND.format(op=op, first="").replace("vocab = 32", "vocab = 5000")
    model = load_text(text)
    program = stream(model, random_weights(model, 1), tmp_path)
    assert program.size < 200_000
    stepped = [program.step(token) for token in range(BLOCK + 6)]
    program.reset()
    assert program.prefill(list(range(BLOCK + 6))).tobytes() == stepped[-1].tobytes()
