"""Calls: what a line of the stack binds of the program that it shares.

Input: a program, the paths of its parameters and states below the cells of the chain, and a line.
Output: a `plan.CallOf`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from cdrmix.ir.nodes import Line

from . import plan
from .draft import Given, refuse


@dataclass(slots=True)
class Written:
    """A program and what its calls bind: parameters and states by their paths below the cells of the chain."""

    program: plan.Program
    given: Mapping[str, Given]
    residents: list[tuple[str, tuple[int, str], bool]]
    carries: Mapping[str, str]
    """Tensors of carries by the carry's name."""
    tables: Mapping[str, str]
    """Tensors of rows by the parameter that they are."""


def call_of(made: Written, line: Line, number: int, last: bool, owners: Mapping[str, str]) -> plan.CallOf:
    """What the program of a line is given there."""

    def path(of: tuple[int, str]) -> str:
        return f"{line.chain[of[0]].path}.{of[1]}"

    program = made.program
    carries = {tensor: name for name, tensor in made.carries.items()}
    tables = {tensor: name for name, tensor in made.tables.items()}
    tensors: dict[str, str] = {}
    for name, tensor in program.tensors.items():
        match name:
            case "inputs":
                tensors[name] = "inputs"
            case "vectors":
                tensors[name] = f"{line.path}.vectors"
            case "x_in":
                tensors[name] = f"x.{(number + 1) % 2}"
            case "x_out":
                tensors[name] = "logits" if last else f"x.{number % 2}"
            case _ if tensor.tiled is not None:
                tensors[name] = owners[path(made.given[name].path)]
            case _ if name in carries:
                tensors[name] = f"carry.{carries[name]}"
            case _:
                tensors[name] = f"{owners[path(made.given[tables[name]].path)]}.rows"
    parts = program.tensors["vectors"].parts if "vectors" in program.tensors else ()
    vectors = {n: owners[path(made.given[n].path)] for n, _, _ in parts if n not in program.constants}
    state = tuple(plan.Resident(array, path(of), ring) for array, of, ring in made.residents)
    return plan.CallOf(line.path, program.name, tensors, vectors, state)


def named(calls: list[plan.CallOf], programs: Iterable[Written]) -> list[plan.CallOf]:
    """The calls with `.rows` only on the names of what is kept in tiles too.  A tensor lies in one order."""
    by = {w.program.name: w for w in programs}
    tiled: dict[str, plan.Tensor] = {}
    for call in calls:
        for name, tensor in by[call.program].program.tensors.items():
            if tensor.tiled is not None:
                first = tiled.setdefault(call.tensors[name], tensor)
                if (first.shape, first.tiled) != (tensor.shape, tensor.tiled):
                    span = by[call.program].given[name].span
                    message = f"`{call.tensors[name]}` is tied to a matrix that is multiplied along another axis"
                    raise refuse(span, message, "a streamed matrix lies in one order: untie them")
    found = []
    for call in calls:
        short = {}
        for name, path in call.tensors.items():
            both = not path.endswith(".rows") or path.removesuffix(".rows") in tiled
            short[name] = path if both else path.removesuffix(".rows")
        found.append(replace(call, tensors=short))
    return found
