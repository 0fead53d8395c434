"""The rules of one expression, for `verify`.

Input: a `Node`, the indices around it, and the axes and dtype of every name it may read.
Output: a sentence for each broken rule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from cdrmix.ir import build, walk
from cdrmix.ir.nodes import TOKENS, Axis, DType, Index, Node, Ref
from cdrmix.ir.ops import OPS
from cdrmix.ir.types import NARROW


@dataclass(frozen=True, slots=True)
class Declared:
    """What a name is."""

    axes: tuple[Axis, ...]
    dtype: DType


def those(rules: Mapping[str, object]) -> Iterator[str]:
    """The sentences of which what they say is so."""
    return (sentence for sentence, so in rules.items() if so)


def broken(
    what: str,
    record: Any,
    outer: tuple[Index, ...],
    names: Mapping[Ref, Declared],
    windows: walk.Windows,
    contexts: Collection[str],
) -> Iterator[str]:
    """The broken rules of the expressions of `record`, which is called `what`, under the indices `outer`."""
    for root in walk.roots(record):
        found = [f"the index {i.name} is bound nowhere" for i in root.free if i not in outer]
        found += _own_names(root, outer)
        for n in walk.nodes(root):
            found += _as_built(n)
            if n.op == "context" and n.arg not in contexts:
                found.append(f"`{n.arg}` has no value here")
            if n.op == "read":
                found += _read(n, names, windows)
        yield from (f"{what}: {rule}" for rule in found)


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
    same = build.again(n, n.args, n.arg)
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
    found, places = names[ref], windows.get(ref, frozenset())
    widened = n.dtype == "f32" and found.dtype in NARROW  # once types are decided
    fixed = ref.kind == "history" and (n.args[0].op != "index" or view[0].size != found.axes[0].size)
    resized = prod(a.size for a in view) != prod(a.size for a in found.axes)
    merged = len(walk.window_positions(view, places)) < len([p for p in places if p[1] > 1])
    yield from those({
        f"{ref.name} is read under a view of another size": resized,
        f"{ref.name} is read as {n.dtype}, declared as {found.dtype}": n.dtype != found.dtype and not widened,
        f"{ref.name} is read under a view that merges its window with another axis": merged,
        f"the history {ref.name} is read at a fixed age": fixed,
    })  # fmt: skip
    for a, axis in zip(n.args, view, strict=True):
        if a.dtype not in ("int", "pick"):
            yield f"{ref.name} is indexed by a {a.dtype}"
        if a.op == "const" and not 0 <= a.arg < axis.size:
            yield f"{ref.name} is read at {a.arg} of {axis.name}, which has {axis.size} places"
        if a.op == "index" and a.arg.axis.size != axis.size:
            yield f"{ref.name} is read by {a.arg.name} < {a.arg.axis.size} on {axis.name}, which has {axis.size} places"
