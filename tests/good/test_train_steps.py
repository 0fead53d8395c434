"""The steps of a run: which move nothing, how fast each learns, what they hold, and what Ctrl-C does."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cdrmix.cli import main
from cdrmix.diagnose import UserError
from cdrmix.train.batches import IGNORE
from cdrmix.train.config import OptimConfig
from cdrmix.train.loop import Trainer
from cdrmix.train.optimiser import overlap, rate
from cdrmix.train.progress import plot_loss, read_metrics
from tests.good.test_train import config
from tests.good.test_train_measures import strict


# --- steps that move nothing, and steps in parts --------------------------------------------------------------------
def spoil(trainer: Trainer, steps: range) -> None:
    """Make the loss of these steps NaN."""
    run = trainer.train_step

    def step(at: int) -> object:
        hook = trainer.module.ln_out.register_forward_hook(lambda m, a, out: out * math.nan)
        try:
            return run(at) if at in steps else (hook.remove(), run(at))[1]
        finally:
            hook.remove()

    trainer.train_step = step  # type: ignore[method-assign, assignment]


def test_a_run_without_a_finite_step_fails_and_saves_nothing(tmp_path: Path) -> None:
    trainer = Trainer(config(tmp_path, "run", steps=3))
    spoil(trainer, range(3))
    with pytest.raises(UserError, match="no finite loss in 3 steps") as e:
        trainer.train()
    assert "nothing was saved" in e.value.help and not (tmp_path / "run" / "last").exists()
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        strict(line)
    plot_loss(tmp_path / "run" / "metrics.jsonl", tmp_path / "loss.png")


def test_a_run_that_ends_on_a_bad_step_is_saved_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = Trainer(config(tmp_path, "run", steps=6, save_every=4))
    spoil(trainer, range(5, 6))
    trainer.train()
    assert (tmp_path / "run" / "last").resolve().name == "step-00000006"
    assert "the last 1 step changed nothing" in capsys.readouterr().err
    records = [strict(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {r["step"]: r["loss"] for r in records if "loss" in r}[6] is None  # type: ignore[index]


def test_weights_that_are_not_finite_are_no_checkpoint(tmp_path: Path) -> None:
    trainer = Trainer(config(tmp_path, "run", steps=3))
    with torch.no_grad():
        next(trainer.module.parameters()).view(-1)[0] = math.inf
    with pytest.raises(UserError, match="not finite"):
        trainer.save()
    assert not (tmp_path / "run" / "last").exists()


def test_a_step_with_nothing_to_predict_moves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ones.jsonl").write_text('{"text": "a"}\n' * 300 + '{"text": "ab"}\n')
    given = {"data": {"train": tmp_path / "ones.jsonl"}, "steps": 30, "batch": 1, "context": 4}
    trainer = Trainer(config(tmp_path, "run", **given))
    at = next(step for step in range(30) if (trainer.batches.at(step).targets == IGNORE).all())
    before = {n: x.clone() for n, x in trainer.module.state_dict().items()}
    found = trainer.train_step(at)
    assert found.finite and found.loss == found.targets == 0
    assert all((x == before[n]).all() for n, x in trainer.module.state_dict().items())
    assert not trainer.optimiser.state
    trainer.train()
    said = capsys.readouterr().err
    assert "300 of 301 documents are one token long" in said and "steps had nothing to predict" in said
    assert (tmp_path / "run" / "last").resolve().name == "step-00000030"
    assert [r["loss"] for r in read_metrics(tmp_path / "run" / "metrics.jsonl")].count(0.0) > 20


def test_a_step_in_parts_is_the_mean_over_all_its_targets(tmp_path: Path) -> None:
    """Parts with many, few and no targets: one part's loss weighs as much as it has targets."""
    (tmp_path / "ones.jsonl").write_text('{"text": "a"}\n' * 90 + '{"text": "a longer document than the others are"}\n')
    given = {"data": {"train": tmp_path / "ones.jsonl"}, "context": 8, "steps": 5, "set": {"layers": "1"}}
    whole, parts = (Trainer(config(tmp_path, f"run{n}", accumulate=n, **given)) for n in (1, 4))
    for step in range(5):
        one, four = whole.train_step(step), parts.train_step(step)
        assert one.targets == four.targets
        assert four.loss == pytest.approx(one.loss, rel=1e-4) and four.norm == pytest.approx(one.norm, rel=1e-2)


# --- the learning rate ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("schedule", ["wsd", "cosine", "linear"])
def test_the_last_step_is_at_final(schedule: str) -> None:
    for steps in [*range(1, 30), 1000]:
        for warmup in (0, 1, 2, 5, 50):
            for decay in (0.01, 0.2, 0.5, 1.0):
                given = OptimConfig(schedule=schedule, warmup=warmup, final=0.03, decay=decay)  # type: ignore[arg-type]
                rates = [rate(given, step, steps) for step in range(steps)]
                assert rates[-1] == pytest.approx(0.03), (steps, warmup, decay)
                assert all(0 < r <= 1 for r in rates)
                assert (max(rates) < 1) == bool(overlap(given, steps)), (steps, warmup, decay)
                falling = max(1, round(decay * steps)) if schedule == "wsd" else max(1, steps - 1 - warmup)
                after = rates[max(0, steps - falling - 1) :]
                if warmup + falling < steps:
                    assert after == sorted(after, reverse=True) and len(set(after)) == len(after)


def test_a_decay_of_one_step_in_five() -> None:
    given = OptimConfig(schedule="wsd", warmup=0, final=0.0, decay=0.2)
    assert [rate(given, step, 5) for step in range(5)] == [1, 1, 1, 1, 0]


def test_an_overlap_is_said(tmp_path: Path) -> None:
    notes = Trainer(config(tmp_path, "run", steps=4, optim={"warmup": 3, "schedule": "wsd", "decay": 0.5})).notes
    assert "3 steps of warm-up and 2 of decay do not fit into 4" in notes[-1]


def test_schedules() -> None:
    cosine = OptimConfig(schedule="cosine", warmup=10, final=0.1)
    wsd = OptimConfig(schedule="wsd", warmup=10, final=0.0, decay=0.25)
    assert [rate(c, 4, 100) for c in (cosine, wsd)] == [0.5, 0.5]
    assert rate(cosine, 10, 101) == 1 and rate(cosine, 55, 101) == pytest.approx(0.55)
    assert rate(cosine, 100, 101) == pytest.approx(0.1)
    linear = OptimConfig(schedule="linear", warmup=10, final=0.1)
    assert [rate(linear, step, 101) for step in (4, 10, 100)] == [0.5, 1, pytest.approx(0.1)]
    assert rate(linear, 55, 101) == pytest.approx(0.55) and rate(linear, 40, 101) == pytest.approx(0.7)
    assert rate(wsd, 74, 100) == 1 and rate(wsd, 87, 100) == pytest.approx(0.48) and rate(wsd, 99, 100) == 0


# --- memory ---------------------------------------------------------------------------------------------------------
def test_a_step_that_no_machine_holds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tokens at once: their values take"):
        Trainer(config(tmp_path, "run", batch=10**12))
    Trainer(config(tmp_path, "run", steps=1, seed=2**64 - 1))


FAULTS = """
import resource, sys
import numpy as np
from cdrmix.train.place import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for n in range(12):
    if n == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(1 << 24, np.float32)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Page faults of ten uses of 64 MB after the first two."""
    command, around = [sys.executable, "-c", FAULTS, how], {**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0"}
    return int(subprocess.run(command, env=around, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="malloc is asked on Linux only")
def test_freed_memory_is_used_again() -> None:
    given_back = faults("leave")
    if given_back < 1000:
        pytest.skip("this malloc keeps freed memory anyway")
    assert faults("keep") < given_back / 10


# --- Ctrl-C ---------------------------------------------------------------------------------------------------------
def test_ctrl_c_saves_the_step_where_stderr_is_a_pipe_that_nobody_reads(tmp_path: Path) -> None:
    """As after `2>&1 | tee log`: the same Ctrl-C ends `tee`."""
    trainer = Trainer(config(tmp_path, "run", steps=4))
    run, kept, (unread, pipe) = trainer.train_step, os.dup(2), os.pipe()

    def step(number: int) -> object:
        if number == 1:
            signal.raise_signal(signal.SIGINT)
        return run(number)

    trainer.train_step = step  # type: ignore[method-assign,assignment]
    os.close(unread)
    os.dup2(pipe, 2)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs the tests may ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    finally:
        signal.signal(signal.SIGINT, before)
        os.dup2(kept, 2)
        os.close(pipe)
        os.close(kept)
    assert trainer.step == 2 and (trainer.config.out / "last" / "trainer.json").is_file()


def test_the_first_ctrl_c_saves_the_step(home: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = [f"out={run}", "steps=100000", "log_every=1", "save_every=100000", "context=8"]
    command = [sys.executable, "-m", "cdrmix.cli", "train", str(home / "c.yaml")]
    command += [part for setting in settings for part in ("--set", setting)]
    default = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **default) as child:  # type: ignore[call-overload]
        deadline = time.monotonic() + 120
        while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_text():
            assert time.monotonic() < deadline and child.poll() is None
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        shown = child.communicate(timeout=60)[1]
    assert child.returncode == 130
    assert "--resume goes on from it" in shown and "Traceback" not in shown
    step = json.loads((run / "last" / "trainer.json").read_text())["step"]
    assert main(["train", str(home / "c.yaml"), "--resume", *command[5:], "--set", f"steps={step + 1}"]) == 0
