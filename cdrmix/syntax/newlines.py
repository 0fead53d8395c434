"""The newline filter between the lexer and the parser.

Input: Lark tokens, every run of line ends a `_NL`.  Output: the same tokens, with a `_NL` only where a statement ends:
none inside ( ) and [ ], and none before a line that begins with an operator or with `else`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lark import Token

from cdrmix.syntax.words import CONTINUES


def statements(stream: Iterable[Token]) -> Iterator[Token]:
    """The tokens the parser sees: holds one newline back until the token after it is known."""
    held: Token | None = None
    last: Token | None = None
    depth = 0
    for token in stream:
        if token.type == "_NL":
            if depth == 0 and held is None:
                held = token
            continue
        if held is not None:
            if token not in CONTINUES:
                yield held
            held = None
        if token in ("(", "["):
            depth += 1
        elif token in (")", "]"):
            depth = max(0, depth - 1)
        last = token
        yield token
    if held is None and last is not None:  # a file needs no line end after its last item
        held = Token.new_borrow_pos("_NL", "\n", last)
    if held is not None:
        yield held
