"""The stack as tables: calls of cells, tensors of the weights file, slots of the state.

Input: a model and the shapes of its cells.  Output: rows as C initialisers, and the cases of the dispatch.

The residual stream and the values inside a chain live in three lines of the buffer; a call reads one, writes another.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from cdrmix.codegen.c import structs
from cdrmix.codegen.c.cell import is_number
from cdrmix.codegen.c.names import Scope, comment, string
from cdrmix.codegen.c.structs import Shape

from cdrmix.ir import layout
from cdrmix.ir.layout import Entry
from cdrmix.ir.nodes import Cell, Model, Stored


@dataclass(frozen=True, slots=True)
class Call:
    """One cell of the stack: reads line `source`, writes line `to`, is then added to line `add` unless that is -1."""

    path: str
    cell: str
    weights: int
    state: str | None
    source: int
    to: int
    add: int
    size: int

    @property
    def made(self) -> int:
        """The line that holds what it made."""
        return self.to if self.add < 0 else self.add


def calls(model: Model, shapes: Mapping[str, Shape]) -> list[Call]:
    """The cells in order."""
    found: list[Call] = []
    members = Scope()
    weights, current = 0, 0
    for line in model.lines:
        source = current
        for at, instance in enumerate(line.chain):
            cell = model.cells[instance.cell]
            to = next(n for n in range(3) if n not in (source, current))
            add = current if line.residual and at == len(line.chain) - 1 else -1
            state = members.name(instance.path) if shapes[cell.name].state else None
            size = prod(a.size for a in cell.out_axes)
            found.append(Call(instance.path, instance.cell, weights, state, source, to, add, size))
            weights += count_weights(model, cell, shapes)
            source = to
        current = current if line.residual else source
    return found


def count_weights(model: Model, cell: Cell, shapes: Mapping[str, Shape]) -> int:
    """How many pointers the weights of a cell and of those inside it are."""
    inner = sum(count_weights(model, model.cells[p.cell], shapes) for p in cell.parts)
    packed = shapes[cell.name].packed
    return sum(2 if d.name in packed else len(layout.planes(d, (1,))) for d in structs.tensors_of(cell)) + inner


def kept(found: Sequence[Call]) -> list[int]:
    """How many floats of a token each line holds after some calls."""
    sizes = [0, 0, 0]
    for c in found:
        sizes[c.made] = c.size
    return sizes


def call_rows(found: list[Call], shapes: Mapping[str, Shape], order: list[str]) -> list[str]:
    """The table of calls."""
    rows = []
    for c in found:
        state = f"offsetof(cdr_stream, state.{c.state})" if c.state else "0"
        numbers = f"{order.index(c.cell)}, {c.source}, {c.to}, {c.add}, {c.size}, {c.weights}, {state}"
        rows.append(f"{{{numbers}}}, /* {comment(c.path)} */")
    return rows


def cases(model: Model, shapes: Mapping[str, Shape], order: list[str]) -> Iterator[str]:
    """The dispatch of `run`, a case a cell of the stack."""
    first = model.lines[0].chain[0].cell if model.vocab == 0 else None
    for number, name in enumerate(order):
        shape = shapes[name]
        at, inputs, numbers = 0, list[str](), list[str]()
        for i in shape.cell.inputs:
            start = f"in + {at}" if name == first and at else "in"
            if is_number(i) and not model.vocab:
                numbers.append(f"const int32_t place_{at} = (int32_t)*({start});")
                start = f"&place_{at}"
            inputs.append("tokens" if is_number(i) and model.vocab else start)
            at += prod(a.size for a in i.axes)
        weights, scratch = f"(const {shape.weights} *)(const void *)weights", f"&b->scratch.{shape.scratch}"
        given = shape.arguments("block", weights, "c->state", inputs, "out", scratch)
        run = f"{shape.function}({', '.join(given)});"
        yield f"case {number}: {' '.join(['{', *numbers, run, '}']) if numbers else run} break;"


def start_cases(shapes: Mapping[str, Shape], order: list[str]) -> Iterator[str]:
    """The dispatch of `cdr_state_init`."""
    for number, name in enumerate(order):
        shape = shapes[name]
        if shape.starts:
            weights = [f"(const {shape.weights} *)(const void *)weights"] * bool(shape.weights)
            yield f"case {number}: {shape.starts}({', '.join([*weights, f'({shape.state} *)(void *)place'])}); break;"


# --- the weights file ----------------------------------------------------------------------------------------------
def tensors(model: Model) -> list[tuple[str, Entry]]:
    """The tensors of the file, row by row, sorted by name as the loader wants them."""
    owners = [w for w in layout.weights(model) if w.owner == w.path]
    found = [(w.path + suffix, plane) for w in owners for suffix, plane in layout.planes(w.decl, w.shape).items()]
    return sorted(found, key=lambda tensor: tensor[0].encode())


def tensor_rows(found: Sequence[tuple[str, Entry]], blocks: Collection[str]) -> tuple[list[str], list[str]]:
    """The table of tensors, and that of their sizes, to which it points; `blocks` may lie in blocks of rows too."""
    rows, sizes, at = [], list[str](), 0
    for name, entry in found:
        in_blocks = entry.in_blocks if name in blocks else None
        shapes = [entry.shape, *([in_blocks.shape] if in_blocks else [])]
        there = f"sizes + {at + len(entry.shape)}" if in_blocks else "NULL"
        rows.append(f"{{{string(name)}, {len(entry.shape)}, sizes + {at}, CDR_{entry.dtype}, {there}}},")
        sizes += [f"{', '.join(map(str, shape))}," for shape in shapes if shape]
        at += sum(map(len, shapes))
    return rows, sizes


@dataclass(frozen=True, slots=True)
class Packing:
    """A tensor, or `count` of a bank, in the order of the kernels; `planes` are those of the file."""

    planes: tuple[str, ...]
    encoding: Stored
    count: int
    rows: int
    cols: int

    @property
    def blocks(self) -> tuple[str, ...]:
        """Its planes that may lie in the file in blocks of rows already: of whole blocks without padding.  Planes of
        f32 lie as a checkpoint's."""
        padded = {"f16": 4, "bf16": 4, "i8": 32, "i8g32": 32, "i4": 1}  # i4's are padded in the file too
        if self.rows % 16 or self.encoding not in padded or self.cols % padded[self.encoding]:
            return ()
        return self.planes if self.encoding in ("i8g32", "i4") else self.planes[:1]  # else a row has a scale


def packing_of(w: layout.Weight, shapes: Mapping[str, Shape]) -> Packing | None:
    """How a tensor is packed, if it is."""
    of = shapes[w.place.cell.name].packed.get(w.decl.name)
    planes = tuple(w.owner + suffix for suffix in layout.planes(w.decl, w.shape))
    return Packing(planes, structs.stored(w.decl), prod(w.place.banks), of.rows, of.cols) if of else None


def packings(model: Model, shapes: Mapping[str, Shape]) -> list[Packing]:
    """The tensors that are packed, each once in each way."""
    return list(dict.fromkeys(p for w in layout.weights(model) if (p := packing_of(w, shapes)) is not None))


def blocks(model: Model, shapes: Mapping[str, Shape]) -> set[str]:
    """The planes that the file has in blocks of rows: of tensors that all who use them take so."""
    found = dict[str, set[Packing | None]]()
    for w in layout.weights(model):
        found.setdefault(w.owner, set()).add(packing_of(w, shapes))
    return {plane for ways in found.values() if len(ways) == 1 for way in ways if way for plane in way.blocks}


def packing_rows(model: Model, found: Sequence[Packing]) -> list[str]:
    """The table of them: the encoding, the numbers of the tensors with the numbers and the scales, and the sizes."""
    place = {name: n for n, (name, _) in enumerate(tensors(model))}
    rows = []
    for p in found:
        planes = [place[name] for name in p.planes] + [-1] * (2 - len(p.planes))
        numbers = [structs.as_packed(p.encoding), *planes, p.count, p.rows, p.cols]
        rows.append(f"{{{', '.join(map(str, numbers))}}}, /* {comment(p.planes[0])} */")
    return rows


def pointers(model: Model, shapes: Mapping[str, Shape], found: Sequence[Packing]) -> list[int]:
    """For each pointer of the weights structs, in order, the number of the tensor that it points to or, of one that is
    packed, -1 less twice its number among them, and one less for where its scales lie."""
    place = {name: n for n, (name, _) in enumerate(tensors(model))}
    numbers: list[int] = []
    for w in layout.weights(model):
        packing = packing_of(w, shapes)
        planes = layout.planes(w.decl, w.shape)
        if packing:
            numbers += [-1 - 2 * found.index(packing), -2 - 2 * found.index(packing)]
        else:
            numbers += [place[w.owner + suffix] for suffix in planes]
    return numbers


# --- the state -----------------------------------------------------------------------------------------------------
def slot_rows(model: Model, found: list[Call], shapes: Mapping[str, Shape]) -> list[str]:
    """The table of slots; an instance of a bank has its own row, after those of the instances before it."""
    rows: dict[str, list[str]] = {slot.path: [] for slot in layout.slots(model)}
    for call in found:
        if call.state:
            for path, row in _slots(model.cells[call.cell], call.path, f"state.{call.state}", shapes):
                rows[path].append(row)
    return [row for path in rows for row in rows[path]]


def _slots(cell: Cell, path: str, member: str, shapes: Mapping[str, Shape]) -> Iterator[tuple[str, str]]:
    shape = shapes[cell.name]
    for name, sizes, window in shape.kept:
        at = f"offsetof(cdr_stream, {member}.{shape.state_members[name]})"
        ring = f"offsetof(cdr_stream, {member}.ring[{shape.rings[name]}])" if window else "0"
        yield f"{path}.{name}", f"{{{string(f'{path}.{name}')}, {at}, {ring}, {prod(sizes)}, {window}}},"
    for p in cell.parts:
        inner = shapes[p.cell]
        if inner.state:
            for e in range(p.bank.axis.size) if p.bank else (None,):
                place = f"{member}.{shape.state_members[p.name]}" + (f"[{e}]" if e is not None else "")
                yield from _slots(inner.cell, f"{path}.{p.name}", place, shapes)


def carry_members(model: Model) -> dict[str, tuple[str, int]]:
    """The carries by name: their member and their size."""
    names, found = Scope(), dict[str, tuple[str, int]]()
    for cell in model.cells.values():
        for c in cell.carries:
            if c.name not in found:
                found[c.name] = (names.name(c.name), prod(a.size for a in c.axes))
    return found
