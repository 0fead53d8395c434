"""Every primitive, one and several indices, as a spec: each expression is the next value of a state of its own.

Output: `GROUPS` of `Primitive`s by name, the spec of some of them, and weights whose embedding rows are the inputs.  A
token is a row; after each the states are compared with the interpreter's, number by number.

`D` is seen as [A, B, C, E], C of length one, so that there are indices before, between and after what is reduced.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdrmix.check import load
from cdrmix.ir.nodes import Model

Array = NDArray[Any]
SIZES = {"a": 2, "b": 3, "c": 1, "e": 4}
WIDTH = 24
ALL = tuple(SIZES)


@dataclass(frozen=True, slots=True)
class Primitive:
    """An expression over free indices; `of` is the row of the ops table it is there for, `more` goes before it."""

    name: str
    of: str
    text: str
    free: tuple[str, ...] = ALL
    more: str = ""
    wide: bool = False

    def lines(self) -> list[str]:
        """Its state and equation."""
        shape = ", ".join(i.upper() for i in self.free)
        at = f"[{','.join(self.free)}]" if self.free else ""
        return [
            f"state {self.state}: f32[{shape}]",
            *([self.more] if self.more else []),
            f"{self.state}'{at} = {self.text}",
        ]

    @property
    def state(self) -> str:
        """The state's name, which no function has."""
        return f"{self.name}_"


X, W = "x[a,b,c,e]", "w[a,b,c,e]"
FUNCTIONS = ("exp", "log", "sqrt", "abs", "sign", "sin", "cos", "tanh", "sigmoid", "silu", "relu", "softplus", "log1p",
             "expm1", "erf", "floor", "round")  # fmt: skip
BINARY = {"add": "+", "sub": "-", "mul": "*", "div": "/", "floordiv": "//", "mod": "%", "pow": "^"}
COMPARED = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
CALLED = ("max", "min", "logaddexp", "atan2")
REDUCED = {"sum": "sum", "mean": "mean", "max_over": "max", "min_over": "min", "logsumexp": "logsumexp"}
OVER = (("a",), ("b",), ("c",), ("e",), ("a", "b"), ("b", "e"), ("a", "e"), ("c", "e"), ("b", "c"), ALL)


def _functions() -> Iterable[Primitive]:
    for f in FUNCTIONS:
        given = f"abs({X})" if f in ("log", "sqrt", "log1p") else X
        yield Primitive(f, f, f"{f}({given})", wide=True)
        yield Primitive(f"{f}_nested", f, f"0.5*{f}(1 + abs({f}(1.2 + abs({W}))))")
        yield Primitive(f"{f}_of_index", f, f"{f}(1.5 + b)*{W}")
    yield Primitive("log1p_below_zero", "log1p", f"log1p(-{X}^2 / (1 + {X}^2))")
    yield Primitive("round_halves", "round", f"round(0.5*{X}) + round({X} + 0.5)")
    yield Primitive("neg", "neg", f"-{X}", wide=True)
    yield Primitive("neg_nested", "neg", f"-(1 - -{X})")


def _binary() -> Iterable[Primitive]:
    for of, sign in BINARY.items():
        left = f"(0.5 + abs({X}))" if of == "pow" else X
        right = f"(0.5 + abs({W}))"
        yield Primitive(of, of, f"{left} {sign} {right}", wide=of in ("add", "sub", "max", "min"))
        yield Primitive(f"{of}_number", of, f"{left} {sign} 3")
        yield Primitive(f"number_{of}", of, f"3 {sign} {right}")
        yield Primitive(f"{of}_spread", of, f"abs(x[a,1,0,e]) {sign} (1 + abs(w[1,b,0,0]))", ("a", "b", "e"))
        yield Primitive(f"{of}_index", of, f"((a + 7) {sign} (b + 1))*{W}")
        yield Primitive(f"index_{of}", of, f"(b + 2) {sign} {right}")
    yield Primitive("floordiv_large", "floordiv", f"(8388609*sign(abs({X}) + 1)) // 1")
    for n in ("0", "1", "-1", "2", "3", "4", "5", "-2", "7", "0.5", "-0.5", "2.5", "1/3", "9", "33", "-9"):
        base = X if "." not in n and "/" not in n else f"abs({X})"
        yield Primitive(f"pow_{n.translate(str.maketrans('-./', 'nph'))}", "pow", f"{base}^({n})")
    yield Primitive("pow_whole_index", "pow", f"{X}^(b + 1)")
    yield Primitive("pow_whole_tensor", "pow", f"{X}^(2 + sign({W}))")
    yield Primitive("pow_of_nothing", "pow", f"(0*{X})^(b*{W}^2)")


def _choices() -> Iterable[Primitive]:
    for of, sign in COMPARED.items():
        yield Primitive(of, of, f"1.0*({X} {sign} {W})")
        yield Primitive(f"{of}_number", of, f"{X}*({X} {sign} 0.5)")
        yield Primitive(f"{of}_index", of, f"{X}*(a {sign} b)")
    for of in CALLED:
        yield Primitive(of, of, f"{of}({X}, {W})", wide=True)
        yield Primitive(f"{of}_number", of, f"{of}({X}, 0.25)", wide=True)
        yield Primitive(f"{of}_spread", of, f"{of}(x[a,1,0,e], w[1,b,0,0])", ("a", "b", "e"))
        yield Primitive(f"{of}_index", of, f"{of}(a, b)*{W}")
        yield Primitive(f"{of}_nested", of, f"{of}({of}({X}, -1), {of}({W}, {X}))")
    yield Primitive("and", "and", f"{X}*({X} > 0 and {W} > 0)")
    yield Primitive("or", "or", f"{X}*({X} > 0 or a == b)")
    yield Primitive("not", "not", f"{X}*(not ({X} > 0))")
    yield Primitive("select", "select", f"{X} if {W} > 0 else 2*{W}")
    yield Primitive("select_numbers", "select", f"(2.0 if {W} > 0 else 0.5) + (1 if a == b else 3)")


def _reductions() -> Iterable[Primitive]:
    for of, f in REDUCED.items():
        for over in OVER:
            at, free = ",".join(over), tuple(i for i in ALL if i not in over)
            name = f"{f}_{''.join(over)}"
            yield Primitive(name, of, f"{f}[{at}]({X})", free, wide=True)
            yield Primitive(f"{name}_nested", of, f"1 + 0.5*{f}[{at}](abs({X})*{W} - {W})", free)
        yield Primitive(f"{f}_within", of, f"{X} - {f}[i](x[i,b,c,e]*{f}[j,k](w[i,j,c,k]))")
        yield Primitive(f"{f}_mixed", of, f"{f}[b,e](x[a,b,c,0] + w[a,0,c,e])", ("a", "c"))
        yield Primitive(f"{f}_bound", of, f"{f}[k < 3](x[a,b,c,k + 1])", ("a", "b", "c"))
        yield Primitive(f"{f}_of_index", of, f"{f}[k < 3](k + 1)*w[a,0,c,e]", ("a", "c", "e"))
        yield Primitive(f"{f}_of_truth", of, f"1.0*{f}[b,e]({X} > 0)", ("a", "c"))


def _along() -> Iterable[Primitive]:
    for i in ALL:
        yield Primitive(f"softmax_{i}", "softmax", f"softmax[{i}]({X})", wide=True)
        yield Primitive(f"softmax_{i}_nested", "softmax", f"sum[{i}](softmax[{i}]({X}*{W})*{W})",
                        tuple(j for j in ALL if j != i))  # fmt: skip
    yield Primitive("top_1", "top", "sum[k](g1[k]*w1[p1[k]])", (), "w1 = w as [D]\n  g1, p1 = top[k < 1](u)")
    yield Primitive("top_3", "top", "sum[k]((k + 1)*g3[k] + p3[k])", (), "g3, p3 = top[k < 3](u)")
    yield Primitive("top_all", "top", "sum[k]((k + 1)*g4[k] + p4[k])", (), "g4, p4 = top[k < 4](x[1,2,0])")
    yield Primitive("top_chosen", "top", "1.0*sum[k](p5[k] == e)", ("e",), "_, p5 = top[k < 2](x[0,0,0])")


def _windows() -> Iterable[Primitive]:
    for of, f in REDUCED.items():
        yield Primitive(f"{f}_window", of, f"{f}[t](H[t,a,b,c,e])")
        yield Primitive(f"{f}_window_and", of, f"{f}[t,b](H[t,a,b,c,e])", ("a", "c", "e"))
        yield Primitive(f"{f}_and_window", of, f"{f}[e,a,t](H[t,a,b,c,e]*{W})", ("b", "c"))
        yield Primitive(f"{f}_window_idle", of, f"{f}[t](w[a,0,0,0] + 0*H[t,a,0,0,0])", ("a",))
        yield Primitive(f"{f}_window_age", of, f"{f}[t](H[t,a,b,c,e] - t)")
    yield Primitive("softmax_window", "softmax", f"sum[t](softmax[t](H[t,a,b,c,e]*{W})*H[t,a,b,c,e])")


GROUPS: dict[str, tuple[Primitive, ...]] = {
    "functions": tuple(_functions()),
    "binary": tuple(_binary()),
    "choices": tuple(_choices()),
    "sums": tuple(p for p in _reductions() if p.of in ("sum", "mean")),
    "extremes": tuple(p for p in _reductions() if p.of not in ("sum", "mean")),
    "along": tuple(_along()),
    "windows": tuple(_windows()),
}
NAMED = {p.name: p for p in chain(*GROUPS.values())}

HEAD = """use "lib/embed.cdr" { embed, head }

op primitives(u: [D], A: int = 2, B: int = 3, C: int = 1) -> [D] {
  dim D = A * B * C * E
  param w: [A, B, C, E] ~ 1
  x = u as [A, B, C, E]
"""
TAIL = """
model primitives {
  vocab = 8
  d_model = 24
  stack {
    emb: embed(vocab, d_model)
    all: primitives
    head(vocab)
  }
}
"""


def spec(which: Iterable[Primitive]) -> str:
    """A spec of some primitives; every state is read, though the output is of no interest."""
    chosen = list(which)
    lines = [line for p in chosen for line in p.lines()]
    if any("H[t" in p.text for p in chosen):
        lines.insert(0, "history H: [A, B, C, E] last 3 = x")
    seen = "u + w[0,0,0,0]"
    for n, p in enumerate(chosen):
        lines.append(f"seen{n} = {seen} + {p.state}'" + (f"[{','.join('0' * len(p.free))}]" if p.free else ""))
        seen = f"seen{n}"
    body = "".join(f"  {line}\n" for line in lines)
    return f"{HEAD}{body}  return {seen}\n}}\n{TAIL}"


def model_of(which: Iterable[Primitive], folder: Path) -> Model:
    """The checked model."""
    path = folder / "primitives.cdr"
    path.write_text(spec(which), encoding="utf-8")
    return load(path)


def weights_of(rows: Array) -> dict[str, Array]:
    """Weights whose embedding rows are the inputs."""
    rng = np.random.default_rng(0)
    return {
        "emb.E": rows.astype(np.float32),
        "all.w": (rng.choice([-1, 1], (2, 3, 1, 4)) * rng.uniform(0.3, 2, (2, 3, 1, 4))).astype(np.float32),
        "head.W": np.zeros((8, WIDTH), np.float32),
    }


def ordinary() -> Array:
    """Inputs of ordinary size, some of them zero, equal or whole."""
    rng = np.random.default_rng(1)
    rows = rng.normal(0, 1.5, (8, WIDTH))
    rows[1] = rng.integers(-3, 4, WIDTH)
    rows[2], rows[3] = 0.0, -1.25
    return rows


def extreme() -> Array:
    """Inputs where results are tiny or just within f32's range."""
    sizes = [1e-37, 1e-30, 1e-16, 1e-7, 1e-4, 1e-2, 0.3, 0.9, 1.0, 3.0, 9.0, 16.0, 20.0, 30.0, 37.0, 50.0, 60.0, 70.0,
             80.0, 85.0, 86.0, 2e-3, 40.0, 1e-20]  # fmt: skip
    rng = np.random.default_rng(2)
    mixed = [rng.permutation(sizes) * rng.choice([-1, 1], WIDTH) for _ in range(4)]
    return np.array([sizes, [-s for s in sizes], *mixed, [-80.0] * WIDTH, [80.0] * WIDTH])


def huge() -> Array:
    """Inputs at which functions end."""
    sizes = [90.0, 100.0, 104.0, 150.0, 200.0, 500.0, 700.0, 1e3, 1e4, 1e5, 1e6, 1e7]
    return np.array([[sign * size for size in sizes for sign in (1, -1)]] * 7 + [[-1e30, 1e30, 3e38, -3e38] * 6])
