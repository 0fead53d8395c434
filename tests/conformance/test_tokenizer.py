"""One tokenizer three times: the `tokenizers` library, runtime/tokens.py and runtime/c give the same ids.

With pieces of bounded runs, and with the unbounded ones of tokenizers trained before there was a bound.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import subprocess
import time
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_int, c_int32, c_size_t, c_ubyte, c_void_p
from pathlib import Path
from typing import Any

import pytest
from cdrmix.runtime.pretokenizer import LONGEST, PATTERN, PATTERNS, UNBOUNDED, split
from cdrmix.runtime.tokens import StreamDecoder, Tokenizer, TokenizerError
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Reference

from cdrmix.train.tokenizer import train_tokenizer

from .c_program import CC, STRICT

END = "<|endoftext|>"
ROOT = Path(__file__).parents[2]
CHARS = [*"abz_AZ \t\n\r09'(){}[].,:<>|#\"\\/-=\x00\x1f\x7f\x80\x85é日😀\u2028\u3000\ufeff", "    ", "\n        "]
CHARS += ["self", " return", "123456", END, END[:5], END[5:], "\r\n", "ß", "e\u0301"]
CHARS += [c * n for c in " \t\n-_é日😀" for n in (62, 63, 64, 65, 129)]
BYTES = [c.encode() for c in CHARS] + [b"\xff", b"\xc3", b"\xe6\x97", b"\xf0\x9f", b"\xed\xa0\x80", b"\xc0\x80"]
BYTES += [b"\xbf" * 70, b"\xf0" * 70, b"\xe6\x97" * 70, b"\xf7\xbf\xbf\xbf\xbf" * 30]
SCRIPTS = (
    "00c0-024f 0370-03ff 0400-04ff 0591-05f4 0600-06ff 0900-097f 0e00-0e5b 0f00-0fda 10a0-10ff 1100-11ff 1200-137f"
)
SCRIPTS += (
    " 1780-17f9 2000-206f 2200-22ff 3000-30ff 4e00-9fff a000-a48c ac00-d7a3 e000-e0ff fe00-fe0f fff0-ffff 12000-123ff"
)
SCRIPTS += " 1d400-1d7ff 1f300-1f64f 20000-2a6df e0000-e007f 10fff0-10ffff"


def texts() -> list[str]:
    """This project's own sources: Python, C, prose and indentation."""
    files = [*(ROOT / "codegen").rglob("*.py"), *(ROOT / "runtime" / "c").glob("*.c"), *(ROOT / "docs").glob("*.md")]
    return [f.read_text(encoding="utf-8") for f in sorted(files)][:60]


def stretch(script: str, size: int, pick: random.Random) -> str:
    """So many characters of a script, without a space."""
    low, high = (int(end, 16) for end in script.split("-"))
    return "".join(chr(pick.randint(low, high)) for _ in range(size))


def trained(pattern: str, vocab: int = 1200) -> Reference:
    made = Reference(models.BPE())
    pieces = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    levels = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([pieces, levels])
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = [AddedToken(END, special=True), AddedToken("<|end", special=True)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts(), trainer)
    return made


@pytest.fixture(scope="module", params=PATTERNS, ids=["bounded", "unbounded"])
def reference(request: pytest.FixtureRequest) -> Reference:
    return trained(request.param)


@pytest.fixture(scope="module")
def saved(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    reference.save(str(path))
    return path


@pytest.fixture(scope="module")
def lib(tmp_path_factory: pytest.TempPathFactory) -> Any:
    if CC is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("c")
    sources = ROOT / "runtime" / "c"
    files = ("tokenizer.c", "tokenizer_file.c", "listed.c", "checksum.c", "json.c", "weights.c", "errors.c", "utf8.c")
    flags = (*STRICT, "-O1", "-fPIC", "-shared")
    out = folder / "libtokenizer.so"
    subprocess.run([CC, *flags, "-o", str(out), *(str(sources / f) for f in files)], check=True)
    made = ctypes.CDLL(str(out))
    made.cdr_tokenizer_open.argtypes = [POINTER(c_void_p), c_char_p]
    made.cdr_tokenizer_close.argtypes = [c_void_p]
    made.cdr_tokenizer_vocab.argtypes = made.cdr_tokenizer_eot.argtypes = [c_void_p]
    for encode in (made.cdr_encode, made.cdr_encode_special):
        encode.argtypes = [c_void_p, c_char_p, c_size_t, POINTER(c_int32), POINTER(c_size_t)]
    made.cdr_token_bytes.argtypes = [c_void_p, c_int32, POINTER(c_size_t)]
    made.cdr_token_bytes.restype = c_void_p
    made.cdr_error_kind.argtypes, made.cdr_error_kind.restype = [c_int], c_char_p
    made.cdr_piece.argtypes, made.cdr_piece.restype = [c_char_p, c_size_t, c_size_t], c_size_t
    return made


class InC:
    """The C tokenizer of a file."""

    def __init__(self, lib: Any, path: Path):
        self.lib, self.handle = lib, c_void_p()
        code = lib.cdr_tokenizer_open(byref(self.handle), os.fsencode(path))
        if code:
            raise TokenizerError(lib.cdr_error_kind(code).decode())
        self.vocab: int = lib.cdr_tokenizer_vocab(self.handle)
        self.eot: int = lib.cdr_tokenizer_eot(self.handle)

    def encode(self, data: bytes, special: bool = False) -> list[int]:
        ids, count = (c_int32 * (len(data) + 1))(), c_size_t()
        encode = self.lib.cdr_encode_special if special else self.lib.cdr_encode
        assert encode(self.handle, data, len(data), ids, byref(count)) == 0
        return list(ids[: count.value])

    def token(self, i: int) -> bytes:
        size = c_size_t()
        at = self.lib.cdr_token_bytes(self.handle, i, byref(size))
        return ctypes.string_at(at, size.value)


def random_bytes(pick: random.Random) -> bytes:
    if pick.random() < 0.2:
        return pick.randbytes(pick.randrange(40))
    return b"".join(pick.choice(BYTES) for _ in range(pick.randrange(30)))


# --- the pre-tokeniser ---------------------------------------------------------------------------------------------
def test_pieces_of_python() -> None:
    pieces = split(b"def f(x):\n        return x+12345  # hi\n\n\n  \n\ty")
    assert pieces == [
        *(b"def", b" f", b"(", b"x", b"):", b"\n       ", b" return", b" x", b"+", b"123", b"45", b" ", b" #", b" hi"),
        *(b"\n\n\n  ", b"\n\t", b"y"),
    ]


def test_pieces_of_other_languages_stay_whole() -> None:
    text = "für 日本語 naïve"
    assert [p.decode() for p in split(text.encode())] == ["für", " 日本語", " naïve"]


def agree_on_pieces(lib: Any, data: bytes, pattern: str) -> None:
    """Python's, C's and, of valid text, the library's pieces are the same, and join to the text."""
    pieces, at, longest = split(data, pattern), 0, LONGEST if pattern == PATTERN else (1 << 64) - 1
    assert b"".join(pieces) == data
    for piece in pieces:
        assert lib.cdr_piece(data[at : at + len(piece) + 8], min(len(data) - at, len(piece) + 8), longest) == len(piece)
        at += len(piece)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    pre = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    assert [p.encode() for p, _ in pre.pre_tokenize_str(text)] == pieces, text[:200]


@pytest.mark.parametrize("pattern", PATTERNS, ids=["bounded", "unbounded"])
def test_pieces_join_and_equal_the_pattern_and_c(lib: Any, pattern: str) -> None:
    pick = random.Random(0)
    for _ in range(3000):
        agree_on_pieces(lib, random_bytes(pick), pattern)


def test_pieces_of_every_script_are_bounded(lib: Any) -> None:
    """No line is so long, and no script so far from spaces, that a piece grows with it."""
    pick = random.Random(6)
    cases = [stretch(script, pick.choice([1, 65, 3000]), pick) for script in SCRIPTS.split()]
    cases += [c * 3000 for c in " \t\n\r-_a7é日😀"] + ["\n" * 100 + " " * 100 + "x", " " + "é" * 64, " " + "é" * 65]
    cases += [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000 and c % 97 == 0]
    for text in cases:
        agree_on_pieces(lib, text.encode(), PATTERN)
        pieces = [p.decode() for p in split(text.encode())]  # whole characters
        assert all(len(p) <= 2 * LONGEST if p[0] in "\r\n" else len(p) <= LONGEST + 1 for p in pieces)
    for data in BYTES:
        assert all(len(p) <= 4 * LONGEST + 1 for p in split(data * 100))


def test_a_long_line_is_cut_where_its_bound_is() -> None:
    assert [len(p) for p in split(b"x" * 130)] == [64, 64, 2]
    assert [len(p.decode()) for p in split((" " + "日" * 130).encode())] == [65, 64, 2]
    assert [len(p) for p in split(b" " * 130 + b"x")] == [64, 64, 1, 2]
    assert split(b"x" * 130, UNBOUNDED) == [b"x" * 130]


# --- encoding ------------------------------------------------------------------------------------------------------
def test_python_is_the_library(reference: Reference, saved: Path) -> None:
    ours, pick = Tokenizer.from_file(saved), random.Random(1)
    assert ours.vocab_size == reference.get_vocab_size() and ours.eot == 0
    cases = ["".join(pick.choice(CHARS) for _ in range(pick.randrange(40))) for _ in range(4000)]
    for special in (True, False):
        reference.encode_special_tokens = not special
        for text in [*cases, *texts(), "", END, END + END, f" {END} "]:
            ids = ours.encode(text, special)
            assert ids == reference.encode(text).ids, text
            assert ours.decode(ids) == text.encode()
    assert ours.encode(END, special=True) == [0] and len(ours.encode(END)) > 1


def test_c_is_python_on_any_bytes(lib: Any, saved: Path) -> None:
    ours, c, pick = Tokenizer.from_file(saved), InC(lib, saved), random.Random(2)
    assert (c.vocab, c.eot) == (ours.vocab_size, ours.eot)
    assert all(c.token(i) == ours.token(i) for i in range(c.vocab))
    assert c.token(-1) == c.token(c.vocab) == b""
    for _ in range(6000):
        data = random_bytes(pick)
        for special in (True, False):
            ids = ours.encode(data, special)
            assert c.encode(data, special) == ids, data
            assert ours.decode(ids) == data


def test_added_tokens_that_are_not_special_are_always_found(lib: Any, tmp_path: Path) -> None:
    added = [
        {**ADDED, "content": text, "id": 257 + n, "special": n % 2 == 0, "normalized": False}
        for n, text in enumerate(("ab", "abc", "cc"))
    ]
    path = written(tmp_path, [("a", "a")], added_tokens=added)
    ours, c, theirs = Tokenizer.from_file(path), InC(lib, path), Reference.from_file(str(path))
    pick = random.Random(9)
    for _ in range(500):
        text = "".join(pick.choice("abc") for _ in range(pick.randrange(12)))
        for special in (True, False):
            assert ours.encode(text, special) == c.encode(text.encode(), special), text
        theirs.encode_special_tokens = False
        assert ours.encode(text, True) == theirs.encode(text).ids, text
    assert ours.encode("abcab") == c.encode(b"abcab") == [258, *ours.encode("a"), *ours.encode("b")]
    assert ours.encode("abcab", True) == [258, 257]


def test_merges_of_one_rank_and_late_ones(lib: Any, tmp_path: Path) -> None:
    """Merges where a queued pair goes stale, and two that make one token."""
    merges = [("a", "b"), ("b", "a"), ("ab", "a"), ("a", "ba"), ("aba", "b"), ("ab", "ab"), ("a", "a"), ("aa", "a")]
    pick = random.Random(3)
    for _ in range(6):
        pick.shuffle(merges)
        path = written(tmp_path, [*merges], as_strings=pick.random() < 0.5)
        ours, c, theirs = Tokenizer.from_file(path), InC(lib, path), Reference.from_file(str(path))
        for _ in range(300):
            text = "".join(pick.choice("aab") for _ in range(pick.randrange(20)))
            assert ours.encode(text) == theirs.encode(text).ids == c.encode(text.encode()), (merges, text)


def test_long_words_take_little_time(lib: Any, saved: Path) -> None:
    data = b"a" * 100_000 + b" " * 100_000 + b"selfreturn" * 20_000 + "日".encode() * 30_000
    begin = time.process_time()
    ids = Tokenizer.from_file(saved).encode(data)
    assert ids == InC(lib, saved).encode(data)
    assert time.process_time() - begin < 20


def test_long_lines_of_every_script_are_the_library(lib: Any, reference: Reference, saved: Path) -> None:
    ours, c, pick = Tokenizer.from_file(saved), InC(lib, saved), random.Random(7)
    lines = [stretch(script, 100_000 // 30, pick) for script in SCRIPTS.split()]
    for text in [*lines, "".join(lines), "-" * 100_000, "é" * 100_000, "\n" * 100_000, "selfreturn" * 10_000]:
        ids = reference.encode(text).ids
        assert ours.encode(text) == ids == c.encode(text.encode()), text[:9]
        assert ours.decode(ids) == text.encode()


def test_training_on_a_long_line_without_spaces(tmp_path: Path) -> None:
    """85,000 Chinese characters: with a piece as long as the line this takes half a minute."""
    pick = random.Random(8)
    ideographs = [chr(0x4E00 + n) for n in range(3000)]
    text = "".join(pick.choices(ideographs, [1 / n for n in range(1, 3001)], k=85_000))
    (tmp_path / "line.txt").write_text(text, encoding="utf-8")
    begin = time.process_time()
    made = train_tokenizer([tmp_path / "line.txt"], 4096)
    assert time.process_time() - begin < 10
    made.save(str(tmp_path / "tokenizer.json"))
    ids = made.encode(text).ids
    assert Tokenizer.from_file(tmp_path / "tokenizer.json").encode(text) == ids and len(ids) < 75_000


def written(folder: Path, merges: list[tuple[str, str]], as_strings: bool = False, **changes: Any) -> Path:
    """A tokenizer.json of the 256 bytes and some merges."""
    byte_level = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate(byte_level)}
    for a, b in merges:
        vocab.setdefault(a + b, len(vocab))
    pre = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
    levels = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    data: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [pre, levels]},
        "post_processor": None,
        "decoder": levels,
        "model": {
            "type": "BPE",
            "vocab": vocab,
            "merges": [f"{a} {b}" for a, b in merges] if as_strings else [list(m) for m in merges],
        },
    }
    data["model"] |= changes.pop("model", {})
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(data | changes), encoding="utf-8")
    return path


def test_a_vocabulary_of_bytes(lib: Any, tmp_path: Path) -> None:
    from cdrmix.train.tokenizer import byte_tokenizer

    path = tmp_path / "tokenizer.json"
    byte_tokenizer().save(str(path))
    ours, c = Tokenizer.from_file(path), InC(lib, path)
    data = bytes(range(256)) * 3
    assert ours.encode(data) == list(data) == c.encode(data)
    assert ours.decode(range(256)) == bytes(range(256))
    assert (ours.vocab_size, ours.eot, c.vocab, c.eot) == (256, None, 256, -1)


ADDED = {"id": 300, "content": "<x>", "single_word": False, "lstrip": False, "rstrip": False, "special": True}

REFUSED: dict[str, Callable[[Path], Path]] = {
    "unigram": lambda p: written(p, [], model={"type": "Unigram"}),
    "dropout": lambda p: written(p, [], model={"dropout": 0.1}),
    "unk": lambda p: written(p, [], model={"unk_token": "a"}),
    "fallback": lambda p: written(p, [], model={"byte_fallback": True}),
    "prefix": lambda p: written(p, [], model={"continuing_subword_prefix": "##"}),
    "normalizer": lambda p: written(p, [], normalizer={"type": "NFC"}),
    "post": lambda p: written(p, [], post_processor={"type": "TemplateProcessing"}),
    "split": lambda p: written(p, [("a", "b")], pre_tokenizer={"type": "Whitespace"}),
    "no split": lambda p: written(p, [("a", "b")], pre_tokenizer=None),
    "lstrip": lambda p: written(p, [], added_tokens=[{**ADDED, "lstrip": True}]),
    "empty token": lambda p: written(p, [], added_tokens=[{**ADDED, "content": ""}]),
    "added twice": lambda p: written(p, [], added_tokens=[ADDED, {**ADDED, "id": 301}]),
    "an empty text": lambda p: written(p, [("", "a")]),
    "one id twice": lambda p: written(p, [], added_tokens=[{**ADDED, "id": 65}]),
    "negative id": lambda p: written(p, [], added_tokens=[{**ADDED, "id": -1}]),
    "a later version": lambda p: written(p, [], version="2.0"),
    "far id": lambda p: written(p, [], added_tokens=[{**ADDED, "id": (1 << 24) - 1}]),
    "huge id": lambda p: written(p, [], added_tokens=[{**ADDED, "id": 1 << 40}]),
    "a byte lacks": lambda p: written(p, [], model={"vocab": {"a": 0}}),
    "not byte-level": lambda p: written(p, [("a", "日")]),
    "merge of nothing": lambda p: written(p, [("a", "b")], model={"merges": [["a", "zz"]]}),
    "merge of three": lambda p: written(p, [("a", "b")], model={"merges": [["a", "b", "c"]]}),
    "no merges": lambda p: written(p, [], model={"merges": None}),
    "no model": lambda p: broken(p, b"{}"),
    "cut": lambda p: broken(p, written(p, []).read_bytes()[:-9]),
    "nothing": lambda p: broken(p, b""),
    "nested": lambda p: broken(p, b'{"model":' * 5000),
    "absent": lambda p: p / "absent",
}


def broken(folder: Path, content: bytes) -> Path:
    path = folder / "tokenizer.json"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_the_same_is_refused(name: str, lib: Any, tmp_path: Path) -> None:
    path = REFUSED[name](tmp_path)
    with pytest.raises(TokenizerError):
        Tokenizer.from_file(path)
    with pytest.raises(TokenizerError):
        InC(lib, path)


def test_random_damage_is_refused_or_harmless(lib: Any, saved: Path, tmp_path: Path) -> None:
    good, pick, path = saved.read_bytes(), random.Random(4), tmp_path / "t.json"
    for _ in range(300):
        out = bytearray(good)
        for _ in range(pick.randrange(1, 4)):
            at = pick.randrange(min(len(out), 1600) if pick.random() < 0.5 else len(out))
            out[at : at + pick.randrange(3)] = bytes([pick.choice(b'"\\{}[],:0x9 au\x00\xff')])
        path.write_bytes(out if pick.random() < 0.8 else out[: pick.randrange(len(out))])
        try:
            c = InC(lib, path)
        except TokenizerError:
            continue
        assert b"".join(c.token(i) for i in c.encode(b"def f(x):\n    return x")) == b"def f(x):\n    return x"
        lib.cdr_tokenizer_close(c.handle)


# --- decoding as it comes ------------------------------------------------------------------------------------------
class _Utf8(ctypes.Structure):
    _fields_ = [("held", c_ubyte * 4), ("have", ctypes.c_uint), ("need", ctypes.c_uint)]


def test_streams_never_break_a_character(lib: Any) -> None:
    lib.cdr_utf8_push.argtypes, lib.cdr_utf8_push.restype = [POINTER(_Utf8), c_ubyte, c_char_p], c_size_t
    lib.cdr_utf8_flush.argtypes, lib.cdr_utf8_flush.restype = [POINTER(_Utf8), c_char_p], c_size_t
    pick, hard = random.Random(5), bytes.fromhex("41c3a9e0a0ed9ff090f48f80bfc0c1fff5a0")
    for _ in range(3000):
        data = bytes(pick.choice(hard) for _ in range(pick.randrange(14)))
        state, shown, decoder, text, room = _Utf8(), b"", StreamDecoder(), "", ctypes.create_string_buffer(8)
        for byte in data:
            size = lib.cdr_utf8_push(byref(state), byte, room)
            shown += room.raw[:size]
            assert shown.decode() is not None  # whole characters at every moment
            text += decoder.push(bytes([byte]))
        size = lib.cdr_utf8_flush(byref(state), room)
        shown += room.raw[:size]
        text += decoder.flush()
        assert shown.decode() == text == data.decode(errors="replace"), data


def test_a_decoder_begins_anew_after_a_flush() -> None:
    decoder = StreamDecoder()
    assert decoder.push("é".encode()[:1]) == ""
    assert decoder.flush() == "\ufffd"
    assert decoder.push("é日".encode()[:3]) == "é"
    assert decoder.push("日".encode()[1:]) == "日"
