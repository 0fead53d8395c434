"""No pass and no backend reads text that was generated: what is decided is decided on nodes, and printing comes last.

Read from the sources: each function that takes a text apart (`re`, `ast`, `split`, `startswith`, `" " in text`, …) is
listed here with what it reads.  `INPUT` is text that comes from outside: a spec's, a path's, a library's, a compiler's,
or the word that is about to be printed.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("codegen", "cdrmix/passes", "cdrmix/ir")

READERS = frozenset(
    {"split", "rsplit", "splitlines", "partition", "rpartition", "startswith", "endswith", "removeprefix",
     "removesuffix", "find", "rfind", "lstrip", "search", "match", "fullmatch", "finditer", "findall", "sub"}
)  # fmt: skip
"""Methods of str and of patterns that take a text apart."""

INPUT = {
    "names and words of a spec": {
        "cdrmix/ir/python.py": "identifier text comment equation doc",
        "cdrmix/passes/arrays/reads.py": "_viewed",
        "cdrmix/passes/terms.py": "stem",
        "codegen/c/cell.py": "CellWriter.function",
        "codegen/c/names.py": "identifier comment",
        "codegen/metalium/emit/kernels.py": "_wrapped",
        "codegen/metalium/emit/names.py": "identifier index_name plain",
        "codegen/metalium/lower/draft.py": "Draft.fresh",
        "codegen/torch/names.py": "attribute class_name",
    },
    "the path of a line of the stack or of a tensor": {
        "codegen/metalium/lower/lines.py": "_name _drafted",
        "codegen/tinygrad/stack.py": "emit_stack",
        "codegen/torch/stack.py": "attribute_path _head Stack.members Stack.calls _below",
    },
    "what a user asks": {
        "cdrmix/passes/encodings.py": "_read",
        "codegen/c/triples.py": "require",
    },
    "the sources of runtime/ and the names of its files": {
        "codegen/c/program.py": "_sources join.text",
        "codegen/metalium/artefact.py": "runtime_files",
        "codegen/tinygrad/program.py": "emit_program",
        "codegen/tinygrad/runner.py": "sources",
        "codegen/torch/module.py": "runtime_files",
    },
    "what a compiler or a library wrote": {
        "codegen/metalium/verification.py": "run_apart",
        "codegen/tinygrad/artefact.py": "_describe",
        "codegen/tinygrad/host.py": "_run",
        "codegen/tinygrad/internals.py": "_kernel _may_race used_names used_names.made_by",
        "codegen/tinygrad/machine.py": "join split _nvidia",
    },
    "a number about to be printed": {
        "cdrmix/ir/code.py": "number",
        "cdrmix/ir/text_nodes.py": "_number",
    },
    "a list in this very source": {
        "cdrmix/ir/spelling.py": "rules_of",
        "codegen/metalium/emit/block.py": "<module>",
        "codegen/torch/names.py": "<module>",
    },
    "the lines that it lays out": {
        "cdrmix/ir/code.py": "_laid _before_operators",
    },
}


def readers(node: ast.AST, within: str = "") -> set[str]:
    """The functions, by their names inside the file, that take a text apart."""
    found: set[str] = set()
    for child in ast.iter_child_nodes(node):
        inner = within
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            inner = f"{within}.{child.name}" if within else child.name
        if reads(child):
            found.add(inner or "<module>")
        found |= readers(child, inner)
    return found


def reads(node: ast.AST) -> bool:
    """Whether a node takes a text apart."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="build"))):
            return False  # of nodes: `build.sub`
        case ast.Call(func=ast.Attribute(attr="split" | "find"), args=[first, *_]):
            return isinstance(first, ast.Constant)  # a separator; else a method of ours
        case ast.Call(func=ast.Attribute(attr=method)):
            return method in READERS
        case ast.Attribute(value=ast.Name(id="ast" | "tokenize")):
            return True
        case ast.Compare(left=ast.Constant(value=str(text)), ops=[ast.In() | ast.NotIn()]):
            return not text.isidentifier() and not text.startswith("-")
    return False


def listed(table: dict[str, str]) -> set[str]:
    return {f"{file}: {name}" for file, names in table.items() for name in names.split()}


def test_no_generated_text_is_read() -> None:
    found = set()
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            found |= {f"{path.relative_to(ROOT)}: {name}" for name in readers(ast.parse(path.read_text()))}
    allowed = set().union(*map(listed, INPUT.values()))
    assert not found - allowed, "a text is read anew: decide it on nodes, or list what is read"
    assert allowed <= found, f"no longer read: strike {sorted(allowed - found)}"


def test_readers_are_found() -> None:
    for text in ("re.sub(a, b, c)", "x.split()", "x.split(', ')", "ast.parse(x)", "' * ' in x", "P.search(line)"):
        assert readers(ast.parse(f"def f(): {text}")) == {"f"}, text
    for text in ("build.sub(a, b)", "self.split(n)", "'const' in ops", "x.index(y)"):
        assert not readers(ast.parse(text)), text
