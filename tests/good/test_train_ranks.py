"""Many processes train what one trains: equal but for rounding, dense, with experts, hybrid, however sharded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cdrmix.arguments import make_parser
from cdrmix.check import load_text
from cdrmix.commands import run_train
from cdrmix.compiler import lower
from cdrmix.diagnose import UserError
from cdrmix.runs import checkpoints, step_of
from cdrmix.train.build import build_module
from cdrmix.train.loop import Trainer
from cdrmix.train.ranks import Ranks, join
from cdrmix.train.shard import Mesh
from tests.ranks import CASES, HYBRID, config, losses
from tests.small import SPEC

Found = dict[str, list[dict[str, float]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the cases were trained."""
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def found(folder: Path) -> Found:
    """What `tests.ranks` said of each case."""
    command = [sys.executable, "-m", "tests.ranks", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: [line for line in lines if line["case"] == name] for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_many_processes_train_as_one(found: Found, name: str) -> None:
    trained = [line for line in found[name] if "ranks" in line]
    assert [line["ranks"] for line in trained] == list(CASES[name].sizes)
    for line in trained:
        assert line["losses"] <= CASES[name].within and line["weights"] <= CASES[name].within, line


def test_any_number_of_processes_goes_on_from_a_checkpoint_and_as_many_bitwise(found: Found) -> None:
    resumed = {line["resumed"]: line for line in found["hybrid"] if "resumed" in line}
    assert set(resumed) == {1, 2, 4}
    for line in resumed.values():
        assert line["losses"] <= 1e-6 and line["weights"] <= 1e-6, line
    assert resumed[4]["losses"] == resumed[4]["weights"] == 0.0


def wait_for(step: int, run: Path, child: subprocess.Popen[str]) -> None:
    """Wait until a run is so far, and has saved."""
    deadline = time.monotonic() + 240
    while not any(step_of(p) >= step for p in checkpoints(run)):
        assert time.monotonic() < deadline and child.poll() is None, child.communicate()
        time.sleep(0.02)


def test_a_killed_process_is_started_anew_and_ctrl_c_saves(found: Found, folder: Path) -> None:
    """The losses are those of a run that nobody disturbed, to the last bit."""
    given = config(folder, "launched", SPEC, **CASES["long"].changes)
    (folder / "launched.yaml").write_text(json.dumps(given.model_dump(mode="json")))
    run = folder / "launched"
    command = [sys.executable, "-m", "cdrmix.cli", "train", str(folder / "launched.yaml"), "--nproc=2", "--restarts=1"]
    default = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **default) as child:  # type: ignore[call-overload]
        wait_for(6, run, child)
        os.kill(int((run / ".lock").read_text().split()[1]), signal.SIGKILL)
        wait_for(max(map(step_of, checkpoints(run))) + 4, run, child)
        child.send_signal(signal.SIGINT)
        said = child.communicate(timeout=240)[1]
    assert child.returncode == 130, said
    assert said.count("lost another one") <= 1 and said.count("--resume goes on from it") == 1, said
    assert "Traceback" not in said, said
    whole, done = losses(folder / "long-2"), losses(run)
    assert 10 <= len(done) < len(whole) and done == whole[: len(done)]
    Trainer(given, resume=True).train()
    assert losses(run) == pytest.approx(whole, rel=1e-5) and losses(run)[: len(done)] == done


@pytest.mark.parametrize("spec", [SPEC, HYBRID])
def test_values_drawn_for_shards_are_those_of_a_whole_module(spec: str, tmp_path: Path) -> None:
    module = build_module(lower(load_text(spec)), tmp_path, 5)
    whole = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    drawn = dict(module.drawn(5))
    assert drawn.keys() == whole.keys() and all(torch.equal(x, whole[path]) for path, x in drawn.items())


def test_what_was_not_started_as_ranks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = tmp_path / "run.yaml"
    at.write_text("spec: spec/tiny.cdr\ndata: {train: text.txt}\nout: run\nsteps: 1\n")
    with pytest.raises(UserError, match="--restarts is of the processes of --nproc"):
        run_train(make_parser().parse_args(["train", str(at), "--restarts", "2"]))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UserError, match="MASTER_ADDR is not"):
        join()


def test_a_mesh_is_the_processes() -> None:
    assert Mesh.of(8, 2, None) == Mesh(2, 4) and Mesh.of(6, 1, 6) == Mesh(1, 6)
    for ranks, replicate, shard in ((8, 3, None), (8, 2, 2), (1, 1, 4)):
        with pytest.raises(UserError, match=f"there are {ranks} processes"):
            Mesh.of(ranks, replicate, shard)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_each_row_of_a_part_is_of_one_rank(parts: int, size: int) -> None:
    rows = [[*range(24)[r]] for rank in range(size) for r in Ranks(rank, size).rows(24, parts)]
    assert sorted(sum(rows, [])) == [*range(24)]
    of_part = 24 // parts
    assert all(len({row // of_part for row in stretch}) == 1 and len(stretch) == of_part // size for stretch in rows)
