"""The average of a run's weights: its equation, its place in checkpoints, and that scoring it leaves no trace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cdrmix.check import load
from cdrmix.checkpoints import find_weights, read_weights
from cdrmix.diagnose import UserError
from cdrmix.train.config import EvalConfig
from cdrmix.train.evaluate import score_checkpoint
from cdrmix.train.loop import Trainer
from cdrmix.train.progress import read_metrics
from tests.good.test_train import config
from tests.small import SPEC, write_spec

AVERAGED = {"lr": 1e-2, "warmup": 2, "ema": 0.5}
BIASED = (
    SPEC.replace("moe.cdr", "moe_sigmoid.cdr").replace("{ moe }", "{ moe_sigmoid }").replace(" moe(", " moe_sigmoid(")
)
"""With a buffer, which `after step` moves, and no gradient."""


def test_the_average_is_its_equation_and_the_weights_do_not_know_of_it(tmp_path: Path) -> None:
    plain = Trainer(config(tmp_path, "plain", optim={"lr": 1e-2, "warmup": 2}))
    averaged = Trainer(config(tmp_path, "averaged", optim=AVERAGED))
    wanted = {n: x.detach().double() for n, x in averaged.module.named_parameters()}
    for step in range(4):
        plain.train_step(step)
        averaged.train_step(step)
        d = min(0.5, (1 + step) / (10 + step))
        wanted = {n: d * wanted[n] + (1 - d) * p.detach().double() for n, p in averaged.module.named_parameters()}
    assert averaged.average is not None
    before = {n: x.clone() for n, x in averaged.module.state_dict().items()}
    with averaged.average.in_place():
        for name, p in averaged.module.named_parameters():
            torch.testing.assert_close(p.detach().double(), wanted[name], rtol=1e-5, atol=1e-7)
    for name, x in plain.module.state_dict().items():
        assert torch.equal(x, averaged.module.state_dict()[name]) and torch.equal(x, before[name])


def test_it_is_saved_scored_resumed_bitwise_and_taken_as_a_checkpoint(tmp_path: Path) -> None:
    spec = write_spec(tmp_path, BIASED, "biased.cdr")
    given = {"spec": spec, "optim": AVERAGED, "steps": 8}
    Trainer(config(tmp_path, "whole", **given)).train()
    cut = Trainer(config(tmp_path, "cut", **given))
    while cut.step < 4:
        cut.train_step(cut.step)
        cut.step += 1
    cut.save()
    cut.folder.close()
    Trainer(config(tmp_path, "cut", **given), resume=True).train()
    for name in ("weights", "optimizer", "ema"):
        one, two = (tmp_path / run / "last" / f"{name}.safetensors" for run in ("whole", "cut"))
        assert one.read_bytes() == two.read_bytes()
    weights, average = (load_file(tmp_path / "whole" / "last" / f"{name}.safetensors") for name in ("weights", "ema"))
    assert weights.keys() == average.keys()
    assert torch.equal(weights["layer.1.ffn.bias"], average["layer.1.ffn.bias"])
    assert not torch.equal(weights["layer.1.ffn.Wg"], average["layer.1.ffn.Wg"])
    model = load(spec)
    for asked, found in ((tmp_path / "whole", weights), (tmp_path / "whole" / "last" / "ema.safetensors", average)):
        for name, x in read_weights(model, find_weights(asked)).items():
            np.testing.assert_array_equal(x, found[name].numpy())
    lines = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    told = {key: r[key] for r in lines for key in ("eval_bits", "ema_bits") if r["step"] == 8 and key in r}
    for key, path in (("eval_bits", "whole"), ("ema_bits", "whole/last/ema.safetensors")):
        score = score_checkpoint(
            EvalConfig(spec=spec, checkpoint=tmp_path / path, data=tmp_path / "held_out.txt", threads=1)
        )
        assert score.bits_per_byte == pytest.approx(told[key], rel=1e-5)
    assert told["eval_bits"] != told["ema_bits"]


def test_a_damaged_average_is_told_and_a_step_that_moves_nothing_is_not_in_it(tmp_path: Path) -> None:
    trainer = Trainer(config(tmp_path, "run", steps=4, optim=AVERAGED))
    trainer.save()
    assert trainer.average is not None
    before = trainer.average.state()["head.W"].clone()
    hook = trainer.module.ln_out.register_forward_hook(lambda m, a, out: out * float("nan"))
    trainer.train_step(0)
    hook.remove()
    assert torch.equal(trainer.average.state()["head.W"], before)
    trainer.folder.close()
    file = tmp_path / "run" / "last" / "ema.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(UserError, match="ema.safetensors"):
        find_weights(file)
    with pytest.raises(UserError, match="no checkpoint of .* is whole"):
        Trainer(config(tmp_path, "run", steps=4, optim=AVERAGED), resume=True)
