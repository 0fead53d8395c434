"""Training: losses fall, a resumed run is bitwise an uninterrupted one, and mistakes are refused before any work."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cdrmix.artifact import write_artifact
from cdrmix.check import load
from cdrmix.compiler import lower
from cdrmix.diagnose import UserError
from cdrmix.train import place
from cdrmix.train.config import EvalConfig, TrainConfig
from cdrmix.train.evaluate import score_checkpoint
from cdrmix.train.loop import Trainer
from cdrmix.train.progress import read_metrics
from tests.small import TEXT, write_spec


def config(tmp_path: Path, run: str, **changes: object) -> TrainConfig:
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "held_out.txt").write_text(TEXT[:2000])
    base = {
        "spec": write_spec(tmp_path),
        "data": {"train": tmp_path / "text.txt", "eval": tmp_path / "held_out.txt"},
        "out": tmp_path / run,
        "steps": 8,
        "batch": 4,
        "log_every": 1,
        "eval_every": 4,
        "save_every": 4,
        "threads": 1,
        "optim": {"lr": 1e-2, "warmup": 2, "schedule": "wsd"},
    }
    return TrainConfig.model_validate(base | changes)


def losses(run: Path) -> list[float]:
    return [r["loss"] for r in read_metrics(run / "metrics.jsonl") if "loss" in r]


@pytest.mark.parametrize(
    "how", [{}, {"accumulate": 2}, {"precision": "bf16"}, {"precision": "bf16", "carry_state": True}]
)
def test_a_resumed_run_is_bitwise_an_uninterrupted_one(tmp_path: Path, how: dict[str, object]) -> None:
    Trainer(config(tmp_path, "whole", **how)).train()
    # the stopped run is the same run cut after its checkpoint of step 4: the rate depends on the last step
    cut = Trainer(config(tmp_path, "cut", **how))
    while cut.step < 4:
        cut.train_step(cut.step)
        cut.step += 1
    cut.save()
    del cut
    Trainer(config(tmp_path, "cut", **how), resume=True).train()
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")[4:]
    one, two = (load_file(tmp_path / run / "last" / "weights.safetensors") for run in ("whole", "cut"))
    assert all((one[name] == two[name]).all() for name in one)


@pytest.mark.parametrize("how", [{"recompute": "layers"}, {"compile": True}, {"recompute": "layers", "compile": True}])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_computed_again_or_compiled_trains_the_same(
    tmp_path: Path, how: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "require_compiler", lambda device: None)
    # the graph, without its compiler
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    Trainer(config(tmp_path, "plain", steps=4)).train()
    Trainer(config(tmp_path, "other", steps=4, **how)).train()
    assert losses(tmp_path / "other") == pytest.approx(losses(tmp_path / "plain"), rel=1e-5)


def test_a_run_in_bf16_keeps_its_weights_in_f32_and_learns_as_one_in_f32_does(tmp_path: Path) -> None:
    Trainer(config(tmp_path, "narrow", steps=20, precision="bf16")).train()
    Trainer(config(tmp_path, "wide", steps=20)).train()
    assert {str(x.dtype) for x in load_file(tmp_path / "narrow" / "last" / "weights.safetensors").values()} == {
        "torch.float32"
    }
    narrow, wide = losses(tmp_path / "narrow"), losses(tmp_path / "wide")
    assert narrow != wide
    assert narrow[:10] == pytest.approx(wide[:10], rel=0.03)
    assert narrow[-1] == pytest.approx(wide[-1], rel=0.1)


def test_training_learns_and_reports(tmp_path: Path) -> None:
    trainer = Trainer(config(tmp_path, "run", steps=40, save_every=20))
    trainer.train()
    found = losses(tmp_path / "run")
    assert found[-1] < 0.75 * found[0]
    records = [r for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in r]
    (shares,) = [v for k, v in records[-1]["metrics"].items() if k.endswith(".load")]
    assert sum(shares) == pytest.approx(1.0, abs=1e-5) and len(shares) == 4
    assert [k for k in records[-1]["aux"] if k.endswith("balance_loss")]
    scored = [r["eval_loss"] for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if "eval_loss" in r]
    asked = {"spec": tmp_path / "small.cdr", "data": tmp_path / "held_out.txt", "context": 7}
    score = score_checkpoint(EvalConfig.model_validate(asked | {"checkpoint": tmp_path / "run"}))
    # the score does not depend on how many tokens are read at a time
    assert score.loss == pytest.approx(scored[-1], rel=1e-4)
    assert score.bits_per_byte == pytest.approx(
        score.nats / 0.6931471805599453 / 1999
    )  # nothing predicts the first byte
    write_artifact(lower(load(tmp_path / "small.cdr")), "cpu", tmp_path / "artefact", tmp_path / "run")
    streamed = score_checkpoint(EvalConfig.model_validate(asked | {"checkpoint": tmp_path / "artefact"}))
    assert streamed.loss == pytest.approx(score.loss, rel=1e-5) and streamed.tokens == score.tokens
    with pytest.raises(UserError, match="was not compiled from"):
        score_checkpoint(
            EvalConfig.model_validate(asked | {"checkpoint": tmp_path / "artefact", "set": {"layers": "1"}})
        )


def test_a_run_is_not_overwritten_and_not_resumed_as_another(tmp_path: Path) -> None:
    Trainer(config(tmp_path, "run", steps=1)).train()
    with pytest.raises(UserError, match="holds a run already"):
        Trainer(config(tmp_path, "run", steps=2))
    with pytest.raises(UserError, match="batch changed"):
        Trainer(config(tmp_path, "run", steps=2, batch=8), resume=True)
    with pytest.raises(UserError, match="not the one"):
        Trainer(config(tmp_path, "run", steps=2, set={"layers": "3"}), resume=True)
    with pytest.raises(UserError, match="nothing to resume"):
        Trainer(config(tmp_path, "absent", steps=2), resume=True)


def test_nan_moves_nothing_and_ends_the_run(tmp_path: Path) -> None:
    trainer = Trainer(config(tmp_path, "run", steps=100))
    before = {n: x.clone() for n, x in trainer.module.state_dict().items()}
    trainer.module.ln_out.register_forward_hook(lambda module, args, out: out * float("nan"))
    with pytest.raises(UserError, match="no finite loss in 20 steps"):
        trainer.train()
    assert all((x == before[n]).all() for n, x in trainer.module.state_dict().items())
    assert not (tmp_path / "run" / "last").exists()


def test_mistakes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not divide"):
        Trainer(config(tmp_path, "run", accumulate=3))
    with pytest.raises(UserError, match="vocabulary of 100"):
        Trainer(config(tmp_path, "run", set={"vocab": "100"}))
    with pytest.raises(UserError, match="no tokenizer at"):
        Trainer(config(tmp_path, "run", tokenizer=tmp_path / "absent.json"))
    (tmp_path / "bad.json").write_text(json.dumps({"model": 1}))
    with pytest.raises(UserError, match="is not a tokenizer"):
        Trainer(config(tmp_path, "run", tokenizer=tmp_path / "bad.json"))
