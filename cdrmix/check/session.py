"""A spec's file to a checked, expanded model.

Input: a path or a text, and `--set` overrides.  Output: an `ir.nodes.Model`.  Raises `CompileError` with every mistake
of the first of these stages that finds any: the files and their derived ops; the settings and the stack.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from cdrmix.check.axes.sizes import check_sizes
from cdrmix.check.body.begins import check_begins
from cdrmix.check.body.elaborate import Elaborator
from cdrmix.check.names.loader import LIBRARY, File, Loader
from cdrmix.check.names.mentions import mentioned
from cdrmix.check.names.scope import OpValue, Scope
from cdrmix.check.names.settings import Settings, chain
from cdrmix.check.names.values import Failed, fail, show
from cdrmix.check.stack.expand import Expander
from cdrmix.check.stack.ties import resolve_ties
from cdrmix.diagnose import CompileError, Report, Span, did_you_mean
from cdrmix.ir.nodes import Cell, Model
from cdrmix.syntax import ast


def load(
    path: str | Path,
    overrides: Mapping[str, str] | None = None,
    model: str | None = None,
    options: Mapping[str, str] | None = None,
) -> Model:
    """The model of a file: the last one in it, or the one named.  `options` say how overrides were given, for messages:
    by `--set` otherwise.
    """
    session = Session()
    with session.errors():
        file = session.loader.root(Path(path))
        return session.model(file, overrides or {}, model, options)


def load_text(
    text: str,
    file: str = "spec.cdr",
    overrides: Mapping[str, str] | None = None,
    library: Path = LIBRARY,
    model: str | None = None,
) -> Model:
    """The same for a text; what it uses is looked for in `library`."""
    session = Session(library)
    with session.errors():
        return session.model(session.loader.text(text, file), overrides or {}, model)


def load_sources(
    sources: Mapping[str, str], overrides: Mapping[str, str] | None = None, model: str | None = None
) -> Model:
    """The same from a model's `sources`: nothing is read from disk.  The first is the spec."""
    session = Session(given=sources)
    with session.errors():
        name, text = next(iter(sources.items()))
        return session.model(session.loader.text(text, name), overrides or {}, model)


@dataclass(slots=True)
class Session:
    """One load: its report and its files."""

    library: Path = LIBRARY
    given: Mapping[str, str] | None = None
    report: Report = field(default_factory=Report)
    loader: Loader = field(init=False)

    def __post_init__(self) -> None:
        self.loader = Loader(self.report, self.library, self.given)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Let `CompileError` out with the texts that its spans point into."""
        try:
            yield
        except Failed:
            self.stop()
        except RecursionError:
            file = next(iter(self.loader.texts), "spec.cdr")
            self.report.error("E0219", Span(file, 1, 1, 1, 1), "the text is nested too deeply", "split it into ops")
            self.stop()
        except CompileError as error:
            raise CompileError(error.diagnostics, self.loader.texts, self.loader.paths) from None

    def stop(self) -> None:
        """Raise what was reported so far, if anything was."""
        try:
            self.report.raise_if_any()
        except CompileError as error:
            raise CompileError(error.diagnostics, self.loader.texts, self.loader.paths) from None

    def model(
        self,
        file: File | None,
        overrides: Mapping[str, str],
        name: str | None,
        options: Mapping[str, str] | None = None,
    ) -> Model:
        """The model of a file that was read."""
        if file is None:
            self.stop()
        assert file is not None  # a file that cannot be used leaves an error
        sources = dict(self.loader.texts)
        text, scope = self._pick(file, name)
        models = chain(text, scope, self.report)
        settings = Settings(self.report, self.loader.texts)
        for part, where in models:
            settings.add(part, where)
        for key, value in overrides.items():
            settings.override(key, value, (options or {}).get(key, ""))
        settings.check_names()
        settings.check_read([part for part, _ in models])
        if settings.stack is None:
            fail(self.report, "E0711", text.span, f"model `{text.name}` has no stack", "give it a `stack { … }`")
        values = settings.resolve()
        settings.check_requires()
        elaborator = Elaborator(self.report, frozenset({*settings.entries, *settings.groups}))
        expander = Expander(settings, elaborator)
        expander.expand(*settings.stack)
        self.stop()
        assert expander.vocab is not None  # the first op takes a token, or it was reported
        shown = {k: show(v) if isinstance(v, OpValue) else v for k, v in values.items()}
        used = reachable([i.cell for line in expander.lines for i in line.chain], elaborator.cells)
        made = Model(
            name=text.name,
            vocab=expander.vocab.size,
            width=expander.width,
            lines=tuple(expander.lines),
            cells=used,
            settings=shown,
            sources=sources,
            notes=(*unnamed(file), *self.report.notes),
            doc=text.doc,
            span=text.span,
        )
        check_sizes(made, self.report)
        self.stop()
        check_begins(made, self.report)
        ties = resolve_ties(made, expander.ties, self.report)
        self.stop()
        return replace(made, ties=ties)

    def start(self, file: File) -> Span:
        """The head of a file, for what it lacks."""
        return Span(file.name, 1, 1, 1, 2)

    def _pick(self, file: File, name: str | None) -> tuple[ast.Model, Scope]:
        models = file.scope.models
        own = [m for m, (_, scope) in models.items() if scope is file.scope]
        if name is not None and name in models:
            return models[name]
        at = self.start(file)
        if name is not None:
            near = did_you_mean(name, models) or f"its models are {', '.join(models)}"
            fail(self.report, "E0710", at, f"{file.name} has no model {show(name)}", near)
        if not own:
            fail(self.report, "E0710", at, f"{file.name} has no model", "a spec ends in `model name { … }`")
        return models[own[-1]]


def unnamed(file: File) -> list[str]:
    """Notes of what a file imports or defines and nothing in it names; another setting may."""
    named = mentioned(*file.own.values())
    named |= {item.base for item in file.own.values() if isinstance(item, ast.Derive)}
    return [f"{span}: nothing in this file names `{name}`" for name, span in file.names.items() if name not in named]


def reachable(names: list[str], cells: Mapping[str, Cell]) -> dict[str, Cell]:
    """The cells that these need, themselves included, in the order they were made: callees first."""
    found: set[str] = set()
    while names:
        name = names.pop()
        if name not in found:
            found.add(name)
            names += [part.cell for part in cells[name].parts]
    return {name: cell for name, cell in cells.items() if name in found}
