"""Names and texts of a spec reach the generated module only as harmless Python."""

from __future__ import annotations

import ast
import builtins
import keyword

import pytest
import torch
from cdrmix.codegen.torch import names
from cdrmix.runtime.torch import Cell, Streaming

from cdrmix.ir import python

HOSTILE = [
    "class",
    "None",
    "self",
    "torch",
    "F",
    "stream",
    "print",
    "__import__",
    "__init__",
    "_parameters",
    "_",
    "__",
    "3d",
    "a b",
    "x;import os",
    "naïve",
    "forward",
    "half",
    "half_",
    "step",
    "training",
    "",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_an_identifier_is_one_and_takes_nothing(name: str) -> None:
    found = python.Names(names.MODULE_NAMES).fresh(name)
    assert found.isidentifier() and not keyword.iskeyword(found) and not hasattr(builtins, found)
    assert found not in names.MODULE_NAMES and not found.startswith("__")


@pytest.mark.parametrize("name", HOSTILE)
def test_an_attribute_is_free_on_a_module(name: str) -> None:
    found = names.attribute(name)
    assert found.isidentifier() and not keyword.iskeyword(found)
    cell = Cell("")
    assert not hasattr(cell, found) and not hasattr(Streaming, found)
    cell.register_parameter(found, torch.nn.Parameter(torch.zeros(1)))
    assert list(dict(cell.named_parameters())) == [found]


def test_two_names_never_share_an_attribute() -> None:
    found = [names.attribute(n) for n in {*HOSTILE, "half__", "type", "type_", "n_", "n", "at", "at_"}]
    assert len(set(found)) == len(found)


def test_members_cover_what_modules_have() -> None:
    have = {n for kind in (Cell, Streaming) for n in dir(kind)} | set(dir(Cell("")))
    assert {n for n in have if not n.startswith("_")} <= names.MEMBERS


@pytest.mark.parametrize(
    "value", ['"', "'", "\\", "\n", '"""', "'\"", "\u2028", "\x00", "\\N{BULLET}", "{{ x }}", "é\ud800"]
)
def test_a_literal_reads_back(value: str) -> None:
    code = python.text(value)
    assert ast.literal_eval(code) == value and "\n" not in code


@pytest.mark.parametrize("value", ["a\nimport os", "a\r\nb", "a\x0bb", "a\u2028b", "a\x0c", "\ufeffx", "x" * 1000])
def test_a_comment_stays_on_its_line(value: str) -> None:
    line = python.comment(value)
    assert line.isprintable() and len(line) <= 110
    assert not ast.parse(f"# {line}\n").body


@pytest.mark.parametrize(
    "value", ['"""', '""""', 'x"', "x\\", '\\"""', 'a\n"""\nimport os\n"""', "\x00", "\\N{x}", "a\r# b"]
)
def test_a_doc_cannot_end_its_string(value: str) -> None:
    lines = python.doc(value)
    body = "\n    ".join(lines)
    for code in (f'"""{body}"""', f'"""{body}\n    """', f'"""a\n{body}\n"""'):
        (found,) = ast.parse(code).body
        assert isinstance(found, ast.Expr) and isinstance(found.value, ast.Constant)


def test_names_of_a_scope_are_kept_apart() -> None:
    scope = python.Names({"x"})
    found = [scope.fresh(name) for name in ("x", "x", "x_2", "class", "class_")]
    assert len({*found, "x"}) == 6
