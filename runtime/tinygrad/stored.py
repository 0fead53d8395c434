"""An artefact's weights as they are stored, mapped from `weights.safetensors`.

Input: the file.  Output: numpy arrays by name; bf16, which numpy does not have, as its bits in uint16.
"""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import numpy as np

TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "<i1"}


def read_stored(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of the file; nothing is read before it is used."""
    data = np.memmap(path, np.uint8, "r")
    size = int(data[:8].view("<u8")[0])
    header = json.loads(data[8 : 8 + size].tobytes())
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            at, end = (8 + size + offset for offset in entry["data_offsets"])
            values = np.asarray(data[at:end].view(TYPES[entry["dtype"]]))  # tinygrad takes no memmap
            found[name] = values[: prod(entry["shape"])].reshape(entry["shape"])
    return found
