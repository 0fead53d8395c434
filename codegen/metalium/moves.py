"""Moving elements between arrays and pages, as calls of the library's `take_*`, `give_*` and `copy_*`.

Input: rules of loads and stores over the indices of a step.
Output: C++ lines.  Runs of neighbours are copied as runs, repeated numbers are read once, the rest goes one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

from cdrmix.ir import walk
from cdrmix.ir.nodes import Index, Node

from .integers import whole
from .plan import Array, Load, Split
from .registers import bits
from .rules import Rule, extent, groups_of, load_rule, regular, step_of, terms_of
from .setting import Setting, index_name, share_name, words

SHORT = 4
"""Runs of fewer elements are copied one by one: asking for each is no more work than a call."""

WIDTH = 112
"""Columns of a line within `kernel_main`."""

Groups = Sequence[tuple[Index, ...]]


class Block:
    """The lines of one step: what it works out once comes first."""

    def __init__(self, setting: Setting):
        self.setting = setting
        self.before: list[str] = []
        self.lines: list[str] = []
        self.depth = 0
        self.hoisted: dict[Node, str] = {}

    def put(self, *lines: str) -> None:
        """Lines at the present depth; of one that is too long, each argument that is a function gets its own."""
        for line in lines:
            parts = line.split(", [&](") if len(line) + 4 * self.depth > WIDTH else [line]
            self.lines.append("    " * self.depth + parts[0] + ("," if len(parts) > 1 else ""))
            for number, part in enumerate(parts[1:], 2):
                self.lines.append("    " * (self.depth + 1) + f"[&]({part}" + ("," if number < len(parts) else ""))

    def open(self, head: str) -> None:
        """Begin a loop or a condition."""
        self.put(f"{head} {{".lstrip())
        self.depth += 1

    def close(self, times: int = 1) -> None:
        """End as many."""
        for _ in range(times):
            self.depth -= 1
            self.put("}")

    def text(self) -> list[str]:
        """All lines; in braces where something was named."""
        if not self.before:
            return self.lines
        return ["{", *(f"    {line}" for line in (*self.before, *self.lines)), "}"]

    # --- names -----------------------------------------------------------------------------------------------------
    def array(self, name: str) -> str:
        """An array's C++ name."""
        return self.setting.names[name]

    def name(self, n: Node) -> str | None:
        """The text of a leaf; what reads something and does not depend on the step's indices is named in front."""
        if n.op == "index":
            return index_name(n.arg) if n.arg.axis.size > 1 else "0"
        if not n.free and any(True for _ in walk.reads(n)):
            if n not in self.hoisted:
                found = self.read(n) if n.op == "read" else whole(n, lambda m: None if m is n else self.name(m))
                self.hoisted[n] = f"place{len(self.hoisted)}"
                self.before.append(f"const int32_t {self.hoisted[n]} = {found};")
            return self.hoisted[n]
        return self.read(n) if n.op == "read" else None

    def read(self, n: Node) -> str:
        """An element of an array of whole numbers."""
        array = self.setting.program.arrays[n.arg.ref.name]
        sizes = [a.size for a in n.arg.view]
        base, steps, terms = regular(terms_of(n.args, [prod(sizes[p + 1 :]) for p in range(len(sizes))]))
        parts = [self.scaled(index_name(i), s) for i, s in steps.items() if s and i.axis.size > 1]
        parts += [whole(t, self.name) for t in terms]
        return f"{self.array(array.name)}.whole({joined(parts, base)})"

    # --- elements --------------------------------------------------------------------------------------------------
    def scaled(self, name: str, step: int) -> str:
        """An index times a step."""
        return name if step == 1 else f"{name} * {step}"

    def element(self, rule: Rule, groups: Groups, counter: str | None = None) -> str:
        """The element of a rule in terms of groups' names; `counter` stands for the only group."""
        parts = []
        for group in groups:
            step = rule.steps.get(group[-1], 0) if group else 0
            if step and counter != "0":
                parts.append(self.scaled(counter or group_name(group), step))
        parts += [whole(t, self.name) for t in rule.terms]
        if rule.tiled is not None:
            row, column, across = rule.tiled
            parts.append(f"matrix_word({whole(row, self.name)}, {whole(column, self.name)}, {across})")
        return joined(parts, rule.base)

    def function(self, groups: Groups, body: str) -> str:
        """A rule or a value as a lambda over the groups' indices."""
        names = [group_name(g) for g in groups]
        given = ", ".join(f"int32_t {n}" if mentions(body, n) else "int32_t" for n in names)
        return f"[&]({given}) {{ return {body}; }}"

    def word(self, load: Load, rule: Rule, groups: Groups) -> str:
        """The word that a load gives, its condition included."""
        found = f"{self.array(load.array)}.whole({self.element(rule, groups)})"
        if load.when is None:
            return found
        return f"{whole(load.when, self.name)} ? {found} : static_cast<int32_t>({bits(load.fill)})"

    # --- whole pages -----------------------------------------------------------------------------------------------
    def take(self, page: str, load: Load, indices: Sequence[Index], first: str, count: str) -> None:
        """Elements first ... of a load, in the order of `indices`, into a page."""
        rule = load_rule(self.setting.program.arrays[load.array], load)
        name = self.array(load.array)
        if load.when is not None:
            groups = groups_of(indices, [rule], load.when.free)
            body = self.function(groups, self.word(load, rule, groups))
            self.put(f"take_values<{box(groups)}>({page}, {first}, {count}, {body});")
            return
        groups = groups_of(indices, [rule])
        step = step_of(rule, groups[-1])
        if alone(groups, rule):
            self.put(f"copy_words({page}, {name}.at({self.element(rule, groups, first)}), {count});")
        elif len(groups) == 1 and step == 0:
            self.put(f"fill_words({page}, {name}.whole({self.element(rule, groups)}), {count});")
        else:
            long = extent(groups[-1]) >= SHORT
            way = "runs" if step == 1 and long else "repeats" if step == 0 and long else "elements"
            body = self.function(groups, self.element(rule, groups))
            self.put(f"take_{way}<{box(groups)}>({page}, {name}, {first}, {count}, {body});")

    def give(self, rule: Rule, page: str, indices: Sequence[Index], first: str, count: str) -> None:
        """A page into an array."""
        name, groups = self.array(rule.array), groups_of(indices, [rule])
        if alone(groups, rule):
            self.put(f"copy_words({name}.at({self.element(rule, groups, first)}), {page}, {count});")
            return
        way = "runs" if step_of(rule, groups[-1]) == 1 and extent(groups[-1]) >= SHORT else "elements"
        body = self.function(groups, self.element(rule, groups))
        self.put(f"give_{way}<{box(groups)}>({name}, {page}, {first}, {count}, {body});")

    def copy(self, target: Rule, load: Load, indices: Sequence[Index], first: str, count: str) -> None:
        """One array into another."""
        rule = load_rule(self.setting.program.arrays[load.array], load)
        to, origin = self.array(target.array), self.array(load.array)
        kept = load.when.free if load.when is not None else ()
        groups = groups_of(indices, [target, rule], kept)
        if load.when is None and alone(groups, target) and alone(groups, rule):
            there, here = self.element(target, groups, first), self.element(rule, groups, first)
            self.put(f"copy_words({to}.at({there}), {origin}.at({here}), {count});")
            return
        there = self.function(groups, self.element(target, groups))
        runs = {step_of(target, groups[-1]), step_of(rule, groups[-1])} == {1} and extent(groups[-1]) >= SHORT
        if load.when is None and runs:
            here = self.function(groups, self.element(rule, groups))
            self.put(f"copy_runs<{box(groups)}>({to}, {origin}, {first}, {count}, {there}, {here});")
        else:
            self.set(target, indices, first, count, self.word(load, rule, groups), groups)

    def set(
        self, target: Rule, indices: Sequence[Index], first: str, count: str, value: str, groups: Groups | None = None
    ) -> None:
        """Values that are worked out one by one into an array; `value` is in terms of single indices or of `groups`."""
        groups = groups_of(indices, [target], indices) if groups is None else groups
        there = self.function(groups, self.element(target, groups))
        given = self.function(groups, value)
        self.put(f"set_elements<{box(groups)}>({self.array(target.array)}, {first}, {count}, {there}, {given});")


def alone(groups: Groups, rule: Rule) -> bool:
    """Whether all elements lie side by side in the order in which they are counted."""
    return len(groups) == 1 and (extent(groups[0]) == 1 or step_of(rule, groups[0]) == 1)


def box(groups: Groups) -> str:
    """The extents that are counted through."""
    return f"Walk<{', '.join(str(extent(g)) for g in groups)}>"


def group_name(group: Sequence[Index]) -> str:
    """The name of indices that are counted as one."""
    return "_".join(index_name(i) for i in group) if group else "only"


def mentions(body: str, name: str) -> bool:
    """Whether a name stands in C++ text."""
    tokens = "".join(c if c.isalnum() or c == "_" else " " for c in body).split()
    return name in tokens


def joined(parts: Iterable[str], base: int) -> str:
    """A sum as text."""
    found = [*parts, *([str(base)] if base else [])]
    return " + ".join(found) or "0"


def own_elements(array: Array) -> tuple[str, str]:
    """First element and number of elements of an array that a core holds, as text; of tiles, words."""
    return portion(words(array), array.split)


def portion(total: int, split: Split | None) -> tuple[str, str]:
    """First and number of a core's part of `total` things that a split deals out evenly."""
    if split is None:
        return "0", str(total)
    unit = total // split.lead
    share = share_name(split)
    times = "" if unit == 1 else f" * {unit}"
    return f"{share}.first{times}", f"{share}.count{times}"
