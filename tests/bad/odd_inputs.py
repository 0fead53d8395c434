"""What is given to a command and is not what it expects: paths, numbers, texts, and files that were damaged.

Input: a folder to make files in.  Output: odd values by kind, each as a command line can hold it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

NUMBERS = (
    *("", "x", "--", "-1", "0", "1.5", "1e400", "nan", "inf", "-inf", "1_000", "0x10", "\N{ARABIC-INDIC DIGIT ONE}"),
    *("18446744073709551616", "9" * 20, "9" * 5000),
)
"""Numbers as somebody may type them."""

TEXTS = ("", "\udcff", "a\0b", "\N{ZERO WIDTH SPACE}", "é" * 3000, "../..", "-", "--", "{", "[", "a=b=c", ".", "=", "~")
"""Texts, a half of a surrogate pair (what a shell's bytes become that are not UTF-8) among them."""

YAML = ("null", "true", "{a: 1}", "[1, a]", "2026-13-45", "!!binary x", "&a [*a]", "\t", "*a", "1:30")
"""Values of a config's settings that are no plain numbers or texts."""

BYTES = {
    "empty": b"",
    "zeros": bytes(300),
    "not UTF-8": b"\xff\xfe\xfa" * 50,
    "null": b"null",
    "list": b"[]",
    "number": b"3",
    "object": b"{}",
    "deep": b"[" * 100_000,
    "deep object": b'{"a":' * 50_000,
    "long": b"9" * 100_000,
    "a mapping": b"a: {b: [1, 2]}\n",
    "a tag": b"!!python/object/apply:os.system [true]\n",
    "an anchor": b"a: &a [*a]\n",
    "a date": b"2026-13-45",
    "half a line": b'{"text": "ab',
    "surrogate": b'{"text": "\\ud800"}\n',
    "safetensors": b"\xff" * 8 + b"{}",
    "short safetensors": (1000).to_bytes(8, "little") + b"{",
    "a zip": b"PK\x03\x04" + bytes(40),
    "a pickle": b"\x80\x02}q\x00.",
    "spec": b"model m { vocab = 3 }",
    "bom": b"\xef\xbb\xbf",
}
"""The contents of files that are none of those that a command reads."""


OTHERS = (None, -1, 2**70, "", [], {}, [[]], {"a": None}, True, 1.5, "\ud800")
"""Values of JSON that a key does not expect."""


def paths(folder: Path) -> Iterator[str]:
    """Paths to what is not there, cannot be opened, or is something else."""
    yield from (
        "",
        "a\0b",
        "\udcff",
        "x" * 300,
        "/" + "y/" * 2000,
        "/dev/null",
        "/dev/full",
        "/proc/self/mem",
        "/nowhere/x",
    )
    yield str(folder)
    link = folder / "circle"
    if not link.is_symlink():
        link.symlink_to(link)
    yield str(link)
    odd = os.fsdecode(os.fsencode(folder) + b"/\xff\xfe")
    os.makedirs(odd, exist_ok=True)
    yield odd
    for name, content in BYTES.items():
        path = folder / f"{name}.bin"
        path.write_bytes(content)
        yield str(path)


def damaged(path: Path) -> Iterator[tuple[str, bytes]]:
    """What may become of a file, by name: other contents, and its own cut short, longer, or with a byte changed."""
    whole = path.read_bytes()
    yield from BYTES.items()
    for part in (1, 8, len(whole) // 2, len(whole) - 1):
        yield f"the first {part} bytes", whole[:part]
    yield "one byte more", whole + b"\0"
    for at in range(0, len(whole), max(1, len(whole) // 5)):
        yield f"byte {at} changed", whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :]
    try:
        value = json.loads(whole)
    except (ValueError, RecursionError):
        return
    if isinstance(value, dict):
        for number, key in enumerate(value):  # each key with three of the others
            yield f"without {key}", json.dumps({k: v for k, v in value.items() if k != key}).encode()
            for other in (OTHERS * 2)[number % len(OTHERS) :][:3]:
                yield f"{key} is {other!r}", json.dumps(value | {key: other}).encode()
