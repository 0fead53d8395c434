"""The checksum of an artefact's files, against its definition written out, however the bytes come in pieces."""

from __future__ import annotations

import random

import pytest
from cdrmix.runtime.checksum import LANES, ROW, checksum

START, PRIME, MASK = 0xCBF29CE484222325, 0x100000001B3, 2**64 - 1


def written_out(data: bytes) -> str:
    lanes = [START] * LANES
    padded = data + bytes(-len(data) % ROW)
    for n in range(len(padded) // 8):
        word = int.from_bytes(padded[8 * n : 8 * n + 8], "little")
        lanes[n % LANES] = ((lanes[n % LANES] ^ word) * PRIME) & MASK
    found = START
    for value in (*lanes, len(data)):
        found = ((found ^ value) * PRIME) & MASK
    return f"{found:016x}"


@pytest.mark.parametrize("size", (0, 1, ROW - 1, ROW, ROW + 1, 3 * ROW + 17))
def test_it_is_its_definition(size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert checksum([data]) == written_out(data)
    assert checksum([data[:5], b"", data[5:4000], data[4000:]]) == written_out(data)


def test_a_bit_and_a_zero_more_are_seen() -> None:
    data = bytearray(random.Random(0).randbytes(2 * ROW))
    before = checksum([bytes(data)])
    assert checksum([bytes(data) + b"\0"]) != before
    for place in (0, 7, ROW, 2 * ROW - 1):
        data[place] ^= 0x80
        assert checksum([bytes(data)]) != before
        data[place] ^= 0x80
