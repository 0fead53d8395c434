"""Mistakes in op bodies: one diagnostic each, at the right place, and nothing that only follows from another."""

from __future__ import annotations

import pytest

from cdrmix.check.body.elaborate import Context
from cdrmix.diagnose import Span
from tests.good.elaborated import Elaborated, elaborate

USES = 'use "lib/norm.cdr" { layer_norm, rms_norm, unit }\nuse "lib/channel_mix.cdr" { relu2, token_shift }\n'

HEAD = "op f(x: [D], E: int = 8, H: int = 4) -> [D] {\n"

CASES = [
    ("E0201", "xprev", "state x_prev: [D]; x_prev' = x; return x + xprev"),
    ("E0205", "y", "y = x; y = 2*x; return y"),
    ("E0205", "pos", "pos = 2; return x"),
    ("E0206", "a", "a = b + x; b = 2*a; return b"),
    ("E0206", "let a = b + 1", "let a = b + 1; let b = a; param w: [i < D] ~ a; return x*w"),
    ("E0207", "k", "k = x; y[k] = x[k]; return y"),
    ("E0207", "k", "k = x; y[i] = x[i] + x[k]; return y"),
    ("E0208", "i", "y[i] = x[i] - mean[i](x[i]); return y"),
    ("E0209", "rate=2", "part n: rms_norm(rate=2); return n(x)"),
    ("E0209", "2", "part n: rms_norm; return n(x, 2)"),
    ("E0209", "!rate(1)", "param w: [D] ~ 1 !rate(1); return x*w"),
    ("E0210", "relu2", "part n: relu2; return n(x)"),
    ("E0210", "n()", "part n: rms_norm; return n()"),
    ("E0210", "uniform(1)", "param w: [D] ~ uniform(1); return x*w"),
    ("E0211", "moe.experts", "return x*moe.experts"),
    ("E0213", "let a = pos", "let a = pos; return x*a"),
    ("E0213", "x", "param w: [D] ~ x[0]; return x*w"),
    ("E0214", "2.5", "param w: [2.5] ~ 1; return x*w[0]"),
    ("E0216", "x", "return x(2)"),
    ("E0216", '"a"', 'return x + "a"'),
    ("E0217", "op", "y = x"),
    ("E0301", "dim D = A * 3", "dim D = A * 3; return x"),
    ("E0301", "dim E = H", "dim E = H; return x"),
    ("E0302", "dim D = A * B", "dim D = A * B; y[a,b] = x[a,b]; return y as [D]"),
    ("E0303", "x + w", "param w: [H] ~ 1; y = x + w; z = y*2; return z"),
    ("E0303", "w", "param w: [H] ~ 1; return w"),
    ("E0303", "W @ w", "param W: [D, D] ~ 1; param w: [H] ~ 1; return W @ w"),
    ("E0304", "x + w", "param w: [E] ~ 1; return x + w"),
    ("E0304", "g(x, w)", "param w: [E] ~ 1; part g: add; return g(x, w)"),
    ("E0305", "i", "param w: [H] ~ 1; y[i] = x[i] + w[i]; return y"),
    ("E0306", "j", "y[i] = x[i]*x[j]; return y"),
    ("E0306", "i", "y = softmax[i](x[i]); return y"),
    ("E0307", "e", "y[e] = 1; return y"),
    ("E0308", "sum[j](x[0])", "return x*sum[j](x[0])"),
    ("E0309", "x[h,n]", "y[h,n] = x[h,n]; return y as [D]"),
    ("E0309", "s[0]", "s = x[0]; return x*s[0]"),
    ("E0310", "x[a,b]", "dim D = A * 2; dim D = B * 4; y[a,b] = x[a,b]; return y as [D]"),
    ("E0311", "x as [E]", "param w: [E] ~ 1; return (x as [E])*w"),
    ("E0312", "i+1", "y[i] = x[i] - x[i+1]; return y"),
    ("E0312", "8", "return x*x[8]"),
    ("E0312", "k < 9", "g, p = top[k < 9](x); return x*sum[k](g[k])"),
    ("E0313", "m[i]", "param m: [D, E] ~ 1; y[i] = m[i]*2; return y"),
    ("E0314", "i / 2", "y[i] = x[i / 2]; return y"),
    ("E0315", "x @ x", "return x*(x @ x)"),
    ("E0316", "p[k]", "param w: [E] ~ 1; g, p = top[k < 2](x); return x*sum[k](w[p[k]])"),
    ("E0316", "x[pos]", "return x*x[pos]"),
    ("E0317", "E - 8", "param w: [E - 8] ~ 1; return x*w[0]"),
    ("E0318", "2*x", "dim D = A * 4; aux l = mean[tokens](sum[a,n](((2*x) as [A, 4])[a,n])); return x"),
    ("E0319", "a, b = x", "a, b = x; return a + b"),
    ("E0320", "y[0]", "y[0] = x[0]; return x"),
    ("E0401", "state s: [D]", "state s: [D]; return x + s"),
    ("E0402", "s'", "s' = x; return x"),
    ("E0403", "s' = s + y", "state s: [D]; y = s'*2; s' = s + y; return y"),
    ("E0404", "K", "history K: [D] last 4 = x; return x + K"),
    ("E0404", "t + 1", "history K: [D] last 4 = x; y[i] = x[i] + sum[t](K[t + 1, i]); return y"),
    ("E0405", "K[1,i]", "history K: [D] last 4 = x; y[i] = K[1,i]; return y"),
    ("E0406", "y", "history K: [D] last D = x; y[t] = sum[i](K[t,i]); return y"),
    ("E0406", "y", "history K: [D] last E = x; y[t] = sum[i](K[t,i]); part n: rms_norm; z = n(y); return x"),
    ("E0407", "n", "n = x[0]; history K: [D] last n = x; y[i] = sum[t](K[t,i]); return y"),
    ("E0408", "x", "state s: [D] = x; s' = x; return s"),
    ("E0408", "w*2", "param w: [D] ~ 1; state s: [D] = w*2; s' = x + w; return s"),
    ("E0409", "t", "history K: [D] last E = x; history V: [D] last H = x; y[i] = sum[t](K[t,i]*V[t,i]); return y"),
    ("E0501", "rms_norm(x)", "return rms_norm(x)"),
    ("E0502", "n(2*x)", "part n: token_shift; return n(x) + n(2*x)"),
    ("E0503", "v", "carry v: [D]; return x + v"),
    ("E0505", "bank B: [e < E] of keep", "bank B: [e < E] of keep; return sum[e](B[e](x))"),
    ("E0506", "n(x)", "param w: [H] ~ 1; part n: rms_norm; return sum[h](w[h]*n(x))"),
    ("E0506", "B(x)", "bank B: [e < E] of rms_norm; return B(x)"),
    ("E0507", "param w: [D] ~ 1", "param w: [D] ~ 1; return x"),
    ("E0507", "part n: rms_norm", "part n: rms_norm; return x"),
    ("E0601", "tokens", "return x - mean[tokens](x)"),
    ("E0602", "b'", "buffer b: [D] = 0; b' = x; return x + b"),
    ("E0602", "y'", "after step y' = x; return x"),
    ("E0603", "aux l = mean[tokens](x)", "aux l = mean[tokens](x); return x"),
    ("E0604", "aux E = mean[tokens](x[0])", "aux E = mean[tokens](x[0]); return x"),
    ("E0605", "grad(w)", "param w: [D] ~ 1; metric g = grad(w); return x*w"),
    ("E0606", "sum[i](x[i]^2)", "aux l = sum[i](x[i]^2); return x"),
    ("E0706", 'require E > 8, "more"', 'require E > 8, "more"; return x'),
]

OTHERS = """
op add(x: [D], y: [D]) -> [D] {
  param w: [D] ~ 1
  return x*w + y
}
op keep(x: [D]) -> [D] {
  carry kept: [D]
  kept' = x
  return x
}
"""


def body(text: str) -> str:
    """A whole file around some statements."""
    return USES + OTHERS + HEAD + "".join(f"  {line.strip()}\n" for line in text.split(";")) + "}\n"


def under(span: Span, text: str) -> str:
    """What the span marks."""
    line = text.splitlines()[span.line - 1]
    return line[span.col - 1 : span.end_col - 1] if span.end_line == span.line else line[span.col - 1 :].split()[0]


def told(found: Elaborated, text: str) -> list[tuple[str, str]]:
    """The codes and what they mark."""
    assert found.cell is None
    return [(d.code, under(d.span, text)) for d in found.said]


@pytest.mark.parametrize(("code", "at", "statements"), CASES, ids=[f"{c}-{n}" for n, (c, *_) in enumerate(CASES)])
def test_one_mistake(code: str, at: str, statements: str) -> None:
    text = body(statements)
    found = elaborate(text)
    assert told(found, text) == [(code, at)]
    assert found.said[0].message
    assert found.said[0].help


def test_layer_outside_a_repeat() -> None:
    text = body("param w: [D] ~ layer; return x*w")
    assert told(elaborate(text, context=Context()), text) == [("E0212", "layer")]
    assert elaborate(text).cell is not None


def test_all_mistakes_are_told_at_once() -> None:
    text = body("a = x + nothing; b = x @ x; c[i] = x[i] + x[i+1]; d[i] = x[j]; s' = x; return a")
    found = told(elaborate(text), text)
    assert sorted(code for code, _ in found) == ["E0201", "E0306", "E0312", "E0315", "E0402"]


@pytest.mark.parametrize(
    "statements",
    [
        "a = nothing; b = a + x; c = b @ b; return c",
        "dim D = A * 3; y[a,n] = x[a,n]; z[n] = sum[a](y[a,n]); return x",
        "y = x + pes; z = y*pes + pes; return z",
        "when pos > 0 { y = x } else { z = x }; return y + z",
        "s' = s*0.5 + x; return s + s'",
    ],
)
def test_what_follows_from_a_mistake_is_not_told(statements: str) -> None:
    text = body(statements.replace("{", "{\n").replace("}", "\n}"))
    assert len(elaborate(text).said) == 1


def test_a_name_is_suggested() -> None:
    found = elaborate(body("state x_prev: [D]; x_prev' = x; return x + xprev"))
    assert "did you mean `x_prev`?" in found.said[0].help


@pytest.mark.parametrize(
    "text",
    [
        "op f(x: [D], n: int = 1) -> [D] {\n  part p: f(n=n + 1)\n  return p(x)\n}\n",
        "op g(x: [D]) -> [D] {\n  return f(x)\n}\nop f(x: [D]) -> [D] {\n  return g(x)\n}\n",
    ],
)
def test_an_op_that_holds_itself(text: str) -> None:
    assert "E0206" in [d.code for d in elaborate(text).said]


def test_what_doubles_is_stopped() -> None:
    lets = "".join(f"  let a{i + 1} = a{i} + a{i}\n" for i in range(40))
    text = "op f(x: [D]) -> [D] {\n  let a0 = layer\n" + lets + "  param w: [D] ~ a40\n  return x*w\n}\n"
    assert [d.code for d in elaborate(text).said] == ["E0221"]
    ops = "".join(f"op g{i + 1}(x: [D]) -> [D] {{\n  return g{i}(x) + g{i}(2*x)\n}}\n" for i in range(20))
    text = "op g0(x: [D]) -> [D] {\n  return x\n}\n" + ops + "op f(x: [D]) -> [D] {\n  return g20(x)\n}\n"
    assert [d.code for d in elaborate(text).said] == ["E0221"]
