"""Writing a file that a user named.  The twin of `c/output.h`.

Input: its path.  Output: a binary stream.  A file is written beside its name, synced and renamed, so that it is there
whole or not at all; a symbolic link is kept, and what it leads to is replaced.  What is no file keeps being that: a
device or a FIFO is written into, and so is an open file by its descriptor's name (/dev/stdout, /dev/fd/3).
Errors: `OSError`, also for a folder, a disk, a socket, and the file that the standard output already goes to.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .parts import whole_file

LINKS = 40
"""Symbolic links after which a path is one that leads to itself."""


@contextmanager
def output(path: Path) -> Iterator[BinaryIO]:
    """The stream to write to; what is written is at `path` when the block has ended without an error."""
    place, descriptor = _follow(path)
    old = _status(path if descriptor else place)
    if old is not None:
        _refuse(path, old)
    if descriptor or (old is not None and not stat.S_ISREG(old.st_mode)):
        with (
            tempfile.TemporaryFile() as held
        ):  # nothing goes out of what fails; and formats may need a place to seek in
            yield held
            held.seek(0)
            with path.open("wb") as f:
                shutil.copyfileobj(held, f)
        return
    with whole_file(place) as f:
        if old is not None:
            os.fchmod(f.fileno(), stat.S_IMODE(old.st_mode))
        yield f


def _follow(path: Path) -> tuple[Path, bool]:
    """Where links lead, and whether that is a descriptor's name: a link of /proc is an open file, whatever it says."""
    for _ in range(LINKS):
        if not path.is_symlink():
            return path, False
        if os.path.realpath(path.parent).startswith("/proc/"):
            return path, True
        path = path.parent / path.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _refuse(path: Path, old: os.stat_result) -> None:
    """Raise for what can neither be replaced nor be written into."""
    kinds = {stat.S_IFDIR: "it is a folder", stat.S_IFBLK: "it is a disk", stat.S_IFSOCK: "it is a socket"}
    if why := kinds.get(stat.S_IFMT(old.st_mode)):
        raise OSError(errno.EINVAL, why, str(path))
    if stat.S_ISREG(old.st_mode) and any(os.path.samestat(old, stream) for stream in _standard_streams()):
        raise OSError(errno.EINVAL, "the standard output goes there", str(path))


def _standard_streams() -> Iterator[os.stat_result]:
    for number in (1, 2):
        try:
            yield os.fstat(number)
        except OSError:  # closed
            continue
