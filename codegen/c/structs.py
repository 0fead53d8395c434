"""The C structs of a cell: its weights, its state and its scratch; and the function that sets a first state.

Input: cells, callees before callers.  Output: a `Shape` a cell, which knows what its function takes, and the text of
its structs.

The weights struct is pointers alone, in the order of `layout.weights`, so that a run of a pointer table is one.  Arrays
are padded to 64 bytes, so that each begins a cache line when the buffer does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from cdrmix.codegen.c.access import Held, Storage
from cdrmix.codegen.c.blocks import Product
from cdrmix.codegen.c.names import Scope
from cdrmix.codegen.c.nest import Nest
from cdrmix.codegen.c.rules import Text

from cdrmix.ir import build, layout, walk
from cdrmix.ir.nodes import Buffer, Cell, Index, Node, Param, Ref, Stored

LINE = 16
"""Floats in a cache line."""


def padded(count: int) -> int:
    """`count` rounded up to whole cache lines."""
    return -(-count // LINE) * LINE


@dataclass(slots=True)
class Shape:
    """What the C of one cell is called and takes.

    `weights`, `state` and `scratch` are names of struct types, None where the cell has nothing of the kind.  `packed`
    are the parameters that are only read in products, and lie in their kernels' order.  The other maps give the members
    of the structs by the cell's own names.
    """

    cell: Cell
    function: str
    scratch_name: str
    weights: str | None = None
    state: str | None = None
    scratch: str | None = None
    starts: str | None = None
    packed: dict[str, Product] = field(default_factory=dict)
    carry: bool = False
    weight_members: dict[str, str] = field(default_factory=dict)
    state_members: dict[str, str] = field(default_factory=dict)
    rings: dict[str, int] = field(default_factory=dict)

    def arguments(self, block: str, weights: str, at: str, inputs: Sequence[str], out: str, scratch: str) -> list[str]:
        """What its function takes, in order; what the cell has nothing of is left out."""
        own = ((block, True), (weights, self.weights), (at, self.state), *((i, True) for i in inputs), (out, True),
               (scratch, self.scratch))  # fmt: skip
        return [given for given, there in own if there]

    @property
    def grouping(self) -> bool:
        """Whether it may be applied to rows of several tokens in any order, and is worth it."""
        return bool(self.weights) and not self.state and not self.carry

    @property
    def kept(self) -> list[tuple[str, tuple[int, ...], int]]:
        """The cell's own states and histories: name, sizes of its value or of an entry, the window or 0."""
        own = [(s.name, walk.sizes(s.indices), 0) for s in self.cell.states]
        return own + [(h.name, tuple(a.size for a in h.axes), h.window.size) for h in self.cell.histories]


def shape_of(cell: Cell, names: Scope, shapes: Mapping[str, Shape]) -> Shape:
    """Name the parts of a cell; `shapes` has its callees."""
    shape = Shape(cell, names.name(f"cell_{cell.name}"), names.name(f"{cell.name}_scratch"))
    inner = [shapes[p.cell] for p in cell.parts]
    if cell.params or cell.buffers or any(p.weights for p in inner):
        shape.weights = names.name(f"{cell.name}_weights")
    if cell.states or cell.histories or any(p.state for p in inner):
        shape.state = names.name(f"{cell.name}_state")
    shape.carry = bool(cell.carries) or any(p.carry for p in inner)
    if any(p.starts for p in inner) or any(not is_zero(s.init) for s in cell.states):
        shape.starts = names.name(f"start_{cell.name}")
    parts, members = [p.name for p in cell.parts], Scope()
    shape.weight_members = {name: members.name(name) for name in [*(d.name for d in tensors_of(cell)), *parts]}
    members = Scope({"ring"})
    shape.state_members = {name: members.name(name) for name in [*(name for name, _, _ in shape.kept), *parts]}
    shape.rings = {h.name: p for p, h in enumerate(cell.histories)}
    return shape


def tensors_of(cell: Cell) -> list[Param | Buffer]:
    """A cell's own tensors, in the order of its weights struct."""
    return [*cell.params, *cell.buffers]


def stored(d: Param | Buffer) -> Stored:
    """The encoding that a tensor is held in."""
    return d.stored if isinstance(d, Param) else "f32"


def as_packed(encoding: Stored) -> str:
    """What runtime/c/matrix.h calls an encoding."""
    return f"CDR_AS_{encoding.upper()}"


def held(d: Param | Buffer) -> Held | None:
    """How a tensor is held, where that is not as f32."""
    encoding = stored(d)
    return Held(encoding, d.indices[-1].axis.size) if encoding != "f32" else None


def is_zero(init: Node) -> bool:
    """Whether a state begins at zero, as a cleared buffer does."""
    return init.op == "const" and init.arg == 0


def struct(name: str | None, lines: Sequence[str]) -> list[str]:
    """`typedef struct { … } name;`, if the cell has such a thing."""
    return ["typedef struct {", *(f"  {line}" for line in lines), f"}} {name};", ""] if name else []


def weights_struct(shape: Shape, shapes: Mapping[str, Shape]) -> list[str]:
    """`typedef struct { const float *Wr; … } rwkv7_weights;`"""
    lines = []
    for d in tensors_of(shape.cell):
        sizes, how = ", ".join(f"{i.axis.size}" for i in d.indices), held(d)
        c = "cdr_packed " if d.name in shape.packed else f"cdr_{how.encoding} " if how else "const float *"
        lines.append(f"{c}{shape.weight_members[d.name]}; /* [{sizes}] */")
    for p in shape.cell.parts:
        if (inner := shapes[p.cell]).weights:
            note = f" /* of {p.bank.axis.size}: each tensor has them in front */" if p.bank else ""
            lines.append(f"{inner.weights} {shape.weight_members[p.name]};{note}")
    return struct(shape.weights, lines)


def state_struct(shape: Shape, shapes: Mapping[str, Shape]) -> list[str]:
    """`typedef struct { float x_prev[64]; … } rwkv7_state;`"""
    lines = []
    for name, sizes, window in shape.kept:
        sizes = (window, *sizes) if window else sizes
        shown = "a ring of " * (window > 0) + (" x ".join(map(str, sizes)) or "a number")
        lines.append(f"float {shape.state_members[name]}[{padded(prod(sizes))}]; /* {shown} */")
    if shape.rings:
        lines.append(f"cdr_ring ring[{padded(2 * len(shape.rings)) // 2}];")
    for p in shape.cell.parts:
        if (inner := shapes[p.cell]).state:
            instances = f"[{p.bank.axis.size}]" if p.bank else ""
            lines.append(f"{inner.state} {shape.state_members[p.name]}{instances};")
    return struct(shape.state, lines)


def scratch_struct(
    shape: Shape, arrays: Mapping[str, tuple[str, int, bool]], prepared: str, shapes: Mapping[str, Shape]
) -> list[str]:
    """The scratch of a cell, if it has any: `arrays` by member (type, length, whether for each token of a block), the
    bytes that its products need, and room for one part at a time."""
    inner = sorted({s for p in shape.cell.parts if (s := shapes[p.cell].scratch)})
    shape.scratch = shape.scratch_name if arrays or inner or prepared else None
    lines = [f"{c} {name}[{f'CDR_BLOCK * {n}' if block else padded(n)}];" for name, (c, n, block) in arrays.items()]
    lines += [f"unsigned char prepared[{prepared}];"] if prepared else []
    if inner:
        lines += ["union {", *(f"  {s} {s};" for s in inner), "} part;"]
    return struct(shape.scratch, lines)


def advance(shape: Shape, shapes: Mapping[str, Shape]) -> list[str]:
    """A function that gives the weights of instance `e` of a bank from the weights of the bank."""
    lines = []
    for d in tensors_of(shape.cell):
        member, by, how = f"w.{shape.weight_members[d.name]}", Text(f"e * {walk.size(d.indices)}"), held(d)
        if product := shape.packed.get(d.name):
            of = f"({as_packed(stored(d))}, {product.rows}, {product.cols})"
            lines.append(f"  {member}.blocks += (size_t)e * cdr_packed_size{of};")
            if isinstance(d, Param) and layout.scaled(d):
                lines.append(f"  {member}.scales += (size_t)e * cdr_packed_scales{of};")
            continue
        lines.append(f"  {member} = {Storage(member, held=how).address(by)};" if how else f"  {member} += {by.c};")
    for p in shape.cell.parts:
        if (inner := shapes[p.cell]).weights:
            member = f"w.{shape.weight_members[p.name]}"
            times = f" * {p.bank.axis.size}" if p.bank else ""
            lines.append(f"  {member} = {inner.weights}_at({member}, e{times});")
    head = f"static {shape.weights} {shape.weights}_at({shape.weights} w, ptrdiff_t e)"
    return [head, "{", *lines, "  return w;", "}", ""]


def in_banks(cells: Mapping[str, Cell]) -> set[str]:
    """The cells that stand in a bank, and those inside them."""
    found = set[str]()
    todo = [p.cell for cell in cells.values() for p in cell.parts if p.bank]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += [p.cell for p in cells[name].parts]
    return found


# --- first states ---------------------------------------------------------------------------------------------------
def weights_of(nest: Nest, shape: Shape, part: str, inner: Shape, place: str | None, name: str) -> str:
    """The weights of a part, in a bank of the instance at `place`; for a part that has some."""
    weights = f"wt->{shape.weight_members[part]}" if inner.weights else ""
    if inner.weights and place is not None:
        each = f"{inner.weights}_at({weights}, {place})"
        weights = nest.declare(f"const {inner.weights}", nest.scope.name(name), each)
    return f"&{weights}"


def start_function(shape: Shape, shapes: Mapping[str, Shape]) -> list[str]:
    """The function that sets the states that do not begin at zero; the buffer is cleared already."""
    if shape.starts is None:
        return []
    lines: list[str] = []
    scope = Scope(("wt", "st"))

    def storage(ref: Ref) -> Storage:
        in_state = ref.kind == "state"
        return Storage(f"st->{shape.state_members[ref.name]}" if in_state else f"wt->{shape.weight_members[ref.name]}")

    for s in shape.cell.states:
        if not is_zero(s.init):
            nest = Nest(storage, lambda window: "0", scope.child())
            nest.open(*s.indices)
            own = build.read(Ref("state", s.name), [i.axis for i in s.indices], s.indices)
            nest.line(f"{nest.element(own)} = {nest.expression(s.init, 'f').c};")
            lines += nest.lines()
    for p in shape.cell.parts:
        inner = shapes[p.cell]
        if inner.starts:
            nest, e = Nest(storage, lambda window: "0", scope.child()), None
            if p.bank:
                e = Index("e", p.bank.axis)
                nest.open(e)
            place = nest.named[e].c if e else None
            state = f"&st->{shape.state_members[p.name]}" + (f"[{place}]" if place else "")
            weights = [weights_of(nest, shape, p.name, inner, place, "each")] * bool(inner.weights)
            nest.line(f"{inner.starts}({', '.join([*weights, state])});")
            lines += nest.lines()
    formals = [f"const {shape.weights} *wt"] * bool(shape.weights) + [f"{shape.state} *st"]
    read = any(walk.refs(s.init) for s in shape.cell.states)
    passed = any(shapes[p.cell].starts and shapes[p.cell].weights for p in shape.cell.parts)
    unused = ["(void)wt;"] if shape.weights and not (read or passed) else []
    head = f"static void {shape.starts}({', '.join(formals)})"
    return [head, "{", *(f"  {line}" for line in [*unused, *lines]), "}", ""]
