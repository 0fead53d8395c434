"""Emission of the model: its module tree, `forward` and `step`.

Input: a `Program` and the classes of its cells.
Output: the classes of the blocks that repeat, and the model's own lines.

Lines whose paths begin with `name.0`, `name.1`, … in turn become blocks in an `nn.ModuleList`, one class a distinct
block: what checkpointing and sharding wrap.  A carry is an argument and a result of every block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from cdrmix.ir import layout
from cdrmix.ir.build import FLOATS
from cdrmix.ir.code import flat
from cdrmix.ir.nodes import Cell, Def, DType, Instance, Line, Model
from cdrmix.ir.types import NARROW

from . import names as escape
from .spelling import dtype_of


@dataclass(frozen=True, slots=True)
class Block:
    """A class for one shape of layer."""

    name: str
    doc: str
    fields: tuple[str, ...]
    carries: tuple[str, ...]
    forward: tuple[str, ...]
    step: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stack:
    """The model's own class."""

    doc: tuple[str, ...]
    fields: tuple[str, ...]
    paths: tuple[tuple[str, str], ...]
    ties: Mapping[str, str]
    forward: tuple[str, ...]
    step: tuple[str, ...]
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class _Run:
    """Lines in a row: layers of one `repeat` (`label` given, one list a layer) or lines by themselves."""

    label: str | None
    layers: tuple[tuple[Line, ...], ...]


def emit_stack(model: Model, classes: Mapping[str, str]) -> Stack:
    """The model's class and its blocks."""
    runs = _runs(model.lines)
    writer = _Writer(model, classes)
    fields: list[str] = []
    forward: list[str] = []
    step: list[str] = []
    for run in runs:
        if run.label is None:
            (lines,) = run.layers
            fields += writer.place(lines, "self", 0)
            before = writer.held
            forward += writer.call(lines, "self", 0, "")
            writer.held = before
            step += writer.call(lines, "self", 0, ".step")
        else:
            writer.blocks_of(run, fields, forward, step)
    carries = writer.carries
    start = [f"{', '.join(carries)} = {', '.join(['None'] * len(carries))}"] if carries else []
    owned = [w.path for w in layout.weights(model) if w.owner == w.path]
    paths = tuple((attribute_path(path), path) for path in owned if attribute_path(path) != path)
    ties = {attribute_path(a): attribute_path(b) for a, b in model.ties.items()}
    doc = tuple(escape.doc(model.doc))
    return Stack(doc, tuple(fields), paths, ties, (*start, *forward), (*start, *step), tuple(writer.blocks.values()))


def attribute_path(path: str) -> str:
    """Where a tensor is in the module tree."""
    return ".".join(escape.attribute(name) for name in path.split("."))


def _runs(lines: Sequence[Line]) -> list[_Run]:
    """The lines cut into repeats and what stands between them."""
    grouped = [(head, tuple(same)) for head, same in groupby(lines, key=lambda line: _head(line.path))]
    found: list[_Run] = []
    at = 0
    while at < len(grouped):
        head, own = grouped[at]
        end = at
        if head is not None and head[1] == 0:
            while end < len(grouped) and grouped[end][0] == (head[0], end - at):
                end += 1
        once = head is not None and [h for h, _ in grouped if h is not None and h[0] == head[0]] == [
            (head[0], n) for n in range(end - at)
        ]
        if head is not None and once:
            found.append(_Run(head[0], tuple(same for _, same in grouped[at:end])))
            at = end
        else:
            found.append(_Run(None, (own,)))
            at += 1
    return found


def _head(path: str) -> tuple[str, int] | None:
    """`layer.3.att` is of layer 3 of the repeat `layer`."""
    parts = path.split(".")
    return (parts[0], int(parts[1])) if len(parts) > 2 and parts[1].isdigit() else None


class _Writer:
    """Writes lines of the stack; keeps the blocks that were needed and the carries that run through them.

    `held` is the type of what the next line is given.
    """

    def __init__(self, model: Model, classes: Mapping[str, str]):
        self.model = model
        self.classes = classes
        self.held: DType = "f32"
        self.blocks: dict[object, Block] = {}
        self.made: set[tuple[str, ...]] = set()
        names = escape.Names(
            {*escape.MODULE_NAMES, "x", "y", "tokens", "state", "reset", "sums", "block", "layer", "layers"}
        )
        declared = [c.name for line in model.lines for i in line.chain for c in self.cell(i).carries]
        self.local = {name: names.of(name, name) for name in dict.fromkeys(declared)}

    @property
    def carries(self) -> tuple[str, ...]:
        """The local names of the carries."""
        return tuple(self.local.values())

    def cell(self, instance: Instance) -> Cell:
        """The cell of an instance."""
        return self.model.cells[instance.cell]

    def place(self, lines: Sequence[Line], root: str, skip: int, at: str | None = None) -> list[str]:
        """The fields that hold the lines' cells; the last op of a chain first, since it holds the others."""
        found, made = [], set[tuple[str, ...]]() if at is not None else self.made
        for line in lines:
            for instance in reversed(line.chain):
                parts = instance.path.split(".")[skip:]
                for n in range(1, len(parts)):
                    outer = tuple(parts[:n])
                    if outer not in made:
                        made.add(outer)
                        found.append(_set(root, outer, "nn.Module()"))
                made.add(tuple(parts))
                path = escape.text(".".join(instance.path.split(".")[skip:]) + ".")
                path = path if at is None else f"{at} + {path}"
                place = f"{instance.layer}, {instance.layers}" if at is None else "layer, layers"
                if at is None and (instance.layer, instance.layers) == (0, 1):
                    place = ""
                args = ", ".join(a for a in (path, place) if a)
                found.append(_set(root, parts, f"{self.classes[instance.cell]}({args})"))
        return found

    def call(self, lines: Sequence[Line], root: str, skip: int, method: str) -> list[str]:
        """The calls of the lines, `x` in and `x` out."""
        found = []
        for line in lines:
            at, stream = "x", self.held
            for instance in line.chain:
                target = "y" if line.residual else "x"
                found.append(self._one(instance, root, skip, method, at, target))
                at, self.held = target, output_type(self.cell(instance))
            if line.residual:  # a sum of two of one type is rounded to it
                work = self.model.work
                same = {stream, self.held} == {work}
                found.append("x = x + y" if same else f"x = {held('(x.float() + y.float())', work)}")
                self.held = work
        return found

    def _one(self, instance: Instance, root: str, skip: int, method: str, given: str, target: str) -> str:
        cell = self.cell(instance)
        first = instance is self.model.lines[0].chain[0]
        if first and len(cell.inputs) > 1:
            given = f"*{given}" if self.model.work == "f32" else _held_each(given, cell)
        elif cell.inputs[0].dtype in FLOATS and cell.inputs[0].dtype != self.held:
            given = held(given, cell.inputs[0].dtype)
        reads = [self.local[c.name] for c in cell.carries if c.reads]
        writes = [self.local[c.name] for c in cell.carries if c.writes]
        module = _member(root, instance.path.split(".")[skip:])
        return f"{', '.join([target, *writes])} = {module}{method}({', '.join([given, 'stream', *reads])})"

    def blocks_of(self, run: _Run, fields: list[str], forward: list[str], step: list[str]) -> None:
        """A repeat: its blocks' classes, and the loop over them."""
        assert run.label is not None
        made = []
        carries = self._carries(run)
        for n, lines in enumerate(run.layers):
            name = self._block(lines, run.label, carries)
            one = lines[0].chain[0]
            at = escape.text(f"{run.label}.{n}.")
            made.append(f"{name}({at}, {one.layer}, {one.layers})")
        field = f"self.{escape.attribute(run.label)}"
        fields += [f"{field} = nn.ModuleList(", "    [", *(f"        {m}," for m in made), "    ]", ")"]
        result = ", ".join(["x", *carries])
        for calls, method in ((forward, "block"), (step, "block.step")):
            calls += [f"for block in {field}:", f"    {result} = {method}({', '.join(['x', 'stream', *carries])})"]

    def _carries(self, run: _Run) -> tuple[str, ...]:
        names = [c.name for lines in run.layers for line in lines for i in line.chain for c in self.cell(i).carries]
        return tuple(self.local[name] for name in dict.fromkeys(names))

    def _block(self, lines: Sequence[Line], label: str, carries: tuple[str, ...]) -> str:
        """The class for these lines, made when first met."""
        chains = [tuple((_below(i.path), i.cell) for i in line.chain) for line in lines]
        shape = tuple((line.residual, chain) for line, chain in zip(lines, chains, strict=True))
        key = (label, shape, carries, self.held)
        before, self.held = self.held, self._after(lines)
        if key not in self.blocks:
            taken = {*self.classes.values(), *(b.name for b in self.blocks.values())}
            name = escape.class_name(f"{label}_block", taken)
            (doc,) = escape.doc(f"One {label}: {', '.join(_below(line.path) for line in lines)}.")
            fields = self.place(lines, "self", 2, at="at")
            result = f"return {', '.join(['x', *carries])}"
            self.held = before
            forward = (*self.call(lines, "self", 2, ""), result)
            self.held = before
            step = (*self.call(lines, "self", 2, ".step"), result)
            self.blocks[key] = Block(name, doc, tuple(fields), carries, forward, step)
        return self.blocks[key].name

    def _after(self, lines: Sequence[Line]) -> DType:
        """The type of what the lines leave."""
        return self.model.work if lines[-1].residual else output_type(self.cell(lines[-1].chain[-1]))


def output_type(cell: Cell) -> DType:
    """The type of what a cell returns."""
    return next(d.dtype for d in cell.body if isinstance(d, Def) and d.ref.kind == "output")


def held(code: str, dtype: DType) -> str:
    """Code of a value in the type it is held in."""
    return f"{code}.to({flat(dtype_of(dtype))})" if dtype in NARROW else f"{code}.float()"


def _held_each(given: str, cell: Cell) -> str:
    """The model's own inputs, each in the type of its formal."""
    found = [f"{given}[{n}]" for n in range(len(cell.inputs))]
    return ", ".join(held(x, i.dtype) if i.dtype in NARROW else x for x, i in zip(found, cell.inputs, strict=True))


def _below(path: str) -> str:
    return path.split(".", 2)[2]


def _set(root: str, parts: Sequence[str], made: str) -> str:
    """Code that puts a module below `root`; an inner repeat's number is no attribute."""
    *outer, last = (escape.attribute(p) for p in parts)
    if last.isidentifier():
        return f"{_member(root, parts)} = {made}"
    return f"{_member(root, parts[: len(outer)])}.add_module({last!r}, {made})"


def _member(root: str, parts: Sequence[str]) -> str:
    """Code of a module below `root`."""
    names = [escape.attribute(p) for p in parts]
    if all(n.isidentifier() for n in names):
        return ".".join([root, *names])
    code = root
    for n in names:
        code = f"{code}.{n}" if n.isidentifier() else f"{code}.get_submodule({n!r})"
    return code
