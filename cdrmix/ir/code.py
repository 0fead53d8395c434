"""Python code as a tree: what printers of Python make, and the one place that knows precedence and long lines.

Input: expressions (`Code`) and statements (`Assign`, `If`, `For`, …) made by a printer.
Output: `written`: lines of at most `WIDTH` characters where there is a place to break at, before operators or inside
brackets; `called`, `named`: what the code calls and names, so that a module imports just that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

WIDTH = 116

# How tightly Python binds, loosest first.
CHOICE, OR, AND, NOT, COMPARE, BITOR, BITAND, ADD, MUL, NEG, POW, NUMBER, ATOM = range(13)


@dataclass(frozen=True, slots=True)
class Atom:
    """A name, a literal, or a look-up of fixed text; a number is no receiver, a negative one binds like `NEG`."""

    text: str
    level: int = ATOM


@dataclass(frozen=True, slots=True)
class Member:
    """`of.name`."""

    of: Code
    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """`function(args…)`; keyword arguments are `Keyword`s."""

    function: Code
    args: tuple[Code, ...]


@dataclass(frozen=True, slots=True)
class Keyword:
    """`name=value`, or with the name `*` a value spread out."""

    name: str
    value: Code


@dataclass(frozen=True, slots=True)
class Item:
    """`of[at…]`."""

    of: Code
    at: tuple[Code, ...]


@dataclass(frozen=True, slots=True)
class Infix:
    """`left sign right`."""

    sign: str
    level: int
    left: Code
    right: Code


@dataclass(frozen=True, slots=True)
class Prefix:
    """`sign of`."""

    sign: str
    level: int
    of: Code


@dataclass(frozen=True, slots=True)
class Choice:
    """`then if cond else other`."""

    then: Code
    cond: Code
    other: Code


@dataclass(frozen=True, slots=True)
class Listed:
    """A list `[…]`, a tuple `(…)` or without brackets, or with one item and `bare` an expression in brackets."""

    open: str
    items: tuple[Code, ...]
    bare: bool = False


@dataclass(frozen=True, slots=True)
class Noted:
    """An argument on a line of its own, comments above it and one behind it."""

    of: Code
    above: tuple[str, ...]
    note: str


@dataclass(frozen=True, slots=True)
class Mapped:
    """`{key: value, …}`."""

    pairs: tuple[tuple[Code, Code], ...]


Code = Atom | Member | Call | Keyword | Item | Infix | Prefix | Choice | Listed | Noted | Mapped


# --- making it -----------------------------------------------------------------------------------------------------
def name(text: str) -> Code:
    """A name, or a dotted one."""
    return Atom(text)


def number(value: float, infinity: str = "math.inf", nan: str = "math.nan") -> Code:
    """A literal; Python has none for what is not finite."""
    if value != value:
        return Atom(nan)
    if value in (float("inf"), float("-inf")):
        return Atom(infinity) if value > 0 else Prefix("-", NEG, Atom(infinity))
    code = repr(value)
    return Atom(code, NEG if code.startswith("-") else NUMBER)


def call(function: str | Code, *args: Code | str | int, **keywords: Code) -> Code:
    """A call of a function by name or of a member."""
    given = [*map(code, args), *(Keyword(k, v) for k, v in keywords.items())]
    return Call(code(function), tuple(given))


def method(of: Code, member: str, *args: Code | str | int, **keywords: Code) -> Code:
    """`of.member(args…)`."""
    return call(Member(of, member), *args, **keywords)


def item(of: Code, *at: Code | str | int) -> Code:
    """`of[at…]`."""
    return Item(of, tuple(map(code, at)))


def listed(*items: Code | str | int, open: str = "(") -> Code:
    """A tuple, or a list with `open="["`."""
    return Listed(open, tuple(map(code, items)))


def code(what: Code | str | int) -> Code:
    """A name or a whole number as code; code stays what it is."""
    return Atom(what) if isinstance(what, str) else number(what) if isinstance(what, int) else what


def infix(sign: str, level: int, left: Code, right: Code) -> Code:
    """An operator between two operands."""
    return Infix(sign, level, left, right)


# --- reading it ----------------------------------------------------------------------------------------------------
def inside(c: Code) -> Iterator[Code]:
    """`c` and every piece of it."""
    yield c
    for part in _parts(c):
        yield from inside(part)


def _parts(c: Code) -> tuple[Code, ...]:
    match c:
        case Member(of=of) | Prefix(of=of) | Noted(of=of):
            return (of,)
        case Call(function=function, args=args):
            return (function, *args)
        case Keyword(value=value):
            return (value,)
        case Item(of=of, at=at):
            return (of, *at)
        case Infix(left=left, right=right):
            return (left, right)
        case Choice(then=then, cond=cond, other=other):
            return (then, cond, other)
        case Listed(items=items):
            return items
        case Mapped(pairs=pairs):
            return tuple(part for pair in pairs for part in pair)
    return ()


# --- statements ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Assign:
    """`targets = value`, or the value alone; `note` is a comment behind it, `returns` makes it a return."""

    targets: tuple[Code, ...]
    value: Code
    note: str = ""
    returns: bool = False


@dataclass(frozen=True, slots=True)
class Comment:
    """`# text`."""

    text: str


@dataclass(frozen=True, slots=True)
class If:
    """`if test:`."""

    test: Code
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class For:
    """`for target in over:`."""

    target: Code
    over: Code
    body: tuple[Statement, ...]


Statement = Assign | Comment | If | For


def codes(body: Iterable[Statement]) -> Iterator[Code]:
    """Every piece of code of the statements."""
    for stmt in body:
        match stmt:
            case Assign():
                for c in (*stmt.targets, stmt.value):
                    yield from inside(c)
            case If():
                yield from inside(stmt.test)
                yield from codes(stmt.body)
            case For():
                for c in (stmt.target, stmt.over):
                    yield from inside(c)
                yield from codes(stmt.body)


def called(body: Iterable[Statement]) -> set[str]:
    """The plain names that are called."""
    return {c.function.text for c in codes(body) if isinstance(c, Call) and isinstance(c.function, Atom)}


def named(body: Iterable[Statement]) -> set[str]:
    """The plain names that occur."""
    return {c.text for c in codes(body) if isinstance(c, Atom)}


def written(body: Iterable[Statement], indent: int = 0) -> list[str]:
    """The lines; those of the outermost block begin at the margin, `indent` is how far they will be moved."""
    found: list[str] = []
    for stmt in body:
        match stmt:
            case Comment(text):
                found.append(f"# {text}")
            case If(test, inner):
                found += [f"if {flat(test)}:", *(f"    {line}" for line in written(inner, indent + 4))]
            case For(target, over, inner):
                head = f"for {flat(target)} in {flat(over)}:"
                found += [head, *(f"    {line}" for line in written(inner, indent + 4))]
            case Assign(targets, value, note, returns):
                front = "return " if returns else f"{', '.join(map(flat, targets))} = " if targets else ""
                lines = _laid(value, 0, WIDTH - indent, front)
                if note and (len(lines) > 1 or len(lines[0]) + len(note) + 4 > WIDTH - indent):
                    found += [f"# {note}", *lines]
                else:
                    found += [lines[0] + (f"  # {note}" if note else ""), *lines[1:]]
    return found


# --- printing it ---------------------------------------------------------------------------------------------------
def level(c: Code) -> int:
    """How tightly the code binds."""
    match c:
        case Atom(level=found) | Infix(level=found) | Prefix(level=found):
            return found
        case Choice():
            return CHOICE
    return ATOM


def flat(c: Code) -> str:
    """The code in one line."""
    match c:
        case Atom(text):
            return text
        case Member(of, member):
            return f"{_at_least(of, ATOM)}.{member}"
        case Call(function, args):
            return f"{flat(function)}({', '.join(map(flat, args))})"
        case Keyword(key, value):
            return f"*{_at_least(value, ATOM)}" if key == "*" else f"{key}={flat(value)}"
        case Item(of, at):
            return f"{_at_least(of, ATOM)}[{', '.join(map(flat, at))}]"
        case Infix(sign):
            left, right = _sides(c)
            return f"{flat(left)} {sign} {flat(right)}"
        case Prefix(sign, binds, of):
            return f"{sign}{_at_least(of, binds)}"
        case Choice(then, cond, other):
            return f"{_at_least(then, OR)} if {_at_least(cond, OR)} else {_at_least(other, CHOICE)}"
        case Listed(open, items, bare):
            comma = "," * (open == "(" and len(items) == 1 and not bare)
            return f"{open}{', '.join(map(flat, items))}{comma}{_CLOSE[open]}"
        case Noted(of):
            return flat(of)
        case Mapped(pairs):
            return f"{{{', '.join(f'{flat(k)}: {flat(v)}' for k, v in pairs)}}}"


_CLOSE = {"(": ")", "[": "]", "": ""}


def _at_least(c: Code, least: int) -> str:
    return flat(_grouped(c, least))


def _grouped(c: Code, least: int) -> Code:
    """The code, in brackets if it binds looser than `least`."""
    return c if level(c) >= least else Listed("(", (c,), bare=True)


def _sides(c: Infix) -> tuple[Code, Code]:
    """The operands, in brackets where they need them: all but powers and comparisons group to the left."""
    if c.sign == "**":
        return _grouped(c.left, NUMBER), _grouped(c.right, NEG)
    return _grouped(c.left, c.level + (c.level == COMPARE)), _grouped(c.right, c.level + 1)


def _laid(c: Code, indent: int, width: int, before: str = "", after: str = "", bracketed: bool = False) -> list[str]:
    """The lines of `before` + `c` + `after`; in brackets an operator may begin a line."""
    one = " " * indent + before + flat(c) + after
    if len(one) <= width and not any(isinstance(a, Noted) for a in _parts(c)):
        return [one]
    margin = " " * indent
    match c:
        case Infix(level=binds) if binds not in (COMPARE, POW):
            inner, at = list[str](), indent if bracketed else indent + 4
            for sign, piece in _chain(c, binds):
                first, *more = _laid(piece, at, width - 4, sign, bracketed=True)
                inner += [first, *(f"    {line}" if isinstance(piece, Infix) else line for line in more)]
            if not bracketed:
                return [f"{margin}{before}(", *inner, f"{margin}){after}"]
            return [f"{margin}{before}{inner[0].lstrip()}", *inner[1:-1], inner[-1] + after]
        case Call(Member(of, member), args) if len(flat(of)) > sum(len(flat(a)) for a in args):
            rest = f".{member}({', '.join(map(flat, args))})"
            return _laid(_grouped(of, ATOM), indent, width, before, rest + after, bracketed)
        case Call(function, args) if args:
            return _in_brackets(f"{before}{flat(function)}(", args, f"){after}", indent, width)
        case Listed(open, items, bare) if items:
            return _in_brackets(before + open, items, _CLOSE[open] + after, indent, width, open == "(" and not bare)
        case Choice(then, cond, other):
            at, inner = indent if bracketed else indent + 4, list[str]()
            for word, piece in (("", _grouped(then, OR)), ("if ", _grouped(cond, OR)), ("else ", other)):
                inner += _laid(piece, at, width, word, bracketed=True)
            if not bracketed:
                return [f"{margin}{before}(", *inner, f"{margin}){after}"]
            return [f"{margin}{before}{inner[0].lstrip()}", *inner[1:-1], inner[-1] + after]
        case Mapped(pairs) if pairs:
            inner = [x for k, v in pairs for x in _laid(v, indent + 4, width, f"{flat(k)}: ", ",", bracketed=True)]
            return [f"{margin}{before}{{", *inner, f"{margin}}}{after}"]
        case Item(of, at):
            rest = f"[{', '.join(map(flat, at))}]"
            return _laid(_grouped(of, ATOM), indent, width, before, rest + after, bracketed)
        case Prefix(sign, binds, of):
            return _laid(_grouped(of, binds), indent, width, before + sign, after, bracketed)
        case Keyword(key, value):
            front = "*" if key == "*" else f"{key}="
            return _laid(_grouped(value, ATOM) if key == "*" else value, indent, width, before + front, after)
    return [one]


def _in_brackets(
    head: str, items: Sequence[Code], tail: str, indent: int, width: int, tuple_of_one: bool = False
) -> list[str]:
    comma = "," if len(items) > 1 or tuple_of_one else ""
    inner: list[str] = []
    for x in items:
        if isinstance(x, Noted):
            inner += [f"{' ' * (indent + 4)}# {c}" for c in x.above]
            inner += _laid(x.of, indent + 4, width, "", f",  # {x.note}", bracketed=True)
        else:
            inner += _laid(x, indent + 4, width, "", comma, bracketed=True)
    return [f"{' ' * indent}{head}", *inner, f"{' ' * indent}{tail}"]


def _chain(c: Code, binds: int) -> list[tuple[str, Code]]:
    """The operands of operators that bind alike, each with what stands before it."""
    if not isinstance(c, Infix) or c.level != binds:
        return [("", _grouped(c, binds))]
    return [*_chain(c.left, binds), (f"{c.sign} ", _grouped(c.right, binds + 1))]
