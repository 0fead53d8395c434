"""No command answers odd input with a traceback, a hang, or an exit code of its own invention.

Every command is driven with every odd value in every one of its places, and with every file it reads damaged.  In one
process, by the command line's own entry; what only a process of its own can meet is in `test_surroundings.py`.
"""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from cdrmix.cli import main
from tests.small import TEXT

from .odd_inputs import NUMBERS, TEXTS, YAML, damaged, paths

SPEC = """
use "lib/embed.cdr" { embed, head }
op smooth(x: [D], rate: float = 1.0) -> [D] {
  state s: [D]
  param a: [i < D] ~ i/D
  s' = sigmoid(rate*a)*s + x
  return s'
}
model small {
  vocab = 256
  d_model = 4
  context = 8
  stack {
    emb: embed(vocab, d_model)
    mix: residual smooth
    head(vocab)
  }
}
"""
EXITS = {0, 1, 2, 3}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every file that a command reads: a spec, texts, configs, a run, artefacts, a tokenizer, a saved state."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "s.cdr").write_text(SPEC)
    (folder / "t.txt").write_text(TEXT)
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text(TEXT)
    (folder / "train.yaml").write_text(
        f"spec: {folder}/s.cdr\ndata: {{train: {folder}/t.txt, eval: {folder}/t.txt}}\nout: {folder}/run\nsteps: 2\n"
        "batch: 1\nthreads: 1\neval_tokens: 20\n"
    )
    (folder / "eval.yaml").write_text(
        f"spec: {folder}/s.cdr\ncheckpoint: {folder}/run\ndata: {folder}/t.txt\ncontext: 200\nthreads: 1\n"
    )
    done = [
        ["train", folder / "train.yaml"],
        ["tokenizer", "train", folder / "t.txt", "--vocab", 257, "-o", folder / "tokenizer.json"],
        *(["compile", folder / "s.cdr", "--target", t, "--checkpoint", folder / "run", "-o", folder / t]
          for t in ("cpu", "torch")),
        ["generate", folder / "cpu", "--prompt", "a", "-n", 1, "--save-state", folder / "state"],
    ]  # fmt: skip
    for command in done:
        assert main([str(x) for x in command]) == 0, command
    return folder


COMMANDS = {
    "check": "PATH=s.cdr --set TEXT=d_model=4 --model TEXT=small",
    "inspect": "PATH=s.cdr --target TEXT=tenstorrent --cores NUMBER=1 --device TEXT=n150",
    "compile": "PATH=s.cdr --target TEXT=cpu --checkpoint PATH=run --tokenizer PATH=bytes --seed NUMBER=0 -o OUT=new",
    "verify": "PATH=cpu --tokens COUNT=2 --tolerance NUMBER=1",
    "generate": "PATH=cpu --prompt TEXT=a -n COUNT=1 --temperature NUMBER=1 --top-p NUMBER=1 --top-k NUMBER=0 "
    "--repetition-penalty NUMBER=1 --seed NUMBER=0 --load-state PATH=state --save-state OUT=state2",
    "train": "PATH=train.yaml --set out=HOME/new --set TEXT=steps=1",
    "eval": "PATH=eval.yaml --set TEXT=rows=1",
    "tokenizer train": "PATH=t.txt --vocab NUMBER=257 --field TEXT=text -o OUT=new.json",
    "tokenizer encode": "PATH=tokenizer.json TEXT=a",
    "data from-directory": "PATH=texts OUT=shards --shard-mb NUMBER=1 --exclude TEXT=a --only TEXT=.txt",
    "data split": "PATH=t.txt --ratio NUMBER=0.5 --field TEXT=text -o OUT=parts",
    "doctor": "TEXT=cpu",
}
"""A right command line each; the places that an odd value may take are marked with its kind."""

SETTINGS = (
    *("seed", "threads", "steps", "batch", "context", "accumulate", "eval_tokens", "keep", "save_every", "log_every"),
    *("out", "spec", "tokenizer", "checkpoint", "data", "data.field", "data.train", "data.eval", "set", "set.d_model"),
    *("set.vocab", "optim", "optim.lr", "optim.warmup", "optim.schedule", "optim.clip", "optim.final", "carry_state"),
)

READ = {
    "s.cdr": ["check s.cdr"],
    "train.yaml": ["train train.yaml"],
    "eval.yaml": ["eval eval.yaml"],
    "t.txt": ["tokenizer train t.txt --vocab 257 -o new.json", "data split t.txt -o parts"],
    "tokenizer.json": ["tokenizer encode tokenizer.json ab"],
    "state": ["generate cpu --prompt a -n 1 --load-state state"],
    "run/metrics.jsonl": ["train train.yaml --resume"],
    "run/module/model.py": ["train train.yaml --resume"],
} | {
    f"{target}/{file}": [f"verify {target} --tokens 1", f"generate {target} --prompt a -n 1"]
    for target, program in (("cpu", ["model.c", "Makefile"]), ("torch", ["model.py"]))
    for file in ("manifest.json", "weights.safetensors", "tokenizer.json", *program)
} | {
    f"run/last/{file}": ["train train.yaml --resume", "compile s.cdr --target cpu --checkpoint run -o new"]
    for file in ("weights.safetensors", "optimizer.safetensors", "trainer.json", "tokenizer.json")
}  # fmt: skip
"""What reads each file."""


def filled(name: str, home: Path, folder: Path) -> Iterator[list[str]]:
    """The command with one of its places at a time given something odd; a COUNT takes time and is never huge."""
    kinds = {"PATH": list(paths(folder / "odd")), "NUMBER": NUMBERS, "COUNT": NUMBERS[:-3], "TEXT": TEXTS}
    kinds["OUT"] = kinds["PATH"]
    words, right = COMMANDS[name].replace("HOME", str(folder)).split(), []
    for word in words:
        kind, _, value = word.partition("=")
        near = {"PATH": home, "OUT": folder}.get(kind)
        if kind not in kinds:
            right.append(word)
        else:
            right.append(value if near is None or value == "bytes" else str(near / value))
    for place, word in enumerate(words):
        for value in kinds.get(word.partition("=")[0], ()):
            yield [*name.split(), *right[:place], value, *right[place + 1 :]]


def fault_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run it, and say what is wrong with the answer: no documented exit, or nothing said where it is not 0."""
    try:
        code = main(arguments)
    except SystemExit as e:  # argparse
        code = int(e.code or 0)
    except Exception as e:
        at = traceback.extract_tb(e.__traceback__)[-1]
        return f"{brief(arguments)}: {type(e).__name__}: {e} ({Path(at.filename).name}:{at.lineno})"
    finally:
        shown = capsys.readouterr()
    silent = code and not shown.err.strip()
    return f"{brief(arguments)}: exit {code}" if code not in EXITS or silent else ""


def brief(arguments: list[str]) -> str:
    """The command, long words cut."""
    return " ".join(ascii(x if len(x) < 60 else f"{x[:12]}...{x[-40:]}") for x in arguments)


def report(faults: Iterable[str]) -> None:
    """Fail with all the faults."""
    found = [x for x in faults if x]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", COMMANDS)
def test_odd_arguments(
    name: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd").mkdir()
    faults = []
    for arguments in filled(name, home, tmp_path):
        faults.append(fault_of(arguments, capsys))
        for made in tmp_path.iterdir():
            if made.name != "odd":
                shutil.rmtree(made) if made.is_dir() and not made.is_symlink() else made.unlink()
    report(faults)


@pytest.mark.parametrize("key", SETTINGS)
def test_odd_settings(
    key: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    faults = []
    for value in dict.fromkeys((*NUMBERS, *TEXTS, *YAML)):
        changes = [x for change in ("out=new", "steps=1", f"{key}={value}") for x in ("--set", change)]
        faults.append(fault_of(["train", str(home / "train.yaml"), *changes], capsys))
        shutil.rmtree("new", ignore_errors=True)
    report(faults)


@pytest.mark.parametrize("name", READ)
def test_damaged_files(
    name: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    there, faults = tmp_path / "there", []
    shutil.copytree(home, there, symlinks=True)
    for config in ("train.yaml", "eval.yaml"):
        (there / config).write_bytes((there / config).read_bytes().replace(bytes(home), bytes(there)))
    top = Path(name).parts[0]
    whole = tmp_path / "whole" / top
    _copy(there / top, whole)
    monkeypatch.chdir(there)
    for how, content in damaged(there / name):
        (there / name).write_bytes(content)
        for command in READ[name]:
            fault = fault_of(command.split(), capsys)
            faults.append(fault and f"{how}: {fault}")
        _copy(whole, there / top)
    report(faults)


def _copy(source: Path, to: Path) -> None:
    """What is at `to` becomes a copy of `source`, a file or a folder."""
    if source.is_dir():
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(source, to, symlinks=True)
    else:
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, to)
