"""Sessions over every engine that runs here: what they refuse, and saved states, which go on exactly."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cdrmix.runtime.errors import ArtifactError
from cdrmix.runtime.generation import Writer
from cdrmix.runtime.sampling import Sampler, Sampling, generate
from cdrmix.runtime.session import Session

from cdrmix.artifact import write_artifact
from cdrmix.check import load_text
from cdrmix.compiler import lower
from cdrmix.ir.initial import random_weights
from cdrmix.weights import write_weights
from tests.gpu import build, handmade

pytestmark = build.needs_compilers

SPEC = """
use "lib/norm.cdr" { layer_norm }
use "lib/embed.cdr" { embed, head }
use "lib/attention.cdr" { attention }
use "lib/gated_delta.cdr" { gated_delta }

model small {
  vocab = 40
  d_model = 32
  stack {
    emb: embed(vocab, d_model)
    att: residual layer_norm >> gated_delta(N=32, V=32)
    win: residual layer_norm >> attention(heads=1, window=5)
    head(vocab)
  }
}
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The artefact of a target, made when it is first asked for."""
    home = tmp_path_factory.mktemp("sessions")
    model = load_text(SPEC)
    weights = random_weights(model, 1)
    write_weights(home / "w.safetensors", {n: x.shape for n, x in weights.items()}, weights.__getitem__)

    def made(target: str) -> Path:
        folder = home / target
        if target == "cuda" and not folder.exists():
            library = build.runner_library(build.runner_sources(folder), "-O1")
            handmade.write(folder, {"sm_90": "cuda"}, library=library)
            build.mock_driver(home)
            build.kernels(handmade.source(), home)
        elif not folder.exists():
            write_artifact(lower(model), target, folder, home / "w.safetensors")
        return folder

    return made


@pytest.fixture(params=["cpu", "torch", "cuda", "tenstorrent"])
def folder(request: pytest.FixtureRequest, folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    made = folders(request.param)
    monkeypatch.setenv("CFLAGS", "-O1 -DCDR_PLAIN")
    if request.param == "cuda":
        monkeypatch.setenv("CDR_DRIVER", str(made.parent / "libmock.so"))
        monkeypatch.setenv("MOCK_CODE", str(made.parent / "kernels.so"))
    if request.param == "tenstorrent":
        monkeypatch.setenv("CDR_DEVICE", "emulated")
    return made


def opened(folder: Path) -> Session:
    """A session; the artefact made by hand lacks what only `verify` reads."""
    if folder.name != "cuda":
        return Session.open(folder)
    import json

    from cdrmix.runtime.device import open_engine

    manifest = json.loads((folder / "manifest.json").read_text())
    engine = open_engine(folder, manifest)
    return Session(engine, manifest, engine.start())


@pytest.fixture
def session(folder: Path) -> Iterator[Session]:
    with opened(folder) as found:
        yield found


class Whole:
    """A whole number that is no int."""

    def __index__(self) -> int:
        return 3


NO_TOKENS: list[Any] = [1.5, 1.0, True, np.True_, "1", b"1", None, -1, 40, 2**31, 2**63, 10**5000, [1]]
NO_TOKENS += [np.float32(1), np.array([1])]
NO_LISTS: list[Any] = ["12", b"12", bytearray(b"1"), 5, None, {1: 2}, {1}, np.ones((1, 2), int), np.int64(1)]


def test_what_is_no_token_is_refused(session: Session) -> None:
    session.prefill([1, 2])
    before = session.state()
    for bad in NO_TOKENS:
        for tokens in ([bad], [3, bad]):
            with pytest.raises(ArtifactError, match="token"):
                session.prefill(tokens)
        with pytest.raises(ArtifactError, match="token"):
            session.step(bad)
    for bad in NO_LISTS:
        with pytest.raises(ArtifactError, match="no list of tokens"):
            session.prefill(bad)
    assert session.tokens == 2
    assert all(np.array_equal(value, before[path]) for path, value in session.state().items())


def test_every_kind_of_whole_number_is_a_token(session: Session) -> None:
    wanted = session.prefill([3, 3, 3])
    same: list[Any] = [(3, 3, 3), np.array([3, 3, 3]), np.array([3] * 3, np.uint8), [np.int32(3), Whole(), 3]]
    for tokens in (*same, iter([3, 3, 3])):
        session.reset()
        found = session.prefill(tokens)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert session.latest == [3, 3, 3]


def test_a_closed_session_refuses_everything(folder: Path, tmp_path: Path) -> None:
    session = opened(folder)
    session.prefill([1])
    session.save(tmp_path / "s")
    twin = session.fork()
    session.close()
    session.close()
    twin.close()
    for one in (session, twin):
        calls: list[Callable[[], Any]] = [
            lambda one=one: one.prefill([1]),  # type: ignore[misc]
            lambda one=one: one.prefill([]),  # type: ignore[misc]
            lambda one=one: one.step(1),  # type: ignore[misc]
            one.reset,
            one.fork,
            one.state,
            lambda one=one: one.latest,  # type: ignore[misc]
            lambda one=one: one.save(tmp_path / "t"),  # type: ignore[misc]
            lambda one=one: one.load(tmp_path / "s"),  # type: ignore[misc]
        ]
        for call in calls:
            with pytest.raises(ArtifactError, match="is closed"):
                call()
    assert not (tmp_path / "t").exists()


def test_paths_that_are_none(session: Session, tmp_path: Path) -> None:
    session.prefill([1])
    for bad in (f"{tmp_path}/a\0b", 3, None):
        for call in (session.save, session.load, Session.open):
            with pytest.raises(ArtifactError, match="is no path"):
                call(bad)  # type: ignore[operator]
    assert not list(tmp_path.iterdir())


def test_nothing_to_read(session: Session, tmp_path: Path) -> None:
    """Gives the logits of before; a new document has none."""
    for _ in range(2):
        with pytest.raises(ArtifactError, match="empty prompt"):
            session.prefill([])
        session.save(tmp_path / "new")
        session.load(tmp_path / "new")
    wanted = session.prefill([1, 2, 3])
    fork = session.fork()
    assert np.array_equal(session.prefill([]), wanted) and np.array_equal(fork.prefill(()), wanted)
    session.step(4)
    assert np.array_equal(fork.prefill([]), wanted) and session.tokens == 4 and fork.tokens == 3
    session.reset()
    with pytest.raises(ArtifactError, match="empty prompt"):
        session.prefill([])


@pytest.mark.parametrize("seen", [1, 4, 5, 63, 64, 65, 130])
def test_a_saved_state_goes_on_bit_for_bit(folder: Path, session: Session, seen: int, tmp_path: Path) -> None:
    """The next token comes from what the file holds: no token is read again, none is lost."""
    vocab = min(session.vocab, 40)
    ids = [int(t) for t in np.random.default_rng(seen).integers(0, vocab, seen)]
    if folder.name == "tenstorrent" and seen > 5:
        ids = ids[-9:]  # the emulation is slow
    for token in ids:
        logits = session.step(token)
    session.save(tmp_path / "s")
    with opened(folder) as other:
        other.load(tmp_path / "s")
        assert other.tokens == session.tokens == len(ids) and other.latest == session.latest == ids[-64:]
        assert np.array_equal(other.prefill([]), logits)
        other.save(tmp_path / "t")
        assert (tmp_path / "s").read_bytes() == (tmp_path / "t").read_bytes()
        for _ in range(3):
            token = int(logits.argmax())
            logits = session.step(token)
            assert np.array_equal(other.step(token), logits)


class Letters:
    """A tokenizer of one or two letters a token; token 0 ends a text."""

    eot = 0

    def __init__(self, vocab: int):
        self.ids = list(range(vocab))

    def token(self, i: int) -> bytes:
        return b"a" * (i % 3 == 1) + bytes([97 + i % 26])

    def decode(self, ids: list[int]) -> bytes:
        return b"".join(map(self.token, ids))

    def encode(self, text: bytes, special: bool = False) -> list[int]:
        return [1 + byte % 5 for byte in text]


HOWS = [Sampling(0), Sampling(1.5, 0.95, seed=4), Sampling(1.0, top_k=5, repetition_penalty=3.0, seed=2**64 - 1)]


@pytest.mark.parametrize("how", HOWS, ids=["likeliest", "seeded", "penalised"])
def test_a_text_goes_on_wherever_it_was_cut(folder: Path, session: Session, how: Sampling, tmp_path: Path) -> None:
    """By count, by a stop text or by the end of the document: with its state the rest is what it would have been."""
    letters: Any = Letters(session.vocab)
    prompt, size = [1, 2, 3], 12 if folder.name == "tenstorrent" else 40
    session.prefill(prompt)
    whole = list(generate(session, prompt[:0], size, Sampler(how)))
    session.reset()
    session.prefill(prompt)
    text = b"".join(Writer(session, letters, how).write(size))
    assert text == letters.decode(whole[: whole.index(0)] if 0 in whole else whole)
    middle = text[len(text) // 2 :][:2]
    for count, stops in ((1, []), (5, []), (size, [middle]), (size, [middle + b"never", text[-1:]])):
        session.reset()
        session.prefill(prompt)
        said = b"".join(Writer(session, letters, how).write(count, stops))
        assert text.startswith(said) and not any(stop in said for stop in stops)
        session.save(tmp_path / "s")
        with opened(folder) as other:
            other.load(tmp_path / "s")
            assert other.latest[3:] == whole[: other.tokens - 3] or stops
            if letters.decode(other.latest[3:]) == said and other.latest[3:] == whole[: other.tokens - 3]:
                rest = b"".join(Writer(other, letters, how).write(size - other.tokens + 3))
                assert said + rest == text
            else:  # the stop text began inside a token, whose beginning was read as a token of its own
                assert stops and other.tokens > 3


def test_a_session_goes_back_to_its_fork_and_to_no_other(folder: Path, session: Session) -> None:
    wanted = session.prefill([1, 2])
    fork = session.fork()
    session.step(3)
    session.rewind(fork)
    assert session.tokens == 2 and session.latest == [1, 2] and np.array_equal(session.prefill([]), wanted)
    assert np.array_equal(session.step(4), fork.step(4))
    with opened(folder) as other, pytest.raises(ArtifactError, match="no fork"):
        session.rewind(other)


def test_what_is_no_state_is_refused_at_once(session: Session, tmp_path: Path) -> None:
    session.prefill([1])
    (tmp_path / "text").write_text("no state")
    for path in ("/dev/zero", "/dev/null", tmp_path / "text", tmp_path / "absent", tmp_path):
        with pytest.raises(ArtifactError, match="loading"):
            session.load(path)
    assert session.tokens == 1


def test_states_of_another_version_are_refused_in_a_sentence(session: Session, tmp_path: Path) -> None:
    session.prefill([1])
    session.save(tmp_path / "s")
    content = bytearray((tmp_path / "s").read_bytes())
    content[8] = 1
    (tmp_path / "s").write_bytes(content)
    with pytest.raises(ArtifactError, match="another version"):
        session.load(tmp_path / "s")


def test_a_state_of_torch_goes_on_in_c_and_back(folders: Callable[[str], Path], tmp_path: Path) -> None:
    with opened(folders("torch")) as torch, opened(folders("cpu")) as cpu:
        logits = torch.prefill([1, 2, 3, 4, 5, 6])
        torch.save(tmp_path / "s")
        cpu.load(tmp_path / "s")
        assert np.array_equal(cpu.prefill([]), logits) and cpu.latest == [1, 2, 3, 4, 5, 6]
        np.testing.assert_allclose(cpu.step(7), torch.step(7), rtol=1e-4, atol=1e-5)
        cpu.save(tmp_path / "t")
        torch.load(tmp_path / "t")
        np.testing.assert_allclose(torch.step(8), cpu.step(8), rtol=1e-4, atol=1e-5)


def test_streams_of_a_batch_are_those_of_sessions(session: Session) -> None:
    """Rows join, leave and go on alone; on targets without such programs they take turns."""
    exact = session.manifest["target"] in ("cpu", "tenstorrent", "torch")
    batch, alone = session.batch(3), [session.fork() for _ in range(3)]
    alone[0].reset(), alone[2].prefill([4, 5, 6])
    batch.put(2, alone[2])
    for tokens in ([1, 2, 3], [7, 8, 9]):
        logits = batch.step(tokens)
        for row, token in enumerate(tokens):
            same(logits[row], alone[row].step(token), exact)
    assert not batch.step([1, -1, 2])[1].any()
    alone[0].step(1), alone[2].step(2)
    with pytest.raises(ArtifactError, match="holds no state"):
        batch.take(1)
    with pytest.raises(ArtifactError, match="no row"):
        batch.put(3, alone[0])
    with pytest.raises(ArtifactError, match="3 rows, not 2"):
        batch.step([1, 2])
    with pytest.raises(ArtifactError, match="outside the vocabulary"):
        batch.step([1, -1, -2])
    taken = batch.take(2)
    assert taken.tokens == alone[2].tokens == 6
    same(taken.step(11), alone[2].step(11), exact)
    batch.close()
    with pytest.raises(ArtifactError, match="rows"):
        session.batch(0)


def same(found: np.ndarray, wanted: np.ndarray, exact: bool) -> None:
    """Bit for bit, or as near as a GPU's programs for one stream and for several are."""
    assert found.tobytes() == wanted.tobytes() if exact else np.allclose(found, wanted, rtol=1e-4, atol=1e-5)


Calls = list[tuple[list[int], bytes]]
"""What a stream has read, call by call, and the logits after each."""


def read(session: Session, ids: list[int]) -> bytes:
    return (session.step(ids[0]) if len(ids) == 1 else session.prefill(ids)).tobytes()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_stream_among_others_is_as_it_is_alone(folder: Path, session: Session, seed: int, tmp_path: Path) -> None:
    """Steps, prompts, forks, saved and loaded states in any order; every logit, bit for bit."""
    pick, vocab = random.Random(seed), min(session.vocab, 13)
    streams: list[tuple[Session, Calls]] = [(session.fork(), []) for _ in range(3)]
    files: list[tuple[Path, Calls]] = []
    for turn in range(14 if folder.name == "tenstorrent" else 90):
        at, which = pick.randrange(len(streams)), pick.random()
        stream, calls = streams[at]
        if which < 0.7:
            ids = [pick.randrange(vocab) for _ in range(pick.choice([1, 1, 1, 2, 7, 30 if turn > 20 else 3]))]
            calls.append((ids, read(stream, ids)))
        elif which < 0.8:
            streams[pick.randrange(len(streams))] = (stream.fork(), list(calls))
        elif which < 0.9 or not files:
            files.append((tmp_path / f"{turn}", list(calls)))
            stream.save(files[-1][0])
        else:
            path, calls = pick.choice(files)
            stream.load(path)
            streams[at] = (stream, list(calls))
    for _, calls in streams:
        alone = session.fork()
        for ids, logits in calls:
            assert read(alone, ids) == logits
