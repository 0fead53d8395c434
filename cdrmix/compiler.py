"""The compiler, stage by stage.  This docstring is its architecture document.

| stage | input | output | where |
|---|---|---|---|
| parse | text | syntax tree with spans | `syntax` |
| resolve | syntax trees of a file and its `use`s, `--set` | ops with every `with` applied, settings | `check` |
| check, expand | ops, settings, the stack | `ir.nodes.Model`: one `Cell` a distinct op, instances by path | `check` |
| verify | model | the same model, or a compiler bug named | `ir/verify.py`, between all passes |
| routes | model | nothing, or the calls of banks that advance an instance twice | `passes/routes.py` |
| simplify | cell | cell with constants folded | `passes/simplify.py` |
| whole | cell | cell whose whole numbers fit 32 bits | `passes/whole.py` |
| encodings | model, a policy | model whose parameters are held as it says | `passes/encodings.py` |
| precision | model, `work` | model with every type decided (`ir/types.py`) | `passes/precision.py` |
| classify | cell | groups of states and their class (delay, diagonal, delta, …) | `passes/classify.py` |
| sequence form | cell, groups | `SequenceForm`: statements over [B, T], scans for the states | `passes/sequence.py` |
| hoist | cell | cell whose loop-invariant parts are equations of their own | `passes/hoist.py` |
| step form | cell | `StepForm`: one token, states in place where that is safe | `passes/step.py` |
| array form | sequence and step form, a library's traits | functions over whole tensors | `passes/arrays` |
| verify | functions over whole tensors | the same, or a compiler bug named | `ir/verify_arrays.py` |
| emit | `ir.forms.Program` | the program's files | `codegen/<target>` |
| write | files, weights, tokenizer | the artefact's folder | `artifact.py` |

A backend is one folder of `codegen/`, found by the record that it exports (`ir/backend.py`) and reached by the names of
its targets.  A primitive that it has no rule for is an error here, with the spec's place.
"""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import cdrmix.codegen
from cdrmix.diagnose import CompileError, Diagnostic, Report, UserError, did_you_mean
from cdrmix.ir import walk
from cdrmix.ir.backend import Backend
from cdrmix.ir.forms import Program
from cdrmix.ir.nodes import Cell, DType, Model, Node, Stored
from cdrmix.ir.text import to_text
from cdrmix.ir.verify import verify
from cdrmix.passes.arrays import array_form
from cdrmix.passes.encodings import encode
from cdrmix.passes.hoist import hoist
from cdrmix.passes.precision import decide_precision
from cdrmix.passes.routes import check_routes
from cdrmix.passes.sequence import sequence_form
from cdrmix.passes.simplify import simplify
from cdrmix.passes.step import step_form
from cdrmix.passes.whole import fit_whole


def _find_backends() -> dict[str, Backend]:
    """The backend of each target, by the records that the folders of `codegen/` export."""
    found: dict[str, Backend] = {}
    for folder in pkgutil.iter_modules(cdrmix.codegen.__path__, "cdrmix.codegen."):
        record = vars(importlib.import_module(folder.name)).get("BACKEND")
        if not isinstance(record, Backend):
            raise ImportError(f"{folder.name} exports no BACKEND: give it one, a cdrmix.ir.backend.Backend")
        if twice := sorted(found.keys() & record.targets):
            raise ImportError(f"{folder.name} has the target `{twice[0]}`, which another backend has")
        found |= dict.fromkeys(record.targets, record)
    return dict(sorted(found.items()))


TARGETS: Mapping[str, Backend] = _find_backends()
"""The backend of each target, by its name."""

Dump = Callable[[str, str], None]
"""Called with a pass's name and the text of its result."""

PASSES = ("check", "simplify", "encodings", "precision", "sequence", "hoist", "step")


@dataclass(frozen=True, slots=True)
class Lowered:
    """What lowering found: the program, and notes for the user (which states run token by token, and why); and the
    encoding of its matrices, and the rules for others, that were asked for."""

    program: Program
    notes: tuple[str, ...]
    stored: Stored = "f32"
    rules: tuple[str, ...] = ()


def model_hash(model: Model) -> str:
    """A name for the architecture: equal for equal checked models, whatever their weights."""
    return hashlib.sha256(to_text(model).encode()).hexdigest()


@contextmanager
def quoting(model: Model) -> Iterator[None]:
    """Let `CompileError` out with the texts of the spec, which the passes and backends do not hold."""
    try:
        yield
    except CompileError as error:
        raise CompileError(error.diagnostics, {**model.sources, **error.sources}, error.paths) from None
    except RecursionError:
        too_deep = Diagnostic("E0219", model.span, "what this model computes is nested too deeply",
                              "give parts of its long expressions equations of their own")  # fmt: skip
        raise CompileError([too_deep], model.sources) from None


def lower(
    model: Model,
    dump: Dump | None = None,
    weights: Stored = "f32",
    work: DType = "f32",
    rules: Sequence[str] = (),
) -> Lowered:
    """Run every pass.

    `weights` is how matrices are stored, `rules` which are stored otherwise (`passes/encodings.py`), `work` the type of
    activations (f32, bf16, f16).

    Raises `CompileError` for what no pass can handle, `UserError` for a rule, `InvalidIR` for a compiler bug.
    """
    with quoting(model):
        return _lower(model, dump, weights, work, rules)


def _lower(model: Model, dump: Dump | None, weights: Stored, work: DType, rules: Sequence[str]) -> Lowered:
    def over_cells(model: Model, change: Callable[[Cell], Cell]) -> Model:
        return replace(model, cells={name: change(cell) for name, cell in model.cells.items()})

    def checked(name: str, model: Model) -> Model:
        verify(model)
        show(name, model)
        return model

    def show(name: str, what: Model | Program) -> None:
        if dump is not None:
            dump(name, to_text(what))

    model = checked("check", model)
    check_routes(model)
    digest = model_hash(model)
    report = Report()
    model = checked("simplify", over_cells(model, lambda cell: fit_whole(simplify(cell), report)))
    report.raise_if_any()
    model = checked("encodings", encode(model, weights, rules))
    model = checked("precision", decide_precision(model, work))
    sequence = {name: sequence_form(cell) for name, cell in model.cells.items()}
    show("sequence", Program(model, {}, sequence, digest))
    hoisted = checked("hoist", over_cells(model, hoist))
    step = {name: step_form(cell) for name, cell in hoisted.cells.items()}
    show("step", Program(model, step, {}, digest))
    notes = (*model.notes, *dict.fromkeys(note for form in sequence.values() for note in form.notes))
    arrays = partial(array_form, model, step, sequence)
    return Lowered(Program(model, step, sequence, digest, arrays), notes, weights, tuple(rules))


def backend(target: str) -> Backend:
    """The backend of a target.  Raises `UserError` with the nearest name for an unknown one."""
    if target not in TARGETS:
        help = did_you_mean(target, TARGETS) or f"the targets are {', '.join(TARGETS)}"
        raise UserError(f"no target `{target}`", help)
    return TARGETS[target]


def check_target(model: Model, target: str) -> None:
    """Raise `CompileError` (E0901) for every primitive of the model that the target has no rule for."""
    own, report = backend(target), Report()
    ops = own.ops()
    for cell in model.cells.values():
        for node in _nodes(cell, own.trains):
            if node.op not in ops:
                others = [t for t, other in TARGETS.items() if node.op in other.ops()]
                report.error(
                    "E0901",
                    node.span,
                    f"`{node.op}` cannot be compiled for {target}",
                    f"the targets that have it: {', '.join(others)}" if others else "no target has it yet",
                )
    report.raise_if_any()


def _nodes(cell: Cell, trains: bool) -> Iterator[Node]:
    """Every expression node of a cell that a backend must have a rule for; one that trains, for its begin too."""
    begins = (cell.training, cell.buffers, cell.params) if trains else ()
    return walk.nodes((cell.body, cell.states, begins))


def options_of(target: str, given: Mapping[str, Any], *encodings: Stored) -> dict[str, Any]:
    """What a target's backend is asked for: its defaults and what the user gave.  Refuses what it has no use for, and
    encodings that it does not read."""
    own = backend(target)
    known = {option.name: option.default for option in own.options}
    asked = {name: value for name, value in given.items() if value is not None}
    for name in asked:
        if name not in known:
            others = [t for t, other in TARGETS.items() if any(o.name == name for o in other.options)]
            raise UserError(
                f"--{name} means nothing to target {target}", f"it is for {', '.join(others) or 'no target'}"
            )
    for name in encodings:
        if name not in own.encodings:
            others = [t for t, other in TARGETS.items() if name in other.encodings]
            raise UserError(f"target {target} reads no {name} weights", f"these do: {', '.join(others)}")
    options = {**known, **asked}
    own.require(target, options)
    return options


def emit(lowered: Lowered, target: str, options: Mapping[str, Any] | None = None) -> dict[str, bytes]:
    """The program's files for a target, by relative name; `options` are those that `options_of` found."""
    options = options_of(target, {}) if options is None else options
    work, known = lowered.program.model.work, sorted(backend(target).work)
    if work not in known:
        raise UserError(f"target {target} does not compute in {work}", f"`lower` the model with {' or '.join(known)}")
    with quoting(lowered.program.model):
        check_target(lowered.program.model, target)
        emitted = backend(target).emit(lowered.program, target, options)
    return {name: content.encode() if isinstance(content, str) else content for name, content in emitted.items()}


__all__ = [
    "PASSES",
    "TARGETS",
    "CompileError",
    "Lowered",
    "backend",
    "check_target",
    "emit",
    "lower",
    "model_hash",
    "options_of",
]
