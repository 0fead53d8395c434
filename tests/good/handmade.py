"""Cells made by hand, for tests that must not lean on the checker."""

from __future__ import annotations

from cdrmix.ir import build
from cdrmix.ir.build import add, const, div, index, mul, node, read, reduce, sub
from cdrmix.ir.nodes import (
    TOKENS,
    Apply,
    Axis,
    Buffer,
    Cell,
    Def,
    DType,
    Given,
    History,
    Index,
    Init,
    Input,
    Instance,
    Line,
    Model,
    Node,
    Param,
    Part,
    Ref,
    State,
    Stmt,
    Top,
    Training,
)
from cdrmix.ir.verify import verify

D = Axis("D", 6)
H = Axis("H", 2)
N = Axis("N", 3)
W = Axis("W", 4)
h, i, j, k, m = Index("h", H), Index("i", N), Index("j", N), Index("k", D), Index("m", N)
d, t = Index("d", D), Index("t", W)
ZERO = Init("value", (const(0),))
X = Ref("input", "x")
OUT = Ref("output", "out")


def param(name: str, *indices: Index) -> Param:
    """A param that begins at zero."""
    return Param(name, indices, ZERO)


def at(kind: str, name: str, *indices: Index | Node, view: tuple[Axis, ...] | None = None) -> Node:
    """A read of `name` at `indices`."""
    axes = view or tuple(n.axis for n in indices if isinstance(n, Index))
    return read(Ref(kind, name), axes, indices, dtype_of(kind))  # type: ignore[arg-type]


def define(kind: str, name: str, indices: tuple[Index, ...], value: Node) -> Def:
    """A definition with the dtype of its kind."""
    return Def(Ref(kind, name), indices, value, dtype_of(kind))  # type: ignore[arg-type]


def dtype_of(kind: str) -> DType:
    """The dtype that these cells give a kind of name."""
    return "f32" if kind in ("state", "next", "buffer") else "work"


def cell(name: str, *body: Stmt, width: Axis = D, **rest: object) -> Cell:
    """An op from [D] to [D]."""
    return Cell(name, name, (Input("x", (width,)),), (D,), body, **rest)  # type: ignore[arg-type]


def model(*cells: Cell) -> Model:
    """The last cell, run on a raw input."""
    line = Line("f", False, (Instance("f", cells[-1].name),))
    made = Model("m", 0, 6, (line,), {c.name: c for c in cells})
    verify(made)
    return made


def layer_norm() -> Cell:
    """The mean and the variance as definitions."""
    mean = reduce("mean", (k,), at("input", "x", k))
    centred = sub(at("input", "x", k), at("def", "mu"))
    var = reduce("mean", (k,), node("pow", centred, const(2)))
    body = div(sub(at("input", "x", d), at("def", "mu")), node("sqrt", add(at("def", "var"), const(1e-5))))
    value = add(mul(body, at("param", "w", d)), at("param", "b", d))
    return cell(
        "norm",
        define("def", "mu", (), mean),
        define("def", "var", (), var),
        define("output", "out", (d,), value),
        params=(param("w", d), param("b", d)),
    )


def delta_cell() -> Cell:
    """`S' = S (1 - a bᵀ) + x xᵀ` and `y = S' x`, with S over heads and x: [D] read as [H, N]."""
    x = lambda n: at("input", "x", h, n)  # noqa: E731
    seen = reduce("sum", (m,), mul(at("state", "S", h, i, m), at("param", "a", h, m)))
    kept = sub(at("state", "S", h, i, j), mul(seen, at("param", "b", h, j)))
    y = reduce("sum", (j,), mul(at("next", "S", h, i, j), x(j)))
    flat = read(Ref("def", "y"), (D,), (d,))
    return cell(
        "delta",
        define("next", "S", (h, i, j), add(kept, mul(x(i), x(j)))),
        define("def", "y", (h, i), y),
        define("output", "out", (d,), flat),
        params=(param("a", h, i), param("b", h, i), param("S0", h, i, j)),
        states=(State("S", (h, i, j), at("param", "S0", h, i, j)),),
    )


def history_cell(body: Node) -> Cell:
    """A window of four tokens, a filter over it, and `body` from them."""
    return cell(
        "conv",
        define("history", "X", (d,), at("input", "x", d)),
        define("output", "out", (d,), body),
        params=(param("F", t, d),),
        histories=(History("X", W, (D,)),),
    )


E, K = Axis("E", 4), Axis("K", 2)
e, c = Index("e", E), Index("c", K)


def bank_cells() -> tuple[Cell, Cell]:
    """Two of four experts a token; an expert scales the sum of its own tokens, a window of two, and `pos`."""
    total = add(at("state", "s", d), at("input", "x", d))
    t2 = Index("t", Axis("two", 2))
    recent = reduce("sum", (t2,), at("history", "X", t2, d))
    value = add(mul(at("param", "w"), add(at("next", "s", d), recent)), build.context("pos"))
    expert = cell(
        "expert",
        define("next", "s", (d,), total),
        define("history", "X", (d,), at("input", "x", d)),
        define("output", "out", (d,), value),
        params=(param("w"),),
        states=(State("s", (d,), const(0)),),
        histories=(History("X", t2.axis, (D,)),),
    )
    logits = reduce("sum", (k,), mul(at("param", "G", e, k), at("input", "x", k)))
    pick = read(Ref("def", "pick"), (K,), (index(c),), "pick")
    out = reduce("sum", (c,), mul(at("def", "gate", c), at("def", "y", c, d)))
    c2 = Index("c2", K)
    chosen = reduce("sum", (c2,), node("eq", read(Ref("def", "pick"), (K,), (c2,), "pick"), index(e)))
    tok = Index("tokens", TOKENS)
    e2 = Index("e2", E)
    load = reduce("mean", (tok,), read(Ref("def", "chosen"), (E,), (e,), "int"))
    mean = reduce("mean", (tok,), read(Ref("def", "chosen"), (E,), (e2,), "int"))
    aux = reduce("sum", (e2,), mul(mean, at("buffer", "bias", e2)))
    moe = cell(
        "moe",
        define("def", "p", (e,), logits),
        Top("gate", "pick", (), c, e, at("def", "p", e)),
        Apply("y", "F", (c,), pick, (Given(X),), (d,)),
        Def(Ref("def", "chosen"), (e,), chosen, "int"),
        define("output", "out", (d,), out),
        params=(param("G", e, k),),
        parts=(Part("F", "expert", e),),
        buffers=(Buffer("bias", (e,), const(0)),),
        training=(
            Training("metric", "load", (e,), load),
            Training("aux", "loss", (), aux),
            Training("after", "bias", (e,), sub(at("buffer", "bias", e), load)),
        ),
    )
    return expert, moe
