"""Settings: precedence, kinds, where names resolve, and the mistakes of `--set`, `extends` and `require`."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdrmix.check import load, load_text
from cdrmix.diagnose import CompileError, explain

OPS = """
op embed(id: index[vocab], vocab: int, width: int) -> [width] {
  param E: [vocab, width] ~ 0
  return E[id]
}
op head(x: [D], vocab: int) -> [vocab] {
  param W: [vocab, D] ~ 0
  return W @ x
}
op grow(x: [D], by: float = 1.0) -> [D] { return x*by }
op shrink(x: [D], by: float = 2.0) -> [D] { return x/by }
let four = 4
"""

BASE = """
model base {
  vocab = 16
  width = four
  hidden = 2*width
  rate = 0.5
  kind = "a"
  mixer = grow(by=rate)
  g { n = 2 ⏎ m = n_of }
  n_of = 3
  stack {
    embed(vocab, width)
    mixer
    mid: grow(by=hidden + g.n + g.m)
    require kind == "a" or kind == "b", "kind is 'a' or 'b'"
    head(vocab)
  }
}
""".replace("⏎", "\n")


def settings(more: str = "", **overrides: str) -> dict[str, object]:
    given = {name.replace("__", "."): text for name, text in overrides.items()}
    return dict(load_text(OPS + BASE + more, overrides=given).settings)


def mistakes(text: str, **overrides: str) -> list[tuple[str, str, str]]:
    given = {name.replace("__", "."): value for name, value in overrides.items()}
    with pytest.raises(CompileError) as error:
        load_text(OPS + text, overrides=given)
    assert explain(error.value)
    assert all(d.help for d in error.value.diagnostics)
    return [(d.code, d.message, d.help) for d in error.value.diagnostics]


def test_values() -> None:
    assert settings() == {
        "vocab": 16,
        "width": 4,
        "hidden": 8,
        "rate": 0.5,
        "kind": "a",
        "mixer": "grow(by=0.5)",
        "g.n": 2,
        "g.m": 3,
        "n_of": 3,
    }


def test_settings_follow_overrides() -> None:
    found = settings(width="8", rate="2", n_of="7")
    assert (found["hidden"], found["rate"], found["mixer"], found["g.m"]) == (16, 2.0, "grow(by=2.0)", 7)
    assert settings(g__n="width*2")["g.n"] == 8
    assert settings(mixer="shrink(by=four)")["mixer"] == "shrink(by=4.0)"
    assert settings(kind='"b"')["kind"] == "b"


def test_the_last_model_is_taken_unless_named() -> None:
    more = "\nmodel big extends base {\n width = 32\n g { n = 9 }\n}\n"
    assert settings(more)["hidden"] == 64
    assert settings(more)["g.m"] == 3 and settings(more)["g.n"] == 9
    assert load_text(OPS + BASE + more, model="base").settings["hidden"] == 8
    assert settings(more, width="1")["hidden"] == 2
    assert load_text(OPS + BASE + more).name == "big"


def test_a_stack_of_extends_replaces_the_whole() -> None:
    more = "\nmodel small extends base {\n stack {\n embed(vocab, width)\n head(vocab)\n }\n}\n"
    model = load_text(OPS + BASE + more)
    assert [line.path for line in model.lines] == ["embed", "head"]


def test_overrides_resolve_where_the_setting_was_declared(tmp_path: Path) -> None:
    (tmp_path / "base.cdr").write_text(OPS + BASE)
    (tmp_path / "top.cdr").write_text('use "base.cdr" { base }\nmodel top extends base {\n rate = 0.25\n}\n')
    model = load(tmp_path / "top.cdr", {"mixer": "shrink(by=rate)"})
    assert model.settings["mixer"] == "shrink(by=0.25)"
    with pytest.raises(CompileError) as error:
        load(tmp_path / "top.cdr", {"mixer": "missing"})
    assert [d.code for d in error.value.diagnostics] == ["E0201"]
    assert "--set mixer=missing" in explain(error.value)


def test_sources_are_the_files_and_nothing_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "base.cdr").write_text(OPS + BASE)
    (tmp_path / "top.cdr").write_text('use "base.cdr" { base }\nmodel top extends base { }\n')
    model = load(tmp_path / "top.cdr", {"width": "2"})
    assert list(model.sources) == ["top.cdr", "base.cdr"]
    assert str(tmp_path) not in repr(model)


@pytest.mark.parametrize(
    ("name", "value", "code", "words", "help"),
    [
        ("wdith", "4", "E0702", "--set wdith: no such setting", "`width`"),
        ("g.k", "4", "E0702", "--set g.k", ""),
        ("n", "4", "E0702", "no such setting", "g.n"),
        ("g", "4", "E0702", "a group of settings", "g.n, g.m"),
        ("a b\x1b", "4", "E0702", '"a b\\x1b"', ""),
        ("width", "4.0", "E0703", "`width` is an int in spec.cdr, 4.0 is a float", "spec.cdr:"),
        ("width", '"24"', "E0703", '`width` is an int in spec.cdr, "24" is a string', ""),
        ("kind", "four", "E0703", "`kind` is a string", "--set 'kind=\"…\"'"),
        ("rate", "true", "E0703", "`rate` is a float", ""),
        ("mixer", "4", "E0703", "`mixer` is an op", ""),
        ("kind", '"c"', "E0706", "require failed: kind is 'a' or 'b' (kind is \"c\", set on the command line)", ""),
        ("width", "n_off", "E0201", "no name `n_off`", "n_of"),
        ("width", "hidden", "E0206", "width → hidden → width", ""),
        ("width", "4 +", "E0101", "", ""),
        ("width", "1\nlet x = 2", "E0702", "no expression", ""),
        ("width", "1 // 0", "E0215", "division by zero", ""),
        ("mixer", "grow(bye=2)", "E0209", "no argument `bye`", "`by`"),
    ],
)
def test_mistakes_of_set(name: str, value: str, code: str, words: str, help: str) -> None:
    found = mistakes(BASE, **{name: value})
    assert code in [c for c, _, _ in found]
    text = next(d for d in found if d[0] == code)
    assert words in text[1] and help in text[2]


@pytest.mark.parametrize(
    ("text", "code", "words", "help"),
    [
        ("model m {\n vocab = 4\n lyer = 3\n layers = 2\n", "E0701", "`lyer` is set and never read", "`layers`"),
        ("model m {\n vocab = 4\n vocab = 5\n", "E0205", "defined twice (first at", ""),
        ("model m {\n vocab = 4\n grow = 5\n", "E0705", "both a setting and an op", ""),
        ("model m {\n vocab = 4\n four = 5\n", "E0205", "a `let` of the file", ""),
        ("model m {\n vocab = 4\n max = 5\n", "E0205", "a meaning", ""),
        ("model m {\n vocab = 4\n g { vocab = 2 }\n g = 3\n", "E0205", "defined twice", ""),
        ("model m {\n vocab = 4\n a = b\n b = a\n", "E0206", "a → b → a", ""),
        ("model m {\n vocab = 4\n g { a = 1 }\n b = g\n", "E0201", "`g` is a group", "g.a"),
        ("model m {\n vocab = 4\n b = layer\n", "E0212", "outside any `repeat layer`", ""),
        ("model m {\n vocab = 4\n b = pos\n", "E0213", "`pos`", ""),
        ("model m {\n vocab = 4\n require vocab > 5\n", "E0706", "(vocab is 4, set in spec.cdr)", ""),
        ("model m {\n vocab = 4\n require vocab\n", "E0216", "true or false", ""),
        ("model m extends n {\n vocab = 4\n", "E0201", "extends `n`", ""),
        ("model m extends m {\n vocab = 4\n", "E0206", "extends itself", ""),
    ],
)
def test_mistakes_of_models(text: str, code: str, words: str, help: str) -> None:
    found = mistakes(text + " stack {\n embed(vocab, four)\n head(vocab)\n }\n}")
    text_ = next((d for d in found if d[0] == code), None)
    assert text_ is not None, found
    assert words in text_[1] and help in text_[2]


def test_models_that_are_none() -> None:
    assert [c for c, *_ in mistakes("")] == ["E0710"]
    assert [c for c, *_ in mistakes("model m {\n vocab = 4\n}")] == ["E0711"]
    with pytest.raises(CompileError, match="E0710.*did|E0710") as error:
        load_text(OPS + BASE, model="bsae")
    assert error.value.diagnostics[0].help == "did you mean `base`?"
    two = "model m {\n vocab = 4\n stack {\n embed(vocab, 4)\n head(vocab)\n }\n stack { }\n}"
    assert [c for c, *_ in mistakes(two)] == ["E0711"]


def test_many_mistakes_are_told_at_once() -> None:
    found = mistakes(BASE.replace("rate = 0.5", "rate = 0.5\n  lone = 1"), width="2.5", nothing="1", kind='"c"')
    assert {"E0701", "E0702", "E0703", "E0706"} <= {code for code, *_ in found}


def test_context_is_read_by_tools() -> None:
    assert settings("\nmodel m extends base {\n context = 128\n}\n")["context"] == 128
