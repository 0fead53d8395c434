"""An artefact's files, compared with its manifest: what was cut short or changed is not run.

Input: the folder, and its manifest.  Raises `ArtifactError` with the file's name.  A checksum finds accidents, not
attacks: who can change a file can change the manifest too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from cdrmix.runtime.checksum import checksum
from cdrmix.runtime.errors import ArtifactError

AGAIN = "copy the artefact, or compile the spec, again"
PIECE = 1 << 20


def check_manifest(path: Path, text: bytes) -> None:
    """Refuse a manifest that was changed: its last line is the checksum of all before it."""
    above, _, last = text.rpartition(b'\n "checksum": ')
    if last.strip() != f'"{checksum([above])}"\n}}'.encode():
        raise ArtifactError(f"{path} was changed", AGAIN)


def check_files(folder: Path, manifest: Mapping[str, Any], without: Collection[str] = ()) -> None:
    """Refuse an artefact of whose files one is missing or changed; those `without` its engine compares as it reads."""
    for name in manifest["files"]:
        if name not in without:
            _check(folder, manifest, name)


def read_file(folder: Path, manifest: Mapping[str, Any], name: str) -> bytes:
    """A file's content, which is what the manifest says."""
    content = bytearray()
    _check(folder, manifest, name, content)
    return bytes(content)


def is_inside(name: str) -> bool:
    """Whether a name is of a file in the folder, or in one below it."""
    parts = PurePosixPath(name).parts
    return bool(parts) and parts[0] != "/" and ".." not in parts and "\0" not in name


def _check(folder: Path, manifest: Mapping[str, Any], name: str, content: bytearray | None = None) -> None:
    entry, path = manifest["files"].get(name), folder / name
    if entry is None:
        raise ArtifactError(f"{folder} lists no file {name}", AGAIN)
    if not is_inside(name):
        raise ArtifactError(f"{name!r} is no file of an artefact", AGAIN)
    try:
        bytes_, wanted = entry["bytes"], entry["checksum"]
        if not path.is_file() or path.stat().st_size != bytes_:
            raise ArtifactError(f"{path} is missing or was changed", AGAIN)
        with path.open("rb") as f:
            pieces = iter(lambda: f.read(PIECE), b"")
            found = checksum(pieces) if content is None else checksum(_kept(pieces, content))
    except OSError as e:
        raise ArtifactError(f"{path} cannot be read: {e.strerror}", AGAIN) from e
    except (KeyError, TypeError) as e:
        raise ArtifactError(f"the manifest says nothing of {path}", AGAIN) from e
    if found != wanted:
        raise ArtifactError(f"{path} is missing or was changed", AGAIN)


def _kept(pieces: Iterable[bytes], into: bytearray) -> Iterator[bytes]:
    for piece in pieces:
        into += piece
        yield piece
