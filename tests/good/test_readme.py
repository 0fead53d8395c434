"""What the documents show works: their specs compile, their configs and commands are read, their programs run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from cdrmix.runtime.session import Session

from cdrmix.arguments import make_parser
from cdrmix.artifact import write_artifact
from cdrmix.check import load_text
from cdrmix.compiler import lower
from cdrmix.train.config import DataConfig, EvalConfig, OptimConfig, TrainConfig, read_config
from tests.small import SPEC

README, TRAINING, ARTEFACTS = (
    (Path(__file__).resolve().parents[2] / name).read_text(encoding="utf-8")
    for name in ("README.md", "docs/training.md", "docs/artefacts.md")
)


def blocks(text: str, kind: str = "") -> list[str]:
    """The code blocks of a document that are of a kind."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [block for language, block in found if language == kind]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artefact."""
    out = tmp_path_factory.mktemp("documents") / "made"
    write_artifact(lower(load_text(SPEC)), "cpu", out, tokenizer="bytes")
    return out


def test_the_readmes_specs_compile() -> None:
    spec = next(block for block in blocks(README) if "model mine" in block)
    op = next(block for block in blocks(README) if "op smooth" in block)
    load_text(spec)
    used = re.search(r"Use it as `(.*?)`", README)
    assert used
    load_text(op + spec.replace("ffn: residual", f"{used[1]}\n      ffn: residual"))


def test_the_configs_of_the_documents_are_right(tmp_path: Path) -> None:
    train, evaluation = blocks(TRAINING, "yaml")
    for kind, text in ((TrainConfig, train), (EvalConfig, evaluation)):
        (tmp_path / "c.yaml").write_text(text)
        read_config(kind, tmp_path / "c.yaml")
    for kind in (TrainConfig, DataConfig, OptimConfig, EvalConfig):
        told = {key for key in kind.model_fields if f"{key}`" in TRAINING or f"`{key}." in TRAINING}
        assert told == set(kind.model_fields)


def test_commands_of_the_documents_are_understood() -> None:
    shown = "\n".join(blocks(README) + blocks(TRAINING) + blocks(ARTEFACTS)).replace("\\\n", " ")
    commands = [shlex.split(line, comments=True) for line in shown.splitlines() if line.startswith("cdrmix ")]
    assert len(commands) > 10
    for command in commands:
        make_parser().parse_args(command[1:])


def test_the_python_of_the_documents_runs(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (text,) = blocks(ARTEFACTS, "python")
    exec(compile(text.replace("DIR", str(made)), "artefacts.md", "exec"), {})
    assert (tmp_path / "talk.state").stat().st_size > 100 and len(capsys.readouterr().out.splitlines()) >= 8


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_the_c_of_the_documents_runs(made: Path, tmp_path: Path) -> None:
    (text,) = blocks(ARTEFACTS, "c")
    (tmp_path / "mine.c").write_text(text)
    command = re.search(r"`(cc .*?)`", ARTEFACTS)
    assert command
    built = command[1].replace("DIR", str(made)).replace("mine.c", str(tmp_path / "mine.c"))
    subprocess.run([*built.split(), "-Wall", "-Werror", "-o", str(tmp_path / "mine")], check=True)
    done = subprocess.run([tmp_path / "mine"], cwd=made, capture_output=True, text=True, check=True)
    with Session.open(made) as session:
        assert float(done.stdout) == pytest.approx(float(session.prefill([0, 1, 2, 3])[0]), rel=1e-3, abs=1e-6)


@pytest.mark.skipif(not shutil.which("make"), reason="no make")
def test_the_demo_installs_nothing_that_only_gpu_targets_need(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]

    def commands(target: str) -> str:
        words = ["make", "-n", "-C", str(root), target, f"VENV={tmp_path / 'venv'}"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    assert "--editable '.'" in commands("demo") and "--editable '.'" in commands("setup")
    assert "--editable '.[dev,gpu]'" in commands("test") and "--editable '.[dev,gpu]'" in commands("lint")
