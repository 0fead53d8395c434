"""`with`: what is replaced, dropped and added, what vanishes, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdrmix.check.names.loader import LIBRARY, Loader
from cdrmix.check.names.mentions import defined, leaves, whens
from cdrmix.check.names.scope import OpDecl
from cdrmix.diagnose import Report
from cdrmix.syntax import ast

BASE = """
op base(x: [D], n: int = 2, m: int = 3) -> [D] {
  param A: [D] ~ 0
  param B: [D] ~ 0
  part f: other(n=m)
  carry v: [D]
  state S: [D]
  S' = S + x
  a = A*x
  b = B*x
  p, q = top[k < n](a)
  when carried(v) {
    c = f(a) + v
    e = b
  } else {
    c = a
    e = b
    v' = x
  }
  return c + e*S + p[0] + x[q[0]]
}
op other(x: [D], n: int) -> [D] { return x }
"""


def ops(text: str) -> tuple[dict[str, OpDecl], Report]:
    loader = Loader(Report())
    file = loader.text(text, "t.cdr")
    assert file is not None, loader.report.diagnostics
    return file.scope.ops, loader.report


def names(op: OpDecl) -> list[str]:
    return [name for stmt in leaves(op.body) for name in defined(stmt)]


def derived(text: str) -> OpDecl:
    found, report = ops(f"{BASE}\n{text}")
    assert not report.diagnostics
    return found["d"]


def test_a_name_is_replaced_everywhere() -> None:
    op = derived("op d = base with {\n c = f(a)\n e = b\n drop v\n}")
    assert not list(whens(op.body))
    assert names(op).count("c") == names(op).count("e") == 1
    assert not {"v", "v'"} & set(names(op))
    assert names(op)[-1] == "return"


def test_only_one_branch_may_be_left() -> None:
    op = derived("op d = base with { c = f(a)*2 }")
    (when,) = whens(op.body)
    assert [defined(s) for s in when.body] == [("e",)]
    assert [defined(s) for s in when.other] == [("e",), ("v'",)]


def test_dead_equations_vanish_and_states_with_them() -> None:
    op = derived("op d = base with { return c + e }")
    assert not {"S", "S'", "p", "q"} & set(names(op))
    assert {"a", "b", "A", "B", "v'"} <= set(names(op))


def test_a_tuple_is_replaced_whole() -> None:
    op = derived("op d = base with {\n _, q = top[k < n](b)\n p[k] = a[q[k]]\n}")
    assert names(op).count("p") == names(op).count("q") == 1


def test_formals_are_added_replaced_and_dropped() -> None:
    op = derived("op d(r: float = 1.0, n: int = 5) = base with {\n c = a*r\n drop m, f, v\n e = b\n}")
    assert [f.name for f in op.formals] == ["x", "n", "r"]
    assert op.formals[1].default == ast.Num(op.formals[1].default.span, 5)  # type: ignore[union-attr]


def test_a_derived_op_is_derived_again_in_any_order() -> None:
    found, report = ops(f"{BASE}\nop d = e with {{ a = A*x*2 }}\nop e = base with {{ b = B*x*3 }}")
    assert not report.diagnostics
    assert found["d"].base is found["e"] and found["e"].base is found["base"]


def test_statements_resolve_where_they_were_written(tmp_path: Path) -> None:
    (tmp_path / "base.cdr").write_text(BASE)
    (tmp_path / "mid.cdr").write_text('use "base.cdr" { base }\nop mid(k: int = 1) = base with { c = f(a)*k }')
    (tmp_path / "top.cdr").write_text('use "mid.cdr" { mid }\nop d = mid with { e = b*2 }')
    loader = Loader(Report())
    file = loader.root(tmp_path / "top.cdr")
    assert file is not None and not loader.report.diagnostics
    op = file.scope.ops["d"]
    where = {n: op.scopes.get(id(s), op.scope).file for s in leaves(op.body) for n in defined(s)}
    assert where["a"] == where["A"] == where["v'"] == "base.cdr"
    assert where["c"] == "mid.cdr" and where["e"] == "top.cdr"
    assert [op.scopes.get(id(w), op.scope).file for w in whens(op.body)] == ["base.cdr"]
    assert [op.scopes.get(id(f), op.scope).file for f in op.formals] == ["base.cdr"] * 3 + ["mid.cdr"]
    alive = {id(s) for s in (*leaves(op.body), *whens(op.body), *op.formals, op.type)}
    assert set(op.scopes) <= alive


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("drop z", "E0801", "has no `z` that is still there"),
        ("drop a, a", "E0801", "has no `a`"),
        ("a = x\n drop a", "E0801", "dropped and defined"),
        ("b = x", "E0802", "B of base is left unused"),
        ("b = x\n a = x", "E0802", "A, B of base are left unused"),
        ("c = a\n e = b\n drop v", "E0802", "f of base"),
        ("p = a", "E0803", "`p, q = …` is replaced only in part: `q` would be left"),
        ("drop q", "E0803", "`p` would be left"),
        ("drop v", "E0805", "`when carried(v)` still asks"),
        ("when n > 1 {\n drop a\n }", "E0801", "inside a `when`"),
    ],
)
def test_mistakes(text: str, code: str, words: str) -> None:
    _, report = ops(f"{BASE}\nop d = base with {{\n {text}\n}}")
    assert code in [d.code for d in report.diagnostics]
    assert any(words in d.message for d in report.diagnostics if d.code == code)
    assert all(d.help for d in report.diagnostics)


def test_the_help_of_a_dead_param_is_the_line_to_write() -> None:
    _, report = ops(f"{BASE}\nop d = base with {{\n a = x\n b = x\n}}")
    assert "`drop A, B`" in report.diagnostics[0].help
    ops_, again = ops(f"{BASE}\nop d = base with {{\n a = x\n b = x\n drop A, B\n}}")
    assert not again.diagnostics and "A" not in names(ops_["d"])


def test_the_diffs_of_the_library() -> None:
    loader = Loader(Report())
    file = loader.root(LIBRARY / "lib" / "rwkv7.cdr")
    assert file is not None
    base = set(names(file.scope.ops["rwkv7"]))
    assert base - set(names(file.scope.ops["rwkv7_diag"])) == {"kk", "k_k"}
    plain = file.scope.ops["rwkv7_plain_v"]
    assert base - set(names(plain)) == {"v0", "v0'", "nu0", "nu1", "nu2"} and not list(whens(plain.body))
    gdn = file.scope.ops["rwkv7_gdn"]
    assert base - set(names(gdn)) == {"a", "a0", "a1", "a2", "ma", "k_a"}
    assert [f.name for f in gdn.formals][-1] == "eps"
