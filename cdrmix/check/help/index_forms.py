"""Expressions written out over their indices, for the help lines of mistakes about axes.

Input: the text of an expression and the axes of its operands, in an equation that is being read.
Output: text with the reader's own names, `u[h, n] = beta[h]*k[h, n]`; an empty string where no such form is known.
Nothing here reports a mistake, and nothing is elaborated that is not known yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cdrmix.check.axes.axes import AxisVar, is_one, names
from cdrmix.check.body.reading import Reading
from cdrmix.check.body.symbols import Bound, Local, Stored
from cdrmix.check.help.quote import operand, written
from cdrmix.check.names.mentions import nodes
from cdrmix.diagnose import Span
from cdrmix.ir.ops import FUNCTIONS, REDUCTIONS
from cdrmix.syntax import ast

Over = list[tuple[AxisVar, str]]
"""Axes and the names of the indices over them."""

Shapes = Mapping[int, tuple[AxisVar, ...]]
"""Axes of operands that have been read, by the `id` of their text."""

LETTERS = "ijkmnpqrabcdefghlostuvwxyz"
MOST_AXES = 6


class Letters:
    """Names of indices that are free in an equation, named after their axes."""

    def __init__(self, r: Reading):
        self.r, self.taken = r, dict[str, None]()

    def over(self, axes: Sequence[AxisVar]) -> Over:
        """An index for each of the axes."""
        return [(axis, self.index(axis)) for axis in axes]

    def index(self, axis: AxisVar) -> str:
        """A new index over the axis."""
        first = "t" if axis.root.window else axis.root.name[0].lower()
        free = (c for c in first + LETTERS if c.isalpha() and self._free(c))
        return self._take(next(free, f"{first}_index"))

    def equation(self) -> str:
        """A name for a new equation."""
        draft = self.r.draft
        found = next(c for c in ("u", *(f"u{n}" for n in range(2, 99))) if self._free(c) and c not in draft.names)
        draft.names.add(found)
        return self._take(found)

    def _free(self, name: str) -> bool:
        r = self.r
        return not (name in self.taken or name in r.indices or r.frame.visible(name, r.scope))

    def _take(self, name: str) -> str:
        self.taken[name] = None
        return name


def shape_of(expr: ast.Expr, r: Reading, shapes: Shapes) -> tuple[AxisVar, ...] | None:
    """The axes of an expression, where they are known by now."""
    if id(expr) in shapes:
        return shapes[id(expr)]
    match expr:
        case ast.Num() | ast.Bool():
            return ()
        case ast.Name(id=name) | ast.Primed(id=name):
            return _shape_of_name(name, r)
        case ast.Index(base=base, items=items):
            whole = shape_of(base, r, shapes)
            return whole[len(items) :] if whole is not None and len(items) <= len(whole) else ()
        case ast.Binary(op="@", left=left):
            whole = shape_of(left, r, shapes)
            return whole[:1] if whole is not None else None
        case ast.Binary() | ast.Unary() | ast.IfElse():
            return _longest([shape_of(part, r, shapes) for part in _operands(expr)])
        case ast.Call(base=ast.Name(id=name), args=args) if name in FUNCTIONS or name == "softmax":
            return _longest([shape_of(a.value, r, shapes) for a in args])
        case ast.Call(base=ast.Index(base=ast.Name(id=name))) if name in REDUCTIONS:
            return ()
        case ast.Reshape(type=type_) if all(isinstance(d, ast.Name) and d.id in r.frame.axes for d in type_.dims):
            return tuple(r.frame.axes[d.id] for d in type_.dims)  # type: ignore[attr-defined]
    return None


def _shape_of_name(name: str, r: Reading) -> tuple[AxisVar, ...] | None:
    symbol = r.frame.symbols.get(name)
    match symbol:
        case Stored(kind="history") | Local(value=None):
            return None
        case Stored(indices=indices):
            return tuple(v.axis for v in indices if v.axis is not None) if indices is not None else None
        case Local(value=value) | Bound(value=value):
            return value.shape if value is not None else None
    return () if symbol is None else None


def _longest(shapes: Sequence[tuple[AxisVar, ...] | None]) -> tuple[AxisVar, ...] | None:
    known = [s for s in shapes if s is not None]
    return max(known, key=len) if len(known) == len(shapes) else None


def _operands(expr: ast.Expr) -> tuple[ast.Expr, ...]:
    match expr:
        case ast.Binary(left=left, right=right):
            return left, right
        case ast.IfElse(then=then, cond=cond, other=other):
            return then, cond, other
        case ast.Unary(arg=arg):
            return (arg,)
    return ()


def indexed(expr: ast.Expr, over: Over, r: Reading, shapes: Shapes) -> ast.Expr | None:
    """The expression at one place: `beta[h]*k[h, n]`."""
    if shape_of(expr, r, shapes) == ():
        return expr
    match expr:
        case ast.Unary(arg=arg):
            inner = indexed(arg, over, r, shapes)
            return replace(expr, arg=inner) if inner is not None else None
        case ast.Binary(op=op, left=left, right=right) if op != "@":
            one, two = indexed(left, over, r, shapes), indexed(right, over, r, shapes)
            return replace(expr, left=one, right=two) if one is not None and two is not None else None
        case ast.IfElse():
            parts = [indexed(e, over, r, shapes) for e in (expr.then, expr.cond, expr.other)]
            return ast.IfElse(expr.span, *parts) if None not in parts else None  # type: ignore[arg-type]
        case ast.Call(base=ast.Name(id=name), args=args) if name in FUNCTIONS and not r.frame.own(name):
            found = [indexed(a.value, over, r, shapes) for a in args]
            given = tuple(replace(a, value=v) for a, v in zip(args, found, strict=True) if v is not None)
            return replace(expr, args=given) if len(given) == len(args) else None
    return _read(expr, over, r, shapes)


def _read(expr: ast.Expr, over: Over, r: Reading, shapes: Shapes) -> ast.Expr | None:
    shape = shape_of(expr, r, shapes)
    items = _placed(shape, over, r) if shape is not None else None
    if items is None:
        return None
    if isinstance(expr, ast.Reshape) and isinstance(expr.base, ast.Name):
        inner = shape_of(expr.base, r, shapes)
        if inner is not None and r.frame.products.readings(inner, len(items)):
            expr = expr.base
    at = tuple(ast.Name(expr.span, i) for i in items)
    if isinstance(expr, ast.Index):
        return replace(expr, items=(*expr.items, *at))
    return ast.Index(expr.span, expr, at)


def _placed(shape: Sequence[AxisVar], over: Over, r: Reading) -> list[str] | None:
    """The indices that stand at these axes, or at their factors."""
    for count in range(len(shape), len(over) + 1):
        for way in r.frame.products.readings(shape, count):
            left = iter(over)
            found = [next((name for axis, name in left if _fits(axis, want)), None) for want in way]
            if None not in found:
                return [name for name in found if name is not None]
    return None


def _fits(a: AxisVar, b: AxisVar) -> bool:
    return is_one(a, b) or (a.root.loose or b.root.loose) and a.size == b.size


def together(expr: ast.Expr, left: Sequence[AxisVar], right: Sequence[AxisVar], r: Reading, shapes: Shapes) -> str:
    """An elementwise expression of values of different axes, `[H]` and `[H*N]`, as an equation."""
    if any(a.root.window or not a.root.name.replace("_", "").isalnum() for a in (*left, *right)):
        return ""  # `2*D` is no row of D, though it could be read so
    products = r.frame.products
    ways = [w for s in (left, right) for n in range(len(s), MOST_AXES) for w in products.readings(s, n)]
    for way in sorted(ways, key=len):
        over = Letters(r).over(way)
        if _placed(left, over, r) and _placed(right, over, r):
            body = indexed(expr, over, r, shapes)
            whole = left if len(_placed(left, over, r) or ()) == len(over) else right
            return equation(expr.span, over, body, whole, r) if body is not None else ""
    return ""


def equation(
    span: Span, over: Over, body: ast.Expr, whole: Sequence[AxisVar] | None, r: Reading, letters: Letters | None = None
) -> str:
    """`body` as what the equation is that stands at `span`, or as one more equation."""
    if r.pure or any(isinstance(n, ast.Name) and n.id in r.indices for n in nodes(body)):
        return ""
    left, axes = ", ".join(name for _, name in over), [axis for axis, _ in over]
    merge = whole is not None and len(whole) != len(axes)
    local = r.frame.symbols.get(r.target)
    if isinstance(local, Local) and local.stmt.value.span == span and local.target.items is None and not r.indices:
        text = f"write `{local.name}[{left}] = {written(body)}`" if over else f"write `{written(body)}`"
        return text + (f", and `{local.name} as {names(whole or ())}` for the whole" if merge else "")
    if not over:
        return f"write `{operand(body)}`"
    new = (letters or Letters(r)).equation()
    read = f"({new} as {names(whole or ())})" if merge else new
    return f"add `{new}[{left}] = {written(body)}` and write `{read}`"


def contraction(
    expr: ast.Binary,
    left: Sequence[AxisVar],
    right: Sequence[AxisVar],
    first: bool,
    r: Reading,
    shapes: Shapes,
    turned: bool = False,
) -> str:
    """`R @ k` for values that are no matrix and vector, as a sum: over the last axis of the right one, or its first.
    `turned`: the left one is written with its two axes the other way round.
    """
    letters = Letters(r)
    summed = right[0] if first else right[-1]
    index = letters.index(summed)
    at = next((n for n in reversed(range(len(left))) if is_one(left[n], summed)), None)
    if at is None:
        return ""
    ours: Over = [(a, index if n == at else letters.index(a)) for n, a in enumerate(left)]
    rest = list(right[1:] if first else right[:-1])
    theirs: Over = []
    for n, axis in enumerate(rest):
        same = n < at and is_one(left[n], axis) and not first
        theirs.append((axis, ours[n][1] if same else letters.index(axis)))
    one = _at(expr.left, [name for _, name in (reversed(ours) if turned else ours)], r, shapes)
    row = [name for _, name in theirs]
    two = _at(expr.right, [index, *row] if first else [*row, index], r, shapes)
    shared = {name for _, name in ours}
    kept, more = [x for x in ours if x[1] != index], [x for x in theirs if x[1] not in shared]
    over = kept + more if first else more + kept
    body = ast.Call(
        expr.span,
        ast.Index(expr.span, ast.Name(expr.span, "sum"), (ast.Name(expr.span, index),)),
        (ast.Arg(expr.span, None, ast.Binary(expr.span, "*", one, two)),),
    )
    return equation(expr.span, over, body, None, r, letters)


def _at(expr: ast.Expr, items: Sequence[str], r: Reading, shapes: Shapes) -> ast.Expr:
    if isinstance(expr, ast.Reshape) and isinstance(expr.base, ast.Name):
        inner = shape_of(expr.base, r, shapes)
        if inner is not None and r.frame.products.readings(inner, len(items)):
            expr = expr.base
    at = tuple(ast.Name(expr.span, i) for i in items)
    return replace(expr, items=(*expr.items, *at)) if isinstance(expr, ast.Index) else ast.Index(expr.span, expr, at)
