"""The text of a `.cdr` file.

Input: a path.  Output: its text, or a `CompileError` when there is none (E0115: no such file, not UTF-8) or far too
much (E0116).
"""

from __future__ import annotations

from pathlib import Path

from cdrmix.diagnose import CompileError, Diagnostic, Span

MAX_SIZE = 1 << 20
"""Bytes a file may have."""


def read_source(path: str | Path, name: str | None = None) -> str:
    """The text of `path`, reported as `name`; a byte order mark is not part of it."""
    file = str(path) if name is None else name
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_SIZE + 1)
    except OSError as refused:
        raise _error(file, "E0115", f"cannot read `{file}`: {(refused.strerror or 'unknown error').lower()}") from None
    check_size(data, file)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as refused:
        line = data.count(b"\n", 0, refused.start) + 1
        col = len(data[data.rfind(b"\n", 0, refused.start) + 1 : refused.start].decode("utf-8", "replace")) + 1
        message = f"the byte 0x{data[refused.start]:02X} is not UTF-8"
        raise _error(file, "E0115", message, "save the file as UTF-8", Span(file, line, col, line, col + 1)) from None


def check_size(text: str | bytes, file: str) -> None:
    """Refuse what is no source text but its length."""
    if len(text) > MAX_SIZE:
        raise _error(file, "E0116", "the file is larger than 1 MiB", "split it into several files and `use` them")


def _error(file: str, code: str, message: str, help: str = "", span: Span | None = None) -> CompileError:
    return CompileError([Diagnostic(code, span or Span(file, 1, 1, 1, 1), message, help)])
