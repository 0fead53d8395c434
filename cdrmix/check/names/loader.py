"""Files to scopes: reading, `use`, derived ops, and the texts that diagnostics quote.

Input: the path or text of a `.cdr` file.  Output: its `Scope`, with every `with` applied; what is wrong in it and in
the files it uses is in the report.

A file is named in spans by its path from the folder of the first file, or from the library after `<library>/`, so
that nothing that is written from a model says where on a machine it was compiled.  `use "lib/x.cdr"` is looked for
beside the file, then in the library.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from itertools import islice
from pathlib import Path

from cdrmix.check.names.catalogue import IN_LIBRARY, Catalogue
from cdrmix.check.names.derive import derive
from cdrmix.check.names.mentions import leaves
from cdrmix.check.names.scope import OpDecl, Scope
from cdrmix.check.names.statics import RESERVED, import_of
from cdrmix.check.names.values import Failed, fail
from cdrmix.diagnose import CompileError, Report, Span, UserError, did_you_mean
from cdrmix.syntax import ast, parse, read_source
from cdrmix.syntax.source import check_words

LIBRARY = Path(str(files("cdrmix.spec")))
"""The installed `spec/` folder."""

MAX_IMPORTS = 32
"""How deep files may import files."""


@lru_cache(maxsize=128)
def parsed(text: str, file: str) -> ast.Module:
    """The module; the library's files are parsed once a process."""
    return parse(text, file)


@dataclass(slots=True)
class File:
    """A file read.

    `names` and `models` say where each was defined or imported, `own` which are its own, so that others may import
    them.
    """

    name: str
    scope: Scope
    names: dict[str, Span] = field(default_factory=dict)
    models: dict[str, Span] = field(default_factory=dict)
    own: dict[str, ast.Syntax] = field(default_factory=dict)


@dataclass(slots=True)
class Loader:
    """Reads files, each once.  `texts` and `paths` give the text and the real path of each file by its short name.

    With `given`, texts by short name, no file is read: a model's `sources` are enough to load it again.
    """

    report: Report
    library: Path = LIBRARY
    given: Mapping[str, str] | None = None
    texts: dict[str, str] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    elsewhere: Catalogue = field(init=False)
    _files: dict[str, File | None] = field(default_factory=dict)
    _stack: list[tuple[str, str]] = field(default_factory=list)
    _words: int = 0

    def __post_init__(self) -> None:
        self.elsewhere = Catalogue(self.texts, self.paths, self.library if self.given is None else None)

    def root(self, path: Path) -> File | None:
        """The first file, or the one of that name in the library.  Raises `UserError` when it cannot be read."""
        path = self._in_library(path) or path
        try:
            text = read_source(path, path.name)
        except FileNotFoundError as error:
            near = did_you_mean(path.name, [*_specs(path.parent), *_specs(self.library)])
            raise UserError(f"cannot read {path}: no such file, here or in the library", near) from error
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {path}: {_why(error)}") from error
        return self._load(path, path.name, text)

    def _in_library(self, path: Path) -> Path | None:
        """The library's file for a path that is not there: `tiny.cdr`, or `spec/tiny.cdr` as in the source tree."""
        if _is_file(path) or path.is_absolute() or ".." in path.parts:
            return None
        within = self.library.joinpath(*(path.parts[1:] if path.parts[:1] == ("spec",) else path.parts))
        return within if _is_file(within) else None

    def text(self, text: str, name: str) -> File | None:
        """The same for a text that is no file; what it uses comes from the library, or is given."""
        found = self._load(self.library / name, name, text)
        self.paths[name] = name
        return found

    def _key(self, path: Path, name: str) -> str:
        return name if self.given is not None else str(path.resolve())

    def _load(self, path: Path, name: str, text: str) -> File | None:
        self.texts[name], self.paths[name] = text, str(path)
        key = self._key(path, name)
        self._files[key] = None
        self._stack.append((key, name))
        try:
            self._words = check_words(text, name, self._words)
            module = parsed(text, name)
            self._files[key] = self._declare(module, path)
        except CompileError as error:
            for d in error.diagnostics:
                self.report.error(d.code, d.span, d.message, d.help)
        finally:
            self._stack.pop()
        return self._files[key]

    # ---- the items of a file
    def _declare(self, module: ast.Module, path: Path) -> File:
        file = File(module.file, Scope(module.file, elsewhere=self.elsewhere))
        scope = file.scope
        derived: dict[str, ast.Derive] = {}
        for item in module.items:
            match item:
                case ast.Use():
                    self._use(item, file, path)
                case ast.Let() if self._new(item.name, item.span, file):
                    scope.lets[item.name] = (item, scope)
                case ast.OpDef() if self._new(item.name, item.span, file):
                    known = len(self.report.diagnostics)
                    self._check_op(item)
                    if len(self.report.diagnostics) > known:
                        scope.broken.add(item.name)
                        continue
                    scope.ops[item.name] = OpDecl(
                        item.name, scope, item.formals, item.type, item.body, item.doc, item.span
                    )
                case ast.Derive() if self._new(item.name, item.span, file):
                    self._check_formals(item.formals)
                    derived[item.name] = item
                case ast.Model() if self._first(item.name, item.span, file.models):
                    scope.models[item.name] = (item, scope)
                case _:
                    continue
            if not isinstance(item, ast.Use):
                file.own.setdefault(item.name, item)
        for name in derived:
            self._derive(name, derived, [], file)
        return file

    def _new(self, name: str, span: Span, file: File) -> bool:
        if name in RESERVED:
            self.report.error("E0205", span, f"`{name}` has a meaning in the language", "choose another name")
            return False
        return self._first(name, span, file.names)

    def _first(self, name: str, span: Span, names: dict[str, Span]) -> bool:
        if name in names:
            at = f"{names[name].line}:{names[name].col}"
            self.report.error("E0205", span, f"`{name}` is defined twice (first at {at})", "rename one of the two")
            return False
        names[name] = span
        return True

    def _check_op(self, op: ast.OpDef) -> None:
        self._check_formals(op.formals)
        for stmt in leaves(op.body):
            if isinstance(stmt, ast.Drop):
                self.report.error("E0801", stmt.span, "`drop` stands in an op that derives from none",
                                  "it belongs in `op a = b with { … }`")  # fmt: skip

    def _check_formals(self, formals: Sequence[ast.Formal]) -> None:
        names: dict[str, Span] = {}
        static = ""
        for formal in formals:
            self._first(formal.name, formal.span, names)
            if formal.kind not in ("tensor", "index"):
                static = formal.name
            elif static:
                wrong = f"the input `{formal.name}` stands after the argument `{static}`"
                self.report.error("E0220", formal.span, wrong, "inputs come first: put it in front")

    def _derive(self, name: str, waiting: Mapping[str, ast.Derive], busy: list[str], file: File) -> OpDecl | None:
        """The derived op; its base may be derived as well, and stand below it."""
        text = waiting[name]
        if name in file.scope.broken:
            return None
        if name in busy:
            ring = " → ".join([*busy[busy.index(name) :], name])
            self.report.error(
                "E0206", text.span, f"`{name}` needs itself: {ring}", "derive one of them from another op"
            )
            return None
        if name not in file.scope.ops:
            base = file.scope.ops.get(text.base)
            if base is None and text.base in waiting:
                base = self._derive(text.base, waiting, [*busy, name], file)
            elif base is None and text.base not in file.scope.broken:
                known = [*file.scope.ops, *waiting]
                self.report.error(
                    "E0201",
                    text.span,
                    f"no op `{text.base}` here",
                    import_of(text.base, file.scope, text.span) or did_you_mean(text.base, known) or "define it",
                )
            if base is None:
                file.scope.broken.add(name)
                return None
            told = len(self.report.diagnostics)
            made = derive(text, base, file.scope, self.report)
            if any(d.code not in ("E0401", "E0802") for d in self.report.diagnostics[told:]):  # these leave it usable
                file.scope.broken.add(name)
                return None
            file.scope.ops[name] = made
        return file.scope.ops[name]

    # ---- imports
    def _use(self, use: ast.Use, file: File, path: Path) -> None:
        try:
            found = self._find(use, file.name, path)
        except Failed:
            found = None
        for item in use.imports:
            name = item.alias or item.name
            if found is None or item.name in found.scope.broken:
                file.scope.broken.add(name)
            elif item.name not in found.own:
                self._absent(use, item, found, file)
                file.scope.broken.add(name)
            else:
                self._take(item, name, found.scope, file)

    def _take(self, item: ast.Import, name: str, source: Scope, file: File) -> None:
        mine = file.scope
        if (item.name in source.ops or item.name in source.lets) and self._new(name, item.span, file):
            if item.name in source.ops:
                mine.ops[name] = source.ops[item.name]
            else:
                mine.lets[name] = source.lets[item.name]
        if item.name in source.models and self._first(name, item.span, file.models):
            mine.models[name] = source.models[item.name]

    def _absent(self, use: ast.Use, item: ast.Import, found: File, file: File) -> None:
        if item.name in found.names or item.name in found.models:
            help = f"it imports `{item.name}` from another file: import it from there"
        else:
            near = did_you_mean(item.name, found.own)
            near = near or import_of(item.name, file.scope, item.span)
            help = f"it has {', '.join(found.own)}" + (f"; {near}" if near else "") if found.own else "it is empty"
        self.report.error("E0202", item.span, f"`{use.path}` has no `{item.name}`", help)

    def _find(self, use: ast.Use, importer: str, path: Path) -> File | None:
        """The file a `use` names, read; None when it is broken."""
        report, span = self.report, use.span
        if not use.path.endswith(".cdr") or use.path.startswith(("/", "~")) or "\\" in use.path or "\0" in use.path:
            fail(report, "E0203", span, "`use` wants the relative path of a .cdr file, with `/`",
                 'for instance `use "lib/norm.cdr" { layer_norm }`')  # fmt: skip
        if len(self._stack) >= MAX_IMPORTS:
            fail(report, "E0219", span, f"files import files more than {MAX_IMPORTS} deep", "import them from nearer")
        beside = posixpath.normpath(posixpath.join(posixpath.dirname(importer), use.path))
        places = [
            (path.parent / use.path, beside),
            (self.library / use.path, IN_LIBRARY + posixpath.normpath(use.path)),
        ]
        place = next((p for p in places if (_is_file(p[0]) if self.given is None else p[1] in self.given)), None)
        if place is None:
            near = did_you_mean(use.path, [*_near(path.parent, use.path), *_near(self.library, use.path)])
            fail(report, "E0203", span, f"no file `{use.path}`, looked for beside {importer} and in the library",
                 near or "paths are relative to the file that uses them")  # fmt: skip
        where, name = place
        key = self._key(where, name)
        for at, (open_key, _) in enumerate(self._stack):
            if open_key == key:
                ring = " → ".join([*(name for _, name in self._stack[at:]), self._stack[at][1]])
                fail(report, "E0204", span, f"files import each other: {ring}", "move what both need to a third file")
        if key in self._files:
            return self._files[key]
        try:
            text = read_source(where, name) if self.given is None else self.given[name]
        except (OSError, ValueError) as error:
            fail(report, "E0203", span, f"cannot read `{use.path}`: {_why(error)}", "it was there a moment ago")
        except CompileError as error:
            report.diagnostics += error.diagnostics
            raise Failed from error
        return self._load(where, name, text)


def _why(error: Exception) -> str:
    return str(error.strerror if isinstance(error, OSError) else error)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _near(folder: Path, wanted: str) -> list[str]:
    """The `.cdr` files a `use` from `folder` could have meant."""
    inner = {posixpath.dirname(wanted), "", "lib"}
    return [posixpath.join(d, name) for d in sorted(inner) for name in _specs(folder / d)]


def _specs(folder: Path) -> list[str]:
    try:
        return sorted(p.name for p in islice(folder.glob("*.cdr"), 500))
    except OSError:
        return []
