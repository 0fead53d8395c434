"""Names and texts of a spec in C: hostile ones stay names and texts, and the program compiles without a warning."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import jinja2
import jinja2.meta
import pytest
from cdrmix.codegen.c import program as backend
from cdrmix.codegen.c.names import Scope, comment, identifier, string
from cdrmix.codegen.c.rules import ELEMENTWISE, OPS
from hypothesis import example, given
from hypothesis import strategies as st

from cdrmix.check import load, load_text
from cdrmix.compiler import lower
from cdrmix.ir.initial import random_weights
from cdrmix.ir.interp import Interpreter
from cdrmix.ir.nodes import Model
from cdrmix.ir.ops import OPS as ROWS

from .c_program import CC, CLANG, STRICT, TOLERANCE, compile_c, library, needs_compiler, rms, sources, stream

SPEC = Path(__file__).parents[2] / "spec"

NAMES = re.findall(
    r"\w+",
    """int_ double struct volatile inline restrict register expf tanhf memcpy NULL INFINITY EOF CDR_OK linux wt st tmp
    out_ lane run calls slots errno signbit INT64_MAX ptrdiff_t float_ class new cdr_matvec""",
)

HOSTILE = (
    """
use "lib/norm.cdr" { layer_norm }
use "lib/embed.cdr" { embed, head }

# Ends here? */ int main(void) { return 1; } /* ??/
# "quotes" and \\ a backslash at the end \\
op mix(x: [D]) -> [D] {
  param NULL: [D, D] ~ 0   # */
  state errno: [D]
"""
    + "".join(f"  param {n}: [D] ~ 0\n" for n in NAMES if n not in ("NULL", "errno"))
    + """
  errno' = x
  exp_ = NULL @ x
  volatile_2 = exp_ + errno
  part INT_MAX: put
  return INT_MAX("""
    + " + ".join(n for n in NAMES if n not in ("NULL", "errno"))
    + """ + volatile_2)
}

op put(static: [D]) -> [D] {
  param auto: [D] ~ 0
  state const: [D] = 0.5
  const' = const*0.5 + static
  goto = auto*const
  return goto
}

model void {
  vocab = 20
  d_model = 8
  layers = 2
  context = 16
  stack {
    emb: embed(vocab, d_model)
    repeat layer < layers {
      default: residual mix
      switch: layer_norm
    }
    typedef: head(vocab)
  }
}
"""
)


@needs_compiler
def test_a_spec_of_keywords_and_macros_runs(tmp_path: Path) -> None:
    model = load_text(HOSTILE, file='a*/b"\\.cdr')
    weights = random_weights(model, 1)
    c, interpreter = stream(model, weights, tmp_path), Interpreter(model, weights)
    assert rms(c.prefill([1, 2, 3]), interpreter.run([1, 2, 3]).logits[-1]) <= TOLERANCE


@needs_compiler
def test_texts_that_the_language_could_not_write(tmp_path: Path) -> None:
    """Names, paths and docs as no parser lets them through."""
    model = load(SPEC / "rwkv4.cdr", {"d_model": "8", "vocab": "9"})
    bad = 'a*/ "%s\\ ??/\n\x00é/* //'
    cells = {n: replace(c, op=bad, doc=f"*/ #error {bad}") for n, c in model.cells.items()}
    lines = []
    for line in model.lines:
        chain = tuple(replace(i, path=i.path.replace("layer", f"{bad}.layer")) for i in line.chain)
        lines.append(replace(line, path=chain[-1].path, chain=chain))
    model = replace(model, name=bad, doc=bad, cells=cells, lines=tuple(lines))
    weights = random_weights(model, 1)
    files = backend.emit(lower(model).program, "cpu", {})
    assert "#error" not in re.sub(r"/\*.*?\*/", "", str(files["model.c"]), flags=re.DOTALL)
    sources(model, tmp_path)
    library(tmp_path)
    assert weights  # its file's names are the same texts


# --- the escaper ---------------------------------------------------------------------------------------------------
@given(st.lists(st.text(), min_size=1, max_size=20))
@example(["int", "int_", "int", "9", "", "é", "_Bool", "__x", "a-b", "a.b", "a b", "EOF"])
def test_identifiers_are_unique_and_plain(wanted: list[str]) -> None:
    scope = Scope({"taken"})
    given_ = [scope.name(w) for w in ["taken", *wanted]]
    assert len({*given_, "taken"}) == len(given_) + 1
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", n) for n in given_)


@pytest.mark.parametrize("name", ["x", "S", "x_prev", "Wr", "k_k", "layer_0_att", "D", "dx", "gn_w"])
def test_plain_names_stay_as_they_are(name: str) -> None:
    assert identifier(name) == name


@needs_compiler
@given(st.lists(st.text(max_size=30), min_size=1, max_size=5))
def test_comments_hold(texts: list[str]) -> None:
    for text in texts:
        made = comment(text)
        assert "*/" not in made and "/*" not in made and "??" not in made and "\\" not in made
        assert made.isascii() and made.isprintable()
        assert re.sub(r"/\*.*?\*/", "", f"/* {made} */x") == "x"


@needs_compiler
def test_strings_mean_their_text(tmp_path: Path) -> None:
    texts = ['"', "\\", "??/", "??=", "%s%n", "\n\r\t\0x", "é日😀", "0123\x01456", "*/", "a" * 300, "\\u0041", "'"]
    rows = ",\n".join(f"{{{string(t)}, {len(t.encode())}}}" for t in texts)
    source = tmp_path / "s.c"
    source.write_text(
        "#include <stdio.h>\nstatic const struct { const char *text; int size; } rows[] = {\n" + rows + "};\n"
        "int main(void)\n{\n  for (unsigned int i = 0; i < sizeof rows / sizeof rows[0]; i++)\n"
        "    fwrite(rows[i].text, 1, (size_t)rows[i].size, stdout);\n  return 0;\n}\n"
    )
    compile_c([str(CC), *STRICT, "-o", str(tmp_path / "s"), str(source)])
    assert subprocess.run([tmp_path / "s"], capture_output=True, check=True).stdout == "".join(texts).encode()


# --- the files -----------------------------------------------------------------------------------------------------
def models() -> list[Model]:
    hybrid = {"d_model": "32", "layers": "4", "vocab": "64", "mixer": "rwkv7(N=16, dw=8, da=8, dv=8, dg=8)"}
    hybrid |= {"moe.hidden": "16", "attn.heads": "4", "attn.kv_heads": "2", "attn.window": "6"}
    return [load(SPEC / "hybrid.cdr", hybrid), load(SPEC / "rwkv4.cdr", {})]


@needs_compiler
@pytest.mark.parametrize("compiler", [shutil.which("gcc"), CLANG], ids=["gcc", "clang"])
@pytest.mark.parametrize(
    "flags", [("-O0", "-DCDR_NO_MMAP", "-DCDR_PLAIN"), ("-O2",), ("-O3", "-march=native")], ids=" ".join
)
def test_no_compiler_warns(
    compiler: str | None, flags: tuple[str, ...], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if compiler is None:
        pytest.skip("no clang" if "clang" in request.node.name else "no gcc")
    for n, model in enumerate(models()[:1] if flags[0] == "-O0" else models()):
        library(sources(model, tmp_path / str(n)), *flags, compiler=compiler)


def test_the_same_spec_gives_the_same_bytes_and_no_paths() -> None:
    for model, again in zip(models(), models(), strict=True):
        files = backend.emit(lower(model).program, "cpu", {})
        assert files == backend.emit(lower(again).program, "cpu", {})
        for content in files.values():
            assert str(SPEC.parent) not in str(content)


def test_templates_use_exactly_the_keys_they_are_given() -> None:
    """A key that no template reads, or one that is missing, is an error."""
    rendered: dict[str, set[str]] = {}
    original = backend.fill

    def spy(package: str, template: str, keys: dict[str, object]) -> str:
        rendered[template] = set(keys)
        return original(package, template, keys)

    backend.fill = spy
    try:
        backend.emit(lower(models()[0]).program, "cpu", {})
    finally:
        backend.fill = original
    folder = Path(backend.__file__).parent
    for template, keys in rendered.items():
        tree = jinja2.Environment(autoescape=False).parse((folder / template).read_text(encoding="utf-8"))
        assert jinja2.meta.find_undeclared_variables(tree) == keys, template
    assert set(rendered) == {path.name for path in folder.glob("*.j2")}


def test_no_function_of_the_runtime_is_named_as_a_cells_struct() -> None:
    """They share a file with `put_state`, `put_weights`, … of an op `put`."""
    for path in (SPEC.parent / "runtime" / "c").glob("*.[ch]"):
        for name in re.findall(r"\b[a-z]\w*\b", re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)):
            if not name.startswith("cdr_"):
                assert not re.fullmatch(r"(cell|start)_\w+|\w+_(weights|state|scratch|weights_at)", name), (path, name)


def test_every_op_of_the_table_has_a_rule() -> None:
    assert set(ROWS) == OPS
    assert {name for name, row in ROWS.items() if row.kind == "elementwise"} == set(ELEMENTWISE)
