"""Files: `use`, what is imported, and the mistakes of several files in one report."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdrmix.check.names.loader import LIBRARY, File, Loader
from cdrmix.diagnose import CompileError, Report, UserError

OP = "op {name}(x: [D]) -> [D] {{ return x }}\n"


def write(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        path = folder / (name.replace("__", "/") + ".cdr")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def read(path: Path) -> tuple[File | None, Report, Loader]:
    loader = Loader(Report())
    return loader.root(path), loader.report, loader


def codes(report: Report) -> list[str]:
    return [d.code for d in report.diagnostics]


@pytest.mark.parametrize("path", sorted(LIBRARY.rglob("*.cdr")), ids=lambda p: p.name)
def test_the_library_loads(path: Path) -> None:
    file, report, _ = read(path)
    assert file is not None and not report.diagnostics
    assert file.own


def test_beside_first_then_the_library(tmp_path: Path) -> None:
    write(tmp_path, a='use "lib/norm.cdr" { unit }\nuse "lib/mine.cdr" { f as g }', lib__mine=OP.format(name="f"))
    file, report, loader = read(tmp_path / "a.cdr")
    assert not report.diagnostics and file is not None
    assert set(file.scope.ops) == {"unit", "g"}
    assert set(loader.texts) == {"a.cdr", "<library>/lib/norm.cdr", "lib/mine.cdr"}
    assert str(tmp_path) not in repr([d.span for d in file.scope.ops.values()])


def test_a_file_of_the_user_and_one_of_the_library_may_share_a_name(tmp_path: Path) -> None:
    text = 'use "lib/norm.cdr" { mine }\nuse "lib/rwkv6.cdr" { rwkv6 }'
    write(tmp_path, a=text, lib__norm=OP.format(name="mine"))
    file, report, loader = read(tmp_path / "a.cdr")
    assert not report.diagnostics and file is not None
    names = ["a.cdr", "lib/norm.cdr", "<library>/lib/rwkv6.cdr", "<library>/lib/norm.cdr"]
    assert list(loader.texts) == names
    again = Loader(Report(), given=loader.texts)
    same = again.text(text, "a.cdr")
    assert not again.report.diagnostics and same is not None
    assert same.scope.ops["mine"].body == file.scope.ops["mine"].body and list(again.texts) == names


def test_files_are_read_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        a='use "b.cdr" { f }\nuse "c.cdr" { g }',
        b='use "d.cdr" { h }\n' + OP.format(name="f"),
        c='use "./d.cdr" { h }\n' + OP.format(name="g"),
        d=OP.format(name="h"),
    )
    file, report, _ = read(tmp_path / "a.cdr")
    assert not report.diagnostics and file is not None
    both = [op.scope.ops["h"] for op in file.scope.ops.values()]
    assert both[0] is both[1]


def test_lets_and_models_are_imported(tmp_path: Path) -> None:
    write(tmp_path, a='use "b.cdr" { n, base }', b="let n = 3\nmodel base { m = n }")
    file, report, _ = read(tmp_path / "a.cdr")
    assert not report.diagnostics and file is not None
    assert set(file.scope.lets) == {"n"} and set(file.scope.models) == {"base"}
    assert file.scope.lets["n"][1].file == "b.cdr"


@pytest.mark.parametrize(
    ("text", "code", "message", "help"),
    [
        ('use "lib/norm.cdr" { layernorm }', "E0202", "no `layernorm`", "layer_norm, rms_norm, group_norm, unit"),
        ('use "lib/rwkv6.cdr" { group_norm }', "E0202", "no `group_norm`", "imports `group_norm` from another file"),
        ('use "lib/mo.cdr" { moe }', "E0203", "looked for beside a.cdr", "`lib/moe.cdr`"),
        ('use "/etc/x.cdr" { moe }', "E0203", "relative path", ""),
        ('use "lib/norm" { unit }', "E0203", "relative path", ""),
        ('use "a.cdr" { f }', "E0204", "a.cdr → a.cdr", "third file"),
        ("let n = 1\nlet n = 2", "E0205", "defined twice (first at 1:1)", ""),
        ("let pos = 1", "E0205", "a meaning in the language", ""),
        ('use "lib/norm.cdr" { unit, unit }', "E0205", "defined twice", ""),
        ('use "lib/norm.cdr" { unit }\nlet unit = 2', "E0205", "defined twice", ""),
        ("model m { }\nmodel m { }", "E0205", "defined twice", ""),
        ("op f(x: [D], x: int) -> [D] { return x }", "E0205", "defined twice", ""),
        ("op f(n: int, x: [D]) -> [D] { return x }", "E0220", "stands after", ""),
        ("op f = g with { drop a }", "E0201", "no op `g`", ""),
        ("op f = g with { a = 1 }\nop g = f with { a = 1 }", "E0206", "f → g → f", ""),
        ("op f(x: [D]) -> [D] {\n  drop y\n  return x\n}", "E0801", "derives from none", ""),
    ],
)
def test_mistakes(tmp_path: Path, text: str, code: str, message: str, help: str) -> None:
    write(tmp_path, a=text)
    _, report, _ = read(tmp_path / "a.cdr")
    assert codes(report) == [code]
    assert message in report.diagnostics[0].message and help in report.diagnostics[0].help


def test_a_ring_of_files(tmp_path: Path) -> None:
    ring = {"a": "b", "b": "c", "c": "b"}
    write(tmp_path, **{n: f'use "{to}.cdr" {{ {to} }}\n' + OP.format(name=n) for n, to in ring.items()})
    _, report, _ = read(tmp_path / "a.cdr")
    assert codes(report) == ["E0204"]
    assert "b.cdr → c.cdr → b.cdr" in report.diagnostics[0].message


def test_files_nested_too_deep(tmp_path: Path) -> None:
    write(tmp_path, **{f"f{i}": f'use "f{i + 1}.cdr" {{ x }}' for i in range(60)}, f60="let x = 1")
    _, report, _ = read(tmp_path / "f0.cdr")
    assert codes(report) == ["E0219"]


def test_mistakes_of_several_files_are_told_together(tmp_path: Path) -> None:
    write(
        tmp_path,
        a='use "b.cdr" { f }\nuse "c.cdr" { g }\nop d = f with { drop a }\nlet n = 1\nlet n = 2',
        b="op f(x: [D]) -> [D] {",
        c='use "lib/norm.cdr" { nothing }',
    )
    file, report, _ = read(tmp_path / "a.cdr")
    found = {(d.span.file, d.code) for d in report.diagnostics}
    assert found == {("a.cdr", "E0205"), ("b.cdr", "E0106"), ("c.cdr", "E0202")} | {("a.cdr", "E0202")}
    assert file is not None and "f" in file.scope.broken


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        read(tmp_path / "none.cdr")
    with pytest.raises(UserError, match="cannot read"):
        read(tmp_path)
    (tmp_path / "raw.cdr").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CompileError, match="E0115"):
        read(tmp_path / "raw.cdr")
    write(tmp_path, a='use "raw.cdr" { f }', big="#" * (5 << 20))
    _, report, _ = read(tmp_path / "a.cdr")
    assert codes(report) == ["E0115"]
    with pytest.raises(CompileError, match="E0116"):
        read(tmp_path / "big.cdr")
    write(tmp_path, tiny="")
    with pytest.raises(UserError) as error:
        read(tmp_path / "tniy.cdr")
    assert "tiny.cdr" in error.value.help
