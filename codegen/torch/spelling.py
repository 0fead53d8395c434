"""How arrays are written in PyTorch.

Input: an `Array` of a method being written.  Output: code over the tensors of a module: `self.W`, `stream.old[…]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

from cdrmix.ir.arrays import Array, Local, union
from cdrmix.ir.code import Code, call, flat, infix, item, listed, member, method, name, number, prefix
from cdrmix.ir.nodes import Index
from cdrmix.ir.python import text
from cdrmix.ir.spelling import Spelling, rules_of
from cdrmix.ir.types import NARROW

from .names import attribute

OWN = (
    "exp", "log", "sqrt", "abs", "sign", "sin", "cos", "tanh", "sigmoid", "relu", "logaddexp", "log1p", "expm1", "erf",
    "floor", "round", "atan2", "einsum", "softmax", "logsumexp",
)  # fmt: skip
"""Functions that torch calls as we do."""

FUNCTIONS = {
    **{f: f"torch.{f}" for f in OWN},
    "silu": "F.silu",
    "softplus": "F.softplus",
    "select": "torch.where",
    "max": "torch.maximum",
    "min": "torch.minimum",
}


def key(path: str) -> Code:
    """The path of a slot, below the cell."""
    return infix("+", name("self.at"), name(text(path)))


def dtype_of(dtype: str) -> Code:
    """A type's name."""
    return name({"f32": "torch.float32", "bf16": "torch.bfloat16", "f16": "torch.float16"}[dtype])


def old(state: str) -> Code:
    """A state before the call."""
    return item(name("stream.old"), key(state))


@dataclass(slots=True)
class Torch(Spelling):
    """`data` is a tensor whose dtype is the model's, `first` one that has the leading axes, `shape` those axes' sizes.

    `rows`: parameters are an expert's a row; `begin`: there are no tokens; `mixed`: some data is held narrower, and the
    model computes in f32.
    """

    data: str = "x"
    first: str = "x"
    shape: str = "x.shape"
    rows: bool = False
    begin: bool = False
    mixed: bool = False
    convolved: dict[Local, tuple[Code, Code]] = field(default_factory=dict)
    """The windows of a history: its entries of this call, and what was before them."""

    functions: ClassVar[dict[str, str]] = FUNCTIONS
    reductions: ClassVar[dict[str, str]] = {"sum": "sum", "mean": "mean", "max_over": "amax", "min_over": "amin"}

    def of_token(self) -> tuple[Code, Self]:
        return name(f"{self.first}.shape[1]"), replace(self, shape=f"{self.first}.shape[:1]")

    def parameter(self, of: str) -> Code:
        """The module's own tensor."""
        return name(f"self.{attribute(of)}")

    # --- leaves ----------------------------------------------------------------------------------------------------
    def stored_(self, x: Array) -> Code:
        code = self.parameter(x.arg.name)
        code = item(code, "rows.expert") if self.rows else code
        return code if x.arg.sizes is None else self.reshaped(code, x.arg.shape, x.arg.sizes)

    def old_(self, x: Array) -> Code:
        return old(x.arg)

    def total_(self, x: Array) -> Code:
        path, mean = x.arg
        return method(name("sums"), "mean", key(path)) if mean else item(name("sums"), key(path))

    def places_(self, x: Array) -> Code:
        if self.begin:
            return call("torch.arange", x.arg.axis.size, dtype=name("torch.float64"))
        return call("torch.arange", x.arg.axis.size, device=name(f"{self.first}.device"))

    def context_(self, x: Array) -> Code:
        return name("stream.pos" if x.arg == "pos" else x.arg)

    def token_(self, x: Array) -> Code:
        return item(self.of(x.args[0]), ":", self.of(x.args[1]))

    def new(self, what: str, *args: str | int | Code) -> Code:
        """A new tensor of the model's data: `new_zeros`, `new_full`."""
        kind = {"dtype": dtype_of("f32")} if self.mixed else {}
        return method(name(self.data), f"new_{what}", *args, **kind)

    # --- between types ---------------------------------------------------------------------------------------------
    def cast_(self, x: Array) -> Code:
        code = self.of(x.args[0])
        return self._tensor(x, code) if x.args[0].type == "number" else self._cast(x, code)

    def _cast(self, x: Array, code: Code) -> Code:
        if x.type in NARROW:
            return method(code, "to", dtype_of(x.type))
        if x.type == "float":
            return method(code, "float") if self.mixed else method(code, "to", f"{self.data}.dtype")
        return method(code, {"exact": "double", "bool": "bool", "int": "long"}[x.type])

    def _tensor(self, x: Array, code: Code) -> Code:
        """A number as a tensor."""
        if x.type == "bool":
            return call("torch.tensor", call("bool", code))
        if self.begin:
            return call("torch.tensor", call("float", code), dtype=name("torch.float64"))
        return self.new("full", listed(), code)

    def expand_(self, x: Array) -> Code:
        (given,) = x.args
        sizes: list[str | int] = [f"*{self.shape}"] if x.arg and self.shape != "()" else []
        sizes += [i.axis.size for i in x.dims]
        if given.type != "number":
            return method(self.fit(given, x.dims), "expand", *sizes)
        if x.type == "int":
            return method(name(self.data), "new_full", listed(*sizes), self.of(given), dtype=name("torch.int64"))
        return self.new("full", listed(*sizes), self.of(given))

    def spread_(self, x: Array) -> Code:
        has, sizes = x.arg
        code = self.of(x.args[0])
        shape = f"*{flat(code)}.shape[:-{sum(has)}]" if any(has) else f"*{flat(code)}.shape"
        lead = [shape] if x.lead else []
        widths = ["-1" if there else str(s) for s, there in zip(sizes, has, strict=True)]
        return method(item(code, "...", *(":" if there else "None" for there in has)), "expand", *lead, *widths)

    # --- elementwise -----------------------------------------------------------------------------------------------
    def max_(self, x: Array) -> Code:
        a, b = sorted(x.args, key=lambda a: a.type == "number")
        if b.type == "number":
            bound = {"max": "min", "min": "max"}[x.op]
            return method(self.fit(a, x.dims), "clamp", **{bound: self.of(b)})
        return self.elementwise(x)

    min_ = max_

    def pow_(self, x: Array) -> Code:
        base, exponent = x.args
        if base.op == "relu" and base.lead and exponent.op == "number" and exponent.arg == 2:
            return call("squared_relu", self.fit(base.args[0], x.dims))
        return self.elementwise(x)

    def floordiv_(self, x: Array) -> Code:
        if x.type != "float":
            return self.elementwise(x)
        args = [self.fit(a, x.dims) for a in x.args]  # torch has no gradient of `//`, not even zero
        return call("torch.div", *args, rounding_mode=name(text("floor")))

    def not_(self, x: Array) -> Code:
        return prefix("~", self.fit(x.args[0], x.dims))

    def masked_(self, x: Array) -> Code:
        there, given = x.args
        if not given.lead:
            return Spelling.masked_(self, x)
        return method(self.of(given), "masked_fill", prefix("~", self.fit(there, x.dims)), number(x.arg))

    # --- axes ------------------------------------------------------------------------------------------------------
    def reshaped(self, code: Code, old: Sequence[int], new: Sequence[int]) -> Code:
        old, new, after = list(old), list(new), 0
        while old and new and old[-1] == new[-1]:
            del old[-1], new[-1]
            after += 1
        while old and new and old[0] == new[0]:
            del old[0], new[0]
        if not old and new:
            return item(code, "...", *["None"] * len(new), *[":"] * after)
        if old and not new:
            return method(code, "squeeze", listed(*(-p - after for p in range(len(old), 0, -1))))
        if len(old) > 1:
            ends = [-len(old) - after, -1 - after] if after else [-len(old)]
            code = method(code, "flatten", *ends)
        return method(code, "unflatten", -1 - after, listed(*new)) if len(new) > 1 else code

    def permuted(self, x: Array, dims: tuple[Index, ...]) -> Code:
        n, code = len(dims), self.of(x)
        moved = [x.dims.index(d) for d in dims]
        if n == 2:
            return member(code, "mT")
        if x.lead:
            return method(code, "movedim", listed(*(p - n for p in moved)), listed(*(p - n for p in range(n))))
        return method(code, "permute", *moved)

    def clip_(self, x: Array) -> Code:
        given, *masks = x.args
        first = next(p for p, i in enumerate(x.dims) if i in x.arg)
        ends = {i: f":{flat(self.of(m))}.shape[-1]" for i, m in zip(x.arg, masks, strict=True)}
        return item(self.of(given), "...", *(ends.get(i, ":") for i in x.dims[first:]))

    def _places(self, x: Array) -> list[Code]:
        """Places on axes, as whole numbers over all the axes that any of them has."""
        places = x.args[1:]
        codes = ((p, self.fit(p, union(places, x.dims))) for p in places)
        return [code if p.type == "int" else method(code, "long") for p, code in codes]

    def index_(self, x: Array) -> Code:
        of, at = x.args[0], x.arg[0]
        first, moved = min(at), tuple(of.dims[p] for p in at)
        behind = [d for d in of.dims[first:] if d not in moved]
        given = self.in_order(of, (*of.dims[:first], *moved, *behind))
        return item(given, "...", *self._places(x), *[":"] * len(behind))

    def rows_(self, x: Array) -> Code:
        of, at = x.args[0], x.arg[0]
        rest = [d for p, d in enumerate(of.dims) if p not in at]
        table = self.in_order(of, (*(of.dims[p] for p in at), *rest))
        codes = self._places(x)
        return call("F.embedding", *codes, table) if len(codes) == len(rest) == 1 else item(table, *codes)

    def pick_(self, x: Array) -> Code:
        code, flat, rest, found = self.flattened(x)
        if len(found) != 1:
            flat = method(flat, "flatten", -len(found)) if found else method(flat, "unsqueeze", -1)
        if rest:
            flat = item(flat, "...", *["None"] * len(rest), ":")
        code = call("torch.take_along_dim", code, flat, -1)
        if not found:
            return method(code, "squeeze", -1)
        return code if len(found) == 1 else method(code, "unflatten", -1, listed(*(i.axis.size for i in found)))

    # --- along axes ------------------------------------------------------------------------------------------------
    def sum_(self, x: Array) -> Code:
        (given,) = x.args
        if x.op == "sum" and given.op == "cast" and given.args[0].type == "bool" and x.type == "int":
            x = replace(x, args=given.args)  # torch counts truth values by itself
        return self._convolution(x) or Spelling.sum_(self, x)

    def _convolution(self, x: Array) -> Code | None:
        """A sum over a window of its entries times a parameter."""
        (given,) = x.args
        if x.op != "sum" or given.op != "mul":
            return None
        for taps, window in (given.args, given.args[::-1]):
            taps = taps.args[0] if taps.op == "clip" else taps
            if window.op == "local" and window.arg in self.convolved and taps.op == "stored" and not taps.lead:
                entry, past = self.convolved[window.arg]
                if x.arg == window.dims[:1] and x.dims == window.dims[1:] and {*taps.dims} == {*window.dims}:
                    return call("convolve", entry, self.in_order(taps, window.dims), past)
        return None

    def norm_(self, x: Array) -> Code:
        (given,) = x.args
        return call("torch.linalg.vector_norm", self.of(given), dim=self.axes(given, x.arg))

    def contract_(self, x: Array) -> Code:
        how = x.arg
        if how.weight is None:
            return Spelling.contract_(self, x)
        matrix, given = self._matrix(x.args[0]), self.of(x.args[1])
        if how.transposed:
            matrix = member(matrix, "mT" if self.rows else "T")
        code = call("grouped_linear", given, matrix, "rows") if self.rows else call("F.linear", given, matrix)
        sizes = [i.axis.size for i in how.outs]
        return method(code, "unflatten", -1, listed(*sizes)) if len(sizes) > 1 else code

    def _matrix(self, x: Array) -> Code:
        """A parameter as it is stored, or a copy of it."""
        return self._cast(x, self._matrix(x.args[0])) if x.op == "cast" else self.parameter(x.arg.name)


OPS = rules_of(Torch)
