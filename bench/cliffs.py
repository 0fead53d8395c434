"""Specs that say one thing in two ways, and how much slower one of them trains.

    python bench/cliffs.py [--tokens 512] [--rounds 5]

Forward and backward of both, in turn, on one thread: CPU time of the first over that of the second, the median of the
rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from cdrmix.check import load_text
from cdrmix.compiler import lower
from cdrmix.train.build import build_module

MODEL = """
use "lib/embed.cdr" {{ embed, head }}
use "lib/norm.cdr" {{ rms_norm }}
op mix(x: [D], H: int = 4, P: int = 16, A: int = 32, W: int = {window}) -> [D] {{
  dim D = H * P
{body}
  return y as [D]
}}
model m {{
  vocab = 64
  d_model = 64
  stack {{
    emb: embed(vocab, d_model)
    repeat layer < 2 {{ m: residual rms_norm >> mix }}
    head(vocab)
  }}
}}
"""
STATE = """
  param Wb: [A*2, D] ~ orthogonal()
  param Wc: [A*2, D] ~ orthogonal()
  param Wd: [H, D] ~ orthogonal()
  d = sigmoid(Wd @ x + 3)
"""
FOUR_AXES = (
    STATE
    + """
  b = (Wb @ x) as [A, 2]
  c = (Wc @ x) as [A, 2]
  state S: [H, P, A, 2]
  S'[h,p,a,i] = d[h]*S[h,p,a,i] + x[h,p]*b[a,i]
  y[h,p] = sum[a](sum[i](S'[h,p,a,i]*c[a,i]))
"""
)
THREE_AXES = (
    STATE
    + """
  b = Wb @ x
  c = Wc @ x
  state S: [H, P, A*2]
  S'[h,p,a] = d[h]*S[h,p,a] + x[h,p]*b[a]
  y[h,p] = sum[a](S'[h,p,a]*c[a])
"""
)
KEYS = """
  param Wq: [D, D] ~ orthogonal()
  param Wk: [D, D] ~ orthogonal()
  param Wr: [P, D] ~ orthogonal()
  q = (Wq @ x) as [H, P]
  history K: [H, P] last W = (Wk @ x) as [H, P]
  history V: [H, P] last W = x as [H, P]
"""
TWO_KEYS = (
    KEYS
    + """
  history R: [P] last W = Wr @ x
  s[h,t] = sum[p](q[h,p]*K[t,h,p]) + sum[p](q[h,p]*R[t,p])
  y[h,p] = sum[t](softmax[t](s[h,t])*V[t,h,p])
"""
)
ONE_KEY = (
    KEYS
    + """
  r = Wr @ x
  s[h,t] = sum[p](q[h,p]*K[t,h,p])
  y[h,p] = sum[t](softmax[t](s[h,t])*V[t,h,p]) + r[p]
"""
)
CAPPED = (
    KEYS
    + """
  r = Wr @ x
  s[h,t] = tanh(sum[p](q[h,p]*K[t,h,p]))
  y[h,p] = sum[t](softmax[t](s[h,t])*V[t,h,p]) + r[p]
"""
)
PAIRS = {
    "a state [H, P, A, 2] over one of [H, P, 2*A]": ((FOUR_AXES, 1), (THREE_AXES, 1)),
    "a score of two keys over a score of one": ((TWO_KEYS, 256), (ONE_KEY, 256)),
    "a capped score, a window of 4096 over one as long as the sequence": ((CAPPED, 4096), (CAPPED, 0)),
}


def main() -> None:
    """Print a line a pair."""
    options = argparse.ArgumentParser()
    options.add_argument("--tokens", type=int, default=512)
    options.add_argument("--rounds", type=int, default=5)
    asked = options.parse_args()
    torch.set_num_threads(1)
    x = torch.randint(0, 64, (4, asked.tokens))
    for name, pair in PAIRS.items():
        with tempfile.TemporaryDirectory() as scratch:
            modules = [
                build_module(
                    lower(load_text(MODEL.format(body=body, window=window or asked.tokens))), Path(scratch, str(n)), 0
                )
                for n, (body, window) in enumerate(pair)
            ]
        ratios = []
        for _ in range(asked.rounds):
            seconds = []
            for module in modules:
                began = time.process_time()
                module(x)[0].sum().backward()
                seconds.append(time.process_time() - began)
            ratios.append(seconds[0] / seconds[1])
        print(f"{statistics.median(ratios):6.2f}  {name}")


if __name__ == "__main__":
    main()
