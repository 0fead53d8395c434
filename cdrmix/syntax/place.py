"""Where the parser stopped, for the rules of `mistakes`.

Input: the tokens of a text, the statement being read and what the parser would have taken.  Output: the words around
the mistake, and `Diagnostic`s that point at them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lark import Token

from cdrmix.diagnose import Diagnostic, Span


@dataclass(frozen=True, slots=True)
class Place:
    """Where the parser stopped: at `tokens[at]`, in the statement that begins at `tokens[start]`."""

    tokens: Sequence[Token]
    start: int
    at: int
    accepts: frozenset[str]
    block: str
    file: str

    @property
    def token(self) -> Token:
        return self.tokens[self.at]

    @property
    def before(self) -> Token | None:
        """The token before, in the same statement."""
        return self.tokens[self.at - 1] if self.at > self.start else None

    @property
    def after(self) -> Token | None:
        return self.tokens[self.at + 1] if self.at + 1 < len(self.tokens) else None

    @property
    def first(self) -> Token:
        return self.tokens[self.start]

    @property
    def brace_on_its_own_line(self) -> bool:
        return self.token.type == "_NL" and self.after == "{" and "LBRACE" in self.accepts

    @property
    def ends(self) -> bool:
        """Whether the statement stopped too early."""
        return self.token.type in ("_NL", "$END") or self.token == "}"

    def adjoins(self) -> bool:
        """Whether the token touches the one before."""
        return self.before is not None and self.before.end_pos == self.token.start_pos

    def span(self, first: Token | None = None, last: Token | None = None) -> Span:
        """From token `first` to token `last`, by default those of the mistake."""
        a = first if first is not None else self.token
        b = last if last is not None else (first if first is not None else self.token)
        end = (b.line, (b.column or 1) + 1) if b.type == "_NL" else (b.end_line, b.end_column)
        return Span(self.file, a.line or 1, a.column or 1, end[0] or 1, end[1] or 1)

    def error(self, code: str, message: str, help: str = "", span: Span | None = None) -> Diagnostic:
        return Diagnostic(code, span or self.span(), message, help)
