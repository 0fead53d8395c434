"""The text of a `.cdr` file.

Input: a path.  Output: its text, or a `CompileError` when it is not UTF-8 (E0115) or far too much (E0116).
"""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

from cdrmix.diagnose import CompileError, Diagnostic, Span

MAX_SIZE = 1 << 20
"""Bytes a file may have."""

MAX_WORDS = 40_000
"""Words, numbers and signs that a file may have, and those it uses with it; the largest spec of the library has 700."""

_WORD = re.compile(r"""#[^\n]*|"[^"\n]*"|\w+|[^\s\w]""")


def read_source(path: str | Path, name: str | None = None) -> str:
    """The text of `path`, reported as `name`; a byte order mark is not part of it.  Raises `OSError` as `open` does."""
    file = str(path) if name is None else name
    with open(path, "rb") as stream:
        data = stream.read(MAX_SIZE + 1)
    check_size(data, file)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as refused:
        line = data.count(b"\n", 0, refused.start) + 1
        col = len(data[data.rfind(b"\n", 0, refused.start) + 1 : refused.start].decode("utf-8", "replace")) + 1
        message = f"the byte 0x{data[refused.start]:02X} is not UTF-8"
        raise _error(Span(file, line, col, line, col + 1), "E0115", message, "save the file as UTF-8") from None


def check_size(text: str | bytes, file: str) -> None:
    """Refuse what is no source text by its length alone."""
    if len(text) > MAX_SIZE:
        help = "split it into several files and `use` them"
        raise _error(Span(file, 1, 1, 1, 1), "E0116", "the file is larger than 1 MiB", help)


def check_words(text: str, file: str, before: int = 0) -> int:
    """Refuse a text with more words than any model needs, `before` being those of the files read already: the time to
    read it grows with them.  Returns how many there are by now."""
    words = before + sum(1 for _ in islice((m for m in _WORD.finditer(text) if m[0][0] != "#"), MAX_WORDS + 1))
    if words > MAX_WORDS:
        what = "the files that it uses make" if before else "this file makes"
        raise _error(Span(file, 1, 1, 1, 1), "E0116", f"{what} a text of more than {MAX_WORDS} words",
                     "say what repeats once: `repeat`, ops with arguments, `with`")  # fmt: skip
    return words


def _error(span: Span, code: str, message: str, help: str) -> CompileError:
    return CompileError([Diagnostic(code, span, message, help)])
