"""Choices: the branch that is not taken takes no part in the gradient.

Input: a branch of `then if cond else other`, and its condition.
Output: the branch with another operand, where it is not taken, for every op that may have no finite gradient there:
`torch.where` alone would multiply that gradient by zero, and zero times infinity is no number.
"""

from __future__ import annotations

from cdrmix.ir import build, walk
from cdrmix.ir.build import FLOATS
from cdrmix.ir.nodes import Node
from cdrmix.ir.ops import OPS


def guarded(branch: Node, cond: Node, taken: bool) -> Node:
    """The branch, taken where `cond` is `taken`."""
    if branch.op == "read" or not branch.args or branch.dtype not in FLOATS:
        return branch
    args = [guarded(a, cond, taken) for a in branch.args]
    at, safe = OPS[branch.op].singular or (0, None)
    if safe is not None and not whole_power(branch) and any(True for _ in walk.reads(args[at])):
        args[at] = _chosen(args[at], cond, taken, safe)
    return walk.rebuild(branch, tuple(args))


def whole_power(n: Node) -> bool:
    """A power that has a finite gradient everywhere."""
    return n.op == "pow" and n.args[1].op == "const" and n.args[1].arg >= 1


def _chosen(operand: Node, cond: Node, taken: bool, safe: float) -> Node:
    other = build.const(safe)
    made = build.select(cond, operand, other) if taken else build.select(cond, other, operand)
    known = operand.op == "select" and operand.args[0] == cond and other in operand.args
    return operand if known else made
