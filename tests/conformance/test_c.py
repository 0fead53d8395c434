"""The C program against the interpreter: every op of the library, logits and final state, step and prefill."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cdrmix.check import load, load_text
from cdrmix.ir.initial import random_weights
from cdrmix.ir.interp import Interpreter
from cdrmix.ir.nodes import Model

from .c_program import TOLERANCE, Array, Refused, Stream, needs_compiler, rms, stream, worst

pytestmark = needs_compiler
SPEC = Path(__file__).parents[2] / "spec"
LENGTHS = (1, 2, 63, 64, 65, 200)

AROUND = """
use "lib/norm.cdr" {{ layer_norm }}
use "lib/embed.cdr" {{ embed, head }}
{uses}
model around {{
  vocab = 40
  d_model = 48
  layers = 2
  context = 64
  stack {{
    emb: embed(vocab, d_model)
    ln0: layer_norm
    repeat layer < layers {{
      att: residual {chain}
    }}
    head(vocab)
  }}
}}
"""

OPS = {
    "rwkv4": ("rwkv4", "rwkv4"),
    "rwkv6": ("rwkv6", "rwkv6(N=16, rank=8, dw=8)"),
    "rwkv7": ("rwkv7", "rwkv7(N=16, dw=8, da=8, dv=8, dg=8)"),
    "rwkv7_diag": ("rwkv7", "rwkv7_diag(N=16, dw=8, da=8, dv=8, dg=8)"),
    "rwkv7_plain_v": ("rwkv7", "rwkv7_plain_v(N=16, dw=8, da=8, dg=8)"),
    "rwkv7_gdn": ("rwkv7", "rwkv7_gdn(N=16, dw=8, dv=8, dg=8)"),
    "channel_mix4": ("rwkv4", "channel_mix4(hidden=56)"),
    "channel_mix6": ("rwkv6", "channel_mix6(hidden=56)"),
    "attention": ("attention", "attention(heads=6, kv_heads=2, window=5)"),
    "attention_wide": ("attention", "attention(heads=3, window=100)"),
    "attention_one": ("attention", "attention(heads=6, kv_heads=1, window=1)"),
    "attention_alibi": ("attention", "attention_alibi(heads=6, kv_heads=2, window=7)"),
    "retnet": ("retnet", "retnet(N=16)"),
    "mamba2": ("mamba2", "mamba2(N=8, P=16, width=4)"),
    "gated_delta": ("gated_delta", "gated_delta(N=16, V=8, width=4)"),
    "channel_mix": ("channel_mix", "channel_mix(hidden=20)"),
    "swiglu": ("channel_mix", "swiglu(hidden=20)"),
    "moe": ("moe", "token_shift >> moe(relu2(hidden=20), experts=5, top_k=2, shared=2)"),
    "moe_one": ("moe", "moe(swiglu(hidden=20), experts=3, top_k=1)"),
    "moe_of_states": ("moe", "moe(token_shift, experts=4, top_k=3)"),
    "moe_of_windows": ("moe", "moe(attention(heads=3, window=4), experts=4, top_k=2)"),
    "moe_sigmoid": ("moe_sigmoid", "moe_sigmoid(relu2(hidden=20), experts=5, top_k=2, shared=1)"),
}


def model_of(name: str) -> Model:
    """Two layers of an op, from token to logits."""
    file, chain = OPS[name]
    first = chain.removeprefix("token_shift >> ").split("(")[0]
    uses = [f'use "lib/{file}.cdr" {{ {first} }}']
    if "moe" in first:
        uses.append('use "lib/channel_mix.cdr" { token_shift, relu2, swiglu }')
        uses.append('use "lib/attention.cdr" { attention }')
    return load_text(AROUND.format(uses="\n".join(uses), chain=chain))


def tokens(model: Model, count: int) -> list[int]:
    return [int(t) for t in np.random.default_rng(7).integers(0, model.vocab, count)]


def agree(model: Model, folder: Path) -> None:
    """Steps are the interpreter's and the prefill's, at every length; a reset begins again."""
    weights = random_weights(model, 1)
    c = stream(model, weights, folder)
    interpreter = Interpreter(model, weights)
    state, ids = interpreter.start(), tokens(model, max(LENGTHS))
    assert worst(c.state(), state) <= 1e-7  # -1e30 is not a float
    for t, token in enumerate(ids, 1):
        wanted, state = interpreter.step(token, state)
        logits = c.step(token)
        assert rms(logits, wanted) <= TOLERANCE, t
        if t in LENGTHS:
            stepped = c.state()
            assert worst(stepped, state) <= TOLERANCE
            same_as_prefill(c, ids[:t], logits, stepped, interpreter.start())


def same_as_prefill(
    c: Stream, ids: list[int], logits: Array, stepped: dict[str, Array], start: dict[str, Array]
) -> None:
    """Bit for bit, whole and in two stretches; the stream's own state is left where it was."""
    kept = c.bytes.copy()
    for cut in {0, len(ids) // 3}:
        c.reset()
        assert worst(c.state(), start) <= 1e-7
        if cut:
            c.prefill(ids[:cut])
        assert c.prefill(ids[cut:]).tobytes() == logits.tobytes()
        assert all(x.tobytes() == stepped[path].tobytes() for path, x in c.state().items())
    c.bytes[:] = kept


@pytest.mark.parametrize("name", OPS)
def test_ops_of_the_library(name: str, tmp_path: Path) -> None:
    agree(model_of(name), tmp_path)


HYBRID = {
    "d_model": "64",
    "layers": "4",
    "vocab": "256",
    "mixer": "rwkv7(N=16, dw=8, da=8, dv=8, dg=8)",
    "moe.hidden": "64",
    "attn.heads": "4",
    "attn.kv_heads": "2",
    "attn.window": "16",
}


@pytest.mark.parametrize(
    ("spec", "overrides"),
    [("tiny", {"vocab": "300"}), ("hybrid", HYBRID), ("hybrid", {**HYBRID, "attn.place": '"last"'})],
    ids=["tiny", "hybrid", "hybrid_last"],
)
def test_models(spec: str, overrides: dict[str, str], tmp_path: Path) -> None:
    agree(load(SPEC / f"{spec}.cdr", overrides), tmp_path)


def test_two_streams_do_not_touch(tmp_path: Path) -> None:
    model = model_of("attention")
    a = stream(model, random_weights(model, 1), tmp_path)
    b = Stream(model, a.lib, tmp_path / "weights.safetensors")
    alone = [a.step(t) for t in (3, 1, 4)]
    a.reset()
    mixed = []
    for t, other in ((3, 9), (1, 2), (4, 6)):
        mixed.append(a.step(t))
        b.step(other)
    assert all(x.tobytes() == y.tobytes() for x, y in zip(alone, mixed, strict=True))


def test_bad_tokens_are_refused_and_change_nothing(tmp_path: Path) -> None:
    model = model_of("rwkv4")
    c = stream(model, random_weights(model, 1), tmp_path)
    last = c.step(5)
    kept = c.bytes.copy()
    for bad in ([-1], [40], [1, 2, 40], [2**31 - 1]):
        with pytest.raises(Refused, match="outside the vocabulary"):
            c.prefill(bad)
    assert (c.prefill([]) == last).all()  # of the state as it stands
    assert (c.bytes == kept).all()
    assert c.lib.cdr_state_tokens(c.handle, c.state_pointer) == 1
    c.bytes[:] = 0
    with pytest.raises(Refused, match="not made by cdr_state_init"):
        c.step(5)


def test_a_prompt_without_logits_leaves_the_same_state(tmp_path: Path) -> None:
    model = model_of("rwkv7")
    c = stream(model, random_weights(model, 1), tmp_path)
    for t in (1, 2, 3):
        c.step(t)
    wanted = c.state()
    c.reset()
    for t in (1, 2, 3):
        c.check(c.lib.cdr_step(c.handle, c.state_pointer, t, None))
    assert all(x.tobytes() == wanted[path].tobytes() for path, x in c.state().items())


def test_compilers_without_vectors_get_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lanes of kernels.h as arrays: the same sums in the same order."""
    model = model_of("rwkv7")
    weights, ids = random_weights(model, 1), tokens(model, 20)
    monkeypatch.setenv("CDRMIX_KERNELS", "plain")
    lanes = stream(model, weights, tmp_path / "lanes", "-O2")
    plain = stream(model, weights, tmp_path / "plain", "-O2", "-DCDR_NO_VECTORS")
    assert lanes.prefill(ids).tobytes() == plain.prefill(ids).tobytes()
