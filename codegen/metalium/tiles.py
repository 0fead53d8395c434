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
            if of["kind"] == "tiles":
                found[name] = _in_pages(owner, shapes[owner], of)
            else:
                rounded = partial(_as_streamed, planes=planes.get(owner, 0))
                found[name] = Streamed(owner, shapes[owner], of["dtype"], rounded, np.asarray)
    except (KeyError, TypeError, ValueError) as e:
        raise UserError(f"the manifest's `metalium` is damaged ({e!r})", "compile the spec again") from e
    return found


def _in_pages(owner: str, shape: tuple[int, ...], of: Mapping[str, Any]) -> Streamed:
    """A parameter in tiles, its axes split or merged as the program sees them."""
    view, tiled, dtype = of["shape"], of["tiled"], of["dtype"]

    def restore(pages: np.ndarray) -> np.ndarray:
        return untilise(pages, view, tiled).reshape(shape)

    return Streamed(
        owner, (pages_of(view, tiled), TILE, TILE), dtype, lambda x: tilise(x.reshape(view), tiled), restore
    )


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
    room, pages = np.zeros(_room(size), param.dtype), np.empty((size.pages, TILE, TILE), param.dtype)
    for ours, theirs in _shares(order, size, room, flat):
        ours[...] = theirs
    for ours, theirs in _blocks(order, size, room, pages):
        theirs[...] = ours
    return pages


def untilise(pages: np.ndarray, shape: Sequence[int], tiled: Mapping[str, Any]) -> np.ndarray:
    """The parameter of that shape whose pages these are."""
    order = Tiled.read(tiled)
    size, axes = order.sizes(shape), _axes(order)
    if order.planes > 1:
        pages = pages.reshape(-1, order.planes, TILE, TILE).sum(axis=1, dtype=pages.dtype)
    room, flat = (np.empty(of, pages.dtype) for of in (_room(size), (size.bank, size.lead, size.columns, size.k)))
    for ours, theirs in _blocks(order, size, room, np.ascontiguousarray(pages)):
        ours[...] = theirs
    for ours, theirs in _shares(order, size, room, flat):
        theirs[...] = ours
    return np.ascontiguousarray(flat.reshape([shape[axis] for axis in axes]).transpose(np.argsort(axes)))


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


Views = Iterator[tuple[np.ndarray, np.ndarray]]
"""Parts of the room, and what belongs there."""


def _shares(order: Tiled, size: Sizes, room: np.ndarray, flat: np.ndarray) -> Views:
    """Each core's rows of k, and its part of [bank, lead, columns, k]; the last cores may have less."""
    rows = room.reshape(*room.shape[:3], size.column_tiles * TILE, size.k_tiles * TILE)
    for core in range(size.cores):
        if order.lead:
            theirs = flat[:, core * size.own_lead : (core + 1) * size.own_lead]
        else:
            theirs = flat[:, :, core * size.own_columns : (core + 1) * size.own_columns]
        _, lead, columns, k = theirs.shape
        yield rows[:, core, :lead, :columns, :k], theirs


def _blocks(order: Tiled, size: Sizes, room: np.ndarray, pages: np.ndarray) -> Views:
    """Each block of column tiles, and its pages: [bank, core, lead, k tile, column tile, k, column]."""
    pages = pages.reshape(*room.shape[:3], size.column_tiles * size.k_tiles, TILE, TILE)
    for first in range(0, size.column_tiles, order.block):
        block = room[:, :, :, first : first + order.block].transpose(0, 1, 2, 5, 3, 6, 4)
        theirs = pages[:, :, :, first * size.k_tiles : (first + block.shape[4]) * size.k_tiles]
        yield block, theirs.reshape(block.shape)
