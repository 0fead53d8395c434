"""Time grows with the text: four times as much of anything takes about four times the work, or is refused by a count.

Work is counted in calls of functions, so that no clock decides.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from cdrmix.check import load_text
from cdrmix.check.body.bodies import MAX_STATES
from cdrmix.compiler import lower
from cdrmix.diagnose import MOST_MISTAKES, CompileError, did_you_mean

HEAD = 'use "lib/norm.cdr" { layer_norm }\nuse "lib/embed.cdr" { embed, head }\n'
MODEL = """
model m {{
  vocab = 16
  d_model = 8
  layers = 2
{settings}
  stack {{
    emb: embed(vocab, d_model)
    repeat layer < layers {{
{lines}
    }}
    head(vocab)
  }}
}}
"""


def model(lines: str = "      mix: f\n", settings: str = "", before: str = "") -> str:
    return HEAD + before + MODEL.format(lines=lines, settings=settings)


def op(body: str, before: str = "") -> str:
    return model(before=f"{before}op f(x: [D]) -> [D] {{\n  param w: [D] ~ 1\n{body}\n}}\n")


def each(n: int, line: str, first: int = 0) -> str:
    """The line for i from `first` to n, with `{i}` and the number before it, `{h}`."""
    return "".join(line.replace("{i}", str(i)).replace("{h}", str(i - 1)) + "\n" for i in range(first, n))


def backwards(n: int, line: str) -> str:
    return "\n".join(reversed(each(n, line, 1).splitlines()))


def balanced(n: int, term: str) -> str:
    """A sum of n terms that is not nested deeply."""
    return term if n == 1 else f"({balanced(n // 2, term)} + {balanced(n - n // 2, term)})"


TEXTS: dict[str, Callable[[int], str]] = {
    "lets": lambda n: op(f"  let a0 = 1\n{each(n, '  let a{i} = a{h}*a{h}', 1)}  return a{n - 1}*x*w"),
    "lets from below": lambda n: op(f"{backwards(n, '  let a{i} = a{h}*a{h}')}\n  let a0 = 1\n  return a{n - 1}*x*w"),
    "lets of a file": lambda n: op(
        f"  return a{n - 1}*x*w", f"{backwards(n, 'let a{i} = a{h}*a{h}')}\nlet a0 = 1\n"
    ),
    "lets of a dim": lambda n: op(
        f"  let a0 = D\n{each(n, '  let a{i} = max(a{h}, a{h})', 1)}  dim E = a{n - 1}\n  param v: [E, D] ~ 0\n"
        "  return x*w*sum[e](v[e, 0])"
    ),
    "lets of an init rule": lambda n: op(
        f"  let a0 = 1 + layer\n{each(n, '  let a{i} = a0 + {i}', 1)}{each(n, '  param v{i}: [D] ~ a{i}')}"
        f"{each(n, '  y{i} = x*v{i}')}  return w*z{n - 1}\n"
        f"  z0 = y0\n{each(n, '  z{i} = z{h} + y{i}', 1)}"
    ),
    "dims from below": lambda n: op(
        f"{backwards(n, '  dim a{i} = a{h} * 1')}\n  dim a0 = D\n  param v: [a{n - 1}] ~ 0\n  return x*w*sum[e](v[e])"
    ),
    "settings from below": lambda n: model(
        f"      mix: f(k=s{n - 1})\n",
        f"{backwards(n, '  s{i} = s{h}*s{h}')}\n  s0 = 1",
        "op f(x: [D], k: int) -> [D] {\n  return x*k\n}\n",
    ),
    "equations": lambda n: op(f"  y0 = x*w\n{each(n, '  y{i} = y{h}*y{h}', 1)}  return y{n - 1}"),
    "equations from below": lambda n: op(f"  return y{n - 1}\n{backwards(n, '  y{i} = y{h}*y{h}')}\n  y0 = x*w"),
    "a wide sum": lambda n: op(f"  return w*{balanced(n, 'x')}"),
    "a wide sum of sums": lambda n: op(f"  y[i] = w[i]*{balanced(n, 'sum[j](x[j])')}\n  return y"),
    "a wide state": lambda n: op(f"  state s: [D]\n  s' = w*x + {balanced(n, 's')}\n  return s"),
    "calls": lambda n: op(f"  return w*{balanced(n, 'g(x)')}", "op g(x: [D]) -> [D] {\n  y = x*x\n  return y + x\n}\n"),
    "ops": lambda n: model(
        "      mix: f0\n" + each(n, "      a{i}: g{i}"),
        before="op f0(x: [D]) -> [D] {\n  return x\n}\n"
        + each(n, "op g{i}(x: [D]) -> [D] {\n  param w: [D] ~ 1\n  return x*w\n}"),
    ),
    "layers that differ": lambda n: model(
        "      mix: f\n", before="op f(x: [D]) -> [D] {\n  let k = layer + 1\n  return x*k\n}\n"
    ).replace("layers = 2", f"layers = {n}"),
    "parts": lambda n: op(f"{each(n, '  part p{i}: layer_norm')}{each(n, '  y{i} = p{i}(x)')}"
                          + "  z0 = y0\n" + each(n, "  z{i} = z{h} + y{i}", 1) + f"  return w*z{n - 1}"),  # fmt: skip
    "a chain of derived ops": lambda n: op("  y = x*w\n  return y").replace("mix: f\n", f"mix: g{n - 1}\n").replace(
        "model m", "op g0 = f with {\n  y = w*x\n}\n" + each(n, "op g{i} = g{h} with {\n  y = {i}*x*w\n}", 1)
        + "model m"
    ),
    "metrics": lambda n: op(f"{each(n, '  metric m{i}[j] = mean[tokens](x[j]*w[j])')}  return x*w"),
    "comments": lambda n: op("  # so it is\n" * 20 * n + "  return x*w"),
}  # fmt: skip


def work(text: str) -> int:
    """Calls of functions until a text is checked and lowered."""
    count = 0

    def profile(frame: object, event: str, arg: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(profile)
    try:
        lower(load_text(text))
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("name", TEXTS)
def test_four_times_the_text_is_about_four_times_the_work(name: str) -> None:
    texts = [TEXTS[name](n) for n in (1, 24, 96)]
    for text in texts:
        lower(load_text(text))  # what is built once a process: tables, the library's files
    none, some, more = map(work, texts)
    assert more - none <= 6.5 * (some - none)  # not 16


REFUSED: dict[str, tuple[str, str]] = {
    "functions that double": ("E0221", op("  return g20(x*w)", "op g0(x: [D]) -> [D] {\n  return x\n}\n" + each(
        21, "op g{i}(x: [D]) -> [D] {\n  return g{h}(x) + g{h}(2*x)\n}", 1))),
    "functions of functions in an init rule": ("E0221", op("  param v: [i < D] ~ g20(i)\n  return x*w*v", (
        "op g0(x: []) -> [] {\n  return x\n}\n"
        + each(21, "op g{i}(x: []) -> [] {\n  return g{h}(x*x + x)\n}", 1)))),
    "lets that double in an init rule": ("E0221", op(
        f"  let a0 = layer\n{each(28, '  let a{i} = a{h} + a{h}', 1)}  param v: [D] ~ a27\n  return x*w*v")),
    "lets nested deeply in an init rule": ("E0219", op(
        f"  let a0 = layer\n{each(900, '  let a{i} = a{h} + 1', 1)}  param v: [D] ~ a899\n  return x*w*v")),
    "functions nested deeply": ("E0219", op("  return g27(x*w)", "op g0(x: [D]) -> [D] {\n  return x\n}\n" + each(
        28, "op g{i}(x: [D]) -> [D] {\n  return g{h}(2*x)\n}", 1))),
    "layers that differ without end": ("E0221", model(
        "      mix: f\n", before="op f(x: [D]) -> [D] {\n  let k = layer + 1\n  return x*k + x\n}\n"
    ).replace("layers = 2", "layers = 4_000")),
    "parts that double": ("E0713", op("  part p: g20\n  return w*p(x)", "op g0(x: [D]) -> [D] {\n  param w: [D] ~ 1\n"
        "  return x*w\n}\n" + each(21, "op g{i}(x: [D]) -> [D] {\n  part p: g{h}\n  part q: g{h}\n"
                                   "  return p(x) + q(x)\n}", 1))),
    "states": ("E0412", op(f"{each(MAX_STATES + 1, '  state s{i}: [D]')}"
                           + each(MAX_STATES + 1, "  s{i}' = x*w") + "  return s0")),
    "words": ("E0116", op("  return x*w\n" + "  y = x*x*x*x\n" * 5_000)),
    "a ring of lets": ("E0206", op(f"{each(2_000, '  let a{i} = a{h}', 1)}  let a0 = a1999\n  return a7*x*w")),
    "a ring of settings": ("E0206", model(
        "      mix: layer_norm\n", each(2_000, "  a{i} = a{h}", 1) + "  a0 = a1999")),
    "a ring of lets of a file": ("E0206", op(
        "  return a7*x*w", f"{each(2_000, 'let a{i} = a{h}', 1)}let a0 = a1999\n")),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_grows_without_end_is_refused_by_a_count(name: str) -> None:
    code, text = REFUSED[name]
    with pytest.raises(CompileError) as refused:
        lower(load_text(text))
    assert {d.code for d in refused.value.diagnostics} == {code}
    assert all(d.span.line > 1 or code == "E0116" for d in refused.value.diagnostics), "without a place"


def test_mistakes_are_told_up_to_a_number() -> None:
    with pytest.raises(CompileError) as refused:
        load_text(op(f"{each(3_000, '  y{i} = x*nothing{i}')}  return x*w"))
    assert len(refused.value.diagnostics) == MOST_MISTAKES


def test_the_nearest_of_very_many_names_is_found_among_the_first() -> None:
    assert did_you_mean("lenght", ["length", *(f"name{i}" for i in range(10_000))]) == "did you mean `length`?"
    assert did_you_mean("a" * 100_000, ["a" * 100_001]) == ""


def test_places_in_a_wide_cell_are_few() -> None:
    """A let that is used twice is computed once: 28 lines that double are 28 multiplications."""
    assert load_text(TEXTS["lets"](28)).cells["f"].body
