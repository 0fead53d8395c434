"""What a newcomer does, and does wrong: nothing is lost, nothing is a traceback, and the remedy is told."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cdrmix.runtime.errors import ArtifactError
from cdrmix.runtime.session import Session, read_manifest
from tokenizers import Tokenizer, models, pre_tokenizers

from cdrmix.arguments import make_parser
from cdrmix.artifact import write_manifest
from cdrmix.check.loader import LIBRARY
from cdrmix.checkpoints import find_weights
from cdrmix.cli import main
from cdrmix.train.tokenizer import byte_tokenizer
from tests.small import SPEC, TEXT, write_spec

SMALL = SPEC.replace("d_model = 32", "d_model = 16").replace("layers = 2", "layers = 1")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a spec, a text, a config, and the artefact of the untrained spec with the byte tokenizer."""
    folder = tmp_path_factory.mktemp("home")
    spec = write_spec(folder, SMALL)
    (folder / "text.txt").write_text(TEXT)
    (folder / "c.yaml").write_text(
        f"spec: {spec}\ndata: {{train: {folder}/text.txt}}\nout: {folder}/run\nsteps: 1\nbatch: 1\nthreads: 1\n"
    )
    out = str(folder / "made")
    assert main(["compile", str(spec), "--target", "cpu", "--tokenizer", "bytes", "-o", out]) == 0
    return folder


def said(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 1) -> str:
    """What a command says on stderr, when it ends with this code."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == code
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    return shown


# ---- where things are found
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


# ---- what is there already is not lost
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


def test_a_tokenizer_that_loses_text_is_refused(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bits per byte would be those of another text."""
    Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).save(str(tmp_path / "words.json"))
    out, words = f"out={tmp_path / 'run'}", f"tokenizer={tmp_path / 'words.json'}"
    assert "is not byte-level" in said(capsys, "train", home / "c.yaml", "--set", words, "--set", out)


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


def test_the_first_ctrl_c_saves_the_step(home: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = [f"out={run}", "steps=100000", "log_every=1", "save_every=100000", "context=8"]
    command = [sys.executable, "-m", "cdrmix.cli", "train", str(home / "c.yaml")]
    command += [part for setting in settings for part in ("--set", setting)]
    default = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **default) as child:  # type: ignore[call-overload]
        deadline = time.monotonic() + 120
        while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_text():
            assert time.monotonic() < deadline and child.poll() is None
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        shown = child.communicate(timeout=60)[1]
    assert child.returncode == 130
    assert "--resume goes on from it" in shown and "Traceback" not in shown
    step = json.loads((run / "last" / "trainer.json").read_text())["step"]
    assert main(["train", str(home / "c.yaml"), "--resume", *command[5:], "--set", f"steps={step + 1}"]) == 0


def test_data_with_nothing_to_predict_has_no_score(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.txt").write_text("x")
    (tmp_path / "e.yaml").write_text(f"{{spec: {home}/small.cdr, checkpoint: {home}/made, data: {tmp_path}/one.txt}}")
    assert "nothing to predict" in said(capsys, "eval", tmp_path / "e.yaml")


# ---- files that cannot be written
def test_out_is_no_folder(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = ["train", home / "c.yaml", "--set"]
    assert "a file" in said(capsys, *train, f"out={home / 'text.txt'}")
    assert "Not a directory" in said(capsys, *train, f"out={home / 'text.txt' / 'run'}")
    text = home / "text.txt"
    assert "is a folder" in said(capsys, "tokenizer", "train", text, "--vocab", "260", "-o", tmp_path)
    assert "error: " in said(capsys, "data", "split", text, "-o", text)
    assert "error: " in said(capsys, "data", "from-directory", home, text)
    assert not (home / "run").exists()


def test_nothing_is_made_for_data_that_is_not_there(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert "no data at" in said(capsys, "train", home / "c.yaml", "--set", f"out={run}", "--set", "data.train=absent")
    assert not run.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_said(home: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "cdrmix.cli", "check", str(home / "small.cdr")]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1 and done.stderr == "error: No space left on device\n"


def test_verify_of_an_artefact_that_cannot_be_written(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (home / "made" / "manifest.json").read_bytes()
    real = os.open

    def refuse(path: str | Path, flags: int, *rest: int, **more: int) -> int:
        if flags & os.O_CREAT and str(path).startswith(str(home / "made")):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, flags, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        shown = said(capsys, "verify", home / "made", "--tokens", "2", code=0)
    assert "the result is not in the manifest" in shown and "Permission denied" in shown
    assert (home / "made" / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("key", ["state", "tensors"])
def test_verify_refuses_a_manifest_that_says_less_than_its_spec(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    """A piece of the state that is not listed would not be compared."""
    folder = Path(shutil.copytree(home / "made", tmp_path / "made"))
    manifest = read_manifest(folder)
    manifest[key].pop()
    write_manifest(folder, manifest)
    assert f"`{key}` is not its spec's" in said(capsys, "verify", folder)


def test_a_state_is_read_whatever_shape_the_manifest_says(home: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(home / "made", tmp_path / "made"))
    manifest = read_manifest(folder)
    whole, shape = manifest["state"], manifest["state"][0]["shape"]
    for wrong in ([1], [10**12], ["x"], 5):
        write_manifest(folder, {**manifest, "state": [{**whole[0], "shape": wrong}]})
        with Session.open(folder) as session:
            session.step(65)
            if wrong == [1]:
                assert session.state()[whole[0]["path"]].shape == (1,) != tuple(shape)
            else:
                with pytest.raises(ArtifactError, match="`state` is damaged"):
                    session.state()


def test_verify_says_what_is_wrong(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "above the tolerance of 1e-30" in said(
        capsys, "verify", home / "made", "--tokens", "2", "--tolerance", "1e-30", code=3
    )


# ---- prompts
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


def test_a_saved_state_holds_the_last_token(home: Path, tmp_path: Path) -> None:
    """What is read after it follows the whole text."""
    base = ["generate", str(home / "made"), "--temperature", "0", "-n", "4"]
    assert main([*base, "--prompt", "ab", "--save-state", str(tmp_path / "s")]) == 0
    with Session.open(home / "made") as session, session.fork() as saved:
        saved.load(tmp_path / "s")
        logits = session.prefill(list(b"ab"))
        for _ in range(4):
            logits = session.step(int(logits.argmax()))
        assert saved.tokens == session.tokens == 6
        for name, value in session.state().items():
            np.testing.assert_array_equal(saved.state()[name], value)


# ---- the command line
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
