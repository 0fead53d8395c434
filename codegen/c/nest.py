"""Loop nests: an expression as C statements inside open loops.

Input: expressions over the indices of the loops that are open.
Output: lines.  A reduction becomes loops of its own in front of the innermost loop it depends on, a call that does not
vary inside a loop is made before it.  Each is made once a place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
from cdrmix.codegen.c.access import ZERO, Held, Ring, Storage, flat, number, sizes
from cdrmix.codegen.c.names import Scope
from cdrmix.codegen.c.rules import ATOM, TOTAL, TYPES, UNARY, Kind, Text, elementwise, operand_kinds

from cdrmix.ir import build, walk
from cdrmix.ir.build import FLOATS
from cdrmix.ir.nodes import Index, Node, Ref
from cdrmix.ir.ops import OPS as ROWS

EACH_TOKEN = "for (ptrdiff_t t = 0; t < block->n; t++)"
"""The loop over the tokens of a block."""
LANES = 8
"""`CDR_LANES` of runtime/c/kernels.h."""
_EXTREMES = {
    "max_over": ("largest", "max", {"i": "INT64_MIN", "f": "-INFINITY", "d": "-INFINITY"}),
    "min_over": ("least", "min", {"i": "INT64_MAX", "f": "INFINITY", "d": "INFINITY"}),
}
"""What they are called, the function of two, and the first value by kind."""


@dataclass(slots=True)
class Nest:
    """Open loops and, at each depth, the lines written so far and the values that they made.

    `storage` says where a name lies, `present` how many tokens a window holds.  `windowed` are the indices that range
    over the tokens present in a history's window; `declared` are variables outside of all loops.  `shared` is an index
    whose loop is open around this nest.
    """

    storage: Callable[[Ref], Storage]
    present: Callable[[int], str]
    scope: Scope
    windowed: set[Index] = field(default_factory=set)
    loops: list[Index] = field(default_factory=list)
    blocks: list[list[str]] = field(default_factory=lambda: [[]])
    known: list[dict[tuple[Node, Kind], Text]] = field(default_factory=lambda: [{}])
    named: dict[Index, Text] = field(default_factory=dict)
    declared: list[str] = field(default_factory=list)
    shared: Index | None = None

    # --- loops -----------------------------------------------------------------------------------------------------
    def extent(self, i: Index) -> str:
        """How many values an index takes."""
        return self.present(i.axis.size) if i in self.windowed else str(i.axis.size)

    def open(self, *indices: Index) -> None:
        """Begin a loop over each index, the last innermost."""
        for i in indices:
            if i == self.shared:
                continue
            self.named[i] = Text(self.scope.name(i.name))
            self.loops.append(i)
            self.blocks.append([])
            self.known.append({})

    def close(self, down_to: int = 0) -> None:
        """End loops, the innermost first, until `down_to` are open."""
        while len(self.loops) > down_to:
            i, inner = self.loops.pop(), self.blocks.pop()
            self.known.pop()
            name = self.named[i].c
            self.blocks[-1] += braced(f"for (ptrdiff_t {name} = 0; {name} < {self.extent(i)}; {name}++)", inner)

    def line(self, text: str) -> None:
        """A line in the innermost loop."""
        self.blocks[-1].append(text)

    def declare(self, c: str, name: str, value: str) -> str:
        """A variable of the type `c` in the innermost loop; its name."""
        self.line(f"{c} {name} = {value};")
        if len(self.blocks) == 1:
            self.declared.append(name)
        return name

    def lines(self) -> list[str]:
        """All lines, every loop closed; in braces when they declare anything."""
        self.close()
        lines = self.blocks[0]
        return ["{", *(f"  {line}" for line in lines), "}"] if self.declared else lines

    def depth(self, n: Node) -> int:
        """How many of the open loops `n` must stand in."""
        return max((p + 1 for p, i in enumerate(self.loops) if i in n.free), default=0)

    def outer(self, depth: int) -> Nest:
        """The nest with only the outermost loops open; what it writes comes before the loops inside them."""
        blocks, known = self.blocks[: depth + 1], self.known[: depth + 1]
        return replace(self, loops=self.loops[:depth], blocks=blocks, known=known)

    # --- expressions -----------------------------------------------------------------------------------------------
    def expression(self, n: Node, want: Kind) -> Text:
        """`n` as a C expression of the kind wanted."""
        if n.op == "const":
            return literal(n.arg, want)
        have = kind(n)
        text = self.natural(n, have)
        return text if have == want else Text(f"({TYPES[want]}){text.inside(UNARY)}", UNARY)

    def natural(self, n: Node, have: Kind) -> Text:
        match n.op:
            case "index":
                return self.named[n.arg]
            case "context":
                return Text(n.arg)
            case "read":
                return Text(self.element(n))
            case "softmax":
                return self.softmax(n)
        depth = self.depth(n)
        if ROWS[n.op].kind == "reduce" or (depth < len(self.loops) and heavy(n)):
            return self.made(n, have, self.outer(depth))
        return self.compute(n, have)

    def compute(self, n: Node, have: Kind) -> Text:
        wants = operand_kinds(n, kind)
        args = [self.expression(a, want) for a, want in zip(n.args, wants, strict=True)]
        return elementwise(n, have, args, wants)

    def made(self, n: Node, have: Kind, there: Nest) -> Text:
        """A value computed once, in an outer nest."""
        known = there.known[-1]
        if (n, have) not in known:
            if ROWS[n.op].kind == "reduce":
                known[n, have] = Text(there.reduce(n, have))
            else:
                value = there.compute(n, have).c
                known[n, have] = Text(there.declare(f"const {TYPES[have]}", there.scope.name(f"{n.op}_of"), value))
        return known[n, have]

    def element(self, n: Node) -> str:
        """A read, as an element of an array or a variable."""
        return self.storage(n.arg.ref).element(self.place(n))

    def address(self, n: Node, *zero: Index) -> str:
        """The address of a read's element at the first value of some indices."""
        kept = dict(self.named)
        self.named.update(dict.fromkeys(zero, ZERO))
        place = self.place(n)
        self.named.clear()
        self.named.update(kept)
        return self.storage(n.arg.ref).address(place)

    def place(self, n: Node) -> Text:
        """The place of a read in its array; a history's entry lies in the slot of its age."""
        ring, of = self.storage(n.arg.ref).ring, sizes(n)
        if ring is None:
            return flat([self.at(a) for a in n.args], of)
        entry = ring.axis(of)
        if entry is None:
            whole = flat([self.at(a) for a in n.args], of).inside(ATOM)
            turned = f"cdr_wrap({ring.head} + {whole} / {ring.entry}, {ring.window})"
            return Text(f"{turned} * {ring.entry} + {whole} % {ring.entry}", TOTAL)
        slot = self.slot(n.arg.ref, ring, n.args[entry])
        return flat([slot, *(self.at(a) for a in n.args[entry + 1 :])], [ring.window, *of[entry + 1 :]])

    def at(self, n: Node) -> Text:
        """An index expression; one that was read from memory is made wide, since places may pass 2^31."""
        text = self.expression(n, "i")
        return Text(f"(ptrdiff_t){text.inside(UNARY)}", UNARY) if walk.has_reads(n) else text

    def slot(self, history: Ref, ring: Ring, age: Node) -> Text:
        """The slot of an entry by its age, computed where the age is known."""
        text = self.at(age)
        if text.value == 0:
            return Text(ring.head)
        there = self.outer(self.depth(age))
        key: tuple[Node, Kind] = (Node("read", (age,), history), "i")
        if key not in there.known[-1]:
            place = f"cdr_wrap({ring.head} + {text.inside(UNARY)}, {ring.window})"
            there.known[-1][key] = Text(there.declare("const ptrdiff_t", there.scope.name("slot"), place))
        return there.known[-1][key]

    def held(self, n: Node) -> Held | None:
        """How the parameter that is read is held, where that is not as f32."""
        return self.storage(n.arg.ref).held

    def moves(self, n: Node, i: Index) -> int | None:
        """How far a read moves when `i` grows by one; None when that is not a constant."""
        ring, of, found = self.storage(n.arg.ref).ring, sizes(n), 0
        entry = ring.axis(of) if ring is not None else -1
        for p, arg in enumerate(n.args):
            if i in arg.free:
                if arg.op != "index" or p == entry or entry is None:
                    return None
                found += prod(of[p + 1 :])
        return found

    def in_rows(self, body: Node, i: Index) -> bool:
        """Whether every read stands still or moves to the next element along `i`."""
        moves = {self.moves(m, i) for m in walk.reads(body)}
        return 1 in moves and moves <= {0, 1}

    # --- reductions; `self` is the nest they stand in ----------------------------------------------------------------
    def reduce(self, n: Node, have: Kind) -> str:
        body, name = n.args[0], self.scope.name(_EXTREMES[n.op][0] if n.op in _EXTREMES else n.op)
        c = f"const {TYPES[have]}"
        match n.op:
            case "logsumexp":
                most, each = self.above_most(body, n.arg)
                over = build.node("log", build.reduce("sum", n.arg, each))
                self.declare(c, name, f"{self.expression(most, have).c} + {self.expression(over, have).c}")
            case "mean":
                total = self.total(n.arg, body, have, self.scope.name("total"))
                count = literal(walk.size(i for i in n.arg if i not in self.windowed), have).c
                if present := [f"({TYPES[have]}){self.extent(i)}" for i in n.arg if i in self.windowed]:
                    count = f"({' * '.join([count, *present])})"
                self.declare(c, name, f"{total} / {count}")
            case "sum":
                self.total(n.arg, body, have, name)
            case _:
                self.loop(n.arg, body, have, name, n.op)
        return name

    def above_most(self, body: Node, bound: tuple[Index, ...]) -> tuple[Node, Node]:
        """The largest of a body over `bound`, and the body's exponential over it, which cannot be too large."""
        again = {i: Index(f"{i.name}_all", i.axis) for i in bound}
        self.windowed.update(again[i] for i in bound if i in self.windowed)
        most = build.reduce("max_over", again.values(), walk.rename_indices(body, again))
        return most, build.node("exp", build.sub(body, most))

    def total(self, bound: tuple[Index, ...], body: Node, have: Kind, name: str) -> str:
        """A sum, in lanes where rows are long."""
        if have == "f" and self.in_lanes(bound[-1], body):
            return self.lanes(bound, body, name)
        return self.loop(bound, body, have, name, "sum")

    def loop(self, bound: tuple[Index, ...], body: Node, have: Kind, name: str, op: str) -> str:
        """Accumulate the body over the bound indices into a variable."""
        _, function, first = _EXTREMES.get(op, ("", "", {have: literal(0, have).c}))
        self.declare(TYPES[have], name, first[have])
        depth = len(self.loops)
        self.open(*bound)
        value = self.expression(body, have).c
        suffix = {"f": "", "d": "_d", "i": "_i"}[have]
        self.line(f"{name} = cdr_{function}{suffix}({name}, {value});" if function else f"{name} += {value};")
        self.close(depth)
        return name

    def in_lanes(self, i: Index, body: Node) -> bool:
        """Whether an index runs along rows that lie in memory as they are."""
        if i in self.windowed or i.axis.size < 2 * LANES or any(m.arg == i for m in values(body) if m.op == "index"):
            return False
        return self.in_rows(body, i) and all(lightweight(m) for m in values(body))

    def lanes(self, bound: tuple[Index, ...], body: Node, name: str) -> str:
        *before, i = bound
        depth = len(self.loops)
        pair = list(walk.multiplied(body))
        if len(pair) == 2 and all(f.op == "read" and self.moves(f, i) == 1 and not self.held(f) for f in pair):
            if before:
                self.declare("float", name, "0.0f")
            self.open(*before)
            self.named[i] = ZERO
            value = f"cdr_dot({self.address(pair[0], i)}, {self.address(pair[1], i)}, {self.extent(i)})"
            if not before:
                return self.declare("const float", name, value)
            self.line(f"{name} += {value};")
            self.close(depth)
            return name
        rows, at, size = self.scope.name("lanes"), self.scope.name("from"), i.axis.size
        whole = size // LANES * LANES
        self.declare("float", f"{rows}[CDR_LANES]", "{0}")
        self.open(*before)
        inner = self.outer(len(self.loops))
        inner.open(i)
        value = inner.expression(body, "f").c
        var = inner.named[i].c
        made = inner.blocks.pop()
        full = [f"const ptrdiff_t {var} = {at} + lane;", *made, f"{rows}[lane] += {value};"]
        over_lanes = braced("for (ptrdiff_t lane = 0; lane < CDR_LANES; lane++)", full)
        self.blocks[-1] += braced(f"for (ptrdiff_t {at} = 0; {at} < {whole}; {at} += CDR_LANES)", over_lanes)
        if whole < size:
            rest = [*made, f"{rows}[0] += {value};"]
            self.blocks[-1] += braced(f"for (ptrdiff_t {var} = {whole}; {var} < {size}; {var}++)", rest)
        self.close(depth)
        return self.declare("const float", name, f"cdr_fold({rows})")

    def softmax(self, n: Node) -> Text:
        """One element: its exponential over the sum of all of them along the index."""
        along = Index(f"{n.arg.name}_each", n.arg.axis)
        if n.arg in self.windowed:
            self.windowed.add(along)
        body = walk.rename_indices(n.args[0], {n.arg: along})
        most, each = self.above_most(body, (along,))
        total = build.reduce("sum", (along,), each)
        own = build.node("exp", build.sub(n.args[0], most))
        return self.compute(build.div(own, total), kind(n))


# --- nodes ---------------------------------------------------------------------------------------------------------
def kind(n: Node) -> Kind:
    """The kind of number a node is computed in."""
    if n.dtype not in FLOATS:
        return "i"
    return "f" if walk.has_reads(n) else "d"


def values(n: Node) -> Iterator[Node]:
    """The nodes of an expression that are values, not places."""
    yield n
    if n.op != "read":
        for a in n.args:
            yield from values(a)


def lightweight(n: Node) -> bool:
    """Whether a loop over lanes may hold a node: no call, no whole number."""
    if n.op == "pow":
        return n.args[1].op == "const" and n.args[1].arg in (2, 3)
    row = ROWS[n.op]
    if row.kind == "leaf":
        return n.op == "const" or n.op == "read" and n.dtype in FLOATS
    return row.effort in ("none", "light")


def heavy(n: Node) -> bool:
    """Whether a node holds a call or a division."""
    return any(ROWS[m.op].kind == "elementwise" and not lightweight(m) and m.op != "select" for m in values(n))


# --- text ----------------------------------------------------------------------------------------------------------
def literal(value: float | int | bool, want: Kind) -> Text:
    """A number in C."""
    if want == "i":
        whole = int(value)
        if abs(whole) >= 1 << 31:
            return Text(f"INT64_C({whole})")
        return number(whole) if whole >= 0 else Text(str(whole), UNARY, whole)
    single = want == "f"
    with np.errstate(over="ignore"):
        number_ = np.float32(value) if single else np.float64(value)
    if np.isnan(number_):
        return Text("NAN")
    if np.isinf(number_):
        return Text("INFINITY") if number_ > 0 else Text("-INFINITY", UNARY)
    text = str(number_)
    text = text if any(c in text for c in ".en") else f"{text}.0"
    return Text(text + ("f" if single else ""), UNARY if np.signbit(number_) else ATOM)


def braced(head: str, lines: list[str]) -> list[str]:
    """A loop's head and its body, braced when it is more than one statement."""
    if len(lines) == 1:
        return [head, f"  {lines[0]}"]
    return indented(head, lines)


def indented(head: str, lines: Sequence[str]) -> list[str]:
    """A loop in braces, around lines that may be empty."""
    return [f"{head} {{", *(f"  {line}" if line else "" for line in lines), "}"]


def signature(function: str, parameters: list[str]) -> list[str]:
    """The head of a function, in lines of 120 characters."""
    lines = [f"static void {function}("]
    for p, parameter in enumerate(parameters):
        text = parameter + (")" if p == len(parameters) - 1 else ", ")
        if len(lines[-1]) + len(text.rstrip()) > 120:
            lines.append(" " * len(f"static void {function}("))
        lines[-1] += text
    return [line.rstrip() for line in lines]
