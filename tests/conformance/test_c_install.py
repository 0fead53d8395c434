"""`make install`, and the examples in C, C++ and Python, built with what it installed: all write the same text."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cdrmix.artifact import write_artifact
from cdrmix.check import load_text
from cdrmix.compiler import lower
from tests.good.commands import SMALL

pytestmark = pytest.mark.skipif(not (shutil.which("cc") and shutil.which("make")), reason="no make and cc")

EXAMPLES = Path(__file__).parents[2] / "examples"
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Werror", "-pedantic"]
PROMPT = "def é "


def run(*words: object) -> bytes:
    return subprocess.run([str(w) for w in words], capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the model is installed: a folder with a blank in its name."""
    home = tmp_path_factory.mktemp("installed")
    write_artifact(lower(load_text(SMALL)), "cpu", home / "made", tokenizer="bytes")
    root = home / "a place"
    environment = {**os.environ, "CFLAGS": "-O0"}
    words = ["make", "-s", "-C", home / "made", "install", f"DESTDIR={root}", "PREFIX=/opt/models"]
    subprocess.run(words, env=environment, check=True)
    return root / "opt" / "models"


@pytest.fixture(scope="module")
def wanted(place: Path) -> bytes:
    """What the installed program writes, as bytes, whatever characters they make."""
    from cdrmix.runtime.generation import Writer
    from cdrmix.runtime.sampling import Sampling
    from cdrmix.runtime.session import Session
    from cdrmix.runtime.tokens import Tokenizer

    made = place.parents[2] / "made"
    with Session.open(made) as session:
        writer = Writer(session, Tokenizer.from_file(made / "tokenizer.json"), Sampling(0.8, 0.95))
        writer.read(PROMPT.encode())
        text = PROMPT.encode() + b"".join(writer.write(20)) + b"\n"
    shown = run(place / "bin" / "cdrmix-small", "-m", place / "share" / "cdrmix-small", "-n", "20", PROMPT)
    assert shown.decode().split() == text.decode(errors="replace").split()
    return text


def test_everything_is_where_pkg_config_says(place: Path) -> None:
    found = {str(p.relative_to(place)) for p in place.rglob("*") if p.is_file()}
    name = "cdrmix-small"
    share = {f"share/{name}/{file}" for file in ("manifest.json", "weights.safetensors", "tokenizer.json")}
    headers = {f"include/{name}/{file}" for file in ("model.h", "tokenizer.h")}
    built = {f"bin/{name}", f"lib/lib{name}.so", f"lib/lib{name}.a", f"lib/pkgconfig/{name}.pc"}
    assert found == share | headers | built
    said = (place / "lib" / "pkgconfig" / f"{name}.pc").read_text()
    assert said.startswith("prefix=/opt/models\n") and "\nName: cdrmix-small\n" in said
    if shutil.which("pkg-config"):
        asks = ["pkg-config", "--static", "--cflags", "--libs", "--variable=model", name]
        environment = {**os.environ, "PKG_CONFIG_PATH": str(place / "lib" / "pkgconfig")}
        told = subprocess.run(asks, env=environment, capture_output=True, text=True, check=True).stdout
        assert told.split()[0] == f"/opt/models/share/{name}" or f"-I/opt/models/include/{name}" in told


@pytest.mark.parametrize("source", ["stream.c", "stream.cpp"])
@pytest.mark.parametrize("linked", ["so", "a"])
def test_an_example_writes_what_the_program_writes(
    source: str, linked: str, place: Path, wanted: bytes, tmp_path: Path
) -> None:
    compiler = ["cc", "-std=c99"] if source.endswith(".c") else ["c++", "-std=c++17"]
    if not shutil.which(compiler[0]):
        pytest.skip("no C++ compiler")
    library = f"-l:libcdrmix-small.{linked}"
    flags = [f"-I{place}/include/cdrmix-small", f"-L{place}/lib", f"-Wl,-rpath,{place}/lib"]
    run(*compiler, *WARNINGS, EXAMPLES / source, *flags, library, "-lm", "-pthread", "-o", tmp_path / "stream")
    shown = run(tmp_path / "stream", place / "share" / "cdrmix-small", PROMPT, 20)
    assert shown.startswith(wanted)
    assert source == "stream.c" or shown.removeprefix(wanted).startswith(PROMPT.encode())  # the second of two streams


def test_python_without_cdrmix(place: Path, wanted: bytes) -> None:
    library, data = place / "lib" / "libcdrmix-small.so", place / "share" / "cdrmix-small"
    assert run(sys.executable, "-I", "-S", EXAMPLES / "stream_ctypes.py", library, data, PROMPT, 20) == wanted


def test_uninstall_leaves_nothing(place: Path, tmp_path: Path) -> None:
    for what, files in (("install", 9), ("install", 9), ("uninstall", 0)):
        run("make", "-s", "-C", place.parents[2] / "made", what, f"DESTDIR={tmp_path}", "PREFIX=/usr", "NAME=other")
        assert len([p for p in tmp_path.rglob("*") if p.is_file() and "cdrmix-other" in str(p)]) == files
