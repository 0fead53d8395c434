"""A private cache of libraries that this machine built: what is run from it is what was put there by its user.

Input: the folder that was chosen, a library's name (which says by a hash all that went in), and how to build it.
Output: the folder, or a temporary one where others could change what it holds; the library's path, built anew where it
is absent, is not this user's (or root's), can be written by others, or is not as it was built.
"""

from __future__ import annotations

import atexit
import grp
import hashlib
import os
import pwd
import shutil
import stat
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from .parts import locked_folder, remove, sweep, sync, try_lock

_SEAL = hashlib.sha256().digest_size
"""A library ends with the hash of all before it; loaders read no further than an ELF file's own end."""


def users_cache() -> Path | None:
    """This user's folder for caches: $XDG_CACHE_HOME, or ~/.cache; None for a user without a home."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME", "")).expanduser()
        folder = folder if folder.is_absolute() else Path.home() / ".cache"
    except RuntimeError:  # no $HOME, and a user id that no name belongs to
        return None
    return folder if folder.is_absolute() and folder != Path("/.cache") else None


def private_folder(chosen: Path | None, name: str) -> Path:
    """`chosen`, made where it is missing; where it is not private, `name` for this user among the temporary files."""
    wrong = "this user has no home folder"
    if chosen is not None and (wrong := _make_private(chosen)) == "":
        return chosen
    place = Path(tempfile.gettempdir()).resolve() / f"{name}-{os.geteuid()}"
    if _make_private(place):
        place = Path(tempfile.mkdtemp(prefix=f"{name}-"))
        atexit.register(shutil.rmtree, place, ignore_errors=True)
    warnings.warn(f"what is built is kept in {place}: {wrong}", RuntimeWarning, 3)
    return place


def library(folder: Path, name: str, build: Callable[[Path], Path]) -> Path:
    """The library `name` of a private folder.  `build` is given an empty folder and returns the file it made there."""
    path = folder / f"{name}.so"
    if _as_built(path):
        return path
    scratch = folder / f".{name}.0.part"  # one for all processes: they wait for each other
    with locked_folder(scratch):
        sweep(folder)
        if not _as_built(path):
            made = build(scratch)
            with made.open("r+b") as f:
                seal = hashlib.sha256(f.read()).digest()
                f.write(seal)
            made.chmod(0o700)
            sync(made)
            if path.is_dir():
                remove(path)
            made.replace(path)
    return path


def _as_built(path: Path) -> bool:
    """Whether a file is trusted to be run: this user's alone to write, and with its seal."""
    try:
        with open(path, "rb", opener=_no_link) as f:
            about = os.fstat(f.fileno())
            if not stat.S_ISREG(about.st_mode) or not _trusted(about) or about.st_mode & 0o022:
                return False
            content = f.read()
    except OSError:
        return False
    return hashlib.sha256(content[:-_SEAL]).digest() == content[-_SEAL:]


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _make_private(folder: Path) -> str:
    """Make a folder, and say why it is not this user's alone to write: an empty text where it is."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if wrong := _shared(folder.absolute()):
            return wrong
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try_lock(handle)
        finally:
            os.close(handle)
    except OSError as e:
        return f"{folder}: {e.strerror}"
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder} cannot be written"


def _shared(folder: Path) -> str:
    """Who else could put something in this folder's place: along its path, links followed one by one."""
    waiting, at, links = list(folder.parts[1:]), Path("/"), 0
    while waiting:
        step = at / waiting.pop(0)
        about = step.lstat()
        if not _trusted(about):
            return f"{step} belongs to another user"
        if stat.S_ISLNK(about.st_mode):
            links += 1
            if links > 40:
                return f"{step} is a link without an end"
            target = Path(os.readlink(step))
            waiting = [*target.parts[1 if target.is_absolute() else 0 :], *waiting]
            at = Path("/") if target.is_absolute() else at
            continue
        at = at.parent if step.name == ".." else step
        # above the folder itself: what is in a sticky folder only its owner can replace, and a group may be this user's
        sticky = about.st_mode & stat.S_ISVTX and waiting
        by_group = about.st_mode & stat.S_IWGRP and not (waiting and _own_group(about))
        if not sticky and (about.st_mode & stat.S_IWOTH or by_group):
            return f"others can write to {step} (`chmod go-w` keeps them out)"
    return ""


def _trusted(about: os.stat_result) -> bool:
    return about.st_uid in (0, os.geteuid())


def _own_group(about: os.stat_result) -> bool:
    """Whether a folder's group is its owner's own, as distributions make one for each user."""
    try:
        user, group = pwd.getpwuid(about.st_uid), grp.getgrgid(about.st_gid)
    except KeyError:
        return False
    return group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}
