"""Names and texts of a spec reach the generated module only as harmless Python."""

from __future__ import annotations

import ast
import builtins
import keyword

import pytest
import torch
from cdrmix.codegen.torch import names
from cdrmix.runtime.torch import Cell, Streaming

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
    found = names.identifier(name, names.MODULE_NAMES)
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
    code = names.text(value)
    assert ast.literal_eval(code) == value and "\n" not in code


@pytest.mark.parametrize("value", ["a\nimport os", "a\r\nb", "a\x0bb", "a\u2028b", "a\x0c", "\ufeffx", "x" * 1000])
def test_a_comment_stays_on_its_line(value: str) -> None:
    line = names.comment(value)
    assert line.isprintable() and len(line) <= 110
    assert not ast.parse(f"# {line}\n").body


@pytest.mark.parametrize(
    "value", ['"""', '""""', 'x"', "x\\", '\\"""', 'a\n"""\nimport os\n"""', "\x00", "\\N{x}", "a\r# b"]
)
def test_a_doc_cannot_end_its_string(value: str) -> None:
    lines = names.doc(value)
    body = "\n    ".join(lines)
    for code in (f'"""{body}"""', f'"""{body}\n    """', f'"""a\n{body}\n"""'):
        (found,) = ast.parse(code).body
        assert isinstance(found, ast.Expr) and isinstance(found.value, ast.Constant)


def test_names_of_a_scope_are_kept_apart() -> None:
    scope = names.Names({"x"})
    found = [scope.of(key, name) for key, name in [(1, "x"), (2, "x"), (3, "x_2"), (4, "class"), (5, "class_")]]
    assert len({*found, "x"}) == 6 and scope.of(1, "x") == found[0]
