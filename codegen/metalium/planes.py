"""The planes of a factor: what the matrix unit sees of it, and the rest.

Input: a factor over the draft's names.  Output: its loads, one, or two whose sum it is.
"""

from __future__ import annotations

from cdrmix.ir import walk
from cdrmix.ir.nodes import Axis, Index, Node

from . import plan
from .draft import Draft, read_array
from .loads import load, vector


def guarded(draft: Draft, f: Node, i: Index) -> bool:
    """Whether a read gives zero where an index runs past the tokens that are there."""
    if f.op != "read":
        return False
    places = walk.window_positions(f.arg.view, draft.windows.get(f.arg.ref, frozenset()))
    return any(f.args[p].op == "index" and f.args[p].arg == i for p in places)


def planes_of(
    draft: Draft, n: Node, indices: tuple[Index, ...], here: set[Index], name: str, wide: bool
) -> tuple[plan.Load, ...]:
    """The loads of a factor: one, or what TF32 holds of it and the rest."""
    n = draft.settled(n)
    loose = any(i in here and not guarded(draft, n, i) for i in n.free)
    if n.op != "read" or draft.whole(n.arg.ref) or _fetched(draft, n) or loose:
        n = draft.temporary(name, tuple(i for i in indices if i in n.free), n, here, "f32")
    if n.arg.ref.kind == "param":
        vector(draft, n.arg.ref.name)
    array = n.arg.ref.name
    if not wide or set(draft.constants.get(array, (0.5,))) <= {0.0, 1.0}:
        return (load(draft, n),)
    if array not in draft.planes:
        shape = draft.arrays[array].shape
        own = tuple(Index(f"d{p}", Axis(f"d{p}", size)) for p, size in enumerate(shape))
        whole, made = read_array(array, own), []
        for plane in ("hi", "lo"):
            made.append(draft.array(f"{array}_{plane}", shape))
            draft.assign(made[-1], own, whole, None, plane)
        draft.planes[array] = tuple(made)
    first = load(draft, n)
    return tuple(plan.Load(p, first.view, first.at, first.when, first.fill) for p in draft.planes[array])


def _fetched(draft: Draft, n: Node) -> bool:
    """Whether a read needs a step of its own before anything else can use it."""
    return n.arg.ref.kind == "param" and any(True for a in n.args for _ in walk.reads(a))
