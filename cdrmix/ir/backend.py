"""A backend as the compiler sees it.

Each folder of `codegen/` exports one `Backend` as `BACKEND`.  The compiler finds the folders, names its targets by
them and makes the command line's options of them: a new backend is one folder.  The record is made whenever cdrmix
starts, so what is heavy is imported when it is called (`Late`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from cdrmix.diagnose import Need
from cdrmix.ir.forms import Program
from cdrmix.ir.nodes import DType, Model

Options = Mapping[str, Any]
"""A backend's options by name, as given or as they are by default."""

Files = dict[str, str | bytes]
"""Files by their names in the artefact."""

Ran = tuple[str, dict[str, Any]]
"""How a program ran, in the words of a manifest, and its arrays: `stepped` and `prompted` logits [tokens, vocab] and
[vocab], the states after both as `step:<path>` and `prefill:<path>`."""


@dataclass(frozen=True, slots=True)
class Late:
    """What a module has under a name, a function mostly, which is imported when it is first called."""

    module: str
    name: str

    def __call__(self, *args: Any) -> Any:
        return self.found()(*args)

    def found(self) -> Any:
        """It itself."""
        return vars(importlib.import_module(self.module))[self.name]


def fill(package: str, template: str, keys: Mapping[str, Any]) -> str:
    """The skeleton of a file, which lies in a package, with its keys filled in; one that is missing is an error."""
    text: str = _skeleton(package, template).render(keys)
    return text


@cache
def _skeleton(package: str, template: str) -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader(package, "."), undefined=StrictUndefined, keep_trailing_newline=True)
    environment.trim_blocks = environment.lstrip_blocks = True
    return environment.get_template(template)


@dataclass(frozen=True, slots=True)
class Option:
    """What a user may ask of a backend, on the command line as `--name`.

    `kind` is a text, texts with commas between them, a whole number from 1 on, or such numbers in order.
    """

    name: str
    kind: Literal["text", "texts", "count", "counts"]
    default: Any
    shown: str
    """What stands for its value in the help."""
    help: str


@dataclass(frozen=True, slots=True)
class Backend:
    """What a folder of `codegen/` does for its targets.

    `ops` gives the primitives that it has rules for.  `emit(program, target, options)` gives the artefact's files; a
    `manifest.json` among them holds the backend's own keys of the manifest, and under `blocks` the names of planes that
    are to lie in blocks of rows (`runtime/encodings.py`).  `engine` is the module whose
    `open_engine(folder, manifest)` runs the artefact (`runtime/session.py`).
    """

    targets: Mapping[str, str]
    """The names by which its targets are asked for, and what each gives, in a few words."""
    ops: Callable[[], frozenset[str]]
    emit: Callable[[Program, str, Options], Files]
    engine: str
    options: tuple[Option, ...] = ()
    trains: bool = False
    """Whether its programs make first values and train, so that these need rules too."""
    work: frozenset[DType] = frozenset({"f32"})
    """The types of activations that its programs can have (`ir/types.py`)."""
    encodings: frozenset[str] = frozenset({"f32"})
    """How matrices may be stored."""
    rounds: frozenset[str] = frozenset()
    """Those with which products round their vectors to 8 bits too, 32 elements by a scale."""
    starts: bool = False
    """Whether its weights hold what states begin with, where that is made of parameters."""
    arrange: Callable[[Mapping[str, Any], Model], Mapping[str, Any]] = lambda manifest, model: {}
    """By its own keys of a manifest, the tensors that lie in an order of the target's own, by name."""
    tolerances: Mapping[str, float] = field(default_factory=dict)
    """By encoding, the relative RMS error of logits and states that its arithmetic promises, if not the usual one."""
    require: Callable[[str, Options], None] = lambda target, options: None
    """Refuse at once what would fail after long work (`UserError`)."""
    needs: Callable[[str], Sequence[Need]] = lambda target: ()
    """What is missing on this machine to compile, verify and generate, and how to get it."""
    tools: Callable[[str], Sequence[str]] = lambda target: ()
    """What it uses here where nothing is missing, in words."""
    device: Callable[[str], str | None] = lambda target: None
    """The device that is found here, in words; None: the host."""
    inspect: Callable[[Program, Options], str] | None = None
    """A budget of the device: what each line of the stack costs there."""
    execute: Callable[[Path, Sequence[int]], Ran] | None = None
    """Another way to run an artefact, where its device is absent."""
    others: Callable[[Path, Sequence[int], str], Sequence[Ran]] = lambda folder, ids, how: ()
    """The runs that a verification takes besides the one that ran so."""
