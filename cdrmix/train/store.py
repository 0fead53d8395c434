"""Tokenised data on disk: one flat array of ids and where each document starts.

Input: documents and a tokenizer.  Output: a `TokenStore`, memory-mapped, written once and found again by what it was
made from.  With an end-of-text token each document is that token and its text, so that the token both ends a document
(as a target) and begins the next (as an input); without one, a document's last token has no target.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from cdrmix.diagnose import UserError
from cdrmix.progress import doing, over
from cdrmix.record import Damaged, check_files, read_record, write_record
from cdrmix.runtime.checksum import file_checksum
from cdrmix.runtime.parts import sweep, whole_folder
from cdrmix.train.lock import Lock
from cdrmix.train.sources import Document, documents, files_of, form_of

END = "<|endoftext|>"
TOKENS, STARTS, META = "tokens.bin", "starts.npy", "meta.json"
DTYPES = ("<u2", "<u4")
FORMAT = 1
"""Changes when the same files are to give other tokens."""
_BATCH = 256


@dataclass(frozen=True, slots=True)
class TokenStore:
    """`tokens` [N] ids; `starts` [docs] places of first tokens; `sizes` [vocab] bytes of a token's text.

    `digest` names the tokenizer and the documents' tokens: equal for equal data, wherever it lies.
    """

    tokens: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    end: int | None
    digest: str


def open_store(folder: Path, paths: list[Path], field: str, tokenizer: Tokenizer, vocab: int) -> TokenStore:
    """The store of these files under `folder`, tokenised now if it is not there yet, or not as it was written."""
    return read_store(make_store(folder, paths, field, tokenizer, vocab), tokenizer, vocab)


def make_store(folder: Path, paths: list[Path], field: str, tokenizer: Tokenizer, vocab: int) -> Path:
    """The place of that store, which is there now, and whole."""
    key = _key(paths, field, tokenizer, vocab)
    folder = Path(os.path.realpath(folder))  # runs may share one by a link
    home = folder / key
    with Lock(folder, folder.with_name(f".{folder.name}.lock"), wait=True):
        sweep(folder)
        try:
            _check_whole(home)
        except Damaged as why:
            if os.path.lexists(home):
                warnings.warn(f"{home} is damaged ({why}): the data is tokenised again", stacklevel=2)
            try:
                with whole_folder(home) as part:
                    _write(part, documents(paths, field), tokenizer, vocab)
                    if _key(paths, field, tokenizer, vocab) != key:
                        raise UserError("the data changed while it was read", "start again when nobody writes to it")
            except OSError as e:
                if e.filename is not None:
                    raise  # of the data
                raise UserError(f"cannot write {home}: {e.strerror or e}", "make room where `out` is") from e
            _check_whole(home)
    return home


def read_store(home: Path, tokenizer: Tokenizer, vocab: int) -> TokenStore:
    """The store at a place that `make_store` has told."""
    meta = _meta(home)
    tokens = np.memmap(home / TOKENS, dtype=meta["dtype"], mode="r")
    starts, end = np.load(home / STARTS), tokenizer.token_to_id(END)
    return TokenStore(tokens, starts, _sizes(tokenizer, vocab), end, meta["digest"])


def _meta(home: Path) -> dict[str, Any]:
    """What a store says of itself."""
    meta = read_record(home / META)
    if meta.get("dtype") not in DTYPES or not isinstance(meta.get("digest"), str):
        raise Damaged(f"{META} says no `dtype` or no `digest`")
    return meta


def _check_whole(home: Path) -> None:
    """Compare everything in a store with what it says of itself."""
    meta = _meta(home)
    with doing("checking the tokens"):
        check_files(home, meta, (TOKENS, STARTS))


def _sizes(tokenizer: Tokenizer, vocab: int) -> np.ndarray:
    """A byte-level token is written with one character a byte; special tokens are no text."""
    sizes = np.zeros(vocab, np.int64)
    special = tokenizer.get_added_tokens_decoder()
    for token, i in tokenizer.get_vocab().items():
        sizes[i] = 0 if i in special else len(token)
    return sizes


def _key(paths: list[Path], field: str, tokenizer: Tokenizer, vocab: int) -> str:
    """A hash of all that the tokens depend on: the text itself too, which takes half a second a gigabyte."""
    seen = hashlib.sha256(f"{FORMAT}\0{tokenizer.to_str()}\0{field}\0{vocab}\0".encode())
    for file in over(files_of(paths), "reading the data", unit="files"):
        form, _ = form_of(file, field)
        seen.update(f"{form}\0{file.stat().st_size}\0{file_checksum(file)}\0".encode())
    return seen.hexdigest()[:16]


def _write(folder: Path, docs: Iterable[Document], tokenizer: Tokenizer, vocab: int) -> None:
    tokenizer.encode_special_tokens = True  # `<|endoftext|>` inside a document is text, not a document's end
    end = tokenizer.token_to_id(END)
    dtype = DTYPES[vocab > 1 << 16]
    starts, at, digest = [], 0, hashlib.sha256(tokenizer.to_str().encode())
    with (folder / TOKENS).open("wb") as f:
        for doc, ids in _encoded(docs, tokenizer):
            _check(doc, ids, vocab)
            ids = ids if end is None else [end, *ids]
            starts.append(at)
            at += len(ids)
            written = np.asarray(ids, dtype).tobytes()
            digest.update(len(ids).to_bytes(8, "little") + written)
            f.write(written)
    if not starts:
        raise UserError("the data holds no documents", "check the `data` paths")
    if at == len(starts):
        raise UserError("every document is one token: there is nothing to predict", "give longer documents")
    np.save(folder / STARTS, np.asarray(starts, np.int64))
    write_record(folder / META, {"dtype": dtype, "tokens": at, "digest": digest.hexdigest()}, (TOKENS, STARTS))


def _encoded(docs: Iterable[Document], tokenizer: Tokenizer) -> Iterator[tuple[Document, list[int]]]:
    """Documents with their ids, texts encoded a batch at a time."""
    stream = iter(over(docs, "tokenising", unit="documents"))
    while batch := list(islice(stream, _BATCH)):
        texts = [d.content for d in batch if isinstance(d.content, str)]
        codes = iter(tokenizer.encode_batch_fast(texts, add_special_tokens=False))
        for doc in batch:
            if isinstance(doc.content, str):
                yield doc, next(codes).ids
            else:
                yield doc, doc.content


def _check(doc: Document, ids: list[int], vocab: int) -> None:
    if not ids:
        raise UserError(f"{doc.where}: an empty document", "remove it from the data")
    worst = max(ids)
    if worst >= vocab:
        raise UserError(
            f"{doc.where}: token id {worst} is outside the model's vocabulary of {vocab}",
            "use the tokenizer the model was made for, or --set set.vocab=…",
        )
