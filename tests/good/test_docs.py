"""The language reference is true: its examples are read by the compiler, and its table of errors is complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cdrmix.check import load_text
from cdrmix.syntax import ast, parse
from cdrmix.syntax.words import KEYWORDS

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
