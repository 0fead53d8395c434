"""The artefact's Makefile and its program `cdrmix-run`."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from cdrmix.codegen.c.program import runtime_files
from cdrmix.runtime.tokens import Tokenizer

from cdrmix.check import load_text
from cdrmix.ir.initial import random_weights
from cdrmix.ir.interp import Interpreter
from cdrmix.train.tokenizer import byte_tokenizer, train_tokenizer
from tests.small import SPEC, TEXT

from .c_program import CC, TOLERANCE, needs_compiler, rms, sources, write_weights

pytestmark = [needs_compiler, pytest.mark.skipif(shutil.which("make") is None, reason="no make")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("artefact")
    model = load_text(SPEC)
    write_weights(random_weights(model, 1), sources(model, made))
    byte_tokenizer().save(str(made / "tokenizer.json"))
    done = subprocess.run(
        ["make", "-C", str(made), f"CC={CC}", "CFLAGS=-O1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return made


def run(folder: Path, *arguments: str, given: bytes = b"", code: int = 0) -> bytes:
    """What the program prints."""
    command = [str(folder / "cdrmix-run"), "-m", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, input=given, check=False, timeout=60)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def test_the_makefile_builds_both_and_is_up_to_date(folder: Path) -> None:
    assert (folder / "cdrmix-run").exists() and (folder / "libmodel.so").exists()
    again = subprocess.run(["make", "-q", "-C", str(folder)], check=False)
    assert again.returncode == 0
    assert set(runtime_files()) <= {f.name for f in folder.iterdir()}


def test_logits_are_the_interpreters(folder: Path) -> None:
    model = load_text(SPEC)
    wanted = Interpreter(model, random_weights(model, 1)).run([5, 250, 0, 17]).logits[-1]
    found = np.array(run(folder, "--logits", "5", "250", "0", "17").split(), np.float64)
    assert rms(found, wanted) <= TOLERANCE


def test_text_is_always_whole_characters(folder: Path) -> None:
    """Random weights over bytes: most of what they say is no UTF-8."""
    out = run(folder, "-n", "300", "-t", "3", "-p", "1", "-s", "4", "begin")
    assert "\ufffd" in out.decode("utf-8")
    assert out.endswith(b"\n")


def test_a_seed_says_the_same_again(folder: Path) -> None:
    first = run(folder, "-n", "40", "-s", "1", "abc")
    assert first == run(folder, "-n", "40", "-s", "1", "abc") != run(folder, "-n", "40", "-s", "2", "abc")


def test_no_temperature_takes_the_likeliest(folder: Path) -> None:
    model = load_text(SPEC)
    interpreter = Interpreter(model, random_weights(model, 1))
    state, ids = interpreter.start(), list(b"abc")
    for token in ids:
        logits, state = interpreter.step(token, state)
    said = []
    for _ in range(12):
        said.append(int(np.argmax(logits)))
        logits, state = interpreter.step(said[-1], state)
    wanted = "abc" + bytes(said).decode(errors="replace") + "\n"
    for how in (("-t", "0"), ("-k", "1"), ("-p", "0.0000001")):
        assert run(folder, "-n", "12", *how, "abc").decode() == wanted


def test_a_prompt_from_the_standard_input(folder: Path) -> None:
    assert run(folder, "-n", "9", "-", given=b"a prompt") == run(folder, "-n", "9", "a prompt")
    assert run(folder, "-n", "0", "-", given=b"x" * 100_000) == b"x" * 100_000 + b"\n"
    assert b"no tokens were given" in run(folder, "-n", "3", "", code=1)


def test_a_saved_state_goes_on(folder: Path, tmp_path: Path) -> None:
    whole = run(folder, "--logits", "1", "2", "3", "4")
    run(folder, "-o", str(tmp_path / "s"), "--logits", "1", "2")
    assert run(folder, "-l", str(tmp_path / "s"), "--logits", "3", "4") == whole
    assert b"cannot be opened" in run(folder, "-l", str(tmp_path / "absent"), "--logits", "3", code=1)


@pytest.mark.parametrize(
    "arguments",
    [(), ("-n",), ("-n", "x", "p"), ("-t", "-1", "p"), ("-p", "2", "p"), ("-q", "1", "p"), ("a", "b"), ("--logits",)],
)
def test_wrong_options_show_how(arguments: tuple[str, ...], folder: Path) -> None:
    assert b"PROMPT" in run(folder, *arguments, code=2)


def test_help_is_no_mistake(folder: Path) -> None:
    shown = run(folder, "-n", "x", "p", code=2)
    for option in ("--help", "-h"):
        done = subprocess.run([str(folder / "cdrmix-run"), option], capture_output=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, shown, b"")


def test_what_is_wrong_is_said(folder: Path, tmp_path: Path) -> None:
    assert b"outside the vocabulary" in run(folder, "--logits", "999", code=1)
    shutil.copytree(folder, tmp_path / "a")
    (tmp_path / "a" / "tokenizer.json").write_text("{}")
    assert b"malformed JSON" in run(tmp_path / "a", "x", code=1)
    weights = tmp_path / "a" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    assert b"end before a tensor does" in run(tmp_path / "a", "x", code=1)


def test_a_trained_tokenizer(folder: Path, tmp_path: Path) -> None:
    """One of more tokens than the model is refused; with one that fits, the end of a text ends the run."""
    made = tmp_path / "a"
    shutil.copytree(folder, made)
    (tmp_path / "text.txt").write_text(TEXT)
    train_tokenizer([tmp_path / "text.txt"], 300).save(str(made / "tokenizer.json"))
    assert Tokenizer.from_file(made / "tokenizer.json").eot == 0
    assert b"more tokens than the model" in run(made, "x", code=1)
    model = load_text(SPEC.replace("vocab = 256", "vocab = 300"))
    write_weights(random_weights(model, 1), sources(model, made))
    subprocess.run(["make", "-s", "-C", str(made), f"CC={CC}", "CFLAGS=-O1", "cdrmix-run"], check=True)
    run(made, "-n", "5000", "-t", "1000", "-o", str(tmp_path / "s"), "x")
    assert 1 < struct.unpack_from("<Q", (tmp_path / "s").read_bytes(), 56)[0] < 4000
