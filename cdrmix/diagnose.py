"""Diagnostics: what every stage says when a text is wrong.

Input: errors reported with a stable code, a `Span`, a message and a help line.
Output: `Diagnostic` records, collected so that one run reports them all, and their text with a caret.

The first two digits of a code are its chapter: 01 syntax, 02 names, 03 axes and shapes, 04 time, 05 parts and
depth, 06 training, 07 models, 08 diffs, 09 targets.
"""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice

from cdrmix.runtime.compilers import command as command


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a source file: lines and columns from 1, the end exclusive."""

    file: str
    line: int
    col: int
    end_line: int
    end_col: int

    def to(self, other: Span) -> Span:
        """The stretch from the start of this span to the end of `other`."""
        return Span(self.file, self.line, self.col, other.end_line, other.end_col)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.col}"


NOWHERE = Span("<built-in>", 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One mistake: what is wrong, where, and how to mend it.

    `used` are the places that led there, the nearest first: the line of a stack or the option that gives an op its
    arguments.  The same mistake by another way is the same mistake.
    """

    code: str
    span: Span
    message: str
    help: str = ""
    used: tuple[Span, ...] = field(default=(), compare=False)

    def as_json(self) -> dict[str, object]:
        """The diagnostic as plain data, for `--json` and editors."""
        s = self.span
        return {
            "code": self.code,
            "file": s.file,
            "line": s.line,
            "col": s.col,
            "end_line": s.end_line,
            "end_col": s.end_col,
            "message": self.message,
            "help": self.help,
            "used": [{"file": u.file, "line": u.line, "col": u.col} for u in self.used],
        }


class CompileError(Exception):
    """Raised at the end of a stage that found errors; carries all of them.

    `sources` holds the texts the spans point into and `paths` where a user finds them, by the file's name in spans.
    """

    def __init__(
        self,
        diagnostics: Iterable[Diagnostic],
        sources: Mapping[str, str] | None = None,
        paths: Mapping[str, str] | None = None,
    ):
        self.diagnostics = tuple(diagnostics)
        self.sources, self.paths = dict(sources or {}), dict(paths or {})
        super().__init__("\n".join(f"{d.span}: {d.code}: {d.message}" for d in self.diagnostics))


class UserError(Exception):
    """A mistake outside a spec (a file, an option, a config): what is wrong, and the remedy."""

    def __init__(self, message: str, help: str = ""):
        self.message, self.help = message, help
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Need:
    """Something that is not on this machine: `what`, `why` it is needed, and the `command` that installs it."""

    what: str
    why: str
    command: str


OF_ARGUMENTS = frozenset({"E0215", "E0301", "E0311", "E0312", "E0317", "E0706"})
"""Mistakes that what an op is given may have made: the place that gives it is told, be it in the same file."""

MOST_MISTAKES = 100
"""So many are told in one run."""


def need_compiler(variable: str, names: tuple[str, ...], what: str, why: str, package: str) -> list[Need]:
    """The need of a compiler, where neither the variable ($CC, $CXX) nor one of the names gives a program."""
    if command(variable, *names):
        return []
    install = f"apt-get install {package}"
    if given := os.environ.get(variable, "").strip():
        why = f"{why}; {variable} is `{given}`, and there is no such program"
        return [Need(what, why, f"unset {variable}, or {install}")]
    return [Need(what, why, install)]


@dataclass(slots=True)
class Report:
    """Collects diagnostics; the same mistake at the same place is kept once.  `uses` are the uses of ops being looked
    at, the outermost first.  `notes` are what is right and probably not meant.
    """

    diagnostics: list[Diagnostic] = field(default_factory=list)
    uses: list[Span] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)

    @contextmanager
    def used(self, place: Span) -> Iterator[None]:
        """Look at an op as it is used at `place`."""
        self.uses.append(place)
        try:
            yield
        finally:
            self.uses.pop()

    def error(self, code: str, span: Span, message: str, help: str = "") -> None:
        """Record a mistake and go on; raises `CompileError` when enough is told."""
        uses = [u for u in reversed(self.uses) if u.line and (u.file != span.file or code in OF_ARGUMENTS)]
        found = Diagnostic(code, span, message, help, tuple(dict.fromkeys(uses))[:SHOWN_USES])
        if found not in self.diagnostics:
            self.diagnostics.append(found)
        if len(self.diagnostics) >= MOST_MISTAKES:
            self.raise_if_any()

    def note(self, span: Span, message: str) -> None:
        """Say something about a text that is right."""
        self.notes[f"{span}: {message}"] = None

    def raise_if_any(self) -> None:
        """Raise `CompileError` with everything recorded, in the order of the text."""
        if self.diagnostics:
            raise CompileError(sorted(self.diagnostics, key=lambda d: (d.span.file, d.span.line, d.span.col, d.code)))


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`did you mean `x`?` for the nearest of `names`, or an empty string; of very many only the first are compared."""
    known = [n for n in islice(names, 500) if len(n) <= 100] if len(name) <= 100 else []
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else ""


SHOWN_USES = 4
"""Uses of an op that a diagnostic tells."""

WIDTH = 118
"""Columns of a source line that are shown."""


def render(d: Diagnostic, source: str | None = None, sources: Mapping[str, str] | None = None) -> str:
    """The diagnostic as a user reads it; `source` is the text of its file, for the line and the caret, `sources` those
    of the places where an op is used.
    """
    shown = [f"error[{d.code}]: {d.message}"]
    if d.span.line > 0:
        shown.append(f"  --> {d.span}")
    text = source.split("\n") if source is not None else []
    if 0 < d.span.line <= len(text):
        line = text[d.span.line - 1].rstrip("\r")
        start = min(d.span.col, len(line) + 1) - 1
        end = max(start + 1, d.span.end_col - 1 if d.span.end_line == d.span.line else len(line))
        cut = 0 if len(line) <= WIDTH else max(0, start - WIDTH // 4)
        seen = "".join(c if c.isprintable() else " " for c in line[cut : cut + WIDTH])
        before, marked = seen[: start - cut], seen[start - cut : end - cut]
        gutter = str(d.span.line)
        bar = " " * len(gutter) + " |"
        shown += [bar, f"{gutter} | {seen}", f"{bar} {' ' * _columns(before)}{'^' * max(1, _columns(marked))}"]
    if d.help:
        shown.append(f"  = help: {d.help}")
    shown += [f"  = used: {_use(u, (sources or {}).get(u.file, ''))}" for u in d.used]
    return "\n".join(shown)


def _use(place: Span, source: str) -> str:
    """A use of an op: an option as it was given, or a place and the text there."""
    line = source.split("\n")[place.line - 1].rstrip() if source else ""
    if source.startswith(f"{place.file}="):
        return line
    text = line[place.col - 1 : place.end_col - 1 if place.end_line == place.line else None]
    return f"{place}: {text if len(text) <= WIDTH // 2 else text[: WIDTH // 2 - 1] + '…'}" if text else str(place)


def _columns(text: str) -> int:
    """The columns `text` takes in a terminal: East Asian characters take two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def explain(error: CompileError) -> str:
    """Every diagnostic of an error as a user reads it, with the lines it points at and paths that can be opened."""
    sources = {error.paths.get(name, name): text for name, text in error.sources.items()}
    shown = [render(d, sources.get(d.span.file), sources) for d in opened(error)]
    if len(shown) >= MOST_MISTAKES:
        shown.append(f"{MOST_MISTAKES} mistakes are told at a time; there may be more")
    return "\n\n".join(shown)


def opened(error: CompileError) -> list[Diagnostic]:
    """The diagnostics with the paths by which their files can be opened."""

    def at(span: Span) -> Span:
        return replace(span, file=error.paths.get(span.file, span.file))

    return [replace(d, span=at(d.span), used=tuple(map(at, d.used))) for d in error.diagnostics]
