"""Products with weights side by side: those that need nothing of each other become one call, and so one kernel.

Input: the lines of a function and its `Product`s, in an order in which they can run.
Output: its lines, in such an order too: what needs no product, the products of that, what needs those, and so on.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cdrmix.ir import python as escape


@dataclass(slots=True)
class Product:
    """`name = here.product(weight, x)`.  `whole`: it is all of the equation whose comment stands before it."""

    name: str
    weight: str
    x: str
    axes: str
    whole: bool = False


@dataclass(slots=True)
class _Step:
    """Lines that belong together, after how many products they can run, and the product if they are one."""

    level: int
    lines: list[str] = field(default_factory=list)
    product: Product | None = None


def levelled(lines: Sequence[str | Product]) -> list[str]:
    """See the module."""
    steps, known = list[_Step](), dict[str, int]()
    for text, item in _together(lines):
        code = item.x if isinstance(item, Product) else "\n".join(item)
        tree = [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Name)]
        level = max((known.get(n.id, 0) for n in tree if isinstance(n.ctx, ast.Load)), default=0)
        if isinstance(item, Product):
            known[item.name] = level + 1
            steps.append(_Step(level, text, item))
        else:
            known |= {n.id: level for n in tree if isinstance(n.ctx, ast.Store)}
            steps.append(_Step(level, [*text, *item]))
    found: list[str] = []
    for level in range(1 + max((s.level for s in steps), default=0)):
        here = [s for s in steps if s.level == level]
        found += [line for s in here if s.product is None for line in s.lines]
        found += _call([s for s in here if s.product is not None])
    return found


def plain(lines: Sequence[str | Product]) -> list[str]:
    """The lines in their own order, each product a call."""
    return [part for x in lines for part in (_call([_Step(0, [], x)]) if isinstance(x, Product) else [x])]


def _together(lines: Sequence[str | Product]) -> Iterator[tuple[list[str], list[str] | Product]]:
    """Each statement or product with its comments; the comments of an equation stand before its last line."""
    comments: list[str] = []
    statement: list[str] = []
    for item in lines:
        if isinstance(item, Product):
            yield (comments if item.whole else []), item
            comments = [] if item.whole else comments
        elif item.lstrip().startswith("#") and not statement:
            comments.append(item)
        else:
            statement.append(item)
            if _is_whole("\n".join(statement)):
                yield comments, statement
                comments, statement = [], []


def _is_whole(code: str) -> bool:
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return True


def _call(steps: Sequence[_Step]) -> list[str]:
    """The lines of one call for all the products."""
    made = [(s.lines, s.product) for s in steps if s.product is not None]
    if not made:
        return []
    if len(made) == 1:
        comments, p = made[0]
        return [*comments, f"{p.name} = here.product({escape.text(p.weight)}, {p.x})  # {p.axes}"]
    lines = [f"{', '.join(p.name for _, p in made)} = here.products("]
    for comments, p in made:
        lines += [f"    {c}" for c in comments]
        lines.append(f"    ({escape.text(p.weight)}, {p.x}),  # {p.axes}")
    return [*lines, ")"]
