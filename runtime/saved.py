"""The file of a saved state, for every target the same (`c/saved.c`).

    "CDRSTATE", version, model hash, weights' fingerprint, tokens, payload size | payload | checksum

The payload is the canonical layout in the manifest's order, f32, where a history has its count in front; then where the
text stands: whether there are logits (4 bytes), the logits, and the latest tokens, token n at place n % LATEST.
Numbers are little-endian.  A file of another model, of other weights, or a damaged one is refused.
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

MAGIC, VERSION = b"CDRSTATE", 2
HEADER = struct.Struct("<8sQ32sQQQ")
START, PRIME, MASK = 0xCBF29CE484222325, 0x100000001B3, (1 << 64) - 1

LATEST = 64
"""How many of its latest tokens a state knows."""

FINGERPRINT = "fingerprint"
"""Its key in the header of weights."""

_TAKEN = 4
"""How many values from each end of a tensor make the fingerprint."""

DTYPES = {"<f4": 0, "<f2": 1, "<u2": 2, "|i1": 3}
"""The numbers of the types in `c/weights.h`, by what holds them in numpy."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a file has to be of: the model, its weights, the manifest's slots, and its tokens."""

    hash: str
    fingerprint: int
    slots: Sequence[Mapping[str, Any]]
    vocab: int

    def pieces(self) -> Iterator[tuple[str, int, int]]:
        """Each slot of the payload: its path, how many instances it has, and the entries of a history (0: a state)."""
        for slot in self.slots:
            banks = math.prod(slot["banks"])
            yield slot["path"], banks, slot["shape"][len(slot["banks"])] if slot["kind"] == "history" else 0

    def size(self) -> int:
        """Bytes of the payload."""
        counts: int = sum(math.prod(slot["banks"]) for slot in self.slots if slot["kind"] == "history")
        floats: int = sum(math.prod(slot["shape"]) for slot in self.slots)
        return int(4 * (counts + floats + 1 + self.vocab + LATEST))


@dataclass(frozen=True, slots=True)
class Saved:
    """A state: its slots and their `.count` by path, its tokens, the logits after the last one, the latest ones."""

    values: Mapping[str, np.ndarray]
    tokens: int
    logits: np.ndarray | None
    latest: Sequence[int]


def fnv(data: bytes, value: int = START) -> int:
    """FNV-1a, 64 bits: finds accidents, not attacks."""
    for byte in data:
        value = (value ^ byte) * PRIME & MASK
    return value


def fingerprint(tensors: Mapping[str, np.ndarray], said: Mapping[str, str]) -> int:
    """A name for the weights of a file, by its tensors and what its header says besides, as `c/weights.c` gives it.

    It is that of the f32 values that the file was made from, however it holds them: the header says it where they are
    not there themselves.
    """
    if (recorded := said.get(FINGERPRINT)) is not None:
        return int(recorded, 16)
    return fingerprint_of({name: sample(x) for name, x in tensors.items()})


def fingerprint_of(samples: Mapping[str, bytes]) -> int:
    """The fingerprint of tensors by their samples."""
    value = START
    for name in sorted(samples, key=str.encode):
        if not name.endswith(".start"):  # made of other tensors, and only some targets keep it
            value = fnv(name.encode() + b"\0" + samples[name], value)
    return value


def sample(x: np.ndarray) -> bytes:
    """What a fingerprint takes of a tensor: the type and the number of its values, and those at both ends."""
    flat = x.reshape(-1)
    ends = flat[:_TAKEN].tobytes() + flat[max(flat.size - _TAKEN, 0) :].tobytes()
    return struct.pack("<QQ", DTYPES[x.dtype.str], flat.size) + ends


def write(path: Path, kind: Kind, state: Saved) -> None:
    """Write a state, atomically."""
    header = HEADER.pack(MAGIC, VERSION, bytes.fromhex(kind.hash), kind.fingerprint, state.tokens, kind.size())
    data = header + b"".join(_payload(kind, state.values)) + _text(kind, state)
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


def _text(kind: Kind, state: Saved) -> bytes:
    there = state.logits is not None
    logits = np.asarray(state.logits if there else np.zeros(kind.vocab), "<f4")
    ring = [0] * LATEST
    for n, token in enumerate(state.latest, state.tokens - len(state.latest)):
        ring[n % LATEST] = token
    return struct.pack("<I", there) + logits.tobytes() + struct.pack(f"<{LATEST}I", *ring)


def read(path: Path, kind: Kind) -> Saved:
    """A saved state."""

    def refuse(what: str) -> ArtifactError:
        return ArtifactError(f"loading {path}: {what}", "give a state that this artefact saved")

    try:
        with path.open("rb") as f:
            data = f.read(HEADER.size + kind.size() + 8 + 1)  # no more than it may have: a device has no end
    except OSError as e:
        raise refuse(f"it cannot be read ({e.strerror})") from e
    if not data.startswith(MAGIC):
        raise refuse("it is not a saved state")
    if len(data) < HEADER.size:
        raise refuse("it is cut short")
    _, version, digest, weights, tokens, size = HEADER.unpack_from(data)
    if version != VERSION:
        raise refuse("the state was saved by another version of cdrmix, in another format")
    if digest.hex() != kind.hash or size != kind.size():
        raise refuse("it is the state of another model")
    if weights != kind.fingerprint:
        raise refuse("it was saved with other weights")
    if len(data) != HEADER.size + size + 8:
        raise refuse("it is cut short, or has something behind it")
    if struct.unpack("<Q", data[-8:])[0] != fnv(data[:-8]):
        raise refuse("it is damaged")
    text = 4 * (1 + kind.vocab + LATEST)
    values = _values(data[HEADER.size : -8 - text], kind, tokens)
    there, *ring = struct.unpack(f"<I{4 * kind.vocab}x{LATEST}I", data[-8 - text : -8])
    logits = np.frombuffer(data, "<f4", kind.vocab, len(data) - 4 - text).astype(np.float32)
    if values is None or tokens >= 1 << 31 or there > 1 or max(ring) >= max(kind.vocab, 1):
        raise refuse("it is damaged")
    latest = [ring[n % LATEST] for n in range(max(tokens - LATEST, 0), tokens)]
    return Saved(values, tokens, logits if there else None, latest)


def _values(data: bytes, kind: Kind, tokens: int) -> dict[str, np.ndarray] | None:
    """The slots; None when a history has more entries than it can have."""
    at, found = 0, {}
    for slot, (path, banks, entries) in zip(kind.slots, kind.pieces(), strict=True):
        size, parts = math.prod(slot["shape"]) // max(banks, 1), []
        counts: list[int] = []
        for _ in range(banks):
            if slot["kind"] == "history":
                counts += struct.unpack_from("<I", data, at)
                at += 4
            parts.append(np.frombuffer(data, "<f4", size, at))
            at += 4 * size
        if counts:
            found[f"{path}.count"] = np.array(counts).reshape(slot["banks"])
        if any(count > min(tokens, entries) for count in counts):
            return None
        found[path] = np.stack(parts).reshape(slot["shape"]).astype(np.float32)
    return found


__all__ = ["LATEST", "Kind", "Saved", "fingerprint", "fingerprint_of", "fnv", "read", "sample", "write"]
