"""The stack written out: paths, layers, carries, ties, and the mistakes of its lines."""

from __future__ import annotations

import pytest

from cdrmix.check import load_text
from cdrmix.diagnose import CompileError, explain
from cdrmix.ir.layout import weights
from cdrmix.ir.nodes import Model

OPS = """
op embed(id: index[vocab], vocab: int, width: int) -> [width] {
  param E: [vocab, width] ~ 0
  return E[id]
}
op head(x: [D], vocab: int) -> [vocab] {
  param W: [vocab, D] ~ 0
  return W @ x
}
op scale(x: [D], by: float = 1.0) -> [D] {
  param w: [D] ~ 1
  return x*w*by
}
op norm(x: [D]) -> [D] {
  param w: [D] ~ 1
  return x*w
}
op slot(x: [D]) -> [D] {
  part scale: norm
  return scale(x)
}
op to(x: [D], n: int) -> [n] {
  param W: [n, D] ~ 0
  return W @ x
}
op depth(x: [D]) -> [D] {
  param w: [D] ~ layer/layers
  return x*w
}
op first(x: [D], n: int) -> [D] {
  carry v: [n]
  param W: [n, D] ~ 0
  when carried(v) {
    param U: [D, n] ~ 0
    return U @ (v + W @ x)
  } else {
    v' = W @ x
    return x
  }
}
op writes(x: [D]) -> [D] {
  carry v: [D]
  v' = x
  return x
}
op reads(x: [D]) -> [D] {
  carry v: [D]
  return x + v
}
op pair(x: [D], y: [D]) -> [D] { return x + y }
op fp(x: [D]) -> [D] {
  param w: f32[D] ~ 0
  buffer b: [D] = 0
  after step b'[i] = mean[tokens](x[i])
  return x*w + b
}
let four = 4
"""


def model(lines: str, settings: str = "", **overrides: str) -> Model:
    body = f"vocab = 8\n{settings}\nstack {{\n{lines}\n}}"
    return load_text(f"{OPS}\nmodel m {{\n{body}\n}}\n", overrides=overrides)


def paths(model: Model) -> list[str]:
    return [i.path for line in model.lines for i in line.chain]


def mistakes(lines: str, settings: str = "") -> list[tuple[str, str]]:
    with pytest.raises(CompileError) as error:
        model(lines, settings)
    assert explain(error.value).count("-->") == len(error.value.diagnostics)
    assert all(d.help for d in error.value.diagnostics)
    return [(d.code, d.message) for d in error.value.diagnostics]


def whole(inner: str) -> str:
    return f"embed(vocab, 4)\n{inner}\nhead(vocab)"


def test_paths_are_labels() -> None:
    lines = """
    emb: embed(vocab, 4)
    ln: norm
    repeat layer < 2 {
      att: residual norm >> mixer
      residual scale(by=2)
      repeat part_ < 2 { norm >> to(4) }
    }
    head(vocab)
    """
    made = model(lines, "mixer = depth")
    layer = ["att.norm", "att", "scale", "part_.0.to.norm", "part_.0.to", "part_.1.to.norm", "part_.1.to"]
    assert paths(made) == ["emb", "ln", *(f"layer.{i}.{p}" for i in (0, 1) for p in layer), "head"]
    assert (made.vocab, made.width) == (8, 4)
    assert [line.residual for line in made.lines].count(True) == 4


def test_a_label_is_the_name_in_the_text() -> None:
    made = model(whole("mixer\ng.deep(by=2)"), "mixer = scale\ng { deep = scale }")
    assert paths(made) == ["embed", "mixer", "deep", "head"]


def test_layers_and_cells() -> None:
    made = model(whole("repeat layer < 3 { depth }\nrepeat i < 2 { depth(layer=1, layers=4) }"))
    where = [(i.layer, i.layers) for line in made.lines for i in line.chain]
    assert where == [(0, 1), (0, 3), (1, 3), (2, 3), (0, 1), (0, 1), (0, 1)]  # given ones are the cell's own
    shared = {i.cell for line in made.lines[1:4] for i in line.chain}
    assert len(shared) == 1
    assert list(made.cells)[-1] == made.lines[-1].chain[-1].cell


def test_branches_and_lets() -> None:
    lines = """
    repeat layer < n {
      let last = layer == n - 1
      if last { end: scale } else if layer % 2 == 0 { even: norm } else { odd: norm }
      require n < 10, "few"
    }
    """
    made = model(whole(lines.replace("last", "is_end")), "n = 4")
    assert paths(made)[1:-1] == ["layer.0.even", "layer.1.odd", "layer.2.even", "layer.3.end"]
    assert paths(model(whole(lines.replace("last", "is_end")), "n = 0")) == ["embed", "head"]


def test_an_op_may_be_chosen_by_an_expression() -> None:
    made = model(whole("repeat layer < 2 { f: scale(by=3) if layer == 0 else norm }"))
    assert [made.cells[i.cell].op for line in made.lines[1:3] for i in line.chain] == ["scale", "norm"]


def test_cells_come_before_their_callers() -> None:
    made = model(whole("slot"))
    order = list(made.cells)
    for name, cell in made.cells.items():
        assert all(order.index(part.cell) < order.index(name) for part in cell.parts)
    assert "embed.scale.w" not in {w.path for w in weights(made)}
    assert {w.path for w in weights(made)} == {"embed.E", "slot.scale.w", "head.W"}


def test_carries_run_down_the_stack() -> None:
    made = model(whole("repeat layer < 3 { first(n=3) }"))
    cells = [i.cell for line in made.lines[1:-1] for i in line.chain]
    assert cells[0] != cells[1] == cells[2]
    assert made.cells[cells[0]].carries[0].writes and made.cells[cells[1]].carries[0].reads
    model(whole("writes\nrepeat layer < 2 { reads\nagain: writes }"))
    model(whole("repeat layer < 3 { if carried(v) { reads } else { writes } }"))


def test_ties_share_storage() -> None:
    made = model(whole("tie head.W = embed.E\nrepeat layer < 2 {\na: scale\nb: scale\ntie a.w = b.w\n}"))
    assert made.ties == {"head.W": "embed.E", "layer.0.a.w": "layer.0.b.w", "layer.1.a.w": "layer.1.b.w"}
    chained = model(whole("a: scale\nb: scale\nc: scale\ntie a.w = b.w\ntie b.w = c.w"))
    assert chained.ties == {"a.w": "c.w", "b.w": "c.w"}
    outer = model(whole("s: scale\nrepeat layer < 2 {\na: scale\ntie a.w = s.w\n}"))
    assert set(outer.ties.values()) == {"s.w"}
    first = model(whole("repeat layer < 3 {\na: scale\nif layer > 0 {\ntie a.w = layer.0.a.w\n}\n}"))
    assert first.ties == {"layer.1.a.w": "layer.0.a.w", "layer.2.a.w": "layer.0.a.w"}
    nested = model(whole("repeat i < 2 {\nrepeat j < 2 {\na: scale\n}\n}\ntie i.0.j.1.a.w = i.1.j.0.a.w"))
    assert nested.ties == {"i.0.j.1.a.w": "i.1.j.0.a.w"}
    owners = {w.owner for w in weights(outer)}
    assert owners == {"embed.E", "s.w", "head.W"}


@pytest.mark.parametrize(
    ("lines", "code", "words"),
    [
        ("norm\nembed(vocab, 4)", "E0707", "the stack takes a token, and op `norm` takes a tensor"),
        ("embed(vocab, 4)\nnorm", "E0707", "ends in [4]"),
        ("", "E0711", "no line with an op"),
        (whole("again: embed(vocab, 4)"), "E0712", "takes a token, and [4] flows into it"),
        (whole("pair"), "E0712", "takes 2 inputs"),
        (whole("to"), "E0210", "op `to` needs `n`"),
        (whole("to(m=3)"), "E0209", "no argument `m`"),
        (whole("nrom"), "E0201", "no name `nrom`"),
        (whole("4*four"), "E0709", "an int (16), not an op"),
        (whole('"norm"'), "E0709", "a string"),
        (whole("norm\nnorm"), "E0704", "two lines are both named `norm` (first at"),
        (whole("a: norm >> norm >> scale"), "E0704", "two ops of the line are both named `norm`"),
        (whole("scale >> slot"), "E0704", "`scale` names an op of the line and something inside `slot`"),
        (whole("repeat layer < 2 { norm }\nrepeat layer < 2 { norm }"), "E0704", "both named `norm`"),
        (whole("residual to(5)"), "E0508", "`residual` adds [5] to [4]"),
        ("residual embed(vocab, 4)\nhead(vocab)", "E0508", "adds [4] to a token"),
        (whole("reads"), "E0503", "carry `v` is read here and nothing above writes it"),
        (whole("repeat layer < 40 { reads }"), "E0503", "read in layer.0 and"),
        (whole("writes\nto(3) >> reads\nto(4)"), "E0504", "[4] in writes and of [3] in reads"),
        (whole("repeat layer < 2 { a: writes\nb: writes }"), "E0509", "written twice in one layer"),
        (whole("repeat i < 2.0 { norm }"), "E0214", "2.0 is a float"),
        (whole("repeat i < 0 - 1 { norm }"), "E0713", "is -1"),
        (whole("repeat i < 10^9 { norm }"), "E0713", "is 1000000000"),
        (whole("repeat i < 9999 { repeat j < 9999 { } }"), "E0713", "more than 10000 lines"),
        (whole("repeat i < 101 { repeat j < 101 { norm } }"), "E0713", "more than 10000 lines"),
        (whole("repeat layer < 2 { repeat layer < 2 { norm } }"), "E0205", "already a name of the lines"),
        (whole("repeat layers < 2 { norm }"), "E0205", "already a name of the language"),
        (whole("let vocab = 3"), "E0205", "already a setting in spec.cdr"),
        (whole("let norm = 3"), "E0205", "already a name of the file"),
        (whole("let a = 1\nlet a = 2"), "E0205", "already a name of the lines"),
        (whole("if four { norm }"), "E0216", "true or false"),
        (whole("let a = 3\nrequire a == four"), "E0706", "(a is 3)"),
        (whole("require layer == 0"), "E0212", "outside any `repeat layer`"),
        (whole("if pos == 0 { norm }"), "E0213", "`pos`"),
        (whole("scale(by=layer)"), "E0212", "`layer`"),
        (whole("tie head.w = embed.E"), "E0714", "no parameter `head.w`"),
        (whole("repeat i < 2 {\na: scale\n}\ntie i.2.a.w = i.0.a.w"), "E0714", "no parameter `i.2.a.w`"),
        (whole("a: norm\ntie head.W = a.w"), "E0708", "tie head.W [8, 4] = a.w [4]: shapes differ"),
        (whole("a: norm\nfp\ntie a.w = fp.w"), "E0708", "types differ"),
        (whole("a: norm\nfp\ntie a.w = fp.b"), "E0714", "is a buffer"),
        (whole("a: norm\nb: norm\ntie a.w = b.w\ntie a.w = b.w"), "E0714", "tied already"),
        (whole("a: norm\nb: norm\ntie a.w = b.w\ntie b.w = a.w"), "E0714", "would own itself"),
        (whole("a: norm\ntie a.w = a.w"), "E0714", "would own itself"),
    ],
)
def test_mistakes(lines: str, code: str, words: str) -> None:
    found = mistakes(lines)
    assert [c for c, _ in found] == [code]
    assert words in found[0][1]


def test_a_wrong_line_hides_nothing_below_it() -> None:
    found = mistakes(whole("residual nrom\nto(m=1)\nnorm\nnorm"))
    assert [c for c, _ in found] == ["E0201", "E0209", "E0704"]


def test_layer_is_asked_of_the_place() -> None:
    assert [c for c, _ in mistakes(whole("depth"))] == ["E0212"]
    model(whole("depth(layer=0, layers=2)"))


def test_a_long_chain() -> None:
    names = " >> ".join(f"(scale if vocab == {i} else norm)" for i in range(3))
    assert [c for c, _ in mistakes(whole(f"a: {names}"))] == ["E0704"]
