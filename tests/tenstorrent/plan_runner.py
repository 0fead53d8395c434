"""A plan run by numpy, every core with arrays of its own: what the kernels must compute.

Input: a `ModelPlan`, its model and the weights by owner path.
Output: logits, and the state in the interpreter's form.

A core reads only what it holds, scratch memory begins as NaN, and a read outside an array is an error.  In float64 the
plan's arithmetic is exact, so that a mistake cannot hide; in float32 products see what the matrix unit sees: factors
cut to TF32, streamed weights in planes of bf16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from cdrmix.codegen.metalium import plan

from cdrmix.ir import layout
from cdrmix.ir import steps as form
from cdrmix.ir.interp import Interpreter
from cdrmix.ir.nodes import Index, Model, Node
from cdrmix.ir.ops import OPS

Array = Any
UNSET = -(1 << 40)


def tf32(x: Array) -> Array:
    """What the matrix unit multiplies exactly: nine bits behind the point, the rest cut off."""
    cut = (np.asarray(x, np.float32).view(np.uint32) & np.uint32(0xFFFFC000)).view(np.float32)
    return np.where(np.isfinite(x), cut, x).astype(np.asarray(x).dtype)


def nearest(x: Array, bits: int) -> Array:
    """Numbers rounded to the nearest with so many mantissa bits (10: TF32, 7: bf16)."""
    drop = 23 - bits
    raw = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    raw = raw + (1 << (drop - 1)) - 1 + ((raw >> drop) & 1)
    return ((raw >> drop) << drop).astype(np.uint32).view(np.float32)


class Core:
    """One core: what it holds of each array of a program, flat."""

    def __init__(self, number: int, program: plan.Program, dtype: type):
        self.number, self.program, self.dtype = number, program, dtype
        self.held: dict[str, Array] = {}
        for name, array in program.arrays.items():
            first, end = self.span(array)
            kind = np.int64 if array.dtype == "i32" else dtype
            self.held[name] = np.full(end - first, UNSET if array.dtype == "i32" else np.nan, kind)

    def span(self, array: plan.Array) -> tuple[int, int]:
        """The elements that the core holds."""
        size = prod(array.shape)
        if array.split is None:
            return 0, size
        lead, each = array.split.lead, array.split.each
        assert size % lead == 0, f"{array.name}: {lead} units do not divide {array.shape}"
        unit = size // lead
        return min(lead, self.number * each) * unit, min(lead, (self.number + 1) * each) * unit

    # --- elements --------------------------------------------------------------------------------------------------
    def points(self, indices: Sequence[Index]) -> dict[Index, Array]:
        """All values of the indices together, flat."""
        shape = [i.axis.size for i in indices]
        grid = np.indices(shape).reshape(len(shape), -1) if shape else np.zeros((0, 1), np.int64)
        return {i: grid[p] for p, i in enumerate(indices)} if shape else {None: np.zeros(1, np.int64)}  # type: ignore[dict-item]

    def whole(self, n: Node, at: Mapping[Index, Array]) -> Array:
        """A whole number at each point."""
        match n.op:
            case "const":
                assert not isinstance(n.arg, float), n
                return np.asarray(int(n.arg))
            case "index":
                return at[n.arg]
            case "read":
                flat = self.flat([a.size for a in n.arg.view] or [1], [self.whole(a, at) for a in n.args] or [0])
                found = self.take(n.arg.ref.name, flat)
                assert found.dtype == np.int64, f"{n.arg.ref.name} is no array of whole numbers"
                return found
        assert OPS[n.op].kind == "elementwise", f"`{n.op}` in an address"
        return np.asarray(OPS[n.op].numpy(*[self.whole(a, at) for a in n.args]))  # type: ignore[misc]

    def flat(self, view: Sequence[int], places: Sequence[Array]) -> Array:
        """The flat number of an element seen under a view."""
        assert len(view) == len(places), (view, places)
        found: Array = np.asarray(0)
        for size, place in zip(view, places, strict=True):
            assert np.all((np.asarray(place) >= 0) & (np.asarray(place) < size)), f"place {place} of {size}"
            found = found * size + place
        return found

    def take(self, name: str, flat: Array) -> Array:
        """Elements of an array by their numbers."""
        first, end = self.span(self.program.arrays[name])
        assert np.all((flat >= first) & (flat < end)), f"{name}: core {self.number} reads what it does not hold"
        return self.held[name][np.asarray(flat) - first]

    def load(self, load: form.Load, at: Mapping[Index, Array]) -> Array:
        """A load at each point."""
        array, size = self.program.arrays[load.array], len(next(iter(at.values())))
        assert prod(load.view) == prod(array.shape), f"{load.array} {array.shape} is seen as {load.view}"
        there = np.ones(size, bool)
        if load.when is not None:
            there = np.broadcast_to(self.whole(load.when, at).astype(bool), size)
        kept = {i: v[there] for i, v in at.items()}
        places = [self.whole(n, kept) for n in load.at]
        flat = np.broadcast_to(self.flat(load.view, places), int(there.sum()))
        taken = self.take(load.array, flat)
        found = np.full(size, load.fill, taken.dtype)
        found[there] = taken
        return found

    def store(self, name: str, flat: Array, values: Array) -> None:
        """Elements into an array, by their numbers; all are the core's own."""
        first, _ = self.span(self.program.arrays[name])
        self.held[name][flat - first] = values

    def mine(
        self, name: str, indices: Sequence[Index], place: tuple[Node, ...] | None
    ) -> tuple[Array, dict[Index, Array]]:
        """The numbers of the elements that a step writes on this core, and the points at which."""
        array = self.program.arrays[name]
        at = self.points(indices)
        if place is None:
            assert prod(array.shape) == prod(i.axis.size for i in indices), f"{name} {array.shape} over {indices}"
            flat = np.arange(prod(array.shape))
        else:
            flat = np.broadcast_to(
                self.flat(array.shape, [self.whole(n, at) for n in place]), len(next(iter(at.values())))
            )
        first, end = self.span(array)
        own = (flat >= first) & (flat < end)
        return flat[own], {i: v[own] for i, v in at.items()}


_POWERS = {"tf32": tf32}


def value(e: Node, loads: Sequence[Array], dtype: type) -> Array:
    """An expression of loads."""
    if e.op == "operand":
        return loads[e.arg]
    if e.op == "const":
        return np.asarray(e.arg, dtype)
    args = [value(a, loads, dtype) for a in e.args]
    compute = _POWERS.get(e.op) or OPS[e.op].numpy
    if e.op == "select":
        args[0] = args[0] != 0
    if e.op in ("and", "or", "not"):
        args = [a != 0 for a in args]
    return np.asarray(compute(*args)).astype(dtype)  # type: ignore[misc]


class PlanRunner:
    """Runs a plan; see the module."""

    def __init__(self, planned: plan.ModelPlan, model: Model, weights: Mapping[str, Array], dtype: type = np.float64):
        self.plan, self.model, self.dtype = planned, model, dtype
        self.weights = {w.path: np.asarray(weights[w.owner]) for w in layout.weights(model) if w.owner == w.path}
        self.start_state = Interpreter(model, weights).start()
        self.tensors: dict[str, Array] = {}
        self.kept: dict[str, list[dict[str, Array]]] = {}
        self.pos = 0
        self.put(self.start_state)

    # --- the state -------------------------------------------------------------------------------------------------
    def put(self, state: Mapping[str, Array]) -> None:
        """Take a state in the interpreter's form."""
        self.pos = int(state["pos"])
        for call in self.plan.calls:
            program = self.plan.programs[call.program]
            cores = [Core(c, program, self.dtype) for c in range(program.cores)]
            self.kept[call.path] = [{} for _ in cores]
            for r in call.state:
                array = program.arrays[r.array]
                found = np.asarray(state[r.slot], np.float64)
                if r.ring:
                    window = len(found) + 1
                    ring = np.full((window, *found.shape[1:]), np.nan)
                    for age in range(int(state[f"{r.slot}.count"])):
                        ring[(self.pos - 1 - age) % window] = found[age]
                    found = ring
                assert found.size == prod(array.shape), f"{r.slot} {found.shape} in {array}"
                for core, kept in zip(cores, self.kept[call.path], strict=True):
                    first, end = core.span(array)
                    kept[r.array] = found.ravel()[first:end].astype(self.dtype)

    def state(self) -> dict[str, Array]:
        """The state in the interpreter's form."""
        found: dict[str, Array] = {"pos": np.asarray(self.pos)}
        where = {r.slot: (call, r) for call in self.plan.calls for r in call.state}
        for slot in layout.slots(self.model):
            if slot.kind == "history" and slot.shape[0] == 0:
                found[slot.path], found[f"{slot.path}.count"] = np.zeros(slot.shape), np.asarray(0)
                continue
            call, r = where[slot.path]
            program = self.plan.programs[call.program]
            array = program.arrays[r.array]
            flat = np.full(prod(array.shape), np.nan)
            for c, kept in enumerate(self.kept[call.path]):
                first, end = Core(c, program, self.dtype).span(array)
                flat[first:end] = kept[r.array]
            if not r.ring:
                found[slot.path] = flat.reshape(slot.shape)
                continue
            window = slot.shape[0] + 1
            ring, past = flat.reshape(window, *slot.shape[1:]), np.zeros(slot.shape)
            count = min(self.pos, window - 1)
            for age in range(count):
                past[age] = ring[(self.pos - 1 - age) % window]
            found[slot.path], found[f"{slot.path}.count"] = past, np.asarray(count)
        return found

    # --- tokens ----------------------------------------------------------------------------------------------------
    @np.errstate(all="ignore")
    def step(self, token: int | Array) -> Array:
        """The logits after one more token; for a bare op, its value for this input."""
        if self.model.vocab:
            self.tensors["inputs"] = np.asarray([token, self.pos])
        else:
            self.tensors["inputs"] = np.asarray([0, self.pos])
            self.tensors["x.1"] = np.concatenate(
                [np.ravel(t) for t in (token if isinstance(token, tuple) else (token,))]
            )
        for call in self.plan.calls:
            self.call(call)
        self.pos += 1
        return np.array(self.tensors["logits"], np.float64)

    def run(self, tokens: Sequence[int | Array]) -> tuple[Array, dict[str, Array]]:
        """The logits of each token, and the state after the last."""
        return np.stack([self.step(t) for t in tokens]), self.state()

    def call(self, call: plan.CallOf) -> None:
        """One program."""
        program = self.plan.programs[call.program]
        cores = [Core(c, program, self.dtype) for c in range(program.cores)]
        if "vectors" in program.tensors:
            for name, _, count in program.tensors["vectors"].parts:
                known = program.constants.get(name)
                flat = np.asarray(known) if known is not None else self.weights[call.vectors[name]].ravel()
                assert flat.size == count == prod(program.arrays[name].shape), name
                for core in cores:
                    first, end = core.span(program.arrays[name])
                    core.held[name] = flat[first:end].astype(self.dtype)
        resident = {r.array for r in call.state}
        for core, kept in zip(cores, self.kept[call.path], strict=True):
            core.held |= {name: np.array(kept[name]) for name in resident}
        for step in program.steps:
            self.everywhere(call, program, cores, step)
        for core, kept in zip(cores, self.kept[call.path], strict=True):
            kept |= {name: core.held[name] for name in resident}

    def everywhere(self, call: plan.CallOf, program: plan.Program, cores: list[Core], step: form.Step) -> None:
        """One step, on every core."""
        match step:
            case plan.Gather():
                whole = np.concatenate([core.held[step.source] for core in cores])
                for core in cores:
                    first, end = core.span(program.arrays[step.out])
                    assert whole.size == prod(program.arrays[step.out].shape), step
                    core.held[step.out] = whole[first:end].copy()
            case plan.Write():
                array, name = program.arrays[step.source], call.tensors[step.tensor]
                whole = np.full(prod(array.shape), np.nan)
                for core in cores if array.split is not None else cores[:1]:
                    first, end = core.span(array)
                    whole[first:end] = core.held[step.source]
                assert whole.size == prod(program.tensors[step.tensor].shape), step
                assert not np.isnan(whole).any(), f"{step.source} is not all there"
                self.tensors[name] = whole
            case form.Product():
                for core in cores:
                    self.product(call, program, core, step)
            case _:
                for core in cores:
                    self.alone(call, program, core, step)

    def alone(self, call: plan.CallOf, program: plan.Program, core: Core, step: form.Step) -> None:
        """A step that a core does by itself."""
        match step:
            case form.Map():
                flat, at = core.mine(step.out, step.indices, step.place)
                self.safe(core, step, flat, at)
                found = value(step.value, [core.load(x, at) for x in step.loads], self.dtype)
                core.store(step.out, flat, np.broadcast_to(found, flat.shape))
            case form.Copy():
                flat, at = core.mine(step.out, step.indices, step.place)
                self.safe(core, step, flat, at)
                core.store(step.out, flat, core.load(step.load, at))
            case form.Whole():
                flat, at = core.mine(step.out, step.indices, None)
                core.store(step.out, flat, np.broadcast_to(core.whole(step.value, at), flat.shape))
            case form.Extreme():
                flat, at = core.mine(step.out, step.indices, None)
                inner = core.points(step.bound)
                found = core.load(step.load, _with(at, inner)).reshape(len(flat), _count(inner))
                core.store(step.out, flat, found.max(1) if step.kind == "max" else found.min(1))
            case form.TopK():
                self.top(core, step)
            case plan.Fetch():
                tensor, array = program.tensors[step.tensor], program.arrays[step.out]
                source = self.tensors.get(call.tensors[step.tensor])
                if source is None:
                    source = self.weights[call.tensors[step.tensor].removesuffix(".rows")].ravel()
                begin = 0 if step.row is None else int(core.whole(step.row, {})) * tensor.shape[1]
                first, end = core.span(array)
                assert begin >= 0 and begin + prod(array.shape) <= source.size == prod(tensor.shape), step
                core.held[step.out] = source[begin + first : begin + end].astype(core.held[step.out].dtype)

    def safe(self, core: Core, step: form.Map | form.Copy, flat: Array, at: Mapping[Index, Array]) -> None:
        """No element is read after it was overwritten, whatever the order of the tiles."""
        for load in step.loads if isinstance(step, form.Map) else (step.load,):
            if load.array == step.out:
                there = np.ones(len(flat), bool)
                if load.when is not None:
                    there &= np.broadcast_to(core.whole(load.when, at).astype(bool), len(flat))
                kept = {i: v[there] for i, v in at.items()}
                read = np.broadcast_to(core.flat(load.view, [core.whole(n, kept) for n in load.at]), int(there.sum()))
                other = (read != flat[there]) & np.isin(read, flat)
                assert not other.any(), f"{step.out} is overwritten while it is read: {step.text}"

    def top(self, core: Core, step: form.TopK) -> None:
        name = step.picks if step.picks is not None else step.values
        assert name is not None
        flat, at = core.mine(name, (*step.lead, step.k), None)
        lead = {i: at[i] for i in step.lead} or {None: np.zeros(len(flat), np.int64)}
        found = core.load(step.load, _with(lead, core.points((step.over,)))).reshape(len(flat), -1)  # type: ignore[arg-type]
        order = np.argsort(-found, axis=1, kind="stable")
        places = np.take_along_axis(order, at[step.k][:, None], 1)
        for out, picked in ((step.picks, places), (step.values, np.take_along_axis(found, places, 1))):
            if out is not None:
                core.store(out, flat, picked[:, 0])

    def product(self, call: plan.CallOf, program: plan.Program, core: Core, step: form.Product) -> None:
        flat, at = core.mine(step.outs[0], (*step.lead, *step.rows, *step.columns), None)
        for out in step.outs:
            assert program.arrays[out].split == program.arrays[step.outs[0]].split, step
        inner = core.points(step.k)
        points, count = _with(at, inner), (len(flat), _count(inner))  # a core may have no units
        single = self.dtype is np.float32
        lefts = [core.load(x, points).reshape(count) for x in step.left]
        lefts = [tf32(x) for x in lefts] if single else lefts
        if step.streamed:
            assert not step.rows and len(step.outs) == len(step.left), step
            right = self.streamed(call, program, core, step, points).reshape(count)
            for out, left in zip(step.outs, lefts, strict=True):
                core.store(out, flat, (left * right).sum(1, dtype=self.dtype))
            return
        assert len(step.outs) == 1, step
        rights = [core.load(x, points).reshape(count) for x in step.factors]
        rights = [tf32(x) for x in rights] if single else rights
        found = sum((left * right).sum(1, dtype=self.dtype) for left in lefts for right in rights)
        core.store(step.outs[0], flat, found)

    def streamed(
        self, call: plan.CallOf, program: plan.Program, core: Core, step: form.Product, points: Mapping[Index, Array]
    ) -> Array:
        """The elements of a matrix at each point."""
        assert step.streamed is not None
        tensor = program.tensors[step.streamed]
        t = tensor.tiled
        assert t is not None and sorted((*t.bank, *t.lead, *t.columns, *t.k)) == list(range(len(tensor.shape))), tensor
        if program.cores > 1:
            assert program.arrays[step.outs[0]].split == t.split, f"{step.outs} {tensor.name}"
        places: dict[int, Array] = {}
        for group, indices in ((t.lead, step.lead), (t.columns, step.columns), (t.k, step.k)):
            sizes = tuple(tensor.shape[p] for p in group)
            assert prod(sizes) == prod(i.axis.size for i in indices), step
            if group:
                number = core.flat([i.axis.size for i in indices], [points[i] for i in indices])
                places |= dict(zip(group, np.unravel_index(number, sizes), strict=True))
        instance = 0 if step.instance is None else int(core.whole(step.instance, {}))
        places |= dict(zip(t.bank, np.unravel_index(instance, tuple(tensor.shape[p] for p in t.bank)), strict=True))
        matrix = self.weights[call.tensors[tensor.name].removesuffix(".rows")].reshape(tensor.shape)
        found = matrix[tuple(places[p] for p in range(len(tensor.shape)))]
        if self.dtype is np.float32:
            high = nearest(found, 7)
            return high if t.planes == 1 else high + nearest(found - high, 7)
        return found.astype(self.dtype)


def _count(points: Mapping[Index, Array]) -> int:
    """How many points there are."""
    return len(next(iter(points.values())))


def _with(at: Mapping[Index, Array], inner: Mapping[Index, Array]) -> dict[Index, Array]:
    """Each point with each inner one, the inner ones fastest."""
    outer, many = len(next(iter(at.values()))), len(next(iter(inner.values())))
    return {**{i: np.repeat(v, many) for i, v in at.items()}, **{i: np.tile(v, outer) for i, v in inner.items()}}
