"""A call of a function of another language, written in this one.

Input: the call, a form of `other_languages`, the axes of the arguments.  Output: the help line of a diagnostic, with
the reader's own names; what the form is in general where the arguments do not fit it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import reduce
from typing import Any

from cdrmix.check.axes.axes import AxisVar
from cdrmix.check.body.expressions import values
from cdrmix.check.body.reading import Reading
from cdrmix.check.help.index_forms import Letters, Over, equation, indexed
from cdrmix.check.help.other_languages import ALONG_THE_LAST, Form, forms, in_general, indices
from cdrmix.check.help.quote import written
from cdrmix.check.names.catalogue import squashed
from cdrmix.diagnose import Span
from cdrmix.syntax import ast

_OPTIONS = (
    "dim",
    "axis",
    "keepdim",
    "keepdims",
    "dtype",
    "approximate",
    "inplace",
    "p",
    "unbiased",
    "correction",
    "eps",
)
"""Arguments by name that change nothing here, or say which axis."""

Shapes = Mapping[int, tuple[AxisVar, ...]]


def translated(name: str, args: Sequence[ast.Arg], span: Span, r: Reading) -> str:
    """What to write for a call of `name`; mistakes in its arguments are told."""
    if name[:1].isupper():  # a module that holds parameters, or one without: it is no function there either
        return in_general(name)
    plain = [a.value for a in args if a.name not in _OPTIONS and not isinstance(a.value, ast.Str)]
    shapes = {id(e): v.shape for e, v in zip(plain, values(plain, r), strict=True)}
    return rewritten(name, args, shapes, span, r)


def rewritten(name: str, args: Sequence[ast.Arg], shapes: Shapes, span: Span, r: Reading) -> str:
    """What to write for a call."""
    given = [a.value for a in args if a.name not in _OPTIONS]
    dim = next((_whole(a.value) for a in args if a.name in ("dim", "axis")), None)
    if name == "einsum":
        return _einsum(given, span, r, shapes)
    known = forms().get(squashed(name), [])
    form = next((f for f in known if len(f.formals) == len(given)), None)
    if form is None and len(given) == 2 and (at := _whole(given[1])) is not None:
        dim, given = at, given[:1]
        form = next((f for f in known if len(f.formals) == 1), None)
    found = _written_out(name, form, given, shapes, dim, span, r) if form is not None else ""
    return found or in_general(name)


def _whole(expr: ast.Expr) -> int | None:
    match expr:
        case ast.Num(value=int(value)):
            return value
        case ast.Unary(op="-", arg=ast.Num(value=int(value))):
            return -value
    return None


def _written_out(name: str, form: Form, given: Sequence[ast.Expr], shapes: Shapes,
                 dim: int | None, span: Span, r: Reading) -> str:  # fmt: skip
    args = dict(zip(form.formals, given, strict=True))
    axes = {formal: shapes.get(id(arg), ()) for formal, arg in args.items()}
    letters, runs = Letters(r), {}
    over: dict[str, Over] = {}
    kept: dict[str, Over] = {}
    for letter, (formal, place, count) in indices(form).items():
        mine = axes[formal]
        if count > 1 and len(mine) != count or not mine:
            return ""
        at = dim if dim is not None else -1 if squashed(name) in ALONG_THE_LAST else None
        if count > 1:
            runs[letter] = letters.over(mine[place : place + 1])
        elif at is None or len(mine) == 1:
            runs[letter] = letters.over(mine)
        elif not -len(mine) <= at < len(mine):
            return ""
        else:
            rest = kept.setdefault(formal, letters.over([a for n, a in enumerate(mine) if n != at % len(mine)]))
            one = letters.over([mine[at]])
            runs[letter], over[letter] = one, [*rest[: at % len(mine)], *one, *rest[at % len(mine) :]]
        over.setdefault(letter, runs[letter])
    made = _Substitution(args, axes, runs, over, letters, shapes, r)
    body = made.of(form.body)
    if body is None:
        return ""
    free = [x for rest in kept.values() for x in rest]
    if form.left:
        items = [made.left(item) for item in form.left]
        return equation(span, [x for item in items for x in item], body, None, r, letters)
    return equation(span, free, body, None, r, letters)


class _Substitution:
    """A form with arguments for its formals and indices for its letters."""

    def __init__(self, args: Mapping[str, ast.Expr], axes: Mapping[str, tuple[AxisVar, ...]] | None = None,
                 runs: Mapping[str, Over] | None = None, over: Mapping[str, Over] | None = None,
                 letters: Letters | None = None, shapes: Shapes | None = None,
                 r: Reading | None = None):  # fmt: skip
        self.args, self.axes, self.runs, self.over = args, axes or {}, dict(runs or {}), over or {}
        self.letters, self.shapes, self.r = letters, shapes or {}, r

    def left(self, item: ast.Expr) -> Over:
        """An item of a left side; a range of its own is written into the name."""
        match item:
            case ast.Binary(op="<", left=ast.Name(id=letter), right=size):
                name = self._run(letter)
                return [(AxisVar("", 0), f"{name} < {written(self.of(size) or size)}")]
            case ast.Name(id=letter):
                return self.over.get(letter) or self.runs[letter]
        raise TypeError(type(item))

    def _run(self, letter: str) -> str:
        if letter not in self.runs:
            assert self.letters is not None
            self.runs[letter] = self.letters.over([AxisVar(letter, 0)])
        return self.runs[letter][0][1]

    def of(self, node: Any) -> Any:
        """The node with everything put in; None where an argument cannot be written out."""
        match node:
            case ast.Index(base=ast.Name(id=formal), items=(*items,)) if formal in self.args:
                places = [x for i in items if isinstance(i, ast.Name) for x in self.over.get(i.id, ())]
                if all(isinstance(i, ast.Name) and i.id in self.over for i in items) and self.r is not None:
                    return indexed(self.args[formal], places, self.r, self.shapes)
                found = [self.of(i) for i in items]
                return None if None in found else ast.Index(node.span, self.args[formal], tuple(found))
            case ast.Index(base=base, items=(ast.Name(id=letter),)) if letter in self.runs:
                return replace(node, items=tuple(ast.Name(node.span, n) for _, n in self.runs[letter]), base=base)
            case ast.Name(id=name) if name in self.args:
                return self.args[name]
            case ast.Name(id="la" | "lb" as name):
                return self._size(name[1], node)
            case ast.Name(id=("i" | "j" | "k" | "m") as letter) if self.letters is not None:
                return ast.Name(node.span, self._run(letter))
            case ast.Syntax():
                parts = {f.name: self.of(getattr(node, f.name)) for f in fields(node)}
                lost = any(new is None and getattr(node, name) is not None for name, new in parts.items())
                return None if lost else replace(node, **parts)
            case tuple():
                every = tuple(self.of(n) for n in node)
                return None if None in every else every
        return node

    def _size(self, formal: str, node: ast.Expr) -> ast.Expr | None:
        axes = self.axes.get(formal, ())
        if len(axes) != 1:
            return None
        axis = axes[0].root
        known = self.r is not None and axis.name in self.r.frame.axes and axis.name.isidentifier()
        return ast.Name(node.span, axis.name) if known else ast.Num(node.span, axis.size)


def _einsum(given: Sequence[ast.Expr], span: Span, r: Reading, shapes: Shapes) -> str:
    """`einsum("hij,hj->hi", S, q)`."""
    if not given or not isinstance(given[0], ast.Str) or len(given) < 2:
        return "an einsum is an equation: `y[h,i] = sum[j](S[h,i,j]*q[h,j])`"
    inputs, _, out = given[0].value.replace(" ", "").partition("->")
    terms = inputs.split(",")
    wrong = len(terms) != len(given) - 1 or not (inputs + out).replace(",", "").isalpha()
    if wrong or any(len(t) != len(shapes.get(id(g), ())) for t, g in zip(terms, given[1:], strict=True)):
        return "an einsum is an equation, with an index for each axis: `y[h,i] = sum[j](S[h,i,j]*q[h,j])`"
    letters = Letters(r)
    axes = {c: axis for t, g in zip(terms, given[1:], strict=True) for c, axis in zip(t, shapes[id(g)], strict=True)}
    named = {c: letters.index(AxisVar(c, axis.size)) for c, axis in axes.items()}
    reads: list[ast.Expr] = [ast.Index(span, g, tuple(ast.Name(span, named[c]) for c in t))
                             for t, g in zip(terms, given[1:], strict=True)]  # fmt: skip
    body = reduce(lambda a, b: ast.Binary(span, "*", a, b), reads)
    summed = tuple(ast.Name(span, named[c]) for c in axes if c not in out)
    if summed:
        body = ast.Call(span, ast.Index(span, ast.Name(span, "sum"), summed), (ast.Arg(span, None, body),))
    return equation(span, [(axes[c], named[c]) for c in out if c in axes], body, None, r, letters)
