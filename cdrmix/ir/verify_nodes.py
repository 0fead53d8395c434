"""The rules of one expression, for `verify`.

Input: a `Node`, the indices around it, and the axes and dtype of every name it may read.
Output: a sentence for each broken rule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from math import prod

from cdrmix.ir import build, walk
from cdrmix.ir.nodes import TOKENS, Axis, DType, Index, Node, Ref
from cdrmix.ir.ops import OPS
from cdrmix.ir.types import NARROW


@dataclass(frozen=True, slots=True)
class Declared:
    """What a name is."""

    axes: tuple[Axis, ...]
    dtype: DType


def broken(
    n: Node,
    outer: tuple[Index, ...],
    names: Mapping[Ref, Declared],
    windows: walk.Windows,
    contexts: Collection[str],
) -> Iterator[str]:
    """The broken rules of a whole expression under the indices `outer`."""
    for i in n.free:
        if i not in outer:
            yield f"the index {i.name} is bound nowhere"
    yield from _own_names(n, outer)
    for m in walk.nodes(n):
        yield from _as_built(m)
        match m.op:
            case "context":
                if m.arg not in contexts:
                    yield f"`{m.arg}` has no value here"
            case "read":
                yield from _read(m, names, windows)


def outside_tokens(n: Node, inside: bool = False) -> Iterator[str]:
    """The names that differ by token and are read outside every reduction over tokens."""
    inside = inside or any(i.axis == TOKENS for i in walk.bound(n))
    if n.op == "read" and not inside and n.arg.ref.kind not in ("param", "buffer"):
        yield n.arg.ref.name
    for a in n.args:
        yield from outside_tokens(a, inside)


def _own_names(n: Node, outer: tuple[Index, ...]) -> Iterator[str]:
    """Every index variable has its own name: no binder repeats one, beside it or around it."""
    seen = Counter([i.name for i in outer] + [i.name for m in walk.nodes(n) for i in walk.bound(m)])
    for name in (name for name, count in seen.items() if count > 1):
        yield f"two index variables have the name {name}"


def _as_built(n: Node) -> Iterator[str]:
    """dtype and free indices are those the constructors give."""
    match n.op:
        case "const":
            same = build.const(n.arg)
        case "index":
            same = build.index(n.arg)
        case "context":
            same = build.context(n.arg)
        case "read":
            same = build.read(n.arg.ref, n.arg.view, n.args, n.dtype)
        case _:
            same = build.node(n.op, *n.args, arg=n.arg)
    if same.dtype != n.dtype:
        yield f"`{n.op}` has the dtype {n.dtype}, not {same.dtype}"
    if same.free != n.free:
        yield f"`{n.op}` has the free indices {[i.name for i in n.free]}, not {[i.name for i in same.free]}"
    if OPS[n.op].kind == "reduce" and not n.arg:
        yield f"`{n.op}` reduces over nothing"


def _read(n: Node, names: Mapping[Ref, Declared], windows: walk.Windows) -> Iterator[str]:
    ref, view = n.arg.ref, n.arg.view
    if ref not in names:
        yield f"there is no {ref.kind} {ref.name} to read"
        return
    found = names[ref]
    if prod(a.size for a in view) != prod(a.size for a in found.axes):
        yield f"{ref.name} is read under a view of another size"
    if n.dtype != found.dtype and not (n.dtype == "f32" and found.dtype in NARROW):  # widened, once types are decided
        yield f"{ref.name} is read as {n.dtype}, declared as {found.dtype}"
    places = windows.get(ref, frozenset())
    if len(walk.window_positions(view, places)) < len([p for p in places if p[1] > 1]):
        yield f"{ref.name} is read under a view that merges its window with another axis"
    for a, axis in zip(n.args, view, strict=True):
        if a.dtype not in ("int", "pick"):
            yield f"{ref.name} is indexed by a {a.dtype}"
        if a.op == "const" and not 0 <= a.arg < axis.size:
            yield f"{ref.name} is read at {a.arg} of {axis.name}, which has {axis.size} places"
        if a.op == "index" and a.arg.axis.size != axis.size:
            yield f"{ref.name} is read by {a.arg.name} < {a.arg.axis.size} on {axis.name}, which has {axis.size} places"
    if ref.kind == "history" and (n.args[0].op != "index" or view[0].size != found.axes[0].size):
        yield f"the history {ref.name} is read at a fixed age"
