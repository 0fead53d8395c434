"""Documents from files: the one reader of text, JSONL text and tokenised JSONL.

Input: files and folders.  Output: `Document`s in a fixed order, one in memory at a time.
Everything is UTF-8; a byte order mark at the start of a file is no part of its text.  What cannot be read, a missing
path, an empty file or text, a bad line: `UserError` with the file and the line, never a document invented or dropped.
"""

from __future__ import annotations

import json
import os
import warnings
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from cdrmix.diagnose import UserError

TEXT = frozenset(
    {".txt", ".md", ".rst", ".adoc", ".org", ".tex", ".csv", ".json", ".toml", ".yaml", ".yml", ".cfg", ".ini", ".xml"}
    | {".py", ".pyi", ".cdr", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".rs", ".go", ".java", ".js", ".ts", ".css"}
    | {".html", ".sh", ".sql", ".lua", ".rb", ".pl", ".r", ".jl", ".hs", ".ml", ".scala", ".swift", ".kt", ".cs"}
)
FIELD = "name the field that holds the text: `data.field` in a config, --field in a command"
JSONL = frozenset({".jsonl", ".ndjson"})


@dataclass(frozen=True, slots=True)
class Document:
    """A text, or token ids of the run's own tokenizer; `line` is 0 where the whole file is the document."""

    content: str | list[int]
    file: Path
    line: int

    @property
    def where(self) -> str:
        """Its place, for messages."""
        return f"{self.file}:{self.line}" if self.line else str(self.file)


def files_of(paths: Iterable[Path]) -> list[Path]:
    """Every file of the paths: folders are walked, in name order.  A path that is not there is refused."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = list(_inside(path))
            if not inside:
                raise UserError(
                    f"{path} holds no text and no .jsonl files", "`cdrmix data from-directory` collects a tree of text"
                )
            found += inside
        elif path.is_file():
            found.append(path)
        elif path.exists():
            raise UserError(f"{path} is no file and no folder", "write what it gives to a file first")
        else:
            raise UserError(f"no data at {path}", "check the `data` paths; they are relative to the folder you run in")
    return found


def _inside(folder: Path) -> Iterator[Path]:
    others: Counter[str] = Counter()
    for path, trouble in walk(folder):
        if trouble == LINK:
            warnings.warn(f"{path} is {LINK}", stacklevel=1)  # said once, whoever asks
        elif trouble:
            raise UserError(f"{path} cannot be read: {trouble}", "make it readable, or leave it out of the data")
        elif path.suffix.lower() in TEXT | JSONL:
            yield path
        else:
            others[path.suffix.lower() or path.name] += 1
    if others:
        kinds = ", ".join(f"{n} {kind}" for kind, n in others.most_common(3)) + (" …" if len(others) > 3 else "")
        warnings.warn(
            f"{folder} holds files that are passed over, being no text by their names: {kinds}", stacklevel=1
        )  # said once, whoever asks


LINK = "a link to a folder, which is not followed"


def walk(folder: Path, passed_over: Callable[[Path], bool] = lambda path: False) -> Iterator[tuple[Path, str]]:
    """Every file below a folder, in name order, one folder's names in memory at a time; with a word on what cannot be
    read or is not followed, in its place.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
    except OSError as e:
        yield folder, e.strerror or str(e)
        return
    for path in map(folder.joinpath, names):
        if passed_over(path):
            continue
        try:
            path.stat()
        except OSError as e:
            yield path, e.strerror or str(e)
            continue
        if path.is_dir():
            if path.is_symlink():
                yield path, LINK
            else:
                yield from walk(path, passed_over)
        elif path.is_file():
            yield path, ""


def documents(
    paths: Iterable[Path], field: str = "text", empty: Callable[[Document], None] | None = None
) -> Iterator[Document]:
    """Read every document of the paths.  Those that hold nothing are refused, or given to `empty` instead."""
    for file in files_of(paths):
        for doc in read(file, field):
            if doc.content:
                yield doc
            elif empty is not None:
                empty(doc)
            else:
                raise UserError(
                    f"{doc.where} {'is empty' if doc.line == 0 else 'holds an empty document'}",
                    "leave it out; `cdrmix data split` does",
                )


def read(file: Path, field: str) -> Iterator[Document]:
    """Every document of a file; one that holds nothing is one empty document."""
    form, word = form_of(file, field)
    if word and form == "text":
        raise UserError(f"{file} {word}", FIELD if field in word else "write one record a line, as .jsonl")
    if word:
        warnings.warn(f"{file} {word}", stacklevel=1)
    yield from _lines(file, field) if form == "lines" else _whole(file)


def form_of(file: Path, field: str) -> tuple[Literal["text", "lines"], str]:
    """Whether a file is one text or a record a line, and what is to be said about that.

    A .json file may be either, and then is no text to train on: lines of records are read as such.
    """
    if file.suffix.lower() in JSONL:
        return "lines", ""
    if file.suffix.lower() != ".json":
        return "text", ""
    with file.open("rb") as f:
        first, *more = [_json(line) for line in islice((x for x in f if x.strip()), 2)] or [None]
        f.seek(0)
        begin = f.read(64)
    if isinstance(first, dict) and all(isinstance(x, dict) for x in more):
        if isinstance(first.get(field), str) or isinstance(first.get("tokens"), list):
            return "lines", "holds a JSON record a line, and is read as .jsonl"
        return "text", f"holds a JSON record a line, without a text as `{field}`" if more else ""
    if begin.removeprefix(BOM_UTF8).lstrip()[:1] == b"[":
        match _json(file.read_bytes()):
            case [{**record}, *_] if isinstance(record.get(field), str):
                return "text", "is a JSON list of records"
    return "text", ""


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw.removeprefix(BOM_UTF8).decode())
    except (ValueError, RecursionError):
        return None


def text_of(file: Path) -> str:
    """A whole file as text.  Raises `UnicodeDecodeError`."""
    return file.read_bytes().decode("utf-8").removeprefix("\ufeff")


def _whole(file: Path) -> Iterator[Document]:
    try:
        yield Document(text_of(file), file, 0)
    except UnicodeDecodeError as e:
        line = e.object.count(b"\n", 0, e.start) + 1
        raise UserError(f"{file}:{line}: not UTF-8 (byte {e.start})", "convert it, or leave it out") from e


def _lines(file: Path, field: str) -> Iterator[Document]:
    some = False
    with file.open("rb") as f:
        for number, raw in enumerate(f, 1):
            raw = raw.removeprefix(BOM_UTF8) if number == 1 else raw
            if not raw.strip():
                continue
            some = True
            yield Document(_parse(raw, f"{file}:{number}", field), file, number)
    if not some:
        yield Document("", file, 0)


def _parse(raw: bytes, where: str, field: str) -> str | list[int]:
    try:
        record = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as e:
        raise UserError(f"{where}: not UTF-8 (byte {e.start} of the line)", "convert it, or leave it out") from e
    except (ValueError, RecursionError) as e:
        raise UserError(f"{where}: not JSON ({e})", "each line is one JSON object") from e
    if not isinstance(record, dict):
        raise UserError(f"{where}: a JSON {type(record).__name__}, not an object", 'each line is like {"text": "…"}')
    if field in record:
        if isinstance(record[field], str):
            text = str(record[field])
            if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
                raise UserError(f"{where}: half of a surrogate pair, which is no text", "mend it, or leave it out")
            return text
        raise UserError(f"{where}: `{field}` is not a string", FIELD)
    if "tokens" in record:
        tokens = record["tokens"]
        if isinstance(tokens, list) and all(type(t) is int and t >= 0 for t in tokens):
            return tokens
        raise UserError(f"{where}: `tokens` is not a list of token ids", "ids are integers from 0")
    raise UserError(f"{where}: no `{field}` and no `tokens`", FIELD)
