"""The file of a saved state: what the other targets write too (`runtime/c/saved.c`).

    "CDRSTATE", version, model hash, weights' fingerprint, tokens, payload size | payload | checksum

The payload is the canonical layout in the manifest's order, f32; a history has its count in front.  Numbers are
little-endian.  A file of another model, of other weights, or a damaged one is refused.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cdrmix.runtime.errors import ArtifactError
from cdrmix.runtime.outputs import output

MAGIC, VERSION = b"CDRSTATE", 1
HEADER = struct.Struct("<8sQ32sQQQ")
START, PRIME, MASK = 0xCBF29CE484222325, 0x100000001B3, (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Kind:
    """What a file has to be of: the model, its weights, and the manifest's slots."""

    hash: str
    fingerprint: int
    slots: Sequence[Mapping[str, Any]]

    def pieces(self) -> Iterator[tuple[str, int, int]]:
        """Each part of the payload: its path, how many instances it has, and the entries of a history (0: a state)."""
        for slot in self.slots:
            banks = math.prod(slot["banks"])
            yield slot["path"], banks, slot["shape"][len(slot["banks"])] if slot["kind"] == "history" else 0

    def size(self) -> int:
        """Bytes of the payload."""
        counts: int = sum(math.prod(slot["banks"]) for slot in self.slots if slot["kind"] == "history")
        floats: int = sum(math.prod(slot["shape"]) for slot in self.slots)
        return int(4 * (counts + floats))


def fnv(data: bytes, value: int = START) -> int:
    """FNV-1a, 64 bits: finds accidents, not attacks."""
    for byte in data:
        value = (value ^ byte) * PRIME & MASK
    return value


def fingerprint(folder: Path, manifest: Mapping[str, Any]) -> int:
    """A name for the weights: of the checksum of their file."""
    entry = manifest["files"]["weights.safetensors"]
    return fnv(str(entry["checksum"]).encode())


def write(path: Path, kind: Kind, values: Mapping[str, np.ndarray]) -> None:
    """Write a state, atomically."""
    tokens = int(values["pos"])
    header = HEADER.pack(MAGIC, VERSION, bytes.fromhex(kind.hash), kind.fingerprint, tokens, kind.size())
    data = header + b"".join(_payload(kind, values))
    try:
        with output(path) as f:
            f.write(data + struct.pack("<Q", fnv(data)))
    except OSError as e:
        raise ArtifactError(f"saving {path}: it cannot be written ({e.strerror})", "give a file that can be") from e


def _payload(kind: Kind, values: Mapping[str, np.ndarray]) -> Iterator[bytes]:
    for slot, (path, banks, _) in zip(kind.slots, kind.pieces(), strict=True):
        value = np.asarray(values[path], "<f4").reshape(banks, -1)
        counts = np.asarray(values[f"{path}.count"]).reshape(banks) if slot["kind"] == "history" else [None] * banks
        for count, instance in zip(counts, value, strict=True):
            yield (b"" if count is None else struct.pack("<I", int(count))) + instance.tobytes()


def read(path: Path, kind: Kind) -> tuple[dict[str, np.ndarray], int]:
    """The arrays of a saved state, and its tokens."""

    def refuse(what: str) -> ArtifactError:
        return ArtifactError(f"loading {path}: {what}", "give a state that this artefact saved")

    try:
        data = path.read_bytes()
    except OSError as e:
        raise refuse(f"it cannot be read ({e.strerror})") from e
    if not data.startswith(MAGIC):
        raise refuse("it is no saved state")
    if len(data) < HEADER.size:
        raise refuse("it is cut short")
    _, version, digest, weights, tokens, size = HEADER.unpack_from(data)
    if version != VERSION:
        raise refuse("it is of another version")
    if digest.hex() != kind.hash or size != kind.size():
        raise refuse("it is the state of another model")
    if weights != kind.fingerprint:
        raise refuse("it was saved with other weights")
    if len(data) != HEADER.size + size + 8:
        raise refuse("it is cut short, or has something behind it")
    if struct.unpack("<Q", data[-8:])[0] != fnv(data[:-8]) or tokens >= 1 << 31:
        raise refuse("it is damaged")
    return _parts(data[HEADER.size : -8], kind, tokens, refuse), tokens


def _parts(data: bytes, kind: Kind, tokens: int, refuse: Any) -> dict[str, np.ndarray]:
    at, found = 0, {}
    for slot, (path, banks, entries) in zip(kind.slots, kind.pieces(), strict=True):
        size, parts = math.prod(slot["shape"]) // max(banks, 1), []
        for _ in range(banks):
            if slot["kind"] == "history":
                (count,) = struct.unpack_from("<I", data, at)
                at += 4
                if count != min(tokens, entries):
                    raise refuse("it is damaged")
            parts.append(np.frombuffer(data, "<f4", size, at))
            at += 4 * size
        found[path] = np.stack(parts).reshape(slot["shape"]).astype(np.float32)
    return found


__all__ = ["Kind", "fingerprint", "fnv", "read", "write"]
