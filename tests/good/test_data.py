"""Text to documents, documents to tokens, tokens to batches: nothing lost, nothing invented."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cdrmix.diagnose import UserError
from cdrmix.train.batches import IGNORE, Batches, lanes
from cdrmix.train.corpus import from_directory, split
from cdrmix.train.sources import documents
from cdrmix.train.store import END, open_store
from cdrmix.train.tokenizer import byte_tokenizer, train_tokenizer

TEXTS = [
    "def f(x):\n    return x + 1\n",
    "naïve café ☕ 日本語\r\n\ttab",
    f"not an end: {END} here",
    "é" * 50 + "\x00\x7f",
]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "docs.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS * 20), encoding="utf-8")
    return path


def test_documents_come_in_order_from_text_jsonl_and_tokens(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("whole file\n")
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n\n{"tokens": [1, 2, 3]}\n')
    found = list(documents([tmp_path]))
    assert [d.content for d in found] == ["whole file\n", "one", [1, 2, 3]]
    assert found[2].where.endswith("b.jsonl:3")


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("e.txt", b"", "e.txt is empty"),
        ("e.jsonl", b"\n \n", "e.jsonl holds no lines"),
        ("bad.txt", b"ok\nok\n\xff\xfe", "bad.txt:3: not UTF-8"),
        ("bad.jsonl", b'{"text": "a"}\n{"text": \n', "bad.jsonl:2: not JSON"),
        ("list.jsonl", b"[1, 2]\n", "list.jsonl:1: a JSON list"),
        ("field.jsonl", b'{"body": "a"}\n', "field.jsonl:1: no `text`"),
        ("number.jsonl", b'{"text": 3}\n', "number.jsonl:1: `text` is not a string"),
        ("ids.jsonl", b'{"tokens": [1, -2]}\n', "ids.jsonl:1: `tokens` is not"),
        ("flags.jsonl", b'{"tokens": [true]}\n', "flags.jsonl:1: `tokens` is not"),
    ],
)
def test_bad_data_names_the_file_and_line(tmp_path: Path, name: str, content: bytes, place: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as e:
        list(documents([tmp_path / name]))
    assert place in e.value.message
    assert e.value.help


def test_missing_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no data at"):
        list(documents([tmp_path / "absent.txt"]))


def test_an_id_beyond_the_vocabulary_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "ids.jsonl"
    path.write_text('{"tokens": [1, 2]}\n{"tokens": [3, 256]}\n')
    with pytest.raises(UserError, match=r"ids.jsonl:2: token id 256 is outside"):
        open_store(tmp_path / "store", [path], "text", byte_tokenizer(), 256)


def test_the_store_holds_every_byte_and_is_made_once(tmp_path: Path, corpus: Path) -> None:
    store = open_store(tmp_path / "store", [corpus], "text", byte_tokenizer(), 256)
    assert bytes(store.tokens.astype(np.uint8)) == "".join(TEXTS * 20).encode()
    assert (store.sizes == 1).all()
    made = next((tmp_path / "store").iterdir()).stat().st_mtime_ns
    open_store(tmp_path / "store", [corpus], "text", byte_tokenizer(), 256)
    assert next((tmp_path / "store").iterdir()).stat().st_mtime_ns == made
    assert len(list((tmp_path / "store").iterdir())) == 1


def test_a_bpe_round_trips_and_its_end_token_is_never_text(tmp_path: Path, corpus: Path) -> None:
    tokenizer = train_tokenizer([corpus], 300)
    assert tokenizer.token_to_id(END) == 0
    store = open_store(tmp_path / "store", [corpus], "text", tokenizer, 300)
    ends = np.flatnonzero(store.tokens == store.end)
    assert ends.tolist() == store.starts.tolist()
    assert store.sizes[store.tokens].sum() == len("".join(TEXTS * 20).encode())
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text


def test_training_windows_cover_the_data_and_know_the_documents(tmp_path: Path) -> None:
    corpus = tmp_path / "numbers.jsonl"  # no stretch of it occurs twice
    corpus.write_text(
        "".join(json.dumps({"text": ",".join(str(1000 * n + i) for i in range(12))}) + "\n" for n in range(100, 160))
    )
    store = open_store(tmp_path / "store", [corpus], "text", byte_tokenizer(), 256)
    length, rows = 32, 4
    batches = Batches(store, rows, length, seed=3)
    starts = set(store.starts.tolist())
    text = store.tokens.astype(np.int64)
    seen = np.zeros(len(text), bool)
    epoch = ((len(text) - 1) // length - 1) // rows
    for step in range(epoch):
        batch = batches.at(step)
        for tokens, targets, reset in zip(
            batch.tokens.numpy(), batch.targets.numpy(), batch.reset.numpy(), strict=True
        ):
            at = next(i for i in range(len(text) - length) if (text[i : i + length] == tokens).all() and not seen[i])
            seen[at : at + length] = True
            assert reset.tolist() == [i in starts for i in range(at, at + length)]
            wanted = [IGNORE if i + 1 in starts else text[i + 1] for i in range(at, at + length)]
            assert targets.tolist() == wanted
    assert seen.sum() == epoch * rows * length


def test_a_batch_is_a_function_of_the_seed_and_the_step(tmp_path: Path, corpus: Path) -> None:
    store = open_store(tmp_path / "store", [corpus], "text", byte_tokenizer(), 256)
    one, two = Batches(store, 4, 32, seed=1), Batches(store, 4, 32, seed=1)
    [one.at(step) for step in range(60)]
    assert (one.at(61).tokens == two.at(61).tokens).all()
    assert not (Batches(store, 4, 32, seed=2).at(61).tokens == two.at(61).tokens).all()


def test_lanes_score_every_token_once(tmp_path: Path, corpus: Path) -> None:
    tokenizer = train_tokenizer([corpus], 300)
    store = open_store(tmp_path / "store", [corpus], "text", tokenizer, 300)
    scored = [b.targets[b.targets != IGNORE] for b in lanes(store, 3, 16)]
    # every token but the end-of-text that begins a document, plus the one that ends it
    assert sum(len(x) for x in scored) == len(store.tokens)
    counts = np.bincount(np.concatenate([x.numpy() for x in scored]), minlength=300)
    assert (counts == np.bincount(store.tokens, minlength=300)).all()


def test_too_little_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("short")
    store = open_store(tmp_path / "store", [tmp_path / "a.txt"], "text", byte_tokenizer(), 256)
    with pytest.raises(UserError, match="needs at least"):
        Batches(store, 1, 32, 0)


def test_a_tree_becomes_shards_and_says_what_it_left_out(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "b" / "skip").mkdir(parents=True)
    (tree / "a.py").write_text("x = 1\n")
    (tree / "b" / "c.md").write_text("# é\n")
    (tree / "b" / "latin.txt").write_bytes(b"caf\xe9")
    (tree / "b" / "empty.rst").write_bytes(b"")
    (tree / "b" / "picture.png").write_bytes(b"\x89PNG")
    (tree / "b" / "skip" / "d.py").write_text("no\n")
    (tree / "d.jsonl").write_text('{"text": "line one"}\n{"text": "line two"}\n')
    done = from_directory(tree, tmp_path / "out", shard_bytes=60, exclude=["skip"])
    texts = [d.content for d in documents([tmp_path / "out"])]
    assert texts == ["x = 1\n", "# é\n", "line one", "line two"]
    assert len(done.shards) > 1 and done.documents == 4
    assert sorted(p.name for p, _ in done.skipped) == ["empty.rst", "latin.txt"]
    with pytest.raises(UserError, match="holds shards already"):
        from_directory(tree, tmp_path / "out")


def test_a_split_is_disjoint_by_content(tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    texts = [f"document {i % 300}" for i in range(900)]  # each three times
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    counts = split([path], tmp_path / "out", 0.2)
    train = [d.content for d in documents([tmp_path / "out" / "train.jsonl"])]
    held_out = [d.content for d in documents([tmp_path / "out" / "eval.jsonl"])]
    assert not set(train) & set(held_out)
    assert sorted(train + held_out) == sorted(texts)
    assert counts == {"train": len(train), "eval": len(held_out)}
    assert 0.1 < len(held_out) / 900 < 0.3
    with pytest.raises(UserError, match="not between"):
        split([path], tmp_path / "out", 1.5)
