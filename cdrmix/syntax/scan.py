"""A text with mistakes to tokens, all the same.

Input: a text that the lexer may refuse.  Output: every token of it, before the newline filter, and the lexer's
mistakes (E0108, E0111, E0112) in the `Report`.  A bad stretch is blanked out, so that what comes after it keeps its
place and can be read; `spoilt` has the lines about which enough was said.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from lark import Lark, Token, UnexpectedCharacters

from cdrmix.diagnose import Report, Span

MAX_MISTAKES = 20
"""So many are told in one run: a text with more bad characters is hardly one of this language."""

_INSTEAD = {
    ";": "a statement ends where the line ends",
    "&": "write `and`",
    "|": "between conditions it is `or`, and a size is `abs(x)`",
    "?": "a choice is `a if condition else b`",
    "\\": "an expression goes on inside brackets, or where the next line begins with an operator",
    "\u2212": "write the ASCII `-`",
    "\u2013": "write the ASCII `-`",
    "\u00d7": "write `*`",
    "\u00b7": "write `*`",
    "\u2264": "write `<=`",
    "\u2265": "write `>=`",
    "\u2260": "write `!=`",
    "\u2192": "write `->`",
    "\u2032": "the prime is the ASCII `'`",
    "\u2019": "the prime is the ASCII `'`",
    "\u201c": 'a string stands in ASCII quotes: `"text"`',
    "\u201d": 'a string stands in ASCII quotes: `"text"`',
    "\r": "a line ends in LF or in CR LF",
}


@dataclass(frozen=True, slots=True)
class Scanned:
    """Tokens with every `_NL` still there, and the lines on which a mistake was reported."""

    tokens: list[Token]
    spoilt: frozenset[int]


@dataclass(frozen=True, slots=True)
class _Mistake:
    code: str
    start: int
    end: int
    message: str
    help: str


def scan(lark: Lark, text: str, file: str, report: Report) -> Scanned:
    """Read `text` to its end."""
    spoilt: set[int] = set()
    for _ in range(MAX_MISTAKES):
        parser: Any = lark.parse_interactive(text, "start")
        try:
            return Scanned(list(parser.lexer_thread.lex(parser.parser_state)), frozenset(spoilt))
        except UnexpectedCharacters as refused:
            at = refused.pos_in_stream or 0
            line_start = text.rfind("\n", 0, at) + 1
            line_end = text.find("\n", at)
            found = _explain(text[line_start : line_end if line_end >= 0 else len(text)], at - line_start)
            span = Span(file, refused.line, found.start + 1, refused.line, found.end + 1)
            report.error(found.code, span, found.message, found.help)
            spoilt.add(refused.line)
            start = line_start + found.start if found.code == "E0111" else at
            end = line_start + found.end
            text = text[:start] + _blank(text[start:end]) + text[end:]
    return Scanned([], frozenset(spoilt))


def _blank(bad: str) -> str:
    """Something of the same length that can be read: a string stays one, a name too."""
    if bad[0] == '"' and len(bad) > 1:
        return '"' + "x" * (len(bad) - 2) + '"'
    return ("x" if bad[0].isalnum() else " ") * len(bad)


def _explain(line: str, at: int) -> _Mistake:
    """What is wrong at column `at` (from 0) of `line`."""
    char = line[at]
    if char == '"':
        help = 'write `"` at its end; a string stands on one line'
        return _Mistake("E0112", at, len(line.rstrip()), "this string is never closed", help)
    if char == "'":
        return _explain_prime(line, at)
    if word := re.match(r"\w+", line[at:]):
        start = at - len(line[:at]) + len(re.sub(r"[A-Za-z_0-9]*$", "", line[:at]))
        end = at + word.end()
        help = "names are made of the letters A to Z, a to z, digits and `_`"
        return _Mistake("E0111", start, end, f"`{line[start:end]}` is not a name", help)
    end = at + 1
    while line[end : end + 1] == char:
        end += 1
    help = _INSTEAD.get(char, "")
    if char.isprintable() and not char.isspace():
        return _Mistake("E0111", at, end, f"`{line[at:end]}` means nothing in this language", help)
    name = unicodedata.name(char, "control character").lower()
    return _Mistake("E0111", at, end, f"an invisible {name} (U+{ord(char):04X})", help or "write a plain space")


def _explain_prime(line: str, at: int) -> _Mistake:
    before = line[:at]
    if twice := re.search(r"[A-Za-z_]\w*'$", before):
        help = f"`{twice[0]}` is the value after this token; there is no later one"
        return _Mistake("E0108", twice.start(), at + 1, f"`{twice[0]}'` has two primes", help)
    if before.endswith("]"):
        opened, depth = len(before), 0
        while opened > 0 and (depth or opened == len(before)):
            opened -= 1
            depth += {"]": 1, "[": -1}.get(before[opened], 0)
        if name := re.search(r"[A-Za-z_]\w*$", before[:opened]):
            index = before[opened:]
            message = f"`{name[0]}{index}'`: the prime belongs to the name"
            return _Mistake("E0108", name.start(), at + 1, message, f"write `{name[0]}'{index}`")
    if quoted := re.match(r"'[^']*'", line[at:]):
        text = quoted[0][1:-1]
        return _Mistake("E0111", at, at + quoted.end(), "a string stands in double quotes", f'write `"{text}"`')
    return _Mistake("E0108", at, at + 1, "a prime without a name", "it stands right after the name of a state: `S'`")
