"""A session: one stream of tokens through an artefact, with its state as an explicit handle.

Input: an artefact's folder, for any target.  Output: logits a token, and a state that can be saved, loaded, forked.
Sessions of one folder opened by `fork` share the weights and nothing else.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from cdrmix.runtime.errors import ArtifactError

FORMAT = 1
KEYS: Mapping[str, type] = {
    "target": str, "model": str, "hash": str, "vocab": int, "spec": dict, "set": dict, "state": list,
    "stored": str,
}  # fmt: skip
"""What a manifest has to hold to be run and verified."""
ENGINES: Mapping[str, str] = {
    "cpu": "cdrmix.runtime.native",
    "torch": "cdrmix.runtime.torch.engine",
    "cuda": "cdrmix.runtime.device",
    "rocm": "cdrmix.runtime.device",
    "tenstorrent": "cdrmix.runtime.metalium.engine",
}
"""The module that runs each target's program; its `open_engine(folder, manifest)` returns an `Engine`."""


class Engine(Protocol):
    """A loaded program and its weights.  States are the engine's own; a session only hands them back."""

    how: str
    """`executed` on the device it was made for, or what stands for that here, in the words of the README's table."""

    def start(self) -> Any:
        """A new document's state."""

    def copy(self, state: Any) -> Any:
        """An independent copy of a state."""

    def prefill(self, state: Any, tokens: Sequence[int]) -> np.ndarray:
        """Advance the state by the tokens, in place; the logits after the last, float32 [vocab]."""

    def read(self, state: Any) -> dict[str, np.ndarray]:
        """The state by path, in the layout the manifest declares."""

    def save(self, state: Any, path: Path) -> None:
        """Write a state with the model's hash and its token count."""

    def load(self, path: Path) -> Any:
        """A state that `save` wrote; refuses another model's, and a damaged file."""

    def close(self) -> None:
        """Let go of the weights."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The artefact's manifest.  Raises `ArtifactError` where there is none, or one of another format."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ArtifactError(
            f"{folder} is not an artefact: no manifest.json", "give a folder `cdrmix compile` wrote"
        ) from e
    except (ValueError, RecursionError) as e:
        raise ArtifactError(f"{path} is damaged: {e}", "compile the spec again") from e
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ArtifactError(f"{path} is not of format {FORMAT}", "compile the spec again with this version")
    for key, kind in KEYS.items():
        if not isinstance(manifest.get(key), kind):
            raise ArtifactError(f"{path} is damaged: its `{key}` is no {kind.__name__}", "compile the spec again")
    return manifest


def require_weights(folder: Path) -> None:
    """Raise `ArtifactError` for an artefact that is a program alone."""
    if not (folder / "weights.safetensors").is_file():
        raise ArtifactError(f"{folder} holds no weights", "compile the spec again with --checkpoint, or with --seed 0")


class Session:
    """One stream.  `open` an artefact, `prefill` a prompt, `step` token by token."""

    def __init__(self, engine: Engine, manifest: Mapping[str, Any], state: Any, tokens: int = 0):
        self._engine, self.manifest, self._state = engine, manifest, state
        self.vocab: int = manifest["vocab"]
        self.how = engine.how
        self.tokens = tokens
        """How many tokens this document has so far."""

    @classmethod
    def open(cls, folder: str | Path) -> Session:
        """Open an artefact of any target this machine can run."""
        folder = Path(folder)
        manifest = read_manifest(folder)
        module = ENGINES.get(manifest["target"])
        if module is None:
            raise ArtifactError(f"no runtime here for target `{manifest['target']}`", f"it runs {', '.join(ENGINES)}")
        require_weights(folder)
        engine: Engine = importlib.import_module(module).open_engine(folder, manifest)
        return cls(engine, manifest, engine.start())

    def prefill(self, tokens: Sequence[int]) -> np.ndarray:
        """Read a prompt; the logits for the token after it, float32 [vocab]."""
        if len(tokens) == 0:
            raise ArtifactError("an empty prompt has no next token", "give at least one token")
        for token in tokens:
            if not 0 <= token < self.vocab:
                raise ArtifactError(
                    f"token {token} is outside the vocabulary of {self.vocab}", "use the artefact's tokenizer"
                )
        logits = self._engine.prefill(self._state, tokens)
        self.tokens += len(tokens)
        return logits

    def step(self, token: int) -> np.ndarray:
        """Read one token; the logits for the next, float32 [vocab]."""
        return self.prefill((token,))

    def reset(self) -> None:
        """Begin a new document."""
        self._state, self.tokens = self._engine.start(), 0

    def fork(self) -> Session:
        """Another stream that begins where this one stands."""
        return Session(self._engine, self.manifest, self._engine.copy(self._state), self.tokens)

    def state(self) -> dict[str, np.ndarray]:
        """The state by path: the manifest's layout, plus a history's `.count` and `pos`."""
        return self._engine.read(self._state)

    def save(self, path: str | Path) -> None:
        """Write the state to a file, atomically."""
        self._engine.save(self._state, Path(path))

    def load(self, path: str | Path) -> None:
        """Continue from a saved state.  A file of another model, or a damaged one, is refused and changes nothing."""
        state = self._engine.load(Path(path))
        self._state, self.tokens = state, int(self._engine.read(state)["pos"])

    def close(self) -> None:
        """Let go of the weights; forks of this session end with it."""
        self._engine.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
