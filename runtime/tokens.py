"""Text to token ids and back: a byte-level BPE read from a `tokenizer.json`, in plain Python.

Input: bytes (any) or str.  Output: ids; and from ids, the bytes exactly.

It gives the ids that the `tokenizers` library gives for every valid text, and those of the artefact's tokenizer.c for
every byte string.  What it cannot reproduce exactly (normalisers, other pre-tokenisers, byte fallback) it refuses.
"""

from __future__ import annotations

import codecs
import heapq
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cdrmix.runtime.errors import ArtifactError
from cdrmix.runtime.pretokenizer import PATTERN, PATTERNS, split

END_OF_TEXT = "<|endoftext|>"
SPARSEST = 64
"""How many ids a tokenizer may have for a token: memory is made for all of them."""
_CACHED_PIECES = 1 << 16
_LONGEST_CACHED = 64


class TokenizerError(ArtifactError):
    """A tokenizer.json that cannot be used, and why."""


def visible_bytes() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary (Radford et al. 2019, GPT-2's encoder)."""
    shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = iter(range(256, 512))
    return [chr(byte if byte in shown else next(hidden)) for byte in range(256)]


class Tokenizer:
    """A vocabulary, its merges and the pattern of its pieces.  Without merges it is a vocabulary of bytes."""

    def __init__(
        self,
        tokens: Mapping[int, bytes],
        merges: Sequence[tuple[bytes, bytes]],
        special: Mapping[bytes, int],
        added: Mapping[bytes, int],
        pattern: str = PATTERN,
    ):
        """`added`: tokens that are found in every text before it is cut in pieces, `special` ones when asked for."""
        self._pattern = pattern
        by_bytes = {token: i for i, token in tokens.items()}
        self._bytes = [by_bytes.get(bytes([b]), -1) for b in range(256)]
        if -1 in self._bytes:
            raise TokenizerError(f"the vocabulary lacks the byte {self._bytes.index(-1)}")
        self._merges: dict[tuple[int, int], tuple[int, int]] = {}
        for rank, (left, right) in enumerate(merges):
            try:
                self._merges[by_bytes[left], by_bytes[right]] = rank, by_bytes[left + right]
            except KeyError as e:
                raise TokenizerError(f"merge {rank} makes or takes a token that is not in the vocabulary") from e
        self._added = {**added, **special}
        self._tokens = {**tokens, **{i: text for text, i in self._added.items()}}
        self._cuts = {False: _cut(added), True: _cut(self._added)}
        self._cache: dict[bytes, list[int]] = {}
        self.vocab_size: int = max(self._tokens) + 1
        self.eot: int | None = self._added.get(END_OF_TEXT.encode())
        """The id of the end-of-text token, if there is one."""

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """Read a `tokenizer.json` of the `tokenizers` library."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(*_parse(data))
        except TokenizerError as e:
            raise TokenizerError(f"{path}: {e}") from e
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as e:
            raise TokenizerError(f"{path} is not a tokenizer.json: {e}") from e

    def encode(self, text: bytes | str, special: bool = False) -> list[int]:
        """The ids of a text.  A special token's own text is text as any other, unless `special` is set."""
        data = text.encode("utf-8") if isinstance(text, str) else bytes(text)
        cut = self._cuts[special]
        if cut is None:
            return self._encode(data)
        ids: list[int] = []
        for at, stretch in enumerate(cut.split(data)):
            ids += [self._added[stretch]] if at % 2 else self._encode(stretch)
        return ids

    @property
    def ids(self) -> list[int]:
        """The ids that have a text."""
        return sorted(self._tokens)

    def decode(self, ids: Iterable[int]) -> bytes:
        """The bytes of some ids; nothing for an id the vocabulary skips."""
        return b"".join(self.token(i) for i in ids)

    def token(self, i: int) -> bytes:
        """The bytes of one id."""
        if not 0 <= i < self.vocab_size:
            raise TokenizerError(f"token {i} is outside the vocabulary of {self.vocab_size}")
        return self._tokens.get(i, b"")

    def _encode(self, data: bytes) -> list[int]:
        if not self._merges:
            return [self._bytes[b] for b in data]
        ids: list[int] = []
        for piece in split(data, self._pattern):
            ids += self._piece(piece)
        return ids

    def _piece(self, piece: bytes) -> list[int]:
        known = self._cache.get(piece)
        if known is None:
            known = merge([self._bytes[b] for b in piece], self._merges)
            if len(piece) <= _LONGEST_CACHED and len(self._cache) < _CACHED_PIECES:
                self._cache[piece] = known
        return known


def merge(ids: list[int], merges: Mapping[tuple[int, int], tuple[int, int]]) -> list[int]:
    """BPE of one piece: the merge of lowest rank first, of equal ones the leftmost; O(n log n).

    A queued merge is taken when the pair now at its place still makes the same token, as `tokenizers` does it.
    """
    ids = list(ids)
    after = [*range(1, len(ids)), -1]
    before = list(range(-1, len(ids) - 1))
    queue: list[tuple[int, int, int]] = []

    def offer(at: int) -> None:
        found = merges.get((ids[at], ids[after[at]]))
        if found is not None:
            heapq.heappush(queue, (found[0], at, found[1]))

    for at in range(len(ids) - 1):
        offer(at)
    while queue:
        _, at, made = heapq.heappop(queue)
        right = after[at]
        if ids[at] < 0 or right < 0:
            continue
        if merges.get((ids[at], ids[right]), (0, -1))[1] != made:
            continue
        ids[at], ids[right] = made, -1
        after[at] = after[right]
        if after[at] >= 0:
            before[after[at]] = at
            offer(at)
        if before[at] >= 0:
            offer(before[at])
    return [i for i in ids if i >= 0]


def _cut(tokens: Iterable[bytes]) -> re.Pattern[bytes] | None:
    """What parts a text at some tokens; the longest of those that begin at one place wins."""
    longest_first = sorted(tokens, key=lambda text: (-len(text), text))
    return re.compile(b"(" + b"|".join(map(re.escape, longest_first)) + b")") if longest_first else None


class StreamDecoder:
    """Bytes as they come to text: a character is held back until it is whole, invalid bytes become U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, data: bytes) -> str:
        """The text that is now complete."""
        return self._decoder.decode(data)

    def flush(self) -> str:
        """The rest: U+FFFD for a character that never became whole."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


# --- tokenizer.json ------------------------------------------------------------------------------------------------
_Parts = tuple[dict[int, bytes], list[tuple[bytes, bytes]], dict[bytes, int], dict[bytes, int], str]


def _parse(data: Mapping[str, Any]) -> _Parts:
    model = data["model"]
    _refuse((data.get("version") or "1.0") != "1.0", f"it is of version {data.get('version')}, not 1.0")
    _refuse(model.get("type", "BPE") != "BPE", f"its model is {model.get('type')}, not BPE")
    for option in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"):
        _refuse(bool(model.get(option)), f"the model's `{option}` is set")
    for option in ("byte_fallback", "ignore_merges"):
        _refuse(bool(model.get(option)), f"the model's `{option}` is set")
    _refuse(data.get("normalizer") is not None, "it has a normalizer")
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    _refuse(any(len(m) != 2 for m in merges), "a merge is not a pair")
    pattern = _pattern(data.get("pre_tokenizer"))
    _refuse(bool(merges) and pattern not in PATTERNS, "its pre-tokeniser is another one")
    post = data.get("post_processor")
    _refuse(post is not None and post.get("type") != "ByteLevel", "it has a post-processor")

    byte_of = {shown: byte for byte, shown in enumerate(visible_bytes())}

    def to_bytes(token: str) -> bytes:
        try:
            return bytes(byte_of[c] for c in token)
        except KeyError as e:
            raise TokenizerError(f"the token {token!r} is not byte-level") from e

    special: dict[bytes, int] = {}
    added: dict[bytes, int] = {}
    for token in data.get("added_tokens") or []:
        for option in ("single_word", "lstrip", "rstrip"):
            _refuse(bool(token.get(option)), f"the added token {token['content']!r} has `{option}`")
        _refuse(not token["content"], "an added token is empty")
        text = token["content"].encode("utf-8")
        _refuse(text in special or text in added, f"the added token {token['content']!r} is there twice")
        (special if token.get("special", True) else added)[text] = _id(token["id"])
    names = {text.decode("utf-8") for text in (*special, *added)}
    tokens = {_id(i): to_bytes(token) for token, i in model["vocab"].items() if token not in names}
    _refuse(b"" in tokens.values(), "a token is empty")
    _refuse(len(tokens) < len(model["vocab"].keys() - names), "two tokens have one id")
    count = len(tokens) + len(special) + len(added)
    _refuse(len({*tokens, *special.values(), *added.values()}) < count, "two tokens have one id")
    largest = max((*tokens, *special.values(), *added.values()), default=0)
    listed = len(model["vocab"]) + len(special) + len(added)
    _refuse((largest + 2) // SPARSEST > listed, f"it has an id {largest}, and {listed} tokens")
    return tokens, [(to_bytes(a), to_bytes(b)) for a, b in merges], special, added, pattern


def _refuse(wrong: bool, why: str) -> None:
    if wrong:
        raise TokenizerError(why)


def _id(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 24:
        raise TokenizerError(f"{value!r} is not a token id")
    return value


def _pattern(pre: Any) -> str:
    """The pattern of a pre-tokeniser that is built as those of `pretokenizer.py` are; empty for others."""
    match pre:
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }:
            return pattern
    return ""
