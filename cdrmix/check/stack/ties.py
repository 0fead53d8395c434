"""`tie head.W = emb.E`: one stored tensor under two paths.

Input: an expanded model and its `tie` lines.  Output: for each tied path the path that owns the storage and its init.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cdrmix.check.names.values import Failed, fail
from cdrmix.diagnose import Report, did_you_mean
from cdrmix.ir.layout import Weight, weights
from cdrmix.ir.nodes import Model
from cdrmix.syntax import ast


def resolve_ties(model: Model, ties: Sequence[tuple[ast.Tie, tuple[str, ...]]], report: Report) -> dict[str, str]:
    """The owners of tied paths.  A path in a `repeat` is looked for in its own round first, then further out."""
    if not ties:
        return {}
    by_path = {w.path: w for w in weights(model)}
    owners: dict[str, str] = {}
    for tie, prefixes in ties:
        try:
            left = _find(tie, tie.left, prefixes, by_path, report)
            right = _find(tie, tie.right, prefixes, by_path, report)
            _check(tie, left, right, owners, report)
            owners[left.path] = right.path
        except Failed:
            continue
    return {path: _owner(path, owners) for path in owners}


def _find(
    tie: ast.Tie, parts: Sequence[str], prefixes: Sequence[str], by_path: Mapping[str, Weight], report: Report
) -> Weight:
    name = ".".join(parts)
    for prefix in reversed(prefixes):
        if found := by_path.get(prefix + name):
            return found
    inside = [path.removeprefix(prefixes[-1]) for path in by_path]
    fail(report, "E0714", tie.span, f"the stack has no parameter `{name}`", did_you_mean(name, inside)
         or "a parameter's path is the line's label and the parameter's name: `head.W`")  # fmt: skip


def _check(tie: ast.Tie, left: Weight, right: Weight, owners: Mapping[str, str], report: Report) -> None:
    names = f"tie {left.path} = {right.path}"
    for weight in (left, right):
        if weight.kind == "buffer":
            fail(report, "E0714", tie.span, f"{names}: `{weight.path}` is a buffer", "only parameters are tied")
    if left.shape != right.shape:
        shapes = f"tie {left.path} {list(left.shape)} = {right.path} {list(right.shape)}"
        fail(report, "E0708", tie.span, f"{shapes}: shapes differ", "tie parameters of one shape")
    if left.decl.dtype != right.decl.dtype:
        kinds = f"{left.decl.dtype} and {right.decl.dtype}"
        fail(report, "E0708", tie.span, f"{names}: their types differ, {kinds}", "declare both with one type")
    if left.path in owners:
        fail(report, "E0714", tie.span, f"{names}: `{left.path}` is tied already", "tie a path once")
    if _owner(right.path, owners) == left.path:
        fail(report, "E0714", tie.span, f"{names}: `{left.path}` would own itself", "one path of the ring must be free")


def _owner(path: str, owners: Mapping[str, str]) -> str:
    while path in owners:
        path = owners[path]
    return path
