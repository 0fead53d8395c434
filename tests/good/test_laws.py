"""The laws of the layout, read from the imports: what travels to a device stays light, backends stay apart."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [p for d in ("cdrmix", "codegen", "runtime") for p in sorted((ROOT / d).rglob("*.py"))]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module


def within(name: str, *packages: str) -> bool:
    return any(name == p or name.startswith(p + ".") for p in packages)


@pytest.mark.parametrize("path", [p for p in SOURCES if p.is_relative_to(ROOT / "runtime")], ids=str)
def test_the_runtime_travels_without_the_compiler(path: Path) -> None:
    for name in imports(path):
        assert not within(name, "lark", "jinja2", "pydantic", "yaml", "rich"), name
        if within(name, "cdrmix"):
            assert within(name, "cdrmix.runtime"), name
        if within(name, "torch"):
            assert path.is_relative_to(ROOT / "runtime" / "torch"), name


@pytest.mark.parametrize("path", [p for p in SOURCES if p.is_relative_to(ROOT / "codegen")], ids=str)
def test_a_backend_knows_the_ir_and_no_other_backend(path: Path) -> None:
    own = f"cdrmix.codegen.{path.relative_to(ROOT / 'codegen').parts[0]}"
    for name in imports(path):
        if within(name, "cdrmix"):
            assert within(name, "cdrmix.ir", "cdrmix.diagnose", own), name


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 450


def test_no_vague_names() -> None:
    assert not [
        p for p in SOURCES if p.stem in {"utils", "util", "base", "helper", "helpers", "manager", "misc", "common"}
    ]


def test_every_package_is_installed() -> None:
    listed = (ROOT / "pyproject.toml").read_text()
    for init in [p for p in SOURCES if p.name == "__init__.py"]:
        parts = init.parent.relative_to(ROOT).parts
        name = ".".join(parts if parts[0] == "cdrmix" else ("cdrmix", *parts))
        assert f'"{name}"' in listed, name
