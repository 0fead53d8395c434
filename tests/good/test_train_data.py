"""Text to documents, documents to tokens, tokens to batches: nothing lost, nothing invented."""

from __future__ import annotations

import errno
import json
import os
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
        ("e.jsonl", b"\n \n", "e.jsonl is empty"),
        ("mark.txt", b"\xef\xbb\xbf", "mark.txt is empty"),
        ("none.jsonl", b'{"text": "a"}\n{"text": ""}\n', "none.jsonl:2 holds an empty document"),
        ("none.jsonl", b'{"tokens": []}\n', "none.jsonl:1 holds an empty document"),
        ("latin.jsonl", b'{"text": "a"}\n{"text": "\xe9"}\n', "latin.jsonl:2: not UTF-8"),
        ("wide.jsonl", '{"text": "a"}\n'.encode("utf-16"), "wide.jsonl:1: not UTF-8"),
        ("half.jsonl", b'{"text": "\\ud800"}\n', "half.jsonl:1: half of a surrogate pair"),
        ("list.json", b'[{"text": "a"},\n {"text": "b"}]', "list.json is a JSON list of records"),
        ("other.json", b'{"body": "a"}\n{"body": "b"}\n', "other.json holds a JSON record a line, without a text as"),
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


@pytest.mark.filterwarnings("error")
def test_a_mark_at_the_start_of_a_file_is_no_text(tmp_path: Path) -> None:
    """One rule for every kind of file and every command; inside a file U+FEFF is a character like any other."""
    mark = "\ufeff".encode()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a.txt").write_bytes(mark + "one\ufeff two".encode())
    (tmp_path / "tree" / "b.jsonl").write_bytes(mark + '{"text": "three"}\n{"text": "\ufefffour"}\n'.encode())
    wanted = ["one\ufeff two", "three", "\ufefffour"]
    assert [d.content for d in documents([tmp_path / "tree"])] == wanted
    from_directory(tmp_path / "tree", tmp_path / "out")
    assert [d.content for d in documents([tmp_path / "out"])] == wanted
    (tmp_path / "c.jsonl").write_bytes(b'{"text": "a"}\n' + mark + b'{"text": "b"}\n')
    with pytest.raises(UserError, match="c.jsonl:2: not JSON"):
        list(documents([tmp_path / "c.jsonl"]))


def test_lines_of_json_in_a_json_file_are_read_as_such_with_a_word(tmp_path: Path) -> None:
    lines, one = tmp_path / "lines.json", tmp_path / "one.json"
    lines.write_text('\n{"text": "a"}\n\n{"text": "b"}\n')
    one.write_text('{"body": "a", "text": 3}')
    with pytest.warns(UserWarning, match="lines.json holds a JSON record a line, and is read as .jsonl"):
        assert [d.content for d in documents([lines])] == ["a", "b"]
    for name, content in {
        "one": one.read_text(),
        "pretty": '{\n "text": "a"\n}\n',
        "list": '[1,\n{"text": "a"}]',
        "words": '{"a": 1}\nand more\n',
        "not": "{{",
    }.items():
        (tmp_path / f"{name}.json").write_text(content)
        assert [d.content for d in documents([tmp_path / f"{name}.json"])] == [content]
    (tmp_path / "tree").mkdir()
    lines.rename(tmp_path / "tree" / "a.json")
    (tmp_path / "tree" / "b.json").write_text('{"body": "a"}\n{"body": "b"}\n')  # a program's data, kept as its text
    with pytest.warns(UserWarning, match="is read as .jsonl"):
        from_directory(tmp_path / "tree", tmp_path / "out")
    assert [d.content for d in documents([tmp_path / "out"])] == ["a", "b", '{"body": "a"}\n{"body": "b"}\n']


def test_split_leaves_out_what_training_refuses_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    texts = ["", *(f"document {i}" for i in range(100)), ""]
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts) + '{"tokens": []}\n')
    (tmp_path / "nothing.txt").write_bytes(b"\xef\xbb\xbf")
    with pytest.raises(UserError, match="all.jsonl:1 holds an empty document"):
        train_tokenizer([path], 300)
    with pytest.warns(UserWarning, match="4 empty documents are left out, the first at .*all.jsonl:1"):
        counts = split([path, tmp_path / "nothing.txt"], tmp_path / "out", 0.2)
    assert counts["empty"] == 4 and counts["train"] + counts["eval"] == 100
    for side in ("train", "eval"):
        open_store(tmp_path / side, [tmp_path / "out" / f"{side}.jsonl"], "text", byte_tokenizer(), 256)


def test_what_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed folder (here by hand: root may read all), a link to nothing, a link to a folder."""
    tree = tmp_path / "tree"
    for name in ("a", "closed", "z"):
        (tree / name).mkdir(parents=True)
        (tree / name / "doc.txt").write_text(f"text of {name}\n" * 3)
    scan = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(path)

    monkeypatch.setattr("os.scandir", scandir)
    for use in (lambda: list(documents([tree])), lambda: split([tree], tmp_path / "split", 0.5)):
        with pytest.raises(UserError, match="closed cannot be read: Permission denied"):
            use()
    done = from_directory(tree, tmp_path / "out")
    assert done.skipped == [(tree / "closed", "Permission denied")] and done.documents == 2
    monkeypatch.undo()
    (tree / "dangling.txt").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"dangling.txt cannot be read: No such file"):
        list(documents([tree]))
    (tree / "dangling.txt").unlink()
    (tree / "link").symlink_to(tmp_path / "out")
    with pytest.warns(UserWarning, match="link is a link to a folder, which is not followed"):
        assert len(list(documents([tree]))) == 3
    assert from_directory(tree, tmp_path / "more").skipped == [
        (tree / "link", "a link to a folder, which is not followed")
    ]
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe is no file and no folder"):
        list(documents([tmp_path / "pipe"]))


def test_files_of_other_kinds_are_counted(tmp_path: Path) -> None:
    for name in ("a.txt", "b.jsonl.gz", "c.GZ", "README", "d.parquet", "e.png"):
        (tmp_path / name).write_text("text")
    with pytest.warns(UserWarning, match=r"passed over, being no text by their names: 2 \.gz, 1 \S+, 1 \S+ …"):
        assert len(list(documents([tmp_path]))) == 1
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "latin.txt").write_bytes(b"\xe9")
    with pytest.raises(UserError, match=r"no text to keep\n .*latin.txt: not UTF-8 at byte 0"):
        from_directory(tmp_path / "tree", tmp_path / "out")


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """Their text is kept, and every file written of them is UTF-8."""
    tree = Path(os.fsdecode(os.fsencode(tmp_path / "tree") + b"\xff"))
    tree.mkdir()
    for i in range(9):
        (tree / os.fsdecode(b"caf\xe9%d.txt" % i)).write_text(f"text {i}\n" * 4)
    store = open_store(tmp_path / "store", [tree], "text", byte_tokenizer(), 256)
    assert len(store.starts) == 9
    from_directory(tree, tmp_path / "shards")
    split([tree], tmp_path / "split", 0.4)
    for file in [*(tmp_path / "shards").iterdir(), *(tmp_path / "split").iterdir()]:
        for line in file.read_bytes().decode().splitlines():
            assert "caf\ufffd" in json.loads(line).get("source", "caf\ufffd")


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


@pytest.mark.parametrize("vocab", [-1, 0, 256, (1 << 24) + 1, 99999999999999999999])
def test_a_vocabulary_that_cannot_be_is_refused(corpus: Path, vocab: int) -> None:
    with pytest.raises(UserError, match=f"a vocabulary of {vocab} is too (small|large)"):
        train_tokenizer([corpus], vocab)


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
    assert counts == {"train": len(train), "eval": len(held_out), "empty": 0}
    assert 0.1 < len(held_out) / 900 < 0.3
    with pytest.raises(UserError, match="not between"):
        split([path], tmp_path / "out", 1.5)


def test_a_suffix_is_the_same_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    for name in ("a.R", "b.r", "c.txt"):
        (tmp_path / "tree" / name).write_text("x <- 1")
    for number, only in enumerate((".R", ".r")):
        assert from_directory(tmp_path / "tree", tmp_path / f"out{number}", only=[only]).documents == 2


def test_a_split_never_writes_over_its_data(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"text": f"{i}"}) + "\n" for i in range(50)))
    before = path.read_bytes()
    with pytest.raises(UserError, match="is part of the data"):
        split([path], tmp_path, 0.3)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("line", "says"), [('{"text": "a\\ud800"}', "surrogate"), ('{"text":' + "[" * 100_000, "not JSON")]
)
def test_json_that_is_no_text_names_its_line(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "\\ud83d\\ude00"}\n' + line + "\n")
    with pytest.raises(UserError, match=f"x.jsonl:2: .*{says}"):
        list(documents([tmp_path / "x.jsonl"]))


def test_collecting_says_all_it_left_out_and_not_what_it_wrote(tmp_path: Path) -> None:
    for name in "abz":
        (tmp_path / f"{name}.txt").write_text(name)
    (tmp_path / "c.jsonl").write_text("")
    (tmp_path / "d.jsonl").write_text('{"tokens": [1]}\n{"text": "d"}\n')
    done = from_directory(tmp_path, tmp_path / "m", shard_bytes=1)
    assert [d.content for d in documents([tmp_path / "m"])] == ["a", "b", "d", "z"]
    assert [(p.name, why) for p, why in done.skipped] == [
        ("c.jsonl", "empty"),
        ("d.jsonl", "line 1 holds tokens, not text"),
    ]


def test_a_store_is_made_again_for_another_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "ids.jsonl"
    path.write_text('{"tokens": [1, 299]}\n')
    open_store(tmp_path / "store", [path], "text", byte_tokenizer(), 300)
    with pytest.raises(UserError, match="token id 299 is outside"):
        open_store(tmp_path / "store", [path], "text", byte_tokenizer(), 256)
