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
"""

from __future__ import annotations

import re

_LETTERS = r"[^\x00-@\[-^`{-\x7f]+"
_PUNCTUATION = r"[\x00-\x08\x0b\x0c\x0e-\x1f!-/:-@\[-^`{-\x7f]+"
_BEFORE_VISIBLE = r"(?= [^ \t\r\n])"

_RULES = (
    " ?" + _LETTERS,
    " ?[0-9]{1,3}",
    " ?" + _PUNCTUATION,
    r"[\r\n]+[ \t]*" + _BEFORE_VISIBLE,
    r"[\r\n]+[ \t]*",
    r"[ \t]+" + _BEFORE_VISIBLE,
    r"[ \t]+",
)

PATTERN = "|".join(_RULES)
"""For `tokenizers`: `Split(Regex(PATTERN), "isolated")`, then `ByteLevel(add_prefix_space=False, use_regex=False)`."""

_PIECE = re.compile(PATTERN.encode("ascii"))


def split(data: bytes) -> list[bytes]:
    """The pieces of `data`, in order."""
    return _PIECE.findall(data)
