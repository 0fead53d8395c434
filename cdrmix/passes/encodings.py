"""Choose how each parameter is held in an artefact.

Input: a checked model; the encoding asked for its matrices; and rules, `PATHS=ENCODING`, for those whose paths match.
Output: the same model with `Param.stored` written.  A cell whose instances come out differently is one cell for each
kind of them, `rwkv7` and `rwkv7_2`, so that whatever is shared by cells is shared by those that are held alike.

What may be narrower than f32 are matrices whose type the spec left open; vectors, what the spec declares f32 (a
router) and what a state begins with stay f32.  Ties agree: one storage has one encoding.  Raises `UserError` for a rule
that cannot be read, and for one that matches nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import count

from cdrmix.diagnose import UserError
from cdrmix.ir import layout, walk
from cdrmix.ir.layout import Weight
from cdrmix.ir.nodes import Cell, Model, Param, Stored
from cdrmix.runtime.encodings import ENCODINGS

Chosen = Mapping[str, Stored]
"""The encoding of each parameter, by the path that owns its storage."""


def encode(model: Model, matrices: Stored = "f32", rules: Sequence[str] = ()) -> Model:
    """The model with the encoding of every parameter; of the rules that match one, the last holds."""
    chosen = _choose(model, matrices, [_read(rule) for rule in rules])
    return _Split(model, chosen).whole()


def encodings_asked(matrices: Stored, rules: Sequence[str]) -> list[Stored]:
    """The encodings that a policy names, each once."""
    return list(dict.fromkeys([matrices, *(_read(rule)[1] for rule in rules)]))


def _read(rule: str) -> tuple[str, Stored]:
    """The pattern and the encoding of `PATHS=ENCODING`."""
    pattern, equals, name = (part.strip() for part in rule.rpartition("="))
    if not pattern or not equals:
        raise UserError(f"--encode {rule}: no `=`", "write --encode PATHS=ENCODING, for instance 'layer.*.att.W*=i8'")
    if name not in ENCODINGS:
        raise UserError(f"--encode {rule}: no encoding `{name}`", f"the encodings are {', '.join(ENCODINGS)}")
    return pattern, name


def _choose(model: Model, matrices: Stored, rules: Sequence[tuple[str, Stored]]) -> Chosen:
    params = [w for w in layout.weights(model) if isinstance(w.decl, Param)]
    reasons = {w.owner: reason for w in params if (reason := _stays(w))}
    chosen = {w.owner: "f32" if w.owner in reasons else matrices for w in params}
    for pattern, name in rules:
        found = [w for w in params if fnmatchcase(w.path, pattern)]
        if not found:
            raise UserError(f"--encode {pattern}={name}: no parameter has such a path", _near(pattern, params))
        free = [w for w in found if name == "f32" or w.owner not in reasons]
        if not free:
            first = found[0]
            raise UserError(
                f"--encode {pattern}={name}: `{first.path}` stays f32", f"{reasons[first.owner]}; give it a matrix"
            )
        chosen |= {w.owner: name for w in free}
    return chosen


def _stays(w: Weight) -> str:
    """Why a parameter is f32 whatever is asked; empty where it need not be."""
    assert isinstance(w.decl, Param)
    if len(w.decl.indices) < 2:
        return "it is a vector"
    if w.decl.dtype != "work":
        return f"the spec declares it {w.decl.dtype}"
    if any(m.arg.ref.name == w.decl.name for state in w.place.cell.states for m in walk.reads(state.init)):
        return "a state begins with it"
    return ""


def _near(pattern: str, params: Sequence[Weight]) -> str:
    near = get_close_matches(pattern, [w.path for w in params], n=3, cutoff=0.5)
    return f"near it are {', '.join(near)}" if near else f"paths are such as {params[0].path}"


class _Split:
    """Makes a cell for each way in which the instances of one are held."""

    def __init__(self, model: Model, chosen: Chosen):
        self.model, self.chosen = model, chosen
        self.made: dict[tuple[str, tuple[Stored, ...], tuple[str, ...]], Cell] = {}
        self.taken = set(model.cells)

    def whole(self) -> Model:
        lines = tuple(
            replace(line, chain=tuple(replace(i, cell=self.cell(i.path, i.cell).name) for i in line.chain))
            for line in self.model.lines
        )
        return replace(self.model, lines=lines, cells={cell.name: cell for cell in self.ordered()})

    def cell(self, path: str, name: str) -> Cell:
        """The cell that stands at a path."""
        cell, owner = self.model.cells[name], self.model.ties
        stored = tuple(self.chosen[owner.get(at, at)] for at in (f"{path}.{p.name}" for p in cell.params))
        parts = tuple(self.cell(f"{path}.{part.name}", part.cell).name for part in cell.parts)
        key = (name, stored, parts)
        if key not in self.made:
            first = all(of != name for of, *_ in self.made)
            new = name if first else next(n for n in (f"{name}_{k}" for k in count(2)) if n not in self.taken)
            self.taken.add(new)
            self.made[key] = replace(
                cell,
                name=new,
                params=tuple(replace(p, stored=to) for p, to in zip(cell.params, stored, strict=True)),
                parts=tuple(replace(p, cell=to) for p, to in zip(cell.parts, parts, strict=True)),
            )
        return self.made[key]

    def ordered(self) -> Iterator[Cell]:
        """The cells in the model's order, so that callees stay before their callers; those of no line as they are."""
        for name, cell in self.model.cells.items():
            yield from [made for (of, *_), made in self.made.items() if of == name] or [cell]
