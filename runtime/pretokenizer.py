"""The pre-tokeniser: cuts text into the pieces inside which BPE merges.

Input: any bytes.  Output: pieces that join to the input.

It is defined on bytes and by ASCII classes only, so that C, Python and the `tokenizers` library agree exactly:
letters are A-Z, a-z, `_` and everything that is not ASCII (whole UTF-8 sequences stay together); digits are 0-9; blanks
are space, tab, newline and carriage return; the rest is punctuation.  In order, the first that matches:

1. a word: one space at most, then letters
2. a number: one space at most, then one to three digits
3. punctuation: one space at most, then a run of it
4. line ends with the indentation after them
5. spaces and tabs
Where 4 and 5 stand before a visible character, they leave their last space to it: `\\n` and eight spaces before
`return` are the indentation's token with seven, and ` return`, the same word as in the middle of a line.

A run, of letters, punctuation, line ends or blanks, is at most `LONGEST` characters long; what is left of it begins the
next piece.  So the time of training and encoding grows with the text, not with the square of a line in a script without
spaces.  A character is a whole UTF-8 sequence, or a byte that belongs to none.  Tokenizers trained before this bound
have the pattern `UNBOUNDED`, and keep it.
"""

from __future__ import annotations

import re

LONGEST = 64
"""Characters of a run in one piece; tokens are rarely longer than twenty."""

_LETTER = r"[^\x00-@\[-^`{-\x7f]"
_LETTER_OF_BYTES = r"(?:[A-Z_a-z]|[\xc0-\xff][\x80-\xbf]{0,3}|[\x80-\xbf])"
_PUNCTUATION = r"[\x00-\x08\x0b\x0c\x0e-\x1f!-/:-@\[-^`{-\x7f]"
_BEFORE_VISIBLE = r"(?= [^ \t\r\n])"


def _pattern(some: str, any: str, letter: str = _LETTER) -> str:
    """The rules, with how a run of one or more and one of zero or more are written."""
    lines, blanks = rf"[\r\n]{some}[ \t]{any}", rf"[ \t]{some}"
    return "|".join(
        (
            f" ?{letter}{some}",
            " ?[0-9]{1,3}",
            f" ?{_PUNCTUATION}{some}",
            *(lines + _BEFORE_VISIBLE, lines),
            *(blanks + _BEFORE_VISIBLE, blanks),
        )
    )


_BOUNDS = (f"{{1,{LONGEST}}}", f"{{0,{LONGEST}}}")

PATTERN = _pattern(*_BOUNDS)
"""For `tokenizers`: `Split(Regex(PATTERN), "isolated")`, then `ByteLevel(add_prefix_space=False, use_regex=False)`."""
UNBOUNDED = _pattern("+", "*")

_PIECES = {
    PATTERN: re.compile(_pattern(*_BOUNDS, _LETTER_OF_BYTES).encode("ascii")),
    UNBOUNDED: re.compile(UNBOUNDED.encode("ascii")),
}
PATTERNS = tuple(_PIECES)


def split(data: bytes, pattern: str = PATTERN) -> list[bytes]:
    """The pieces of `data`, in order."""
    return _PIECES[pattern].findall(data)
