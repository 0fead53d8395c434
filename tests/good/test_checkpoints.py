"""Weights that people have: types, formats, tied copies, and what is said of a file that does not fit."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cdrmix.check import load_text
from cdrmix.checkpoints import find_weights, read_weights
from cdrmix.diagnose import UserError
from cdrmix.ir.initial import random_weights
from cdrmix.ir.nodes import Model

TEXT = """
use "lib/norm.cdr" { layer_norm }
use "lib/embed.cdr" { embed, head }
use "lib/channel_mix.cdr" { relu2 }
model small {
  vocab = 32
  d_model = 8
  stack {
    emb: embed(vocab, d_model)
    ffn: residual layer_norm >> relu2(hidden=16)
    ln: layer_norm
    out: head(vocab)
    tie out.W = emb.E
  }
}
"""


@pytest.fixture(scope="module")
def model() -> Model:
    return load_text(TEXT)


@pytest.fixture(scope="module")
def values(model: Model) -> dict[str, torch.Tensor]:
    return {n: torch.from_numpy(x.astype(np.float32)) for n, x in random_weights(model, 3).items()}


def written(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file({n: x.clone() for n, x in tensors.items()}, path)
    return path


def refused(model: Model, path: Path) -> str:
    with pytest.raises(UserError) as e:
        read_weights(model, path)
    return e.value.message


@pytest.mark.parametrize("nested", [None, "state_dict", "model"])
@pytest.mark.parametrize("old", [False, True])
def test_a_pth_is_read(
    model: Model, values: dict[str, torch.Tensor], tmp_path: Path, nested: str | None, old: bool
) -> None:
    torch.save({nested: values, "step": 3} if nested else values, tmp_path / "w.pth",
               _use_new_zipfile_serialization=not old)  # fmt: skip
    found = read_weights(model, tmp_path / "w.pth")
    assert found.keys() == values.keys()
    assert all(found[n].dtype == np.float32 and (found[n] == x.numpy()).all() for n, x in values.items())


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch evil",)


@pytest.mark.parametrize("kind", ["object", "pickle", "number", "empty", "cut"])
def test_a_pth_of_something_else_is_refused_and_not_run(
    model: Model, values: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pth"
    match kind:
        case "object":
            torch.save({"model": Evil()}, path)
        case "pickle":
            path.write_bytes(pickle.dumps(Evil(), protocol=2))
        case "number":
            torch.save(3, path)
        case "empty":
            torch.save({}, path)
        case "cut":
            torch.save(values, whole := io.BytesIO())
            path.write_bytes(whole.getvalue()[:2000])
    assert "tensors" in refused(model, path)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_narrower_types_are_widened_exactly(
    model: Model, values: dict[str, torch.Tensor], tmp_path: Path, dtype: torch.dtype, suffix: str
) -> None:
    narrow = {n: x.to(dtype) for n, x in values.items()}
    path = tmp_path / f"w.{suffix}"
    _ = written(path, narrow) if suffix == "safetensors" else torch.save(narrow, path)
    assert all((x == narrow[n].float().numpy()).all() for n, x in read_weights(model, path).items())


def test_tied_copies(model: Model, values: dict[str, torch.Tensor], tmp_path: Path) -> None:
    owner, alias = "emb.E", "out.W"
    for names in ((owner,), (alias,), (owner, alias)):
        given = {n: x for n, x in values.items() if n != owner} | dict.fromkeys(names, values[owner])
        found = read_weights(model, written(tmp_path / "w.safetensors", given))
        assert (found[owner] == values[owner].numpy()).all()
    unequal = values | {alias: values[owner] + 1}
    assert f"{owner}, {alias}: tied in the spec, and not equal" in refused(model, written(tmp_path / "w", unequal))


def test_a_file_that_does_not_fit_is_told_with_what_is_near(
    model: Model, values: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    renamed = {n.replace("ffn", "blocks.0.ffn"): x for n, x in values.items()}
    said = refused(model, written(tmp_path / "a", renamed))
    name = next(n for n in values if n.startswith("ffn"))
    assert f"{name}: missing in the file; the nearest there is blocks.0.{name}" in said
    turned = {n: x.T.contiguous() if x.ndim == 2 and "ffn" in n else x for n, x in values.items()}
    assert "transposed?" in refused(model, written(tmp_path / "b", turned))
    more = values | {f"extra.{i}": torch.zeros(1) for i in range(20)}
    said = refused(model, written(tmp_path / "c", more))
    assert "extra.0: not in the spec" in said and "… and 12 more" in said


@pytest.mark.parametrize("pad", range(9))
def test_a_header_of_any_length_is_read(
    model: Model, values: dict[str, torch.Tensor], tmp_path: Path, pad: int
) -> None:
    """The library pads headers to eight bytes; others do not."""
    whole = written(tmp_path / "w", values).read_bytes()
    size = struct.unpack("<Q", whole[:8])[0]
    header = json.dumps(json.loads(whole[8 : 8 + size])).encode() + b" " * pad
    (tmp_path / "w").write_bytes(struct.pack("<Q", len(header)) + header + whole[8 + size :])
    assert all((x == values[n].numpy()).all() for n, x in read_weights(model, tmp_path / "w").items())


def test_what_is_no_file(model: Model, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no weights"):
        find_weights(tmp_path)
    assert "cannot be read" in refused(model, tmp_path / "absent")
    (tmp_path / "empty").write_bytes(b"")
    assert "not a readable safetensors file" in refused(model, tmp_path / "empty")


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_weights_of_another_type_are_refused(
    model: Model, values: dict[str, torch.Tensor], tmp_path: Path, dtype: torch.dtype
) -> None:
    weights = written(tmp_path / "w.safetensors", {name: x.to(dtype) for name, x in values.items()})
    assert "not F32, F16 or BF16" in refused(model, weights)
