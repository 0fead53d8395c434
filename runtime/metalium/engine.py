"""Run a `tenstorrent` artefact: on a card, on a simulated one, or over the emulation of the few ttnn names it uses.

One state is in L1, that of the stream that ran last.  Another stream's waits in the host's memory, and changes places
with it when its turn comes.
"""

from __future__ import annotations

import importlib
import math
import os
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from cdrmix.runtime import saved
from cdrmix.runtime.batch import InTurn
from cdrmix.runtime.encodings import read_file
from cdrmix.runtime.errors import ArtifactError, NoDevice

from .host import Model
from .states import from_words, kept, to_words
from .weights import DamagedWeights

EMULATED = "emulated"
"""As CDR_DEVICE, asks for the emulation; a number picks a card."""

EMULATION = "cdrmix.runtime.metalium.emulated"

COMPARES: tuple[str, ...] = ()
"""The files that it compares with the manifest itself."""


class State:
    """A stream's state: its lines' words [cores, words] on the host, or None while it is in L1.

    `logits` are those after its last token, `latest` its latest tokens.
    """

    __slots__ = ("__weakref__", "latest", "logits", "tokens", "words")

    def __init__(
        self, words: list[np.ndarray], tokens: int, logits: np.ndarray | None = None, latest: Sequence[int] = ()
    ):
        self.words: list[np.ndarray] | None = words
        self.tokens, self.logits, self.latest = tokens, logits, list(latest)


class MetaliumEngine:
    """The artefact's host program with its states."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any], ttnn: Any, how: str, **which: Any):
        """`which` device: what `ttnn.open_device` takes."""
        self.how, self.closed = how, False
        self.about, self.threads = f"Tenstorrent {_board(manifest)}", 0
        self._ttnn, self._slots = ttnn, manifest["state"]
        self._device: Any = None
        self._model: Model | None = None
        self._resident: weakref.ref[State] | None = None
        try:
            self._device = ttnn.open_device(**which)
            self._model = Model(ttnn, self._device, folder, manifest)
            fingerprint = saved.fingerprint(*read_file(folder / "weights.safetensors"))
            self._kind = saved.Kind(manifest["hash"], fingerprint, self._slots, manifest["vocab"])
            words = sum(x.nbytes for x in self._model.start)
            self.state_bytes = words + 4 * (self._kind.vocab + saved.LATEST)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, DamagedWeights) as e:
            self.close()
            raise ArtifactError(f"{folder} cannot be opened: {e}", "compile the spec again") from e
        except RuntimeError as e:
            self.close()
            raise ArtifactError(f"opening {folder}: {e}") from e

    def _opened(self) -> Model:
        if self._model is None:
            raise ArtifactError("the session is closed", "open the artefact again")
        return self._model

    def start(self) -> State:
        """A new document's state."""
        return State(list(self._opened().start), 0)

    def copy(self, state: State) -> State:
        """An independent copy."""
        return State(list(self._words(state)), state.tokens, state.logits, state.latest)

    def prefill(self, state: State, tokens: Sequence[int]) -> np.ndarray | None:
        """See `Engine`."""
        model = self._opened()
        try:
            self._bring(state)
            for n, token in enumerate(tokens):
                state.logits = model.step(int(token), state.tokens, wants_logits=n + 1 == len(tokens))
                state.tokens += 1
                state.latest = [*state.latest, int(token)][-saved.LATEST :]
        except RuntimeError as e:
            self._resident = None  # what is in L1 now is no state
            raise ArtifactError(f"running the model: {e}") from e
        return state.logits.copy() if state.logits is not None else None

    def batch(self, rows: int) -> InTurn:
        """See `Engine`."""
        return InTurn(self, rows, self._kind.vocab)

    def set_threads(self, threads: int) -> None:
        """See `Engine`."""
        raise ArtifactError("an artefact of a card has no threads to set", "leave them away")

    def latest(self, state: State) -> list[int]:
        """See `Engine`."""
        return list(state.latest)

    def read(self, state: State) -> dict[str, np.ndarray]:
        """Every slot in the manifest's layout."""
        found: dict[str, np.ndarray] = {}
        for call, words in zip(self._opened().calls, self._words(state), strict=True):
            found |= from_words(call["state"], words, state.tokens)
        ordered: dict[str, np.ndarray] = {}
        for slot in self._slots:
            path, shape = slot["path"], slot["shape"]
            # a history of this token alone keeps nothing
            ordered[path] = found[path].reshape(shape) if math.prod(shape) else np.zeros(shape, np.float32)
            if slot["kind"] == "history":
                window = slot["shape"][len(slot["banks"])] + 1
                ordered[f"{path}.count"] = np.full(slot["banks"], kept(window, state.tokens), np.float32)
        ordered["pos"] = np.array(state.tokens)
        return ordered

    def save(self, state: State, path: Path) -> None:
        """Write the state to a file."""
        saved.write(path, self._kind, saved.Saved(self.read(state), state.tokens, state.logits, state.latest))

    def load(self, path: Path) -> State:
        """A saved state."""
        found, model = saved.read(path, self._kind), self._opened()
        for slot, entries in ((slot, n) for slot, (_, _, n) in zip(self._slots, self._kind.pieces(), strict=True) if n):
            if np.any(found.values[f"{slot['path']}.count"] != min(found.tokens, entries)):
                raise ArtifactError(f"loading {path}: it is damaged", "give a state that this artefact saved")
        words = [to_words(call["state"], model.cores_of(call), found.values, found.tokens) for call in model.calls]
        return State(words, found.tokens, found.logits, found.latest)

    def close(self) -> None:
        """Let go of the device."""
        self.closed = True
        self._model, self._resident = None, None
        if self._device is not None:
            self._ttnn.close_device(self._device)
            self._device = None

    def _words(self, state: State) -> list[np.ndarray]:
        """A state's words, wherever they are; they are not to be written to."""
        model = self._opened()
        if state.words is not None:
            return state.words
        if self._resident is None or self._resident() is not state:
            raise ArtifactError(
                "the state was lost in a run that failed", "begin a new document, or load a saved state"
            )
        return model.take_state()

    def _bring(self, state: State) -> None:
        """Put a state into L1; the one that is there moves to the host, unless nobody has it any more."""
        model = self._opened()
        there = self._resident() if self._resident else None
        if there is state:
            return
        words = self._words(state)
        if there is not None:
            there.words = model.take_state()
        self._resident = None  # until all of it is there
        model.put_state(words)
        state.words, self._resident = None, weakref.ref(state)


def find_device() -> tuple[Any, str, int]:
    """ttnn or what stands for it, the word for running there, and the card's number.  Raises `NoDevice`."""
    asked = os.environ.get("CDR_DEVICE", "0")
    if asked == EMULATED:
        return _emulation(), EMULATED, 0
    remedy = f"run it where its card is; CDR_DEVICE={EMULATED} runs its kernels on this CPU, as `cdrmix verify` does"
    if not asked.isdecimal():
        raise ArtifactError(f"CDR_DEVICE is `{asked}`", f"give a card's number, or `{EMULATED}`")
    try:
        ttnn = importlib.import_module("ttnn")
    except ImportError as e:
        raise NoDevice(f"ttnn cannot be imported ({e})", remedy) from e
    if os.environ.get("TT_METAL_SIMULATOR"):
        return ttnn, "simulated", int(asked)
    try:
        count = int(ttnn.get_num_devices())
    except RuntimeError as e:
        raise NoDevice(f"no Tenstorrent card can be asked for ({e})", remedy) from e
    if int(asked) >= count:
        raise NoDevice(f"no Tenstorrent card {asked}: {count} here", remedy)
    return ttnn, "executed", int(asked)


def _board(manifest: Mapping[str, Any]) -> str:
    """The card that an artefact is made for."""
    found = manifest.get("metalium")
    return str(found.get("device", "")) if isinstance(found, Mapping) else ""


def _emulation() -> ModuleType:
    return importlib.import_module(EMULATION)


def open_engine(folder: Path, manifest: Mapping[str, Any]) -> MetaliumEngine:
    """The engine of a `tenstorrent` artefact."""
    ttnn, how, number = find_device()
    if how == EMULATED:
        return open_emulated(folder, manifest)
    return MetaliumEngine(folder, manifest, ttnn, how, device_id=number)


def open_emulated(folder: Path, manifest: Mapping[str, Any]) -> MetaliumEngine:
    """The same over the emulation."""
    return MetaliumEngine(folder, manifest, _emulation(), EMULATED, board=_board(manifest))
