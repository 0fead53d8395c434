"""The weights file: every damaged one is refused with its tensor's name, none is trusted, under sanitizers too."""

from __future__ import annotations

import json
import random
import struct
import subprocess
from collections.abc import Callable
from ctypes import byref, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cdrmix.check import load_text
from cdrmix.ir.initial import random_weights
from tests.small import SPEC

from .c_program import (
    CC,
    ENGINE,
    STRICT,
    TEXT,
    Stream,
    compile_c,
    library,
    load,
    needs_compiler,
    sources,
    write_weights,
)

pytestmark = needs_compiler
Header = dict[str, Any]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    folder = tmp_path_factory.mktemp("weights")
    model = load_text(SPEC)
    path = write_weights(random_weights(model, 1), sources(model, folder))
    return Stream(model, load(library(folder)), path)


@pytest.fixture(scope="module")
def good(program: Stream, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("good")
    return write_weights(random_weights(program.model, 1), folder).read_bytes()


def refusal(program: Stream, content: bytes, path: Path) -> str:
    """What opening these bytes says; empty when it works."""
    path.write_bytes(content)
    handle = c_void_p(1)
    code = program.lib.cdr_open(byref(handle), str(path).encode())
    if code == 0:
        program.lib.cdr_close(handle)
        return ""
    assert not handle, "a refused model was given out"
    return str(program.lib.cdr_error_text(code).decode())


def parts(content: bytes) -> tuple[Header, bytes]:
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def joined(header: Header | str, data: bytes, pad: int = 8) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    text += b" " * (-len(text) % pad)
    return struct.pack("<Q", len(text)) + text + data


NAME = "layer.1.att.Wr"


def edited(change: Callable[[Header], object]) -> Callable[[Header, bytes], bytes]:
    def edit(header: Header, data: bytes) -> bytes:
        change(header)
        return joined(header, data)

    return edit


EDITS: dict[str, tuple[Callable[[Header, bytes], bytes], str]] = {
    "missing": (edited(lambda h: h.pop(NAME)), f"tensor {NAME}: the weights lack"),
    "dtype": (
        edited(lambda h: h[NAME].update(dtype="BF16")),
        f"tensor {NAME}: a tensor's numbers are of another type than the model's",
    ),
    "transposed": (
        edited(lambda h: h["layer.0.ffn.ffn.Wk"]["shape"].reverse()),
        "layer.0.ffn.ffn.Wk: a tensor's shape",
    ),
    "rank": (edited(lambda h: h[NAME]["shape"].append(1)), f"tensor {NAME}: a tensor's shape"),
    "many axes": (edited(lambda h: h[NAME].update(shape=[1] * 99)), f"tensor {NAME}: a tensor's shape"),
    "scalar": (edited(lambda h: h[NAME].update(shape=[])), f"tensor {NAME}: a tensor's shape"),
    "huge": (edited(lambda h: h[NAME].update(shape=[2**32, 2**32])), f"tensor {NAME}: a tensor's shape"),
    "overflow": (edited(lambda h: h[NAME].update(shape=[2**64, 1])), f"tensor {NAME}: the header's entry"),
    "negative": (edited(lambda h: h[NAME].update(shape=[-32, -32])), f"tensor {NAME}: the header's entry"),
    "fraction": (edited(lambda h: h[NAME].update(shape=[32.0, 32])), f"tensor {NAME}: the header's entry"),
    "backwards": (edited(lambda h: h[NAME]["data_offsets"].reverse()), f"tensor {NAME}: a tensor's place"),
    "past the end": (
        edited(lambda h: h[NAME].update(data_offsets=[2**63, 2**63 + 4096])),
        f"tensor {NAME}: the weights end before",
    ),
    "one byte off": (
        edited(lambda h: h[NAME].update(data_offsets=[n + 1 for n in h[NAME]["data_offsets"]])),
        f"tensor {NAME}: a tensor's place",
    ),
    "three offsets": (edited(lambda h: h[NAME]["data_offsets"].append(0)), f"tensor {NAME}: the header's entry"),
    "no dtype": (edited(lambda h: h[NAME].pop("dtype")), f"tensor {NAME}: the header's entry"),
    "unknown key": (edited(lambda h: h[NAME].update(extra=1)), f"tensor {NAME}: the header's entry"),
    "a number": (edited(lambda h: h.update({NAME: 3})), f"tensor {NAME}: the header's entry"),
    "truncated": (lambda h, d: joined(h, d[:-4096]), "the weights end before a tensor does"),
    "longer": (lambda h, d: joined(h, d + b"\0" * 64), "longer than its tensors"),
    "twice": (
        lambda h, d: joined(json.dumps(h)[:-1] + f', "{NAME}": ' + json.dumps(h[NAME]) + "}", d),
        f"tensor {NAME}: the weights have a tensor twice",
    ),
    "no object": (lambda h, d: joined("[1]", d), "header is malformed"),
    "two values": (lambda h, d: joined(json.dumps(h) + "{}", d), "header is malformed"),
    "deep": (lambda h, d: joined('{"__metadata__": ' + "[" * 90000 + "]" * 90000 + "}", d), "header is malformed"),
    "unaligned": (lambda h, d: joined(json.dumps(h) + " " * (1 - len(json.dumps(h)) % 4), d, pad=1), "four bytes"),
    "empty": (lambda h, d: b"", "ends before its header"),
    "seven bytes": (lambda h, d: b"\0" * 7, "ends before its header"),
    "a header of 2^64": (lambda h, d: b"\xff" * 8 + d, "ends before its header"),
    "a header past the end": (lambda h, d: struct.pack("<Q", 1 << 20) + b"{}", "ends before its header"),
}


@pytest.mark.parametrize("name", EDITS)
def test_edited_files_are_refused(name: str, program: Stream, good: bytes, tmp_path: Path) -> None:
    edit, words = EDITS[name]
    said = refusal(program, edit(*parts(good)), tmp_path / "w.safetensors")
    assert words in said, said


def test_other_ways_to_write_the_same_are_read(program: Stream, good: bytes, tmp_path: Path) -> None:
    header, data = parts(good)
    first = next(iter(header))
    header = {"__metadata__": {"format": "pt", "a": "\\u00e9{}"}, **dict(reversed(header.items()))}
    text = json.dumps(header, indent=1).replace(f'"{first}"', f'"\\u{ord(first[0]):04x}{first[1:]}"')
    assert refusal(program, joined(text, data), tmp_path / "w") == ""
    header["another"] = {"dtype": "I8", "shape": [4], "data_offsets": [len(data), len(data) + 4]}
    assert refusal(program, joined(header, data + b"1234"), tmp_path / "w") == ""


def test_no_file(program: Stream, tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        code = program.lib.cdr_open(byref(c_void_p()), str(path).encode())
        assert "cannot be" in program.lib.cdr_error_text(code).decode()


def damaged(good: bytes, pick: random.Random) -> bytes:
    """A file with a few bytes of its header changed, or cut."""
    size = 8 + struct.unpack("<Q", good[:8])[0]
    out = bytearray(good)
    match pick.randrange(4):
        case 0:
            return bytes(out[: pick.randrange(len(out))])
        case 1:
            out[pick.randrange(8)] = pick.randrange(256)
        case 2:
            at = pick.randrange(8, size)
            del out[at : at + pick.randrange(1, 40)]
        case _:
            for _ in range(pick.randrange(1, 5)):
                out[pick.randrange(8, size)] = pick.choice(b'"\\{}[],:0129 .eu-\x00\xff')
    return bytes(out)


def test_random_damage(program: Stream, good: bytes, tmp_path: Path) -> None:
    pick = random.Random(1)
    said = [refusal(program, damaged(good, pick), tmp_path / "w") for _ in range(800)]
    assert sum(map(bool, said)) > 700  # the rest hit padding, or digits of the metadata


def sanitized(folder: Path) -> Path | None:
    """`cdrmix-run` under the address and undefined-behaviour sanitizers, where the compiler has them."""
    flags = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    probe = folder / "probe.c"
    probe.write_text("int main(void) { return 0; }\n")
    command = [str(CC), *flags, "-o", str(folder / "probe"), str(probe)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        return None
    out = folder / "cdrmix-run"
    files = (str(folder / f) for f in ("main.c", *ENGINE, *TEXT))
    compile_c([str(CC), *STRICT, *flags, "-o", str(out), *files, "-lm"])
    return out


@pytest.mark.parametrize("mapped", [True, False], ids=["mmap", "read"])
def test_sanitizers_find_nothing(mapped: bool, program: Stream, good: bytes, tmp_path: Path) -> None:
    """A run, a saved and a loaded state, and damaged files of both kinds."""
    folder = sources(program.model, tmp_path)
    if not mapped:
        text = (folder / "model.c").read_text()
        (folder / "model.c").write_text("#define CDR_NO_MMAP 1\n" + text)
    run = sanitized(folder)
    if run is None:
        pytest.skip("the compiler has no sanitizers")
    weights, state = folder / "weights.safetensors", folder / "state"

    def logits(*extra: str) -> tuple[int, list[str], str]:
        command = [str(run), "-m", str(folder), *extra, "--logits", *["17", "3", "200", "3", "3", "255"]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr, done.stderr[:3000]
        return done.returncode, done.stdout.split(), done.stderr

    weights.write_bytes(good)
    code, found, _ = logits("-o", str(state))
    assert code == 0
    program.reset()
    assert np.allclose(program.prefill([17, 3, 200, 3, 3, 255]), np.array(found, np.float32), rtol=1e-4, atol=1e-5)
    assert logits("-l", str(state))[0] == 0
    pick, saved = random.Random(2), state.read_bytes()
    for _ in range(15):
        at = pick.randrange(len(saved))
        state.write_bytes(saved[:at] + bytes([saved[at] ^ 1 << pick.randrange(8)]) + saved[at + 1 :])
        assert logits("-l", str(state))[0] == 1
    for _ in range(25):
        weights.write_bytes(damaged(good, pick))
        code, found, said = logits()
        assert code == 0 or "cdrmix-run" in said
