"""A folder's record: a JSON file that names the folder's files with their sizes and checksums, and ends with its own.

Input: a folder that is being written.  Output: its record; later, that everything is still as it was written.
Raises `Damaged`, which says what is not.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cdrmix.runtime.checksum import checksum, file_checksum


class Damaged(Exception):
    """What on the disk is not as it was written."""


def write_record(path: Path, about: Mapping[str, Any], files: Iterable[str]) -> None:
    """Write the record of these files, which lie beside it; `about` is what else it says."""
    found = {name: {"bytes": _size(path.parent / name), "checksum": _sum(path.parent / name)} for name in files}
    record = {**about, "files": found}
    path.write_text(json.dumps({**record, "checksum": _seal(record)}, indent=1), encoding="utf-8")


def read_record(path: Path) -> dict[str, Any]:
    """What a record says, if it is whole."""
    _size(path)
    try:
        record = json.loads(path.read_bytes())
        found = record.pop("checksum", None) if isinstance(record, dict) else None
        seal = _seal(record)
    except OSError as e:
        raise Damaged(f"{path.name}: {e.strerror}") from e
    except (ValueError, RecursionError) as e:
        raise Damaged(f"{path.name} is no JSON") from e
    if not isinstance(record, dict) or not isinstance(record.get("files"), dict):
        raise Damaged(f"{path.name} names no files")
    if found != seal:
        raise Damaged(f"{path.name} is not as it was written")
    return record


def check_files(folder: Path, record: Mapping[str, Any], names: Iterable[str]) -> None:
    """Compare files of a folder with what its record says of them."""
    for name in names:
        want = record["files"].get(name)
        if not isinstance(want, dict):
            raise Damaged(f"the record does not name {name}")
        if _size(folder / name) != want.get("bytes"):
            raise Damaged(f"{name} has {_size(folder / name)} bytes, not the {want.get('bytes')} that were written")
        if _sum(folder / name) != want.get("checksum"):
            raise Damaged(f"{name} is not as it was written")


def _seal(record: Any) -> str:
    return checksum([json.dumps(record, sort_keys=True).encode()])


def _size(file: Path) -> int:
    try:
        about = file.stat()
    except OSError as e:
        raise Damaged(f"{file.name}: {e.strerror}") from e
    if not stat.S_ISREG(about.st_mode):  # to read a FIFO would take for ever
        raise Damaged(f"{file.name} is no file")
    return about.st_size


def _sum(file: Path) -> str:
    try:
        return file_checksum(file)
    except OSError as e:
        raise Damaged(f"{file.name}: {e.strerror}") from e
