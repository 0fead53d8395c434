"""The C program of an artefact as a loaded library.

Input: the folder and its manifest.  Output: the library, built by the artefact's Makefile from the sources that the
manifest lists, or one that the artefact came with.  What is loaded lies in this user's private cache under a name that
says all that went in: neither a file that changes in the folder nor one that was compiled there again is in its way.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shutil
import subprocess
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cdrmix.runtime.cache import library, private_folder, users_cache
from cdrmix.runtime.compilers import command, processor
from cdrmix.runtime.errors import ArtifactError
from cdrmix.runtime.files import read_file

LIBRARY = "libmodel.so"
SUMS = f"{LIBRARY}.cksum"
"""What `cksum` said, when `make` built the library in the folder, of it and of its sources."""

TOOLS = "install make and a C compiler (gcc or clang)"

KEPT = 100
"""How many libraries the cache holds; the one that was used the longest ago makes room."""


def build(folder: Path, manifest: Mapping[str, Any]) -> ctypes.CDLL:
    """The library of the artefact's sources, built here or in an earlier run."""
    sources = {name: read_file(folder, manifest, name) for name in manifest["files"] if _is_source(name)}
    if "Makefile" not in sources:
        raise ArtifactError(f"{folder} lists no Makefile", "compile the spec again")
    if tool := missing_tool():
        raise ArtifactError(f"no {tool} on this machine", TOOLS)

    def made(place: Path) -> Path:
        for name, content in sources.items():
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_bytes(content)
        asks = ["make", "-s", "-C", str(place), LIBRARY, "TRIPLE="]  # for this machine, whichever it was compiled for
        done = subprocess.run(asks, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            remedy = f"CC is `{os.environ['CC']}`: unset it" if os.environ.get("CC") else "compile the spec again"
            raise ArtifactError(f"`make {LIBRARY}` failed:\n{done.stderr.strip()[-2000:]}", remedy)
        return place / LIBRARY

    return _load(_key(*_machine(), *(part for item in sorted(sources.items()) for part in item)), made)


def shipped(content: bytes) -> ctypes.CDLL:
    """The library of this content.  Raises `OSError` for one of another kind of machine."""

    def made(place: Path) -> Path:
        (place / LIBRARY).write_bytes(content)
        return place / LIBRARY

    return _load(_key(content), made)


def missing_tool() -> str:
    """What this machine lacks to build one, or nothing."""
    if shutil.which("make") is None:
        return "`make`"
    if command("CC", "cc"):
        return ""
    given = os.environ.get("CC", "").strip()
    return f"C compiler `{given}`, as CC asks," if given else "C compiler"


def built_elsewhere(folder: Path, manifest: Mapping[str, Any]) -> bytes | None:
    """The library that `make` left in the folder, if the sums beside it are its own and those of the listed sources."""
    try:
        sums = {name: int(crc) for crc, _, name in map(str.split, (folder / SUMS).read_text().splitlines())}
        content = (folder / LIBRARY).read_bytes()
    except (OSError, ValueError):
        return None
    found = {name: cksum(read_file(folder, manifest, name)) for name in sums if name in manifest["files"]}
    whole = found and found | {LIBRARY: cksum(content)} == sums
    return content if whole else None


def cksum(data: bytes) -> int:
    """What POSIX's `cksum` prints first: a CRC-32 from the highest bit down, over the data and its length."""
    size = len(data)
    data += size.to_bytes((size.bit_length() + 7) // 8, "little")
    turned = zlib.crc32(data.translate(_TURNED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{turned:032b}"[::-1], 2) ^ 0xFFFFFFFF


_TURNED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _is_source(name: str) -> bool:
    return name == "Makefile" or name.endswith((".c", ".h"))


def _load(key: str, made: Callable[[Path], Path]) -> ctypes.CDLL:
    cache = users_cache()
    folder = private_folder(cache and cache / "cdrmix" / "programs", "cdrmix-programs")
    path = library(folder, key, made)
    with contextlib.suppress(OSError):
        os.utime(path)
        for old in sorted(folder.glob("*.so"), key=lambda p: p.stat().st_mtime_ns)[:-KEPT]:
            old.unlink()
    return ctypes.CDLL(str(path))


def _key(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        part = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        digest.update(len(part).to_bytes(8, "little") + part)
    return f"program-{digest.hexdigest()[:32]}"


def _machine() -> list[str]:
    """What a build depends on besides its sources: the compiler, its flags, the processor (`-march=native`)."""
    asks = [*command("CC", "cc"), "--version"]
    done = subprocess.run(asks, capture_output=True, text=True, errors="replace", check=False)
    flags = [os.environ.get(name, "") for name in ("CC", "CFLAGS", "ARCH")]
    return [done.stdout, *flags, processor()]
