"""An artefact of a model that has a bit of everything, its program built by its own Makefile for any machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cdrmix.artifact import write_artifact
from cdrmix.check import load_text
from cdrmix.compiler import lower, options_of
from cdrmix.ir.initial import random_weights
from cdrmix.weights import write_weights

SPEC = """
use "lib/norm.cdr" { layer_norm }
use "lib/embed.cdr" { embed, head }
use "lib/rwkv6.cdr" { rwkv6 }
use "lib/rwkv7.cdr" { rwkv7 }
use "lib/mamba2.cdr" { mamba2 }
use "lib/attention.cdr" { attention }
use "lib/channel_mix.cdr" { channel_mix, token_shift, relu2 }
use "lib/moe.cdr" { moe }

model several {
  vocab = 256
  d_model = 48
  layers = 4
  context = 32
  stack {
    emb: embed(vocab, d_model)
    ln0: layer_norm
    repeat layer < layers {
      if layer == 0 {
        att: residual layer_norm >> rwkv7(N=16, dw=8, da=8, dv=8, dg=8)
      } else {
        if layer == 1 {
          att: residual layer_norm >> rwkv6(N=16, rank=8, dw=8)
        } else {
          if layer == 2 {
            att: residual layer_norm >> attention(heads=6, kv_heads=2, window=9)
          } else {
            att: residual layer_norm >> mamba2(N=8, P=16, width=4)
          }
        }
      }
      if layer == 1 {
        ffn: residual layer_norm >> token_shift >> moe(relu2(hidden=40), experts=4, top_k=2)
      } else {
        ffn: residual layer_norm >> channel_mix(hidden=72)
      }
    }
    ln_out: layer_norm
    head(vocab)
  }
}
"""


def artefact(folder: Path, stored: str, triple: str | None = None) -> Path:
    """The artefact with random weights held so, and the tokenizer of bytes."""
    model = load_text(SPEC)
    weights, given = random_weights(model, 1), folder.with_suffix(".safetensors")
    write_weights(given, {n: x.shape for n, x in weights.items()}, weights.__getitem__)
    options = options_of("cpu", {"triple": triple}, stored)
    write_artifact(lower(model, weights=stored), "cpu", folder, given, "bytes", options=options)
    return folder


def make(folder: Path, *variables: str) -> None:
    """`make`, without a warning."""
    command = ["make", "-s", "-C", str(folder), *variables]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr[:4000]
