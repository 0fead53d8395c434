"""A session: one stream of tokens through an artefact, with its state as an explicit handle.

Input: an artefact's folder, for any target.  Output: logits a token, and a state that can be saved, loaded, forked.
Sessions of one folder opened by `fork` share the weights and nothing else.
"""

from __future__ import annotations

import importlib.util
import json
import operator
import os
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from cdrmix.runtime.batch import EMPTY, Rows, check_row, check_rows
from cdrmix.runtime.errors import ArtifactError
from cdrmix.runtime.files import check_files, check_manifest

FORMAT = 1
KEYS: Mapping[str, type] = {
    "target": str, "engine": str, "model": str, "hash": str, "vocab": int, "spec": dict, "set": dict, "state": list,
    "stored": str, "files": dict,
}  # fmt: skip
"""What a manifest has to hold to be run and verified."""


class Engine(Protocol):
    """A loaded program and its weights.  States are the engine's own; a session only hands them back."""

    how: str
    """`executed` on the device it was made for, or what stands for that here, in the words of the README's table."""

    state_bytes: int
    """The memory that a copy of a state takes, its logits and latest tokens included."""

    about: str
    """What computes, for people: the kernels in use, or the device."""

    threads: int
    """How many threads of this machine compute; 0 where a device does."""

    def start(self) -> Any:
        """A new document's state."""

    def copy(self, state: Any) -> Any:
        """An independent copy of a state."""

    closed: bool
    """Whether `close` was called; then nothing else may be."""

    def prefill(self, state: Any, tokens: Sequence[int]) -> np.ndarray | None:
        """Advance the state by the tokens, in place; the logits after the last, float32 [vocab].

        No tokens give the logits of before, which a state keeps; None when it has none.
        """

    def batch(self, rows: int) -> Rows:
        """Streams that step together."""

    def set_threads(self, threads: int) -> None:
        """How many threads read prompts and make steps, for a target that runs on the processor."""

    def latest(self, state: Any) -> list[int]:
        """The latest tokens that the state has seen, the oldest of them first: at most `saved.LATEST`."""

    def read(self, state: Any) -> dict[str, np.ndarray]:
        """The state by path, in the layout the manifest declares."""

    def save(self, state: Any, path: Path) -> None:
        """Write a state with the model's hash, its token count, its logits and its latest tokens."""

    def load(self, path: Path) -> Any:
        """A state that `save` wrote; refuses another model's, and a damaged file."""

    def close(self) -> None:
        """Let go of the weights."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The artefact's manifest.  Raises `ArtifactError` where there is none, or one of another format."""
    path = folder / "manifest.json"
    try:
        text = path.read_bytes()
        manifest = json.loads(text)
    except OSError as e:
        raise ArtifactError(
            f"{folder} is not an artefact: no manifest.json", "give a folder `cdrmix compile` wrote"
        ) from e
    except (ValueError, RecursionError) as e:
        raise ArtifactError(f"{path} is damaged: {e}", "compile the spec again") from e
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ArtifactError(f"{path} is not of format {FORMAT}", "compile the spec again with this version")
    if "engine" not in manifest:
        raise ArtifactError(f"{path} names no engine: an earlier version wrote it", "compile the spec again")
    for key, kind in KEYS.items():
        if not isinstance(manifest.get(key), kind):
            raise ArtifactError(f"{path} is damaged: its `{key}` is no {kind.__name__}", "compile the spec again")
    check_manifest(path, text)
    return manifest


def require_weights(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise `ArtifactError` for an artefact that is a program alone."""
    if "weights.safetensors" not in manifest["files"]:
        raise ArtifactError(f"{folder} holds no weights", "compile the spec again with --checkpoint, or with --seed 0")


def _engine_of(manifest: Mapping[str, Any]) -> ModuleType:
    """The module that runs an artefact's program: its `open_engine(folder, manifest)` returns an `Engine`, and its
    `COMPARES` names the files that it compares with the manifest itself, as it reads them."""
    name = manifest["engine"]
    try:
        known = name.startswith("cdrmix.") and importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        known = False
    if not known:
        raise ArtifactError(f"no runtime here for target `{manifest['target']}`: no {name}", "install the backend")
    return importlib.import_module(name)


class Session:
    """One stream.  `open` an artefact, `prefill` a prompt, `step` token by token."""

    def __init__(self, engine: Engine, manifest: Mapping[str, Any], state: Any, tokens: int = 0):
        self._engine, self.manifest, self._state = engine, manifest, state
        self.vocab: int = manifest["vocab"]
        self.how = engine.how
        self.state_bytes = engine.state_bytes
        """The memory that a fork takes besides the weights."""
        self.tokens = tokens
        """How many tokens this document has so far."""

    @classmethod
    def open(cls, folder: str | Path, threads: int | None = None) -> Session:
        """Open an artefact of any target this machine can run, with so many threads as `set_threads` takes."""
        folder = _path(folder)
        manifest = read_manifest(folder)
        opens = _engine_of(manifest)
        require_weights(folder, manifest)
        check_files(folder, manifest, without=opens.COMPARES)
        engine: Engine = opens.open_engine(folder, manifest)
        session = cls(engine, manifest, engine.start())
        if threads is not None:
            try:
                session.set_threads(threads)
            except ArtifactError:
                session.close()
                raise
        return session

    def prefill(self, tokens: Sequence[int]) -> np.ndarray:
        """Read a prompt; the logits for the token after it, float32 [vocab].

        An empty one gives the logits after the last token, also after `load`.
        """
        ids = token_ids(tokens, self.vocab)
        logits = self._opened().prefill(self._state, ids)
        if logits is None:
            raise ArtifactError("an empty prompt has no next token", "give at least one token")
        self.tokens += len(ids)
        return logits

    def step(self, token: int) -> np.ndarray:
        """Read one token; the logits for the next, float32 [vocab]."""
        return self.prefill((token,))

    @property
    def latest(self) -> list[int]:
        """The latest tokens of this document, 64 at most, the oldest of them first."""
        return self._opened().latest(self._state)

    def batch(self, rows: int) -> Batch:
        """A batch of this artefact's streams, none of them this one."""
        return Batch(self, self._opened().batch(check_rows(rows)))

    def set_threads(self, threads: int) -> None:
        """How many threads this artefact's sessions use; the results are the same for every number."""
        if threads < 1:
            raise ArtifactError(f"{threads} threads can do nothing", "give 1 or more")
        self._opened().set_threads(threads)

    def reset(self) -> None:
        """Begin a new document."""
        self._state, self.tokens = self._opened().start(), 0

    def fork(self) -> Session:
        """Another stream that begins where this one stands."""
        return Session(self._engine, self.manifest, self._opened().copy(self._state), self.tokens)

    def shares(self, other: Session) -> bool:
        """Whether both run on the same opened weights, as forks do: then a state of one is a state of the other."""
        return other._engine is self._engine

    def rewind(self, to: Session) -> None:
        """Go back to where a fork of this session stands."""
        if not self.shares(to):
            raise ArtifactError("the other session is no fork of this one", "give one that `fork` made")
        self._state, self.tokens = self._opened().copy(to._state), to.tokens

    @property
    def about(self) -> str:
        """What computes, for people: the kernels in use, or the device."""
        return self._opened().about

    @property
    def threads(self) -> int:
        """How many threads of this machine compute; 0 where a device does."""
        return self._opened().threads

    def state(self) -> dict[str, np.ndarray]:
        """The state by path: the manifest's layout, plus a history's `.count` and `pos`."""
        return self._opened().read(self._state)

    def save(self, path: str | Path) -> None:
        """Write the state to a file, atomically: what was read, and the logits for the token that comes next."""
        self._opened().save(self._state, _path(path))

    def load(self, path: str | Path) -> None:
        """Continue from a saved state.  A file of another model, or a damaged one, is refused and changes nothing."""
        state = self._opened().load(_path(path))
        self._state, self.tokens = state, int(self._engine.read(state)["pos"])

    def close(self) -> None:
        """Let go of the weights; forks of this session end with it.  Once more does nothing."""
        if not self._engine.closed:
            self._engine.close()

    def _opened(self) -> Engine:
        if self._engine.closed:
            raise ArtifactError("the session is closed", "open the artefact again")
        return self._engine

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Batch:
    """Streams of one artefact that step together; a row that nothing was put into begins a document.

    A stream gives the numbers in a batch that it gives alone: on `cpu` and `tenstorrent` the same bits.
    """

    def __init__(self, session: Session, rows: Rows):
        self._session, self._rows, self._tokens = session, rows, [0] * rows.rows
        self.rows = rows.rows

    def put(self, row: int, session: Session) -> None:
        """Copy a session's stream into a row."""
        if not self._session.shares(session):
            raise ArtifactError("the session is of another artefact", "give one that `fork` made")
        self._rows.put(check_row(row, self.rows), session._state)
        self._tokens[row] = session.tokens

    def take(self, row: int) -> Session:
        """A session that goes on where a row stands."""
        state = self._rows.take(check_row(row, self.rows))
        return Session(self._session._engine, self._session.manifest, state, self._tokens[row])

    def step(self, tokens: Sequence[int]) -> np.ndarray:
        """Read a token of every row, or -1, which lets go of what a row holds; the logits, float32 [rows, vocab]."""
        ids = [EMPTY if token == EMPTY else token_ids([token], self._session.vocab)[0] for token in tokens]
        logits = self._rows.step(ids)
        logits[np.equal(ids, EMPTY)] = 0
        self._tokens = [0 if t == EMPTY else n + 1 for n, t in zip(self._tokens, ids, strict=True)]
        return logits

    def close(self) -> None:
        """Let go of all rows."""
        self._rows.close()


def token_ids(tokens: Sequence[int], vocab: int) -> list[int]:
    """The tokens as ints.  Whatever is no list of whole numbers inside the vocabulary is refused."""
    help = "give a list of token ids; a tokenizer's `encode` makes them from text"
    if isinstance(tokens, str | bytes | bytearray | Mapping | Set) or getattr(tokens, "ndim", 1) != 1:
        raise ArtifactError(f"{_short(tokens)} is no list of tokens", help)
    try:
        given = list(tokens)
    except TypeError as e:
        raise ArtifactError(f"{_short(tokens)} is no list of tokens", help) from e
    return [_token(token, vocab, help) for token in given]


def _token(token: Any, vocab: int, help: str) -> int:
    try:
        found = None if isinstance(token, bool | np.bool_) or getattr(token, "ndim", False) else operator.index(token)
    except TypeError:
        found = None
    if found is None:
        raise ArtifactError(f"{_short(token)} is no token: it is no whole number", help)
    if not 0 <= found < vocab:
        raise ArtifactError(
            f"token {_short(found)} is outside the vocabulary of {vocab}", "use the artefact's tokenizer"
        )
    return found


def _short(value: Any) -> str:
    """A value as a message names it."""
    try:
        text = repr(value)
    except ValueError:  # an int of thousands of digits
        text = "a huge number"
    return text if len(text) <= 40 else f"{text[:37]}..."


def _path(path: str | Path) -> Path:
    if not isinstance(path, str | os.PathLike) or "\0" in os.fspath(path):
        raise ArtifactError(f"{path!r} is no path", "give the name of a file or folder")
    return Path(path)
