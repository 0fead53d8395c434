"""Training at its edges: steps without a target or a finite loss, short schedules, scores within a limit."""

from __future__ import annotations

import json
import math
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from cdrmix.diagnose import UserError
from cdrmix.plain_json import to_json
from cdrmix.train.batches import IGNORE, lanes
from cdrmix.train.config import EvalConfig, OptimConfig, TrainConfig, read_config
from cdrmix.train.evaluate import Score
from cdrmix.train.loop import Trainer
from cdrmix.train.optimiser import overlap, rate
from cdrmix.train.progress import Metrics, plot_loss, read_metrics
from cdrmix.train.store import TokenStore
from tests.good.test_train import config


def strict(text: str) -> object:
    """JSON, by a reader that knows no NaN."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


# --- steps that move nothing ----------------------------------------------------------------------------------------
def spoil(trainer: Trainer, steps: range) -> None:
    """Make the loss of these steps NaN."""
    run = trainer.train_step

    def step(at: int) -> object:
        hook = trainer.module.register_forward_hook(lambda m, a, out: (out[0] * math.nan, out[1]))
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


# --- numbers ---------------------------------------------------------------------------------------------------------
def test_json_has_no_nan_and_no_broken_text() -> None:
    value = {"a": [math.nan, 1.5, (-math.inf,)], "b\udcff": "caf\udce9 é", "c": None, "d": True, "e": 10**30}
    assert strict(to_json(value)) == strict(to_json(value, ascii=False))
    again = strict(to_json(value))
    assert again == {"a": [None, 1.5, [None]], "b\ufffd": "caf\ufffd é", "c": None, "d": True, "e": 10**30}
    to_json(value, ascii=False).encode()


def test_metrics_are_always_json(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl", 0)
    metrics.write({"step": 1, "loss": math.nan, "metrics": {"x": [math.inf, 1.0]}})
    metrics.close()
    assert strict((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": None, "metrics": {"x": [None, 1.0]}}


RUN = "spec: s.cdr\ndata: {train: t.txt}\nout: run\nsteps: 10\n"
SCORE = "spec: s.cdr\ncheckpoint: run\ndata: t.txt\n"
NUMBERS = ["steps", "batch", "context", "accumulate", "seed", "log_every", "eval_every", "eval_tokens", "save_every"]
NUMBERS += ["keep", "threads", "set.x", *(f"optim.{name}" for name in OptimConfig.model_fields if name != "schedule")]


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
@pytest.mark.parametrize(
    ("kind", "key"),
    [*((TrainConfig, key) for key in NUMBERS), *((EvalConfig, key) for key in ("context", "rows", "threads", "set.x"))],
)
def test_every_number_is_finite(tmp_path: Path, kind: type, key: str, value: str) -> None:
    (tmp_path / "c.yaml").write_text(RUN if kind is TrainConfig else SCORE)
    with pytest.raises(UserError, match=rf"{key}: a finite number is expected \(it is -?(inf|nan)\)"):
        read_config(kind, tmp_path / "c.yaml", [f"{key}={value}"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("seed=18446744073709551616", "seed: input should be less than"),
        ("threads=100000", "threads: input should be less than or equal to 1024"),
        ("steps=99999999999999999999", "steps: input should be less than"),
        ('data.field="\\ud800"', "data.field: not UTF-8"),
        ('data.train="a\\0b"', "data.train: holds a NUL"),
        ('data.train=[a, "a\\0b"]', "data.train.1: holds a NUL"),
        ('out="\\0"', "out: holds a NUL"),
        ('set={"\\udfff": 1}', "not UTF-8"),
        ("set=&x {y: *x}", "set"),
        ("out=''", "out: a text is expected"),
        ("data.train=[a, '']", "data.train.1: a text is expected"),
    ],
)
def test_what_nothing_can_be_called_is_refused(tmp_path: Path, change: str, says: str) -> None:
    (tmp_path / "c.yaml").write_text(RUN)
    with pytest.raises(UserError) as e:
        read_config(TrainConfig, tmp_path / "c.yaml", [change])
    assert says in e.value.message


def test_a_step_that_no_machine_holds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tokens at once: their logits take"):
        Trainer(config(tmp_path, "run", batch=10**12))
    Trainer(config(tmp_path, "run", steps=1, seed=2**64 - 1))


# --- the schedule ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("schedule", ["wsd", "cosine"])
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


# --- scores ----------------------------------------------------------------------------------------------------------
def test_a_limit_cuts_documents_and_is_met_exactly() -> None:
    """Every prediction sees its document from the start; the first ones are made, whatever the documents' sizes."""
    pick = random.Random(0)
    for _ in range(400):
        end = pick.choice([None, 0])
        docs, name = [], 1
        for _ in range(pick.randrange(1, 8)):
            size = pick.choice([1, 1, 2, 3, 7, 20])
            docs.append([0] * (end is not None) + [*range(name, name + size)])
            name += size
        starts = np.cumsum([0, *(len(d) for d in docs[:-1])])
        store = TokenStore(np.concatenate(docs), starts, np.zeros(500), end, "")
        rows, length = pick.randrange(1, 5), pick.randrange(1, 9)
        limit = pick.choice([None, pick.randrange(1, 40)])
        whole = [d + [0] * (end is not None) for d in docs]
        wanted = [(d[:i], d[i]) for d in whole for i in range(1, len(d))][:limit]
        found, seen = [], {}
        for batch in lanes(store, rows, length, limit):
            for row, (tokens, targets, reset) in enumerate(zip(*map(np.asarray, _fields(batch)), strict=True)):
                for t in range(len(tokens)):
                    seen[row] = ([] if reset[t] else seen[row]) + [int(tokens[t])]
                    if targets[t] != IGNORE:
                        found.append((seen[row], int(targets[t])))
        assert sorted(found) == sorted(wanted), (docs, rows, length, limit)


def _fields(batch: object) -> tuple[torch.Tensor, ...]:
    return batch.tokens, batch.targets, batch.reset  # type: ignore[attr-defined]


def test_a_limit_bounds_what_is_read_of_a_long_document() -> None:
    """A first document of one token, then a long one, of which only the start is ever touched."""

    class Watched(np.ndarray):
        def __getitem__(self, key: object) -> object:
            assert not isinstance(key, slice) or (key.stop or 0) <= 1002, key
            return super().__getitem__(key)  # type: ignore[index]

    tokens = np.arange(5_000_000).view(Watched)
    store = TokenStore(tokens, np.array([0, 1]), np.ones(10), None, "")
    batches = list(lanes(store, 8, 64, 1000))
    assert sum(int((b.targets != IGNORE).sum()) for b in batches) == 1000
    assert sum(b.tokens.numel() for b in batches) <= 1000 + 64
    assert [b.tokens.numel() for b in lanes(store, 8, 10**12, 3)] == [5_000_000]


def test_a_score_of_nan_is_json() -> None:
    score = Score(math.nan, 3, 3)
    assert strict(to_json({"loss": score.loss, "perplexity": score.perplexity})) == {"loss": None, "perplexity": None}


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
