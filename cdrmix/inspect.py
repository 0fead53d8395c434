"""What `cdrmix inspect` shows: a model's size and cost, how each of its states is computed over a sequence, and
what each optimiser would move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from cdrmix.compiler import TARGETS, backend, check_target, lower, quoting
from cdrmix.diagnose import UserError
from cdrmix.ir.cost import Cost, cost
from cdrmix.ir.layout import Weight, slots, weights
from cdrmix.ir.matrices import matrices
from cdrmix.ir.nodes import Model, Stored
from cdrmix.ir.text import to_text
from cdrmix.passes.classify import classify
from cdrmix.passes.encodings import encode
from cdrmix.passes.simplify import simplify

STORED: tuple[Stored, ...] = ("f32", "bf16", "i8")
"""The encodings of matrices that are shown where none is asked for."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The encoding of matrices that was asked for, and the rules for others."""

    matrices: Stored | None = None
    rules: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self != Asked()

    def sizes(self, model: Model) -> dict[str, int]:
        """Bytes of an artefact's weights, by how they are held."""
        if not self:
            return {stored: weight_bytes(model, stored) for stored in STORED}
        matrices = self.matrices or "f32"
        return {", ".join((matrices, *self.rules)): weight_bytes(model, matrices, self.rules)}


def describe_json(model: Model, asked: Asked = Asked()) -> dict[str, Any]:
    """The same as data."""
    found = cost(model)
    return {
        "model": model.name,
        "vocab": model.vocab,
        "width": model.width,
        "settings": {k: v for k, v in model.settings.items() if isinstance(v, int | float | str)},
        "parameters": found.total.stored,
        "active_parameters": found.total.active,
        "weight_bytes": asked.sizes(model),
        "state_bytes": found.total.state_bytes(),
        "flops_per_token": found.total.flops,
        "optimisers": {
            name: {"parameters": sum(prod(w.shape) for w in held), "tensors": [w.path for w in held]}
            for name, held in by_optimiser(model).items()
        },
        "lines": [{"path": path, "parameters": x.stored, "active": x.active} for path, x in found.lines.items()],
        "states": classes(model),
    }


def describe_on(model: Model, target: str, options: Mapping[str, Any], asked: Asked = Asked()) -> str:
    """What the model costs on a target, by the backend's own account."""
    account = backend(target).inspect
    if account is None:
        known = [t for t, other in TARGETS.items() if other.inspect is not None]
        raise UserError(f"target {target} has no account of what a model costs", f"these have: {', '.join(known)}")
    program = lower(model, weights=asked.matrices or "f32", rules=asked.rules).program
    with quoting(model):
        check_target(model, target)
        return account(program, options)


def weight_bytes(model: Model, matrices: Stored, rules: Sequence[str] = ()) -> int:
    """Bytes of an artefact's weights when its matrices are held so, and others by the rules."""
    return cost(encode(model, matrices, rules)).total.weight_bytes()


def classes(model: Model) -> dict[str, list[str]]:
    """By cell: each group of its states with its class, as text."""
    return {
        name: [str(g) for g in classify(simplify(cell))]
        for name, cell in model.cells.items()
        if cell.states or cell.histories
    }


def by_optimiser(model: Model) -> dict[str, list[Weight]]:
    """The parameters that Muon moves and those that it leaves to AdamW, tied ones once."""
    taken = matrices(model)
    paths = {w.path for w in taken}
    left = [w for w in weights(model) if w.kind == "param" and w.owner == w.path and w.path not in paths]
    return {"muon": taken, "adamw": left}


def describe(model: Model, ops: bool = False, asked: Asked = Asked()) -> str:
    """Text for people; with `ops`, the checked equations too."""
    found = cost(model)
    total = found.total
    lines = [
        f"{model.name}: {len(model.lines)} lines, width {model.width}, vocabulary {model.vocab}",
        f"  parameters    {count(total.stored)}, active for a token {count(total.active)}",
        f"  weights       {', '.join(f'{size(bytes)} in {how}' for how, bytes in asked.sizes(model).items())}",
        f"  state         {size(total.state_bytes())} a stream, in {len(slots(model))} pieces",
        f"  arithmetic    {count(total.flops)} FLOPs a token",
        "",
        *_stack(found),
        "",
        "states over a sequence:",
    ]
    for name, groups in classes(model).items():
        lines += [f"  {name}: {group}" for group in groups]
    lines += ["", "moved by, where `optim.kind` is muon:", *_optimisers(model)]
    if ops:
        lines += ["", to_text(model)]
    return "\n".join(lines)


def _optimisers(model: Model) -> list[str]:
    """A block of lines an optimiser: how much it moves, and by op the names of what it moves."""
    text = []
    for name, held in by_optimiser(model).items():
        names: dict[str, dict[str, None]] = {}
        for w in held:
            names.setdefault(w.place.cell.op, {})[w.decl.name] = None
        text.append(f"  {name:6}{count(sum(prod(w.shape) for w in held)):>9} in {len(held)} tensors")
        text += [f"    {op}: {' '.join(of)}" for op, of in names.items()]
    return text


def _stack(found: Cost) -> list[str]:
    """One row a line of the stack, equal neighbours of a repeat folded."""
    rows: list[tuple[str, int, int]] = [(path, x.stored, x.active) for path, x in found.lines.items()]
    width = max(len(path) for path, _, _ in rows)
    text = []
    shown: set[tuple[str, int, int]] = set()
    folded = 0
    for path, stored, active in rows:
        kind = (path.rsplit(".", 1)[-1], stored, active)
        if path.startswith("layer.") and kind in shown:
            folded += 1
            continue
        shown.add(kind)
        text.append(f"  {path:{width}}  {count(stored):>9}" + (f"  active {count(active)}" if active != stored else ""))
    if folded:
        text.append(f"  … and {folded} lines like these")
    return text


def count(n: int) -> str:
    """12345678 as `12.3 M`."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= scale:
            return f"{n / scale:.3g} {unit}"
    return str(n)


def size(n: int) -> str:
    """Bytes as people write them, in powers of ten."""
    return f"{count(n)}B" if n >= 1000 else f"{n} B"
