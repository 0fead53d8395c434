"""The documents are true: what they show works, and the reference's table of errors is complete."""

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
from cdrmix.syntax import ast, parse
from cdrmix.syntax.words import KEYWORDS
from cdrmix.train.config import DataConfig, EvalConfig, OptimConfig, TrainConfig, read_config
from tests.small import SPEC

ROOT = Path(__file__).resolve().parents[2]


TEXT = (ROOT / "docs" / "language.md").read_text(encoding="utf-8")


WHOLE = re.findall(r"^```cdr\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


PARTS = re.findall(r"^```cdr-part\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


AROUND = [
    (", H: int = 2", "", "return whole + flat + near as [D] + sum[h](n2[h]) + sum[c](ramp[c])"),
    (", hidden: int = 16", "dim D = H * 2", "metric size = mean[tokens](sum[j](h[j]^2))"),
    (", N: int = 4", "dim D = H * N\nw = x\nv = x\nk = x\nr = x", "return y as [D]"),
    (", window: int = 4", "dim N = D\nk = x\nq = x", "return y"),
    ("", "vx = x", "return v"),
    (
        ", expert: op, experts: int = 4, hidden: int = 16",
        "param Wg: [experts, D] ~ 0\nbank A: [e < experts] of expert",
        "return y + routed + every",
    ),
    (
        ", experts: int = 4",
        "param Wg: [experts, D] ~ 0\np = softmax(Wg @ x)\ngate, pick = top[k < 2](p + bias)",
        "return x * sum[k](gate[k])",
    ),
]
"""For each part: the arguments, and the statements before and after it, of an op that holds it."""


MIXERS = {"no_delta": "no_delta(N=4)", "example": "only"}


MODEL = """
op only(x: [D]) -> [D] {{
  return x
}}

model m {{
  vocab = 16
  d_model = 8
  layers = 2
  stack {{
    emb: embed(vocab, d_model)
    repeat layer < layers {{
      a: residual {mixer}
    }}
    head(vocab)
  }}
}}
"""


ELSEWHERE = {
    "E0116": "a file of a megabyte: tested in test_parse.py",
    "E0412": "an op of more than a hundred states: tested in test_scale.py",
    "E0901": "every target has every primitive today: tested with one made up in test_backends.py",
    "E0902": "the checker refuses such a text first (E0601)",
    "E0904": "such a bias is not taken for attention's form today",
}
"""Codes without a program in tests/bad, and why."""


def raised() -> set[str]:
    """Every code that the compiler's sources hold."""
    files = [*(ROOT / "cdrmix").rglob("*.py"), *(ROOT / "codegen").rglob("*.py")]
    return {code for file in files for code in re.findall(r'"(E0\d{3})"', file.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("text", WHOLE)
def test_files_compile(text: str) -> None:
    module = parse(text, "language.md")
    if not any(isinstance(item, ast.Model) for item in module.items):
        text += 'use "lib/embed.cdr" { embed, head }\n' + MODEL.format(
            mixer=MIXERS.get(ops(module)[-1], ops(module)[-1])
        )
    load_text(text, "language.md")


def ops(module: ast.Module) -> list[str]:
    """The names of a file's ops."""
    return [item.name for item in module.items if isinstance(item, ast.OpDef | ast.Derive)]


@pytest.mark.parametrize(("text", "around"), list(zip(PARTS, AROUND, strict=True)))
def test_parts_compile(text: str, around: tuple[str, str, str]) -> None:
    """The statements, in an op that has what they speak of."""
    formals, before, after = around
    mixer = "mix(relu2(hidden=8))" if "expert:" in formals else "mix"
    head = 'use "lib/embed.cdr" { embed, head }\nuse "lib/channel_mix.cdr" { token_shift, relu2 }\n'
    op = f"op mix(x: [D]{formals}) -> [D] {{\n{before}\n{text}\n{after}\n}}\n"
    load_text(head + op + MODEL.format(mixer=mixer), "language.md")


def test_keywords_are_those_of_the_language() -> None:
    listed = re.search(r"\*\*Keywords\*\* are reserved everywhere: `([^`]*)`", TEXT)
    assert listed and set(listed[1].split()) == KEYWORDS


def test_every_code_is_in_the_reference() -> None:
    table = re.findall(r"^\| (E0\d{3}) \|", TEXT, re.MULTILINE)
    assert sorted(table) == sorted(set(table)), "a code stands there twice"
    assert set(table) == raised()


def test_every_code_has_a_bad_program() -> None:
    told = set()
    for file in (ROOT / "tests" / "bad").glob("*.expected"):
        told |= set(re.findall(r"^error\[(E0\d{3})\]", file.read_text(encoding="utf-8"), re.MULTILINE))
    assert raised() - told == set(ELSEWHERE)


# --- README, training, artefacts ------------------------------------------------------------------------------------
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
    names: dict[str, object] = {}
    for text in blocks(ARTEFACTS, "python"):
        exec(compile(text.replace("DIR", str(made)), "artefacts.md", "exec"), names)
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
