"""What leads nowhere is told, and what only another setting needs is no mistake."""

from __future__ import annotations

import pytest

from cdrmix.check import load_text
from cdrmix.compiler import lower
from cdrmix.diagnose import CompileError

SPEC = """use "lib/norm.cdr" {{ layer_norm, rms_norm }}
use "lib/embed.cdr" {{ embed, head }}
use "lib/moe.cdr" {{ moe }}
use "lib/channel_mix.cdr" {{ relu2 }}
{before}
op f(x: [D], deep: bool = false, rate: float = 0.5) -> [D] {{
{body}
}}
model m {{
  vocab = 16
  d_model = 8
  layers = 2
  stack {{
    emb: embed(vocab, d_model)
    repeat layer < layers {{
      mix: residual layer_norm >> {op}
    }}
    head(vocab)
  }}
}}
"""


def spec(body: str, before: str = "", op: str = "f") -> str:
    return SPEC.format(body=body, before=before, op=op)


RIGHT = {
    "a branch that is not taken": "  a = rate*x\n  when deep {\n    y = a\n  } else {\n    y = x\n  }\n  return y",
    "an equation for a branch that is not taken": "  param w: [D] ~ 1\n  y = w*x\n  g = 2*x\n  when deep {\n"
    "    z = g\n  } else {\n    z = x\n  }\n  return y + z*rate",
    "what a metric shows": "  a = rate*x\n  metric size = mean[tokens](sum[i](a[i]^2)) if deep else 0.0\n  return x",
    "a carry that no layer reads": "  carry v0: [D]\n  when deep {\n    v0' = rate*x\n  }\n  return x",
    "a part for its losses": "  part e: moe(relu2(hidden=8), experts=2)\n  y = e(x)\n  return x if deep else rate*x",
    "a state that is read before it is written": "  state s: [D]\n  s' = x*rate\n  return s if deep else x + s",
    "a tuple of which one is read": "  g, p = top[k < 2](x*rate)\n  return x*sum[k](g[k]) if deep else x",
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_something_needs_is_right(name: str) -> None:
    load_text(spec(RIGHT[name]))


WRONG = {
    "an equation": ("  g = rate*x\n  return x if deep else 2*x", ["g"]),
    "a chain": ("  a = rate*x\n  b = a*x\n  return x if deep else 2*x", ["b"]),
    "a ring through a state": ("  state s: [D]\n  a = 2*s\n  s' = a + rate*x\n  return x if deep else 2*x", ["s"]),
    "a function's equation": ("  return g(x)*rate*(2 if deep else 1)", ["unread"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_leads_nowhere_is_told(name: str) -> None:
    body, names = WRONG[name]
    with pytest.raises(CompileError) as refused:
        load_text(spec(body, "op g(x: [D]) -> [D] {\n  unread = 3*x\n  return 2*x\n}\n"))
    told = refused.value.diagnostics
    assert [d.code for d in told] == ["E0507"] * len(names)
    assert [d.message.split("`")[1] for d in told] == names


def test_dead_params_are_named() -> None:
    body = "  param W: [D, D] ~ 1\n  param b: [D] ~ 0\n  gate = sigmoid(W @ x + b)\n  return x*rate if deep else x"
    with pytest.raises(CompileError) as refused:
        load_text(spec(body))
    assert [d.message for d in refused.value.diagnostics] == [
        "`gate` is computed and never used, so `W`, `b` are dead"
    ]  # fmt: skip


def test_an_argument_and_an_import_that_nothing_names_are_noted() -> None:
    notes = lower(load_text(spec("  return x if deep else 2*x", op="moe(relu2(hidden=8), experts=2) >> f"))).notes
    assert [note.partition(": ")[2] for note in notes] == [
        "nothing in this file names `rms_norm`",
        "argument `rate` of op `f` is never read",
    ]
