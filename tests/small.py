"""Small specs and texts that several tests share."""

from __future__ import annotations

from pathlib import Path

SPEC = """
use "lib/norm.cdr" { layer_norm }
use "lib/embed.cdr" { embed, head }
use "lib/rwkv7.cdr" { rwkv7 }
use "lib/channel_mix.cdr" { channel_mix, token_shift, relu2 }
use "lib/moe.cdr" { moe }

model small {
  vocab = 256
  d_model = 32
  layers = 2
  context = 32
  stack {
    emb: embed(vocab, d_model)
    ln0: layer_norm
    repeat layer < layers {
      att: residual layer_norm >> rwkv7(N=16, dw=8, da=8, dv=8, dg=8)
      if layer % 2 == 1 {
        ffn: residual layer_norm >> token_shift >> moe(relu2(hidden=32), experts=4, top_k=2)
      } else {
        ffn: residual layer_norm >> channel_mix(hidden=64)
      }
    }
    ln_out: layer_norm
    head(vocab)
  }
}
"""

ADDS = """
use "lib/embed.cdr" { embed, head }
op adds(x: [D]) -> [D] {
  param keep: [D] ~ uniform(0.1, 0.9)
  state S: [D] = 0
  S' = keep * S + x
  return S'
}
model m {
  vocab = 256
  d_model = 4
  stack {
    emb: embed(vocab, d_model)
    mix: adds
    head(vocab)
  }
}
"""
"""One op with a parameter and a state: trains and compiles in moments."""

TEXT = "".join(f"the number {n} times {n} is {n * n}, and that is that.\n" for n in range(400))


def write_spec(folder: Path, text: str = SPEC, name: str = "small.cdr") -> Path:
    """The spec as a file."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path
