"""The capture of tinygrad programs: launches, arguments and scratch, checked by running them; code; refusals."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tinygrad")

from cdrmix.codegen.tinygrad import amd, machine, toolchain
from cdrmix.codegen.tinygrad.artefact import compile_programs, shapes
from cdrmix.codegen.tinygrad.capture import Wanted, capture
from cdrmix.codegen.tinygrad.internals import Kernel, Operand, Source, Storage
from cdrmix.codegen.tinygrad.plan import Known, Unplannable, plan

from cdrmix.diagnose import UserError
from tests.conformance.tinygrad_plan import Array, Plans

D = 32
PROGRAM = (Path(__file__).parent / "tinygrad_units.py").read_text()


def unit(**given: Any) -> dict[str, Any]:
    plain = {"x": [D], "x_dtype": "f32", "out": [D], "weights": [], "states": [], "reads": [], "writes": []}
    return {**plain, "blocked": True, **given}


UNITS = {
    "product": unit(weights=[["W", [D, D], "f16"]], writes=[["v", [D]]]),
    "memory": unit(
        weights=[["mu", [D], "f32"]],
        states=[["prev", [D], "f32"], ["mem", [D, D], "f32"]],
        reads=[["v", [D]]],
    ),
    "swap": unit(states=[["a", [D], "f32"], ["b", [D], "f32"]], blocked=False),
    "ring": unit(states=[["K", [4, D], "f32"], ["pos", [], "i32"]]),
    "shifted": unit(states=[["K", [40, D], "f32"]], blocked=False),
    "expert": unit(weights=[["F", [8, D, D], "i8"], ["F.scale", [8, D], "f32"]]),
    "widened": unit(weights=[["W", [D, D], "bf16"]], writes=[["x", [D]]]),
    "advance": unit(x=[], x_dtype="i32", out=[], states=[["pos", [], "i32"]]),
}


def schedule(*names: str, blocks: tuple[int, ...] = (3,)) -> dict[str, Any]:
    calls = [{"unit": n, "path": n, "weights": [], "states": [], "last_only": False} for n in names]
    return {
        "batches": [1, 2],
        "blocks": list(blocks),
        "units": {n: UNITS.get(n, unit()) for n in names},
        "calls": calls,
    }


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> Plans:
    folder = tmp_path_factory.mktemp("units")
    (folder / "source").mkdir()
    (folder / "source" / "program.py").write_text(PROGRAM)
    return Plans(folder, schedule(*UNITS), jobs=2)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def real(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


SHAPES = [(1, 1), (2, 1), (1, 3)]


def close(found: Array, expected: Array) -> None:
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("b", "t"), SHAPES)
def test_weights_and_carries(plans: Plans, rng: np.random.Generator, b: int, t: int) -> None:
    x, w = real(rng, b, t, D), real(rng, D, D).astype(np.float16)
    out, carries = plans.run("product", x, {"W": w}, {}, {})
    close(carries["v"], x @ w.astype(np.float32).T)
    close(out, x + carries["v"])
    bits = real(rng, D, D).view(np.uint32) >> 16
    out, carries = plans.run("widened", x, {"W": bits.astype(np.uint16)}, {}, {})
    close(out, x @ (bits << 16).astype(np.uint32).view(np.float32).T)
    assert (carries["x"] == x).all()


@pytest.mark.parametrize(("b", "t"), SHAPES)
def test_states_are_read_before_they_are_replaced(plans: Plans, rng: np.random.Generator, b: int, t: int) -> None:
    x, mu, v = real(rng, b, t, D), real(rng, D), real(rng, b, t, D)
    s = {"prev": real(rng, b, D), "mem": real(rng, b, D, D)}
    prev, mem = s["prev"].copy(), s["mem"].copy()
    out, _ = plans.run("memory", x, {"mu": mu}, s, {"v": v})
    h = (x - np.concatenate([prev[:, None], x[:, :-1]], 1)) * mu + v
    after = mem * 0.5 + np.einsum("bti,btj->bij", h, x)
    close(s["mem"], after)
    close(s["prev"], x[:, -1])
    close(out, h + np.einsum("bij,bj->bi", after, prev)[:, None])


@pytest.mark.parametrize("b", [1, 2])
def test_states_that_need_each_other(plans: Plans, rng: np.random.Generator, b: int) -> None:
    s = {"a": real(rng, b, D), "b": real(rng, b, D)}
    before = {n: v.copy() for n, v in s.items()}
    out, _ = plans.run("swap", real(rng, b, 1, D), {}, s, {})
    assert (out[:, 0] == before["a"]).all()
    assert (s["a"] == before["b"]).all() and (s["b"] == before["a"]).all()


@pytest.mark.parametrize("b", [1, 2])
def test_a_state_that_moves_within_itself(plans: Plans, rng: np.random.Generator, b: int) -> None:
    s, x = {"K": real(rng, b, 40, D)}, real(rng, b, 1, D)
    before = s["K"].copy()
    out, _ = plans.run("shifted", x, {}, s, {})
    close(out, before.sum(1, keepdims=True) + x)
    assert (s["K"] == np.concatenate([x, before[:, :-1]], 1)).all()


@pytest.mark.parametrize(("b", "t"), SHAPES)
def test_a_state_written_in_place(plans: Plans, rng: np.random.Generator, b: int, t: int) -> None:
    ring = real(rng, b, 4, D)
    s = {"K": ring.copy(), "pos": np.array([6, 11], np.int32)[:b].copy()}
    for _ in range(3):
        x = real(rng, b, t, D)
        places = (s["pos"][:, None] + np.arange(t)) % 4
        out, _ = plans.run("ring", x, {}, s, {})
        assert (out == np.take_along_axis(ring, places[..., None], 1)).all()
        np.put_along_axis(ring, places[..., None], x, 1)
        assert (s["K"] == ring).all()
        pos = s["pos"].copy()
        plans.run("advance", np.zeros((b, t), np.int32), {}, {"pos": s["pos"]}, {})
        assert (s["pos"] == pos + t).all()


@pytest.mark.parametrize(("b", "t"), SHAPES)
def test_only_the_chosen_expert_is_read(plans: Plans, rng: np.random.Generator, b: int, t: int) -> None:
    x, f = real(rng, b, t, D), rng.integers(-127, 128, (8, D, D)).astype(np.int8)
    scale = np.abs(real(rng, 8, D))
    out, _ = plans.run("expert", x, {"F": f, "F.scale": scale}, {}, {})
    chosen = x.argmax(-1) % 8
    close(out, np.einsum("btij,btj->bti", f[chosen] * scale[chosen][..., None], x))
    launches = plans.captured.units[Wanted("expert", b, t).key].launches
    read = [
        plans.captured.sources[x.kernel].reads[i]
        for x in launches
        for i, a in enumerate(x.args)
        if (a.kind, a.index) == ("w", 0)
    ]
    assert sum(read) == b * t * D * D  # one byte a weight, one expert a token, of eight


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("host_constant", "made on the host"),
        ("never_written", "before anything has written it"),
        ("wrong_shape", "declared is"),
        ("race", "reads other places of a buffer of 5120 bytes it writes"),
    ],
)
def test_what_cannot_be_planned_is_refused_by_name(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    with pytest.raises(UserError, match=f"unit `{name}` at 1 x 1 tokens.*{said}"):
        capture(tmp_path, refused(name), [Wanted(name, 1, 1)], "NULL")


def refused(name: str) -> dict[str, Any]:
    units = {"race": unit(states=[["K", [40, D], "f32"]])}
    return {**schedule(name), "units": {name: units.get(name, unit())}}


def test_an_unknown_unit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    with pytest.raises(UserError, match="no unit `other`"):
        capture(tmp_path, schedule("other"), [Wanted("other", 1, 1)], "NULL")


# Scratch.


@dataclass(frozen=True)
class Step:
    """A kernel by the buffers it writes and reads."""

    writes: dict[str, int]
    reads: dict[str, int]


def kernels(*steps: Step) -> list[Kernel]:
    def operands(step: Step) -> tuple[Operand, ...]:
        written = [Operand(Storage(n, 0, size, True), "store", 0, size) for n, size in step.writes.items()]
        return (*written, *(Operand(Storage(n, 0, size, True), "load", size, 0) for n, size in step.reads.items()))

    return [Kernel(Source(f"k{i}", "", (1, 1, 1), (1, 1, 1), (), (), 0), operands(s)) for i, s in enumerate(steps)]


KNOWN = {"x": Known("x", 0, 64, "x"), "out": Known("out", 0, 64, "out")}


def test_scratch_is_shared_by_lifetime_and_never_within_a_launch() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        n = int(rng.integers(2, 12))
        sizes = {f"t{i}": int(rng.integers(1, 2000)) for i in range(n)}
        steps = [Step({"t0": sizes["t0"]}, {"x": 64})]
        for i in range(1, n):
            reads = {f"t{j}": sizes[f"t{j}"] for j in {i - 1, *map(int, rng.integers(0, i, 2))}}
            steps.append(Step({f"t{i}": sizes[f"t{i}"]}, reads))
        steps.append(Step({"out": 64}, {f"t{n - 1}": sizes[f"t{n - 1}"]}))
        found = plan(kernels(*steps), KNOWN)
        assert len(found.launches) == n + 1
        holds: dict[int, str] = {}  # byte -> the buffer last written there
        for step, launch in zip(steps, found.launches, strict=True):
            named = list(zip([*step.writes.items(), *step.reads.items()], launch.args, strict=True))
            for (name, size), arg in named[len(step.writes) :]:
                if arg.kind == "tmp":
                    assert arg.offset % 256 == 0 and arg.offset + size <= found.scratch
                    assert {holds[i] for i in range(arg.offset, arg.offset + size)} == {name}
            for (name, size), arg in named[: len(step.writes)]:
                if arg.kind == "tmp":
                    holds.update(dict.fromkeys(range(arg.offset, arg.offset + size), name))


def test_a_chain_needs_two_buffers() -> None:
    steps = [Step({f"t{i}": 256}, {f"t{i - 1}" if i else "x": 64}) for i in range(9)]
    assert plan(kernels(*steps, Step({"out": 64}, {"t8": 256})), KNOWN).scratch == 512


def test_a_launch_nobody_needs_is_left_out() -> None:
    found = plan(kernels(Step({"t": 64}, {"x": 64}), Step({"out": 64}, {"x": 64})), KNOWN)
    assert [x.kernel for x in found.launches] == [1] and found.scratch == 0


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([Step({"out": 64}, {"t": 64})], "before anything has written it"),
        ([Step({"t": 64}, {"x": 64})], "nothing writes `out`"),
        ([Step({"x": 64, "out": 64}, {})], "writes the input `x`"),
        ([Step({"out": 128}, {"x": 64})], "past the end of `out`"),
    ],
)
def test_a_plan_is_refused(steps: list[Step], said: str) -> None:
    with pytest.raises(Unplannable, match=said):
        plan(kernels(*steps), KNOWN)


# Code for devices.

SMALL = ("product", "memory", "expert")


def tools(*names: str) -> Any:
    needs = toolchain.missing([toolchain.ARCHS[n] for n in names])
    return pytest.mark.skipif(bool(needs), reason=", ".join(n.what for n in needs))


JITLINK = sorted(p for folder in sys.path for p in (Path(folder) / "nvidia").glob("*/lib/libnvJitLink.so.*"))


def is_elf(code: bytes, machine_number: int) -> bool:
    return code[:4] == b"\x7fELF" and int.from_bytes(code[18:20], "little") == machine_number


@tools("sm_90", "ptx")
def test_cuda_code(monkeypatch: pytest.MonkeyPatch) -> None:
    programs, files = compile_programs({"program.py": PROGRAM}, schedule(*SMALL), ["sm_90", "ptx"])
    assert is_elf(files["sm_90.cubin"], 190)
    text = files["kernels.cu"].decode()
    for kernel in programs["sm_90"]["kernels"]:
        assert f"{kernel['name']}(" in text
        assert f".entry {kernel['name']}(".encode() in files["ptx.ptx"]
        assert kernel["name"].encode() in files["sm_90.cubin"]
    assert programs["sm_90"]["units"] == programs["ptx"]["units"]
    launch = programs["sm_90"]["units"]["product@1x1"]["launches"][0]
    assert set(launch) == {"kernel", "grid", "block", "args"} and ["w", 0, 0] in launch["args"]
    # The user's settings of tinygrad, the order of sets and the number of processes change nothing.
    monkeypatch.setenv("NOOPT", "1")
    monkeypatch.setenv("DEBUG", "4")
    monkeypatch.setattr(toolchain, "HASH_SEED", "77")
    again = compile_programs({"program.py": PROGRAM}, schedule(*SMALL), ["sm_90", "ptx"], jobs=1)
    assert json.dumps(again[0]) == json.dumps(programs) and again[1] == files


@tools("ptx")
@pytest.mark.skipif(not JITLINK, reason="nvidia-nvjitlink assembles PTX")
@pytest.mark.parametrize("device", ["sm_80", "sm_120"])
def test_ptx_is_of_a_version_that_older_drivers_assemble(device: str) -> None:
    _, files = compile_programs({"program.py": PROGRAM}, schedule(*SMALL), ["ptx"])
    text = files["ptx.ptx"]
    assert f".version {machine.PTX_VERSION}\n.target sm_80\n".encode() in text
    library = ctypes.CDLL(str(JITLINK[-1]))
    major = JITLINK[-1].name.rpartition(".")[2]

    def call(name: str, *args: Any) -> None:
        assert getattr(library, f"__nvJitLink{name}_{major}_0")(*args) == 0, name

    handle, options = ctypes.c_void_p(), (ctypes.c_char_p * 1)(f"-arch={device}".encode())
    call("Create", ctypes.byref(handle), 1, options)
    call("AddData", handle, 2, text + b"\0", ctypes.c_size_t(len(text) + 1), b"kernels")
    call("Complete", handle)
    call("Destroy", ctypes.byref(handle))


@tools("gfx1100")
def test_rocm_code(monkeypatch: pytest.MonkeyPatch) -> None:
    programs, files = compile_programs({"program.py": PROGRAM}, schedule(*SMALL), ["gfx1100"])
    assert is_elf(files["gfx1100.hsaco"], 224)
    assert files["gfx1100.hsaco"][16:18] == b"\x03\x00"  # shared: linked, as a driver loads it
    names = [k["name"] for k in programs["gfx1100"]["kernels"]]
    assert list(machine.split(files["kernels.ll"].decode())) == names
    assert all(f"{n}.kd".encode() in files["gfx1100.hsaco"] for n in names)
    monkeypatch.setattr(toolchain, "HASH_SEED", "77")
    again = compile_programs({"program.py": PROGRAM}, schedule(*SMALL), ["gfx1100"], jobs=1)
    assert json.dumps(again[0]) == json.dumps(programs) and again[1] == files


@tools("sm_80", "gfx1100")
@pytest.mark.parametrize(("one", "others"), [("sm_80", ["sm_120"]), ("gfx1100", ["gfx942"])])
def test_kernels_are_the_same_for_every_arch_of_a_vendor(tmp_path: Path, one: str, others: list[str]) -> None:
    """Why a program is captured once a vendor."""
    (tmp_path / "program.py").write_text(PROGRAM)
    wanted = shapes(schedule("product", "expert"))
    first = capture(tmp_path, schedule(*SMALL), wanted, toolchain.ARCHS[one].device)
    for other in others:
        assert capture(tmp_path, schedule(*SMALL), wanted, toolchain.ARCHS[other].device) == first


# The toolchain.


def test_an_unknown_arch_names_the_nearest() -> None:
    with pytest.raises(UserError) as e:
        toolchain.choose("cuda", ["sm_9"])
    assert "sm_90" in e.value.help
    with pytest.raises(UserError) as e:
        toolchain.choose("rocm", ["sm_90"])
    assert "cuda" in e.value.help


def test_what_is_missing_is_said_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(toolchain, "nvrtc", lambda: None)
    monkeypatch.setattr(amd, "lld", lambda: None)
    needs = toolchain.missing(toolchain.choose("cuda") + toolchain.choose("rocm"))
    assert [n.what for n in needs] == ["nvrtc (nvidia-cuda-nvrtc)", "triton"]
    assert {n.command for n in needs} == {"pip install 'cdrmix[gpu]'"}
    with pytest.raises(UserError, match="nvrtc") as e:
        compile_programs({}, schedule(), ["sm_80"])
    assert "pip install 'cdrmix[gpu]'" in e.value.help


def test_the_users_settings_do_not_reach_the_child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BEAM", "4")
    env = toolchain.environment("NULL", tmp_path)
    assert "BEAM" not in env and env["DEV"] == "NULL" and env["PATH"] == os.environ["PATH"]
