"""The ops of the library: the class of every state, and the sequence form against the interpreter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cdrmix.spec
import pytest

from cdrmix.check import load
from cdrmix.check.stack.single import load_op
from cdrmix.ir import walk
from cdrmix.ir.forms import Attend, Chunk
from cdrmix.passes.classify import classify
from cdrmix.passes.precision import decide_precision
from cdrmix.passes.sequence import sequence_form
from cdrmix.passes.simplify import simplify

from .test_sequence_form import agree

SPECS = Path(cdrmix.spec.__file__).parent
SMALL = {"N": "4", "dw": "3", "da": "3", "dv": "2", "dg": "3"}
SHIFT = "x_prev: delay"
DELTA = "S: delta/chunk decay=key key=j value=i rank=1"
HEADS = {"heads": "6", "kv_heads": "2", "window": "5"}
OPS = {
    "rwkv7": ("rwkv7", 12, SMALL, f"{SHIFT} | {DELTA}"),
    "rwkv7_plain_v": ("rwkv7", 12, SMALL, f"{SHIFT} | {DELTA}"),
    "rwkv7_diag": ("rwkv7", 12, SMALL, f"{SHIFT} | S: diagonal/chunk decay=key key=j value=i"),
    "rwkv7_gdn": ("rwkv7", 12, SMALL, f"{SHIFT} | S: delta/chunk decay=scalar key=j value=i rank=1"),
    "rwkv6": ("rwkv6", 12, {"N": "4", "rank": "2", "dw": "3"}, f"{SHIFT} | S: diagonal/chunk decay=key key=j value=i"),
    "channel_mix6": ("rwkv6", 6, {"hidden": "7"}, SHIFT),
    "rwkv4": (
        "rwkv4",
        6,
        {},
        f"{SHIFT} | p: max-plus | num: diagonal/scan decay=value | den: diagonal/scan decay=value",
    ),
    "channel_mix4": ("rwkv4", 6, {"hidden": "7"}, SHIFT),
    "mamba2": ("mamba2", 6, {"N": "5", "P": "4"}, "S: diagonal/chunk decay=scalar key=n value=p"),
    "gated_delta": ("gated_delta", 12, {"N": "4", "V": "5"}, "S: delta/chunk decay=scalar key=j value=i rank=1"),
    "retnet": ("retnet", 12, {"N": "4"}, "S: diagonal/chunk decay=scalar key=j value=i"),
    "attention": ("attention", 24, HEADS, "K: history | V: history"),
    "attention_alibi": ("attention", 24, HEADS, "K: history | V: history"),
    "token_shift": ("channel_mix", 6, {}, SHIFT),
    "channel_mix": ("channel_mix", 6, {"hidden": "7"}, ""),
}


def op(name):
    file, width, args, _ = OPS[name]
    return load_op(SPECS / "lib" / f"{file}.cdr", name, {"D": width}, args)


@pytest.mark.parametrize("name", OPS)
def test_classes(name):
    model = op(name)
    groups = classify(model.cells[model.lines[0].chain[0].cell])
    assert " | ".join(str(g).split(" [")[0] for g in groups) == OPS[name][3]


@pytest.mark.parametrize("name", OPS)
def test_the_form_is_the_text(name):
    model = op(name)
    assert max(agree(model, T) for T in (1, 2, 37)) < 1e-10
    assert agree(model, 23, work="bf16") < 1e-9
    assert sequence_form(model.cells[model.lines[0].chain[0].cell]).notes == ()


@pytest.mark.parametrize("name", ["attention", "attention_alibi"])
def test_attention_is_one_kernel(name):
    model = op(name)
    form = sequence_form(model.cells[model.lines[0].chain[0].cell])
    (attend,) = (s for s in form.body if isinstance(s, Attend))
    assert attend.scale == pytest.approx(0.5)
    assert (attend.bias is not None) == (name == "attention_alibi")


@pytest.mark.parametrize("spec", ["8b", "hybrid", "rwkv4", "rwkv6"])
def test_specs(spec):
    """After the earlier passes: every dtype is decided but literals', every index has its own name, no note is due."""
    model = load(SPECS / f"{spec}.cdr")
    model = decide_precision(replace(model, cells={k: simplify(c) for k, c in model.cells.items()}))
    chunks = 0
    for cell in model.cells.values():
        form = sequence_form(cell)
        assert form.notes == ()
        chunks += sum(isinstance(s, Chunk) for s in form.body)
        for n in (n for s in form.body for n in walk.roots(s)):
            assert not [m for m in walk.nodes(n) if m.dtype == "work" and walk.refs(m)]
            bound = [i.name for m in walk.nodes(n) for i in walk.bound(m)]
            assert len(set(bound)) == len(bound)
            assert not set(bound) & {i.name for i in n.free}
    assert chunks == {"8b": 2, "hybrid": 2, "rwkv4": 0, "rwkv6": 1}[spec]


def test_a_sum_that_several_terms_share_is_computed_once(tmp_path):
    path = tmp_path / "cell.cdr"
    path.write_text(
        """
op cell(x: [D], H: int = 2, N: int = 3) -> [H, N] {
  param Wf: [H, D] ~ 0
  param Wk: [H, N, D] ~ 0
  state S: [H, N, N]
  k[h,n] = sum[d](Wk[h,n,d]*x[d])
  S'[h,i,j] = sigmoid(sum[d](Wf[h,d]*x[d]))*(S[h,i,j] - sum[m](S[h,i,m]*k[h,m])*k[h,j] + k[h,i]*k[h,j])
  y[h,i] = sum[j](S'[h,i,j]*k[h,j])
  return y
}
""",
        encoding="utf-8",
    )
    model = load_op(path, "cell", {"D": 5})
    form = sequence_form(model.cells["cell"])
    reads = [m.arg.ref for s in form.body for n in walk.roots(s) for m in walk.reads(n)]
    assert sorted(ref.name for ref in reads if ref.kind == "param") == ["Wf", "Wk"]
    assert agree(model, 9) < 1e-10
