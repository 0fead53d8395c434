"""Plans made by hand, and a way to run one program of a plan over the emulation.

Input: a `plan.Program` that fetches rows of `given` and writes the tensor `logits`.
Output: what it wrote.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
from cdrmix.codegen.metalium import plan
from cdrmix.codegen.metalium.artefact import runtime_files
from cdrmix.codegen.metalium.emit.kernels import emit_kernels
from cdrmix.codegen.metalium.emit.launch import launch_description
from cdrmix.codegen.metalium.tiles import tilise
from cdrmix.runtime.encodings import ENCODINGS, Entry
from cdrmix.runtime.metalium import emulated
from cdrmix.runtime.metalium.host import Model

from cdrmix.ir import build
from cdrmix.ir import steps as form
from cdrmix.ir.nodes import Axis, Index, Node, Ref
from cdrmix.weights import write_tensors


def index(name: str, size: int) -> Index:
    """An index over an axis of its own."""
    return Index(name, Axis(name, size))


def at(*places: Index | Node | int) -> tuple[Node, ...]:
    """Places as whole-number expressions."""
    return tuple(
        build.index(p) if isinstance(p, Index) else build.const(p) if isinstance(p, int) else p for p in places
    )


def load(array: str, *indices: Index | Node | int, view: Sequence[int] = (), **more: object) -> form.Load:
    """A load; its view is as wide as the indices where nothing is said."""
    sizes = tuple(view) or tuple(i.axis.size for i in indices if isinstance(i, Index))
    return form.Load(array, sizes, at(*indices), **more)  # type: ignore[arg-type]


def whole(array: str, size: int, place: Node | int) -> Node:
    """An element of an array of whole numbers."""
    return build.read(Ref("def", array), (Axis(array, size),), at(place), "int")


def op(name: str, *args: Node | int) -> Node:
    """An operation; a number stands for that operand."""
    return form.apply(name, *(form.operand(a) if isinstance(a, int) else a for a in args))


number = form.literal


def rows(name: str, *shape: int, dtype: str = "f32") -> plan.Tensor:
    return plan.Tensor(name, "rows", dtype, shape)  # type: ignore[arg-type]


def bank(cores: int) -> plan.Program:
    """The two largest of a row pick matrices of a bank; rings, windows, copies and whole numbers are on the way."""
    E, D, K = 4, 70, 50
    each = -(-(D // 10) // cores)
    split = plan.Split(7, each) if cores > 1 else plan.Split(7, 7)
    tiled = plan.Tiled((0,), (), (1,), (2,), split, -(-7 // split.each), 2, 1)
    own = split if cores > 1 else None
    i, k, t = index("i", D), index("k", K), index("t", 3)
    two, of = index("n", 2), index("g", E)
    pos = whole("inputs", 2, 1)
    slot = build.node("mod", pos, build.const(3))
    age = build.node("mod", build.add(build.node("sub", pos, build.index(t)), build.const(3)), build.const(3))
    there = build.node("le", build.index(t), pos)
    tripled = build.node("mul", whole("picks", 2, build.index(two)), build.const(-3))
    arrays = {
        "inputs": plan.Array("inputs", (2,), "i32"), "g": plan.Array("g", (E,)), "x": plan.Array("x", (K,)),
        "picks": plan.Array("picks", (2,), "i32"), "values": plan.Array("values", (2,)),
        "ring": plan.Array("ring", (3, 2)), "most": plan.Array("most", (1,)), "count": plan.Array("count", (2,)),
        "hi": plan.Array("hi", (K,)), "lo": plan.Array("lo", (K,)), "window": plan.Array("window", (3, 2)),
        "out": plan.Array("out", (2 * D + 9,)),
    }  # fmt: skip
    for n in ("a_hi", "a_lo", "b_hi", "b_lo", "a", "b"):
        arrays[n] = plan.Array(n, (D,), split=own)
    for n in ("a_all", "b_all"):
        arrays[n] = plan.Array(n, (D,))
    steps: list[form.Step] = [
        plan.Fetch("inputs", "inputs"), plan.Fetch("x", "x"), plan.Fetch("g", "table", whole("inputs", 2, 0)),
        form.TopK("values", "picks", (), two, of, load("g", of)),
        form.Extreme("most", "min", (), (of,), load("g", of)),
        form.Map("ring", (t, two), number(-1.0), ()),
        form.Copy("ring", (two,), load("values", two), at(slot, two)),
        form.Copy("window", (t, two), form.Load("ring", (3, 2), at(age, two), there, 7.0)),
        form.Whole("count", (two,), build.add(tripled, pos)),
        form.Map("hi", (k,), op("tf32", 0), (load("x", k),)),
        form.Map("lo", (k,), op("sub", 0, op("tf32", 0)), (load("x", k),)),
    ]  # fmt: skip
    for place, n in enumerate("ab"):
        text = f"{n}[i] = sum[k](F[picks[{place}], i, k]*x[k])"
        steps += [
            form.Product(
                (f"{n}_hi", f"{n}_lo"),
                (),
                (),
                (i,),
                (k,),
                (load("hi", k), load("lo", k)),
                streamed="F",
                instance=whole("picks", 2, place),
                texts=(text,),
            ),
            form.Map(n, (i,), op("add", 0, 1), (load(f"{n}_hi", i), load(f"{n}_lo", i)), texts=(text,)),
            plan.Gather(f"{n}_all", n) if cores > 1 else form.Copy(f"{n}_all", (i,), load(n, i)),
        ]
    e = index("e", 6)
    places = [("a_all", i, 0), ("b_all", i, D), ("window", e, 2 * D), ("count", two, 2 * D + 6)]
    for n, x, start in places:
        steps.append(form.Copy("out", (x,), load(n, x), (build.add(build.index(x), build.const(start)),)))
    steps += [form.Copy("out", (), load("most", 0, view=(1,)), at(2 * D + 8)), plan.Write("logits", "out")]
    tensors = {
        "inputs": rows("inputs", 1, 2, dtype="i32"), "table": rows("table", 5, E), "x": rows("x", 1, K),
        "F": plan.Tensor("F", "tiles", "bf16", (E, D, K), tiled), "logits": rows("logits", 1, 2 * D + 9),
    }  # fmt: skip
    return plan.Program("bank", "a bank", cores, arrays, tensors, tuple(steps))


def placed(program: plan.Program) -> plan.Program:
    """The program with its arrays one behind the other."""
    ends = {"scratch": 0, "state": 0, "vectors": 0}
    arrays = {}
    for name, array in program.arrays.items():
        arrays[name] = replace(array, offset=ends[array.memory])
        held = array.words if array.split is None else array.words // array.split.lead * array.split.each
        ends[array.memory] += -(-held * 4 // 64) * 64
    return replace(program, arrays=arrays, scratch_bytes=ends["scratch"], state_bytes=ends["state"])


def model_of(program: plan.Program, instances: Mapping[str, str] | None = None) -> plan.ModelPlan:
    """A plan of one call, its tensors named as they are within."""
    names = {name: name for name in program.tensors} | dict(instances or {})
    weights = {name: path for name, path in names.items() if path not in ("inputs", "logits")}
    return plan.ModelPlan("n150", {program.name: program}, (plan.CallOf("one", program.name, names, weights, {}),))


def run(
    folder: Path, program: plan.Program, given: Mapping[str, np.ndarray], token: int = 0, pos: int = 0
) -> np.ndarray:
    """What the program writes into `logits`."""
    made = model_of(placed(program))
    files = {name: text.encode() for name, text in emit_kernels(made).items()}
    files |= {name: content for name, content in runtime_files().items() if name.startswith("kernels/")}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    launch = json.loads(json.dumps(launch_description(made)))
    launch["tensors"].setdefault("inputs", _inputs())
    entries, tensors = {}, {}
    for name, value in given.items():
        tiled = launch["tensors"][name]["tiled"]
        tensors[name] = value if tiled is None else ENCODINGS["bf16"].narrow(tilise(value, tiled))[""]
        entries[name] = Entry(value.shape) if tiled is None else Entry(tilise(value, tiled).shape, "BF16")
    write_tensors(folder / "weights.safetensors", entries, tensors.__getitem__)
    size = prod(program.tensors["logits"].shape)
    card = emulated.open_device()
    try:
        model = Model(emulated, card, folder, {"metalium": launch, "vocab": size, "state": []})
        found = model.step(token, pos)
        assert found is not None
        return found.reshape(program.tensors["logits"].shape)
    finally:
        emulated.close_device(card)


def _inputs() -> dict[str, object]:
    return {
        "kind": "rows", "dtype": "i32", "pages": 1, "page_bytes": 64, "tiled": None, "shape": None, "weight": None,
        "parts": [], "constants": {},
    }  # fmt: skip
