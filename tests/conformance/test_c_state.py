"""Saved states: they continue bit for bit, and what is not this model's whole and undamaged state is refused."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from cdrmix.check import load_text
from cdrmix.ir.initial import random_weights
from cdrmix.ir.interp import Interpreter

from .c_program import TOLERANCE, Refused, Stream, library, load, needs_compiler, rms, sources, worst, write_weights

pytestmark = needs_compiler

TEXT = """
use "lib/norm.cdr" { layer_norm }
use "lib/embed.cdr" { embed, head }
use "lib/rwkv4.cdr" { rwkv4 }
use "lib/attention.cdr" { attention }
use "lib/channel_mix.cdr" { token_shift }
use "lib/moe.cdr" { moe }

model mixed {
  vocab = 30
  d_model = 24
  layers = 2
  context = 32
  window = 6
  stack {
    emb: embed(vocab, d_model)
    repeat layer < layers {
      att: residual layer_norm >> rwkv4
      win: residual layer_norm >> attention(heads=4, window=window)
      moe: residual layer_norm >> moe(attention(heads=2, window=3), experts=3, top_k=2)
      shift: residual moe(token_shift, experts=3, top_k=2)
    }
    head(vocab)
  }
}
"""
HEADER = 72


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("state")
    model = load_text(TEXT)
    write_weights(random_weights(model, 1), sources(model, made))
    library(made)
    return made


@pytest.fixture
def c(folder: Path) -> Stream:
    return Stream(load_text(TEXT), load(folder / "libmodel.so"), folder / "weights.safetensors")


@pytest.mark.parametrize("seen", [0, 1, 4, 5, 6, 7, 40])
def test_a_loaded_state_continues_bit_for_bit(seen: int, c: Stream, folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(seen)
    ids = [int(t) for t in rng.integers(0, 30, seen + 9)]
    for t in ids[:seen]:
        c.step(t)
    c.save(tmp_path / "s")
    kept = c.state()
    other = Stream(c.model, c.lib, folder / "weights.safetensors")
    other.load(tmp_path / "s")
    assert other.lib.cdr_state_tokens(other.handle, other.state_pointer) == seen
    assert all(x.tobytes() == kept[path].tobytes() for path, x in other.state().items())
    for t in ids[seen:]:
        assert c.step(t).tobytes() == other.step(t).tobytes()
    c.save(tmp_path / "a")
    other.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "s"], "a temporary file was left"


def test_a_loaded_state_is_the_interpreters(c: Stream, tmp_path: Path) -> None:
    interpreter = Interpreter(c.model, random_weights(c.model, 1))
    state = interpreter.start()
    for t in (3, 9, 27, 21, 3, 9, 29, 27):
        wanted, state = interpreter.step(t, state)
        logits = c.step(t)
    assert rms(logits, wanted) <= TOLERANCE
    c.save(tmp_path / "s")
    c.reset()
    c.load(tmp_path / "s")
    assert worst(c.state(), state) <= TOLERANCE


def test_a_copy_of_the_bytes_is_a_fork(c: Stream) -> None:
    c.prefill([1, 2, 3, 4, 5, 6, 7])
    kept = c.bytes.copy()
    first = [c.step(t) for t in (8, 9)]
    c.bytes[:] = kept
    assert [x.tobytes() for x in (c.step(8), c.step(9))] == [x.tobytes() for x in first]


def test_a_fork_goes_its_own_way(c: Stream, folder: Path) -> None:
    other = Stream(c.model, c.lib, folder / "weights.safetensors")
    other.bytes[:] = 0xA5
    with pytest.raises(Refused, match="not made by cdr_state_init"):
        other.check(c.lib.cdr_state_fork(c.handle, other.state_pointer, c.state_pointer))
    c.prefill([1, 2, 3, 4, 5, 6, 7])
    c.check(c.lib.cdr_state_fork(c.handle, c.state_pointer, other.state_pointer))
    first = c.step(8)
    c.step(9)
    assert other.step(8).tobytes() == first.tobytes()
    c.lib.cdr_state_free(c.handle, c.state_pointer)


def saved(c: Stream, path: Path) -> bytes:
    c.reset()
    c.prefill([1, 2, 3, 4, 5, 6, 7, 8])
    c.save(path)
    return path.read_bytes()


def refused(c: Stream, content: bytes, path: Path) -> str:
    """What loading these bytes says; the state must be as it was."""
    path.write_bytes(content)
    c.reset()
    c.prefill([11, 12])
    kept = c.bytes.copy()
    with pytest.raises(Refused) as said:
        c.load(path)
    assert (c.bytes == kept).all(), "a refused file changed the state"
    return str(said.value)


def test_every_damage_is_refused(c: Stream, tmp_path: Path) -> None:
    good, path = saved(c, tmp_path / "s"), tmp_path / "s"
    assert "not a saved state" in refused(c, b"", path)
    assert "not a saved state" in refused(c, b"CDRSTATX" + good[8:], path)
    for version in (1, 3):
        assert "another version" in refused(c, good[:8] + struct.pack("<Q", version) + good[16:], path)
    assert "another model" in refused(c, good[:20] + bytes([good[20] ^ 1]) + good[21:], path)
    assert "other weights" in refused(c, good[:48] + bytes([good[48] ^ 1]) + good[49:], path)
    assert "another model" in refused(c, good[:64] + bytes([good[64] ^ 1]) + good[65:], path)
    for size in (9, 40, HEADER, HEADER + 100, len(good) - 1):
        assert "wrong length" in refused(c, good[:size], path)
    assert "wrong length" in refused(c, good + b"\0", path)
    rng = np.random.default_rng(0)
    for at in rng.integers(HEADER, len(good), 200).tolist() + [len(good) - 1, 56]:
        bit = 1 << int(rng.integers(8))
        assert "damaged" in refused(c, good[:at] + bytes([good[at] ^ bit]) + good[at + 1 :], path)


def test_an_impossible_count_is_refused_though_the_sum_is_right(c: Stream, tmp_path: Path) -> None:
    good, path = saved(c, tmp_path / "s"), tmp_path / "s"
    first = HEADER + 4 * sum(x.size for p, x in c.state().items() if p.startswith("layer.0.att"))
    assert good[first : first + 4] == struct.pack("<I", 5)
    for count in (6, 0x7FFFFFFF, 0xFFFFFFFF):
        body = good[:first] + struct.pack("<I", count) + good[first + 4 : -8]
        assert "damaged" in refused(c, body + struct.pack("<Q", fnv(body)), path)

    for tokens in (4, (1 << 62) + 5, (1 << 64) - 1):  # fewer than the history holds; places that no number has
        body = good[:56] + struct.pack("<Q", tokens) + good[64:-8]
        assert "damaged" in refused(c, body + struct.pack("<Q", fnv(body)), path)


def fnv(data: bytes) -> int:
    found = 0xCBF29CE484222325
    for byte in data:
        found = (found ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return found


def test_other_models_and_other_weights(c: Stream, folder: Path, tmp_path: Path) -> None:
    good = saved(c, tmp_path / "s")
    weights = random_weights(c.model, 2)
    path = write_weights(weights, tmp_path)
    assert "other weights" in refused(Stream(c.model, c.lib, path), good, tmp_path / "t")
    model = load_text(TEXT, overrides={"window": "7"})
    other = sources(model, tmp_path / "other")
    lib = load(library(other))
    assert "another model" in refused(Stream(model, lib, folder / "weights.safetensors"), good, tmp_path / "t")


def test_files_that_cannot_be_used(c: Stream, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be opened"):
        c.load(tmp_path / "absent")
    with pytest.raises(Refused, match="cannot be written"):
        c.save(tmp_path / "no folder" / "s")
    with pytest.raises(Refused, match="too long"):
        c.save(tmp_path / ("x" * 5000))
    (tmp_path / "s").mkdir()
    with pytest.raises(Refused, match="cannot be replaced by a file"):
        c.save(tmp_path / "s")
    with pytest.raises(Refused, match="not a saved state"):
        c.load(tmp_path / "s")
    assert os.listdir(tmp_path) == ["s"]


def test_reading_slots(c: Stream) -> None:
    for path in ("layer.0.att", "nothing", "", ".count", "layer.0.att.p.count"):
        with pytest.raises(Refused, match="no state of that path"):
            c.read(path, (100,))
    c.prefill([1, 2, 3])
    assert c.read("layer.0.win.K.count", ()) == 3
    counts = c.read("layer.1.moe.F.K.count", (3,))  # two of three experts a token, at most two entries kept
    assert set(counts.tolist()) <= {0, 1, 2} and counts.sum() >= 4
    assert c.read("pos", ()) == 3
