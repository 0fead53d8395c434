"""`cdrmix-run` of a GPU artefact, on the mock driver: the choice there and here, what goes on, what is never chosen."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cdrmix.runtime.device import open_engine
from cdrmix.runtime.generation import Writer
from cdrmix.runtime.sampling import Sampling
from cdrmix.runtime.session import Session
from cdrmix.runtime.tokens import StreamDecoder, Tokenizer

from cdrmix.train.tokenizer import byte_tokenizer

from . import build, handmade
from .build import needs_compilers
from .conftest import Built

pytestmark = needs_compilers
VOCAB = 300
"""More than the tokenizer has: what it lacks is chosen again."""

Run = Callable[..., bytes]


@pytest.fixture(scope="module")
def folder(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artefact made by hand, of a larger vocabulary, with a tokenizer and its program."""
    made = tmp_path_factory.mktemp("generation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handmade, "VOCAB", VOCAB)
        content = handmade.write(made, {"sm_90": "cuda"})
        build.kernels(handmade.source(), made)
    byte_tokenizer().save(str(made / "tokenizer.json"))
    content["files"]["tokenizer.json"] = handmade.listed(made / "tokenizer.json")
    content["files"]["libmodel.so"] = handmade.listed(build.runner_library(build.runner_sources(made)))
    content.pop("checksum", None)
    handmade.write_manifest(made, content)
    build.runner_program(made, "cdrmix-run", made / "runner" / "main.c")
    return made


@pytest.fixture
def run(folder: Path, built: Built, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("CDR_DRIVER", str(built.driver))
    monkeypatch.setenv("MOCK_CODE", str(folder / "kernels.so"))

    def found(*arguments: str, code: int = 0) -> bytes:
        command = [str(folder / "cdrmix-run"), "-m", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, check=False, env={**os.environ}, timeout=60)
        assert done.returncode == code, (arguments, done.stderr)
        return done.stdout[:-1] if code == 0 else done.stderr

    return found


HOWS = [("-t", "0"), ("-t", "2", "-k", "5", "-s", "3"), ("-t", "2", "-k", "0", "-s", "3", "-p", "1")]


@pytest.mark.parametrize("how", HOWS, ids=["likeliest", "there", "here"])
def test_a_text_goes_on_wherever_it_was_cut(run: Run, how: tuple[str, ...], tmp_path: Path) -> None:
    whole, state = run(*how, "-n", "24", "a prompt"), str(tmp_path / "s")
    for steps in (1, 7):
        said = run(*how, "-n", "0", "-o", state, "a prompt")
        for n in range(0, 24, steps):
            save = ["-o", state] if n + steps < 24 else []
            said += run(*how, "-n", str(min(steps, 24 - n)), "-l", state, *save, "")
        assert said == whole
    plain = [n for n in range(9, len(whole) - 1) if max(whole[n : n + 2]) < 128]
    for at in plain[:3]:
        stop = whole[at : at + 2].decode()
        cut = [*how, "-n", "24", "--stop", stop]
        assert run(*cut, "a prompt") == whole[: whole.index(stop.encode(), 8)]
        said = run(*cut, "-o", state, "a prompt")
        assert (said + run(*how, "-n", "24", "-l", state, "")).startswith(whole.removesuffix("\ufffd".encode()))


def test_here_it_is_what_python_writes(run: Run, folder: Path) -> None:
    tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
    content = json.loads((folder / "manifest.json").read_text())
    for seed in range(3):
        engine = open_engine(folder, content)
        with Session(engine, content, engine.start()) as session:
            writer, decoder = Writer(session, tokenizer, Sampling(3.0, 0.9, 0, seed=seed)), StreamDecoder()
            writer.read(b"ab")
            wanted = decoder.push(b"ab") + "".join(map(decoder.push, writer.write(30))) + decoder.flush()
        assert run("-t", "3", "-p", "0.9", "-k", "0", "-s", str(seed), "-n", "30", "ab") == wanted.encode()


def test_what_the_tokenizer_lacks_is_never_chosen(run: Run, tmp_path: Path) -> None:
    """Of 300 tokens as likely as each other 44 have no text: 200 choices there would meet one."""
    run("-t", "1e300", "-k", "5", "-p", "1", "-n", "200", "-o", str(tmp_path / "s"), "x")
    latest = (tmp_path / "s").read_bytes()[-8 - 256 : -8]
    ids = [int.from_bytes(latest[n : n + 4], "little") for n in range(0, 256, 4)]
    assert max(ids) < 256 and len(set(ids)) > 20


def test_a_text_needs_something_to_go_by(run: Run) -> None:
    assert b"no tokens were given" in run("-n", "3", "", code=1)
