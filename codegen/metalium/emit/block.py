"""Lines of the writer: elements between arrays and pages, as calls of the library's `take_*`, `give_*` and `copy_*`.

Input: places of loads and stores over the indices of a step, and whole numbers (IR expressions of constants, indices,
integer arithmetic and reads of i32 arrays).
Output: C++ lines, and the headers that they call.  Runs of neighbours are copied as runs, repeated numbers are read
once, the rest goes one by one.  Whole numbers are int32_t; division rounds down as in the spec.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from cdrmix.ir import walk
from cdrmix.ir.nodes import Index, Node
from cdrmix.ir.places import bounds, regular, strides, terms_of
from cdrmix.ir.steps import Load

from .amounts import ZERO, Amount
from .buffers import Setting
from .names import index_name
from .places import Rule, groups_of, load_rule, step_of
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

_INFIX = {"add": "+", "sub": "-", "mul": "*", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
          "and": "&&", "or": "||"}  # fmt: skip
_CALLS = {"max": "larger_whole", "min": "smaller_whole", "floordiv": "floor_div", "mod": "floor_mod",
          "pow": "whole_power"}  # fmt: skip
_PLAIN = {"floordiv": "/", "mod": "%"}


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

    def open(self, head: str) -> None:
        """Begin a loop or a condition."""
        self.put(f"{head} {{" if head else "{")
        self.depth += 1

    def open_each(self, groups: Groups, first: Amount, count: Amount) -> None:
        """Begin a function of each element; its end takes `");"` behind the brace."""
        names = ", ".join(f"int32_t {group_name(g)}" if g else "int32_t" for g in groups)
        head = f"{self.use('each_element')}<{box(groups)}>({first}, {count}"
        self.broken(head, f"[&]({names})", end=" {")
        self.depth += 1

    def close(self, times: int = 1, end: str = "}") -> None:
        """End as many."""
        for left in range(times, 0, -1):
            self.depth -= 1
            self.put("}" if left > 1 else end)

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
        if n.op in _INFIX:
            return f"({args[0]} {_INFIX[n.op]} {args[1]})"
        if n.op in _PLAIN and n.args[1].op == "const" and n.args[1].arg > 0 and bounds(n.args[0])[0] >= 0:
            return f"({args[0]} {_PLAIN[n.op]} {args[1]})"
        if n.op in _CALLS:
            return f"{self.use(_CALLS[n.op])}({args[0]}, {args[1]})"
        match n.op:
            case "neg":
                return f"(-{args[0]})"
            case "not":
                return f"(!{args[0]})"
            case "abs":
                return f"{self.use('larger_whole')}({args[0]}, -{args[0]})"
            case "sign":
                return f"(({args[0]} > 0) - ({args[0]} < 0))"
            case "select":
                return f"({args[0]} ? {args[1]} : {args[2]})"
        raise ValueError(f"`{n.op}` is no operation of whole numbers")

    def read(self, n: Node) -> str:
        """An element of an array of whole numbers."""
        base, steps, terms = regular(terms_of(n.args, strides([a.size for a in n.arg.view])))
        parts = [scaled(index_name(i), s) for i, s in steps.items() if s and i.axis.size > 1]
        return f"{self.array(n.arg.ref.name)}.whole({joined([*parts, *map(self.whole, terms)], base)})"

    # --- elements --------------------------------------------------------------------------------------------------
    def element(self, rule: Rule, groups: Groups, counter: Amount | None = None) -> str:
        """The element of a rule in terms of groups' names; `counter` stands for the only group."""
        parts = []
        for group in groups:
            step = rule.steps.get(group[-1], 0) if group else 0
            if step and counter != ZERO:
                parts.append(scaled(group_name(group) if counter is None else str(counter), step))
        parts += map(self.whole, rule.terms)
        if rule.tiled is not None:
            row, column, across = rule.tiled
            parts.append(f"{self.use('matrix_word')}({self.whole(row)}, {self.whole(column)}, {across})")
        return joined(parts, rule.base)

    def place(self, rule: Rule, groups: Groups) -> str:
        """The element as a function of the groups."""
        return function(groups, self.element(rule, groups), rule.indices())

    def word(self, load: Load, rule: Rule, groups: Groups) -> str:
        """The word that a load gives, its condition included."""
        found = f"{self.array(load.array)}.whole({self.element(rule, groups)})"
        if load.when is None:
            return found
        return f"{self.whole(load.when)} ? {found} : static_cast<int32_t>({bits(load.fill)})"

    def value(self, load: Load, rule: Rule, groups: Groups) -> str:
        """The word as a function of the groups."""
        return function(groups, self.word(load, rule, groups), {*rule.indices(), *condition(load)})

    # --- whole pages -----------------------------------------------------------------------------------------------
    def take(self, page: str, load: Load, indices: Sequence[Index], first: Amount, count: Amount) -> None:
        """Elements first ... of a load, in the order of `indices`, into a page."""
        rule = load_rule(self.setting.program.arrays[load.array], load)
        name = self.array(load.array)
        groups = groups_of(indices, [rule], condition(load))
        step = step_of(rule, groups[-1])
        if load.when is not None:
            self.call("take_values", page, first, count, functions=[self.value(load, rule, groups)], over=groups)
        elif alone(groups, rule):
            self.call("copy_words", page, f"{name}.at({self.element(rule, groups, first)})", count)
        elif len(groups) == 1 and step == 0:
            self.call("fill_words", page, f"{name}.whole({self.element(rule, groups)})", count)
        else:
            long = walk.size(groups[-1]) >= SHORT
            way = "runs" if step == 1 and long else "repeats" if step == 0 and long else "elements"
            self.call(f"take_{way}", page, name, first, count, functions=[self.place(rule, groups)], over=groups)

    def give(self, rule: Rule, page: str, indices: Sequence[Index], first: Amount, count: Amount) -> None:
        """A page into an array."""
        name, groups = self.array(rule.array), groups_of(indices, [rule])
        if alone(groups, rule):
            self.call("copy_words", f"{name}.at({self.element(rule, groups, first)})", page, count)
            return
        way = "runs" if step_of(rule, groups[-1]) == 1 and walk.size(groups[-1]) >= SHORT else "elements"
        self.call(f"give_{way}", name, page, first, count, functions=[self.place(rule, groups)], over=groups)

    def copy(self, target: Rule, load: Load, indices: Sequence[Index], first: Amount, count: Amount) -> None:
        """One array into another."""
        rule = load_rule(self.setting.program.arrays[load.array], load)
        to, origin = self.array(target.array), self.array(load.array)
        groups = groups_of(indices, [target, rule], condition(load))
        if load.when is None and alone(groups, target) and alone(groups, rule):
            there, here = self.element(target, groups, first), self.element(rule, groups, first)
            self.call("copy_words", f"{to}.at({there})", f"{origin}.at({here})", count)
            return
        there = self.place(target, groups)
        runs = {step_of(target, groups[-1]), step_of(rule, groups[-1])} == {1} and walk.size(groups[-1]) >= SHORT
        if load.when is None and runs:
            here = self.place(rule, groups)
            self.call("copy_runs", to, origin, first, count, functions=[there, here], over=groups)
        else:
            given = [there, self.value(load, rule, groups)]
            self.call("set_elements", to, first, count, functions=given, over=groups)

    def set(self, target: Rule, indices: Sequence[Index], first: Amount, count: Amount, n: Node, word: str) -> None:
        """A whole number at each index into an array, worked out one by one; `word` makes its word."""
        groups = groups_of(indices, [target], indices)
        given = [self.place(target, groups), function(groups, f"{self.use(word)}({self.whole(n)})", n.free)]
        self.call("set_elements", self.array(target.array), first, count, functions=given, over=groups)


# --- text ------------------------------------------------------------------------------------------------------------
def condition(load: Load) -> tuple[Index, ...]:
    """The indices that say whether an element is there."""
    return load.when.free if load.when is not None else ()


def function(groups: Groups, body: str, used: Collection[Index]) -> str:
    """A place or a value as a lambda over the groups' indices, those that it uses by name."""
    names = (f"int32_t {group_name(g)}" if set(g) & set(used) else "int32_t" for g in groups)
    return f"[&]({', '.join(names)}) {{ return {body}; }}"


def alone(groups: Groups, rule: Rule) -> bool:
    """Whether all elements lie side by side in the order in which they are counted."""
    return len(groups) == 1 and (walk.size(groups[0]) == 1 or step_of(rule, groups[0]) == 1)


def box(groups: Groups) -> str:
    """The extents that are counted through."""
    return f"Walk<{', '.join(str(walk.size(g)) for g in groups)}>"


def group_name(group: Sequence[Index]) -> str:
    """The name of indices that are counted as one."""
    return "_".join(index_name(i) for i in group) if group else "only"


def scaled(name: str, step: int) -> str:
    """An index times a step."""
    return name if step == 1 else f"{name} * {step}"


def joined(parts: Iterable[str], base: int) -> str:
    """A sum as text."""
    return " + ".join([*parts, *([str(base)] if base else [])]) or "0"
