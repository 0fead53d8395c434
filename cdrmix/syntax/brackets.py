"""Brackets that do not match, told and mended.

Input: the tokens of a text with mistakes, every `_NL` still there.  Output: E0106 and E0118 in the `Report`, and the
tokens with what was missing put in and what was too many taken out, so that recovery can trust every pair.

A forgotten `)` or `]` shows where something stands that cannot stand inside brackets.  A forgotten `}` shows at the
next `use`, `op` or `model` at the start of a line; which block was left open is read from the indentation.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from lark import Token

from cdrmix.diagnose import Report, Span
from cdrmix.syntax.words import CONTINUES, OF_OPS

_CLOSER = {"(": ")", "[": "]", "{": "}"}
_TYPES = {")": "RPAR", "]": "RSQB", "}": "RBRACE"}
_STATEMENTS = frozenset({*OF_OPS, "model", "stack", "repeat", "tie", "use", "{", "}"})
"""What never stands inside ( ) or [ ]."""
_HEADERS = frozenset({"op", "model", "when", "stack", "repeat", "if", "else"})
"""What a line that must end in `{` begins with."""
_OPERANDS = frozenset({"NAME", "PRIMED", "NUMBER", "STRING", "TRUE", "FALSE"})

MAX_NESTED = 100
"""Brackets inside one another, in a text that has mistakes."""
MAX_MISTAKES = 20


@dataclass(frozen=True, slots=True)
class _Open:
    token: Token
    indent: int  # of the line it stands on


def mend(
    tokens: Sequence[Token], file: str, report: Report, spoilt: Set[int] = frozenset()
) -> tuple[list[Token], frozenset[int]]:
    """The tokens with matching brackets, and the lines about which enough was said: `spoilt` and those mended."""
    mender = _Mender(file, report, set(spoilt))
    for item in _items(tokens):
        mender.mend(item)
    return mender.out, frozenset(mender.spoilt)


def begins_line(tokens: Sequence[Token], i: int) -> bool:
    """Whether token `i` is the first of its line."""
    return i == 0 or tokens[i - 1].type == "_NL"


def _items(tokens: Sequence[Token]) -> list[Sequence[Token]]:
    """The tokens cut before each `use`, `op` or `model` in the first column."""
    cuts = [i for i, t in enumerate(tokens) if t in ("use", "op", "model") and t.column == 1 and begins_line(tokens, i)]
    edges = sorted({0, *cuts, len(tokens)})
    return [tokens[a:b] for a, b in zip(edges, edges[1:], strict=False)]


class _Mender:
    def __init__(self, file: str, report: Report, spoilt: set[int]):
        self.file = file
        self.report = report
        self.spoilt = spoilt
        self.out: list[Token] = []
        self.opened: list[_Open] = []
        self.item: Sequence[Token] = ()
        self.mistakes = 0
        self.surplus = 0  # of `{` over `}` in the item

    def mend(self, item: Sequence[Token]) -> None:
        """Append one item to `out`, its brackets matched."""
        self.item = item
        self.opened = []
        self.surplus = sum({"{": 1, "}": -1}.get(t, 0) for t in item)
        indent = line = 0
        for i, token in enumerate(item):
            if len(self.opened) > MAX_NESTED or self.mistakes == MAX_MISTAKES:
                self._give_up(token)
                return
            if begins_line(item, i) and token.type != "_NL":
                indent, line = token.column or 1, i
            self._close_before(i)
            if token.type == "_NL" and self.surplus < 0:
                self._open_before(line, i, indent)
            if token in _CLOSER:
                if token == "{" and self.opened and self.opened[-1].token != "{":
                    self._error("E0118", token, f"`{{` cannot stand inside `{self.opened[-1].token}`", "delete it")
                    continue
                self.opened.append(_Open(token, indent))
            elif token in _TYPES:
                self._close(i)
                continue
            self.out.append(token)
        while self.opened:
            self._forgotten(None)

    def _give_up(self, token: Token) -> None:
        """Leave the rest unread: the text is hardly one of this language."""
        if self.mistakes < MAX_MISTAKES:
            message = f"brackets are nested more than {MAX_NESTED} levels deep"
            self._error("E0113", token, message, "give a part of it a name in an equation of its own")
        self.out.clear()
        self.opened.clear()
        self.mistakes = MAX_MISTAKES

    def _close_before(self, i: int) -> None:
        """Close what was forgotten before token `i`."""
        token = self.item[i]
        first = begins_line(self.item, i)
        ends = i + 1 == len(self.item) or self.item[i + 1].type == "_NL"
        while self.opened and self.opened[-1].token != "{":
            last = next((t for t in reversed(self.out) if t.type != "_NL"), token)
            adjoins = first and last.type in _OPERANDS | {"RPAR", "RSQB"} and token.type in _OPERANDS
            mismatched = token in (")", "]") and token != _CLOSER[self.opened[-1].token] and self._has(token)
            begins_block = token in ("{", "}") and ends
            if not (mismatched or adjoins or begins_block or first and token in _STATEMENTS):
                return
            self._forgotten(token)
        if self.surplus > 0 and token == "}" and first:
            while len(self.opened) > 1 and self.opened[-1].indent != token.column and self._indented_like(token):
                self._forgotten(token)

    def _open_before(self, line: int, i: int, indent: int) -> None:
        """Open the block that the line from `line` to the newline `i` should have opened."""
        words = [t for t in self.item[line:i] if t != "}"]
        follows = self.item[i + 1] if i + 1 < len(self.item) else None
        if not words or words[0] not in _HEADERS or "{" in words or follows is None:
            return
        if follows in CONTINUES or follows == "{" or (follows.column or 1) <= indent:
            return
        end = words[-1]
        self._error("E0106", words[0], f"this `{words[0]}` has no block", "write `{` at the end of its line")
        self.spoilt.add(end.line or 1)
        brace = Token.new_borrow_pos("LBRACE", "{", end)
        self.opened.append(_Open(brace, indent))
        self.out.append(brace)
        self.surplus += 1

    def _has(self, closer: Token) -> bool:
        return any(_CLOSER[o.token] == closer for o in self.opened)

    def _indented_like(self, token: Token) -> bool:
        return any(o.token == "{" and o.indent == token.column for o in self.opened)

    def _close(self, i: int) -> None:
        """Append the closer at `i`, or the one that was meant, or none."""
        token = self.item[i]
        stray = not self.opened or (token == "}") != (self.opened[-1].token == "{")
        if token == "}" and self.surplus < 0 and not begins_line(self.item, i) and self.opened:
            stray = stray or self.opened[-1].token.line != token.line
        if stray:
            self._error("E0118", token, f"`{token}` closes nothing", "delete it, or open what it should close")
            self.surplus += token == "}"
            return
        open = self.opened.pop().token
        closer = _CLOSER[open]
        if closer != token:
            help = f"write `{closer}` for the `{token}` at {token.line}:{token.column}"
            self._error("E0106", open, f"`{open}` is never closed", help)
            self.spoilt.add(token.line or 1)
            token = Token.new_borrow_pos(_TYPES[closer], closer, token)
        self.out.append(token)

    def _error(self, code: str, token: Token, message: str, help: str) -> None:
        """Report a mistake, the first of its line."""
        line = token.line or 1
        if line not in self.spoilt:
            span = Span(self.file, line, token.column or 1, token.end_line or 1, token.end_column or 1)
            self.report.error(code, span, message, help)
            self.mistakes += 1
        self.spoilt.add(line)

    def _forgotten(self, before: Token | None) -> None:
        """Report the innermost open bracket and close it, at the end of the line before `before`."""
        open = self.opened.pop().token
        closer = _CLOSER[open]
        where = f" before `{before}` at {before.line}:{before.column}" if before is not None else ""
        self._error("E0106", open, f"`{open}` is never closed", f"add `{closer}`{where}")
        held = []
        while self.out and self.out[-1].type == "_NL":
            held.append(self.out.pop())
        after = self.out[-1] if self.out else open
        self.spoilt.add(after.line or 1)
        if closer == "}":  # on a line of its own
            self.out.append(Token.new_borrow_pos("_NL", "\n", after))
        self.out.append(Token.new_borrow_pos(_TYPES[closer], closer, after))
        self.out += reversed(held)
