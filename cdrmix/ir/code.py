"""Python code as a tree: what printers of Python make, and the one place that knows precedence and long lines.

Input: expressions (`Code`) and statements (`Assign`, `Comment`, `Block`) made by a printer.
Output: `written`: lines of at most `WIDTH` characters where there is a place to break at, before operators or inside
brackets; `called`, `named`: what the code calls and names, so that a module imports just that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

WIDTH = 116

# How tightly Python binds, loosest first.
CHOICE, OR, AND, NOT, COMPARE, BITOR, BITAND, ADD, MUL, NEG, POW, NUMBER, ATOM = range(13)
INFIX = {
    "or": OR, "and": AND, "|": BITOR, "&": BITAND, "+": ADD, "-": ADD, "*": MUL, "/": MUL, "//": MUL, "%": MUL,
    "**": POW, **dict.fromkeys(("==", "!=", "<", "<=", ">", ">=", "is", "is not"), COMPARE),
}  # fmt: skip
PREFIX = {"not ": NOT, "-": NEG, "~": NEG, "*": ATOM}


@dataclass(frozen=True, slots=True)
class Code:
    """Texts and pieces of code in a row; an operand that binds too loosely is in brackets already.

    `level` is how tightly it binds.  Where it is too long for a line it `breaks` within its first piece, before each of
    its operators, or between the items of its brackets.  `notes` are an argument's comments: above it, the last behind.
    """

    parts: tuple[str | Code, ...]
    level: int = ATOM
    breaks: Literal["within", "operators", "items", "nowhere"] = "within"
    notes: tuple[str, ...] = ()


# --- making it -----------------------------------------------------------------------------------------------------
def name(text: str) -> Code:
    """A name, a dotted one, a literal, or a look-up of fixed text."""
    return Code((text,))


def number(value: float, infinity: str = "math.inf") -> Code:
    """A literal, which is no receiver; Python has none for what is not finite."""
    if value != value:
        return name("math.nan")
    if value in (float("inf"), float("-inf")):
        return name(infinity) if value > 0 else prefix("-", name(infinity))
    code = repr(value)
    return Code((code,), NEG if code.startswith("-") else NUMBER)


def code(what: Code | str | int) -> Code:
    """A name or a whole number as code; code stays what it is."""
    return name(what) if isinstance(what, str) else number(what) if isinstance(what, int) else what


def member(of: Code, name: str) -> Code:
    """`of.name`."""
    return Code((_grouped(of, ATOM), f".{name}"))


def call(function: str | Code, *args: Code | str | int, **keywords: Code) -> Code:
    """A call of a function by name or of a member."""
    given = [*args, *(prefix(f"{k}=", v) for k, v in keywords.items())]
    return Code((code(function), "(", *_separated(given), ")"), breaks="items")


def method(of: Code, name: str, *args: Code | str | int, **keywords: Code) -> Code:
    """`of.name(args…)`."""
    return call(member(of, name), *args, **keywords)


def item(of: Code, *at: Code | str | int) -> Code:
    """`of[at…]`."""
    return Code((_grouped(of, ATOM), "[", *_separated(at), "]"))


def listed(*items: Code | str | int, open: str = "(") -> Code:
    """A tuple, with `open=""` one without brackets, or with `open="["` a list."""
    close = {"(": ",)" if len(items) == 1 else ")", "[": "]", "": ""}[open]
    return Code((open, *_separated(items), close), breaks="items")


def mapped(pairs: Mapping[str, Code]) -> Code:
    """`{key: value, …}`; a key is the text of one."""
    return Code(("{", *_separated(prefix(f"{k}: ", v) for k, v in pairs.items()), "}"), breaks="items")


def prefix(sign: str, of: Code) -> Code:
    """`sign of`; also an argument that is spread out, or behind its name."""
    level = PREFIX.get(sign, CHOICE)
    return Code((sign, _grouped(of, level)), level)


def infix(sign: str, left: Code, right: Code) -> Code:
    """`left sign right`: all but powers and comparisons group to the left."""
    level = INFIX[sign]
    if level == POW:
        return Code((_grouped(left, NUMBER), f" {sign} ", _grouped(right, NEG)), level, "nowhere")
    if level == COMPARE:
        return Code((_grouped(left, level + 1), f" {sign} ", _grouped(right, level + 1)), level, "nowhere")
    before = left.parts if left.level == level else (_grouped(left, level),)
    return Code((*before, f" {sign} ", _grouped(right, level + 1)), level, "operators")


def choice(then: Code, cond: Code, other: Code) -> Code:
    """`then if cond else other`."""
    return Code((_grouped(then, OR), " if ", _grouped(cond, OR), " else ", other), CHOICE, "operators")


def _grouped(c: Code, least: int) -> Code:
    """The code, in brackets if it binds looser than `least`."""
    return c if c.level >= least else Code(("(", c, ")"), breaks="items")


def _separated(items: Iterable[Code | str | int]) -> list[str | Code]:
    return [part for x in items for part in (", ", code(x))][1:]


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
class Block:
    """`head:` and what stands below it."""

    head: Code
    body: tuple[Statement, ...]


Statement = Assign | Comment | Block


def when(test: Code, *body: Statement) -> Block:
    """`if test:`."""
    return Block(prefix("if ", test), body)


# --- reading it ----------------------------------------------------------------------------------------------------
def called(body: Iterable[Statement]) -> set[str]:
    """The plain names that are called."""
    found = set()
    for c in _codes(body):
        match c.parts:
            case (Code(parts=(str(function),)), "(", *_):
                found.add(function)
    return found


def named(body: Iterable[Statement]) -> set[str]:
    """The plain names that occur."""
    return {c.parts[0] for c in _codes(body) if len(c.parts) == 1 and isinstance(c.parts[0], str)}


def _codes(body: Iterable[Statement]) -> Iterator[Code]:
    """Every piece of code of the statements."""
    for stmt in body:
        match stmt:
            case Assign(targets, value):
                for c in (*targets, value):
                    yield from _inside(c)
            case Block(head, inner):
                yield from _inside(head)
                yield from _codes(inner)


def _inside(c: Code) -> Iterator[Code]:
    """`c` and every piece of it."""
    yield c
    for part in c.parts:
        if isinstance(part, Code):
            yield from _inside(part)


# --- printing it ---------------------------------------------------------------------------------------------------
def written(body: Iterable[Statement], indent: int = 0) -> list[str]:
    """The lines; those of the outermost block begin at the margin, `indent` is how far they will be moved."""
    found: list[str] = []
    for stmt in body:
        match stmt:
            case Comment(text):
                found.append(f"# {text}")
            case Block(head, inner):
                found += [f"{flat(head)}:", *(f"    {line}" for line in written(inner, indent + 4))]
            case Assign(targets, value, note, returns):
                front = "return " if returns else f"{', '.join(map(flat, targets))} = " if targets else ""
                lines = _laid(value, 0, WIDTH - indent, front)
                if note and (len(lines) > 1 or len(lines[0]) + len(note) + 4 > WIDTH - indent):
                    found += [f"# {note}", *lines]
                else:
                    found += [lines[0] + (f"  # {note}" if note else ""), *lines[1:]]
    return found


def flat(c: Code) -> str:
    """The code in one line."""
    return "".join(part if isinstance(part, str) else flat(part) for part in c.parts)


def _laid(c: Code, indent: int, width: int, before: str = "", after: str = "", bracketed: bool = False) -> list[str]:
    """The lines of `before` + `c` + `after`; in brackets an operator may begin a line."""
    margin = " " * indent
    one = margin + before + flat(c) + after
    pieces = [part for part in c.parts if isinstance(part, Code)]
    if not pieces or c.breaks == "nowhere" or (len(one) <= width and not any(p.notes for p in pieces)):
        return [one]
    if c.breaks == "operators":
        inner = _before_operators(c, indent if bracketed else indent + 4, width)
        if not bracketed:
            return [f"{margin}{before}(", *inner, f"{margin}){after}"]
        return [f"{margin}{before}{inner[0].lstrip()}", *inner[1:-1], inner[-1] + after]
    called = c.parts[0] is pieces[0]
    items = pieces[1:] if called else pieces
    if c.breaks == "within" or not items or (called and _receives(pieces[0], items)):
        at = c.parts.index(pieces[0])
        front, rest = flat(Code(c.parts[:at])), flat(Code(c.parts[at + 1 :]))
        return _laid(pieces[0], indent, width, before + front, rest + after, bracketed)
    front, close = flat(Code(c.parts[: 1 + called])), str(c.parts[-1])
    comma = "," * (len(items) > 1 or close in (",)", "}"))
    inner = []
    for x in items:
        inner += [f"{margin}    # {note}" for note in x.notes[:-1]]
        inner += _laid(x, indent + 4, width, "", f",  # {x.notes[-1]}" if x.notes else comma, bracketed=True)
    return [f"{margin}{before}{front}", *inner, f"{margin}{close.lstrip(',')}{after}"]


def _before_operators(c: Code, indent: int, width: int) -> list[str]:
    """The operands a line each, the operator before it."""
    found, sign = list[str](), ""
    for part in c.parts:
        if isinstance(part, str):
            sign = part.lstrip()
        else:
            first, *more = _laid(part, indent, width if c.level == CHOICE else width - 4, sign, bracketed=True)
            found += [first, *(f"    {line}" if part.breaks == "operators" else line for line in more)]
    return found


def _receives(function: Code, args: list[Code]) -> bool:
    """Whether a call's function is a member of something longer than the arguments."""
    of = function.parts[0]
    return isinstance(of, Code) and len(flat(of)) > sum(len(flat(a)) for a in args)
