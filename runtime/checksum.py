"""The checksum of an artefact's files: finds accidents, as fast as memory is read.  The twin of `gpu/checksum.h`.

64-bit FNV-1a over little-endian words of eight bytes in `LANES` lanes side by side, the end filled up with zeros to a
whole row; then FNV-1a over the lanes and the length.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

LANES = 1024
ROW = 8 * LANES
_START, _PRIME, _MASK = 0xCBF29CE484222325, 0x100000001B3, (1 << 64) - 1


def checksum(pieces: Iterable[bytes]) -> str:
    """The checksum of the pieces one after another, as 16 hexadecimal digits."""
    lanes = np.full(LANES, _START, np.uint64)
    prime, rest, size = np.uint64(_PRIME), b"", 0
    for piece in pieces:
        size += len(piece)
        rest += piece
        whole = len(rest) - len(rest) % ROW
        for row in np.frombuffer(rest[:whole], "<u8").reshape(-1, LANES):
            lanes ^= row
            lanes *= prime
        rest = rest[whole:]
    if rest:
        lanes ^= np.frombuffer(rest.ljust(ROW, b"\0"), "<u8")
        lanes *= prime
    last = _START
    for value in (*lanes.tolist(), size):
        last = ((last ^ value) * _PRIME) & _MASK
    return f"{last:016x}"


def file_checksum(path: Path) -> str:
    """The checksum of a file."""
    with path.open("rb") as f:
        return checksum(iter(lambda: f.read(1 << 20), b""))
