"""How a definition becomes loops: the forms that run well, tried in order, and the plain one that always fits.

Input: a `Def` and its element as one that is read after it.  Output: lines in a nest.

- table: what depends on no tensor and no token is computed now and becomes a constant;
- matvec: `y[i] = sum[k](W[i,k]*x[k])` with rows in memory as they are: one call;
- softmax: a row at a time, each exponential once;
- accumulate: a sum over what does not lie contiguously, with the contiguous index innermost;
- plain: one loop an index, the reductions inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cdrmix.codegen.c.nest import Nest, lightweight, literal, values

from cdrmix.ir import build, walk
from cdrmix.ir.build import FLOATS
from cdrmix.ir.nodes import Cell, Def, Index, Node, Ref, Stmt
from cdrmix.ir.places import table


def constant_table(d: Def) -> list[str] | None:
    """The elements of a definition that is the same for every token, as C literals."""
    found = table(d.value, d.indices) if d.ref.kind == "def" else None
    if found is None:
        return None
    return [literal(v, "i" if found.dtype.kind in "ib" else "f").c for v in found.ravel().tolist()]


def products_first(cell: Cell, body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
    """The statements with matrix products by themselves: one that is only a piece of a definition over the same indices
    (`relu(Wk @ x)^2`) becomes a definition before it, so that it is one kernel."""
    taken = walk.names(replace(cell, body=body))
    found: list[Stmt] = []
    for stmt in body:
        if isinstance(stmt, Def) and stmt.value.op != "sum":
            before: list[Stmt] = []
            value = _pull(stmt, stmt.value, before, taken)
            found += before
            stmt = stmt if value is stmt.value else replace(stmt, value=value)
        found.append(stmt)
    return tuple(found)


def _pull(d: Def, n: Node, before: list[Stmt], taken: set[str]) -> Node:
    if n.op == "sum" and set(n.free) == set(d.indices) and d.indices and n.dtype in FLOATS and _is_product(n):
        ref = Ref("def", walk.fresh(f"{d.ref.name}_sum", taken))
        taken.add(ref.name)
        before.append(Def(ref, d.indices, n, n.dtype, n.span))
        return build.read(ref, [i.axis for i in d.indices], d.indices, n.dtype, n.span)
    return walk.rebuild(n, tuple(_pull(d, a, before, taken) for a in n.args))


def _is_product(n: Node) -> bool:
    pair = list(walk.multiplied(n.args[0]))
    return len(n.arg) == 1 and len(pair) == 2 and all(f.op == "read" and n.arg[0] in f.free for f in pair)


def write(nest: Nest, d: Def, own: Node, whole: bool, reads_itself: bool) -> None:
    """The definition's loops, in the first form that fits: the plain one for `whole` numbers, and where the value reads
    the array that it is written to.  `own` reads the definition's element."""
    for form in () if whole or reads_itself else (_matvec, _softmax, _accumulate):
        if form(nest, d, own):
            return
    nest.open(*d.indices)
    value = nest.expression(d.value, "i" if whole else "f")
    nest.line(f"{nest.element(own)} = {value.c};")


def is_matvec(nest: Nest, indices: Sequence[Index], value: Node) -> tuple[Node, Node, Index] | None:
    """The matrix, the vector and the contracted index of a product whose rows are the last of `indices`."""
    if (
        value.op != "sum"
        or len(value.arg) != 1
        or not indices
        or {indices[-1], *value.arg} & {*nest.windowed, nest.shared}
    ):
        return None
    (k,), i = value.arg, indices[-1]
    pair = list(walk.multiplied(value.args[0]))
    if len(pair) != 2 or any(f.op != "read" or nest.storage(f.arg.ref).whole for f in pair):
        return None
    for matrix, vector in (pair, pair[::-1]):
        rows = nest.moves(matrix, k) == 1 and nest.moves(matrix, i) == k.axis.size
        held = nest.held(matrix)
        if held is not None and held.row != k.axis.size or nest.held(vector):
            continue
        if rows and nest.moves(vector, k) == 1 and nest.moves(vector, i) == 0:
            return matrix, vector, k
    return None


def _matvec(nest: Nest, d: Def, own: Node) -> bool:
    found = is_matvec(nest, d.indices, d.value)
    if found is None:
        return False
    matrix, vector, k = found
    *lead, i = d.indices
    rows, zero = i.axis.size, [i]
    while lead and nest.moves(matrix, lead[-1]) == rows * k.axis.size and nest.moves(vector, lead[-1]) == 0:
        if lead[-1] in nest.windowed or lead[-1] == nest.shared:
            break
        zero.append(lead[-1])
        rows *= lead.pop().axis.size
    nest.open(*lead)
    out = nest.address(own, *zero)
    a, x = (nest.address(n, k, *zero) for n in (matrix, vector))
    held = nest.held(matrix)
    function = f"cdr_matvec_{held.encoding}" if held else "cdr_matvec"
    nest.line(f"{function}({out}, {a}, {x}, {rows}, {k.axis.size});")
    return True


def _softmax(nest: Nest, d: Def, own: Node) -> bool:
    if d.value.op != "softmax" or d.value.arg != d.indices[-1]:
        return False
    *lead, t = d.indices
    nest.open(*lead)
    most, each = nest.above_most(d.value.args[0], (t,))
    nest.expression(most, "f")  # before the sum
    total, depth = nest.declare("float", nest.scope.name("total"), "0.0f"), len(nest.loops)
    nest.open(t)
    element = nest.element(own)
    nest.line(f"{element} = {nest.expression(each, 'f').c};")
    nest.line(f"{total} += {element};")
    nest.close(depth)
    nest.open(t)
    nest.line(f"{nest.element(own)} /= {total};")
    return True


def _accumulate(nest: Nest, d: Def, own: Node) -> bool:
    if d.value.op != "sum" or not d.indices:
        return False
    *lead, n = d.indices
    body, bound = d.value.args[0], d.value.arg
    if nest.in_rows(body, bound[-1]) or not nest.in_rows(body, n):
        return False
    if any(n in m.free and not lightweight(m) for m in values(body)):
        return False
    nest.open(*lead)
    depth = len(nest.loops)
    nest.open(n)
    nest.line(f"{nest.element(own)} = 0.0f;")
    nest.close(depth)
    nest.open(*bound, n)
    nest.line(f"{nest.element(own)} += {nest.expression(body, 'f').c};")
    return True
