"""Histories in the sequence form: what is attention, what is not and why, and how windows meet states."""

from __future__ import annotations

import re

import pytest

from cdrmix.check.stack.single import load_op
from cdrmix.diagnose import CompileError
from cdrmix.ir import walk
from cdrmix.ir.forms import Attend, Elementwise
from cdrmix.passes.classify import classify
from cdrmix.passes.sequence import sequence_form

from .test_sequence_form import agree

HEAD = """
op cell(x: [D], H: int = 2, N: int = 3, G: int = 4) -> [H, N] {
  param Wq: [H, N, D] ~ 0
  param Wk: [H, N, D] ~ 0
  param Wv: [H, N, D] ~ 0
  param slope: [H] ~ 0
  param Wc: [H, D] ~ 0
  q[h,n] = sum[d](Wq[h,n,d]*x[d])
  k[h,n] = sum[d](Wk[h,n,d]*x[d])
  v[h,n] = sum[d](Wv[h,n,d]*x[d])
  c[h] = sum[d](Wc[h,d]*x[d]) + slope[h]
  history K: [H, N] last G = k
  history V: [H, N] last G = v
"""


def _with_head(text: str) -> str:
    """The text with what it needs of the head: what nothing needs is a mistake."""
    for line in reversed(HEAD.strip().split("\n")):
        found = re.match(r"  (?:param |history )?(\w+)", line)
        if found is None or re.search(rf"\b{found[1]}\b", text):
            text = f"{line}\n{text}"
    return text


FORMS = {
    "plain": """
  s[h,t] = sum[n](q[h,n]*K[t,h,n])
  y[h,n] = sum[t](softmax[t](s[h,t])*V[t,h,n])
""",
    "a named softmax, a gate outside": """
  s[h,t] = sum[n](q[h,n]*K[t,h,n])/3
  p[h,t] = softmax[t](s[h,t])
  y[h,n] = sum[t](p[h,t]*V[t,h,n])*sigmoid(c[h]) + v[h,n]
""",
    "a temperature, a linear bias, and what softmax does not see": """
  s[h,t] = c[h]*(sum[n](q[h,n]*K[t,h,n]) + 1) - 2*slope[h]*t + c[h]
  y[h,n] = sum[t](softmax[t](s[h,t])*V[t,h,n])
""",
    "heads that share keys": """
  s[h,t] = sum[n](q[h,n]*K[t,h//2,n])
  y[h,n] = sum[t](softmax[t](s[h,t])*V[t,h//2,n])
""",
    "two in one equation": """
  s[h,t] = sum[n](q[h,n]*K[t,h,n])
  r[h,t] = sum[n](v[h,n]*V[t,h,n])
  y[h,n] = sum[t](softmax[t](s[h,t])*V[t,h,n]) - sum[t](softmax[t](r[h,t])*K[t,h,n])
""",
    "of what a state answers": """
  state S: [H, N, N]
  S'[h,i,j] = 0.9*S[h,i,j] + v[h,i]*k[h,j]
  a[h,i] = sum[j](S'[h,i,j]*q[h,j])
  history A: [H, N] last G = a
  s[h,t] = sum[n](q[h,n]*A[t,h,n])
  y[h,n] = sum[t](softmax[t](s[h,t])*A[t,h,n])
""",
    "inside a scan's addend": """
  state z: [H, N]
  s[h,t] = sum[n](q[h,n]*K[t,h,n])
  z'[h,n] = 0.5*z[h,n] + sum[t](softmax[t](s[h,t])*V[t,h,n])
  y[h,n] = z'[h,n]
""",
    "asking a state with every token": """
  state S: [H, N, N]
  S'[h,i,j] = 0.9*S[h,i,j] + v[h,i]*k[h,j]
  a[h,i,t] = sum[j](S'[h,i,j]*K[t,h,j])
  s[h,t] = sum[n](q[h,n]*K[t,h,n])
  z[h,n] = sum[t](softmax[t](s[h,t])*V[t,h,n])
  y[h,n] = max[t](a[h,n,t]) + z[h,n]
""",
    "keys of two kinds": """
  s[h,t] = (sum[n](q[h,n]*K[t,h,n]) + 3*sum[n](k[h,n]*V[t,h,n]))/sqrt(3)
  y[h,n] = sum[t](softmax[t](s[h,t])*V[t,h,n])
""",
    "forgetting, by a key that is one number": """
  state f: [H]
  f'[h] = f[h] - exp(c[h])
  history F: [H] last G = f'
  s[h,t] = sum[n](q[h,n]*K[t,h,n])/3 + f'[h] - F[t,h]
  y[h,n] = sum[t](softmax[t](s[h,t])*V[t,h,n])
""",
    "a latent that all heads share, as key and value": """
  latent[n] = sum[h](k[h,n])
  history C: [N] last G = latent
  s[h,t] = sum[n](q[h,n]*C[t,n]) + 0.5*sum[n](v[h,n]*K[t,h,n]) + sum[n](q[h,n]*V[t,h,n])
  y[h,n] = sum[t](softmax[t](s[h,t])*C[t,n])
""",
    "before a loop": """
  state z: [H, N]
  s[h,t] = sum[n](q[h,n]*K[t,h,n])
  z'[h,n] = tanh(z[h,n] + sum[t](softmax[t](s[h,t])*V[t,h,n]))
  y[h,n] = z'[h,n]
""",
}
WINDOWS = {
    "a convolution": ("""
  param F: [G, H, N] ~ 0
  y[h,n] = sum[t](F[t,h,n]*K[t,h,n])
""", None),
    "linear attention over a window": ("""
  y[h,n] = sum[t](sum[m](q[h,m]*K[t,h,m])*V[t,h,n])
""", None),
    "a bias of the token": ("""
  s[h,t] = sum[n](q[h,n]*K[t,h,n]) - c[h]*t
  y[h,n] = sum[t](softmax[t](s[h,t])*V[t,h,n])
""", "is added to the scores and depends on the token"),
    "a key weighed by its age": ("""
  s[h,t] = sum[n](q[h,n]*K[t,h,n])/(1 + t)
  y[h,n] = sum[t](softmax[t](s[h,t])*V[t,h,n])
""", "weighs the key by its age `t`"),
    "a bounded score": ("""
  s[h,t] = tanh(sum[n](q[h,n]*K[t,h,n]))
  y[h,n] = sum[t](softmax[t](s[h,t])*V[t,h,n])
""", "in the scores is not linear in a history"),
    "a score of each component": ("""
  y[h,n] = sum[t](softmax[t](q[h,n]*K[t,h,n])*exp(V[t,h,n]))
""", "is not one softmax times one history"),
    "a window in a scan's decay": ("""
  state z: [H, N]
  z'[h,n] = sigmoid(mean[t](K[t,h,n]))*z[h,n] + max[t](V[t,h,n])
  y[h,n] = z'[h,n]
""", None),
}  # fmt: skip


def model(body, folder):
    path = folder / "cell.cdr"
    path.write_text(_with_head(body + "  return y\n}\n"), encoding="utf-8")
    return load_op(path, "cell", {"D": 5})


def of(m):
    return m.cells[m.lines[0].chain[0].cell]


@pytest.mark.parametrize("name", FORMS)
def test_attention_is_found(name, tmp_path):
    m = model(FORMS[name], tmp_path)
    form = sequence_form(of(m))
    assert sum(isinstance(s, Attend) for s in form.body) == (2 if name.startswith("two") else 1)
    assert not [n for n in form.notes if "unfolds" in n]
    assert max(agree(m, T) for T in (1, 2, 9, 30)) < 1e-10
    assert agree(m, 30, work="bf16") < 1e-9


@pytest.mark.parametrize("name", WINDOWS)
def test_what_is_not_attention_runs_on_windows(name, tmp_path):
    body, why = WINDOWS[name]
    m = model(body, tmp_path)
    form = sequence_form(of(m))
    assert not any(isinstance(s, Attend) for s in form.body)
    assert [why in n for n in form.notes] == ([True] if why else [])
    assert max(agree(m, T) for T in (1, 2, 9, 30)) < 1e-10
    assert agree(m, 30, work="bf16") < 1e-9


def test_the_scale_and_the_bias_are_apart(tmp_path):
    form = sequence_form(of(model(FORMS["a named softmax, a gate outside"], tmp_path)))
    (attend,) = (s for s in form.body if isinstance(s, Attend))
    assert attend.scale == pytest.approx(1 / 3)
    assert attend.bias is None
    assert attend.parts[0].query.op == "read"
    form = sequence_form(of(model(FORMS["a temperature, a linear bias, and what softmax does not see"], tmp_path)))
    (attend,) = (s for s in form.body if isinstance(s, Attend))
    assert attend.bias is not None
    assert {i.name for i in attend.bias.free} == {"h", attend.t.name}


def test_a_scan_reads_its_window_by_name(tmp_path):
    form = sequence_form(of(model(WINDOWS["a window in a scan's decay"][0], tmp_path)))
    (scan,) = (s for s in form.body if isinstance(s, Elementwise))
    assert not [r for n in (scan.decay, scan.addend) for r in walk.refs(n) if r.kind == "history"]


def test_a_history_inside_a_recurrence_is_refused(tmp_path):
    m = model(
        """
  state z: [H, N]
  a[h,n] = z[h,n] + k[h,n]
  history A: [H, N] last 3 = a
  z'[h,n] = sum[t](A[t,h,n])
  y[h,n] = z'[h,n]
""",
        tmp_path,
    )
    assert str(classify(of(m))[0]).startswith("z: general")
    with pytest.raises(CompileError) as error:
        sequence_form(of(m))
    assert [d.code for d in error.value.diagnostics] == ["E0411"]


def test_a_part_inside_a_recurrence_is_refused(tmp_path):
    path = tmp_path / "cell.cdr"
    path.write_text(
        """
op inner(x: [D]) -> [D] {
  param w: [D] ~ 0
  return tanh(x*w)
}
op cell(x: [D]) -> [D] {
  state s: [D]
  part f: inner
  s' = x + f(s)
  return s'
}
""",
        encoding="utf-8",
    )
    m = load_op(path, "cell", {"D": 5})
    assert str(classify(of(m))[0]).startswith("s: general")
    with pytest.raises(CompileError) as error:
        sequence_form(of(m))
    (found,) = error.value.diagnostics
    assert found.code == "E0410"
    assert "part `f`" in found.message
    assert found.span.line == 9
