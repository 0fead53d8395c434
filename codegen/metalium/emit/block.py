"""Lines of the writer: elements between arrays and pages, as calls of the library's `take_*`, `give_*` and `copy_*`.

Input: places of loads and stores over the indices of a step, and whole numbers (IR expressions of constants, indices,
integer arithmetic and reads of i32 arrays).
Output: C++ lines, and the headers that they call.  Runs of neighbours are copied as runs, repeated numbers are read
once, the rest goes one by one.  Whole numbers are int32_t; division rounds down as in the spec.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

from cdrmix.ir import walk
from cdrmix.ir.nodes import Index, Node
from cdrmix.ir.places import bounds
from cdrmix.ir.steps import Load

from .amounts import ZERO, Amount
from .buffers import Setting
from .names import index_name
from .places import Rule, groups_of, load_rule, rule_of, singly, step_of
from .registers import bits

SHORT = 4
"""Runs of fewer elements are copied one by one: asking for each is no more work than a call."""

WIDTH = 112
"""Columns of a line within `kernel_main`."""

Groups = Sequence[tuple[Index, ...]]

HEADERS: Mapping[str, str] = {
    "weights.h": "send_pick next_pick WeightStream",
    "gather.h": "meet gather",
    "dram.h": "fetch_pages fetch_words fetch_halves write_words",
    "top_k.h": "TopK Extreme",
    "integers.h": "floor_div floor_mod larger_whole smaller_whole whole_power float_bits",
    "rows.h": "spread_row collect_rows PLAIN_ROW",
    "matrix_tiles.h": "put_row put_column take_row take_run take_row_values take_column_values zero_row give_row "
    "give_tile matrix_word",
    "tile_maps.h": "take_values take_runs take_repeats take_elements give_runs give_elements set_elements copy_runs "
    "page_of",
    "walk.h": "each_element",
}
"""Headers of the library that data-movement kernels include, by what they are included for."""
_HEADER_OF = {name: header for header, names in HEADERS.items() for name in names.split()}

_OPERATIONS = {
    "add": "({} + {})", "sub": "({} - {})", "mul": "({} * {})", "eq": "({} == {})", "ne": "({} != {})",
    "lt": "({} < {})", "le": "({} <= {})", "gt": "({} > {})", "ge": "({} >= {})", "and": "({} && {})",
    "or": "({} || {})", "neg": "(-{})", "not": "(!{})", "sign": "(({0} > 0) - ({0} < 0))", "select": "({} ? {} : {})",
}  # fmt: skip
_FROM_LIBRARY = {
    "max": "larger_whole({}, {})", "min": "smaller_whole({}, {})", "abs": "larger_whole({0}, -{0})",
    "floordiv": "floor_div({}, {})", "mod": "floor_mod({}, {})", "pow": "whole_power({}, {})",
}  # fmt: skip
_OF_POSITIVE = {"floordiv": "({} / {})", "mod": "({} % {})"}


class Block:
    """The lines of one step: what it works out once comes first.  `headers` grows by what the lines call."""

    def __init__(self, setting: Setting, headers: set[str]):
        self.setting, self.headers = setting, headers
        self.before: list[str] = []
        self.lines: list[str] = []
        self.depth = 0
        self.hoisted: dict[Node, str] = {}

    def put(self, *lines: str) -> None:
        """Lines at the present depth."""
        self.lines += ["    " * self.depth + line for line in lines]

    def call(self, name: str, *args: object, functions: Sequence[str] = (), over: Groups | None = None) -> None:
        """A call of the library, over a box of indices; where the line is too long each function gets its own."""
        head = f"{self.use(name)}{'' if over is None else f'<{box(over)}>'}({', '.join(map(str, args))}"
        self.broken(head, *functions, end=");")

    def broken(self, head: str, *functions: str, end: str) -> None:
        """The head of a call and its functions, in one line where they fit."""
        parts = [head, *functions]
        if len(", ".join(parts) + end) + 4 * self.depth <= WIDTH:
            parts = [", ".join(parts)]
        for number, part in enumerate(parts):
            self.put(("    " if number else "") + part + ("," if number < len(parts) - 1 else end))

    def use(self, name: str) -> str:
        """The name of something of the library."""
        if name in _HEADER_OF:
            self.headers.add(_HEADER_OF[name])
        return name

    @contextmanager
    def nested(self, head: str | None, *functions: str, end: str = "}") -> Iterator[None]:
        """Inside a loop or a condition; without text in plain braces, with None in none."""
        if head is None:
            yield
            return
        self.broken(head, *functions, end=" {" if head else "{")
        self.depth += 1
        yield
        self.depth -= 1
        self.put(end)

    def scope(self, head: str | None) -> AbstractContextManager[None]:
        """The same, in braces in any case: the step's own, or these."""
        return self.nested("" if head is None and not self.depth else head)

    def each(self, groups: Groups, first: Amount, count: Amount) -> AbstractContextManager[None]:
        """Inside a function of each element."""
        names = ", ".join(f"int32_t {group_name(g)}" if g else "int32_t" for g in groups)
        head = f"{self.use('each_element')}<{box(groups)}>({first}, {count}"
        return self.nested(head, f"[&]({names})", end="});")

    def text(self) -> list[str]:
        """All lines; in braces where something was named."""
        if not self.before:
            return self.lines
        return ["{", *(f"    {line}" for line in (*self.before, *self.lines)), "}"]

    # --- whole numbers ---------------------------------------------------------------------------------------------
    def array(self, name: str) -> str:
        """An array's C++ name."""
        return self.setting.names[name]

    def whole(self, n: Node) -> str:
        """A whole number; in parentheses where an operator could tear it apart."""
        return str(int(n.arg)) if n.op == "const" else self.name(n) or self.operation(n)

    def name(self, n: Node) -> str | None:
        """The text of a leaf; what reads something and does not depend on the step's indices is named in front."""
        if n.op == "index":
            return index_name(n.arg) if n.arg.axis.size > 1 else "0"
        if not n.free and walk.has_reads(n):
            if n not in self.hoisted:
                found = self.read(n) if n.op == "read" else self.operation(n)
                self.hoisted[n] = f"place{len(self.hoisted)}"
                self.before.append(f"const int32_t {self.hoisted[n]} = {found};")
            return self.hoisted[n]
        return self.read(n) if n.op == "read" else None

    def operation(self, n: Node) -> str:
        """An operation; division is plain where no operand can be negative."""
        args = [self.whole(a) for a in n.args]
        if n.op in _OF_POSITIVE and n.args[1].op == "const" and n.args[1].arg > 0 and bounds(n.args[0])[0] >= 0:
            return _OF_POSITIVE[n.op].format(*args)
        if n.op in _FROM_LIBRARY:
            self.headers.add("integers.h")
            return _FROM_LIBRARY[n.op].format(*args)
        if n.op in _OPERATIONS:
            return _OPERATIONS[n.op].format(*args)
        raise ValueError(f"`{n.op}` is no operation of whole numbers")

    def read(self, n: Node) -> str:
        """An element of an array of whole numbers."""
        array = self.setting.program.arrays[n.arg.ref.name]
        rule = rule_of(array, [a.size for a in n.arg.view], n.args)
        return self.word(rule, singly(rule.steps))

    # --- elements --------------------------------------------------------------------------------------------------
    def element(self, rule: Rule, groups: Groups, counter: Amount | None = None) -> str:
        """The element of a rule in terms of groups' names; `counter` stands for the only group."""
        parts = []
        for group in groups:
            step = rule.step(group[-1]) if group else 0
            if step and counter != ZERO:
                name = group_name(group) if counter is None else str(counter)
                parts.append(name if step == 1 else f"{name} * {step}")
        parts += map(self.whole, rule.terms)
        if rule.tiled is not None:
            row, column, across = rule.tiled
            parts.append(f"{self.use('matrix_word')}({self.whole(row)}, {self.whole(column)}, {across})")
        return " + ".join([*parts, *([str(rule.base)] if rule.base else [])]) or "0"

    def address(self, rule: Rule, groups: Groups, first: Amount) -> str:
        """The address of the element."""
        return f"{self.array(rule.array)}.at({self.element(rule, groups, first)})"

    def place(self, rule: Rule, groups: Groups) -> str:
        """The element as a function of the groups."""
        return function(groups, self.element(rule, groups), rule.indices())

    def word(self, rule: Rule, groups: Groups) -> str:
        """The word that a load gives, its condition included."""
        found = f"{self.array(rule.array)}.whole({self.element(rule, groups)})"
        if rule.when is None:
            return found
        return f"{self.whole(rule.when)} ? {found} : static_cast<int32_t>({bits(rule.fill)})"

    def value(self, rule: Rule, groups: Groups) -> str:
        """The word as a function of the groups."""
        return function(groups, self.word(rule, groups), rule.indices())

    # --- whole pages -----------------------------------------------------------------------------------------------
    def rule(self, load: Load) -> Rule:
        """The rule of a load."""
        return load_rule(self.setting.program.arrays[load.array], load)

    def take(self, page: str, load: Load, indices: Sequence[Index], first: Amount, count: Amount) -> None:
        """Elements first ... of a load, in the order of `indices`, into a page."""
        rule = self.rule(load)
        groups = groups_of(indices, [rule])
        match way_of(groups, rule):
            case "values":
                self.call("take_values", page, first, count, functions=[self.value(rule, groups)], over=groups)
            case "words":
                self.call("copy_words", page, self.address(rule, groups, first), count)
            case "repeats" if len(groups) == 1:
                self.call("fill_words", page, self.word(rule, groups), count)
            case way:
                given = (page, self.array(load.array), first, count)
                self.call(f"take_{way}", *given, functions=[self.place(rule, groups)], over=groups)

    def give(self, rule: Rule, page: str, indices: Sequence[Index], first: Amount, count: Amount) -> None:
        """A page into an array."""
        groups = groups_of(indices, [rule])
        way = way_of(groups, rule)
        if way == "words":
            self.call("copy_words", self.address(rule, groups, first), page, count)
        else:
            given = (self.array(rule.array), page, first, count)
            self.call(f"give_{way}", *given, functions=[self.place(rule, groups)], over=groups)

    def copy(self, target: Rule, load: Load, indices: Sequence[Index], first: Amount, count: Amount) -> None:
        """One array into another."""
        rule, to = self.rule(load), self.array(target.array)
        groups = groups_of(indices, [target, rule])
        match way_of(groups, target, rule):
            case "words":
                there = self.address(target, groups, first)
                self.call("copy_words", there, self.address(rule, groups, first), count)
            case "runs":
                given = [self.place(target, groups), self.place(rule, groups)]
                self.call("copy_runs", to, self.array(load.array), first, count, functions=given, over=groups)
            case _:
                given = [self.place(target, groups), self.value(rule, groups)]
                self.call("set_elements", to, first, count, functions=given, over=groups)

    def set(self, target: Rule, indices: Sequence[Index], first: Amount, count: Amount, n: Node, word: str) -> None:
        """A whole number at each index into an array, worked out one by one; `word` makes its word."""
        groups = singly(indices) or [()]
        given = [self.place(target, groups), function(groups, f"{self.use(word)}({self.whole(n)})", n.free)]
        self.call("set_elements", self.array(target.array), first, count, functions=given, over=groups)


# --- text ------------------------------------------------------------------------------------------------------------
def function(groups: Groups, body: str, used: Collection[Index]) -> str:
    """A place or a value as a lambda over the groups' indices, those that it uses by name."""
    names = (f"int32_t {group_name(g)}" if set(g) & set(used) else "int32_t" for g in groups)
    return f"[&]({', '.join(names)}) {{ return {body}; }}"


def way_of(groups: Groups, *rules: Rule) -> str:
    """How elements are moved: all as they lie, neighbours at once, one by one, or each with its condition."""
    if any(rule.when is not None for rule in rules):
        return "values"
    size, steps = walk.size(groups[-1]), {step_of(rule, groups[-1]) for rule in rules}
    if len(groups) == 1 and (size == 1 or steps == {1}):
        return "words"
    if steps == {0} and (len(groups) == 1 or size >= SHORT):
        return "repeats"
    return "runs" if steps == {1} and size >= SHORT else "elements"


def box(groups: Groups) -> str:
    """The extents that are counted through."""
    return f"Walk<{', '.join(str(walk.size(g)) for g in groups)}>"


def group_name(group: Sequence[Index]) -> str:
    """The name of indices that are counted as one."""
    return "_".join(index_name(i) for i in group) if group else "only"
