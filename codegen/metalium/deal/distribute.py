"""A program dealt out to the cores: which arrays are split, which steps stay on a core, and what is gathered.

Input: a program for one core (arrays unsplit, no `Gather`), the device, how many cores there are at most.
Output: the same steps over arrays with their `split`, a `Gather` before the first step that reads a split array beyond
its own units, and the tensors' `Tiled` filled in.

The work is dealt out forwards: results of streamed products are split, and a step that reads split arrays at its own
units goes on with their split.  A state takes the split of the first step that reads or writes it along with a split
array.  Then backwards: what every core would compute whole though each of its readers wants its own units only is split
too.  Any choice is right, since what does not fit is gathered; a better one gathers less.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count, islice
from math import gcd, prod

from cdrmix.ir.steps import Copy, Extreme, Map, Product, Step
from cdrmix.ir.walk import size

from ..cost.devices import Device
from ..plan import TILE, Fetch, Program, Split, by_owner
from .gathers import with_entries, with_gathers
from .locality import ALIGNED, finest, is_aligned, is_local, loaded, split_of, stays, used
from .streams import deal, fill

SMALL = 1024
"""Elements that one tile of the vector unit holds: as much as one core does in the time of one element."""

MANY = 4
"""Tile products from which on a product is dealt out though every core has its factors."""

ROUNDS = 4
"""How often the deal is done over with what the last one taught, at most, besides once for each state."""

DEALT = Map | Copy | Product | Extreme
"""The steps that cores can share; a `TopK`, say, is done by each of them."""


def distribute(program: Program, device: Device, cores: int, spread: bool = False) -> Program:
    """The program over at most `cores` cores; with `spread`, no state is held by every core that can be split."""
    if cores == 1:
        return _filled(program, {}, program.steps)
    if spread:
        program = with_entries(program)
    most = ROUNDS + sum(a.memory == "state" for a in program.arrays.values())
    fixed: dict[str, Split | None] = {}
    before: dict[str, Split | None] = {}
    for round_ in count():
        found = _Deal(program, device, cores, spread, dict(fixed), before)
        found.forwards()
        again = found.wrong() or (found.better_states() if round_ < most else {})
        if not again and (found.splits == before or round_ >= most):
            break
        fixed, before = fixed | again, found.splits
    found.backwards()
    splits = {name: split for name, split in found.splits.items() if split is not None}
    arrays, steps = with_gathers(program, splits)
    return _filled(replace(program, arrays=arrays), splits, steps)


def _filled(program: Program, splits: Mapping[str, Split], steps: tuple[Step, ...]) -> Program:
    """The program with its splits written in."""
    arrays = {n: replace(a, split=splits[n]) if n in splits else a for n, a in program.arrays.items()}
    tensors = dict(program.tensors)
    for step in steps:
        if isinstance(step, Product) and step.streamed:
            tensor = tensors[step.streamed]
            assert tensor.tiled is not None, tensor.name
            filled = fill(tensor.tiled, tensor.shape, splits.get(step.outs[0]))
            tensors[tensor.name] = replace(tensor, tiled=filled)
    cores = max((used(split) for split in splits.values()), default=1)
    return replace(program, arrays=arrays, tensors=tensors, steps=steps, cores=cores)


@dataclass(slots=True)
class _Deal:
    """The splits found so far.  `fixed` are those settled by earlier rounds, `before` all that the last one found."""

    program: Program
    device: Device
    cores: int
    spread: bool
    fixed: dict[str, Split | None]
    before: Mapping[str, Split | None]
    splits: dict[str, Split | None] = field(default_factory=dict)
    readers: dict[str, list[Step]] = field(default_factory=lambda: defaultdict(list))
    writers: dict[str, list[Step]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for step in self.program.steps:
            for name in loaded(step):
                self.readers[name].append(step)
            for name in step.parts.outs:
                self.writers[name].append(step)
        self.splits.update(self.fixed)

    # --- forwards --------------------------------------------------------------------------------------------------
    def forwards(self) -> None:
        """Settle the split of every step's results, in order."""
        for step in self.program.steps:
            split = self.of(step)
            for name in step.parts.outs:
                self.splits.setdefault(name, split)
            for name in loaded(step):
                if self.is_open(name):
                    self.splits[name] = split if split and self.stays(step, name, split) else None

    def is_open(self, name: str) -> bool:
        """Whether it is a state whose split is still to be found."""
        return self.program.arrays[name].memory == "state" and name not in self.splits

    def of(self, step: Step) -> Split | None:
        """The split of a step's results: what is settled, the stream's, or that of the most it reads."""
        settled = [self.splits[name] for name in step.parts.outs if name in self.splits]
        if settled:
            return settled[0]
        if isinstance(step, Product) and step.streamed:
            return self.of_stream(step, step.streamed)
        among = self.candidates(step)
        if among:
            return max(among, key=lambda s: (among[s], used(s)))
        found = [self.finest(step, name) for name in loaded(step) if self.is_open(name)]
        units = gcd(*(u for u in found if 1 < u < size(step.parts.space)))  # places of a row, not each element its own
        if units < 2 and isinstance(step, Product) and tile_products(step) >= MANY:
            units = size(step.lead)
        split = split_of(units, self.cores) if units > 1 else None
        return split if split and self.fits(step, split) else None

    def candidates(self, step: Step) -> dict[Split, int]:
        """The splits of what a step reads at its own units, and how many elements there are of each."""
        found: dict[Split, int] = {}
        for name in loaded(step):
            split = self.splits.get(name)
            if self.spread and self.program.arrays[name].memory == "state" and not self.wants_units(step):
                continue  # the state is gathered once, rather than each value that is made of it
            if split is not None and self.fits(step, split) and self.stays(step, name, split):
                found[split] = found.get(split, 0) + prod(self.program.arrays[name].shape)
        return found

    def of_stream(self, step: Product, tensor: str) -> Split:
        """The split of a streamed product's results; products of one tensor have one."""
        same = [s for s in self.program.steps if isinstance(s, Product) and s.streamed == tensor]
        if settled := [split for s in same for name in s.outs if (split := self.splits.get(name))]:
            return settled[0]
        wanted = [units for s in same for name in s.outs for units in self.wanted(name, set())]
        return deal(step, self.program.tensors[tensor], wanted, self.cores, self.device)

    def wanted(self, name: str, seen: set[str]) -> Iterator[int]:
        """The units in which an array's readers read it, or what they make of it element by element."""
        seen.add(name)
        for step in self.readers[name]:
            units = self.finest(step, name)
            if units == prod(self.program.arrays[name].shape):
                others = self.before.get(step.parts.outs[0])
                if others is not None:
                    yield others.lead
                for out in step.parts.outs:
                    if out not in seen:
                        yield from self.wanted(out, seen)
            elif units > 1:
                yield units

    def wants_units(self, step: Step) -> bool:
        """Whether the results of a step are wanted in units by any of their readers."""
        return any(True for name in step.parts.outs for _ in self.wanted(name, set()))

    def finest(self, step: Step, name: str) -> int:
        """The most units in which a step can be dealt out and then reads an array in its own unit."""
        if not isinstance(step, DEALT) or isinstance(step, Product) and step.streamed:
            return 1
        whole, out = lead_of(step), self.program.arrays[step.parts.outs[0]]
        if out.layout == "tiles":
            whole = gcd(whole, prod(out.shape[:-2]))
        return min(finest(step.parts.space, load, whole) for load in step.parts.loads if load.array == name)

    # --- what may be split so --------------------------------------------------------------------------------------
    def fits(self, step: Step, split: Split) -> bool:
        """Whether a step is worth dealing out so, whatever it reads."""
        if used(split) == 1 and size(step.parts.space) > SMALL:
            return False  # a small array on one core is gathered rather than followed
        return self.can_be_dealt(step, split)

    def can_be_dealt(self, step: Step, split: Split) -> bool:
        """Whether each core can make its own units of what a step makes."""
        out = self.program.arrays[step.parts.outs[0]]
        if isinstance(step, Fetch):
            return is_aligned(prod(out.shape), split)
        if by_owner(step, out):
            return out.shape[0] % split.lead == 0
        if not isinstance(step, DEALT) or lead_of(step) % split.lead or not self.can_be_split(out.name, split):
            return False
        place = getattr(step, "place", None)
        return place is None or is_local(step.parts.space, out.shape, place, split.lead)

    def can_be_split(self, name: str, split: Split) -> bool:
        """Whether an array has such units: tiles are split along the axes before their rows and columns."""
        array = self.program.arrays[name]
        front = array.shape if array.layout == "flat" else array.shape[:-2]
        return array.dtype == "f32" and prod(front) % split.lead == 0

    def stays(self, step: Step, name: str, split: Split) -> bool:
        """Whether a step that is dealt out so reads an array of the same split at its own units only."""
        return self.can_be_split(name, split) and stays(step, name, split, self.program.arrays)

    # --- what a round teaches the next -----------------------------------------------------------------------------
    def wrong(self) -> dict[str, Split | None]:
        """What cannot be split as it was found: the next round begins with it whole."""
        found = (n for n, split in self.splits.items() if split is not None and not self.may_be(n, split))
        return dict.fromkeys(islice(found, 1))

    def better_states(self) -> dict[str, Split | None]:
        """A state that every core holds and that is better split; the next round begins with it."""
        for name, array in self.program.arrays.items():
            whole = array.memory == "state" and name not in self.fixed and self.splits.get(name) is None
            if whole and (split := self.better(name)):
                return {name: split}
        return {}

    def may_be(self, name: str, split: Split) -> bool:
        """Whether all writers of an array can be dealt out so, and its readers too where it cannot be gathered."""
        if any(isinstance(s, Product) and s.streamed for s in self.writers[name]):
            return True
        if self.program.arrays[name].layout == "tiles" and not self.all_stay(name, split):
            return False
        return all(self.can_be_dealt(s, split) for s in self.writers[name])

    def all_stay(self, name: str, split: Split) -> bool:
        """Whether every reader has the array's split and stays in its units."""
        return all(self.splits_of(s) == split and self.stays(s, name, split) for s in self.readers[name])

    def splits_of(self, step: Step) -> Split | None:
        """The settled split of a step's results."""
        return next((self.splits.get(name) for name in step.parts.outs), None)

    def better(self, name: str) -> Split | None:
        """A split for a state that every core holds so far."""
        array, updates = self.program.arrays[name], self.writers[name]
        if self.spread and array.layout == "flat" and array.dtype == "f32":
            rows, row = array.shape[0], prod(array.shape[1:])
            if any(by_owner(s, array) for s in updates):
                split = split_of(rows, self.cores, ALIGNED // gcd(ALIGNED, row))
            else:
                split = split_of(rows * row, self.cores, TILE)
            return split if used(split) > 1 and all(self.can_be_dealt(s, split) for s in updates) else None
        if prod(array.shape) <= SMALL:
            return None
        del self.splits[name]
        among = {split: n for s in updates for split, n in self.candidates(s).items()}
        self.splits[name] = None
        for split in sorted(among, key=lambda s: -among[s]):
            if all(self.fits(s, split) and self.stays(s, name, split) for s in self.readers[name]):
                return split
        return None

    # --- backwards -------------------------------------------------------------------------------------------------
    def backwards(self) -> None:
        """Split what every core would hold whole though all its readers want their own units."""
        for name in dict.fromkeys(name for step in reversed(self.program.steps) for name in step.parts.outs):
            if self.splits.get(name) is None and name not in self.fixed:
                among = {self.splits_of(s) for s in self.readers[name]}
                split = among.pop() if len(among) == 1 else None
                if split and self.all_stay(name, split) and self.may_be(name, split):
                    self.splits[name] = split


def tile_products(step: Product) -> int:
    """How many tiles a product of arrays multiplies."""
    across = (step.rows, step.columns, step.k)
    return size(step.lead) * prod(-(-size(indices) // TILE) for indices in across)


def lead_of(step: Step) -> int:
    """How many units a step can be dealt out in: a product of arrays by the first of its axes, all else by element."""
    if isinstance(step, Product):
        return next((n for n in map(size, (step.lead, step.rows, step.columns)) if n > 1), 1)
    return size(step.parts.space)
