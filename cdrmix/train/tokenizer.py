"""Tokenizers: a byte-level BPE trained on text, and the plain bytes.

Both are a `tokenizer.json` of the `tokenizers` library and round-trip every text exactly.  The pre-tokeniser splits by
ASCII classes alone, so that the C program can do the same on bytes (`runtime/pretokenizer.py`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from cdrmix.diagnose import UserError
from cdrmix.ir.nodes import Model
from cdrmix.runtime.pretokenizer import PATTERN, UNBOUNDED
from cdrmix.runtime.tokens import visible_bytes
from cdrmix.train.sources import documents
from cdrmix.train.store import END

SMALLEST, LARGEST = 257, 1 << 24
"""The 256 bytes and the end-of-text token; the ids that runtimes take."""


def train_tokenizer(paths: Iterable[Path], vocab: int, field: str = "text") -> Tokenizer:
    """Train a byte-level BPE of `vocab` tokens on the documents' text.  Id 0 is the end-of-text token."""
    if vocab < SMALLEST:
        raise UserError(
            f"a vocabulary of {vocab} is too small", f"it holds the 256 bytes and `{END}`: {SMALLEST} at least"
        )
    if vocab > LARGEST:
        raise UserError(f"a vocabulary of {vocab} is too large", f"it has {LARGEST:,} tokens at most")
    tokenizer = _byte_level(Tokenizer(models.BPE()), PATTERN)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[AddedToken(END, special=True)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(paths, field), trainer)
    return tokenizer


def _texts(paths: Iterable[Path], field: str) -> Iterator[str]:
    for doc in documents(paths, field):
        if not isinstance(doc.content, str):
            raise UserError(f"{doc.where}: holds tokens, not text", "a tokenizer is trained on text")
        yield doc.content


def byte_tokenizer() -> Tokenizer:
    """The 256 bytes, each its own token: id = byte.  It has no end-of-text token."""
    vocab = {character: byte for byte, character in enumerate(visible_bytes())}
    # without merges a piece may be of any length, and its pattern is the one that runs of before were trained with
    return _byte_level(Tokenizer(models.BPE(vocab=vocab, merges=[])), UNBOUNDED)


def load_tokenizer(source: Path | Literal["bytes"]) -> Tokenizer:
    """A byte-level `tokenizer.json`, or the bytes.  Others lose text, and what a token's bytes are is not known."""
    if source == "bytes":
        return byte_tokenizer()
    if not source.is_file():
        raise UserError(f"no tokenizer at {source}", "`cdrmix tokenizer train` makes one; `bytes` needs none")
    try:
        tokenizer = Tokenizer.from_file(str(source))
    except Exception as e:  # the library raises bare Exception
        raise UserError(f"{source} is not a tokenizer.json: {e}", "`cdrmix tokenizer train` makes one") from e
    if not tokenizer.get_vocab().keys() >= set(visible_bytes()):
        raise UserError(f"{source} is not byte-level: some text it cannot hold", "`cdrmix tokenizer train` makes one")
    if size_of(tokenizer) > LARGEST:
        raise UserError(f"{source} has the id {size_of(tokenizer) - 1}", f"ids go up to {LARGEST - 1:,}")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if _there_and_back(tokenizer, PROBE) != PROBE:
        raise UserError(
            f"{source} does not keep text: {PROBE!r} becomes {_there_and_back(tokenizer, PROBE)!r}",
            "give one without a normalizer and without a prefix space; `cdrmix tokenizer train` makes one",
        )
    if _there_and_back(tokenizer, DECOMPOSED) != DECOMPOSED:
        warnings.warn(
            f"{source} composes characters (NFC): models see, and scores count, the text it makes", stacklevel=2
        )
    return tokenizer


PROBE = "Aa Ångström  é\t\r\n 日本😀\x00\x7f  \ufeff İß½ "
DECOMPOSED = "e\u0301"


def size_of(tokenizer: Tokenizer) -> int:
    """One more than the largest id."""
    return 1 + max(tokenizer.get_vocab().values())


def require_fit(tokenizer: Tokenizer, model: Model) -> None:
    """Refuse a tokenizer with ids that the model has no rows for."""
    size = size_of(tokenizer)
    if size > model.vocab:
        raise UserError(
            f"the tokenizer has {size} tokens, {model.name} a vocabulary of {model.vocab}", f"--set set.vocab={size}"
        )


def _there_and_back(tokenizer: Tokenizer, text: str) -> str:
    """The text that the tokens of a text stand for."""
    byte_of = {shown: byte for byte, shown in enumerate(visible_bytes())}
    tokens = tokenizer.encode(text, add_special_tokens=False).tokens
    return bytes(byte_of.get(c, 0x3F) for token in tokens for c in token).decode("utf-8", "replace")


def _byte_level(tokenizer: Tokenizer, pattern: str) -> Tokenizer:
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
