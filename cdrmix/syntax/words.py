"""The words of the language in their kinds, and the grammar's terminals in a user's words.

Input: names of terminals.  Output: phrases for messages.
"""

from __future__ import annotations

from collections.abc import Collection

COMPARISONS = frozenset({"==", "!=", "<=", ">=", "<", ">"})
ARITHMETIC = frozenset({"+", "-", "*", "/", "//", "%", "@", "^"})
BINARY = COMPARISONS | ARITHMETIC | {">>", "and", "or"}
CONTINUES = BINARY | {"=", "~", "!", "->", "as", "else"}
"""A line that begins with one of these goes on with the statement of the line above."""

OF_FILES = ("use", "let", "op", "model")
OF_MODELS = ("require", "stack")
OF_STACKS = ("let", "require", "repeat", "if", "tie", "residual")
OF_DECLARATIONS = ("let", "dim", "param", "state", "carry", "history", "part", "bank", "buffer")
OF_OPS = (*OF_DECLARATIONS, "after", "aux", "metric", "require", "when", "return", "drop")
_INSIDE = ("as", "with", "last", "of", "step", "else", "extends", "or", "and", "not", "true", "false")
_KINDS = ("int", "float", "bool", "string", "index", "f32", "bf16", "f16")
KEYWORDS = frozenset({*OF_FILES, *OF_MODELS, *OF_STACKS, *OF_OPS, *_INSIDE, *_KINDS})

_OPERAND = frozenset({"NAME", "PRIMED", "NUMBER", "STRING", "TRUE", "FALSE", "LPAR"})
_OPERATOR = frozenset({"PLUS", "MINUS", "STAR", "SLASH", "_FLOOR", "PERCENT", "AT", "CIRCUMFLEX"})
_PLAIN = {
    "NAME": "a name",
    "PRIMED": "a primed name",
    "NUMBER": "a number",
    "STRING": "a string in double quotes",
    "_NL": "the end of the line",
    "COMMA": "`,`",
    "COLON": "`:`",
    "DOT": "`.`",
    "BANG": "an attribute",
    "LBRACE": "`{`",
    "RBRACE": "`}`",
    "LPAR": "`(`",
    "RPAR": "`)`",
    "LSQB": "`[`",
    "RSQB": "`]`",
    "EQUAL": "`=`",
    "TILDE": "`~`",
    "LESSTHAN": "`<`",
    "_ARROW": "`->`",
    "LAST": "`last`",
    "OF": "`of`",
    "STEP": "`step`",
    "WITH": "`with`",
}


def expected(accepts: Collection[str]) -> str:
    """What may stand here, in at most four phrases; the most telling first."""
    left = set(accepts) - {"$END"}
    if "USE" in left:
        return "`use`, `let`, `op` or `model`"
    general = []
    if left >= _OPERAND:
        general.append("an expression")
        left -= _OPERAND | {"MINUS", "NOT"}
    if left >= _OPERATOR:
        general.append("an operator")
        left -= _OPERATOR | {"LPAR", "LSQB", "DOT", "LESSTHAN"}
    marks = [_PLAIN[terminal] for terminal in _PLAIN if terminal in left]
    phrases = [*marks, *general] if "an operator" in general else [*general, *marks]
    return _either(phrases[:4]) or "something else"


def _either(phrases: list[str]) -> str:
    return " or ".join(phrases) if len(phrases) < 3 else ", ".join(phrases[:-1]) + " or " + phrases[-1]
