"""Ten thousand files of an artefact with one bit turned, and those of other versions: the C program refuses each."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from ctypes import byref, c_char_p, c_void_p
from pathlib import Path

import numpy as np
import pytest
from cdrmix.runtime.session import read_manifest

from cdrmix.artifact import write_artifact, write_manifest
from cdrmix.check import load
from cdrmix.compiler import lower, options_of
from tests.fuzz import ENCODED, SPEC

from .c_program import Stream, library, needs_compiler
from .c_program import load as load_library

pytestmark = needs_compiler
FLIPS = 2000
"""Of each file, and as many of the weights' header."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artefact with matrices of every encoding and a tokenizer."""
    made = tmp_path_factory.mktemp("flips") / "artefact"
    lowered = lower(load(SPEC, {"vocab": "256"}), weights="i4", rules=ENCODED)
    write_artifact(lowered, "cpu", made, tokenizer="bytes", options=options_of("cpu", {}, "i4"))
    return made


@pytest.fixture(scope="module")
def c(folder: Path) -> Stream:
    """A stream of its program that has saved its state."""
    lib = load_library(library(folder))
    lib.cdr_tokenizer_open.argtypes = [c_void_p, c_char_p]
    lib.cdr_tokenizer_close.argtypes = [c_void_p]
    stream = Stream(load(SPEC, {"vocab": "256"}), lib, folder / "weights.safetensors")
    stream.prefill([3, 200, 7, 7, 9, 41])
    stream.save(folder / "a.state")
    return stream


Opened = Callable[[], int]


def opens(c: Stream, folder: Path) -> Opened:
    """What opening the model gives: 0, or a code."""

    def opened() -> int:
        handle = c_void_p()
        code: int = c.lib.cdr_open(byref(handle), os.fsencode(folder / "weights.safetensors"))
        c.lib.cdr_close(handle)
        return code

    return opened


def reads(c: Stream, folder: Path) -> Opened:
    """What opening the tokenizer gives."""

    def read() -> int:
        handle = c_void_p()
        code: int = c.lib.cdr_tokenizer_open(byref(handle), os.fsencode(folder / "tokenizer.json"))
        c.lib.cdr_tokenizer_close(handle)
        return code

    return read


def loads(c: Stream, folder: Path) -> Opened:
    """What loading the state gives."""
    return lambda: c.lib.cdr_state_load(c.handle, c.state_pointer, os.fsencode(folder / "a.state"))


def unnoticed(path: Path, begin: int, end: int, opened: Opened) -> tuple[list[tuple[int, int]], set[int]]:
    """Turn bits of a file, one at a time; those that nobody notices, and the codes that the others gave."""
    picked = np.random.default_rng(end).choice((end - begin) * 8, min(FLIPS, (end - begin) * 8), replace=False)
    missed, codes = [], set()
    assert opened() == 0
    with path.open("r+b") as f:
        whole = f.read()
        for at, bit in ((begin + int(n) // 8, int(n) % 8) for n in picked):
            os.pwrite(f.fileno(), bytes([whole[at] ^ 1 << bit]), at)
            code = opened()
            codes.add(code)
            if code == 0:
                missed.append((at, bit))
            os.pwrite(f.fileno(), whole[at : at + 1], at)
    assert opened() == 0
    return missed, codes - {0}


def header_of(path: Path) -> int:
    """Where the numbers of a weights file begin."""
    return 8 + int(struct.unpack("<Q", path.read_bytes()[:8])[0])


def said(c: Stream, codes: set[int]) -> set[str]:
    return {c.lib.cdr_error_text(code).decode() for code in codes}


def test_of_the_weights(c: Stream, folder: Path) -> None:
    path = folder / "weights.safetensors"
    size, header = path.stat().st_size, header_of(path)
    missed, codes = unnoticed(path, 0, header, opens(c, folder))
    assert not missed and any("tensor layer.0." in text for text in said(c, codes))
    missed, codes = unnoticed(path, header, size, opens(c, folder))
    assert not missed and said(c, codes) == {
        "its bytes are not those that manifest.json lists: it was cut short or changed"
    }


def test_of_the_manifest(c: Stream, folder: Path) -> None:
    path = folder / "manifest.json"
    missed, codes = unnoticed(path, 0, path.stat().st_size, opens(c, folder))
    assert not missed and all("manifest is malformed, was changed" in text for text in said(c, codes))


def test_of_a_tokenizer(c: Stream, folder: Path) -> None:
    path = folder / "tokenizer.json"
    missed, codes = unnoticed(path, 0, path.stat().st_size, reads(c, folder))
    assert not missed and len(codes) == 1


def test_of_a_state(c: Stream, folder: Path) -> None:
    path = folder / "a.state"
    kept = c.state()
    missed, codes = unnoticed(path, 0, path.stat().st_size, loads(c, folder))
    words = ("not a saved state", "another version", "another model", "other weights", "damaged")
    assert not missed and all(any(word in text for word in words) for text in said(c, codes))
    assert all(x.tobytes() == kept[name].tobytes() for name, x in c.state().items())


def test_of_another_version(c: Stream, folder: Path) -> None:
    """A manifest that is whole, and of a format that this program cannot know."""
    good = read_manifest(folder)
    try:
        for version in (2, 0, "1", 1.5, None):
            write_manifest(folder, good | {"format": version})
            assert "another version" in next(iter(said(c, {opens(c, folder)()})))
    finally:
        write_manifest(folder, good)
    assert opens(c, folder)() == 0 and json.loads((folder / "manifest.json").read_text())["format"] == 1
