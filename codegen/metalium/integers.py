"""Whole-number expressions as C++ for the data-movement cores.

Input: an IR expression of constants, indices, integer arithmetic and reads of i32 arrays.
Output: text of type int32_t.  Division rounds down as in the spec: plainly where no operand can be negative, through
`floor_div` and `floor_mod` elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable

from cdrmix.ir.nodes import Node

LARGEST = 2**31 - 1
_INFIX = {"add": "+", "sub": "-", "mul": "*", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_LOGIC = {"and": "&&", "or": "||"}
_CALLS = {"max": "larger_whole", "min": "smaller_whole", "floordiv": "floor_div", "mod": "floor_mod"}
_PLAIN = {"floordiv": "/", "mod": "%"}

Names = Callable[[Node], str | None]
"""The text of an index or a read, and of any expression that has a name already; None for others."""


def whole(n: Node, names: Names) -> str:
    """The expression; in parentheses where an operator could tear it apart."""
    if n.op == "const":
        return str(int(n.arg))
    named = names(n)
    if named is not None:
        return named
    args = [whole(a, names) for a in n.args]
    if n.op in _LOGIC:
        return f"({args[0]} {_LOGIC[n.op]} {args[1]})"
    if n.op in _INFIX:
        return f"({args[0]} {_INFIX[n.op]} {args[1]})"
    if n.op in _PLAIN and n.args[1].op == "const" and n.args[1].arg > 0 and lowest(n.args[0]) >= 0:
        return f"({args[0]} {_PLAIN[n.op]} {args[1]})"
    if n.op in _CALLS:
        return f"{_CALLS[n.op]}({args[0]}, {args[1]})"
    match n.op:
        case "neg":
            return f"(-{args[0]})"
        case "not":
            return f"(!{args[0]})"
        case "abs":
            return f"larger_whole({args[0]}, -{args[0]})"
        case "sign":
            return f"(({args[0]} > 0) - ({args[0]} < 0))"
        case "select":
            return f"({args[0]} ? {args[1]} : {args[2]})"
        case "pow":
            return f"whole_power({args[0]}, {args[1]})"
    raise ValueError(f"`{n.op}` is no operation of whole numbers")


def lowest(n: Node) -> int:
    """A number that the expression is never below; reads are taken for places and counts, never negative."""
    match n.op:
        case "const":
            return int(n.arg)
        case "add":
            return lowest(n.args[0]) + lowest(n.args[1])
        case "mul" | "floordiv":
            return 0 if all(lowest(a) >= 0 for a in n.args) else -LARGEST
        case "mod":
            return 0 if lowest(n.args[1]) >= 0 else -LARGEST
        case "sub":
            return lowest(n.args[0]) - highest(n.args[1])
        case "max":
            return max(map(lowest, n.args))
        case "min":
            return min(map(lowest, n.args))
        case "select":
            return min(map(lowest, n.args[1:]))
        case "neg" | "sign" | "pow":
            return -LARGEST
        case _:
            return 0


def highest(n: Node) -> int:
    """A number that the expression is never above."""
    match n.op:
        case "const":
            return int(n.arg)
        case "index":
            return int(n.arg.axis.size) - 1
        case "add":
            return highest(n.args[0]) + highest(n.args[1])
        case "sub":
            return highest(n.args[0]) - lowest(n.args[1])
        case "mul" if all(lowest(a) >= 0 for a in n.args):
            return highest(n.args[0]) * highest(n.args[1])
        case "mod" if n.args[1].op == "const" and n.args[1].arg > 0:
            return int(n.args[1].arg) - 1
        case "floordiv" if n.args[1].op == "const" and n.args[1].arg > 0 and lowest(n.args[0]) >= 0:
            return highest(n.args[0]) // int(n.args[1].arg)
        case "max":
            return max(map(highest, n.args))
        case "min":
            return min(map(highest, n.args))
        case "select":
            return max(map(highest, n.args[1:]))
        case "eq" | "ne" | "lt" | "le" | "gt" | "ge" | "and" | "or" | "not" | "sign":
            return 1
        case _:
            return LARGEST
