"""The laws of the layout, read from the sources: what travels is light, backends and stages of training stay apart."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import over

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


def test_torch_does_without_triton() -> None:
    """Its kernels alone import it, and what is imported with the scans imports none of them."""
    sources = set((ROOT / "runtime" / "torch").rglob("*.py"))
    kernels = {p for p in sources if any(within(name, "triton") for name in imports(p))}
    assert {p.parent.name for p in kernels} == {"gpu"}
    for path in sources - kernels:
        near = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.ImportFrom) and n.level]
        named = {n.module for n in near} | {a.name for n in near for a in n.names}
        assert not named & {p.stem for p in kernels}, path


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


# --- training ------------------------------------------------------------------------------------------------------
ROOMS = {
    "build": ("shard",),
    "ranks": (),
    "shard": ("ranks",),
    "place": ("shard",),
    "step": ("batches", "loss", "optimiser", "ranks", "shard"),
    "folder": ("average", "checkpoint", "config", "lock", "ranks", "shard", "tensor_file"),
}
"""What each stage of training knows of the others: nothing but of the ranks it runs on; the step, no files either."""


@pytest.mark.parametrize("room", ROOMS)
def test_the_stages_of_training_meet_in_the_loop_alone(room: str) -> None:
    path = ROOT / "cdrmix" / "train" / f"{room}.py"
    assert {n for n in imports(path) if within(n, "cdrmix.train")} <= {f"cdrmix.train.{n}" for n in ROOMS[room]}
    if room == "step":
        assert not [n for n in imports(path) if within(n, "os", "pathlib", "time", "safetensors", "cdrmix.runs")]


@pytest.mark.parametrize("path", sorted((ROOT / "cdrmix" / "train").glob("*.py")), ids=lambda path: path.stem)
def test_training_reaches_into_nothing_private(path: Path) -> None:
    """What begins with `_` is of the file that defines it: of a module, training uses what anyone may use."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    own = {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    own |= {n.target.id for n in nodes if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    read = [n for n in nodes if isinstance(n, ast.Attribute) and n.attr.startswith("_") and not n.attr.endswith("__")]
    assert not [
        f"{n.lineno}: {ast.unparse(n)}"
        for n in read
        if n.attr not in own and not (isinstance(n.value, ast.Name) and n.value.id in ("self", "cls"))
    ]
    assert not [name for n in nodes if isinstance(n, ast.ImportFrom) for a in n.names if (name := a.name)[0] == "_"]


# --- what may be skipped --------------------------------------------------------------------------------------------
ALLOWED = "# a comment\n2 no such card\n1 no weights: set THEM\n"


def test_a_reason_that_is_not_listed_and_one_too_many() -> None:
    assert over(Counter({"no such card": 2, "no weights: set THEM": 1}), ALLOWED) == []
    assert over(Counter({"no such card": 3}), ALLOWED) == ["3 x no such card (2 allowed)"]
    assert over(Counter({"no such": 1}), ALLOWED) == ["1 x no such (0 allowed)"]


def test_the_list_is_read() -> None:
    over(Counter(), (Path(__file__).parents[2] / ".ci" / "skips").read_text())
