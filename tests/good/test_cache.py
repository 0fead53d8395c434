"""The cache of built libraries runs nobody else's file and no damaged one; a lock ends with its process."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from cdrmix.runtime import cache, parts

from cdrmix.diagnose import UserError
from cdrmix.weights import atomic

PAYLOAD = b"\x7fELF, as built"


class Builds:
    """A build that is counted."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, scratch: Path) -> Path:
        assert not list(scratch.iterdir())
        self.count += 1
        (scratch / "made.so").write_bytes(PAYLOAD)
        return scratch / "made.so"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return cache.private_folder(tmp_path / "cache" / "kernels", "cdrmix-test")


def test_what_was_built_is_used_again(folder: Path) -> None:
    build = Builds()
    one, two = (cache.library(folder, "lib", build) for _ in range(2))
    assert one == two == folder / "lib.so" and build.count == 1
    assert one.read_bytes().startswith(PAYLOAD) and one.stat().st_mode & 0o777 == 0o700
    assert [p.name for p in folder.iterdir()] == ["lib.so"]


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flipped(path: Path) -> None:
    path.write_bytes(b"\x7eELF" + path.read_bytes()[4:])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def unsealed(path: Path) -> None:
    path.write_bytes(PAYLOAD)


def writable(path: Path) -> None:
    path.chmod(0o722)


def anothers(path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give a file away")
    os.chown(path, 12345, -1)


def linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def replaced_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").touch()


@pytest.mark.parametrize(
    "damage", [truncated, flipped, emptied, unsealed, writable, anothers, linked, replaced_by_a_folder]
)
def test_what_is_not_as_it_was_built_is_built_again(folder: Path, damage: Callable[[Path], None]) -> None:
    build = Builds()
    path = cache.library(folder, "lib", build)
    damage(path)
    assert cache.library(folder, "lib", build) == path and build.count == 2
    assert path.is_file() and not path.is_symlink()
    assert cache.library(folder, "lib", build) == path and build.count == 2


def test_what_killed_builds_left_is_removed_by_the_next(folder: Path) -> None:
    for name in ("lib", "other"):
        (folder / f".{name}.0.part").mkdir()
        (folder / f".{name}.0.part" / "half.o").touch()
    cache.library(folder, "lib", Builds())
    assert [p.name for p in folder.iterdir()] == ["lib.so"]


def test_the_kernels_are_kept_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cdrmix.runtime.torch import native

    build = Builds()
    monkeypatch.setattr(native, "_build", lambda compiler, name, scratch: build(scratch))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    name, path = native._library()
    assert path == tmp_path / "cdrmix" / "kernels" / f"{name}.so" and build.count == 1
    truncated(path)
    assert native._library() == (name, path) and build.count == 2
    path.parent.chmod(0o777)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.warns(RuntimeWarning, match="others can write to"):
        assert native._library()[1].parent == tmp_path / f"cdrmix-kernels-{os.geteuid()}"


def test_a_sealed_library_is_loaded_by_the_system(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "seven.c"
    source.write_text("int seven(void) { return 7; }\n")

    def build(scratch: Path) -> Path:
        subprocess.run(["cc", "-shared", "-fPIC", "-o", scratch / "a.so", source], check=True)
        return scratch / "a.so"

    assert ctypes.CDLL(str(cache.library(folder, "seven", build))).seven() == 7


def opened(chosen: Path) -> Path:
    chosen.mkdir(parents=True)
    chosen.chmod(0o777)
    return chosen


def opened_to_the_group(chosen: Path) -> Path:
    chosen.mkdir(parents=True)
    chosen.chmod(0o775)
    return chosen


def below_an_open_one(chosen: Path) -> Path:
    opened(chosen.parent)
    return chosen


def given_away(chosen: Path) -> Path:
    chosen.mkdir(parents=True)
    anothers(chosen)
    return chosen


def through_anothers_link(chosen: Path) -> Path:
    chosen.mkdir(parents=True)
    link = chosen.with_name("link")
    link.symlink_to(chosen)
    if os.geteuid():
        pytest.skip("only root can give a link away")
    os.chown(link, 12345, -1, follow_symlinks=False)
    return link


def in_a_file(chosen: Path) -> Path:
    chosen.parent.mkdir()
    chosen.write_text("")
    return chosen


def at_a_loop(chosen: Path) -> Path:
    chosen.parent.mkdir()
    chosen.symlink_to(chosen)
    return chosen


@pytest.mark.parametrize(
    "make", [opened, opened_to_the_group, below_an_open_one, given_away, through_anothers_link, in_a_file, at_a_loop]
)
def test_a_folder_that_others_can_change_is_not_used(
    tmp_path: Path, make: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    scratch.chmod(0o1777)
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    chosen = make(tmp_path / "cache" / "kernels")
    with pytest.warns(RuntimeWarning, match="what is built is kept in"):
        found = cache.private_folder(chosen, "cdrmix-test")
    assert found == scratch / f"cdrmix-test-{os.geteuid()}" and found.stat().st_mode & 0o777 == 0o700
    found.chmod(0o777)  # then neither is that one
    with pytest.warns(RuntimeWarning, match="what is built is kept in"):
        assert cache.private_folder(None, "cdrmix-test") != found


def test_a_link_of_ones_own_is_followed(tmp_path: Path) -> None:
    (tmp_path / "there" / "deep").mkdir(parents=True)
    (tmp_path / "here").symlink_to("there/deep/../deep")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.private_folder(tmp_path / "here" / "kernels", "x") == tmp_path / "here" / "kernels"


def test_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/where")
    assert cache.users_cache() == Path("/some/where")
    monkeypatch.setenv("XDG_CACHE_HOME", "some/where")  # by its standard only absolute ones count
    monkeypatch.setenv("HOME", "/home/me")
    assert cache.users_cache() == Path("/home/me/.cache")
    monkeypatch.setenv("HOME", "")
    assert cache.users_cache() is None
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 54321)
    assert cache.users_cache() is None


WRITER = """
import sys, time
from pathlib import Path
from cdrmix.runtime import parts
with parts.{writer}(Path(sys.argv[1])) as made:
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("writer", ["whole_file", "whole_folder"])
def test_a_part_lives_as_long_as_its_writer(tmp_path: Path, writer: str) -> None:
    target = tmp_path / "target"
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER.format(writer=writer), target], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    part = tmp_path / f".target.{process.pid}.part"
    try:
        parts.sweep(tmp_path)
        assert part.exists()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert part.exists()  # as a kill leaves it
    parts.sweep(tmp_path, "another")
    assert part.exists()
    with atomic(target) as f:
        f.write(b"whole")
    assert [p.name for p in tmp_path.iterdir()] == ["target"] and target.read_bytes() == b"whole"


def test_a_full_disk_is_told_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*/model.c: No space left on device"):  # noqa: SIM117
        with atomic(tmp_path / "model.c"):
            raise OSError(28, "No space left on device")
    with pytest.raises(OSError, match="source.txt"):  # noqa: SIM117
        with atomic(tmp_path / "model.c"):
            (tmp_path / "source.txt").read_bytes()
    assert not list(tmp_path.iterdir())


def test_a_folder_is_removed_under_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "step"
    folder.mkdir()
    (folder / "file").touch()

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shutil.rmtree", killed)
        parts.remove(folder)
    assert [p.name for p in tmp_path.iterdir()] == [f".step-old.{os.getpid()}.part"]
    parts.sweep(tmp_path)
    assert not list(tmp_path.iterdir())
