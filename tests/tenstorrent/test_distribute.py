"""Dealing programs out to cores: by hand-written plans, so that each rule is seen by itself.

What the distributed plans compute is checked where plans are run (`plan_runner`); here, which arrays are split, what is
gathered, and that no step reads beyond its core's own units.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product as places
from math import prod

import numpy as np
import pytest
from cdrmix.codegen.metalium.cost.devices import DEVICES
from cdrmix.codegen.metalium.deal.distribute import distribute
from cdrmix.codegen.metalium.deal.locality import finest, is_local, own, split_of, used, wants_all
from cdrmix.codegen.metalium.deal.placement import bytes_of, lifetimes, place
from cdrmix.codegen.metalium.plan import Array, Fetch, Gather, Program, Split, Tensor, Tiled, Write

from cdrmix.ir import build
from cdrmix.ir.nodes import Axis, Index, Node
from cdrmix.ir.steps import Copy, Load, Map, Product, Step, apply, operand

DEVICE = DEVICES["n150"]
CORES = [2, 3, 5, 16, 64]


def over(**sizes: int) -> dict[str, Index]:
    return {name: Index(name, Axis(name, size)) for name, size in sizes.items()}


def load(array: str, *at: Index | Node, view: tuple[int, ...] = ()) -> Load:
    nodes = tuple(build.index(i) if isinstance(i, Index) else i for i in at)
    return Load(array, view or tuple(n.arg.axis.size for n in nodes), nodes)


def elementwise(out: str, indices: tuple[Index, ...], *loads: Load) -> Map:
    value = operand(0)
    for number in range(1, len(loads)):
        value = apply("mul", value, operand(number))
    return Map(out, indices, value, loads)


def stream(out: str, tensor: str, columns: Index, k: Index, left: str) -> Product:
    return Product((out,), (), (), (columns,), (k,), (load(left, k),), streamed=tensor)


def program(steps: list[Step], shapes: dict[str, tuple[int, ...]], **states: tuple[int, ...]) -> Program:
    arrays = {name: Array(name, shape) for name, shape in shapes.items()}
    for name, shape in states.items():
        layout = "tiles" if len(shape) > 1 else "flat"
        arrays[name] = Array(name, shape, memory="state", layout=layout)
    tensors = {}
    for step in steps:
        if isinstance(step, Product) and step.streamed:
            name = step.streamed
            shape = (prod(i.axis.size for i in step.columns), prod(i.axis.size for i in step.k))
            tensors[name] = Tensor(name, "tiles", "bf16", shape, Tiled((), (), (0,), (1,), Split(1, 1), 1))
        elif isinstance(step, Fetch | Write):
            array = step.out if isinstance(step, Fetch) else step.source
            tensors[step.tensor] = Tensor(step.tensor, "rows", "f32", (1, prod(shapes[array])))
    return Program("p", "p", 1, arrays, tensors, tuple(steps))


def time_mix(heads: int, size: int) -> Program:
    """The form of RWKV-7's: a mix, three products, the state with its reads, a norm by heads, the last product."""
    width = heads * size
    x = over(d=width, e=width, h=heads, i=size, j=size)
    d, e, h, i, j = (x[n] for n in "dehij")
    flat = dict.fromkeys(["x", "dx", "r_in", "r", "k", "v", "kk", "g", "o", "out", "new"], (width,))
    by_head = (heads, size)
    rank = over(m=16)["m"]
    steps: list[Step] = [
        Fetch("x", "x.0"),
        elementwise("dx", (d,), load("x_prev", d), load("x", d)),
        Copy("x_prev", (d,), load("x", d)),
        elementwise("r_in", (d,), load("x", d), load("dx", d)),
        *(stream(out, f"W{out}", e, d, "r_in") for out in ("r", "k", "v")),
        stream("g_mid", "G1", rank, d, "r_in"),
        elementwise("g_in", (rank,), load("g_mid", rank)),
        stream("g", "G2", e, rank, "g_in"),
        elementwise("kk", (d,), load("k", d), load("k", d)),
        Product(("sa",), (h,), (i,), (), (j,), (load("S", h, i, j),), (load("kk", h, j, view=by_head),)),
        elementwise("S", (h, i, j), load("S", h, i, j), load("v", h, i, view=by_head), load("k", h, j, view=by_head)),
        Product(("y",), (h,), (i,), (), (j,), (load("S", h, i, j),), (load("r", h, j, view=by_head),)),
        elementwise("norm", (h,), load("y", h, build.const(0), view=by_head)),
        elementwise("o", (h, i), load("y", h, i, view=by_head), load("norm", h), load("g", h, i, view=by_head)),
        stream("out", "Wo", e, d, "o"),
        elementwise("new", (d,), load("x", d), load("out", d)),
        Write("x.1", "new"),
    ]
    shapes = {**flat, "sa": by_head, "y": by_head, "norm": (heads,), "g_mid": (16,), "g_in": (16,)}
    return program(steps, shapes, x_prev=(width,), S=(heads, size, size))


def dealt(one: Program, cores: int, **options: bool) -> Program:
    found = place(distribute(one, DEVICE, cores, **options))
    check(found, cores)
    return found


def check(found: Program, cores: int) -> None:
    """No step reads or writes beyond its core's own units, and nothing that lives at once lies at one place."""
    assert found.cores <= cores
    for step in found.steps:
        written = {found.arrays[name].split for name in step.parts.outs}
        mine = written.pop() if written else None
        assert not written, "results of one step are split alike"
        for read in step.parts.loads:
            source = found.arrays[read.array]
            if source.split is None:
                continue
            assert not wants_all(step) and source.split == mine, (step, source)
            sizes = [n.axis.size for n in step.parts.space]
            for place_ in places(*(range(n) for n in sizes)):
                unit = int(np.ravel_multi_index(place_, sizes)) * mine.lead // prod(sizes)
                where = {n: build.const(p) for n, p in zip(step.parts.space, place_, strict=True)}
                for others in places(*(range(a.axis.size) for n in read.at for a in n.free if a not in where)):
                    left = [a for n in read.at for a in n.free if a not in where]
                    here = where | {a: build.const(p) for a, p in zip(left, others, strict=True)}
                    at = [value(n, here) for n in read.at]
                    flat = int(np.ravel_multi_index(at, read.view))
                    assert flat * mine.lead // prod(read.view) == unit, (step, read)
                    break  # the bound indices come behind: the first settles the unit
    life = lifetimes(found)
    for a, b in places(life, life):
        if a < b and life[a][0] <= life[b][1] and life[b][0] <= life[a][1]:
            first, second = found.arrays[a], found.arrays[b]
            apart = first.offset + bytes_of(first) <= second.offset or second.offset + bytes_of(second) <= first.offset
            assert apart, (a, b)
    assert all(a.offset % 64 == 0 for a in found.arrays.values())


def value(n: Node, at: dict[Index, Node]) -> int:
    return int(at[n.arg].arg) if n.op == "index" else int(n.arg)


@pytest.mark.parametrize("cores", [1, *CORES])
@pytest.mark.parametrize(("heads", "size"), [(4, 32), (5, 16), (3, 64), (7, 8)])
def test_a_time_mix_stays_on_its_heads_core(heads: int, size: int, cores: int) -> None:
    found = dealt(time_mix(heads, size), cores)
    if cores == 1:
        assert found.cores == 1 and not any(isinstance(s, Gather) for s in found.steps)
        return
    by_head = found.arrays["S"].split
    assert by_head is not None and heads % by_head.lead == 0
    for name in ("r", "k", "v", "kk", "g", "sa", "y", "norm", "o"):
        assert found.arrays[name].split == by_head, name
    assert found.arrays["x_prev"].split is None, "held by all: every core wants all of it"
    gathered = [s.source for s in found.steps if isinstance(s, Gather)]
    assert gathered == ["g_in", "o"] or gathered == ["g_in", "o", "new"], gathered
    assert found.arrays["new"].split == found.arrays["out"].split


@pytest.mark.parametrize("cores", CORES)
def test_spread_states_are_gathered_where_they_are_read(cores: int) -> None:
    found = dealt(time_mix(4, 32), cores, spread=True)
    assert found.arrays["x_prev"].split is not None
    assert found.state_bytes < dealt(time_mix(4, 32), cores).state_bytes


def test_a_share_is_whole_units_and_the_last_cores_have_fewer() -> None:
    split = split_of(7, 3)
    assert [list(own(split, core)) for core in range(4)] == [[0, 1, 2], [3, 4, 5], [6], []]
    assert used(split) == 3 and split_of(32, 16) == split_of(16, 16) == Split(16, 1)


def test_what_is_local() -> None:
    x = over(h=4, q=2, n=8, d=64)
    h, q, n, d = (x[name] for name in "hqnd")
    assert is_local((d,), (4, 16), tuple(build.index(i) for i in (h,)), 4) is False  # h is no index of the step
    assert finest((h, n), load("a", h, n)) == 32
    assert finest((h, q), load("a", h, n)) == 4
    assert finest((h, n), load("a", n, view=(8,))) == 1
    group = build.node("floordiv", build.index(d), build.const(16))
    assert finest((d,), Load("a", (4, 16), (group, build.node("mod", build.index(d), build.const(16))))) == 64
    turned = build.sub(build.const(3), build.index(h))
    assert finest((h, n), load("a", turned, n, view=(4, 8))) == 1
    moving = build.node("mod", build.add(build.context("pos"), build.index(h)), build.const(4))
    assert finest((h, n), Load("a", (4, 8), (moving, build.index(n)))) == 1


def test_elements_that_no_core_can_move_alone_are_gathered_before_they_are_written() -> None:
    x = over(e=24, d=32)
    steps = [Fetch("x", "x.0"), stream("y", "W", x["e"], x["d"], "x"), Write("x.1", "y")]
    found = dealt(program(steps, {"x": (32,), "y": (24,)}), 2)
    assert found.arrays["y"].split is not None and found.steps[-1] == Write("x.1", "y"), "one core has it all"


def test_a_gather_serves_all_readers_until_its_source_is_written_again() -> None:
    x = over(e=64, d=64)
    d, e = x["d"], x["e"]
    steps: list[Step] = [
        Fetch("x", "x.0"),
        stream("y", "W", e, d, "x"),
        stream("a", "A", e, d, "y"),
        stream("b", "B", e, d, "y"),
        elementwise("y", (d,), load("a", d), load("b", d)),
        stream("c", "C", e, d, "y"),
        Write("x.1", "c"),
    ]
    found = dealt(program(steps, dict.fromkeys("xyabc", (64,))), 2)
    kinds = [s.source if isinstance(s, Gather) else "" for s in found.steps]
    assert kinds == ["", "", "y", "", "", "", "y", "", ""]
    assert len({s.out for s in found.steps if isinstance(s, Gather)}) == 2


def test_results_keep_their_split_where_a_tensor_is_read_twice() -> None:
    x = over(e=96, d=64)
    e, d = x["e"], x["d"]
    twice = [Fetch("x", "x.0"), stream("y", "W", e, d, "x"), stream("z", "W", e, d, "x"), Write("x.1", "y")]
    found = dealt(program(twice, {"x": (64,), "y": (96,), "z": (96,)}), 3)
    assert found.arrays["y"].split == found.arrays["z"].split == Split(3, 1)
    tiled = found.tensors["W"].tiled
    assert tiled is not None and (tiled.split, tiled.cores, tiled.block) == (Split(3, 1), 3, 1)


def test_lead_axes_are_dealt_out_before_columns() -> None:
    x = over(h=6, e=32, d=64)
    h, e, d = x["h"], x["e"], x["d"]
    step = Product(("y",), (h,), (), (e,), (d,), (load("x", d),), streamed="W")
    one = program([Fetch("x", "x.0"), step, Write("x.1", "y")], {"x": (64,), "y": (6, 32)})
    tiled = Tiled((), (0,), (1,), (2,), Split(6, 6), 1)
    one = replace(one, tensors={**one.tensors, "W": Tensor("W", "tiles", "bf16", (6, 32, 64), tiled)})
    found = dealt(one, 4)
    dealt_out = found.tensors["W"].tiled
    assert dealt_out is not None and (dealt_out.split, dealt_out.cores) == (Split(3, 1), 3)
    assert found.arrays["y"].split == Split(3, 1), "three cores of two matrices each"
