"""Collect and divide text: a tree of files to JSONL shards, and a split by content.

Both stream: memory does not grow with the data.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from cdrmix.diagnose import UserError
from cdrmix.plain_json import to_json
from cdrmix.train.sources import JSONL, TEXT, Document, documents, files_of, form_of, read, text_of, walk
from cdrmix.weights import atomic


@dataclass(slots=True)
class Collected:
    """What `from_directory` did: shards written, documents and bytes in them, and the files it left out, with why."""

    shards: list[Path] = field(default_factory=list)
    documents: int = 0
    size: int = 0
    skipped: list[tuple[Path, str]] = field(default_factory=list)


def from_directory(
    tree: Path,
    out: Path,
    shard_bytes: int = 256 << 20,
    exclude: Collection[str] = (),
    only: Collection[str] = (),
) -> Collected:
    """Write every text file below `tree` as one line of `out/shard-….jsonl`: its text, and its path as `source`.

    What is empty, not UTF-8 or cannot be read is left out and listed, and so are lines of tokens.  Lines of .jsonl
    files are documents of their own.  `out` may lie below `tree`.
    `exclude` names files and folders to pass over; `only` keeps these suffixes.
    """
    if not tree.is_dir():
        raise UserError(f"no folder {tree}", "give a folder with text files")
    if out.exists() and any(out.glob("shard-*.jsonl")):
        raise UserError(f"{out} holds shards already", "remove them, or give another folder")
    done = Collected()
    out.mkdir(parents=True, exist_ok=True)
    kept = frozenset(suffix.lower() for suffix in only) or TEXT | JSONL
    stream = _records(tree, _real(out), done, frozenset(exclude), kept)
    for number, first in enumerate(stream):
        path = out / f"shard-{number:05d}.jsonl"
        with atomic(path) as f:
            _fill(f, first, stream, shard_bytes, done)
        done.shards.append(path)
    if not done.shards:
        kinds = ", ".join(only) if only else f"{' '.join(sorted(TEXT)[:8])} … and .jsonl"
        lost = "".join(f"\n  {path}: {why}" for path, why in done.skipped[:5])
        raise UserError(f"{tree} holds no text to keep{lost}", f"what is kept: {kinds}; --only names other suffixes")
    return done


def _fill(f: BinaryIO, first: bytes, stream: Iterator[bytes], limit: int, done: Collected) -> None:
    size = 0
    for record in chain((first,), stream):
        f.write(record)
        size += len(record)
        done.documents += 1
        done.size += len(record)
        if size >= limit:
            return


def _records(
    tree: Path, out: Path, done: Collected, exclude: frozenset[str], suffixes: frozenset[str]
) -> Iterator[bytes]:
    def passed_over(path: Path) -> bool:
        return path.name in exclude or (path.name == out.name and _real(path) == out)  # what is being written

    for path, trouble in walk(tree, passed_over):
        if trouble:
            done.skipped.append((path, trouble))
            continue
        if path.suffix.lower() not in suffixes:
            continue
        try:
            lines = form_of(path, "text")[0] == "lines"
            for doc in read(path, "text") if lines else [Document(text_of(path), path, 0)]:
                place = f":{doc.line}" if doc.line else ""
                if not doc.content:
                    done.skipped.append((path, f"line {doc.line} is empty" if doc.line else "empty"))
                elif isinstance(doc.content, str):
                    yield _line(doc.content, f"{path.relative_to(tree)}{place}")
                else:
                    done.skipped.append((path, f"line {doc.line} holds tokens, not text"))
        except UnicodeDecodeError as e:
            done.skipped.append((path, f"not UTF-8 at byte {e.start}"))
        except OSError as e:
            done.skipped.append((path, e.strerror or str(e)))


def _line(text: str, source: str) -> bytes:
    return to_json({"text": text, "source": source}, ascii=False).encode() + b"\n"


def split(paths: list[Path], out: Path, ratio: float, field: str = "text") -> dict[str, int]:
    """Write `out/train.jsonl` and `out/eval.jsonl`; about `ratio` of the documents are eval.  Returns the counts.

    Documents that hold nothing, which training refuses, are left out and counted as `empty`; a warning names the first.
    A document's side is decided by its content alone, so equal documents fall on one side and adding data moves none.
    """
    if not 0 < ratio < 1:
        raise UserError(f"--ratio {ratio} is not between 0 and 1", "0.1 puts a tenth of the documents in eval")
    counts = {"train": 0, "eval": 0}
    given = {_real(file) for file in files_of(paths)}
    for side in counts:
        if _real(out / f"{side}.jsonl") in given:
            raise UserError(f"{out / side}.jsonl is part of the data", "give another folder with -o")
    out.mkdir(parents=True, exist_ok=True)
    empty, first = 0, ""

    def leave_out(doc: Document) -> None:
        nonlocal empty, first
        empty, first = empty + 1, first or doc.where

    with ExitStack() as stack:
        files = {side: stack.enter_context(atomic(out / f"{side}.jsonl")) for side in counts}
        for doc in documents(paths, field, leave_out):
            side = "eval" if _place(doc) < ratio else "train"
            key = field if isinstance(doc.content, str) else "tokens"
            files[side].write(json.dumps({key: doc.content}, ensure_ascii=False).encode() + b"\n")
            counts[side] += 1
        none = [side for side, n in counts.items() if n == 0]
        if none:
            raise UserError(
                f"{none[0]} would be empty: {sum(counts.values())} documents",
                "give more documents, or another --ratio",
            )
    if empty:
        said = "empty documents are" if empty > 1 else "empty document is"
        warnings.warn(f"{empty} {said} left out, the first at {first}", stacklevel=2)
    return {**counts, "empty": empty}


def _place(doc: Document) -> float:
    content = doc.content.encode() if isinstance(doc.content, str) else json.dumps(doc.content).encode()
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") / 2**64


def _real(path: Path) -> Path:
    """The path without links; one in a circle stays as it is (`Path.resolve` raises there)."""
    return Path(os.path.realpath(path))
