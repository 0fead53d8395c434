"""Weights that are packed in the file: read where they lie, the same bits as those packed at open, nothing touched that
is not used; and files that lie otherwise than a program reads them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
from cdrmix.runtime.encodings import ENCODINGS, Entry, by_rows, read_file, read_values, to_blocks

from cdrmix.check import load_text
from cdrmix.checkpoints import read_weights
from cdrmix.ir.initial import random_weights
from cdrmix.ir.nodes import Model
from cdrmix.weights import write_tensors
from tests.small import SPEC

from .c_program import Refused, Stream, library, load, needs_compiler
from .test_encodings import artefact
from .test_matrix import NAMES, Library, program

__all__ = ["program"]
pytestmark = needs_compiler
IDS = [3, 200, 7, 7, 9, 41]
NARROW = [name for name in NAMES if name != "f32"]


@pytest.fixture(scope="module")
def model() -> Model:
    return load_text(SPEC)


def wanted(folder: Path) -> dict[str, Entry]:
    """The planes of an artefact row by row."""
    tensors = json.loads((folder / "manifest.json").read_text())["tensors"]
    planes = {t["path"]: ENCODINGS[t["stored"]].planes(tuple(t["shape"])) for t in tensors}
    return {path + suffix: entry for path, found in planes.items() for suffix, entry in found.items()}


def in_blocks(folder: Path) -> set[str]:
    """Those that its file has in blocks."""
    held, _ = read_file(folder / "weights.safetensors")
    return {name for name, entry in wanted(folder).items() if held[name].shape != entry.shape}


def rewritten(folder: Path, to: Path, but: Collection[str] = ()) -> Path:
    """The weights of an artefact with every plane row by row, `but` for these."""
    held, about = read_file(folder / "weights.safetensors")
    rows = wanted(folder)
    planes = {n: by_rows(held[n], entry) for n, entry in rows.items()}
    planes |= {n: to_blocks(planes[n], rows[n]) for n in but}
    entries = {n: entry.in_blocks or entry if n in but else entry for n, entry in rows.items()}
    write_tensors(to, entries, planes.__getitem__, lambda: int(about["fingerprint"], 16))
    return to


@pytest.mark.parametrize("name", NARROW)
def test_blocks_are_those_of_the_kernels(name: str, program: Path) -> None:
    lib, e = Library(program).lib, NAMES.index(name)
    for rows, cols in ((16, 32), (48, 96), (32, 768)):
        W = np.random.default_rng(rows).standard_normal((rows, cols)).astype(np.float32)
        planes = {k: np.ascontiguousarray(v) for k, v in ENCODINGS[name].narrow(W).items()}
        entries = ENCODINGS[name].planes(W.shape)
        numbers, scales = planes[""], planes.get(".scale")
        packed = np.zeros(lib.cdr_packed_size(e, rows, cols), np.uint8)
        of_rows = np.zeros(lib.cdr_packed_scales(e, rows, cols) + 1, np.uint8)
        by = None if scales is None else scales.ctypes.data
        lib.cdr_pack(e, packed.ctypes.data, of_rows.ctypes.data, numbers.ctypes.data, by, rows, cols)
        assert to_blocks(numbers, entries[""]).tobytes() == packed.tobytes()
        if scales is not None:
            held = to_blocks(scales, entries[".scale"]) if scales.ndim > 1 else scales
            assert held.tobytes() == of_rows[:-1].tobytes()
        for suffix, plane in planes.items():
            if plane.ndim > 1:
                laid, entry = to_blocks(plane, entries[suffix]), entries[suffix].in_blocks
                assert entry and laid.shape == entry.shape
                np.testing.assert_array_equal(by_rows(laid, entries[suffix]), plane)


@pytest.mark.parametrize("encoding", NARROW)
def test_where_they_lie_is_no_matter(
    encoding: str, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = artefact(tmp_path / "a", model, "cpu", encoding)
    path = folder / "weights.safetensors"
    assert {"layer.0.att.Wr", "head.W"} <= in_blocks(folder)
    plain = rewritten(folder, tmp_path / "plain.safetensors")
    assert plain.read_bytes() != path.read_bytes()
    lib = load(library(folder))
    first = Stream(model, lib, path)
    want = first.prefill(IDS)
    for how, where in (("", plain), ("copied", path), ("copied", plain)):
        monkeypatch.setenv("CDRMIX_WEIGHTS", how)
        other = Stream(model, lib, where)
        np.testing.assert_array_equal(other.prefill(IDS), want)
        first.save(tmp_path / "a.state")
        other.load(tmp_path / "a.state")  # the same weights


def test_python_reads_them_row_by_row(model: Model, tmp_path: Path) -> None:
    given = random_weights(model, 1)
    for encoding in ("f16", "bf16", "i4"):
        folder = artefact(tmp_path / encoding, model, "cpu", encoding)
        assert in_blocks(folder)
        for path, x in read_values(folder).items():
            held = ENCODINGS[encoding]
            want = held.widen(held.narrow(given[path]), x.shape)
            assert np.array_equal(x, given[path]) or np.array_equal(x, want), path
        if encoding != "i4":  # a checkpoint like any other
            for path, x in read_weights(model, folder / "weights.safetensors").items():
                np.testing.assert_array_equal(x, read_values(folder)[path])


def test_what_a_program_does_not_take_in_blocks_is_refused(model: Model, tmp_path: Path) -> None:
    folder = artefact(tmp_path / "a", model, "cpu", "f16")
    lib = load(library(folder))
    wrong = rewritten(folder, tmp_path / "wrong.safetensors", ["emb.E"])  # which is looked up by rows
    with pytest.raises(Refused, match="tensor emb.E: a tensor's shape"):
        Stream(model, lib, wrong)
    some = rewritten(folder, tmp_path / "some.safetensors", ["head.W"])
    want = Stream(model, lib, folder / "weights.safetensors").prefill(IDS)
    np.testing.assert_array_equal(Stream(model, lib, some).prefill(IDS), want)


@pytest.mark.parametrize("encoding", ["i8g32", "i4"])
def test_numbers_and_scales_lie_alike(encoding: str, model: Model, tmp_path: Path) -> None:
    folder = artefact(tmp_path / "a", model, "cpu", encoding)
    lib = load(library(folder))
    for name in ("head.W", "head.W.scale"):
        wrong = rewritten(folder, tmp_path / "wrong.safetensors", [name])
        with pytest.raises(Refused, match="tensor head.W: of a tensor and its scales one lies in blocks"):
            Stream(model, lib, wrong)


MANY = """
use "lib/embed.cdr" { embed, head }
use "lib/channel_mix.cdr" { relu2 }
use "lib/moe.cdr" { moe }
model many {
  vocab = 256
  d_model = 64
  stack {
    emb: embed(vocab, d_model)
    ffn: residual moe(relu2(hidden=4096), experts=64, top_k=1)
    head(vocab)
  }
}
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_experts_that_no_token_takes_are_not_in_memory(tmp_path: Path) -> None:
    many = load_text(MANY)
    folder = artefact(tmp_path / "a", many, "cpu", "i8")
    path = folder / "weights.safetensors"
    stream = Stream(many, load(library(folder)), path)
    stream.prefill([5] * 20)
    resident, size = mapped(path), path.stat().st_size
    assert size > 32 << 20 and resident < size / 4, (resident, size)  # an expert, and what the system reads ahead
    for token in range(256):
        stream.step(token)
    assert mapped(path) > 2 * resident


def mapped(path: Path) -> int:
    """The bytes of a file that this process has in memory."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    at = next(n for n, line in enumerate(lines) if line.endswith(os.fspath(path)))
    return int(next(line for line in lines[at:] if line.startswith("Rss:")).split()[1]) << 10
