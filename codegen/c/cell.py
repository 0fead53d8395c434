"""One cell as a C function: one token through one instance of it.

Input: a cell's step form, and the shapes of the cells it holds.  Output: its structs and functions as text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import PurePath

from cdrmix.codegen.c import blocks, groups, leads, patterns, structs
from cdrmix.codegen.c.access import ZERO, Ring, Storage, flat
from cdrmix.codegen.c.blocks import Product, Segment
from cdrmix.codegen.c.names import Scope, comment
from cdrmix.codegen.c.nest import EACH_TOKEN, Nest, braced, indented, signature
from cdrmix.codegen.c.rules import TOTAL, Text
from cdrmix.codegen.c.structs import Shape, as_packed, weights_of

from cdrmix.diagnose import CompileError, Diagnostic, Span
from cdrmix.ir import build, walk
from cdrmix.ir.build import FLOATS
from cdrmix.ir.forms import StepForm
from cdrmix.ir.nodes import Apply, Def, DType, Given, Index, Input, Node, Ref, Stmt, Top
from cdrmix.ir.text import headings, statement

WHOLE: dict[DType, str] = {"int": "int64_t", "bool": "int32_t", "pick": "int32_t"}
_OWN = ("block", "wt", "at", "tmp", "out_block", "t", "one", "st", "pos", "lane", "job", "given", "begin", "end")
"""The generator's own names in a function: the tokens, weights, where the state lies in a stream, scratch, …; and in a
loop over the tokens, the one of them and what it has of its own."""


def c_type(dtype: DType) -> str:
    """The element type of an array."""
    return "float" if dtype in FLOATS else WHOLE[dtype]


class CellWriter:
    """Writes one cell; `carries` are the members of the model's carry struct by name, `names` the program's names.

    What a segment's loop makes and only it reads has room for one token in the scratch; other names have room for a
    block of tokens, and in a loop a pointer to the token's own.
    """

    def __init__(
        self, shape: Shape, form: StepForm, shapes: Mapping[str, Shape], carries: Mapping[str, str], names: Scope
    ):
        self.shape, self.shapes, self.carries = shape, shapes, carries
        body = blocks.named_for_blocks(shape.cell, patterns.products_first(shape.cell, form.body))
        self.cell = replace(shape.cell, body=body)
        inner = {p.name: shapes[p.cell] for p in self.cell.parts}
        carrying, grouping = [n for n, p in inner.items() if p.carry], [n for n, p in inner.items() if p.grouping]
        self.products = blocks.products(self.cell)
        self.in_place = form.in_place
        self.tables = {s.ref: t for s in body if isinstance(s, Def) and (t := patterns.constant_table(s))}
        self.segments = [
            part
            for whole in blocks.segments(self.cell, self.products, carrying, grouping)
            for part in blocks.by_lead(whole, self.cell, self.products, self.in_place, self.tables)
        ]
        self.known = headings(self.cell)
        self.windows = walk.windows(self.cell)
        self.names, self.scope = names, names.child(_OWN)
        self.members = Scope({"part", "prepared"})
        self.arrays: dict[str, tuple[str, int, bool]] = {}
        self.storages: dict[Ref, Storage] = {}
        self.of_token: dict[Ref, Storage] = {}
        self.looping = False
        self.making: set[Ref] = set()
        self.presents: dict[int, str] = {}
        self.inside, self.lead = self.scope, ""
        self.head: list[str] = []
        self.lines: list[str] = []
        self.shared: list[str] = []
        self.loop: list[str] = []
        self.tail: list[str] = []
        self.end: list[str] = []
        self.formals = {i.name: self.scope.name(f"{i.name}_block") for i in self.cell.inputs}
        self.made = {r: made for s in self.cell.body for r, made in _made(s)}
        self.made |= {Ref("input", i.name): (prod(a.size for a in i.axes), i.dtype) for i in self.cell.inputs}
        self.block = self.of_blocks()
        self.own = {r: self.scope.name(r.name) for r in self.named_in_function()}
        shape.packed = {p.weight: p for p in self.products.values()}

    def of_blocks(self) -> set[Ref]:
        """The definitions of which every token of a block has its own."""
        found: set[Ref] = set()
        made_in = {r: n for n, s in enumerate(self.segments) for stmt in s.each for r in walk.defines(stmt)}
        for n, segment in enumerate(self.segments):
            found |= {r for stmt in segment.whole for r in (*walk.defines(stmt), *walk.uses(stmt))}
            found |= {r for stmt in segment.each for r in walk.uses(stmt) if made_in.get(r, n) != n}
        return {r for r in found if r.kind == "def" and r not in self.tables}

    def named_in_function(self) -> list[Ref]:
        """What has a name of its own in the function: parameters, and rows of what each token has."""
        params = [Ref("param", p.name) for p in self.cell.params] + [Ref("buffer", b.name) for b in self.cell.buffers]
        inputs = [Ref("input", i.name) for i in self.cell.inputs] + [Ref("carry", c.name) for c in self.cell.carries]
        return [*params, *inputs, Ref("output", "out"), *(r for r in self.made if r in self.block)]

    def prepared(self) -> str:
        """The bytes that products need for the vectors of a block; nothing where there is no product."""
        cols = max((p.cols for p in self.products.values()), default=0)
        return f"CDR_PREPARED({cols}, CDR_BLOCK)" if cols else ""

    def write(self) -> tuple[list[str], list[str]]:
        """The structs and the function of the cell."""
        shape = self.shape
        for segment in self.segments:
            self.segment(segment)
        types = [*structs.weights_struct(shape, self.shapes), *structs.state_struct(shape, self.shapes)]
        types += structs.scratch_struct(shape, self.arrays, self.prepared(), self.shapes)
        return types, [*self.shared, *self.function()]

    def segment(self, segment: Segment) -> None:
        """A loop over the tokens, and what is made for all of them after it."""
        outside = self.begin(segment)
        touched = {r.name for s in segment.each for r in (*walk.defines(s), *walk.uses(s)) if r.kind == "history"}
        for h in self.cell.histories:
            if h.name in touched:  # make room for the token's entry
                ring, head = f"st->ring[{self.shape.rings[h.name]}]", self.scope.name(f"{h.name}_head")
                self.loop += [f"cdr_ring_advance(&{ring}, {h.window.size});", f"const ptrdiff_t {head} = {ring}.head;"]
                entry = Ring(head, h.window.size, prod(a.size for a in h.axes))
                self.storages[Ref("history", h.name)] = Storage(f"st->{self.shape.state_members[h.name]}", ring=entry)
        if segment.by_lead:
            called = leads.shared(self, segment)
            self.lines, self.looping = [*outside, *called], False
            return
        for group in blocks.sharing(segment.each, self.cell, self.products):
            self.statements(group) if len(group) == 1 else self.share(group)
        inside = [*self.of_one(segment.each), *self.loop, *self.lines, *self.tail]
        looped = ["", *indented(EACH_TOKEN, inside)]
        self.lines, self.looping = outside + (looped if inside else []), False
        self.statements(segment.whole)

    def begin(self, segment: Segment) -> list[str]:
        """Begin the loop of a segment; the lines before it."""
        outside, self.lines, self.loop, self.tail = self.lines, [], [], []
        self.of_token, self.presents, self.looping = {}, {}, True
        self.making = {r for s in segment.each for r in walk.defines(s)}
        return outside

    def each_token(self, write: Callable[[], list[str]]) -> list[str]:
        """Lines for each token, in a loop of their own."""
        self.of_token, self.presents, self.loop, self.looping = {}, {}, [], True
        lines = write()
        self.looping = False
        return braced(EACH_TOKEN, [*self.loop, *lines])

    def of_one(self, stmts: Sequence[Stmt]) -> Iterator[str]:
        """What statements touch of one token of the block."""
        kinds = {r.kind for s in stmts for r in (*walk.defines(s), *walk.uses(s))}
        if kinds & {"state", "next", "history"}:
            state = self.shape.state
            yield f"{state} *restrict const st = ({state} *)(void *)(block->stream[t] + at);"
        if any(n.op == "context" for s in stmts for n in walk.nodes(s)):
            yield "const int64_t pos = block->pos[t];"
        if any(isinstance(s, Apply) for s in stmts):
            yield "const cdr_block one = cdr_one_of(block, t);"

    def share(self, group: tuple[Stmt, ...]) -> None:
        """Statements in one loop over their first index."""
        lead, name, body = self.at_lead(group)
        self.lines += ["", *indented(f"for (ptrdiff_t {name} = 0; {name} < {lead.axis.size}; {name}++)", body)]

    def at_lead(self, group: tuple[Stmt, ...]) -> tuple[Index, str, list[str]]:
        """Statements at one value of their first index: the index, its name in C, and the lines."""
        outside, self.lines, self.inside = self.lines, [], self.scope.child()
        lead = next(s.indices[0] for s in group if isinstance(s, Def))
        name = self.lead = self.inside.name(lead.name)
        self.statements(group)
        body, self.lines, self.lead = self.lines[1:], outside, ""
        return lead, name, body

    def statements(self, stmts: tuple[Stmt, ...]) -> None:
        for stmt in stmts:
            if isinstance(stmt, Def) and stmt.ref in self.tables:
                self.table(stmt, self.tables[stmt.ref])
                continue
            self.lines += ["", *(f"/* {comment(t)} */" for t in statement(stmt, self.known))]
            match stmt:
                case Def():
                    self.define(stmt)
                case Top():
                    self.top(stmt)
                case Apply():
                    self.apply(stmt)

    # --- the function ----------------------------------------------------------------------------------------------
    def function(self) -> list[str]:
        """The function, whole."""
        shape = self.shape
        stmts = [s for part in self.segments if not part.by_lead for s in (*part.each, *part.whole)]
        body = [*self.weights(stmts), *self.head, *self.lines, *self.end]
        used = {"out_block", *self.used(stmts), *(self.arguments() if self.shared else ())}  # a job takes them all
        unused = [f"(void){name};" for name in self.arguments() if name not in used]
        span = shape.cell.span
        title = f"{shape.cell.op} ({PurePath(span.file).name}:{span.line})"
        head = signature(shape.function, self.parameters())
        doc = [f"/* {comment(t)} */" for t in (title, *shape.cell.doc.splitlines()) if comment(t)]
        return [*doc, *head, "{", *(f"  {t}" if t else "" for t in [*unused, *body]), "}", ""]

    def used(self, stmts: Sequence[Stmt]) -> set[str]:
        """The formals that statements touch."""
        refs = {r for s in stmts for r in (*walk.uses(s), *walk.defines(s))}
        kinds, inputs = {r.kind for r in refs}, {self.formals[r.name] for r in refs if r.kind == "input"}
        called = {s.part for s in stmts if isinstance(s, Apply)}
        inner = [self.shapes[p.cell] for p in self.cell.parts if p.name in called]
        touched = {
            "wt": any(p.weights for p in inner) or kinds & {"param", "buffer"},
            "at": any(p.state for p in inner) or kinds & {"state", "next", "history"},
            "tmp": any(p.scratch for p in inner) or self.arrays or self.products,
            "out_block": "output" in kinds,
        }
        return {"block", *inputs, *(name for name, there in touched.items() if there)}

    def arguments(self) -> list[str]:
        """The names of what the function takes."""
        return self.shape.arguments("block", "wt", "at", [*self.formals.values()], "out_block", "tmp")

    def parameters(self) -> list[str]:
        """Their declarations."""
        inputs = [f"const {c_type(i.dtype)} *restrict {self.formals[i.name]}" for i in self.cell.inputs]
        weights, scratch = f"const {self.shape.weights} *wt", f"{self.shape.scratch} *restrict tmp"
        own = ("const cdr_block *block", weights, "size_t at", inputs, "float *restrict out_block", scratch)
        return self.shape.arguments(*own)

    def weights(self, stmts: Sequence[Stmt]) -> Iterator[str]:
        """Weights that statements read as restrict pointers: nothing that is written overlaps them."""
        read = {r for s in stmts for r in walk.uses(s)}
        for ref, storage in self.storages.items():
            if ref.kind in ("param", "buffer") and ref in read:
                c = f"cdr_{storage.held.encoding} " if storage.held else "float *restrict const "
                yield f"const {c}{storage.base} = wt->{self.shape.weight_members[ref.name]};"

    def present(self, window: int) -> str:
        """The name of how many tokens a window of this size holds."""
        if window not in self.presents:
            name = next(h.name for h in self.cell.histories if h.window.size == window)
            self.presents[window] = self.scope.name("present")
            ring = f"st->ring[{self.shape.rings[name]}]"
            self.loop.append(f"const ptrdiff_t {self.presents[window]} = {ring}.count;")
        return self.presents[window]

    # --- where names lie -------------------------------------------------------------------------------------------
    def storage(self, ref: Ref) -> Storage:
        """Where a name lies: that of the token, in a loop over tokens."""
        if ref.kind in ("input", "output", "carry") or ref in self.block:
            if ref not in self.of_token:
                self.of_token[ref] = self.its_own(ref)
            return self.of_token[ref]
        if ref not in self.storages:
            self.storages[ref] = self.find(ref)
        return self.storages[ref]

    def its_own(self, ref: Ref) -> Storage:
        """The token's row of a name that has one for each."""
        if ref.kind == "carry":
            self.loop.append(f"float *restrict const {self.own[ref]} = block->carry[t].{self.carries[ref.name]};")
            return Storage(self.own[ref])
        count, dtype = self.made[ref]
        name, whole, of = self.own[ref], dtype not in FLOATS, self.all_of(ref)
        if ref.kind == "input" and whole and count == 1:
            self.loop.append(f"const {c_type(dtype)} {name} = {of}[t];")
            return Storage(name, whole, scalar=True)
        const = "" if ref in self.making else "const "
        self.loop.append(f"{const}{c_type(dtype)} *restrict const {name} = {of} + t * {count};")
        return Storage(name, whole)

    def all_of(self, ref: Ref) -> str:
        """The first token's row of a name that has one for each."""
        if ref.kind in ("input", "output"):
            return self.formals[ref.name] if ref.kind == "input" else "out_block"
        if ref not in self.storages:
            count, dtype = self.made[ref]
            self.storages[ref] = Storage(self.array(ref.name, count, c_type(dtype), block=True))
        return self.storages[ref].base

    def find(self, ref: Ref) -> Storage:
        match ref.kind:
            case "param" | "buffer":
                held = next((structs.held(p) for p in self.cell.params if p.name == ref.name), None)
                return Storage(self.own[ref], held=held)
            case "state" | "next":
                return Storage(f"st->{self.shape.state_members[ref.name]}")
        raise ValueError(f"{ref.kind} {ref.name} is read before it is defined")

    def array(self, name: str, count: int, c: str = "float", block: bool = False) -> str:
        """A new array of the scratch: for one token, or for each of a block."""
        member = self.members.name(name)
        self.arrays[member] = (c, count, block)
        return f"tmp->{member}"

    def new(self, name: str) -> str:
        """The array of a definition."""
        ref = Ref("def", name)
        if ref not in self.block and ref not in self.storages:
            count, dtype = self.made[ref]
            self.storages[ref] = Storage(self.array(name, count, c_type(dtype)), dtype not in FLOATS)
        return self.storage(ref).base

    # --- statements ------------------------------------------------------------------------------------------------
    def nest(self, root: Node | None = None) -> Nest:
        found = walk.windowed(root, self.windows) if root is not None else set[Index]()
        return Nest(self.storage, self.present, self.scope.child(), found)

    def define(self, d: Def) -> None:
        if d.ref in self.products:
            self.product(d.ref, self.products[d.ref])
            return
        nest = self.nest(d.value)
        if self.lead:
            nest.shared, nest.scope, nest.named = d.indices[0], self.inside.child(), {d.indices[0]: Text(self.lead)}
        ref, name, count, read = d.ref, d.ref.name, walk.size(d.indices), False
        axes, at = [i.axis for i in d.indices], [build.index(i) for i in d.indices]
        match ref.kind:
            case "def":
                self.new(name)
            case "history":
                window = next(h.window for h in self.cell.histories if h.name == name)
                axes, at = [window, *axes], [build.const(0), *at]
            case "carry" if any(c.name == name and c.reads for c in self.cell.carries):
                ref = Ref("next", name)
                array, self.own[ref] = self.array(f"{name}_own", count, block=True), self.scope.name(f"{name}_own")
                self.loop.append(f"float *restrict const {self.own[ref]} = {array} + t * {count};")
                self.storages[ref] = Storage(self.own[ref])
                copy = f"memcpy(block->carry[t].{self.carries[name]}, {array} + t * {count}, {count} * sizeof(float));"
                self.end += braced(EACH_TOKEN, [copy])
            case "next" if name not in self.in_place:
                array = self.array(f"{name}_next", count)
                self.storages[ref] = Storage(array)
                self.tail.append(f"memcpy(st->{self.shape.state_members[name]}, {array}, {count} * sizeof(float));")
            case "next":
                read = Ref("state", name) in walk.refs(d.value)
        own = build.read(ref, axes, at, d.dtype)
        patterns.write(nest, d, own, self.storage(ref).whole, read)
        self.lines += nest.lines()

    def product(self, ref: Ref, product: Product) -> None:
        """All of a parameter with the vectors of all tokens, or of one where its state waits for it."""
        encoding = next(p.stored for p in self.cell.params if p.name == product.weight)
        weight = f"wt->{self.shape.weight_members[product.weight]}"
        if self.looping and ref.kind == "def":
            self.new(ref.name)
        out, x = (self.rows(r) for r in (ref, product.vector))
        sizes, n = f"{product.rows}, {product.cols}", "1" if self.looping else "block->n"
        given = ["block->workers", as_packed(encoding), out, weight, x, sizes, n, "tmp->prepared"]
        self.lines.append(f"cdr_product({', '.join(given)});")

    def rows(self, ref: Ref) -> str:
        """Where the rows of a name begin: the token's, or in front of the loops that of the first one."""
        return self.storage(ref).base if self.looping else self.all_of(ref)

    def table(self, d: Def, numbers: list[str]) -> None:
        name = self.scope.name(d.ref.name)
        c = c_type(d.dtype)
        self.head += [f"/* {comment(t)} */" for t in statement(d, self.known)]
        self.head.append(f"static const {c} {name}[{len(numbers)}] = {{")
        self.head += [f"  {', '.join(numbers[at : at + 12])}," for at in range(0, len(numbers), 12)]
        self.head.append("};")
        self.storages[d.ref] = Storage(name, d.dtype not in FLOATS)

    def top(self, stmt: Top) -> None:
        nest, lead, size = self.nest(stmt.source), list(stmt.lead), stmt.k.axis.size
        count = walk.size((*lead, stmt.k))
        made: tuple[tuple[str | None, DType], ...] = ((stmt.values, "f32"), (stmt.picks, "pick"))
        values, picks = (self.new(name) if name else self.array("unused", count, c_type(dtype)) for name, dtype in made)
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
        inner, ref = self.shapes[part.cell], Ref("def", stmt.name)
        nest, scratch, place = self.nest(), f"&tmp->part.{inner.scratch}", None
        at = f"at + offsetof({self.shape.state}, {self.shape.state_members[part.name]})"
        if not self.looping and stmt.lead:
            self.lines += groups.grouped(self, stmt, part.name, inner)
            return
        if not self.looping:
            weights = weights_of(nest, self.shape, part.name, inner, None, "")
            given = [self.all_of(g.ref) for g in stmt.inputs]
            own = inner.arguments("block", weights, at, given, self.all_of(ref), scratch)
            self.lines.append(f"{inner.function}({', '.join(own)});")
            return
        out = self.new(stmt.name)
        nest.open(*stmt.lead)
        if stmt.select is not None and (inner.weights or inner.state):
            select = nest.expression(stmt.select, "i").c
            place = nest.declare("const ptrdiff_t", nest.scope.name("place"), select)
            at += f" + (size_t){place} * sizeof({inner.state})"
        weights = weights_of(nest, self.shape, part.name, inner, place, "chosen")
        given = [self.given(nest, g, i, stmt.span) for g, i in zip(stmt.inputs, inner.cell.inputs, strict=True)]
        made = self.address(nest, out, stmt.lead, walk.size(stmt.outs))
        nest.line(f"{inner.function}({', '.join(inner.arguments('&one', weights, at, given, made, scratch))});")
        self.lines += nest.lines()

    def given(self, nest: Nest, g: Given, formal: Input, span: Span) -> str:
        storage = self.storage(g.ref)
        if storage.ring is not None:
            message = f"the history `{g.ref.name}` is given to a part"
            raise CompileError([Diagnostic("E0903", span, message, "name what the part needs of it in an equation")])
        base = storage.base if storage.held is None else self.widened(g.ref, storage)
        if storage.scalar or is_number(formal):
            value = base if storage.scalar else f"*({self.address(nest, base, g.lead, 1)})"
            return f"&{nest.declare(f'const {c_type(formal.dtype)}', nest.scope.name(formal.name), value)}"
        return self.address(nest, base, g.lead, prod(a.size for a in formal.axes))

    def widened(self, ref: Ref, storage: Storage) -> str:
        """An array of a parameter's values, for a part that takes them as it takes any others."""
        param = next(p for p in self.cell.params if p.name == ref.name)
        count, i = walk.size(param.indices), self.scope.child().name("i")
        base, each = self.array(f"{ref.name}_values", count), storage.element(Text(i))
        self.lines.append(f"for (ptrdiff_t {i} = 0; {i} < {count}; {i}++) {base}[{i}] = {each};")
        return base

    def address(self, nest: Nest, base: str, lead: tuple[Index, ...], each: int) -> str:
        return Storage(base).address(flat([*(nest.named[i] for i in lead), ZERO], [*walk.sizes(lead), each]))


def _made(stmt: Stmt) -> list[tuple[Ref, tuple[int, DType]]]:
    """How many numbers a statement makes under each name, and of which type."""
    match stmt:
        case Def():
            return [(stmt.ref, (walk.size(stmt.indices), stmt.dtype))]
        case Apply():
            return [(Ref("def", stmt.name), (walk.size((*stmt.lead, *stmt.outs)), stmt.dtype))]
        case Top():
            names: list[tuple[str | None, DType]] = [(stmt.values, "f32"), (stmt.picks, "pick")]
            return [(Ref("def", n), (walk.size((*stmt.lead, stmt.k)), d)) for n, d in names if n is not None]


def is_number(i: Input) -> bool:
    """Whether an input is passed by value: a place on an axis."""
    return i.dtype not in FLOATS and not i.axes
