"""What a run says of its banks of experts: counts of the spec's own choices, and an alarm where few take all."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from cdrmix.runtime.torch.sums import Sums

from cdrmix.check import load_text
from cdrmix.compiler import lower
from cdrmix.train.build import build_module
from cdrmix.train.experts import AGAIN, REMEDY, REPORTS, Experts
from cdrmix.train.loop import Trainer
from cdrmix.train.progress import read_metrics
from tests.good.test_train import config

BANKS = """
use "lib/embed.cdr" { embed, head }
op gated(x: [D], expert: op, experts: int, room: float = 0.0) -> [D] {
  param G: [experts, D] ~ normal(1)
  bank F: [e < experts] of expert !capacity(room)
  gate, pick = top[k < 2](softmax(G @ x))
  y[d] = sum[k](gate[k] * F[pick[k]](x)[d])
  return y
}
op plain(x: [D]) -> [D] {
  param W: [D, D] ~ normal(0.5)
  return W @ x
}
op keeps(x: [D]) -> [D] {
  state S: [D] = 0
  S' = 0.5 * S + x
  return S'
}
model m {
  vocab = 16
  d_model = 8
  stack {
    emb: embed(vocab, d_model)
    one: gated(plain, experts=4)
    two: gated(keeps, experts=3)
    both: gated(gated(plain, experts=5), experts=3)
    tight: gated(plain, experts=4, room=0.5)
    head(vocab)
  }
}
"""
"""Banks whose op declares no metric: without state, with a capacity, with state, and a bank in a bank."""


def test_choices_are_counted_where_no_metric_is_declared(tmp_path: Path) -> None:
    module: Any = build_module(lower(load_text(BANKS)), tmp_path, 0).train()
    with torch.no_grad():
        module.emb.E.normal_(generator=torch.Generator().manual_seed(0))
    tokens = torch.randint(16, (3, 20), generator=torch.Generator().manual_seed(1))
    given: dict[str, torch.Tensor] = {}
    for name in ("one", "tight", "two", "both"):
        cell = getattr(module, name)
        cell.register_forward_hook(lambda m, args, out, name=name: given.__setitem__(name, args[0]))
    whole = Sums()
    for part in tokens.split(1):
        own = Sums()
        module(part, sums=own)
        whole += own
    module(tokens, sums=(sums := Sums()))
    found = module.routed(sums)
    assert found.keys() == {"one.F", "tight.F", "two.F", "both.F", "both.F.F"}
    for name in ("one", "tight", "two", "both"):
        cell = getattr(module, name)
        picks = (given[name] @ cell.G.T).topk(2).indices.flatten()
        assert found[f"{name}.F"].tolist() == torch.bincount(picks, minlength=len(cell.G)).tolist()
    assert found["both.F.F"].sum() == 2 * 2 * tokens.numel()
    for path in ("one.F", "two.F", "both.F", "both.F.F"):  # of parts of a step, as of the step
        assert whole[f"{path}.routed"].tolist() == found[path].tolist()
    assert 0 < module.metrics(sums)["tight.F.dropped"] < found["tight.F"].sum()
    assert "one.F.dropped" not in sums


def after(counts: list[list[float]], dropped: float = 0.0) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """The reports of a bank, and what was said at each."""
    experts, reports, notes = Experts(), [], []
    for chosen in counts:
        experts.count({"layer.1.F": torch.tensor(chosen)}, {"layer.1.F.dropped": torch.tensor(dropped)})
        found, said = experts.reports()
        reports.append(found["layer.1.F"])
        notes.append(said)
    return reports, notes


def test_a_report_is_of_the_steps_since_the_last() -> None:
    experts = Experts()
    for chosen in ([1.0, 3.0], [3.0, 5.0]):
        experts.count({"F": torch.tensor(chosen)}, {"F.dropped": torch.tensor(3.0)})
    entropy = -(math.log(1 / 3) / 3 + 2 * math.log(2 / 3) / 3) / math.log(2)
    wanted = {"load": [1 / 3, 2 / 3], "min": 1 / 3, "max": 2 / 3, "dropped": 0.5, "dead": []}
    assert experts.reports() == ({"F": {**wanted, "entropy": pytest.approx(entropy)}}, [])
    assert experts.reports() == ({}, [])


def test_a_dead_expert_is_named_once_and_again_while_it_is() -> None:
    reports, notes = after([[5.0, 0.0, 4.0, 3.0]] * (REPORTS + AGAIN) + [[5.0, 1.0, 4.0, 3.0]])
    assert [r["dead"] for r in reports[: REPORTS + 1]] == [[]] * (REPORTS - 1) + [[1]] * 2
    assert reports[-1]["dead"] == [] and [n for n, said in enumerate(notes, 1) if said] == [
        REPORTS, REPORTS + AGAIN, REPORTS + AGAIN + 1,
    ]  # fmt: skip
    assert "layer.1.F" in notes[REPORTS - 1][0] and "number 1 of 4" in notes[REPORTS - 1][0]
    assert REMEDY in notes[REPORTS - 1][0] and "again" in notes[-1][0]


def test_one_more_dead_expert_is_said_at_once() -> None:
    _, notes = after([[5.0, 0.0, 4.0, 3.0]] * REPORTS + [[5.0, 0.0, 0.0, 3.0]] * REPORTS)
    assert [n for n, said in enumerate(notes, 1) if said] == [REPORTS, 2 * REPORTS]
    assert "number 1, 2 of 4" in notes[-1][0]


def test_a_load_of_few_experts_raises_the_alarm() -> None:
    even, uneven = [10.0] * 8, [96.0, 96.0, *[1.0] * 6]
    reports, notes = after([even, uneven, uneven, even])
    assert reports[0]["entropy"] == pytest.approx(1) and reports[1]["entropy"] < 0.6
    assert [len(said) for said in notes] == [0, 1, 0, 1]
    assert "2.4 evenly loaded experts of 8" in notes[1][0]


def test_a_run_writes_reports_and_raises_the_alarm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = Trainer(config(tmp_path, "run", steps=12, log_every=1))
    with torch.no_grad():  # every token's choice is the same two experts
        trainer.module.layer[1].ffn.layer_norm.w.zero_()
        trainer.module.layer[1].ffn.layer_norm.b.fill_(1)
        trainer.module.layer[1].ffn.Wg.copy_(torch.tensor([[3.0], [2.0], [-1.0], [-2.0]]).expand(4, 32))
    trainer.train()
    records = [r["experts"]["layer.1.ffn.F"] for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in r]
    assert records[0]["load"] == [0.5, 0.5, 0, 0] and records[-1]["dead"] == [2, 3]
    said = capsys.readouterr().err
    assert said.count("layer.1.ffn.F: no token") == 1 and "number 2, 3 of 4" in said
    assert "expert load 0.00..2.00" in said
