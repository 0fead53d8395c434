"""Products with weights side by side: those that need nothing of each other become one `Products`, and so one kernel.

Input: the statements of a function, in an order in which they can run.  Output: the statements in such an order too:
what needs no product, the products of that, what needs those, and so on.  What is said of an equation stays before the
last statement that the equation became.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cdrmix.ir.array_statements import Let, Products, Say, Statement, defined, read
from cdrmix.ir.arrays import Local


def side_by_side(statements: Sequence[Statement]) -> Iterator[Statement]:
    """The statements, level by level."""
    known: dict[Local, int] = {}
    levels: dict[int, list[tuple[list[Say], Statement]]] = {}
    for says, stmt in _together(statements):
        level = max((known.get(name, 0) for name in read(stmt)), default=0)
        product = isinstance(stmt, Let) and stmt.product
        known |= dict.fromkeys(defined(stmt), level + product)
        levels.setdefault(level, []).append((says, stmt))
    for level in sorted(levels):
        lets = [(tuple(says), s) for says, s in levels[level] if isinstance(s, Let) and s.product]
        for says, stmt in levels[level]:
            if not (isinstance(stmt, Let) and stmt.product):
                yield from says
                yield stmt
        if len(lets) == 1:
            yield from lets[0][0]
            yield lets[0][1]
        elif lets:
            yield Products(tuple(s for _, s in lets), tuple(says for says, _ in lets))


def _together(statements: Sequence[Statement]) -> Iterator[tuple[list[Say], Statement]]:
    """Each statement with what is said before it; a product that is only a piece of an equation takes none of that."""
    says: list[Say] = []
    for stmt in statements:
        if isinstance(stmt, Say):
            says.append(stmt)
        elif isinstance(stmt, Let) and stmt.product and not stmt.whole:
            yield [], stmt
        else:
            yield says, stmt
            says = []
