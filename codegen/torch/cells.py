"""Emission of a cell: one `nn.Module` class.

Input: a cell, its sequence form and its step form.
Output: a `CellClass`: the lines of its methods and what they import.  `forward` and `step` are one method where
nothing runs along time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cdrmix.ir import walk
from cdrmix.ir.forms import Attend, Chunk, Coupled, Elementwise, MaxPlus, Program, SequenceStmt, Sequential
from cdrmix.ir.nodes import Apply, Cell, Def, Node, Ref, Top

from . import chunks as chunks  # registers its rule
from . import names as escape
from .attention import emit_attend, emit_entry
from .banks import as_rows, emit_bank
from .casts import full
from .inits import init_body, start_body
from .scans import emit_scan, key, old
from .scope import Mode, Scope, Symbol, method_names
from .statements import emit_def, emit_part, emit_top
from .training import after_body, keep_sums, values_body
from .value import Value, listed

RUNTIME = re.findall(
    r"\w+",
    """
    advance attend chunk_reads coupled_scan delay enter grouped_linear linear_scan maxplus_scan normal orthogonal
    route run_chosen run_every shift top unfold uniform
    """,
)
"""What the bodies may import from `cdrmix_scans`."""


@dataclass(frozen=True, slots=True)
class Method:
    """A method: its head and the lines of its body."""

    head: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CellClass:
    """A class of the generated module."""

    name: str
    doc: tuple[str, ...]
    groups: str
    fields: tuple[str, ...]
    methods: tuple[Method, ...]
    imports: frozenset[str]


def timeless(cell: Cell, cells: Mapping[str, Cell]) -> bool:
    """Whether a token's value depends on that token and its place alone."""
    if cell.states or cell.histories or any(p.bank for p in cell.parts):
        return False
    return all(timeless(cells[p.cell], cells) for p in cell.parts)


def emit_cell(name: str, program: Program, classes: Mapping[str, str], in_bank: bool) -> CellClass:
    """The class of the cell `name`; `classes` are the Python names of all cells."""
    model = program.model
    cell = model.cells[name]
    random: set[str] = set()
    methods = []
    init = init_body(cell, model.sources, random)
    if init:
        methods.append(Method("def init_weights(self, generator: Generator | None = None) -> None:", tuple(init)))
    start = start_body(cell)
    if start:
        methods.append(Method("def start(self, batch: int, like: Tensor) -> State:", tuple(start)))
    methods.append(_forward(cell, program.sequence[name].body, program))
    if not timeless(cell, model.cells):
        methods.append(_step(cell, program.step[name].body, program))
    if in_bank and as_rows(cell, model.cells):
        methods.append(_routed(cell, program.sequence[name].body, program))
    for method, result, lines in (
        ("aux", "dict[str, Tensor]", values_body(cell, "aux", model.sources)),
        ("metrics", "dict[str, Tensor]", values_body(cell, "metric", model.sources)),
        ("after_step", "None", after_body(cell, model.sources)),
    ):
        if lines:
            methods.append(Method(f"def {method}(self, sums: Sums) -> {result}:", tuple(lines)))
    text = "\n".join(line for m in methods for line in m.lines)
    imports = random | {f for f in RUNTIME if re.search(rf"(?<![\w.]){f}\(", text)}
    doc = tuple(escape.doc(f"op {cell.op} ({cell.span})\n\n{cell.doc}".strip()))
    return CellClass(classes[name], doc, _groups(cell), _fields(cell, classes), tuple(methods), frozenset(imports))


def _groups(cell: Cell) -> str:
    """The parameters whose learning rate or decay the spec sets."""
    found = []
    for p in cell.params:
        if p.lr != 1.0 or p.decay is not None:
            decay = p.decay if p.decay is not None else 1.0 if len(p.indices) > 1 else 0.0
            found.append(f"{escape.text(escape.attribute(p.name))}: ({p.lr!r}, {decay!r})")
    return f"{{{', '.join(found)}}}" if found else ""


def _fields(cell: Cell, classes: Mapping[str, str]) -> tuple[str, ...]:
    """The lines that make parameters, buffers and parts."""
    lines = []
    for p in cell.params:
        shape = listed("*banks", *(str(i.axis.size) for i in p.indices))
        lines.append(f"self.{escape.attribute(p.name)} = nn.Parameter(torch.empty({shape}))")
    for b in cell.buffers:
        shape = listed("*banks", *(str(i.axis.size) for i in b.indices))
        lines.append(f"self.register_buffer({escape.text(escape.attribute(b.name))}, torch.zeros({shape}))")
    for part in cell.parts:
        banks = f"(*banks, {part.bank.axis.size})" if part.bank else "banks"
        at = f"at + {escape.text(part.name + '.')}"
        lines.append(f"self.{escape.attribute(part.name)} = {classes[part.cell]}({at}, layer, layers, {banks})")
    return tuple(lines)


# --- methods -------------------------------------------------------------------------------------------------------
def _scope(cell: Cell, mode: Mode, body: Sequence[SequenceStmt], program: Program) -> tuple[Scope, list[str]]:
    """A scope with the inputs known, and the names of the inputs."""
    names = method_names({*RUNTIME})
    inputs = [names.of(Ref("input", i.name), i.name) for i in cell.inputs]
    floats = [n for n, i in zip(inputs, cell.inputs, strict=True) if i.dtype != "pick"]
    params = [f"self.{escape.attribute(p.name)}" for p in cell.params]
    first = inputs[0] if inputs else "rows.expert" if mode == "rows" else "stream.pos"
    data = next(iter([*floats, *params]), "torch.empty(0)")
    own = len(cell.inputs[0].axes) if inputs else 0  # forward of a cell without time is its step too
    shape = f"{first}.shape[:-{own}]" if own else f"{first}.shape"
    windows = walk.windows(replace(cell, body=tuple(body)))  # type: ignore[arg-type]
    scope = Scope(cell, mode, names, data, first, shape, first, windows)
    scope.sources = dict(program.model.sources)
    for name, i in zip(inputs, cell.inputs, strict=True):
        kind = "int" if i.dtype == "pick" else "float"
        sizes = tuple(a.size for a in i.axes)
        scope.symbols[Ref("input", i.name)] = Symbol(name, kind, sizes, (True,) * len(sizes), True)  # type: ignore[arg-type]
    scope.missing = lambda ref: _stored(scope, ref)
    return scope, inputs


def _stored(scope: Scope, ref: Ref) -> Symbol | None:
    """The symbol of a tensor the module holds, or of a state before a step."""
    cell = scope.cell
    decls = {
        "param": {p.name: p for p in cell.params},
        "buffer": {b.name: b for b in cell.buffers},
        "state": {s.name: s for s in cell.states},
    }.get(ref.kind, {})
    decl = decls.get(ref.name)  # type: ignore[attr-defined]
    if decl is None:
        return None
    sizes = tuple(i.axis.size for i in decl.indices)
    has = (True,) * len(sizes)
    if ref.kind == "state":
        return Symbol(scope.let(ref.name, old(ref.name)), "float", sizes, has, True) if scope.mode == "step" else None
    code = scope.parameter(ref)
    if scope.mode == "rows":
        return Symbol(f"{code}[rows.expert]", "float", sizes, has, True)
    return Symbol(code, "float", sizes, has, False)


def _signature(cell: Cell, scope: Scope, method: str, inputs: Sequence[str], context: str) -> str:
    """The head of a method: inputs, the stream, carries from above."""
    carried = []
    for c in (c for c in cell.carries if c.reads):
        name = scope.names.of(Ref("carry", c.name), c.name)
        sizes = tuple(a.size for a in c.axes)
        scope.symbols[Ref("carry", c.name)] = Symbol(name, "float", sizes, (True,) * len(sizes), True)
        carried.append(f"{name}: Tensor")
    args = ", ".join(["self", *(f"{n}: Tensor" for n in inputs), context, *carried])
    writes = [c for c in cell.carries if c.writes]
    result = f"tuple[{', '.join(['Tensor'] * (1 + len(writes)))}]" if writes else "Tensor"
    return f"def {method}({args}) -> {result}:"


def _return(cell: Cell, scope: Scope) -> None:
    """The output, and the carries this cell writes."""
    defs = {d.ref: d for d in cell.body if isinstance(d, Def)}
    found = []
    for ref in (Ref("output", "out"), *(Ref("carry", c.name) for c in cell.carries if c.writes)):
        symbol = scope.written[ref]
        indices = defs[ref].indices
        present = tuple(i for i, there in zip(indices, symbol.has, strict=True) if there)
        v = Value(symbol.code, symbol.type, present, symbol.lead, const=symbol.const)
        found.append(full(v, indices, scope))
    scope.line(f"return {', '.join(found)}")


def _forward(cell: Cell, body: Sequence[SequenceStmt], program: Program) -> Method:
    scope, inputs = _scope(cell, "forward", body, program)
    head = _signature(cell, scope, "forward", inputs, "stream: Stream")
    uses = set(_reads(body)) | {r for t in cell.training for r in walk.refs(t.value)}
    for stmt in body:
        _emit(stmt, scope, uses, program)
    keep_sums(cell, scope)
    _return(cell, scope)
    return Method(head, tuple(scope.text()))


def _step(cell: Cell, body: Sequence[Def | Top | Apply], program: Program) -> Method:
    scope, inputs = _scope(cell, "step", body, program)
    head = _signature(cell, scope, "step", inputs, "stream: Stream")
    uses = set(_reads(body))
    for stmt in body:
        _emit(stmt, scope, uses, program)
    for state in cell.states:
        symbol = scope.symbol(Ref("next", state.name))
        d = next(d for d in body if isinstance(d, Def) and d.ref == Ref("next", state.name))
        present = tuple(i for i, there in zip(d.indices, symbol.has, strict=True) if there)
        v = Value(symbol.code, symbol.type, present, symbol.lead, const=symbol.const)
        scope.line(f"stream.new[{key(state.name)}] = {full(v, d.indices, scope)}")
    _return(cell, scope)
    return Method(head, tuple(scope.text()))


def _routed(cell: Cell, body: Sequence[SequenceStmt], program: Program) -> Method:
    scope, inputs = _scope(cell, "rows", body, program)
    head = _signature(cell, scope, "routed", inputs, "rows: Routes")
    for stmt in body:
        _emit(stmt, scope, set(), program)
    _return(cell, scope)
    return Method(head, tuple(scope.text()))


def _emit(stmt: SequenceStmt, scope: Scope, uses: set[Ref], program: Program) -> None:
    cells = program.model.cells
    match stmt:
        case Def() if stmt.ref.kind == "history":
            emit_entry(stmt, scope, uses)
        case Def():
            emit_def(stmt, scope)
        case Top():
            emit_top(stmt, scope)
        case Apply():
            part = next(p for p in scope.cell.parts if p.name == stmt.part)
            formals = [(len(i.axes), i.dtype == "pick") for i in cells[part.cell].inputs]
            if part.bank is None:
                emit_part(stmt, formals, scope)
            else:
                emit_bank(stmt, part, formals, cells, scope)
        case Attend():
            emit_attend(stmt, scope)
        case _:
            emit_scan(stmt, scope, uses)


def _reads(body: Iterable[SequenceStmt]) -> Iterable[Ref]:
    """Everything the statements' expressions read; an `Attend` reads its histories by itself."""
    for stmt in body:
        if isinstance(stmt, Apply):
            yield from walk.uses(stmt)
        for n in _roots(stmt):
            yield from walk.refs(n)


def _roots(stmt: SequenceStmt) -> list[Node]:
    match stmt:
        case Def() | Top() | Apply():
            return list(walk.roots(stmt))
        case Elementwise() | MaxPlus():
            return [stmt.decay, stmt.addend]
        case Coupled():
            return [*(d for row in stmt.decay for d in row if d is not None), *stmt.addend]
        case Chunk():
            found = [*stmt.decay.values(), *(q.q for q in stmt.queries)]
            found += [n for t in stmt.low_rank for n in (t.a, t.b)] + [n for t in stmt.outer for n in (t.v, t.k)]
            return found + ([stmt.value_decay] if stmt.value_decay is not None else [])
        case Sequential():
            return [n for d in stmt.body for n in walk.roots(d)]
        case Attend():
            return [*(p.query for p in stmt.parts), *([stmt.bias] if stmt.bias is not None else [])]
        case _:
            return []
