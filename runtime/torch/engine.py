"""Run a `torch` artefact: its module, one document at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cdrmix.runtime import saved
from cdrmix.runtime.batch import InTurn
from cdrmix.runtime.encodings import read_file, widen_all
from cdrmix.runtime.errors import ArtifactError
from cdrmix.runtime.torch.load import load_module

COMPARES: tuple[str, ...] = ()
"""The files that it compares with the manifest itself."""


@dataclass(slots=True)
class State:
    """The module's dict with a batch of one, the logits after the last token, and the latest tokens."""

    tensors: dict[str, torch.Tensor]
    logits: np.ndarray | None = None
    latest: tuple[int, ...] = ()


class TorchEngine:
    """The generated module with its weights."""

    how = "executed"
    closed = False
    about = f"torch {torch.__version__}"

    def __init__(self, folder: Path, manifest: Mapping[str, Any]):
        try:
            planes, said = read_file(folder / "weights.safetensors")
            held = widen_all(planes, manifest["tensors"])
            values = {path: torch.from_numpy(np.array(x)) for path, x in held.items()}
            self._model = load_module(folder / "model.py").Model(init=False)
            self._model.load_state_dict(values)
            fingerprint = saved.fingerprint(planes, said)
        except (OSError, RuntimeError, KeyError, TypeError, ValueError) as e:
            raise ArtifactError(f"{folder} cannot be opened: {e}", "compile the spec again") from e
        self._kind = saved.Kind(manifest["hash"], fingerprint, manifest["state"], manifest["vocab"])
        self._model.eval()
        tensors = self._model.init_state(1).values()
        self.state_bytes = sum(x.nbytes for x in tensors) + 4 * (manifest["vocab"] + saved.LATEST)

    def start(self) -> State:
        """A new document's state."""
        self._check_open()
        return State(self._model.init_state(1))

    def copy(self, state: State) -> State:
        """An independent copy."""
        self._check_open()
        return State({path: x.clone() for path, x in state.tensors.items()}, state.logits, state.latest)

    @torch.no_grad()
    def prefill(self, state: State, tokens: Sequence[int]) -> np.ndarray | None:
        """See `Engine`."""
        self._check_open()
        ids = torch.tensor(list(tokens), dtype=torch.int64)
        if len(ids):
            if len(ids) == 1:
                logits, after = self._model.step(ids, state.tensors)
            else:
                logits, after = self._model(ids[None], state.tensors)
                logits = logits[:, -1]
            state.tensors.update(after)
            state.logits = logits[0].float().numpy()
            state.latest = (*state.latest, *ids.tolist())[-saved.LATEST :]
        return None if state.logits is None else state.logits.copy()

    def batch(self, rows: int) -> InTurn:
        """See `Engine`."""
        return InTurn(self, rows, self._kind.vocab)

    def set_threads(self, threads: int) -> None:
        """See `Engine`; torch has one number of threads for the whole process."""
        torch.set_num_threads(threads)

    def latest(self, state: State) -> list[int]:
        """See `Engine`."""
        return list(state.latest)

    def read(self, state: State) -> dict[str, np.ndarray]:
        """Every slot, without the batch axis."""
        self._check_open()
        found = {path: x[0].detach().numpy().astype(np.float32) for path, x in state.tensors.items()}
        return found | {"pos": state.tensors["pos"][0].numpy()}  # float32 counts to 2^24 only

    def save(self, state: State, path: Path) -> None:
        """Write the state to a file."""
        found = self.read(state)
        saved.write(path, self._kind, saved.Saved(found, int(state.tensors["pos"][0]), state.logits, state.latest))

    def load(self, path: Path) -> State:
        """A saved state."""
        want = self.start().tensors
        found = saved.read(path, self._kind)
        values = {**found.values, "pos": np.array(found.tokens)}
        tensors = {name: torch.from_numpy(np.array(values[name])).to(x.dtype)[None] for name, x in want.items()}
        return State(tensors, found.logits, tuple(found.latest))

    @property
    def threads(self) -> int:
        """See `Engine`."""
        return torch.get_num_threads()

    def close(self) -> None:
        """Let go of the weights."""
        self.closed, self._model = True, None

    def _check_open(self) -> None:
        if self.closed:
            raise ArtifactError("the session is closed", "open the artefact again")


def open_engine(folder: Path, manifest: Mapping[str, Any]) -> TorchEngine:
    """The engine of a `torch` artefact."""
    return TorchEngine(folder, manifest)
