"""The command line: arguments in, one command run, errors as text and an exit code.

Exit codes: 0 done; 1 a mistake in a spec, a config, data or an artefact; 2 a command line that cannot be read; 3 an
artefact that `verify` found wrong; 130 interrupted.  A traceback is a bug of cdrmix, never the answer to a user's
mistake.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr
from typing import TextIO

from cdrmix.arguments import make_parser
from cdrmix.diagnose import CompileError, UserError, explain, opened
from cdrmix.plain_json import to_json
from cdrmix.progress import shown
from cdrmix.runtime.errors import ArtifactError

MISTAKE, USAGE, WRONG, INTERRUPTED = 1, 2, 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    _open_streams()
    arguments = make_parser().parse_args(argv)
    for stream, errors in ((sys.stdout, "replace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)  # a model, or a name of a file, may be what the terminal cannot show
    with warnings.catch_warnings(), redirect_stderr(_Unfailing(sys.stderr)):
        warnings.showwarning = lambda message, *rest: print(f"note: {message}", file=sys.stderr)
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    as_json = getattr(arguments, "json", False)
    try:
        with shown():
            code: int = arguments.run(arguments) or 0
        sys.stdout.flush()
        return code
    except CompileError as e:
        if as_json:
            print(to_json({"errors": [d.as_json() for d in opened(e)]}))
        else:
            print(explain(e), end="\n\n", file=sys.stderr)
            count = len(e.diagnostics)
            print(f"{count} mistake{'s' if count > 1 else ''}", file=sys.stderr)
        return MISTAKE
    except (UserError, ArtifactError) as e:
        return _say(e.message, e.help, as_json)
    except MemoryError:
        return _say("there is not enough memory for this model", "`cdrmix inspect` says what it takes", as_json)
    except BrokenPipeError:
        _drop(sys.stdout)  # the reader of a pipe left; nothing to say
        return 0
    except OSError as e:
        if e.filename is None and e.errno in (errno.ENOSPC, errno.EBADF):  # stdout is full, or was closed
            _drop(sys.stdout)
            as_json = False
            if e.errno == errno.EBADF:
                return _say(
                    "the standard output is closed", "what is said has to go somewhere: > /dev/null takes it", False
                )
        where = f"{os.fsdecode(e.filename)}: " if isinstance(e.filename, str | bytes | os.PathLike) else ""
        return _say(f"{where}{e.strerror or e}", "", as_json)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one would cut short what is cleaned up at exit
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _say(message: str, help: str, as_json: bool) -> int:
    """Tell of a mistake outside the spec."""
    if as_json:
        print(to_json({"errors": [{"message": message, "help": help}]}))
    else:
        print(f"error: {message}" + (f"\n  = help: {help}" if help else ""), file=sys.stderr)
    return MISTAKE


def _drop(stream: TextIO) -> None:
    """Let what is still to be written to a stream go nowhere, so that the exit is quiet."""
    with contextlib.suppress(io.UnsupportedOperation):  # a stream of Python's own holds nothing back
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _open_streams() -> None:
    """Open what was closed before the start, so that no file of ours gets its number and is written to.

    There is nothing to read, to write on stdout is an error as it is without this, and stderr is lost.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)  # the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115 (while we run)


class _Unfailing(io.TextIOBase):
    """stderr: what is said there is for people.  Where it cannot be written, the work goes on."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except (OSError, ValueError):
            _drop(self._stream)  # what it holds back would fail again at the exit
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            _drop(self._stream)

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


if __name__ == "__main__":
    sys.exit(main())
