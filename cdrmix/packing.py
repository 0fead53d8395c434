"""The weights of an artefact in the encodings they are held in, one tensor in memory at a time.

Input: a model whose encodings are decided, and a function that gives a tensor in f32 by its path.  Output: what
`weights.safetensors` holds, and the f32 values it stands for.  A tensor's planes are its encoding's; `<slot>.start` is
what a state begins with, where that is made of parameters and the target keeps it.  A target may hold a parameter in an
order of its own (`Arranged`), even in several, or planes of encodings in blocks of rows (`runtime/encodings.py`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np

from cdrmix.ir import walk
from cdrmix.ir.interp import first_value
from cdrmix.ir.layout import Slot, Weight, planes, slots, weights
from cdrmix.ir.nodes import Model, Param, Ref, State, Stored
from cdrmix.runtime.encodings import ENCODINGS, Entry, by_rows, read_file, to_blocks
from cdrmix.runtime.saved import fingerprint_of, sample
from cdrmix.weights import check_tensors, owners, write_tensors

Make = Callable[[str], np.ndarray]

Planes = Mapping[str, np.ndarray]
"""A tensor's planes by suffix."""

Rounded = Mapping[str, Planes]
"""Tensors by path whose rounding is decided; others are rounded by their encoding."""

UNDECIDED: Rounded = MappingProxyType({})


class Arranged(Protocol):
    """A tensor of the file that is a parameter in its target's order."""

    @property
    def owner(self) -> str:
        """The parameter's path."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape in the file."""

    @property
    def dtype(self) -> Stored:
        """The encoding it is held in, one without a scale."""

    @property
    def arrange(self) -> Callable[[np.ndarray], np.ndarray]:
        """Puts the parameter into that order, in f32 and perhaps rounded."""

    @property
    def restore(self) -> Callable[[np.ndarray], np.ndarray]:
        """Brings it back."""


Arrangement = Mapping[str, Arranged]
"""Arranged tensors by their names in the file, those that `read_values` goes by first; other parameters lie as they
are."""

PLAIN: Arrangement = MappingProxyType({})
"""Every parameter as it is."""


def stored(w: Weight) -> Stored:
    """The encoding of a tensor; buffers are f32."""
    return w.decl.stored if isinstance(w.decl, Param) else "f32"


def entries(model: Model, arrangement: Arrangement = PLAIN, starts: bool = True) -> dict[str, Entry]:
    """Every tensor of the file, in order."""
    arranged = {a.owner for a in arrangement.values()}
    found = {name: ENCODINGS[a.dtype].planes(a.shape)[""] for name, a in arrangement.items()}
    for w in (w for w in owners(model) if w.path not in arranged):
        found |= {w.path + suffix: plane for suffix, plane in planes(w.decl, w.shape).items()}
    for slot in slots(model):
        if starts and isinstance(start(slot), str):
            found[str(start(slot))] = Entry(slot.shape)
    return found


def start(slot: Slot) -> float | str:
    """What a piece of state begins with: one number, or the name of a tensor."""
    if not isinstance(slot.decl, State):
        return 0.0
    init = slot.decl.init
    return float(init.arg) if init.op == "const" else f"{slot.path}.start"


def pack(
    path: Path,
    model: Model,
    make: Make,
    arrangement: Arrangement = PLAIN,
    starts: bool = True,
    rounded: Rounded = UNDECIDED,
    blocks: Collection[str] = (),
) -> None:
    """Write the file, with what states begin with where the target keeps it (`starts`).

    `make(path)` gives an owner's tensor in f32; the planes of these names, in `blocks`, lie in blocks of 16 rows.
    """
    packer, held = _Packer(model, make, arrangement, rounded), entries(model, arrangement, starts)
    plain = not blocks and all(held.get(w.path) == Entry(w.shape) for w in owners(model))
    laid = {name: entry for name in blocks if (entry := held[name].in_blocks)}

    def tensor(name: str) -> np.ndarray:
        plane = packer.tensor(name)
        return to_blocks(plane, held[name]) if name in laid else plane

    write_tensors(path, held | laid, tensor, None if plain else packer.fingerprint)


class _Packer:
    """Makes stored tensors by name, one f32 tensor in memory at a time."""

    def __init__(self, model: Model, make: Make, arrangement: Arrangement, rounded: Rounded):
        self.source, self.arrangement, self.rounded, self.told = make, arrangement, rounded, set[str]()
        self.samples: dict[str, bytes] = {}
        self.owners = {w.path: w for w in owners(model)}
        self.owner_of = {w.path: w.owner for w in weights(model)}
        self.starts = {str(start(s)): s for s in slots(model)}

    def make(self, path: str) -> np.ndarray:
        """A parameter in f32; what tells it from another is kept."""
        value = np.asarray(self.source(path), np.float32)
        self.samples.setdefault(path, sample(value))
        return value

    def fingerprint(self) -> int:
        """A name for the f32 values, however they are held."""
        return fingerprint_of(self.samples)

    def tensor(self, name: str) -> np.ndarray:
        if name in self.starts:
            return self.start(self.starts[name])
        if name in self.arrangement:
            arranged = self.arrangement[name]
            value = np.asarray(arranged.arrange(self.make(arranged.owner)))
            self._tell(arranged.owner, value, arranged.dtype)
            return ENCODINGS[arranged.dtype].narrow(value)[""]
        owner = name if name in self.owners else name.rpartition(".")[0]
        value, to = self.make(owner), stored(self.owners[owner])
        self._tell(owner, value, to)
        planes = self.rounded.get(owner) or ENCODINGS[to].narrow(value)
        return planes[name.removeprefix(owner)]

    def _tell(self, path: str, value: np.ndarray, to: Stored) -> None:
        """Warn of what an encoding loses, once a tensor."""
        if path not in self.told and (lost := ENCODINGS[to].loss(value)):
            warnings.warn(f"{path} as {to}: {lost}", stacklevel=2)
        self.told.add(path)

    def start(self, slot: Slot) -> np.ndarray:
        """A state's first value, by the interpreter, from the few parameters it reads."""
        assert isinstance(slot.decl, State)
        names = {m.arg.ref.name for m in walk.reads(slot.decl.init)}
        params = {name: np.asarray(self.make(self.owner_of[f"{slot.place.path}.{name}"]), np.float64) for name in names}
        value = first_value(slot, lambda at: {Ref("param", name): x[at] for name, x in params.items()})
        return value.astype(np.float32)


def read_stored(
    model: Model, path: Path, arrangement: Arrangement = PLAIN, starts: bool = True
) -> dict[str, np.ndarray]:
    """Every tensor of an artefact's file as it is held, row by row; bf16 as its bits in uint16."""
    want = entries(model, arrangement, starts)
    check_tensors(path, want, model.name)
    found, _ = read_file(path)
    return {name: by_rows(found[name], entry) for name, entry in want.items()}


def read_values(
    model: Model, path: Path, arrangement: Arrangement = PLAIN, starts: bool = True
) -> dict[str, np.ndarray]:
    """The f32 values of an artefact's weights, by owner path: what its program computes with."""
    found = read_stored(model, path, arrangement, starts)
    first = {a.owner: (name, a) for name, a in reversed(list(arrangement.items()))}
    values = {}
    for w in owners(model):
        if w.path in first:
            name, arranged = first[w.path]
            values[w.path] = arranged.restore(ENCODINGS[arranged.dtype].widen({"": found[name]}, arranged.shape))
        else:
            held = ENCODINGS[stored(w)]
            values[w.path] = held.widen({suffix: found[w.path + suffix] for suffix in held.planes(w.shape)}, w.shape)
    return values
