"""Matrices in streaming order: against a slow twin that follows the definition, and back without a bit lost."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cdrmix.codegen.metalium.plan import Tiled
from cdrmix.codegen.metalium.tiles import in_bf16, in_planes, pages_of, tilise, untilise
from cdrmix.runtime.encodings import ENCODINGS

MATRIX = {"bank": [], "lead": [], "columns": [0], "k": [1]}

CASES = {
    "one tile": ((32, 32), MATRIX, (32, 32), 1, 4),
    "odd sizes": ((45, 70), MATRIX, (45, 45), 1, 4),
    "several blocks": ((300, 33), MATRIX, (300, 300), 1, 4),
    "cores by columns": ((45, 70), MATRIX, (45, 12), 4, 4),
    "a last core with nothing": ((40, 20), MATRIX, (40, 20), 3, 2),
    "units of several columns": ((96, 64), MATRIX, (6, 2), 3, 4),
    "units that fill no tile": ((6 * 48, 40), MATRIX, (6, 1), 6, 1),
    "k in front": ((70, 45), {"bank": [], "lead": [], "columns": [1], "k": [0]}, (45, 45), 1, 3),
    "a bank": ((3, 40, 33), {"bank": [0], "lead": [], "columns": [1], "k": [2]}, (40, 20), 2, 1),
    "a bank of banks": ((2, 3, 5, 7), {"bank": [0, 1], "lead": [], "columns": [2], "k": [3]}, (5, 5), 1, 4),
    "lead axes": ((5, 40, 33), {"bank": [], "lead": [0], "columns": [1], "k": [2]}, (5, 2), 3, 1),
    "axes turned round": (
        (6, 3, 5, 2, 7), {"bank": [3], "lead": [2], "columns": [4, 0], "k": [1]}, (5, 5), 1, 2),
    "k of several axes": ((4, 9, 5, 8), {"bank": [], "lead": [], "columns": [3, 0], "k": [1, 2]}, (32, 8), 4, 4),
    "a vector": ((50,), {"bank": [], "lead": [], "columns": [0], "k": []}, (50, 50), 1, 4),
}  # fmt: skip


def tiled_of(axes: dict[str, list[int]], split: tuple[int, int], cores: int, block: int) -> dict[str, object]:
    return {**axes, "split": {"lead": split[0], "each": split[1]}, "cores": cores, "block": block, "planes": 1}


def by_definition(x: np.ndarray, tiled: dict) -> np.ndarray:  # type: ignore[type-arg]
    """Page after page, element after element."""
    groups = [tiled[name] for name in ("bank", "lead", "columns", "k")]
    sizes = [math.prod(x.shape[a] for a in axes) for axes in groups]
    flat = x.transpose([a for axes in groups for a in axes]).reshape(sizes)
    bank, lead, columns, k = sizes
    units, each = tiled["split"]["lead"], tiled["split"]["each"]
    per = (lead if tiled["lead"] else columns) // units * each
    pages = []
    for b in range(bank):
        for core in range(tiled["cores"]):
            leads = range(core * per, (core + 1) * per) if tiled["lead"] else range(1)
            first, width = (0, columns) if tiled["lead"] else (core * per, per)
            tiles = math.ceil(width / 32)
            for u in leads:
                for block in range(0, tiles, tiled["block"]):
                    for kt in range(math.ceil(k / 32)):
                        for ct in range(block, min(block + tiled["block"], tiles)):
                            page = np.zeros((32, 32), x.dtype)
                            for i in range(32):
                                for j in range(32):
                                    column = ct * 32 + j
                                    inside = column < width and first + column < columns
                                    if u < lead and inside and kt * 32 + i < k:
                                        page[i, j] = flat[b, u, first + column, kt * 32 + i]
                            pages.append(page)
    return np.stack(pages)


@pytest.mark.parametrize("name", CASES)
def test_pages_follow_the_definition_and_lead_back(name: str) -> None:
    shape, axes, split, cores, block = CASES[name]
    tiled = tiled_of(axes, split, cores, block)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    pages = tilise(x, tiled)
    assert pages.shape == (pages_of(shape, tiled), 32, 32)
    assert np.array_equal(pages, by_definition(x, tiled))
    back = untilise(pages, shape, tiled)
    assert back.dtype == np.float32
    assert np.array_equal(back, x)


def test_units_have_to_divide_what_is_dealt_out() -> None:
    with pytest.raises(ValueError, match="45 does not divide into 6"):
        Tiled.read(tiled_of(MATRIX, (6, 1), 6, 4)).sizes((45, 70))


def test_two_planes_lie_behind_each_other_and_add_up() -> None:
    shape, axes, split, cores, block = CASES["cores by columns"]
    one = tiled_of(axes, split, cores, block)
    two = one | {"planes": 2}
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    pages = tilise(x, two)
    assert pages.shape == (pages_of(shape, two), 32, 32) == (2 * pages_of(shape, one), 32, 32)
    assert np.array_equal(in_bf16(pages), pages)
    assert np.array_equal(pages[0::2], tilise(in_bf16(x), one))
    back = untilise(pages, shape, two)
    assert np.max(np.abs(back / x - 1)) <= 2.0**-17
    assert np.array_equal(back, sum(in_planes(x, 2)))
    assert np.array_equal(untilise(tilise(back, two), shape, two), back)


def test_bf16_is_the_nearest_and_the_even_one_between_two() -> None:
    step = 2.0**-7
    x = np.array([1.0, 1 + step, 1 + step / 2, 1 + 3 * step / 2, 1 + 0.51 * step, -1 - 0.49 * step], np.float32)
    wanted = np.array([1.0, 1 + step, 1.0, 1 + 2 * step, 1 + step, -1.0], np.float32)
    assert np.array_equal(in_bf16(x), wanted)
    random = np.random.default_rng(1).standard_normal(1000).astype(np.float32)
    bits = ENCODINGS["bf16"].narrow(random)[""].astype(np.uint32) << 16
    assert np.array_equal(in_bf16(random).view(np.uint32), bits)


def test_bf16_keeps_what_is_no_number() -> None:
    x = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0], np.float32)
    assert np.array_equal(in_bf16(x).view(np.uint32)[[0, 1, 3, 4]], x.view(np.uint32)[[0, 1, 3, 4]])
    assert np.isnan(in_bf16(x)[2])
