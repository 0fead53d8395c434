"""A matrix in the order in which the cores stream it, and back: exact inverses, one tensor in memory at a time.

Input: a parameter in f32 and how it is dealt out, the fields of `codegen.metalium.plan.Tiled` as JSON holds them.
Output: `[pages, 32, 32]`, every page a tile [k, columns] padded with zeros, the pages as the reader reads them:

    bank instance > core > the core's lead unit > block of column tiles > k tile > column tile of the block > plane

An f32 parameter has two planes, each of which bf16 holds; what is more than their sum is rounded away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from cdrmix.diagnose import UserError
from cdrmix.ir import layout
from cdrmix.ir.nodes import Model, Stored

from .plan import TILE, Sizes, Tiled


@dataclass(frozen=True, slots=True)
class Streamed:
    """A parameter in the order in which the kernels read it, as `cdrmix.packing` takes it."""

    owner: str
    shape: tuple[int, ...]
    dtype: Stored
    arrange: Callable[[np.ndarray], np.ndarray]
    restore: Callable[[np.ndarray], np.ndarray]


def arrange(manifest: Mapping[str, Any], model: Model) -> dict[str, Streamed]:
    """The tensors that the kernels read in an order of their own, by their names in the file."""
    shapes = {w.path: w.shape for w in layout.weights(model)}
    try:
        tensors: Mapping[str, Any] = manifest["metalium"]["tensors"]
        planes = {of["weight"]: of["tiled"]["planes"] for of in tensors.values() if of["kind"] == "tiles"}
        found: dict[str, Streamed] = {}
        for name, of in sorted(tensors.items(), key=lambda item: item[1]["kind"] != "tiles"):
            if of["weight"] is None:
                continue
            owner: str = of["weight"]
            shape, tiled = shapes[owner], of["tiled"]
            if of["kind"] == "tiles":
                put = partial(_to_pages, view=of["shape"], tiled=tiled)
                back = partial(_from_pages, shape=shape, view=of["shape"], tiled=tiled)
                found[name] = Streamed(owner, (pages_of(of["shape"], tiled), TILE, TILE), of["dtype"], put, back)
            else:
                rounded = partial(_as_streamed, planes=planes.get(owner, 0))
                found[name] = Streamed(owner, shape, of["dtype"], rounded, np.asarray)
    except (KeyError, TypeError, ValueError) as e:
        raise UserError(f"the manifest's `metalium` is damaged ({e!r})", "compile the spec again") from e
    return found


def _to_pages(param: np.ndarray, view: Sequence[int], tiled: Mapping[str, Any]) -> np.ndarray:
    """The pages of a parameter whose axes the program sees split or merged."""
    return tilise(param.reshape(view), tiled)


def _from_pages(pages: np.ndarray, shape: Sequence[int], view: Sequence[int], tiled: Mapping[str, Any]) -> np.ndarray:
    return untilise(pages, view, tiled).reshape(shape)


def _as_streamed(param: np.ndarray, planes: int) -> np.ndarray:
    """A table with the values that its tiles have, where there are any: a tied parameter has one value an element."""
    return np.sum(in_planes(param, planes), axis=0) if planes > 1 else param


# --- pages ---------------------------------------------------------------------------------------------------------
def pages_of(shape: Sequence[int], tiled: Mapping[str, Any]) -> int:
    """How many pages a parameter of this shape takes."""
    order = Tiled.read(tiled)
    return order.sizes(shape).pages * order.planes


def tilise(param: np.ndarray, tiled: Mapping[str, Any]) -> np.ndarray:
    """The parameter's pages, [pages, 32, 32]; with several planes, each is of bf16's values."""
    order = Tiled.read(tiled)
    if order.planes == 1:
        return _tiles(param, order)
    return np.stack([_tiles(x, order) for x in in_planes(param, order.planes)], axis=1).reshape(-1, TILE, TILE)


def _tiles(param: np.ndarray, order: Tiled) -> np.ndarray:
    size = order.sizes(param.shape)
    flat = param.transpose(_axes(order)).reshape(size.bank, size.lead, size.columns, size.k)
    room = np.zeros(_room(size), param.dtype)
    for theirs, ours in _shares(order, size):
        _rows(room, size)[ours] = flat[theirs]
    pages = np.empty((*_room(size)[:3], size.column_tiles * size.k_tiles, TILE, TILE), param.dtype)
    for first, last in _blocks(order, size):
        block = room[:, :, :, first:last].transpose(0, 1, 2, 5, 3, 6, 4)  # … k tile, column tile, k, column
        at = slice(first * size.k_tiles, last * size.k_tiles)
        pages[:, :, :, at] = block.reshape(*_room(size)[:3], -1, TILE, TILE)
    return pages.reshape(size.pages, TILE, TILE)


def untilise(pages: np.ndarray, shape: Sequence[int], tiled: Mapping[str, Any]) -> np.ndarray:
    """The parameter of that shape whose pages these are."""
    order = Tiled.read(tiled)
    size = order.sizes(shape)
    if order.planes > 1:
        pages = pages.reshape(-1, order.planes, TILE, TILE).sum(axis=1, dtype=pages.dtype)
    pages = pages.reshape(*_room(size)[:3], size.column_tiles * size.k_tiles, TILE, TILE)
    room = np.empty(_room(size), pages.dtype)
    for first, last in _blocks(order, size):
        block = pages[:, :, :, first * size.k_tiles : last * size.k_tiles]
        block = block.reshape(*_room(size)[:3], size.k_tiles, last - first, TILE, TILE)
        room[:, :, :, first:last] = block.transpose(0, 1, 2, 4, 6, 3, 5)
    flat = np.empty((size.bank, size.lead, size.columns, size.k), pages.dtype)
    for theirs, ours in _shares(order, size):
        flat[theirs] = _rows(room, size)[ours]
    back = np.argsort(_axes(order))
    return np.ascontiguousarray(flat.reshape([shape[axis] for axis in _axes(order)]).transpose(back))


def in_bf16(x: np.ndarray) -> np.ndarray:
    """The nearest values that bf16 holds, ties to even, as f32."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    finite = (bits & np.uint32(0x7F800000)) != np.uint32(0x7F800000)
    return np.where(finite, rounded & np.uint32(0xFFFF0000), bits).view(np.float32)


def in_planes(x: np.ndarray, planes: int) -> list[np.ndarray]:
    """`x` as a sum of that many numbers which bf16 holds, the largest first; what the last leaves over is dropped."""
    found: list[np.ndarray] = []
    for _ in range(planes):
        found.append(in_bf16(x - sum(found[1:], found[0]) if found else x))
    return found


def _axes(order: Tiled) -> tuple[int, ...]:
    """The parameter's axes in the order of the file."""
    return (*order.bank, *order.lead, *order.columns, *order.k)


def _room(size: Sizes) -> tuple[int, ...]:
    """Every core's own part with padding: [bank, core, lead, column tile, column, k tile, k]."""
    return (size.bank, size.cores, size.own_lead, size.column_tiles, TILE, size.k_tiles, TILE)


def _rows(room: np.ndarray, size: Sizes) -> np.ndarray:
    """The room as rows of k: [bank, core, lead, column, k], padding included."""
    return room.reshape(*_room(size)[:3], size.column_tiles * TILE, size.k_tiles * TILE)


def _blocks(order: Tiled, size: Sizes) -> Iterator[tuple[int, int]]:
    """The first column tile of each block, and the one after its last."""
    for first in range(0, size.column_tiles, order.block):
        yield first, min(first + order.block, size.column_tiles)


def _shares(order: Tiled, size: Sizes) -> Iterator[tuple[tuple[Any, ...], tuple[Any, ...]]]:
    """Each core's part of [bank, lead, columns, k] and where it lies in its rows; the last cores may have less."""
    share, dealt = (size.own_lead, size.lead) if order.lead else (size.own_columns, size.columns)
    for core in range(size.cores):
        first, last = min(core * share, dealt), min((core + 1) * share, dealt)
        theirs, ours = slice(first, last), slice(0, last - first)
        if order.lead:
            yield (slice(None), theirs), (slice(None), core, ours, slice(0, size.columns), slice(0, size.k))
        else:
            yield (slice(None), slice(None), theirs), (slice(None), core, slice(None), ours, slice(0, size.k))
