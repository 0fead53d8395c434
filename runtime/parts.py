"""Files and folders that appear whole or not at all, and locks that no dead process keeps.

What is being written is a part, `.NAME.PID.part` (in C `.NAME.PID.N.part`) beside its place, and is renamed when it is
whole and synced.  Its writer holds its lock, and a lock ends with its process, however that ends: a part that can be
locked is of a killed process, and `sweep` removes it.  Where the file system has no locks nothing is swept.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def try_lock(handle: int) -> bool:
    """Take the lock of an open file or folder; False where another holds it.  Raises OSError where there are none."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that is put in the place of `path` at the end, or nowhere on an error."""
    sweep(path.parent, path.name)
    part = part_of(path)
    with os.fdopen(_locked(part), "wb") as f:
        try:
            os.ftruncate(f.fileno(), 0)
            yield f
            f.flush()
            os.fsync(f.fileno())
            part.replace(path)
            sync(path.parent)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that is put in the place of `path` at the end, or nowhere on an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, path.name)
    part = part_of(path)
    handle = _locked(part, folder=True)
    try:
        yield part
        for file in part.iterdir():
            sync(file)
        sync(part)
        if os.path.lexists(path):
            remove(path)
        part.rename(path)
        sync(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        os.close(handle)


def remove(path: Path) -> None:
    """Remove a file or a folder: its name is gone at once, and a kill leaves no half of it under that name."""
    old = path.with_name(f"{path.name}-old")
    sweep(path.parent, old.name)
    path.rename(part_of(old))
    _delete(part_of(old))


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove the parts that killed processes left in a folder: those of `name`, or all."""
    ours = re.compile(rf"\.{'.+' if name is None else re.escape(name)}\.\d+(\.\d+)?\.part", re.DOTALL)
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in list(entries):
            if ours.fullmatch(entry.name):
                _sweep(Path(entry.path))


def sync(path: Path) -> None:
    """Let what a file or a folder holds be on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def part_of(path: Path) -> Path:
    """Where this process writes what will be `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


@contextmanager
def locked_folder(path: Path) -> Iterator[None]:
    """Make a folder and hold it while others who ask for it wait; what is in it is removed, before and after."""
    handle = _locked(path, folder=True)
    try:
        for left in path.iterdir():
            _delete(left)
        yield
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(handle)


def _locked(path: Path, folder: bool = False) -> int:
    """A new file or folder, opened and locked; made again where a sweeper was faster."""
    while True:
        if folder:
            path.mkdir(exist_ok=True)
        kind = os.O_RDONLY | os.O_DIRECTORY if folder else os.O_RDWR | os.O_CREAT
        try:
            handle = os.open(path, kind | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:
            if not folder or not path.parent.is_dir():
                raise
            continue
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        if _is(path, handle):
            return handle
        os.close(handle)


def _is(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _sweep(part: Path) -> None:
    with contextlib.suppress(OSError):
        mode = os.lstat(part).st_mode
        if stat.S_ISLNK(mode):  # made and renamed at once
            part.unlink()
        elif stat.S_ISDIR(mode) or stat.S_ISREG(mode):
            handle = os.open(part, (os.O_RDONLY if stat.S_ISDIR(mode) else os.O_RDWR) | os.O_NOFOLLOW)
            try:
                if try_lock(handle) and _is(part, handle):
                    _delete(part)
            finally:
                os.close(handle)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
