"""Run a `torch` artefact: its module, one document at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from cdrmix.runtime.errors import ArtifactError
from cdrmix.runtime.outputs import output
from cdrmix.runtime.torch.load import load_module
from safetensors import SafetensorError
from safetensors.torch import load_file

State = dict[str, torch.Tensor]


class TorchEngine:
    """The generated module with its weights; states are its dicts, with a batch of one."""

    how = "executed"

    def __init__(self, folder: Path, manifest: Mapping[str, Any]):
        self._hash: str = manifest["hash"]
        try:
            self._model = load_module(folder / "model.py").Model(init=False)
            self._model.load_state_dict(load_file(str(folder / "weights.safetensors")))
        except (OSError, RuntimeError, ValueError, SafetensorError) as e:
            raise ArtifactError(f"{folder} cannot be opened: {e}", "compile the spec again") from e
        self._model.eval()
        self._open = True

    def start(self) -> State:
        """A new document's state."""
        self._check_open()
        state: State = self._model.init_state(1)
        return state

    def copy(self, state: State) -> State:
        """An independent copy."""
        return {path: x.clone() for path, x in state.items()}

    @torch.no_grad()
    def prefill(self, state: State, tokens: Sequence[int]) -> np.ndarray:
        """The logits after the last token, float32 [vocab]."""
        self._check_open()
        ids = torch.tensor(list(tokens), dtype=torch.int64)
        if len(ids) == 1:
            logits, after = self._model.step(ids, state)
        else:
            logits, after = self._model(ids[None], state)
            logits = logits[:, -1]
        state.update(after)
        out: np.ndarray = logits[0].float().numpy()
        return out

    def read(self, state: State) -> dict[str, np.ndarray]:
        """Every slot, without the batch axis."""
        return {path: x[0].detach().numpy().astype(np.float32) for path, x in state.items()}

    def save(self, state: State, path: Path) -> None:
        """Write the state as .npz, with the model's hash."""
        try:
            with output(path) as f:
                np.savez(f, __hash__=np.array(self._hash), **{p: x.numpy() for p, x in state.items()})  # type: ignore[arg-type]
        except OSError as e:
            raise ArtifactError(f"cannot write {path}: {e.strerror}", "give a place that can be written") from e

    def load(self, path: Path) -> State:
        """A saved state."""
        want = self.start()
        try:
            with np.load(path, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
        # TypeError: one array, which numpy reads too; NotImplementedError: packed in a way that zipfile lacks
        except (OSError, ValueError, EOFError, KeyError, TypeError, NotImplementedError, BadZipFile) as e:
            raise ArtifactError(f"{path} is not a saved state ({e})", "give a file that `save` wrote") from e
        if str(found.pop("__hash__", "")) != self._hash:
            raise ArtifactError(f"{path} is the state of another model", "load it with the artefact that saved it")
        kinds = {n: (x.shape, x.dtype) for n, x in found.items()}
        if kinds != {n: (tuple(x.shape), x.numpy().dtype) for n, x in want.items()}:
            raise ArtifactError(f"{path} is damaged: its tensors are not this model's", "save the state again")
        return {name: torch.from_numpy(x) for name, x in found.items()}

    def close(self) -> None:
        """Let go of the weights."""
        self._open, self._model = False, None

    def _check_open(self) -> None:
        if not self._open:
            raise ArtifactError("the session is closed", "open the artefact again")


def open_engine(folder: Path, manifest: Mapping[str, Any]) -> TorchEngine:
    """The engine of a `torch` artefact."""
    return TorchEngine(folder, manifest)
