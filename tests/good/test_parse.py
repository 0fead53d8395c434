"""Text to syntax trees: what the grammar means, where every node stands, and that no text brings the parser down."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdrmix.diagnose import CompileError, Diagnostic, Span, render
from cdrmix.syntax import ast, parse, parse_expression, read_source
from cdrmix.syntax.newlines import statements
from cdrmix.syntax.parser import tables
from cdrmix.syntax.words import _PLAIN, KEYWORDS

SPEC = Path(__file__).resolve().parents[2] / "spec"
FILES = sorted(SPEC.rglob("*.cdr"))


def bare(node: Any) -> Any:
    """A syntax tree as nested tuples, without its spans."""
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        fields = (f.name for f in dataclasses.fields(node) if f.name != "span")
        return (type(node).__name__, *(bare(getattr(node, name)) for name in fields))
    return tuple(map(bare, node)) if isinstance(node, tuple) else node


def nodes(node: Any) -> Iterator[ast.Syntax]:
    """Every node of a tree."""
    if isinstance(node, ast.Syntax):
        yield node
        for f in dataclasses.fields(node):
            yield from nodes(getattr(node, f.name))
    elif isinstance(node, tuple):
        for child in node:
            yield from nodes(child)


def text_of(source: str, span: Span) -> str:
    """The stretch of `source` that `span` names."""
    lines = source.split("\n")[span.line - 1 : span.end_line]
    lines[-1] = lines[-1][: span.end_col - 1]
    lines[0] = lines[0][span.col - 1 :]
    return "\n".join(lines)


def grouped(text: str) -> str:
    """An expression with every bracket written."""

    def show(e: Any) -> str:
        match e:
            case ast.Num(value=v) | ast.Bool(value=v) | ast.Str(value=v):
                return repr(v)
            case ast.Name(id=name):
                return name
            case ast.Primed(id=name):
                return name + "'"
            case ast.Path(parts=parts):
                return ".".join(parts)
            case ast.Unary(op=op, arg=a):
                return f"({op} {show(a)})"
            case ast.Binary(op=op, left=a, right=b):
                return f"({show(a)} {op} {show(b)})"
            case ast.Compose(left=a, right=b):
                return f"({show(a)} >> {show(b)})"
            case ast.IfElse(then=a, cond=c, other=b):
                return f"({show(a)} if {show(c)} else {show(b)})"
            case ast.Index(base=a, items=items):
                return f"{show(a)}[{', '.join(map(show, items))}]"
            case ast.Call(base=a, args=args):
                shown = [(f"{x.name}=" if x.name else "") + show(x.value) for x in args]
                return f"{show(a)}({', '.join(shown)})"
            case ast.Reshape(base=a, type=t):
                return f"({show(a)} as {t.dtype or ''}[{', '.join(map(show, t.dims))}])"
        raise AssertionError(e)

    return show(parse_expression(text, "test"))


def only(text: str) -> Diagnostic:
    """The one mistake of `text`."""
    with pytest.raises(CompileError) as caught:
        parse(text, "test.cdr")
    (found,) = caught.value.diagnostics
    return found


def body(text: str) -> tuple[ast.Stmt, ...]:
    """The statements of an op."""
    (op,) = parse(f"op f(x: [D]) -> [D] {{\n{text}\n}}\n", "test.cdr").items
    assert isinstance(op, ast.OpDef)
    return op.body


def test_grammar_is_unambiguous() -> None:
    tables(strict=True)  # Lark refuses conflicts and colliding terminals


def test_words_are_those_of_the_grammar() -> None:
    terminals = {t.name: t.pattern.value for t in tables().terminals}
    assert {value for value in terminals.values() if re.fullmatch(r"[a-z][a-z0-9]+", value)} == KEYWORDS
    assert set(_PLAIN) <= set(terminals)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("a + b*c - d", "((a + (b * c)) - d)"),
        ("Wo @ y as [D]", "(Wo @ (y as [D]))"),
        ("a @ b * c / d // e % f", "(((((a @ b) * c) / d) // e) % f)"),
        ("-a^2", "(- (a ^ 2))"),
        ("a^-b^c", "(a ^ (- (b ^ c)))"),
        ("2 * -x", "(2 * (- x))"),
        ("not a == b and c or d", "(((not (a == b)) and c) or d)"),
        ("a if b else c if d else e", "(a if b else (c if d else e))"),
        ("a >> b >> c if d else e", "((a >> b) >> (c if d else e))"),
        ("F[pick[k]](x)[d]", "F[pick[k]](x)[d]"),
        ("top[k < n](p, q=2)", "top[(k < n)](p, q=2)"),
        ("S'[h, i,]", "S'[h, i]"),
        ("moe.experts + 1e-3*10_000", "(moe.experts + (0.001 * 10000))"),
        ("(x as f32[H, N]) as []", "((x as f32[H, N]) as [])"),
        ('place == "last" != true', None),
        ("f() + 1.5 + 2", "((f() + 1.5) + 2)"),
    ],
)
def test_precedence(text: str, meant: str | None) -> None:
    if meant is None:
        with pytest.raises(CompileError):
            grouped(text)
    else:
        assert grouped(text) == meant


def test_numbers_keep_their_kind() -> None:
    for text, value in {"3": 3, "1_000": 1000, "3.0": 3.0, "2e3": 2000.0, "6.25e-2": 0.0625}.items():
        (found,) = [n for n in nodes(parse_expression(text, "test")) if isinstance(n, ast.Num)]
        assert found.value == value and type(found.value) is type(value)


def test_every_statement() -> None:
    text = """
    let a = 1
    dim D = H * N
    param w: f32[i < D, D] ~ orthogonal(gain=0.1) !lr(2) !decay(0)
    state S: [H, N] = 1 !keep
    carry v0: [D]
    history K: [N] last window = x
    part f: op2(n=3)
    bank F: [e < experts] of expert !capacity(1.25)
    buffer b: [experts] = 0
    after step b'[e] = b[e] + 1
    aux loss = mean[tokens](x)
    metric load[e] = b[e]
    require a < 2, "a is small"
    when a == 1 { y = x } else when a == 2 { y = 2*x } else { y = 3*x }
    gate, _ = top[k < 2](x)
    S'[h, n] = x[h, n]
    return y
    drop q, r
    """
    kinds = " ".join(type(s).__name__ for s in body(text))
    assert kinds == (
        "Let Dim Param State Carry History Part Bank Buffer AfterStep Aux Metric Require When"
        " Equation Equation Return Drop"
    )
    param, state = body(text)[2:4]
    assert isinstance(param, ast.Param) and [a.name for a in param.attrs] == ["lr", "decay"]
    assert param.type.dtype == "f32" and len(param.type.dims) == 2
    assert isinstance(state, ast.State) and state.attrs[0].args == ()
    when = body(text)[13]
    assert isinstance(when, ast.When) and len(when.other) == 1
    inner = when.other[0]
    assert isinstance(inner, ast.When) and len(inner.other) == 1
    pair, primed = body(text)[14:16]
    assert isinstance(pair, ast.Equation) and [(t.name, t.items) for t in pair.targets] == [("gate", None), ("_", None)]
    assert isinstance(primed, ast.Equation) and primed.targets[0].primed and primed.targets[0].name == "S"


def test_items_and_models() -> None:
    module = parse(
        """use "lib/norm.cdr" { layer_norm,
              rms_norm as norm }
let gain = 0.1
op f(id: index[vocab], n: int = 3, g: op, x: bf16[], s: string = "a") -> [n] { return x }
op g(eps: float = 1e-5) = f with { drop n }
op h = f with { y = 1 }
model m extends base {
  layers = 24
  moe {
    every = 2
    deep = "no"
  }
  require layers > 0
  stack {
    emb: embed(vocab)
    repeat layer < layers // 2 {
      let odd = layer % 2
      att: residual norm >> mixer
      if odd == 1 { a } else if odd == 2 { b } else { c }
    }
    tie head.W = emb.E
  }
}
""",
        "test.cdr",
    )
    use, let, f, g, h, model = module.items
    assert isinstance(use, ast.Use) and use.path == "lib/norm.cdr"
    assert [(i.name, i.alias) for i in use.imports] == [("layer_norm", None), ("rms_norm", "norm")]
    assert isinstance(let, ast.Let)
    assert isinstance(f, ast.OpDef)
    assert [(a.name, a.kind) for a in f.formals] == [
        ("id", "index"), ("n", "int"), ("g", "op"), ("x", "tensor"), ("s", "string"),
    ]  # fmt: skip
    assert f.formals[0].extent is not None and f.formals[3].type is not None
    assert isinstance(g, ast.Derive) and g.base == "f" and len(g.formals) == 1
    assert isinstance(h, ast.Derive) and h.formals == ()
    assert isinstance(model, ast.Model) and model.extends == "base"
    layers, group, require, stack = model.body
    assert isinstance(layers, ast.Setting) and isinstance(require, ast.Require)
    assert isinstance(group, ast.Group) and [s.name for s in group.settings] == ["every", "deep"]
    assert isinstance(stack, ast.Stack)
    emb, repeat, tie = stack.lines
    assert isinstance(emb, ast.Line) and (emb.label, emb.residual) == ("emb", False)
    assert isinstance(repeat, ast.Repeat) and repeat.name == "layer"
    assert isinstance(tie, ast.Tie) and (tie.left, tie.right) == (("head", "W"), ("emb", "E"))
    inner, att, branch = repeat.lines
    assert isinstance(inner, ast.Let)
    assert isinstance(att, ast.Line) and (att.label, att.residual) == ("att", True)
    assert isinstance(branch, ast.Branch) and isinstance(branch.other[0], ast.Branch)


def test_newlines() -> None:
    joined = body(
        "a = f(x,\n  y)\n  + 2  # a comment\n  # another\n  * 3\nb = g[\n1\n]\nwhen a\n{\n}".replace("\n{\n}", " {\n}")
    )
    assert [type(s).__name__ for s in joined] == ["Equation", "Equation", "When"]
    attrs = body("param w: [D]\n  ~ 0\n  !lr(2)")
    assert isinstance(attrs[0], ast.Param) and attrs[0].attrs[0].name == "lr"
    apart = body("when a {\n  y = 1\n}\nelse {\n  y = 2\n}\n\n\n# end")
    assert isinstance(apart[0], ast.When) and len(apart) == 1 and apart[0].other


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_ends_and_tabs(end: str) -> None:
    text = end.join(
        ["# What it does,", "# in two lines.", "op f(x: [D]) -> [D] {", "\ty = x\t+ 1", "\treturn y", "}", ""]
    )
    (op,) = parse(text, "test.cdr").items
    assert isinstance(op, ast.OpDef) and op.doc == "What it does,\nin two lines."
    assert (op.body[0].span.line, op.body[0].span.col, op.body[0].span.end_col) == (4, 2, 11)
    assert parse(text.rstrip(), "test.cdr") == dataclasses.replace(
        parse(text, "test.cdr"), span=parse(text.rstrip(), "test.cdr").span
    )


def test_doc_is_the_block_right_above() -> None:
    text = "# far\n\n# near\nop f(x: []) -> [] { return x }\nop g(x: []) -> [] { return x }\n  # inside\nmodel m {\n}\n"
    docs = [item.doc for item in parse(text, "test.cdr").items if isinstance(item, ast.OpDef | ast.Model)]
    assert docs == ["near", "", ""]


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(SPEC)))
def test_spans_name_their_text(file: Path) -> None:
    """The text at an expression's span is that expression."""
    source = read_source(file)
    module = parse(source, file.name)
    assert module.items
    for node in nodes(module.items):
        text = text_of(source, node.span)
        assert text == text.strip()
        if isinstance(node, ast.Expr):
            assert bare(parse_expression(text, "test")) == bare(node), text


def test_reading_a_file(tmp_path: Path) -> None:
    good = tmp_path / "good.cdr"
    good.write_bytes(b"\xef\xbb\xbflet a = 1\r\n")
    assert read_source(good) == "let a = 1\r\n"

    def refused(data: bytes) -> Diagnostic:
        bad = tmp_path / "bad.cdr"
        bad.write_bytes(data)
        with pytest.raises(CompileError) as caught:
            read_source(bad, "bad.cdr")
        return caught.value.diagnostics[0]

    latin = refused("let a = 1\nlet ab = µ\n".encode("latin-1"))
    assert (latin.code, latin.span) == ("E0115", Span("bad.cdr", 2, 10, 2, 11))
    assert refused(b"#" * (1 << 20) + b"\n").code == "E0116"
    with pytest.raises(OSError):
        read_source(tmp_path)
    assert only("#" * (1 << 21)).code == "E0116"


def test_one_mistake_an_item_at_least() -> None:
    text = (
        "op f(x [D]) -> [D] {\n  return x\n}\nop g(x: [D]) -> [D] {\n  y = 2x\n  z = x **2\n  return\n}\nmodle m {\n}\n"
    )
    with pytest.raises(CompileError) as caught:
        parse(text, "test.cdr")
    assert [(d.code, d.span.line) for d in caught.value.diagnostics] == [
        ("E0110", 1), ("E0105", 5), ("E0109", 6), ("E0110", 7), ("E0110", 9),
    ]  # fmt: skip


def test_depth_is_bounded_and_brackets_are_free() -> None:
    assert only("let a = " + "1 + " * 15_000 + "1\n").code == "E0113"
    assert only("let a = " + "-" * 30_000 + "1\n").code == "E0113"
    assert len(parse("let a = " + "(" * 5_000 + "1" + ")" * 5_000 + "\n", "test.cdr").items) == 1
    blocks = "when a {\n" * 200 + "y = 1\n" + "}\n" * 200
    assert only(f"op f(x: []) -> [] {{\n{blocks}\n}}\n").code == "E0113"


def test_rendering_marks_the_columns() -> None:
    wide = 'let a = "幅" + $\n'
    line, caret = render(only(wide), wide).split("\n")[3:5]
    assert line == '1 | let a = "幅" + $'
    assert caret == "  | " + " " * 15 + "^"  # the string's character takes two columns
    long = "let a = " + "x + " * 100 + "$\n"
    shown = render(only(long), long).split("\n")
    assert max(map(len, shown)) < 130
    assert shown[3][shown[4].index("^")] == "$"
    tabbed = "\tlet a = $\n"
    shown = render(only(tabbed), tabbed).split("\n")
    assert shown[3][shown[4].index("^")] == "$"


_WORDS = "let param last if else op ( ) [ ] { } , : = == < - * ** / @ ! ~ ' \" ; . 2 x' $ α # as >> use stack of"
_BITS = _WORDS.split()


@pytest.mark.parametrize("seed", range(8))
def test_broken_texts_are_told_not_crashed_on(seed: int) -> None:
    """Texts with a few tokens lost, doubled or replaced: each is read, or told with spans inside the text."""
    rng = random.Random(seed)
    for _ in range(30):
        bits = re.findall(r"[A-Za-z_0-9.']+|\s+|[^\sA-Za-z_0-9]", rng.choice(FILES).read_text(encoding="utf-8"))
        for _ in range(rng.choice([1, 1, 2, 4])):
            at = rng.randrange(len(bits))
            bits[at] = rng.choice(["", "\n", rng.choice(_BITS), bits[at] * 2, rng.choice(_BITS) + bits[at]])
        text = "".join(bits)
        try:
            parse(text, "test.cdr")
        except CompileError as told:
            assert told.diagnostics
            for d in told.diagnostics:
                assert re.fullmatch(r"E01\d\d", d.code)
                assert d.message and "ANON" not in d.message + d.help
                assert 1 <= d.span.line <= text.count("\n") + 1
                assert (d.span.line, d.span.col) < (d.span.end_line, d.span.end_col)
                assert render(d, text)


def test_the_filter_ends_every_file_with_a_newline() -> None:
    parser: Any = tables().parse_interactive("let a = 1", "start")
    kinds = [t.type for t in statements(parser.lexer_thread.lex(parser.parser_state))]
    assert kinds == ["LET", "NAME", "EQUAL", "NUMBER", "_NL"]
