"""What a backend is to the compiler: one folder with a record, and no word of it anywhere else."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from cdrmix.check import load_text
from cdrmix.check.body import expressions
from cdrmix.compiler import TARGETS, backend, emit, lower
from cdrmix.diagnose import CompileError, UserError
from cdrmix.ir import ops
from cdrmix.ir.backend import Late
from tests.small import ADDS, write_spec

RECORD = """
from cdrmix.ir.backend import Backend, Late, Option
from cdrmix.ir.ops import OPS


def emit(program, target, options):
    body = [stmt.ref.name for cell in program.model.cells.values() for stmt in cell.body]
    return {"names.txt": " ".join(body).upper() if options["shout"] > 1 else " ".join(body)}


BACKEND = Backend(
    targets={"listing": "names alone"},
    ops=lambda: frozenset(OPS) - {"exp"},
    emit=emit,
    engine="cdrmix.codegen.listing.engine",
    options=(Option("shout", "count", 1, "N", "how loud"),),
    tools=lambda target: ["nothing"],
)
"""


ENGINE = """
import numpy as np

COMPARES = ()


class Engine:
    how, closed, state_bytes, about, threads = "executed", False, 0, "nothing", 1

    def __init__(self, folder, manifest):
        self.names = (folder / "names.txt").read_text()
        self.vocab = manifest["vocab"]

    def start(self):
        return []

    def prefill(self, state, tokens):
        state += tokens
        return np.eye(self.vocab, dtype=np.float32)[state[-1]]


def open_engine(folder, manifest):
    return Engine(folder, manifest)
"""


RUN = """
import sys
import cdrmix.codegen
cdrmix.codegen.__path__.append(sys.argv[1])
from cdrmix.cli import main
if sys.argv[2] == "open":
    from cdrmix.runtime.session import Session
    session = Session.open(sys.argv[3])
    print(session._engine.names, session.step(3).argmax())
    sys.exit()
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of backends with one in it, and a spec."""
    (tmp_path / "more" / "listing").mkdir(parents=True)
    (tmp_path / "more" / "listing" / "__init__.py").write_text(RECORD)
    (tmp_path / "more" / "listing" / "engine.py").write_text(ENGINE)
    write_spec(tmp_path, ADDS)
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line with the folder's backends besides cdrmix's own."""
    command = [sys.executable, "-c", RUN, str(folder / "more"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


def test_a_folder_with_a_record_is_a_backend(folder: Path) -> None:
    made = run(folder, "compile", "small.cdr", "--target", "listing", "--shout", "2", "-o", "out")
    assert made.returncode == 0, made.stderr
    assert (folder / "out" / "names.txt").read_text() == "OUT S OUT OUT"
    opened = run(folder, "open", "out")
    assert opened.stdout == "OUT S OUT OUT 3\n", opened.stderr
    assert "--shout N" in run(folder, "compile", "--help").stdout
    assert "listing     ready: nothing" in run(folder, "doctor", "listing").stdout


def test_what_it_lacks_and_what_others_lack_is_said(folder: Path) -> None:
    refused = run(folder, "compile", "small.cdr", "--target", "cpu", "--shout", "2", "-o", "out")
    assert "--shout means nothing to target cpu" in refused.stderr and "it is for listing" in refused.stderr
    write_spec(folder, ADDS.replace("S' = keep * S + x", "S' = keep * S + exp(x)"))
    refused = run(folder, "compile", "small.cdr", "--target", "listing", "-o", "out")
    others = ", ".join(TARGETS)
    assert "error[E0901]: `exp` cannot be compiled for listing\n  --> small.cdr:6:" in refused.stderr
    assert f"the targets that have it: {others}" in refused.stderr


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ("", "cdrmix.codegen.listing exports no BACKEND: give it one, a cdrmix.ir.backend.Backend"),
        ("BACKEND = {'targets': ['listing']}", "exports no BACKEND"),
        (RECORD.replace('"listing": ', '"cpu": '), "cdrmix.codegen.listing has the target `cpu`, which another"),
        (RECORD.replace('"shout"', '"batch"'), "two backends have an option --batch, and not the same one"),
    ],
)
def test_a_folder_without_a_right_record_is_an_error_at_import(folder: Path, record: str, says: str) -> None:
    (folder / "more" / "listing" / "__init__.py").write_text(record)
    refused = run(folder, "check", "small.cdr")
    assert refused.returncode == 1 and says in refused.stderr, refused.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_what_a_record_names_is_there(target: str) -> None:
    values = [getattr(TARGETS[target], field.name) for field in fields(TARGETS[target])]
    assert all(callable(value.found()) for value in values if isinstance(value, Late))


# --- primitives ----------------------------------------------------------------------------------------------------
PLACES = {
    "an equation": ("S' = keep * S + x", "S' = keep * frob(S) + x"),
    "what does not vary": ("return S'", "s = sum[i](frob(keep[i] * x[i])) ⏎ return S' * s"),
    "a reduction": ("S' = keep * S + x", "S' = keep * S + frobs[i < D](x[i])"),
    "an init rule": ("[D] ~ uniform(0.1, 0.9)", "[i < D] ~ 0.1 * frob(1.0 + i)"),
    "a training value": ("return S'", "aux much = mean[tokens](sum[i](frob(x[i]))) ⏎ return S'"),
}


OF_TRAINING = {"an init rule", "a training value"}


@pytest.fixture
def frob(monkeypatch: pytest.MonkeyPatch) -> None:
    """The language with a function and a reduction more than any backend knows."""
    function = ops.Op("frob", "elementwise", 1, "frob", np.square)
    reduction = ops.Op("frobs", "reduce", 1, "frobs", np.sum)
    for row, known in ((function, ops.FUNCTIONS), (reduction, ops.REDUCTIONS)):
        monkeypatch.setitem(ops.OPS, row.name, row)
        monkeypatch.setitem(known, row.name, row)
    monkeypatch.setitem(expressions.OPERATORS, "frob", "frob")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("target", TARGETS)
def test_a_primitive_without_a_rule_is_refused_where_it_stands(frob: None, target: str, place: str) -> None:
    old, new = PLACES[place]
    assert old in ADDS
    text = ADDS.replace(old, new.replace(" ⏎ ", "\n  "))
    lowered = lower(load_text(text, "frob.cdr"))
    if place in OF_TRAINING and not TARGETS[target].trains:
        return
    with pytest.raises(CompileError) as refused:
        emit(lowered, target)
    (found,) = refused.value.diagnostics
    assert (found.code, found.help) == ("E0901", "no target has it yet")
    assert "frob" in text.splitlines()[found.span.line - 1] and f"cannot be compiled for {target}" in found.message


def test_the_folder_of_a_target_is_no_target() -> None:
    with pytest.raises(UserError, match="no target `c`"):
        backend("c")
