"""The tensors of a safetensors file, mapped: one is in memory while it is used, and no other.

Input: `weights.safetensors`.  Output: arrays by name in f32, bf16 widened, which loses nothing.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import numpy as np

STORAGE = {"F32": "<f4", "BF16": "<u2"}
"""The numpy type of each; numpy has no bf16, so it is held by its bits."""


class DamagedWeights(Exception):
    """A file that is no whole safetensors file of these types."""


class Weights:
    """The file's tensors by name."""

    def __init__(self, path: Path):
        self._bytes = np.memmap(path, np.uint8, "r")
        size = len(self._bytes)
        try:
            (length,) = struct.unpack("<Q", self._bytes[:8].tobytes())
            if length > size - 8:
                raise ValueError("its header is cut short")
            header = json.loads(self._bytes[8 : 8 + length].tobytes())
            self._entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            for name, entry in self._entries.items():
                begin, end = entry["data_offsets"]
                unit = np.dtype(STORAGE[entry["dtype"]]).itemsize
                if not 0 <= begin <= end <= size - 8 - length or end - begin != unit * math.prod(entry["shape"]):
                    raise ValueError(f"{name} is cut short")
        except (struct.error, ValueError, KeyError, TypeError, AttributeError) as e:
            raise DamagedWeights(f"{path} is damaged: {e}") from e
        self._path, self._data = path, 8 + length

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> np.ndarray:
        """A copy in f32."""
        if name not in self._entries:
            raise DamagedWeights(f"{self._path} has no tensor {name}")
        entry = self._entries[name]
        begin, end = (self._data + at for at in entry["data_offsets"])
        held = self._bytes[begin:end].view(STORAGE[entry["dtype"]]).reshape(entry["shape"])
        if entry["dtype"] == "BF16":
            return (held.astype(np.uint32) << 16).view(np.float32)
        return np.array(held)
