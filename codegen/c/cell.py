"""One cell as a C function: one token through one instance of it.

Input: a cell's step form, and the shapes of the cells it holds.  Output: its structs and functions as text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod
from pathlib import PurePath

from cdrmix.codegen.c import patterns, structs
from cdrmix.codegen.c.access import ZERO, Ring, Storage, flat
from cdrmix.codegen.c.names import Scope, comment
from cdrmix.codegen.c.nest import Nest
from cdrmix.codegen.c.rules import TOTAL, Text
from cdrmix.codegen.c.structs import Shape

from cdrmix.diagnose import CompileError, Diagnostic, Span
from cdrmix.ir import build, walk
from cdrmix.ir.build import FLOATS
from cdrmix.ir.forms import StepForm
from cdrmix.ir.nodes import Apply, Def, DType, Given, Index, Input, Node, Ref, Top
from cdrmix.ir.text import headings, statement

WHOLE: dict[DType, str] = {"int": "int64_t", "bool": "int32_t", "pick": "int32_t"}
_OWN = ("wt", "st", "tmp", "out", "carry", "pos", "lane")
"""The generator's own names in a function: weights, state, scratch, …"""


def c_type(dtype: DType) -> str:
    """The element type of an array."""
    return "float" if dtype in FLOATS else WHOLE[dtype]


class CellWriter:
    """Writes one cell; `carries` are the members of the model's carry struct by name, `names` the program's names."""

    def __init__(
        self, shape: Shape, form: StepForm, shapes: Mapping[str, Shape], carries: Mapping[str, str], names: Scope
    ):
        self.shape, self.shapes, self.carries = shape, shapes, carries
        self.cell = replace(shape.cell, body=patterns.products_first(shape.cell, form.body))
        self.in_place = form.in_place
        self.known = headings(self.cell)
        self.windows = walk.windows(self.cell)
        self.scope = names.child(_OWN)
        self.members = Scope({"part"})
        self.arrays: dict[str, tuple[str, int]] = {}
        self.storages: dict[Ref, Storage] = {}
        self.presents: dict[int, str] = {}
        self.head: list[str] = []
        self.lines: list[str] = []
        self.tail: list[str] = []
        self.formals = {i.name: self.scope.name(i.name) for i in self.cell.inputs}

    def write(self) -> tuple[list[str], list[str]]:
        """The structs and the function of the cell."""
        shape = self.shape
        for h in self.cell.histories:  # make room for this token's entry
            ring, head = f"st->ring[{shape.rings[h.name]}]", self.scope.name(f"{h.name}_head")
            self.head += [f"cdr_ring_advance(&{ring}, {h.window.size});", f"const ptrdiff_t {head} = {ring}.head;"]
            entry = Ring(head, h.window.size, prod(a.size for a in h.axes))
            self.storages[Ref("history", h.name)] = Storage(f"st->{shape.state_members[h.name]}", ring=entry)
        for stmt in self.cell.body:
            self.lines += ["", *(f"/* {comment(t)} */" for t in statement(stmt, self.known))]
            match stmt:
                case Def():
                    self.define(stmt)
                case Top():
                    self.top(stmt)
                case Apply():
                    self.apply(stmt)
        types = [*structs.weights_struct(shape, self.shapes), *structs.state_struct(shape, self.shapes)]
        return [*types, *structs.scratch_struct(shape, self.arrays, self.shapes)], self.function()

    # --- the function ----------------------------------------------------------------------------------------------
    def function(self) -> list[str]:
        """The function, whole."""
        shape = self.shape
        body = [*self.weights(), *self.head, *self.lines, *self.tail]
        formals = shape.arguments("wt", "st", [*self.formals.values()], "out", "carry", "pos", "tmp")
        unused = [f"(void){name};" for name in formals if name not in self.used()]
        span = shape.cell.span
        title = f"{shape.cell.op} ({PurePath(span.file).name}:{span.line})"
        head = signature(shape.function, self.parameters())
        doc = [f"/* {comment(t)} */" for t in (title, *shape.cell.doc.splitlines()) if comment(t)]
        return [*doc, *head, "{", *(f"  {t}" if t else "" for t in [*unused, *body]), "}", ""]

    def used(self) -> set[str]:
        """The formals that the statements touch."""
        refs = {*self.storages, *(r for s in self.cell.body for r in walk.defines(s))}
        kinds, inputs = {r.kind for r in refs}, {self.formals[r.name] for r in refs if r.kind == "input"}
        called = {s.part for s in self.cell.body if isinstance(s, Apply)}
        inner = [self.shapes[p.cell] for p in self.cell.parts if p.name in called]
        touched = {
            "wt": any(p.weights for p in inner) or kinds & {"param", "buffer"},
            "st": any(p.state for p in inner) or kinds & {"state", "next", "history"},
            "carry": any(p.carry for p in inner) or "carry" in kinds,
            "pos": any(p.pos for p in inner) or any(n.op == "context" for n in walk.nodes(self.cell.body)),
            "tmp": any(p.scratch for p in inner) or self.arrays,
        }
        return {"out", *inputs, *(name for name, there in touched.items() if there)}

    def parameters(self) -> list[str]:
        weights, state = f"const {self.shape.weights} *wt", f"{self.shape.state} *restrict st"
        carry, scratch = "cdr_carries *restrict carry", f"{self.shape.scratch} *restrict tmp"
        inputs = []
        for i, name in zip(self.cell.inputs, self.formals.values(), strict=True):
            inputs.append(f"{c_type(i.dtype)} {name}" if is_number(i) else f"const {c_type(i.dtype)} *restrict {name}")
        return self.shape.arguments(weights, state, inputs, "float *restrict out", carry, "int64_t pos", scratch)

    def weights(self) -> Iterator[str]:
        """Weights as restrict pointers: nothing that is written overlaps them."""
        for ref, storage in self.storages.items():
            if ref.kind in ("param", "buffer"):
                c = f"cdr_{storage.held.encoding} " if storage.held else "float *restrict const "
                yield f"const {c}{storage.base} = wt->{self.shape.weight_members[ref.name]};"

    def present(self, window: int) -> str:
        """The name of how many tokens a window of this size holds."""
        if window not in self.presents:
            name = next(h.name for h in self.cell.histories if h.window.size == window)
            self.presents[window] = self.scope.name("present")
            ring = f"st->ring[{self.shape.rings[name]}]"
            self.head.append(f"const ptrdiff_t {self.presents[window]} = {ring}.count;")
        return self.presents[window]

    # --- where names lie -------------------------------------------------------------------------------------------
    def storage(self, ref: Ref) -> Storage:
        """Where a name that is read lies."""
        if ref not in self.storages:
            self.storages[ref] = self.find(ref)
        return self.storages[ref]

    def find(self, ref: Ref) -> Storage:
        match ref.kind:
            case "param" | "buffer":
                held = next((structs.held(p) for p in self.cell.params if p.name == ref.name), None)
                return Storage(self.scope.name(ref.name), held=held)
            case "input":
                formal = next(i for i in self.cell.inputs if i.name == ref.name)
                return Storage(self.formals[ref.name], formal.dtype not in FLOATS, is_number(formal))
            case "state" | "next":
                return Storage(f"st->{self.shape.state_members[ref.name]}")
            case "carry":
                return Storage(f"carry->{self.carries[ref.name]}")
            case "output":
                return Storage("out")
        raise ValueError(f"{ref.kind} {ref.name} is read before it is defined")

    def array(self, name: str, count: int, c: str = "float") -> str:
        """A new array of the scratch."""
        member = self.members.name(name)
        self.arrays[member] = (c, count)
        return f"tmp->{member}"

    def new(self, name: str, count: int, dtype: DType) -> str:
        """The array of a definition."""
        base = self.array(name, count, c_type(dtype))
        self.storages[Ref("def", name)] = Storage(base, dtype not in FLOATS)
        return base

    # --- statements ------------------------------------------------------------------------------------------------
    def nest(self, root: Node | None = None) -> Nest:
        found = walk.windowed(root, self.windows) if root is not None else set[Index]()
        return Nest(self.storage, self.present, self.scope.child(), found)

    def define(self, d: Def) -> None:
        numbers = patterns.constant_table(d)
        if numbers is not None:
            name, c = self.scope.name(d.ref.name), c_type(d.dtype)
            rows = (f"  {', '.join(numbers[at : at + 12])}," for at in range(0, len(numbers), 12))
            self.lines += [f"static const {c} {name}[{len(numbers)}] = {{", *rows, "};"]
            self.storages[d.ref] = Storage(name, d.dtype not in FLOATS)
            return
        nest = self.nest(d.value)
        ref, name, count, read = d.ref, d.ref.name, walk.size(d.indices), False
        axes, at = [i.axis for i in d.indices], [build.index(i) for i in d.indices]
        kept = None  # where it lies from the token's end on
        match ref.kind:
            case "def":
                self.new(name, count, d.dtype)
            case "history":
                window = next(h.window for h in self.cell.histories if h.name == name)
                axes, at = [window, *axes], [build.const(0), *at]
            case "carry" if any(c.name == name and c.reads for c in self.cell.carries):
                ref, kept = Ref("next", name), ("own", f"carry->{self.carries[name]}")
            case "next" if name not in self.in_place:
                kept = ("next", f"st->{self.shape.state_members[name]}")
            case "next":
                read = Ref("state", name) in walk.refs(d.value)
        if kept is not None:
            array = self.array(f"{name}_{kept[0]}", count)
            self.storages[ref] = Storage(array)
            self.tail.append(f"memcpy({kept[1]}, {array}, {count} * sizeof(float));")
        own = build.read(ref, axes, at, d.dtype)
        patterns.write(nest, d, own, self.storage(ref).whole, read)
        self.lines += nest.lines()

    def top(self, stmt: Top) -> None:
        nest, lead, size = self.nest(stmt.source), list(stmt.lead), stmt.k.axis.size
        count = walk.size((*lead, stmt.k))
        made: tuple[tuple[str | None, DType], ...] = ((stmt.values, "f32"), (stmt.picks, "pick"))
        values, picks = (
            self.new(name, count, dtype) if name else self.array("unused", count, c_type(dtype)) for name, dtype in made
        )
        source = self.array("top_of", stmt.over.axis.size)
        nest.open(*lead)
        depth = len(nest.loops)
        nest.open(stmt.over)
        nest.line(f"{source}[{nest.named[stmt.over].c}] = {nest.expression(stmt.source, 'f').c};")
        nest.close(depth)
        at = flat([*(nest.named[i] for i in lead), ZERO], walk.sizes((*lead, stmt.k))).inside(TOTAL)
        nest.line(f"cdr_top({source}, {nest.extent(stmt.over)}, {size}, {values} + {at}, {picks} + {at});")
        self.lines += nest.lines()

    def apply(self, stmt: Apply) -> None:
        part = next(p for p in self.cell.parts if p.name == stmt.part)
        inner = self.shapes[part.cell]
        out = self.new(stmt.name, walk.size((*stmt.lead, *stmt.outs)), stmt.dtype)
        nest = self.nest()
        nest.open(*stmt.lead)
        place = None
        if stmt.select is not None and (inner.weights or inner.state):
            select = nest.expression(stmt.select, "i").c
            place = nest.declare("const ptrdiff_t", nest.scope.name("place"), select)
        weights, state = instance(nest, self.shape, part.name, inner, place, "chosen")
        given = [self.given(nest, g, i, stmt.span) for g, i in zip(stmt.inputs, inner.cell.inputs, strict=True)]
        made = self.address(nest, out, stmt.lead, walk.size(stmt.outs))
        own = inner.arguments(weights, state, given, made, "carry", "pos", f"&tmp->part.{inner.scratch}")
        nest.line(f"{inner.function}({', '.join(own)});")
        self.lines += nest.lines()

    def given(self, nest: Nest, g: Given, formal: Input, span: Span) -> str:
        storage = self.storage(g.ref)
        if storage.ring is not None:
            message = f"the history `{g.ref.name}` is given to a part"
            raise CompileError([Diagnostic("E0903", span, message, "name what the part needs of it in an equation")])
        if storage.scalar:
            return storage.base
        base = storage.base if storage.held is None else self.widened(g.ref, storage)
        address = self.address(nest, base, g.lead, prod(a.size for a in formal.axes))
        return f"*({address})" if is_number(formal) else address

    def widened(self, ref: Ref, storage: Storage) -> str:
        """An array of a parameter's values, for a part that takes them as it takes any others."""
        param = next(p for p in self.cell.params if p.name == ref.name)
        count, i = walk.size(param.indices), self.scope.child().name("i")
        base, each = self.array(f"{ref.name}_values", count), storage.element(Text(i))
        self.lines.append(f"for (ptrdiff_t {i} = 0; {i} < {count}; {i}++) {base}[{i}] = {each};")
        return base

    def address(self, nest: Nest, base: str, lead: tuple[Index, ...], each: int) -> str:
        return Storage(base).address(flat([*(nest.named[i] for i in lead), ZERO], [*walk.sizes(lead), each]))


def instance(nest: Nest, shape: Shape, part: str, inner: Shape, place: str | None, name: str) -> tuple[str, str]:
    """The weights and the state of a part, in a bank of the instance at `place`."""
    weights, state = f"wt->{shape.weight_members[part]}", f"&st->{shape.state_members[part]}"
    if place is None:
        return f"&{weights}", state
    if inner.weights:
        weights = nest.declare(
            f"const {inner.weights}", nest.scope.name(name), f"{inner.weights}_at({weights}, {place})"
        )
    return f"&{weights}", f"{state}[{place}]"


def signature(function: str, parameters: list[str]) -> list[str]:
    """The head of a function, in lines of 120 characters."""
    lines = [f"static void {function}("]
    for p, parameter in enumerate(parameters):
        text = parameter + (")" if p == len(parameters) - 1 else ", ")
        if len(lines[-1]) + len(text.rstrip()) > 120:
            lines.append(" " * len(f"static void {function}("))
        lines[-1] += text
    return [line.rstrip() for line in lines]


def is_number(i: Input) -> bool:
    """Whether an input is passed by value: a place on an axis."""
    return i.dtype not in FLOATS and not i.axes


def start_function(shape: Shape, shapes: Mapping[str, Shape]) -> list[str]:
    """The function that sets the states that do not begin at zero; the buffer is cleared already."""
    if shape.starts is None:
        return []
    lines: list[str] = []
    scope = Scope(_OWN)

    def storage(ref: Ref) -> Storage:
        in_state = ref.kind == "state"
        return Storage(f"st->{shape.state_members[ref.name]}" if in_state else f"wt->{shape.weight_members[ref.name]}")

    for s in shape.cell.states:
        if not structs.is_zero(s.init):
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
            weights, state = instance(nest, shape, p.name, inner, nest.named[e].c if e else None, "each")
            nest.line(f"{inner.starts}({', '.join([weights] * bool(inner.weights) + [state])});")
            lines += nest.lines()
    formals = [f"const {shape.weights} *wt"] * bool(shape.weights) + [f"{shape.state} *st"]
    read = any(walk.refs(s.init) for s in shape.cell.states)
    passed = any(shapes[p.cell].starts and shapes[p.cell].weights for p in shape.cell.parts)
    unused = ["(void)wt;"] if shape.weights and not (read or passed) else []
    head = f"static void {shape.starts}({', '.join(formals)})"
    return [head, "{", *(f"  {line}" for line in [*unused, *lines]), "}", ""]
