"""Every syntax error of a text, in one run.

Input: a text that `parser` could not read.  Output: diagnostics E01xx, at least one.

The text is scanned and its brackets are mended, each step telling its own mistakes.  Then tokens are fed to the
parser one at a time.  Its state is kept at the start of each statement; at a token that does not fit, `mistakes` says
why, the state is put back, and reading goes on after the statement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lark import Lark, Token, UnexpectedToken

from cdrmix.diagnose import Diagnostic, Report, Span
from cdrmix.syntax.brackets import mend
from cdrmix.syntax.mistakes import explain
from cdrmix.syntax.newlines import statements
from cdrmix.syntax.place import Place
from cdrmix.syntax.scan import scan

MAX_MISTAKES = 50


def find_mistakes(lark: Lark, text: str, file: str, start: str) -> list[Diagnostic]:
    """The syntax errors of `text`, in its order."""
    report = Report()
    scanned = scan(lark, text, file, report)
    tokens, spoilt = mend(scanned.tokens, file, report, scanned.spoilt)
    reader = _Reader(lark.parse_interactive("", start), list(statements(tokens)), file)
    for found, lines in reader.read():
        if not spoilt.intersection(lines):
            report.error(found.code, found.span, found.message, found.help)
    if not report.diagnostics:
        report.error("E0110", Span(file, 1, 1, 1, 2), "there is nothing to read here", "write an expression")
    return sorted(report.diagnostics, key=lambda d: (d.span.line, d.span.col))


@dataclass(frozen=True, slots=True)
class _Point:
    """The parser at the start of a statement of an open block."""

    parser: Any
    place: int
    block: str


class _Reader:
    def __init__(self, parser: Any, tokens: list[Token], file: str):
        self.parser = parser
        self.tokens = tokens
        self.file = file
        self.points = [_Point(self._copy(), 0, "")]
        self.known = self.points[0]
        self.at = 0

    def read(self) -> list[tuple[Diagnostic, range]]:
        """Feed every token: the mistakes, each with the lines of its statement up to it."""
        found: list[tuple[Diagnostic, range]] = []
        mended = resumed = -1
        while self.at < len(self.tokens) and len(found) < MAX_MISTAKES:
            token = self.tokens[self.at]
            try:
                self.parser.feed_token(token)
            except UnexpectedToken:
                self._replay()
                if token == "}" and self.at == resumed:  # the block was left empty by its mistake: go on outside
                    self.points.pop()
                    self.at += 1
                elif self.at != mended:
                    place = self._place()
                    mistake = explain(place)
                    found.append((mistake, range(place.first.line or 1, (token.line or 1) + 1)))
                    mended = self.at
                    if self._mend(mistake, place):
                        continue
                self._resume()
                resumed = self.at
                continue
            self.at += 1
            self._follow(token)
        return found

    def _follow(self, token: Token) -> None:
        """Keep the state where a statement begins, and where replaying can begin."""
        if token == "{":
            self.points.append(_Point(self._copy(), self.at, self._block()))
        elif token == "}":
            self.points.pop()
        elif token.type == "_NL":
            self.points[-1] = _Point(self._copy(), self.at, self.points[-1].block)
        if token in ("{", "}") or token.type == "_NL":
            self.known = _Point(self._copy(), self.at, "")

    def _mend(self, mistake: Diagnostic, place: Place) -> bool:
        """Put right what is plain, to read the rest of the statement."""
        token = self.tokens[self.at]
        if mistake.code == "E0102" and mistake.span.col == token.column:
            self.tokens[self.at] = Token.new_borrow_pos("NAME", str(token), token)
        elif mistake.code == "E0103":
            self.tokens.insert(self.at, Token.new_borrow_pos("_NL", "\n", token))
        elif mistake.code == "E0105":
            self.tokens.insert(self.at, Token.new_borrow_pos("STAR", "*", token))
        elif mistake.code == "E0109" or place.brace_on_its_own_line:
            del self.tokens[self.at]
        else:
            return False
        return True

    def _copy(self) -> Any:
        return self.parser.copy(deepcopy_values=False)

    def _block(self) -> str:
        """What kind of block the `{` just read opens: its first word."""
        word = self.tokens[self.points[-1].place]
        return "group" if word.type == "NAME" else str(word)

    def _replay(self) -> None:
        """The parser as it was before the token that did not fit, and before what that token reduced in vain."""
        self.parser = self.known.parser.copy(deepcopy_values=False)
        for token in self.tokens[self.known.place : self.at]:
            self.parser.feed_token(token)

    def _place(self) -> Place:
        point = self.points[-1]
        return Place(self.tokens, point.place, self.at, frozenset(self.parser.accepts()), point.block, self.file)

    def _begins_statement(self, column: int) -> bool:
        """Whether what follows can begin a statement, after one in column `column`; an item is in the first."""
        if self.at == len(self.tokens):
            return False
        token = self.tokens[self.at]
        inside = len(self.points) > 1
        return (token.column or 1) <= (column if inside else 1) and (inside or token != "}")

    def _resume(self) -> None:
        """Put back the state of the statement's start and skip to its end, with the lines that stand deeper in."""
        point = self.points[-1]
        column = self.tokens[point.place].column or 1
        depth = 0
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            if token == "}" and depth == 0 and len(self.points) > 1:
                break
            depth += {"{": 1, "}": -1}.get(token, 0)
            self.at += 1
            if token.type == "_NL" and depth <= 0 and self._begins_statement(column):
                break
        self.parser = point.parser
        self.known = self.points[-1] = _Point(self._copy(), self.at, point.block)
