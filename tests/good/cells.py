"""Recurrent cells as one-token equations, and the classes their states must be found to have.

An equation's text is the language's own; lower-case names that no line defines are values made of the input, one
linear map each, over the indices they are first used with.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from cdrmix.check.stack.single import load_op
from cdrmix.ir.nodes import Cell, Model

AXES = {"h": "H", "i": "I", "j": "J", "m": "J", "c": "C", "e": "C", "n": "N", "r": "R"}
SIZES = {"H": 2, "I": 3, "J": 4, "C": 4, "N": 5, "R": 2}
FUNCTIONS = {"sum", "mean", "exp", "log", "tanh", "sigmoid", "abs", "max", "logaddexp", "center", "normal", "softmax"}
WORDS = FUNCTIONS | {"state", "param", "if", "else"}


@dataclass(frozen=True)
class Known:
    """A cell's equations and its groups as text, without the reason."""

    equations: str
    classes: str
    square: bool = False

    def text(self) -> str:
        """The whole op, `cell`."""
        lines = [line.strip() for line in self.equations.strip().splitlines()]
        defined = {re.match(r"(?:(?:state|param) )?(\w+)", line).group(1) for line in lines}  # type: ignore[union-attr]
        given = {}
        for name, at in re.findall(r"([a-z]\w*)(?!\w)(?:\[([\w,]+)\])?", " ".join(lines)):
            if name not in defined | WORDS and not (len(name) == 1 and name in AXES and not at):
                given.setdefault(name, at.split(",") if at else [])
        out = next(line for line in lines if re.match(r"y\b", line))
        axes = re.match(r"y(?:\[([\w,]+)\])?", out).group(1)  # type: ignore[union-attr]
        result = ", ".join(AXES[a] for a in axes.split(",")) if axes else ""
        maps = []
        for name, at in given.items():
            shape = ", ".join([*(AXES[a] for a in at), "D"])
            left = f"{name}[{','.join(at)}]" if at else name
            maps += [f"param W_{name}: [{shape}] ~ 0", f"{left} = sum[d](W_{name}[{','.join([*at, 'd'])}]*token[d])"]
        body = "\n".join(f"  {line}" for line in [*maps, *lines, "return y"])
        sizes = {**SIZES, "I": SIZES["J"]} if self.square else SIZES
        formals = ", ".join(f"{name}: int = {size}" for name, size in sizes.items())
        text = f"op cell(token: [D], {formals}) -> [{result}] {{\n{body}\n}}\n"
        if self.square:
            text = re.sub(r"\bI\b(?!:)", "J", text)
        return CENTER + text


CENTER = """
op center(x: [L]) -> [L] {
  mu = mean[i](x[i])
  var = mean[i]((x[i] - mu)^2)
  return (x - mu)/sqrt(var + 1e-5)
}
"""


def model_of(known: Known, folder: Path) -> Model:
    """The cell as a model of one line over an input of five numbers."""
    path = folder / "cell.cdr"
    path.write_text(known.text(), encoding="utf-8")
    return load_op(path, "cell", {"D": 5})


def cell_of(known: Known, folder: Path) -> Cell:
    """The cell alone."""
    model = model_of(known, folder)
    return model.cells[model.lines[0].chain[0].cell]
