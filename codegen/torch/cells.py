"""A cell as one `nn.Module` class.

Input: the array form of a cell.  Output: a `CellClass`: its fields and methods.  `forward` and `step` are one method
where nothing runs along time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cdrmix.ir import python as escape
from cdrmix.ir.array_statements import CellArrays, Function
from cdrmix.ir.arrays import Array
from cdrmix.ir.code import Assign, Code, Statement, called, flat, listed, mapped, method, name, named
from cdrmix.ir.matrices import is_matrix
from cdrmix.ir.nodes import Cell, DType, Index, Param
from cdrmix.ir.types import NARROW
from cdrmix.ir.writing import Written

from .names import MODULE_NAMES, attribute
from .spelling import Torch, dtype_of, key
from .statements import Method

RUNTIME = frozenset(
    {
        "advance", "attend", "chunk_reads", "convolve", "coupled_scan", "delay", "enter", "grouped_linear",
        "linear_scan", "maxplus_scan", "normal", "orthogonal", "route", "run_chosen", "run_every", "shift",
        "squared_relu", "top", "unfold", "uniform",
    }
)  # fmt: skip
"""What the bodies may import from `cdrmix_scans`."""


@dataclass(frozen=True, slots=True)
class CellClass:
    """A class of the generated module."""

    name: str
    doc: list[str]
    groups: str
    matrices: str
    outside: str
    fields: list[str]
    methods: list[Written]
    imports: frozenset[str]
    same: bool


def emit_cell(made: CellArrays, classes: Mapping[str, str], sources: Mapping[str, str], mixed: bool) -> CellClass:
    """The class of a cell; `classes` are the Python names of all cells, `mixed` says that some data is held narrow."""
    cell = made.cell
    methods = []
    if made.weights is not None:
        methods.append(_init(made.weights, sources))
    starts = [] if made.states is None else [_start(made.states, sources, mixed)]
    methods += starts
    for head, function in (("forward", made.sequence), ("step", made.step), ("routed", made.rows)):
        if function is not None:
            methods.append(_call(head, function, sources, mixed))
    totals = [_total(kind, function, sources) for kind, function in made.totals]
    methods += totals
    imports = RUNTIME & set().union(*(called(m.body) for m in methods))
    if made.rows is not None or any("routes" in named(m.body) for m in methods):
        imports |= {"Routes"}
    doc = escape.doc(f"op {cell.op} ({cell.span})\n\n{cell.doc}".strip())
    read = named(stmt for m in (*starts, *totals) for stmt in m.body)
    return CellClass(
        classes[cell.name],
        doc,
        _groups(cell),
        _names(p for p in cell.params if is_matrix(p, cell)),
        _names(p for p in cell.params if f"self.{attribute(p.name)}" in read),
        _fields(cell, classes),
        methods,
        imports,
        made.timeless,
    )


def _names(params: Iterable[Param]) -> str:
    """A set of parameters, by their attributes; nothing where it is empty."""
    names = ", ".join(escape.text(attribute(p.name)) for p in params)
    return f"frozenset(({names},))" if names else ""


def _groups(cell: Cell) -> str:
    """The parameters whose learning rate or decay the spec sets."""
    found = []
    for p in cell.params:
        if p.lr != 1.0 or p.decay is not None:
            decay = p.decay if p.decay is not None else 1.0 if len(p.indices) > 1 else 0.0
            found.append(f"{escape.text(attribute(p.name))}: ({p.lr!r}, {decay!r})")
    return f"{{{', '.join(found)}}}" if found else ""


def _fields(cell: Cell, classes: Mapping[str, str]) -> list[str]:
    """The lines that make parameters, buffers and parts."""
    lines = []
    for p in cell.params:
        shape = flat(listed("*banks", *(i.axis.size for i in p.indices)))
        lines.append(f"self.{attribute(p.name)} = nn.Parameter(torch.empty({shape}))")
    for b in cell.buffers:
        shape = flat(listed("*banks", *(i.axis.size for i in b.indices)))
        lines.append(f"self.register_buffer({escape.text(attribute(b.name))}, torch.zeros({shape}))")
    for part in cell.parts:
        banks = f"(*banks, {part.bank.axis.size})" if part.bank else "banks"
        at = f"at + {escape.text(part.name + '.')}"
        lines.append(f"self.{attribute(part.name)} = {classes[part.cell]}({at}, layer, layers, {banks})")
    return lines


# --- methods -------------------------------------------------------------------------------------------------------
def _call(head: str, function: Function, sources: Mapping[str, str], mixed: bool) -> Written:
    """`forward`, `step` or `routed`: inputs, the stream, carries from above."""
    cell, rows = function.cell, function.mode == "rows"
    spell = Torch(escape.Names(MODULE_NAMES | RUNTIME), rows=rows, mixed=mixed)
    inputs = [spell.fresh(x) for x in function.inputs]
    floats = [n for n, i in zip(inputs, cell.inputs, strict=True) if i.dtype != "pick"]
    params = [spell.parameter(p.name) for p in cell.params]
    spell.first = flat(inputs[0]) if inputs else "rows.expert" if rows else "stream.pos"
    spell.data = flat(next(iter([*floats, *params]), name("torch.empty(0)")))
    own = len(cell.inputs[0].axes) if inputs else 0  # forward of a cell without time is its step too
    spell.shape = f"{spell.first}.shape[:-{own}]" if own else f"{spell.first}.shape"
    above = [spell.fresh(x) for _, x in function.above]
    context = "rows: Routes" if rows else "stream: Stream"
    args = ", ".join(["self", *(f"{flat(n)}: Tensor" for n in inputs), context, *(f"{flat(n)}: Tensor" for n in above)])
    result = f"tuple[{', '.join(['Tensor'] * (1 + len(function.gives)))}]" if function.gives else "Tensor"
    method = Method(function, spell, sources)
    body = method.body()
    assert function.result is not None
    values = [spell.of(function.result), *(spell.of(x) for _, x in function.gives)]
    return Written(f"def {head}({args}) -> {result}:", method.needed((*body, _returned(*values))))


def _returned(*values: Code) -> Statement:
    return Assign((), values[0] if len(values) == 1 else listed(*values, open=""), returns=True)


def _init(function: Function, sources: Mapping[str, str]) -> Written:
    names = escape.Names(MODULE_NAMES | {"generator", "layer", "layers"})
    spell = Torch(names, data="self", first="self", shape="()", begin=True)
    body = Method(function, spell, sources).body()
    depth = Assign((name("layer"), name("layers")), name("self.depth"))
    head = "def init_weights(self, generator: Generator | None = None) -> None:"
    return Written(head, ((depth,) if named(body) & {"layer", "layers"} else ()) + body)


def _start(function: Function, sources: Mapping[str, str], mixed: bool) -> Written:
    names = escape.Names(MODULE_NAMES | {"batch", "like"})
    spell = Torch(names, data="like", first="like", shape="batch, *self.banks", mixed=mixed)
    body = Method(function, spell, sources).body()
    cell, banks = function.cell, ("batch", "*self.banks")
    found: dict[str, Code] = {}
    like = name("like")
    for (path, value), s in zip(function.values, cell.states, strict=True):
        found[flat(key(path))] = _first(spell, value, s.indices, s.dtype)
    for h in cell.histories:
        sizes = [h.window.size - 1, *(a.size for a in h.axes)]
        found[flat(key(h.name))] = method(like, "new_zeros", *banks, *sizes, **_narrow(h.dtype))
        count = method(like, "new_zeros", listed(*banks), dtype=name("torch.int64"))
        found[flat(key(f"{h.name}.count"))] = count
    return Written("def start(self, batch: int, like: Tensor) -> State:", (*body, _returned(mapped(found))))


def _first(spell: Torch, x: Array, indices: Sequence[Index], dtype: DType) -> Code:
    """What a state begins with, over all its axes."""
    like, shape = name("like"), ["batch", "*self.banks", *(str(i.axis.size) for i in indices)]
    if x.const == 0:
        return method(like, "new_zeros", *shape, **_narrow(dtype))
    if x.type == "number":
        return method(like, "new_full", listed(*shape), spell.of(x), **_narrow(dtype))
    code = spell.fit(x, indices)
    if dtype in NARROW or x.type != "float":
        code = method(code, "to", dtype_of(dtype) if dtype in NARROW else "like.dtype")
    return method(code, "expand", *shape)


def _narrow(dtype: DType) -> dict[str, Code]:
    """The type of a new tensor that is held narrower than what is computed in."""
    return {"dtype": dtype_of(dtype)} if dtype in NARROW else {}


def _total(kind: str, function: Function, sources: Mapping[str, str]) -> Written:
    """`aux`, `metrics` or `after_step`: from sums over all tokens of a step."""
    spell = Torch(escape.Names(MODULE_NAMES | {"sums"}), data='sums["tokens"]', first='sums["tokens"]', shape="()")
    body = Method(function, spell, sources).body()
    if kind == "after":
        moves = []
        for path, x in function.values:
            move = "fill_" if x.type == "number" else "copy_"
            moves.append(Assign((), method(spell.parameter(path), move, spell.of(x))))
        return Written("def after_step(self, sums: Sums) -> None:", (*body, *moves))
    pairs = {flat(key(path)): spell.of(x) for path, x in function.values}
    made = "aux" if kind == "aux" else "metrics"
    return Written(f"def {made}(self, sums: Sums) -> dict[str, Tensor]:", (*body, _returned(mapped(pairs))))
