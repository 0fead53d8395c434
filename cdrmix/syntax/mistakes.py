"""Why a token does not fit.

Input: the `Place` where the parser stopped.  Output: one `Diagnostic` in a user's words.  The rules are tried in
order, the particular before the general; the last one always answers.
"""

from __future__ import annotations

from collections.abc import Callable

from cdrmix.diagnose import Diagnostic, did_you_mean
from cdrmix.syntax.place import Place
from cdrmix.syntax.words import (
    ARITHMETIC,
    BINARY,
    COMPARISONS,
    KEYWORDS,
    OF_DECLARATIONS,
    OF_FILES,
    OF_MODELS,
    OF_OPS,
    OF_STACKS,
    expected,
)

_BLOCKS = {
    "": (OF_FILES, "a file"),
    "op": (OF_OPS, "an op"),
    "when": (OF_OPS, "an op"),
    "model": (OF_MODELS, "a model"),
    "stack": (OF_STACKS, "a stack"),
    "repeat": (OF_STACKS, "a stack"),
    "if": (OF_STACKS, "a stack"),
}
_ELSEWHERE = {
    "import": "use",
    "def": "op",
    "fn": "op",
    "function": "op",
    "for": "repeat",
    "const": "let",
    "elif": "else",
}
_HOME = {
    "stack": "a model",
    **dict.fromkeys(OF_STACKS, "a stack"),
    **dict.fromkeys(OF_OPS, "an op"),
    **dict.fromkeys(OF_FILES, "a file"),
}
_OPERANDS = frozenset({"NAME", "PRIMED", "NUMBER", "STRING", "TRUE", "FALSE"})


def explain(p: Place) -> Diagnostic:
    """What to say about the token at `p`."""
    for rule in _RULES:
        if (found := rule(p)) is not None:
            return found
    message = "the line ends too early" if p.ends else f"{_shown(p)} does not fit here"
    return p.error("E0110", message, f"expected {expected(p.accepts)}")


def _shown(p: Place) -> str:
    match p.token.type:
        case "_NL":
            return "the end of the line"
        case "$END":
            return "the end of the file"
        case _:
            return f"`{p.token}`"


def _ends_in_operator(p: Place) -> Diagnostic | None:
    last = p.before
    if not p.ends or last is None or last not in BINARY | {"=", "~", ",", "->", "!"}:
        return None
    help = "put the operator at the start of the next line, or use brackets"
    if last == ",":
        help = "go on on the same line, or drop it"
    elif last in ("=", "~", "->", "!"):
        help = f"what follows `{last}` begins on the same line, or put `{last}` at the start of the next one"
    return p.error("E0101", f"a statement cannot end in `{last}`", help, p.span(last))


def _brace_on_its_own_line(p: Place) -> Diagnostic | None:
    if p.brace_on_its_own_line:
        return p.error("E0110", "`{` cannot begin a line", "put it at the end of the line above", p.span(p.after))
    return None


def _touching(p: Place) -> Diagnostic | None:
    """Two tokens that make no sense side by side: `2x`, `**`, `+=`, `2.`."""
    last, token = p.before, p.token
    if token in ARITHMETIC and p.after == "=" and p.after.start_pos == token.end_pos:
        help = "an equation defines its name once: `y = …`"
        return p.error("E0110", f"`{token}=` is not an operator", help, p.span(token, p.after))
    if last is None or not p.adjoins():
        return None
    both = f"{last}{token}"
    span = p.span(last, token)
    if last.type == "NUMBER" and token == ".":
        return p.error("E0110", f"`{both}` is not a number", f"write `{last}.0`", span)
    if last.type == "NUMBER" and (token.type in ("NAME", "PRIMED") or token in KEYWORDS):
        return p.error("E0105", f"a number cannot touch a name: `{both}`", f"write `{last}*{token}`", span)
    if last == token == "*":
        return p.error("E0109", "`**` is not an operator", "write `^`", span)
    if token == "=" and last == ":":
        return p.error("E0110", "`:=` is not an operator", "an equation is `y = …`", span)
    return None


def _operand_wanted(p: Place) -> Diagnostic | None:
    """What other languages have at the start of an operand."""
    if "NUMBER" not in p.accepts:
        return None
    match p.token.value:
        case "." if p.after is not None and p.after.type == "NUMBER":
            span = p.span(p.token, p.after)
            return p.error("E0110", f"`.{p.after}` is not a number", f"write `0.{p.after}`", span)
        case "!":
            return p.error("E0110", "`!` marks an attribute", "the negation is `not`")
        case "+":
            return p.error("E0110", "there is no `+` before a single operand", "drop it")
        case "[":
            help = "a tensor is an equation over its indices: `y[i] = …`"
            return p.error("E0110", "a value cannot begin with `[`", help)
        case "residual":
            return p.error("E0110", "`residual` is not a part of an expression", "in an op it is `x + f(x)`")
        case "if" | "when" if p.before is not None:
            return p.error("E0110", f"`{p.token}` does not begin an expression", "a choice is `a if condition else b`")
    return None


def _chained_comparison(p: Place) -> Diagnostic | None:
    if p.token not in COMPARISONS or "AND" not in p.accepts:
        return None
    words = p.tokens[p.start : p.at + 2]
    first = next((i for i in range(len(words) - 3, 0, -1) if words[i] in COMPARISONS), None)
    example = "`a < b and b < c`"
    if first is not None and len(words) - first == 4:
        a, one, b, two, c = words[first - 1 : first + 4]
        if {a.type, b.type, c.type} <= _OPERANDS:
            example = f"`{a} {one} {b} and {b} {two} {c}`"
    return p.error("E0104", "comparisons do not chain", f"write {example}")


def _attribute(p: Place) -> Diagnostic | None:
    if p.token == "@" and "BANG" in p.accepts and p.after is not None and p.after.type == "NAME":
        message = "`@` is the matrix product; attributes begin with `!`"
        end = p.at + 1
        if p.tokens[end + 1] == "(":
            end = next(i for i in range(end, len(p.tokens)) if p.tokens[i] == ")")
        text = "".join(p.tokens[p.at + 1 : end + 1])
        return p.error("E0107", message, f"write `!{text}`", p.span(p.token, p.tokens[end]))
    return None


def _equals(p: Place) -> Diagnostic | None:
    token = p.token
    if token == "==" and "EQUAL" in p.accepts:
        return p.error("E0110", "`==` compares", "an equation is written with `=`")
    if token == "=" and "TILDE" in p.accepts:
        return p.error("E0110", "a param begins by a rule, not by a value", "write `~` for `=`")
    if token == "~" and "EQUAL" in p.accepts:
        return p.error("E0110", "only a param begins by a rule", "write `=` for `~`")
    words = p.tokens[p.start : p.at]
    if token == "=" and "AND" in p.accepts and words.count("[") > words.count("]"):
        return p.error("E0110", "`=` gives no range", f"write `{p.before} < n`: an index counts from 0")
    if token == "=" and "AND" in p.accepts:
        return p.error("E0110", "`=` does not compare", "write `==`")
    if token == "=" and "BANG" in p.accepts:
        return p.error("E0110", "a statement has one `=`", "write `==` to compare")
    return None


def _keyword(p: Place) -> Diagnostic | None:
    """A word of the language where it cannot stand."""
    word = str(p.token)
    if p.at == p.start + 1 and p.first in OF_OPS and (word == "=" or word == "[" and p.first in OF_DECLARATIONS):
        return p.error("E0102", f"`{p.first}` is a keyword", f"rename it, for instance `{p.first}_k`", p.span(p.first))
    if word not in KEYWORDS:
        return None
    if word == "dim" and p.after == "=" and p.before is not None and p.before in ("(", ","):
        return p.error(
            "E0102", "`dim` is a keyword, and no argument", "an axis is named by its index: `sum[n](x[h,n])`"
        )
    begins = p.before is None
    kinds, where = _BLOCKS.get(p.block, ((), "a group of settings"))
    after = p.after if p.after is not None else p.token
    names_something = after.type in ("NAME", "LPAR", "LBRACE", "STEP", "STRING", "NUMBER", "NOT") or word == "return"
    if begins and word == "if" and "when" in kinds:
        return p.error("E0110", "a choice between statements of an op is `when`", "write `when` for `if`")
    if begins and word == "when" and "if" in kinds:
        return p.error("E0110", "a choice between lines of a stack is `if`", "write `if` for `when`")
    if word == "else" and "NAME" not in p.accepts:
        return p.error("E0110", "this `else` has no `if` or `when` right before it", "mend what it follows")
    if begins and word in _HOME and word not in kinds and names_something:
        help = f"it stands in {_HOME[word]}"
        if word == "tie" and p.block == "model":
            help += "; a model that extends another writes its whole stack anew, with the `tie` in it"
        return p.error("E0110", f"`{word}` cannot stand in {where}", help)
    if "NAME" in p.accepts:
        return p.error("E0102", f"`{word}` is a keyword", f"rename it, for instance `{word}_k`")
    return None


def _two_statements(p: Place) -> Diagnostic | None:
    if "_NL" not in p.accepts or p.before is None:
        return None
    token = p.token
    words, _ = _BLOCKS.get(p.block, ((), ""))
    if token == "residual":
        help = "write `att: residual a >> b`"
        return p.error("E0110", "`residual` stands at the start of a line, after its label", help)
    if token in words or token.type in ("NAME", "PRIMED") and _begins_equation(p):
        return p.error("E0103", "two statements on one line", f"start a new line before `{token}`")
    return None


def _begins_equation(p: Place) -> bool:
    """Whether `name =`, `name[…] =` or `label: …` stands at the mistake."""
    depth = 0
    for token in p.tokens[p.at + 1 :]:
        depth += {"[": 1, "]": -1}.get(token, 0)
        if depth == 0 and token != "]":
            return str(token) in "=:"
        if token.type == "_NL":
            return False
    return False


def _derived(p: Place) -> Diagnostic | None:
    """`op a = b(N=16) with {`, `op a extends b {`."""
    if p.first != "op" or p.before is None:
        return None
    name = p.tokens[p.start + 1]
    if p.token == "(" and "WITH" in p.accepts:
        help = f"another default stands in front: `op {name}(N: int = 16) = {p.before} with {{`"
        return p.error("E0110", "the base of a derived op takes no arguments here", help)
    if p.token == "extends" and p.after is not None:
        return p.error("E0110", "`extends` is of models", f"write `op {name} = {p.after} with {{`")
    return None


def _by_itself(p: Place) -> Diagnostic | None:
    """What other languages have as statements: comments, texts, calls, loops, values."""
    if p.block not in ("op", "when"):
        return None
    token, first = p.token, p.first
    if p.before is None and token in ("//", "/", "*", "%", "-"):
        return p.error("E0110", f"`{token}` begins no statement", "a comment begins with `#`")
    if p.before is None and token.type == "STRING":
        return p.error("E0110", "a text does not stand by itself", "a comment begins with `#`")
    if first in ("for", "while", "loop", "repeat"):
        help = "an index runs by itself, `y[i] = …`; layers are repeated by `repeat layer < layers` in a stack"
        return p.error("E0110", "an op has no loops", help, p.span(first))
    if p.at == p.start + 1 and first.type == "NAME" and token == "(":
        help = f"give its value a name: `y = {first}(…)`"
        return p.error("E0110", "a call does not stand by itself", help, p.span(first))
    if p.ends and p.at == p.start + 1 and first.type == "NAME":
        help = f"what the op gives is `return {first}`"
        return p.error("E0110", f"`{first}` does not stand by itself", help, p.span(first))
    if p.before == "lambda":
        help = "a function is an op of the file: `op g(x: [D]) -> [D] { return … }`"
        return p.error("E0110", "there is no `lambda`", help, p.span(p.before))
    if token == "{" and p.before is not None and str(p.before).endswith("_"):
        help = "`S` is the value before this token, and `S'` the one after it"
        return p.error("E0110", "time has no index", help, p.span(p.before, token))
    if token == "," and first == "return":
        return p.error("E0110", "an op returns one value", "make two ops of it, or hand the other one on by a `carry`")
    if (
        token == ","
        and "=" in p.tokens[p.start : p.at]
        and p.tokens[p.start : p.at].count("(") == (p.tokens[p.start : p.at].count(")"))
    ):
        return p.error("E0110", "an equation has one value", "write one equation a name")
    if token == ":" and p.at == p.start + 1 and first.type == "NAME" and p.after == "[":
        help = f"write `{first} = …`; a type stands in a declaration, or after `as`"
        return p.error("E0110", "an equation has no type on its left", help, p.span(first))
    return None


def _unknown_statement(p: Place) -> Diagnostic | None:
    """A statement that begins with a word the language does not have."""
    words, where = _BLOCKS.get(p.block, ((), "a group"))
    first = p.first
    if p.at > p.start + 1 or first.type != "NAME" or not words:
        return None
    followed = p.token if p.at > p.start else p.after
    if p.block != "" and (p.at == p.start or followed is None or followed.type not in (*_OPERANDS, "LBRACE")):
        return None
    near = _ELSEWHERE.get(first, "")
    help = f"write `{near}`" if near in words else did_you_mean(first, words)
    if not help and p.block == "" and followed == "=":
        help = f"write `let {first} = …`"
        return p.error("E0110", "an equation cannot stand in a file by itself", help, p.span(first))
    if not help and words is OF_STACKS and p.token.type == "NAME":
        return p.error("E0110", f"`{first}` is no label without a `:`", f"write `{first}: {p.token}`", p.span(first))
    if not help and words is OF_MODELS:
        return p.error("E0110", f"the setting `{first}` has no `=`", f"write `{first} = …`", p.span(first))
    help = help or "it holds " + ", ".join(f"`{word}`" for word in words)
    return p.error("E0110", f"`{first}` does not begin a statement of {where}", help, p.span(first))


_LACKS = {
    ("param", "TILDE"): ("a param needs a rule to begin by", "for instance `~ 0` or `~ orthogonal()`"),
    ("history", "LAST"): ("a history needs a window", "write `history K: [N] last window = …`"),
    ("op", "_ARROW"): ("the op does not say what it returns", "write `-> [D]` before its `{`"),
    ("use", "STRING"): ("`use` takes a path in double quotes", 'write `use "lib/norm.cdr" { layer_norm }`'),
    ("use", "LBRACE"): ("`use` says what it takes", 'write `use "lib/norm.cdr" { layer_norm }`'),
    ("bank", "OF"): ("a bank says what it is a bank of", "write `bank F: [e < experts] of expert`"),
    ("repeat", "LESSTHAN"): ("`repeat` counts a name up to a number", "write `repeat layer < layers {`"),
    ("after", "STEP"): ("`after` goes with `step`", "write `after step bias'[e] = …`"),
    ("part", "COLON"): ("a part needs an op", "write `part f: relu2(hidden=hidden)`"),
    ("state", "COLON"): ("a state needs a shape", "write `state S: [H, N]`"),
    ("param", "COLON"): ("a param needs a shape", "write `param W: [D, D] ~ 0`"),
    ("history", "COLON"): ("a history needs a shape", "write `history K: [N] last window = …`"),
    ("carry", "COLON"): ("a carry needs a shape", "write `carry v0: [D]`"),
    ("buffer", "COLON"): ("a buffer needs a shape", "write `buffer bias: [experts] = 0`"),
    ("op", "COLON"): ("an argument needs a type", "write `x: [D]` or `n: int`"),
}


def _lacks(p: Place) -> Diagnostic | None:
    """A statement without one of its pieces."""
    for (word, terminal), (message, help) in _LACKS.items():
        if p.first == word and terminal in p.accepts and p.before is not None:
            return p.error("E0110", message, help)
    if p.block == "use" and p.token == "}":
        return p.error("E0110", "`use` takes at least one name", "name what this file needs from the other")
    if "LSQB" in p.accepts and "F32" in p.accepts:
        if p.token == "index" and p.first in OF_DECLARATIONS:
            name = p.tokens[p.start + 1]
            help = f"a place is kept as a number, `{name}: []`, and is compared: `sum[v](E[v,i]*(v == {name}))`"
            return p.error("E0110", f"a {p.first} holds numbers, no `index`", help)
        near = did_you_mean(str(p.token), ("int", "float", "bool", "string")) if "INT" in p.accepts else ""
        kinds = "; or `int`, `float`, `bool`, `string`, `op`, `index[n]`" if "INT" in p.accepts else ""
        help = near or f"write `[D]`, `[H, N]`, or `[]` for one number{kinds}"
        return p.error("E0110", f"{_shown(p)} is not a type", help)
    if p.ends and "ELSE" in p.accepts and "if" in p.tokens[p.start : p.at]:
        return p.error("E0110", "this choice has no `else`", "write `a if condition else b`")
    if p.token == ":" and p.block in ("op", "when") and p.first.type == "NAME" and p.at == p.start + 1:
        help = f"write `param {p.first}: …`, `state {p.first}: …` or `part {p.first}: …`"
        return p.error("E0110", f"it is not said what `{p.first}` is", help, p.span(p.first))
    if p.token == ":" and p.block in ("model", "group"):
        return p.error("E0110", "a setting has a `=`, not a `:`", f"write `{p.before} = …`")
    return None


def _slice(p: Place) -> Diagnostic | None:
    """`x[:2]`."""
    words = p.tokens[p.start : p.at]
    if p.token != ":" or p.block not in ("op", "when") or words.count("[") <= words.count("]"):
        return None
    help = "a part of an axis is read by arithmetic on its index: `y[i < 2] = x[i + 4]`"
    return p.error("E0110", "`:` takes no part of an axis", help)


def _missing_operator(p: Place) -> Diagnostic | None:
    last, token = p.before, p.token
    if last is None or "STAR" not in p.accepts or token.type not in _OPERANDS:
        return None
    span = p.span(last, token)
    help = "a product is `a*b`, and of a matrix and a vector `a @ b`"
    if str(last).startswith(("sum_", "mean_", "max_", "min_")):
        name, _, index = str(last).partition("_")
        help = f"write `{name}[{index}](…)`"
    return p.error("E0110", f"there is no operator between `{last}` and `{token}`", help, span)


_RULES: tuple[Callable[[Place], Diagnostic | None], ...] = (
    _ends_in_operator,
    _brace_on_its_own_line,
    _touching,
    _operand_wanted,
    _chained_comparison,
    _attribute,
    _equals,
    _derived,
    _by_itself,
    _two_statements,
    _keyword,
    _unknown_statement,
    _slice,
    _lacks,
    _missing_operator,
)
