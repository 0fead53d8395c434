"""The command line: what comes back, what is not lost, and that each mistake is told with its remedy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from cdrmix.arguments import make_parser
from cdrmix.check.names.loader import LIBRARY
from cdrmix.checkpoints import find_weights
from cdrmix.cli import main
from cdrmix.commands import PASSES
from cdrmix.train.tokenizer import byte_tokenizer
from tests.good.commands import SMALL, said
from tests.small import SPEC, TEXT, write_spec


def test_help_teaches_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("check", "inspect", "compile", "verify", "bench", "generate", "train", "eval"):
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


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "x", "--prompt", "a", "-n", "-1"],
        ["generate", "x", "--prompt", "a", "--seed", "-1"],
        ["compile", "x", "--target", "cpu", "-o", "y", "--seed", "-1"],
        ["compile", "x", "--target", "cpu", "-o", "y", "--seed", "18446744073709551616"],
        ["verify", "x", "--tokens", "0"],
        ["verify", "x", "--tokens", "99999999999999999999"],
        ["verify", "x", "--tolerance", "inf"],
        ["verify", "x", "--tolerance", "nan"],
        ["data", "from-directory", "x", "y", "--shard-mb", "0"],
        ["data", "from-directory", "x", "y", "--shard-mb", "9" * 50],
    ],
)
def test_numbers_out_of_range_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as e:
        make_parser().parse_args(arguments)
    assert e.value.code == 2 and "or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [["tokenizer", "train"], ["tokenizer", "encode"], ["data", "split"], ["data", "from-directory"]]
)
def test_help_of_the_inner_commands_teaches(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as e:
        make_parser().parse_args([*command, "--help"])
    assert e.value.code == 0
    assert f"example: cdrmix {' '.join(command)} " in capsys.readouterr().out


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as e:
        main(["--version"])
    assert e.value.code == 0 and capsys.readouterr().out.startswith("cdrmix ")


def test_text_that_is_not_utf8_has_no_ids(capsys: pytest.CaptureFixture[str]) -> None:
    assert "not UTF-8" in said(capsys, "tokenizer", "encode", "bytes", os.fsdecode(b"\xff"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_said(home: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "cdrmix.cli", "check", str(home / "small.cdr")]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1 and done.stderr == "error: No space left on device\n"


# --- where things are found -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["tiny.cdr", "spec/tiny.cdr"])
def test_a_spec_of_the_library_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["check", name]) == 0
    assert "tiny: right" in capsys.readouterr().out
    write_spec(tmp_path, SMALL, "tiny.cdr")  # what is here comes first
    assert main(["check", "tiny.cdr"]) == 0
    assert "small: right" in capsys.readouterr().out


def test_a_spec_that_is_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "did you mean `tiny.cdr`?" in said(capsys, "check", "tyny.cdr")
    assert "cannot read" in said(capsys, "check", f"../{LIBRARY.name}/tiny.cdr")
    assert "cannot read" in said(capsys, "check", "x" * 300)


def test_specs_and_configs_are_told_apart(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is a config, not a spec" in said(capsys, "check", home / "c.yaml")
    assert "is a spec, not a config" in said(capsys, "train", home / "small.cdr")
    assert "`set.layers`" in said(capsys, "train", home / "c.yaml", "--set", "layers=3")
    assert "`cdrmix train` has it" in said(capsys, "eval", home / "c.yaml")
    assert "a group of settings is expected" in said(capsys, "train", home / "c.yaml", "--set", "optim=3")


# --- what is there already is not lost ------------------------------------------------------------------------------
def test_compile_writes_over_an_artefact_only(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = {"Makefile": "all:\n", "manifest.json": '{"name": "a web page"}'}
    command = ["compile", home / "small.cdr", "--target", "cpu", "-o"]
    for name, text in theirs.items():
        (tmp_path / name).write_text(text)
        assert "holds other files than an artefact" in said(capsys, *command, tmp_path)
    assert {f.name: f.read_text() for f in tmp_path.iterdir()} == theirs
    for _ in range(2):
        said(capsys, *command, tmp_path / "out", code=0)


def test_a_tokenizer_that_does_not_fit_changes_nothing(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["compile", home / "small.cdr", "--target", "cpu", "-o", out, "--tokenizer"]
    assert "is not a tokenizer.json" in said(capsys, *command, home / "small.cdr")
    large = byte_tokenizer()
    large.add_tokens(["more"])
    large.save(str(tmp_path / "large.json"))
    assert "257 tokens, small a vocabulary of 256" in said(capsys, *command, tmp_path / "large.json")
    assert not out.exists()


def test_a_checkpoint_with_a_tokenizer_of_another_kind_compiles_without(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "weights.safetensors").write_bytes(find_weights(home / "made").read_bytes())
    other = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    other.pre_tokenizer = pre_tokenizers.Whitespace()
    other.save(str(tmp_path / "tokenizer.json"))
    command = ["compile", home / "small.cdr", "--target", "cpu", "--checkpoint", tmp_path, "-o", tmp_path / "out"]
    assert "note: the artefact has no tokenizer" in said(capsys, *command, code=0)
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def test_an_interrupted_compile_leaves_the_artefact_that_was_there(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compile", home / "small.cdr", "--target", "cpu", "--tokenizer", "bytes", "-o", tmp_path / "out"]
    said(capsys, *command, code=0)
    with monkeypatch.context() as patch:
        patch.setattr("cdrmix.artifact.describe", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr("signal.signal", lambda *given: None)
        assert "interrupted" in said(capsys, *command, code=130)
    assert not list((tmp_path / "out").glob(".*"))
    said(capsys, "generate", tmp_path / "out", "--prompt", "a", "-n", "1", code=0)


# --- prompts --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("prompt", ["é", "你好 🙂", os.fsdecode(b"\xff\xfe"), "a\nb\t\x00"[:-1], "<|endoftext|>"])
def test_every_prompt_is_continued(home: Path, capsys: pytest.CaptureFixture[str], prompt: str) -> None:
    assert main(["generate", str(home / "made"), "--prompt", prompt, "-n", "3"]) == 0
    assert capsys.readouterr().out.startswith(os.fsencode(prompt).decode(errors="replace"))


def test_a_refused_prompt_is_not_printed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(home / "made"), "--prompt", ""]) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and "give at least one token" in shown.err


def test_a_terminal_that_cannot_show_the_text(home: Path) -> None:
    command = [sys.executable, "-m", "cdrmix.cli", "generate", str(home / "made"), "--prompt", "é", "-n", "2"]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=False)
    assert done.returncode == 0 and done.stdout.startswith(b"?") and not done.stderr
