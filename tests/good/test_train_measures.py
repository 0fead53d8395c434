"""What a run measures: metrics that are JSON whatever they are, and scores of exactly what was asked for."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from cdrmix.plain_json import to_json
from cdrmix.train.batches import IGNORE, lanes
from cdrmix.train.evaluate import Score
from cdrmix.train.progress import Metrics, read_metrics
from cdrmix.train.store import TokenStore
from tests.good.commands import said


# --- metrics --------------------------------------------------------------------------------------------------------
def strict(text: str) -> object:
    """JSON, by a reader that knows no NaN."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


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


def test_metrics_survive_lines_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n5\n[1]\n{"loss": 2}\n{"step": 3}\n{"ste')
    Metrics(path, 1).close()
    assert read_metrics(path) == [{"step": 1}]


# --- scores ---------------------------------------------------------------------------------------------------------
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


def test_data_with_nothing_to_predict_has_no_score(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.txt").write_text("x")
    (tmp_path / "e.yaml").write_text(f"{{spec: {home}/small.cdr, checkpoint: {home}/made, data: {tmp_path}/one.txt}}")
    assert "nothing to predict" in said(capsys, "eval", tmp_path / "e.yaml")
