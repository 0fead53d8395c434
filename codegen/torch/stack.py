"""Emission of the model: its module tree, `forward` and `step`.

Input: a model and the classes of its cells.
Output: the classes of the blocks that repeat, and the model's own lines.

Lines whose paths begin with `name.0`, `name.1`, … in turn become blocks in an `nn.ModuleList`, one class a distinct
block: what checkpointing and sharding wrap.  A carry is an argument and a result of every block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from cdrmix.ir import layout, walk
from cdrmix.ir import python as escape
from cdrmix.ir.build import FLOATS
from cdrmix.ir.code import flat
from cdrmix.ir.nodes import Cell, Def, DType, Instance, Line, Model
from cdrmix.ir.types import NARROW

from .names import MODULE_NAMES, attribute, class_name
from .spelling import dtype_of


@dataclass(frozen=True, slots=True)
class Block:
    """A class for one shape of layer."""

    name: str
    doc: str
    fields: list[str]
    carries: tuple[str, ...]
    forward: list[str]
    step: list[str]

    @property
    def args(self) -> str:
        """Of both methods."""
        return ", ".join(["x: Tensor", "stream: Stream", *(f"{c}: Tensor | None" for c in self.carries)])

    @property
    def result(self) -> str:
        """The type of what both return."""
        return f"tuple[{', '.join(['Tensor', *['Tensor | None'] * len(self.carries)])}]" if self.carries else "Tensor"


@dataclass(slots=True)
class Stack:
    """The lines of the model's own class, and the blocks; `local` are the names of the carries, `held` is the type of
    what the next line is given.
    """

    model: Model
    classes: Mapping[str, str]
    names: escape.Names
    local: Mapping[str, str]
    held: DType = "f32"
    fields: list[str] = field(default_factory=list)
    forward: list[str] = field(default_factory=list)
    last: list[str] = field(default_factory=list)
    step: list[str] = field(default_factory=list)
    blocks: dict[object, Block] = field(default_factory=dict)
    made: set[tuple[str, ...]] = field(default_factory=set)

    @property
    def paths(self) -> list[tuple[str, str]]:
        """Where tensors are in the module tree, and their paths where these differ."""
        owned = [w.path for w in layout.weights(self.model) if w.owner == w.path]
        return [(attribute_path(path), path) for path in owned if attribute_path(path) != path]

    @property
    def ties(self) -> dict[str, str]:
        """The tensors that are others, by where they are in the module tree."""
        return {attribute_path(a): attribute_path(b) for a, b in self.model.ties.items()}

    def cell(self, instance: Instance) -> Cell:
        """The cell of an instance."""
        return self.model.cells[instance.cell]

    def cells_of(self, line: Line) -> str:
        """Code of the names of a line's modules."""
        return f"({', '.join(escape.text(attribute_path(i.path)) for i in line.chain)},)"

    def place(self, lines: Sequence[Line]) -> None:
        """Lines by themselves; a last one that each token passes by itself is of `logits`."""
        self.fields += self.members(lines, 0, self.made)
        apart = lines[-1] is self.model.lines[-1] and len(self.model.lines) > 1 and self._by_token(lines[-1])
        for some, to in ((lines[:-1], self.forward), (lines[-1:], self.last)) if apart else ((lines, self.forward),):
            forward, step = self.calls(some, 0)
            to += forward
            self.step += step

    def _by_token(self, line: Line) -> bool:
        """Whether a line is a function of what each token gives it, and of nothing else."""
        return not line.residual and all(is_function(self.model, self.cell(i)) for i in line.chain)

    def repeat(self, label: str, layers: Sequence[Sequence[Line]]) -> None:
        """The blocks' classes, and the loop over them."""
        carries = self.carries(line for lines in layers for line in lines)
        made = []
        for n, lines in enumerate(layers):
            one = lines[0].chain[0]
            name = self.block(lines, label, carries)
            made.append(f"        {name}({escape.text(f'{label}.{n}.')}, {one.layer}, {one.layers}),")
        blocks = f"self.{attribute(label)}"
        self.fields += [f"{blocks} = nn.ModuleList(", "    [", *made, "    ]", ")"]
        result, given = ", ".join(["x", *carries]), ", ".join(["x", "stream", *carries])
        for calls, method in ((self.forward, "block"), (self.step, "block.step")):
            calls += [f"for block in {blocks}:", f"    {result} = {method}({given})"]

    def carries(self, lines: Iterator[Line]) -> tuple[str, ...]:
        """The local names of the carries that run through lines."""
        found = (c.name for line in lines for i in line.chain for c in self.cell(i).carries)
        return tuple(self.local[name] for name in dict.fromkeys(found))

    def block(self, lines: Sequence[Line], label: str, carries: tuple[str, ...]) -> str:
        """The class for these lines, made when first met."""
        shape = tuple((line.residual, *((_below(i.path), i.cell) for i in line.chain)) for line in lines)
        key = (label, shape, carries, self.held)
        forward, step = self.calls(lines, 2)
        if key not in self.blocks:
            name = self.names.fresh(class_name(f"{label}_block"))
            (doc,) = escape.doc(f"One {label}: {', '.join(_below(line.path) for line in lines)}.")
            result = f"return {', '.join(['x', *carries])}"
            fields = self.members(lines, 2, set(), at="at")
            self.blocks[key] = Block(name, doc, fields, carries, [*forward, result], [*step, result])
        return self.blocks[key].name

    def members(self, lines: Sequence[Line], skip: int, made: set[tuple[str, ...]], at: str | None = None) -> list[str]:
        """The fields that hold the lines' cells; the last op of a chain first, since it holds the others."""
        found = []
        for line in lines:
            for instance in reversed(line.chain):
                parts = instance.path.split(".")[skip:]
                for n in range(1, len(parts)):
                    outer = tuple(parts[:n])
                    if outer not in made:
                        made.add(outer)
                        found.append(_set(outer, "nn.Module()"))
                made.add(tuple(parts))
                path = escape.text(".".join(parts) + ".")
                path = path if at is None else f"{at} + {path}"
                place = f", {instance.layer}, {instance.layers}" if at is None else ", layer, layers"
                if at is None and (instance.layer, instance.layers) == (0, 1):
                    place = ""
                found.append(_set(parts, f"{self.classes[instance.cell]}({path}{place})"))
        return found

    def calls(self, lines: Sequence[Line], skip: int) -> tuple[list[str], list[str]]:
        """The calls of the lines in `forward` and in `step`, `x` in and `x` out."""
        forward, step, work = list[str](), list[str](), self.model.work
        for line in lines:
            at, stream = "x", self.held
            for instance in line.chain:
                cell, target = self.cell(instance), "y" if line.residual else "x"
                targets = ", ".join([target, *(self.local[c.name] for c in cell.carries if c.writes)])
                reads = [self.local[c.name] for c in cell.carries if c.reads]
                given = ", ".join([self._given(instance, at), "stream", *reads])
                module = _member(instance.path.split(".")[skip:])
                forward.append(f"{targets} = {module}({given})")
                step.append(f"{targets} = {module}.step({given})")
                at, self.held = target, output_type(cell)
            if line.residual:  # a sum of two of one type is rounded to it
                same = {stream, self.held} == {work}
                total = "x = x + y" if same else f"x = {held('(x.float() + y.float())', work)}"
                forward.append(total)
                step.append(total)
                self.held = work
        return forward, step

    def _given(self, instance: Instance, at: str) -> str:
        """What a cell is given: a value in the type of its formal; the first one, all the model's inputs."""
        inputs, first = self.cell(instance).inputs, instance is self.model.lines[0].chain[0]
        if first and len(inputs) > 1:
            each = [held(f"{at}[{n}]", i.dtype) if i.dtype in NARROW else f"{at}[{n}]" for n, i in enumerate(inputs)]
            return f"*{at}" if self.model.work == "f32" else ", ".join(each)
        dtype = inputs[0].dtype
        return held(at, dtype) if dtype in FLOATS and dtype != self.held else at


def is_function(model: Model, cell: Cell) -> bool:
    """Whether a cell's result is of its inputs and parameters alone, and nothing is measured on the way."""
    kept = cell.states or cell.histories or cell.carries or cell.buffers or cell.training
    here = not kept and not any(n.op == "context" for s in cell.body for n in walk.nodes(s))
    return here and all(not p.bank and is_function(model, model.cells[p.cell]) for p in cell.parts)


def emit_stack(model: Model, classes: Mapping[str, str], names: escape.Names) -> Stack:
    """The model's class and its blocks; `names` are those of the module, the cells' classes among them."""
    own = escape.Names({*MODULE_NAMES, "x", "y", "tokens", "state", "reset", "sums", "block", "layer", "layers"})
    declared = [c.name for line in model.lines for i in line.chain for c in model.cells[i.cell].carries]
    stack = Stack(model, classes, names, {name: own.fresh(name) for name in dict.fromkeys(declared)})
    if local := stack.local.values():
        start = f"{', '.join(local)} = {', '.join(['None'] * len(local))}"
        stack.forward.append(start)
        stack.step.append(start)
    grouped = [(label, [*same]) for label, same in groupby(model.lines, key=lambda line: _head(line.path)[0])]
    labels = [label for label, _ in grouped]
    for label, same in grouped:
        layers = [[*own] for _, own in groupby(same, key=lambda line: _head(line.path)[1])]
        in_turn = [_head(own[0].path)[1] for own in layers] == [*range(len(layers))]
        if label is not None and labels.count(label) == 1 and in_turn:
            stack.repeat(label, layers)
        else:
            stack.place(same)
    return stack


def _head(path: str) -> tuple[str | None, int]:
    """`layer.3.att` is of layer 3 of the repeat `layer`."""
    parts = path.split(".")
    return (parts[0], int(parts[1])) if len(parts) > 2 and parts[1].isdigit() else (None, 0)


def _below(path: str) -> str:
    return path.split(".", 2)[2]


def output_type(cell: Cell) -> DType:
    """The type of what a cell returns."""
    return next(d.dtype for d in cell.body if isinstance(d, Def) and d.ref.kind == "output")


def held(code: str, dtype: DType) -> str:
    """Code of a value in the type it is held in."""
    return f"{code}.to({flat(dtype_of(dtype))})" if dtype in NARROW else f"{code}.float()"


def attribute_path(path: str) -> str:
    """Where a tensor is in the module tree."""
    return ".".join(attribute(name) for name in path.split("."))


def _set(parts: Sequence[str], made: str) -> str:
    """Code that puts a module below the class; an inner repeat's number is no attribute."""
    *outer, last = parts
    name = attribute(last)
    return f"{_member(parts)} = {made}" if name.isidentifier() else f"{_member(outer)}.add_module({name!r}, {made})"


def _member(parts: Sequence[str]) -> str:
    """Code of a module below the class."""
    names = [attribute(p) for p in parts]
    return "self" + "".join(f".{n}" if n.isidentifier() else f".get_submodule({n!r})" for n in names)
