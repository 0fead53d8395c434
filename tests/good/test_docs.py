"""The language reference is true: its examples are read by the compiler, and its table of errors is complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cdrmix.check import load_text
from cdrmix.syntax import ast, parse

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "language.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(cdr|cdr-part)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)

ELSEWHERE = {
    "E0116": "a file of a megabyte; tested in test_parse.py",
}
"""Codes without a program in tests/bad, and why."""


def raised() -> set[str]:
    """Every code that the compiler's sources hold."""
    files = [*(ROOT / "cdrmix").rglob("*.py"), *(ROOT / "codegen").rglob("*.py")]
    return {code for file in files for code in re.findall(r'"(E0\d{3})"', file.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("block", BLOCKS, ids=[f"{kind}-{n}" for n, (kind, _) in enumerate(BLOCKS)])
def test_examples_are_read(block: tuple[str, str]) -> None:
    kind, text = block
    if kind == "cdr-part":
        parse("op example(x: [D]) -> [D] {\n" + text + "}\n", "language.md")
        return
    module = parse(text, "language.md")
    if any(isinstance(item, ast.Model) for item in module.items):
        load_text(text, "language.md")


def test_every_code_is_in_the_reference() -> None:
    table = re.findall(r"^\| (E0\d{3}) \|", TEXT, re.MULTILINE)
    assert sorted(table) == sorted(set(table)), "a code stands there twice"
    assert set(table) == raised()


def test_every_code_has_a_bad_program() -> None:
    told = set()
    for file in (ROOT / "tests" / "bad").glob("*.expected"):
        told |= set(re.findall(r"^error\[(E0\d{3})\]", file.read_text(encoding="utf-8"), re.MULTILINE))
    assert raised() - told == set(ELSEWHERE)
