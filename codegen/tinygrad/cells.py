"""A cell as one function over [B, T, …].

Input: the array form of a cell.  Output: it as `Written`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cdrmix.ir import python as escape
from cdrmix.ir.array_statements import CellArrays
from cdrmix.ir.code import Assign, call, flat, item, name, named
from cdrmix.ir.writing import Written

from .spelling import Tinygrad, quoted
from .statements import Function


def emit_cell(
    made: CellArrays, functions: Mapping[str, str], taken: Iterable[str], sources: Mapping[str, str]
) -> Written:
    """The function of a cell; `taken` are the names of the module."""
    cell, function = made.cell, made.sequence
    assert function is not None and function.result is not None
    spell = Tinygrad(escape.Names(taken))
    inputs = [spell.fresh(x) for x in function.inputs]
    above = [Assign((spell.fresh(local),), call("here.carry", quoted(carry))) for carry, local in function.above]
    body = [*above, *Function(function, spell, sources, functions=functions).body()]
    body += [Assign((), call("here.give", quoted(carry), spell.of(x))) for carry, x in function.gives]
    body.append(Assign((), spell.of(function.result), returns=True))
    if {"b", "t"} & named(body):
        first = flat(inputs[0]) if inputs else "here.pos"
        body.insert(0, Assign((name("b"), name("t")), item(name(f"{first}.shape"), ":2")))
    arguments = ", ".join(["here: Frame", *(f"{flat(n)}: Tensor" for n in inputs)])
    doc = tuple(escape.doc(f"op {cell.op} ({cell.span})\n\n{cell.doc}".strip()))
    return Written(f"def {functions[cell.name]}({arguments}) -> Tensor:", tuple(body), doc)
