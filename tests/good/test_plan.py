"""`cdrmix plan`: what it predicts is what torch allocates and sends, and what it says is what was asked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from cdrmix.check import load, load_text
from cdrmix.cli import main
from cdrmix.compiler import lower
from cdrmix.diagnose import UserError
from cdrmix.ir.cost import cost
from cdrmix.ir.nodes import Model
from cdrmix.plan.cards import CARDS, card
from cdrmix.plan.communication import traffic
from cdrmix.plan.footprint import footprint
from cdrmix.plan.memory import memory
from cdrmix.plan.mesh import in_machine, mesh_of, rows_of
from cdrmix.train.batches import Batch
from cdrmix.train.build import build_module
from cdrmix.train.config import MeshConfig, OptimConfig, TrainConfig, read_config
from cdrmix.train.optimiser import make_optimiser
from cdrmix.train.place import recompute_layers
from cdrmix.train.shard import Mesh
from cdrmix.train.step import take_step
from tests.good.commands import said
from tests.small import SPEC, write_spec

ROOT = Path(__file__).parents[2]

HYBRID = {
    "d_model": "64", "layers": "4", "vocab": "256", "mixer": "rwkv7(N=16, dw=8, da=8, dv=8, dg=8)",
    "moe.hidden": "64", "attn.heads": "4", "attn.kv_heads": "2", "attn.window": "16",
}  # fmt: skip
DENSE = {"d_model": "96", "layers": "3"}
TINY = {"d_model": "64", "layers": "4", "vocab": "1024", "moe.hidden": "96"}


def as_config(**given: object) -> TrainConfig:
    fixed = {"spec": "x.cdr", "data": {"train": "x"}, "out": "x", "steps": 1}
    return TrainConfig.model_validate({**fixed, **given})


def allocated(model: Model, config: TrainConfig, rows: int, T: int, folder: Path) -> int:
    """The most bytes that torch's allocator had out in a step: those of before it, and what its profiler saw."""
    module = build_module(lower(model, work=config.precision), folder, 0).train()
    if config.recompute == "layers":
        recompute_layers(module)
    optimiser = make_optimiser(module, config.optim)
    tokens = torch.randint(0, model.vocab, (rows * config.accumulate, T))
    batch = Batch(tokens, tokens.clone(), torch.zeros(tokens.shape, dtype=torch.bool))
    given = module, optimiser, batch, None, 1.0, 1.0, config.accumulate
    take_step(*given)
    optimiser.zero_grad()
    held = [*module.parameters(), *module.buffers(), *(x for s in optimiser.state.values() for x in s.values())]
    live = most = sum(x.numel() * x.element_size() for x in held)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        take_step(*given)
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most


CASES = {
    "dense": ("rwkv7.cdr", DENSE, {}),
    "dense, again, in parts, muon": (
        "rwkv7.cdr", DENSE, {"recompute": "layers", "accumulate": 3, "optim": {"kind": "muon"}},
    ),
    "experts, again, muon": ("tiny.cdr", TINY, {"recompute": "layers", "optim": {"kind": "muon"}}),
    "experts in bf16": ("tiny.cdr", TINY, {"precision": "bf16", "accumulate": 2}),
    "hybrid": ("hybrid.cdr", HYBRID, {"accumulate": 2, "optim": {"kind": "muon"}}),
    "hybrid, again": ("hybrid.cdr", HYBRID, {"recompute": "layers"}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_memory_is_what_torch_allocates(tmp_path: Path, name: str) -> None:
    spec, settings, given = CASES[name]
    model, config = load(ROOT / "spec" / spec, settings), as_config(**{"precision": "f32", **given})
    f = footprint(lower(model, work=config.precision), config, 2, 128)
    predicted = memory(f, Mesh(), config.accumulate).torch
    assert predicted == pytest.approx(allocated(model, config, 2, 128, tmp_path), rel=0.1)


def test_a_recomputed_layer_is_let_go_before_the_next_one() -> None:
    model = load(ROOT / "spec" / "rwkv7.cdr", {"layers": "8", "vocab": "16"})
    config = as_config(recompute="layers")
    f = footprint(lower(model), config, 2, 256)
    backward = f.segments[f.forward + 1 : -1]
    assert len(backward) == 8 and all(s.change["rest"] <= 0 for s in backward)
    kept = sum(s.change["rest"] for s in f.segments[1:9]) / 8
    assert kept < 2.5 * 2 * 256 * model.width * 4  # what a layer is given, and not its states' views of all tokens


# --- communication ---------------------------------------------------------------------------------------------------
SENDS = """
import sys
from pathlib import Path
import torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.utils._python_dispatch import TorchDispatchMode
from cdrmix.check import load
from cdrmix.compiler import lower
from cdrmix.train.build import build_module

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
model = load(Path(sys.argv[3]), {"layers": "4"})
module = build_module(lower(model), folder / str(rank), 0)
grid = init_device_mesh("cpu", (1, 2), mesh_dim_names=("replicate", "shard"))
for unit in (*module.layers(), module):
    fully_shard(unit, mesh=grid["shard"])
register_fsdp_forward_method(module, "hidden")
found = {}
class Count(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        if name.startswith("c10d::"):
            given = args[0] if isinstance(args[0], torch.Tensor) else args[0][0]
            if "reduce_scatter" in name:
                given = args[1] if isinstance(args[1], torch.Tensor) else args[1][0]
            found[name] = found.get(name, 0) + given.numel() * given.element_size()
        return func(*args, **(kwargs or {}))
with Count():
    for _ in range(3):
        logits, _ = module(torch.zeros(1, 32, dtype=torch.int64))
        logits.sum().backward()
if rank == 0:
    print(sum(n for name, n in found.items() if "allgather" in name), sum(
        n for name, n in found.items() if "reduce_scatter" in name))
dist.destroy_process_group()
"""


def test_communication_is_what_two_processes_send(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SENDS]
    spec = str(ROOT / "spec" / "rwkv7.cdr")
    both = [
        subprocess.Popen([*command, str(rank), str(tmp_path), spec], cwd=ROOT, stdout=subprocess.PIPE)
        for rank in range(2)
    ]
    out = [p.communicate(timeout=120)[0] for p in both]
    assert [p.returncode for p in both] == [0, 0]
    gathered, scattered = map(int, out[0].split())
    model = load(Path(spec), {"layers": "4"})
    per_layer = [
        sum(x.stored for path, x in cost(model).lines.items() if path.startswith(f"layer.{n}.")) for n in range(4)
    ]
    root = cost(model).total.stored - sum(per_layer)
    found = traffic(per_layer, root, Mesh(1, 2), card("h100"), 3)
    assert found.gathered == pytest.approx(gathered, rel=0.1)
    assert found.scattered == pytest.approx(scattered, rel=0.1)
    assert found.reduced == 0 and found.crossing == (found.gathered + found.scattered) / 2


def test_copies_add_their_shares_and_cross_the_network() -> None:
    one, two = (traffic([1000] * 4, 500, mesh, card("h100"), 1) for mesh in (Mesh(1, 16), Mesh(2, 8)))
    assert two.reduced == 4 * 4500 // 8 and one.reduced == 0
    assert two.gathered == one.gathered == 4 * 8500
    assert traffic([1000], 1, Mesh(), card("h100"), 4).crossing == 0
    assert card("h100").between(1) == 50e9 and card("h100").between(8) == 400e9


# --- the command -----------------------------------------------------------------------------------------------------
def planned(tmp_path: Path, *more: str) -> list[str]:
    spec = write_spec(tmp_path)
    config = tmp_path / "c.yaml"
    config.write_text(f"spec: {spec}\ndata: {{train: none.txt}}\nout: {tmp_path / 'run'}\nsteps: 1000\nbatch: 16\n")
    return ["plan", str(config), *more]


def test_the_plan_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = "--gpus", "4", "--gpu", "h200", "--price", "2", "--set", "accumulate=2", "--set", "optim.kind=muon"
    assert main(planned(tmp_path, *more)) == 0
    told = capsys.readouterr().out
    assert "small on 4 x h200, 4 shards, in bf16" in told and "2 sequences of 32 at a time" in told
    for word in ("(predicted)", "(assumed)", "bound by", "MFU", "all-gathered", "GPU-hour", "of 141"):
        assert word in told, word
    assert not (tmp_path / "run").exists(), "a plan wrote something"
    assert main([*planned(tmp_path, *more), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] and found["mesh"] == {"replicate": 1, "shard": 4} and found["tokens"] == 16 * 32
    assert found["parameters"] == cost(load_text(SPEC)).total.stored
    assert found["cost"] == pytest.approx(2 * 4 * 24 * found["days"])
    assert found["speed"]["bound"] in ("FLOPs", "memory bandwidth", "network")
    memory = found["memory"]
    held = [memory[key] for key in ("parameters", "gradients", "optimiser", "kept", "gathered", "passing")]
    assert sum(held) == memory["torch"] < memory["total"]


def test_a_run_that_does_not_fit_is_told_what_would_help(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = said(capsys, *planned(tmp_path, "--gpu", "4090", "--set", "context=100000"))
    assert "a GPU needs" in shown and "has 24" in shown
    assert "`recompute: layers`" in shown and "`accumulate: 16`" in shown and "more GPUs" in shown


@pytest.mark.parametrize(
    ("more", "message", "help"),
    [
        (["--gpu", "h10"], "no card `h10`", "h100"),
        (["--gpu", "zzz"], "no card `zzz`", "the cards are a100"),
        (["--gpus", "3"], "batch 16 does not divide into 3 GPUs", "make `batch` a multiple of 3"),
        (["--gpus", "8", "--shard", "3"], "8 GPUs are not", "is --gpus"),
        (["--gpus", "4", "--shard", "8"], "4 GPUs are not", "is --gpus"),
        (["--gpus", "8", "--shard", "2", "--replicate", "2"], "8 GPUs are not 2 copies of 2", "--replicate times"),
        (["--set", "device=cpu"], "trains on a CPU", "device=auto"),
        (["--set", "spec=nowhere.cdr"], "nowhere.cdr", ""),
    ],
)
def test_mistakes_name_their_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str, help: str
) -> None:
    shown = said(capsys, *planned(tmp_path), *more)
    assert message in shown and help in shown


def test_meshes() -> None:
    own, eights = MeshConfig(), MeshConfig(replicate=2, shard=8)
    assert mesh_of(512, None, None, own) == Mesh(1, 512) and mesh_of(16, None, None, eights) == Mesh(2, 8)
    assert mesh_of(16, None, 8, own) == Mesh(2, 8) == mesh_of(16, 2, None, own)
    assert mesh_of(32, None, 32, eights) == Mesh(1, 32)  # what is asked for goes before the config
    with pytest.raises(UserError, match="32 GPUs are not 2 copies of 8 shards"):
        mesh_of(32, None, None, eights)
    assert rows_of(Mesh(4, 2), 64, 2) == 4
    assert in_machine(Mesh(2, 16), 8) == (8, 1) and in_machine(Mesh(4, 2), 8) == (2, 4)
    with pytest.raises(UserError, match="does not divide"):
        rows_of(Mesh(1, 3), 64, 1)


def test_cards_are_plausible() -> None:
    for name, found in CARDS.items():
        assert card(name.upper()) is found
        assert found.bf16 > found.f32 > 1e13 and found.bandwidth > found.link >= found.network and found.memory >= 24e9


def test_experts_with_state_are_refused_with_a_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = SPEC.replace("relu2(hidden=32)", "keeps").replace("model small", KEEPS + "model small")
    arguments = planned(tmp_path)
    write_spec(tmp_path, spec)
    assert "experts that hold state cannot be planned" in said(capsys, *arguments)


def test_layers_that_share_parameters_cannot_be_shared_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = SPEC.replace("    head(vocab)\n", "    head(vocab)\n    tie layer.1.att.mr = layer.0.att.mr\n")
    assert spec != SPEC
    arguments = planned(tmp_path)
    write_spec(tmp_path, spec)
    assert "layers that share parameters" in said(capsys, *arguments, "--gpus", "2")
    assert main(arguments) == 0


KEEPS = """
op keeps(x: [D]) -> [D] {
  param a: [D] ~ 0.5
  state S: [D]
  S' = a*S + x
  return S'
}
"""


# --- the recipes -----------------------------------------------------------------------------------------------------
SIZES = ("1b", "1.5b", "4b", "8b", "40b", "200b")


@pytest.mark.parametrize("size", SIZES)
def test_recipes_are_read_and_take_twenty_tokens_a_parameter(size: str) -> None:
    config = read_config(TrainConfig, ROOT / "configs" / f"train-{size}.yaml")
    model = load(ROOT / config.spec, config.set)
    parameters = cost(model).total.stored
    assert 20 <= config.steps * config.batch * model.settings["context"] / parameters < 22  # type: ignore[operator]
    assert str(config.out) == f"runs/{size}" and config.optim.schedule == "wsd" and config.precision == "bf16"
    text = (ROOT / config.spec).read_text()
    said = f"{parameters / 1e9:.2f}" if parameters < 1e10 else f"{parameters / 1e9:.3g}"
    active = cost(model).total.active / 1e9
    assert said in text and f"token uses {active:.3g}" in text or f"token uses {active:.2f}" in text


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("train-*.yaml")), ids=lambda p: p.stem)
def test_every_training_config_is_read(path: Path) -> None:
    assert read_config(TrainConfig, path).steps > 0


def test_options_of_optimisers_are_in_the_footprint() -> None:
    lowered = lower(load(ROOT / "spec" / "rwkv7.cdr", {"layers": "1"}))
    adamw, muon = (footprint(lowered, as_config(optim=OptimConfig(kind=kind)), 1, 16) for kind in ("adamw", "muon"))
    assert adamw.optimiser > 1.9 * adamw.weights and muon.optimiser < adamw.optimiser
    assert muon.step.most_rest > adamw.step.most_rest
