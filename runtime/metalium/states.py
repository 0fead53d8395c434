"""A line's state as it lies in L1, and as files and people have it.

In L1 a line's state is a shard of 32-bit words a core, `[cores, words]`.  Its arrays are dense and row-major (`flat`)
or in tiles; a split one is dealt out to the cores along its front, another lies on every core; a history is a ring in
which token n's entry has place n % window.  In the canonical layout, the manifest's, a history holds its last
window - 1 entries, the most recent first; what is not there yet is zero.

Input: an entry `state` of the launch description's calls.  Output: words from arrays, and arrays from words.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

TILE, FACE = 32, 16
"""Rows and columns of a tile, and of the four faces it is made of."""


def begin(state: Mapping[str, Any], cores: int, slots: Sequence[Mapping[str, Any]], tensors: Any) -> np.ndarray:
    """The words of a new document; `slots` are the manifest's, `tensors` has what is no constant by name."""
    first = {slot["path"]: slot.get("start", 0.0) for slot in slots}
    shapes = {slot["path"]: slot["shape"] for slot in slots}
    values = {}
    for array in state["arrays"]:
        path = array["slot"]
        given = tensors[first[path]] if isinstance(first[path], str) else np.float32(first[path])
        values[path] = np.broadcast_to(np.asarray(given, np.float32), shapes[path])
    return to_words(state, cores, values, 0)


def to_words(state: Mapping[str, Any], cores: int, values: Mapping[str, np.ndarray], tokens: int) -> np.ndarray:
    """The shards of a line, [cores, words], that hold these arrays after so many tokens."""
    words = np.zeros((cores, state["bytes"] // 4), np.float32)
    for array in state["arrays"]:
        whole = np.asarray(values[array["slot"]], np.float32)
        if array["ring"]:
            whole = _to_ring(whole, array, tokens)
        whole = whole.reshape(array["shape"])
        if array["dtype"] == "i32":
            whole = whole.astype(np.int32).view(np.float32)
        for core, share in _shares(array, cores):
            part = whole.reshape(_units(array), -1)[share]
            part = _to_tiles(part, array["shape"]) if array["layout"] == "tiles" else part.reshape(-1)
            words[core, array["offset"] // 4 :][: part.size] = part
    return words


def from_words(state: Mapping[str, Any], words: np.ndarray, tokens: int) -> dict[str, np.ndarray]:
    """The arrays by slot, after so many tokens."""
    found = {}
    for array in state["arrays"]:
        shape, units = array["shape"], _units(array)
        whole = np.zeros((units, math.prod(shape) // units), np.float32)
        for core, share in _shares(array, len(words)):
            held = words[core, array["offset"] // 4 :]
            count = share.stop - share.start
            if array["layout"] == "tiles":
                whole[share] = _from_tiles(held, count * whole.shape[1], shape).reshape(count, -1)
            else:
                whole[share] = held[: count * whole.shape[1]].reshape(count, -1)
        value = whole.reshape(shape)
        if array["dtype"] == "i32":
            value = value.view(np.int32).astype(np.float32)
        found[array["slot"]] = _from_ring(value, array, tokens) if array["ring"] else value
    return found


def _units(array: Mapping[str, Any]) -> int:
    """Into how many units an array's front is dealt; one that is not split is one."""
    return int(array["split"][0]) if array["split"] else 1


def _shares(array: Mapping[str, Any], cores: int) -> Iterator[tuple[int, slice]]:
    """The cores that hold some of an array, and which of its units."""
    units, each = array["split"] or (1, 1)
    for core in range(cores):
        first = core * each if array["split"] else 0
        if first < units:
            yield core, slice(first, min(first + each, units))


# --- tiles -----------------------------------------------------------------------------------------------------------
def _tile_counts(shape: Sequence[int]) -> tuple[int, int]:
    return -(-shape[-2] // TILE), -(-shape[-1] // TILE)


def _to_tiles(part: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Some of an array's matrices as tiles, each four faces, padded with zeros."""
    matrices = part.reshape(-1, shape[-2], shape[-1])
    high, wide = _tile_counts(shape)
    room = np.zeros((len(matrices), high * TILE, wide * TILE), np.float32)
    room[:, : shape[-2], : shape[-1]] = matrices
    faces = room.reshape(-1, high, 2, FACE, wide, 2, FACE).transpose(0, 1, 4, 2, 5, 3, 6)
    return faces.reshape(-1)


def _from_tiles(held: np.ndarray, size: int, shape: Sequence[int]) -> np.ndarray:
    """`size` elements of an array's matrices, from the tiles in front of `held`."""
    count = size // (shape[-2] * shape[-1])
    high, wide = _tile_counts(shape)
    faces = held[: count * high * wide * TILE * TILE].reshape(count, high, wide, 2, 2, FACE, FACE)
    room = faces.transpose(0, 1, 3, 5, 2, 4, 6).reshape(count, high * TILE, wide * TILE)
    return room[:, : shape[-2], : shape[-1]]


# --- rings -----------------------------------------------------------------------------------------------------------
def kept(window: int, tokens: int) -> int:
    """How many entries of before the next token a history has."""
    return min(tokens, window - 1)


def _to_ring(entries: np.ndarray, array: Mapping[str, Any], tokens: int) -> np.ndarray:
    window = array["ring"]
    ring = np.zeros((window, *entries.shape[1:]), np.float32)
    for age in range(kept(window, tokens)):
        ring[(tokens - 1 - age) % window] = entries[age]
    return ring


def _from_ring(ring: np.ndarray, array: Mapping[str, Any], tokens: int) -> np.ndarray:
    window = array["ring"]
    places = ring.reshape(window, -1)
    entries = np.zeros((window - 1, places.shape[1]), np.float32)
    for age in range(kept(window, tokens)):
        entries[age] = places[(tokens - 1 - age) % window]
    return entries
