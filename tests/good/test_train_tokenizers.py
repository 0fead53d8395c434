"""Tokenizers of other makers: what would lose text or has ids for which a model has no rows is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from cdrmix.diagnose import UserError
from cdrmix.train.config import EvalConfig
from cdrmix.train.evaluate import score_checkpoint
from cdrmix.train.loop import Trainer
from cdrmix.train.tokenizer import byte_tokenizer, load_tokenizer
from tests.good.commands import said
from tests.good.test_train import config

LEVELS = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


CUT = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}


PAD = {"strategy": {"Fixed": 500}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0}


def changed(folder: Path, vocab: dict[str, int] | None = None, **changes: Any) -> Path:
    data = json.loads(byte_tokenizer().to_str())
    data["model"]["vocab"] |= vocab or {}
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(data | changes))
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": {"type": "Lowercase"}},
        {"normalizer": {"type": "NFKC"}},
        {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}},
        {"pre_tokenizer": None},
        {"pre_tokenizer": {**LEVELS, "add_prefix_space": True}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, LEVELS]}},
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_a_tokenizer_that_loses_text_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="does not keep text: 'Aa Ångström"):
        load_tokenizer(changed(tmp_path, **changes))


def test_a_tokenizer_that_composes_is_told_of(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="composes characters"):
        load_tokenizer(changed(tmp_path, normalizer={"type": "NFC"}))


@pytest.mark.filterwarnings("error")
def test_texts_are_neither_cut_nor_padded(tmp_path: Path) -> None:
    made = load_tokenizer(changed(tmp_path, truncation=CUT, padding={**PAD, "pad_token": "a"}))
    assert made.encode("abcdef").ids == list(b"abcdef")


@pytest.mark.filterwarnings("error")
def test_other_byte_level_tokenizers_are_taken(tmp_path: Path) -> None:
    gpt2 = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(pre_tokenizers.ByteLevel.alphabet())}, merges=[]))
    gpt2.pre_tokenizer, gpt2.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    gpt2.save(str(tmp_path / "gpt2.json"))
    assert load_tokenizer(tmp_path / "gpt2.json").get_vocab_size() == 256
    load_tokenizer(changed(tmp_path))


def test_ids_beyond_the_model_are_refused(tmp_path: Path) -> None:
    """By the largest id, which may lie beyond the number of tokens; in training and in scores."""
    given = changed(tmp_path, {"ab": 5000})
    with pytest.raises(UserError, match="the tokenizer has 5001 tokens, small a vocabulary of 256"):
        Trainer(config(tmp_path, "run", tokenizer=given))
    Trainer(config(tmp_path, "run", steps=1)).train()
    asked = {"spec": tmp_path / "small.cdr", "data": tmp_path / "held_out.txt", "checkpoint": tmp_path / "run"}
    with pytest.raises(UserError, match="the tokenizer has 5001 tokens, small a vocabulary of 256"):
        score_checkpoint(EvalConfig.model_validate(asked | {"tokenizer": given}))
    with pytest.raises(UserError, match="has the id 2147483648"):
        load_tokenizer(changed(tmp_path, {"ab": 1 << 31}))


def test_training_with_a_tokenizer_that_loses_text_is_refused(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bits per byte would be those of another text."""
    Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).save(str(tmp_path / "words.json"))
    out, words = f"out={tmp_path / 'run'}", f"tokenizer={tmp_path / 'words.json'}"
    assert "is not byte-level" in said(capsys, "train", home / "c.yaml", "--set", words, "--set", out)
