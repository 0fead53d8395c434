"""The weights of an artefact in the types they are stored in, one tensor in memory at a time.

Input: a model whose precision is decided, and a function that gives a tensor in f32 by its path.  Output: what
`weights.safetensors` holds, and the f32 values it stands for.  An `i8` tensor is whole numbers from -127 to 127 and,
as `<path>.scale`, one f32 a row; `<slot>.start` is what a state begins with, where that is made of parameters.
A target may hold a parameter in an order of its own (`Arranged`), even in several.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np
from safetensors import safe_open

from cdrmix.ir import walk
from cdrmix.ir.interp import first_value
from cdrmix.ir.layout import Slot, Weight, slots, weights
from cdrmix.ir.nodes import Model, Param, Ref, State, Stored
from cdrmix.weights import Entry, check_tensors, owners, write_tensors

Make = Callable[[str], np.ndarray]

DTYPES: Mapping[Stored, str] = {"f32": "F32", "f16": "F16", "bf16": "BF16", "i8": "I8"}
"""How safetensors names them."""


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
        """The type it is stored in."""

    @property
    def arrange(self) -> Callable[[np.ndarray], np.ndarray]:
        """Puts the parameter into that order, in f32 and perhaps rounded."""

    @property
    def restore(self) -> Callable[[np.ndarray], np.ndarray]:
        """Brings it back."""


LARGEST: Mapping[str, float] = {"f16": 65504.0, "bf16": (2 - 2**-7) * 2.0**127}
"""The largest value of the types that hold fewer than f32; what is beyond is clipped to it."""

I8_SMALLEST = 127 * np.float32(1e-45)
"""The largest value of a row below which its scale is no f32."""

GONE = 0.01
"""The share of a tensor's values that may become zero before it is worth a word."""

Arrangement = Mapping[str, Arranged]
"""Arranged tensors by their names in the file, those that `read_values` goes by first; other parameters lie as they
are."""

PLAIN: Arrangement = MappingProxyType({})
"""Every parameter as it is."""


def stored(w: Weight) -> Stored:
    """The type a tensor is stored in; buffers are f32."""
    return w.decl.stored if isinstance(w.decl, Param) else "f32"


def entries(model: Model, arrangement: Arrangement = PLAIN) -> dict[str, Entry]:
    """Every tensor of the file, in order."""
    arranged = {a.owner for a in arrangement.values()}
    found = {name: Entry(a.shape, DTYPES[a.dtype]) for name, a in arrangement.items()}
    for w in owners(model):
        if w.path in arranged:
            continue
        found[w.path] = Entry(w.shape, DTYPES[stored(w)])
        if stored(w) == "i8":
            found[f"{w.path}.scale"] = Entry(w.shape[:-1], "F32")
    for slot in slots(model):
        if isinstance(start(slot), str):
            found[str(start(slot))] = Entry(slot.shape, "F32")
    return found


def start(slot: Slot) -> float | str:
    """What a piece of state begins with: one number, or the name of a tensor."""
    if not isinstance(slot.decl, State):
        return 0.0
    init = slot.decl.init
    return float(init.arg) if init.op == "const" else f"{slot.path}.start"


def pack(path: Path, model: Model, make: Make, arrangement: Arrangement = PLAIN) -> None:
    """Write the file.  `make(path)` gives an owner's tensor in f32."""
    write_tensors(path, entries(model, arrangement), _Packer(model, make, arrangement).tensor)


class _Packer:
    """Makes stored tensors by name, one f32 tensor in memory at a time."""

    def __init__(self, model: Model, make: Make, arrangement: Arrangement = PLAIN):
        self.make, self.arrangement, self.told = make, arrangement, set[str]()
        self.owners = {w.path: w for w in owners(model)}
        self.owner_of = {w.path: w.owner for w in weights(model)}
        self.starts = {str(start(s)): s for s in slots(model)}

    def tensor(self, name: str) -> np.ndarray:
        if name in self.starts:
            return self.start(self.starts[name])
        if name in self.arrangement:
            arranged = self.arrangement[name]
            value = np.asarray(arranged.arrange(np.asarray(self.make(arranged.owner), np.float32)))
            self._tell(arranged.owner, value, arranged.dtype)
            return narrow(value, arranged.dtype)[""]
        owner = name if name in self.owners else name.removesuffix(".scale")
        value, to = self.make(owner), stored(self.owners[owner])
        if name == owner:
            self._tell(owner, value, to)
        return narrow(value, to)[name.removeprefix(owner)]

    def _tell(self, path: str, value: np.ndarray, to: Stored) -> None:
        """Warn of what a type loses, once a tensor."""
        if path not in self.told and (lost := loss(value, to)):
            self.told.add(path)
            warnings.warn(f"{path} as {to}: {lost}", stacklevel=2)

    def start(self, slot: Slot) -> np.ndarray:
        """A state's first value, by the interpreter, from the few parameters it reads."""
        assert isinstance(slot.decl, State)
        names = {m.arg.ref.name for m in walk.reads(slot.decl.init)}
        params = {name: np.asarray(self.make(self.owner_of[f"{slot.place.path}.{name}"]), np.float64) for name in names}
        value = first_value(slot, lambda at: {Ref("param", name): x[at] for name, x in params.items()})
        return value.astype(np.float32)


def loss(x: np.ndarray, to: Stored) -> str:
    """What storing finite values in a type loses beyond rounding, for people; nothing where it loses no more."""
    x = np.abs(np.asarray(x, np.float32))
    if to not in LARGEST:
        tiny = int(np.count_nonzero((x.max(-1, initial=0) > 0) & (x.max(-1, initial=0) < I8_SMALLEST))) if x.ndim else 0
        return f"{tiny} rows of values too small for a scale became 0" if to == "i8" and tiny else ""
    if clipped := int(np.count_nonzero(x > LARGEST[to])):
        return f"{clipped} of {x.size} values are beyond {LARGEST[to]:g} and were clipped, up to {x.max():g}"
    nonzero = np.count_nonzero(x)
    if (gone := nonzero - np.count_nonzero(narrow(x, to)[""])) > nonzero * GONE:
        return f"{gone} of {x.size} values are so small that they became 0"
    return ""


def narrow(x: np.ndarray, to: Stored) -> dict[str, np.ndarray]:
    """A tensor in a stored type, by the suffix of its name; to the nearest, ties to even."""
    x = np.asarray(x, np.float32, order="C")  # keeps a scalar a scalar
    match to:
        case "f32":
            return {"": x}
        case "f16":
            return {"": np.clip(x, -LARGEST[to], LARGEST[to]).astype(np.float16)}
        case "bf16":
            x = np.clip(x, -LARGEST[to], LARGEST[to])  # keeps NaN
            bits = x.view(np.uint32)
            rounded = ((bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
            return {"": np.where(np.isnan(x), np.uint16(0x7FC0), rounded)}
        case "i8":
            scale = np.max(np.abs(x), axis=-1) / np.float32(127)
            rows = x / np.where(scale == 0, 1, scale)[..., None]
            return {"": np.rint(rows).astype(np.int8), ".scale": scale.astype(np.float32)}


def widen(x: np.ndarray, of: Stored, scale: np.ndarray | None = None) -> np.ndarray:
    """The f32 values a stored tensor stands for; bf16 as its bits."""
    match of:
        case "bf16":
            return np.asarray((x.astype(np.uint32) << 16).view(np.float32))
        case "i8":
            assert scale is not None
            return np.asarray(x.astype(np.float32) * scale[..., None])
        case _:
            return x.astype(np.float32)


def read_stored(model: Model, path: Path, arrangement: Arrangement = PLAIN) -> dict[str, np.ndarray]:
    """Every tensor of an artefact's file as it is stored; bf16 as its bits in uint16."""
    want = entries(model, arrangement)
    check_tensors(path, want, model.name)
    return dict(_read(path, want))


def _read(path: Path, want: Mapping[str, Entry]) -> Iterator[tuple[str, np.ndarray]]:
    for name, entry in want.items():
        if entry.dtype == "BF16":  # numpy has no such type
            import torch

            with safe_open(str(path), framework="pt") as f:
                yield name, f.get_tensor(name).view(torch.uint16).numpy()
        else:
            with safe_open(str(path), framework="numpy") as f:
                yield name, f.get_tensor(name)


def read_values(model: Model, path: Path, arrangement: Arrangement = PLAIN) -> dict[str, np.ndarray]:
    """The f32 values of an artefact's weights, by owner path: what its program computes with."""
    found = read_stored(model, path, arrangement)
    first = {a.owner: (name, a) for name, a in reversed(list(arrangement.items()))}
    values = {}
    for w in owners(model):
        if w.path in first:
            name, arranged = first[w.path]
            values[w.path] = arranged.restore(widen(found[name], arranged.dtype))
        else:
            values[w.path] = widen(found[w.path], stored(w), found.get(f"{w.path}.scale"))
    return values
