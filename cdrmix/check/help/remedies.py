"""What to write instead, in the reader's own names.

Input: the syntax that is wrong and what is known of it.  Output: the help line of a diagnostic.  What stands after
"write" between backquotes takes the place of the text that the diagnostic marks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cdrmix.check.axes.axes import AxisVar
from cdrmix.check.body.symbols import Local
from cdrmix.check.help.quote import written
from cdrmix.check.names.mentions import mentioned
from cdrmix.syntax import ast

if TYPE_CHECKING:
    from cdrmix.check.body.frame import Frame
    from cdrmix.check.help.index_forms import Letters

NO_RECURSION = (
    "an op cannot call itself: write each round out, `y1 = f(x)`, `y2 = f(y1)`; the layers of a model are repeated in "
    "its stack, by `repeat layer < layers`"
)


def without_prime(target: ast.Target) -> str:
    """A left side with its prime."""
    items = "" if target.items is None else f"[{', '.join(written(i) for i in target.items)}]"
    return f"{target.name}'{items}"


def choice_by_value(when: ast.When) -> str:
    """A `when` that depends on the token, as a choice of each value."""
    first = next((s for s in when.body if isinstance(s, ast.Equation) and len(s.targets) == 1), None)
    if first is None:
        return "only settings and sizes decide a `when`; choose by value: `a if c else b`"
    target = first.targets[0]
    items = "" if target.items is None else f"[{', '.join(written(i) for i in target.items)}]"
    chosen = _chosen(target, when)
    more = ", and so on" if len(when.body) > 1 else ""
    return f"choose by value: write `{target.name}{chr(39) * target.primed}{items} = {chosen}`{more}"


def _chosen(target: ast.Target, stmt: ast.Stmt) -> str:
    match stmt:
        case ast.When(cond=cond, body=body, other=other):
            return f"{_of(target, body, True)} if {written(cond)} else {_of(target, other, False)}"
        case ast.Equation(targets=(only,), value=value) if (only.name, only.primed) == (target.name, target.primed):
            return written(value)
    return "…"


def _of(target: ast.Target, body: Sequence[ast.Stmt], inner: bool) -> str:
    found = next((text for s in body if (text := _chosen(target, s)) != "…"), "…")
    return f"({found})" if inner and " if " in found else found


LONGEST_CHAIN = 3
"""So many states in a row are easier to read than a sum over the history."""


def delay(read: ast.Index, history: ast.History, age: int, shape: str, rank: int, frame: Frame) -> str:
    """`K[2, n]` as a chain of states, or as a sum over the history; an entry has `rank` axes and the shape `shape`."""
    rest = f"[{', '.join(written(i) for i in read.items[1:])}]" if read.items[1:] else ""
    now = written(history.value)
    if age == 0:
        plain = isinstance(history.value, ast.Name) or not rest
        return f"age 0 is this token: write `{now if plain else f'({now})'}{rest}`"
    if age > LONGEST_CHAIN:
        free = [c for c in "tuvijkmnpqacde" if not frame.visible(c, frame.decl.scope)]
        t, own = free[0], [c for c in free if c not in "tuv"][:rank]
        items = ", ".join((t, *(written(i) for i in read.items[1:]))) if rest else ", ".join((t, *own))
        found = f"sum[{t}]({history.name}[{items}]*({t} == {age}))"
        if rest or not own:
            return f"write `{found}`"
        late = _free(f"{history.name.lower()}_late", frame)
        return f"add `{late}[{', '.join(own)}] = {found}` and write `{late}`"
    names = [_free(f"{history.name.lower()}{n}", frame) for n in range(1, age + 1)]
    states = [f"`state {name}: {shape}`" for name in names]
    steps = [f"`{name}' = {value}`" for name, value in zip(names, (now, *names), strict=False)]
    return f"add {', '.join((*states, *steps))} and write `{names[-1]}{rest}`"


def equation_of(name: str, frame: Frame) -> ast.Expr | None:
    """The right side of the equation of a name."""
    local = frame.following.get(name[:-1]) if name.endswith("'") else frame.symbols.get(name)
    return local.stmt.value if isinstance(local, Local) else None


def compared(read: ast.Index, place: ast.Expr, letters: Letters) -> str:
    """`E[at, i]` with a computed `at`: a sum over all places, of which one counts."""
    p = letters.index(AxisVar("p", 0))
    items = ", ".join(p if item is place else written(item) for item in read.items)
    return f"a computed place is compared: write `sum[{p}]({written(read.base)}[{items}]*({p} == {written(place)}))`"


def rows_of_top(stmt: ast.Equation, call: ast.Call, rows: Sequence[str], body: ast.Expr, letters: Letters) -> str:
    """`top` in each row: its body without the index along which it chooses."""
    k = call.base.items[0].left.id  # type: ignore[attr-defined]  # `top[k < n]`
    lead, last = rows[:-1], rows[-1]
    items = f"[{', '.join((*lead, k))}]" if lead else ""
    left = ", ".join(t.name if t.name == "_" else f"{t.name}{items}" for t in stmt.targets)
    head = written(call.base)
    plain = body.base if isinstance(body, ast.Index) else body
    if isinstance(plain, ast.Name):
        row = f"{plain.id}[{', '.join(lead)}]" if lead else plain.id
        return f"write `{left} = {head}({row})`"
    new = letters.equation()
    over = f"[{', '.join(rows)}]" if last in mentioned(body) else ""
    whole = f"{new}{over} = {written(body)}"
    row = f"{new}[{', '.join(lead)}]" if lead else new
    return f"add `{whole}` and write `{left} = {head}({row})`"


def before_this_token(first: str, other: str) -> str:
    """What breaks a circle of equations."""
    if first == other:
        return f"a name has one value: give the new one another name; `{first}` of the token before is a `state`"
    return (
        f"if `{other}` of the token before is meant: `state {other}_prev: […]`, `{other}_prev' = {other}`, and read "
        f"`{other}_prev` in `{first}`"
    )


def _free(name: str, frame: Frame) -> str:
    while name in frame.symbols or frame.visible(name, frame.decl.scope):
        name += "_"
    return name
