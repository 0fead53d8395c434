"""Documents from files: the one reader of text, JSONL text and tokenised JSONL.

Input: files and folders.  Output: `Document`s in a fixed order, one in memory at a time.
A missing path, an empty file, a bad line: `UserError` with the file and the line, never an invented document.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

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
            inside = sorted(f for f in path.rglob("*") if f.is_file() and f.suffix.lower() in TEXT | JSONL)
            if not inside:
                raise UserError(
                    f"{path} holds no text and no .jsonl files", "`cdrmix data from-directory` collects a tree of text"
                )
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(f"no data at {path}", "check the `data` paths; they are relative to the folder you run in")
    return found


def documents(paths: Iterable[Path], field: str = "text") -> Iterator[Document]:
    """Read every document of the paths."""
    for file in files_of(paths):
        if file.stat().st_size == 0:
            raise UserError(f"{file} is empty", "remove it from the data, or fill it")
        yield from _lines(file, field) if file.suffix.lower() in JSONL else _whole(file)


def _whole(file: Path) -> Iterator[Document]:
    raw = file.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as e:
        line = raw.count(b"\n", 0, e.start) + 1
        raise UserError(f"{file}:{line}: not UTF-8 (byte {e.start})", "convert it, or leave it out") from e
    yield Document(text, file, 0)


def _lines(file: Path, field: str) -> Iterator[Document]:
    some = False
    with file.open("rb") as f:
        for number, raw in enumerate(f, 1):
            if not raw.strip():
                continue
            some = True
            yield Document(_parse(raw, f"{file}:{number}", field), file, number)
    if not some:
        raise UserError(f"{file} holds no lines", "remove it from the data, or fill it")


def _parse(raw: bytes, where: str, field: str) -> str | list[int]:
    try:
        record = json.loads(raw)
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
