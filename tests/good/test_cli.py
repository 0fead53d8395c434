"""The command line: what a user types, what comes back, and that no mistake of theirs is a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cdrmix.arguments import make_parser
from cdrmix.cli import main
from cdrmix.commands import PASSES
from tests.small import SPEC, TEXT, write_spec


def test_help_teaches_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("check", "inspect", "compile", "verify", "generate", "train", "eval"):
        with pytest.raises(SystemExit) as e:
            make_parser().parse_args([command, "--help"])
        assert e.value.code == 0
        assert "example: cdrmix" in capsys.readouterr().out


def test_check_says_right_and_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(write_spec(tmp_path))]) == 0
    assert "small: right" in capsys.readouterr().out
    bad = write_spec(tmp_path, SPEC.replace("head(vocab)", "haed(vocab)"), "bad.cdr")
    assert main(["check", str(bad)]) == 1
    shown = capsys.readouterr().err
    assert "error[E0201]" in shown and "did you mean `head`?" in shown and "haed(vocab)\n" in shown and "^^^^" in shown
    assert main(["check", "--json", str(bad)]) == 1
    (error,) = json.loads(capsys.readouterr().out)["errors"]
    assert error["code"] == "E0201" and error["line"] == SPEC.splitlines().index("    head(vocab)") + 1


def test_settings_are_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = str(write_spec(tmp_path))
    assert main(["inspect", "--json", spec]) == 0
    two = json.loads(capsys.readouterr().out)
    assert main(["inspect", "--json", spec, "--set", "layers=4"]) == 0
    four = json.loads(capsys.readouterr().out)
    assert four["parameters"] > 1.5 * two["parameters"] - 2 * 256 * 32
    assert main(["inspect", spec, "--ops"]) == 0
    shown = capsys.readouterr().out
    assert "delta" in shown and "S'[" in shown
    assert main(["check", spec, "--set", "layerz=4"]) == 1
    assert "E0702" in capsys.readouterr().err


@pytest.mark.parametrize("name", PASSES)
def test_every_pass_can_be_dumped(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    out = str(tmp_path / "out")
    assert main(["compile", str(write_spec(tmp_path)), "--target", "torch", "-o", out, "--dump-after", name]) == 0
    assert "rwkv7" in capsys.readouterr().out


def test_the_whole_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    spec, run, artefact = write_spec(tmp_path), tmp_path / "run", tmp_path / "cpu"
    tokenizer = tmp_path / "tokenizer.json"
    assert main(["tokenizer", "train", str(tmp_path / "text.txt"), "--vocab", "270", "-o", str(tokenizer)]) == 0
    (tmp_path / "c.yaml").write_text(
        f"spec: {spec}\nset: {{vocab: 270}}\ntokenizer: {tokenizer}\ndata: {{train: {tmp_path}/text.txt}}\n"
        f"out: {run}\nsteps: 5\nbatch: 2\n"
    )
    assert main(["train", str(tmp_path / "c.yaml"), "--set", "steps=2"]) == 0
    assert main(["train", str(tmp_path / "c.yaml"), "--set", "steps=3", "--resume"]) == 0
    override = ["--set", "vocab=270"]
    assert (
        main(["compile", str(spec), *override, "--target", "cpu", "--checkpoint", str(run), "-o", str(artefact)]) == 0
    )
    assert main(["verify", str(artefact)]) == 0
    assert "executed: 64 tokens" in capsys.readouterr().out
    generate = ["generate", str(artefact), "--prompt", "the number", "-n", "20", "--seed", "3"]
    assert main(generate) == 0
    text = capsys.readouterr().out
    assert text.startswith("the number") and len(text) > len("the number")
    assert main(generate) == 0
    assert capsys.readouterr().out == text
    (tmp_path / "e.yaml").write_text(
        f"spec: {spec}\nset: {{vocab: 270}}\ncheckpoint: {run}\ndata: {tmp_path}/text.txt\n"
    )
    assert main(["eval", str(tmp_path / "e.yaml"), "--json"]) == 0
    assert 0 < json.loads(capsys.readouterr().out)["bits_per_byte"] < 9


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["check", "absent.cdr"], "absent.cdr"),
        (["compile", "SPEC", "--target", "cpi", "-o", "OUT"], "did you mean `cpu`?"),
        (["compile", "SPEC", "--target", "cpu", "-o", "OUT", "--checkpoint", "absent"], "no weights at absent"),
        (["compile", "SPEC", "--target", "cpu", "-o", "OUT", "--checkpoint", "SPEC"], "not a readable safetensors"),
        (["compile", "SPEC", "--target", "cpu", "-o", "SPEC"], "is a file"),
        (["compile", "SPEC", "--target", "cpu", "-o", "OUT", "--dump-after", "hoits"], "did you mean `hoist`?"),
        (["compile", "SPEC", "--target", "cpu", "-o", "OUT", "--tokenizer", "absent.json"], "no tokenizer at"),
        (["generate", "OUT", "--prompt", "a"], "not an artefact"),
        (["verify", "OUT"], "not an artefact"),
        (["train", "absent.yaml"], "no config at"),
        (["check", "SPEC", "--set", "layers"], "no `=`"),
        (["tokenizer", "train", "SPEC", "--vocab", "3", "-o", "OUT"], "too small"),
        (["data", "from-directory", "absent", "OUT"], "no folder absent"),
        (["data", "split", "absent", "-o", "OUT"], "no data at absent"),
    ],
)
def test_mistakes_are_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = str(write_spec(tmp_path))
    assert main([spec if a == "SPEC" else a for a in arguments]) == 1
    shown = capsys.readouterr().err
    assert says in shown and "Traceback" not in shown


def test_a_mistake_in_the_command_line_exits_with_2() -> None:
    with pytest.raises(SystemExit) as e:
        main(["compile"])
    assert e.value.code == 2


def test_check_starts_without_the_heavy_libraries(tmp_path: Path) -> None:
    code = (
        "import sys; from cdrmix.cli import main; main(sys.argv[1:]); "
        "print(sorted({'torch', 'tokenizers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "check", str(write_spec(tmp_path))], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
