"""What a user names as an output and is no file is written into or refused; never does a file take its place."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cdrmix.runtime import saved
from cdrmix.runtime.errors import ArtifactError
from cdrmix.runtime.session import Session

from cdrmix.artifact import write_artifact
from cdrmix.check import load_text
from cdrmix.cli import main
from cdrmix.compiler import lower
from cdrmix.diagnose import UserError
from cdrmix.train.progress import plot_loss
from cdrmix.weights import atomic
from tests.small import ADDS

Write = Callable[[Path], None]
WRITERS = ("atomic", "cpu", "torch", "metalium", "cdrmix-run", "plot", "tokenizer")


def _refusing(code: int, said: str) -> None:
    if code:
        raise UserError(said)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("outputs")
    program = lower(load_text(ADDS))
    for target in ("cpu", "torch"):
        write_artifact(program, target, home / target, None, "bytes")
    subprocess.run(["make", "-s", "-C", home / "cpu", "CFLAGS=-O1 -DCDR_PLAIN"], check=True)
    (home / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 2.0}\n')
    (home / "text.txt").write_text("one two one two one two")
    return home


@pytest.fixture(params=WRITERS)
def write(request: pytest.FixtureRequest, home: Path, capfd: pytest.CaptureFixture[str]) -> Write:
    def to_atomic(path: Path) -> None:
        with atomic(path) as f:
            f.write(b"new")

    def by_session(path: Path) -> None:
        with Session.open(home / request.param) as session:
            session.step(1)
            session.save(path)

    def metalium(path: Path) -> None:
        slots = [{"path": "S", "shape": [4], "banks": [], "kind": "state"}]
        state = saved.Saved({"S": np.ones(4)}, 1, None, [0])
        saved.write(path, saved.Kind("00" * 32, 1, slots, 2), state)

    def cdrmix_run(path: Path) -> None:
        command = [home / "cpu/cdrmix-run", "-m", home / "cpu", "-n", "1", "-o", path, "a"]
        done = subprocess.run(command, capture_output=True, check=False)
        _refusing(done.returncode, done.stderr.decode())

    def tokenizer(path: Path) -> None:
        code = main(["tokenizer", "train", str(home / "text.txt"), "--vocab", "260", "-o", str(path)])
        _refusing(code, capfd.readouterr().err)

    return {
        "atomic": to_atomic, "cpu": by_session, "torch": by_session, "metalium": metalium, "cdrmix-run": cdrmix_run,
        "plot": lambda path: plot_loss(home / "metrics.jsonl", path), "tokenizer": tokenizer,
    }[request.param]  # fmt: skip


def read_while(path: Path, write: Write) -> bytes:
    """What arrives in a FIFO."""
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(path.read_bytes()), daemon=True)
    reader.start()
    write(path)
    reader.join(20)
    return found[0]


def test_a_file_is_written_and_nothing_is_left_beside_it(write: Write, tmp_path: Path) -> None:
    write(tmp_path / "new")
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "old").chmod(0o600)
    write(tmp_path / "old")
    assert (tmp_path / "old").read_bytes() not in (b"old", b"")
    assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == 0o600
    assert sorted(os.listdir(tmp_path)) == ["new", "old"]


def test_a_fifo_is_written_into(write: Write, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (tmp_path / "link").symlink_to("fifo")
    assert read_while(fifo, write) and read_while(tmp_path / "link", write)
    assert stat.S_ISFIFO(fifo.stat().st_mode) and (tmp_path / "link").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["fifo", "link"]


def test_a_device_stays_one(write: Write, tmp_path: Path) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        device.write_bytes(b"")
    except OSError:
        (tmp_path / "null").unlink(missing_ok=True)
        device = Path("/dev/null")
    if not os.access(device.parent, os.W_OK) or device.parent == tmp_path:
        write(device)
    (tmp_path / "link").symlink_to(device)
    write(tmp_path / "link")
    assert stat.S_ISCHR(device.stat().st_mode) and (tmp_path / "link").is_symlink()


def test_a_link_is_kept_and_what_it_leads_to_replaced(write: Write, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "target"
    (tmp_path / "link").symlink_to("elsewhere/target")
    (tmp_path / "second").symlink_to(tmp_path / "link")
    write(tmp_path / "link")  # which dangles
    first = target.read_bytes()
    target.write_bytes(b"old")
    write(tmp_path / "second")
    assert target.read_bytes() not in (b"old", b"") and first
    assert (tmp_path / "link").is_symlink() and (tmp_path / "second").is_symlink()
    assert os.listdir(tmp_path / "elsewhere") == ["target"]


def test_what_cannot_be_written_into_is_refused(write: Write, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for name in ("folder", "socket", "loop", "loop/file"):
            with pytest.raises((UserError, ArtifactError)):
                write(tmp_path / name)
        assert stat.S_ISSOCK((tmp_path / "socket").stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["folder", "loop", "socket"]


def test_a_disk_is_refused(write: Write, tmp_path: Path) -> None:
    try:
        os.mknod(tmp_path / "disk", 0o600 | stat.S_IFBLK, os.makedev(7, 255))
    except OSError:
        pytest.skip("no right to make a device")
    with pytest.raises((UserError, ArtifactError)):
        write(tmp_path / "disk")
    assert stat.S_ISBLK((tmp_path / "disk").stat().st_mode)


def test_a_descriptor_is_written_into_by_its_name(write: Write, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if "cdrmix-run" in request.node.name:
        pytest.skip("another process has other descriptors: see below")
    with (tmp_path / "file").open("wb") as f:
        before = os.fstat(f.fileno()).st_ino
        write(Path(f"/dev/fd/{f.fileno()}"))
        write(Path(f"/proc/self/fd/{f.fileno()}"))
    assert (tmp_path / "file").stat().st_ino == before and (tmp_path / "file").stat().st_size
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("program", ["cdrmix-run", "cdrmix"])
def test_the_standard_output(home: Path, tmp_path: Path, program: str) -> None:
    def command(out: str) -> list[str]:
        if program == "cdrmix":
            return ["cdrmix", "generate", str(home / "cpu"), "--prompt", "a", "-n", "1", "--save-state", out]
        return [str(home / "cpu/cdrmix-run"), "-m", str(home / "cpu"), "-n", "1", "-o", out, "a"]

    if program == "cdrmix":
        import sys

        start = [sys.executable, "-m", "cdrmix.cli"]
    else:
        start = command("")[:1]
    piped = subprocess.run([*start, *command("/dev/stdout")[1:]], capture_output=True, check=True).stdout
    assert piped.startswith(b"a") and b"CDRSTATE" in piped
    for name in ("/dev/stdout", str(tmp_path / "text")):
        with (tmp_path / "text").open("wb") as f:
            done = subprocess.run([*start, *command(name)[1:]], stdout=f, stderr=subprocess.PIPE, check=False)
        assert done.returncode == 1 and b"standard output goes" in done.stderr
        assert (tmp_path / "text").read_bytes().startswith(b"a")
    assert Path("/dev/stdout").is_symlink()


def test_what_a_killed_process_left_is_swept(home: Path, tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = [tmp_path / f".state.{gone.pid}{end}.part" for end in ("", ".0")]
    others = [tmp_path / f".state.{gone.pid}.1.part", tmp_path / f".state.txt.{gone.pid}.part", tmp_path / "state.1"]
    for path in (*left, *others):
        path.write_bytes(b"half")
    with others[0].open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        command = [home / "cpu/cdrmix-run", "-m", home / "cpu", "-n", "1", "-o", tmp_path / "state", "a"]
        subprocess.run(command, check=True)
    assert not any(path.exists() for path in left) and all(path.exists() for path in others)
