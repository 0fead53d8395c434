"""How a run begins and goes on: where it can, from weights it is given, and from the state of the piece before."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cdrmix.artifact import write_artifact
from cdrmix.check import load
from cdrmix.compiler import lower
from cdrmix.diagnose import UserError
from cdrmix.record import write_record
from cdrmix.train.batches import IGNORE, Lanes
from cdrmix.train.checkpoint import save_checkpoint
from cdrmix.train.evaluate import evaluate
from cdrmix.train.loop import Trainer
from cdrmix.train.place import Placement
from cdrmix.train.store import TokenStore
from cdrmix.train.tokenizer import train_tokenizer
from tests.good.commands import said
from tests.good.test_train import config, losses
from tests.small import TEXT

STILL = {"lr": 1e-44, "warmup": 0, "weight_decay": 0.0}
"""An optimiser that moves nothing."""


# --- from weights ----------------------------------------------------------------------------------------------------
def test_a_run_starts_from_any_checkpoint(tmp_path: Path) -> None:
    first = config(tmp_path, "first", steps=3, save_every=2)
    Trainer(first).train()
    trained = load_file(tmp_path / "first" / "last" / "weights.safetensors")
    torch.save(trained, tmp_path / "weights.pth")
    write_artifact(lower(load(first.spec)), "cpu", tmp_path / "artefact", tmp_path / "first")
    places = ["first", "first/last", "first/checkpoints/step-00000003", "first/last/weights.safetensors"]
    for n, place in enumerate([*places, "weights.pth", "artefact"]):
        trainer = Trainer(config(tmp_path, f"from{n}", checkpoint=tmp_path / place, seed=7))
        begun = trainer.module.state_dict()
        assert trainer.step == 0 and not trainer.optimiser.state
        assert all((begun[name] == x).all() for name, x in trained.items())


def test_a_start_that_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    Trainer(config(tmp_path, "first", steps=1)).train()
    weights = tmp_path / "first" / "last" / "weights.safetensors"
    other = {"layers": "3"}
    with pytest.raises(UserError, match=r"does not fit small:\n  .*layer.2.*missing"):
        Trainer(config(tmp_path, "second", checkpoint=weights, set=other))
    with pytest.raises(UserError, match="no weights at"):
        Trainer(config(tmp_path, "second", checkpoint=tmp_path / "absent"))
    tensors = load_file(weights)
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    save_file(tensors, tmp_path / "nan.safetensors")
    with pytest.raises(UserError, match="numbers that are not finite"):
        Trainer(config(tmp_path, "second", checkpoint=tmp_path / "nan.safetensors"))
    assert not (tmp_path / "second" / "last").exists()


def test_a_resumed_run_goes_on_from_its_own_weights(tmp_path: Path) -> None:
    """The start is part of the run, and is not needed again."""
    Trainer(config(tmp_path, "first", steps=2)).train()
    again = {"checkpoint": tmp_path / "first", "out": tmp_path / "second", "seed": 3}
    Trainer(config(tmp_path, "second", steps=2, save_every=1, **again)).train()
    (tmp_path / "first").rename(tmp_path / "moved")
    trainer = Trainer(config(tmp_path, "second", steps=4, **again), resume=True)
    own = load_file(tmp_path / "second" / "last" / "weights.safetensors")
    assert trainer.step == 2 and all((trainer.module.state_dict()[n] == x).all() for n, x in own.items())
    trainer.folder.close()
    with pytest.raises(UserError, match="checkpoint changed"):
        Trainer(config(tmp_path, "second", steps=4, **again | {"checkpoint": None}), resume=True)


def test_another_tokenizer_beside_the_start_is_said(tmp_path: Path) -> None:
    Trainer(config(tmp_path, "first", steps=1)).train()
    home = tmp_path / "given"
    home.mkdir()
    (home / "weights.safetensors").write_bytes((tmp_path / "first" / "last" / "weights.safetensors").read_bytes())
    train_tokenizer([tmp_path / "text.txt"], 257).save(str(home / "tokenizer.json"))
    assert "another tokenizer" in Trainer(config(tmp_path, "second", checkpoint=home)).notes[-1]
    assert "another tokenizer" not in str(Trainer(config(tmp_path, "third", checkpoint=tmp_path / "first")).notes)


@pytest.mark.parametrize(
    ("asked", "says"),
    [({"device": "xpu"}, "`device` xpu"), ({"work": "f16"}, "`work` f16")],
)
def test_a_placement_that_does_not_exist_is_refused_by_name(asked: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        Placement(**asked)
    assert " is " in error.value.help


# --- from state ------------------------------------------------------------------------------------------------------
def test_lanes_read_every_document_on(tmp_path: Path) -> None:
    """A row goes on where it ended, in a document or with the next one, and each epoch reads what it should."""
    pick = random.Random(0)
    for end in (None, 0):
        sizes = [pick.randrange(1, 40) for _ in range(30)]
        starts = np.cumsum([0, *sizes[:-1]])
        tokens = np.arange(1, sum(sizes) + 1)
        if end is not None:
            tokens[starts] = 0
        store = TokenStore(tokens, starts, np.zeros(2000), end, "")
        rows, length = 3, 8
        lanes = Lanes(store, rows, length, seed=5)
        steps = len(tokens) // rows // length
        orders = []
        for epoch in range(3):
            batches = [lanes.at(epoch * steps + step) for step in range(steps)]
            found, aims, resets = (torch.cat([getattr(b, n) for b in batches], 1).numpy() for n in _FIELDS)
            assert resets[:, 0].all()
            for row in range(rows):
                for t in range(steps * length - 1):
                    now, then, aim, new = found[row, t], found[row, t + 1], aims[row, t], resets[row, t + 1]
                    if end is None:
                        assert new == (then - 1 in starts)
                        assert aim == (IGNORE if new else now + 1) and (new or then == now + 1)
                    else:
                        assert new == (then == 0) and aim == then
            seen = found[found > 0]
            assert len(set(seen.tolist())) == len(seen) >= len(tokens) - rows * length - (end is not None) * 30
            orders.append(found.tolist())
        assert orders[0] != orders[1] != orders[2]
        again = Lanes(store, rows, length, seed=5)
        assert all((getattr(again.at(steps + 1), n) == getattr(lanes.at(steps + 1), n)).all() for n in _FIELDS)
    with pytest.raises(UserError, match="4 lanes of 200 need 800"):
        Lanes(store, 4, 200, seed=5)


_FIELDS = ("tokens", "targets", "reset")


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_carried_state_is_that_of_the_whole_document(tmp_path: Path, accumulate: int) -> None:
    """The losses of an epoch that moves nothing are those of the lanes read at once, in one long forward each."""
    given = {"carry_state": True, "accumulate": accumulate, "optim": STILL, "context": 16}
    trainer = Trainer(config(tmp_path, "run", **given))
    batches = [trainer.batches.at(step) for step in range(20)]
    found = [trainer.train_step(step) for step in range(20)]
    tokens, aims, resets = (torch.cat([getattr(b, n) for b in batches], 1) for n in _FIELDS)
    trainer.module.eval()
    with torch.no_grad():
        logits, state = trainer.module(tokens, None, resets)
    wanted = torch.nn.functional.cross_entropy(logits.transpose(1, 2), aims, ignore_index=IGNORE, reduction="none")
    for one, many in zip(found, wanted.split(16, 1), strict=True):
        assert one.loss == pytest.approx(float(many.mean()), rel=1e-5)
    assert trainer.carried is not None
    assert all(torch.allclose(x, state[path], atol=1e-4) for path, x in trainer.carried.items())
    alone = Trainer(config(tmp_path, "alone", **given | {"carry_state": False}))
    assert alone.carried is None
    assert all(not x.requires_grad for x in trainer.carried.values())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_run_carries_the_same_state(tmp_path: Path, accumulate: int) -> None:
    (tmp_path / "docs.jsonl").write_text(
        "".join(json.dumps({"text": f"document {n}: " + "and so on, " * (n % 40)}) + "\n" for n in range(120))
    )
    given = {"carry_state": True, "accumulate": accumulate, "data": {"train": tmp_path / "docs.jsonl"}, "context": 16}
    Trainer(config(tmp_path, "whole", **given)).train()
    cut = Trainer(config(tmp_path, "cut", **given))
    while cut.step < 4:
        cut.train_step(cut.step)
        cut.step += 1
    cut.save()
    cut.folder.close()
    Trainer(config(tmp_path, "cut", **given), resume=True).train()
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")[4:]
    for file in ("weights.safetensors", "state.safetensors"):
        one, two = (load_file(tmp_path / run / "last" / file) for run in ("whole", "cut"))
        assert one.keys() == two.keys() and all((one[name] == two[name]).all() for name in one)
    with pytest.raises(UserError, match="carry_state changed"):
        Trainer(config(tmp_path, "cut", **given | {"carry_state": False, "steps": 9}), resume=True)


def test_a_damaged_state_is_not_resumed_from(tmp_path: Path) -> None:
    given = {"carry_state": True, "save_every": 2, "steps": 4}
    Trainer(config(tmp_path, "run", **given)).train()
    home = tmp_path / "run" / "checkpoints" / "step-00000004"
    state = load_file(home / "state.safetensors")
    save_file({name: x.double() if name != "pos" else x for name, x in state.items()}, home / "state.safetensors")
    with pytest.warns(UserWarning, match=r"state.safetensors .*not .* written"):
        resumed = Trainer(config(tmp_path, "run", **given | {"steps": 5}), resume=True)
    assert resumed.step == 2
    resumed.folder.close()
    home = tmp_path / "run" / "checkpoints" / "step-00000002"
    about = json.loads((home / "trainer.json").read_text())
    state = load_file(home / "state.safetensors")
    save_file({name: x[:1] for name, x in state.items()}, home / "state.safetensors")
    kept = {name: x for name, x in about.items() if name not in ("files", "checksum")}
    write_record(home / "trainer.json", kept, about["files"])
    with pytest.raises(UserError, match=r"state.safetensors: .* is float32 \[1"):
        Trainer(config(tmp_path, "run", **given | {"steps": 5}), resume=True)


def test_after_a_step_without_a_finite_loss_the_lanes_begin_anew(tmp_path: Path) -> None:
    trainer = Trainer(config(tmp_path, "run", carry_state=True))
    trainer.train_step(0)
    assert trainer.carried
    trainer.carried["pos"] += 1
    next(x for x in trainer.carried.values() if x.is_floating_point()).fill_(float("nan"))
    assert not trainer.train_step(1).finite and not trainer.carried
    trainer.step = 2
    trainer.save()
    trainer.folder.close()
    again = Trainer(config(tmp_path, "run", carry_state=True), resume=True)
    assert again.carried == {} and again.train_step(2).finite


def test_a_score_leaves_the_carried_state_alone(tmp_path: Path) -> None:
    trainer = Trainer(config(tmp_path, "run", carry_state=True))
    trainer.train_step(0)
    assert trainer.carried and trainer.eval_data
    before = {path: x.clone() for path, x in trainer.carried.items()}
    evaluate(trainer.module, trainer.eval_data, 16, limit=50)
    assert all((x == before[path]).all() for path, x in trainer.carried.items())


def test_a_run_of_before_the_keys_is_resumed(tmp_path: Path) -> None:
    Trainer(config(tmp_path, "run", steps=1)).train()
    home = tmp_path / "run" / "checkpoints" / "step-00000001"
    about = json.loads((home / "trainer.json").read_text())
    for key in ("checkpoint", "carry_state", "device", "precision", "compile", "recompute"):
        del about["config"][key]
    for key in ("kind", "muon_lr", "momentum", "z_loss"):
        del about["config"]["optim"][key]
    about["config"]["work"] = "f32"  # what `precision` was called
    kept = {name: x for name, x in about.items() if name not in ("files", "checksum")}
    write_record(home / "trainer.json", kept, about["files"])
    assert Trainer(config(tmp_path, "run", steps=2), resume=True).step == 1


# --- in a folder ----------------------------------------------------------------------------------------------------
def test_out_is_no_folder(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = ["train", home / "c.yaml", "--set"]
    assert "a file" in said(capsys, *train, f"out={home / 'text.txt'}")
    assert "Not a directory" in said(capsys, *train, f"out={home / 'text.txt' / 'run'}")
    text = home / "text.txt"
    assert "is a folder" in said(capsys, "tokenizer", "train", text, "--vocab", "260", "-o", tmp_path)
    assert "error: " in said(capsys, "data", "split", text, "-o", text)
    assert "error: " in said(capsys, "data", "from-directory", home, text)
    assert not (home / "run").exists()


def test_nothing_is_made_for_data_that_is_not_there(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert "no data at" in said(capsys, "train", home / "c.yaml", "--set", f"out={run}", "--set", "data.train=absent")
    assert not run.exists()


def test_a_run_killed_in_its_first_save_can_begin_again(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints" / ".step-00000001.7.part").mkdir(parents=True)
    Trainer(config(tmp_path, "run", steps=1)).train()
    assert (tmp_path / "run" / "last" / "trainer.json").is_file()


def test_a_run_goes_on_only_with_its_data(tmp_path: Path) -> None:
    Trainer(config(tmp_path, "run", steps=1)).train()
    again = config(tmp_path, "run", steps=2)  # writes the text anew: another time, the same bytes
    assert Trainer(again, resume=True).step == 1
    (tmp_path / "text.txt").write_text(TEXT.replace("number", "figure"))
    with pytest.raises(UserError, match="the data or the tokenizer is not"):
        Trainer(again, resume=True)
    (tmp_path / "run" / "last" / "trainer.json").write_text("{}")
    with pytest.raises(UserError, match="no checkpoint of .* is whole"):
        Trainer(again, resume=True)


def test_a_checkpoint_is_kept_beside_later_ones_of_another_course(tmp_path: Path) -> None:
    module = nn.Linear(2, 2)
    optimiser = torch.optim.AdamW(module.parameters())
    for step in (100, 200, 300):
        save_checkpoint(tmp_path, step, module, optimiser, "{}", {}, 3)
    (tmp_path / "last").unlink()
    (tmp_path / "last").symlink_to("checkpoints/step-00000100")  # by hand
    save_checkpoint(tmp_path, 150, module, optimiser, "{}", {}, 1)
    assert (tmp_path / "last" / "weights.safetensors").is_file()
    assert {p.name[-3:] for p in (tmp_path / "checkpoints").iterdir()} == {"150", "200", "300"}
