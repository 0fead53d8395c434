"""One writer a folder.

Input: a folder, and the file that stands for its lock, which stays.  Output: a `Lock` that this process holds until it
closes it or ends, however it ends; the file says who holds it.  Where the file system has no locks, a note is all.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import sys
import time
import warnings
from pathlib import Path
from types import TracebackType

from cdrmix.diagnose import UserError
from cdrmix.runtime.parts import try_lock


class Lock:
    """A folder's lock.  Where another has it: waits, and says for whom, or refuses."""

    def __init__(self, folder: Path, file: Path, wait: bool = False):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as e:
            raise UserError(f"{e.filename}: {e.strerror}", "give an `out` that can be written") from e
        self._file = os.fdopen(handle, "r+b", 0)
        try:
            if not try_lock(self._file.fileno()):
                holder = self._file.read(200).decode(errors="replace").strip() or "another process"
                if not wait:
                    raise UserError(
                        f"{folder} is being written by {holder}", "wait for it, stop it, or give another `out`"
                    )
                print(f"waiting for {holder}, which writes {folder}", file=sys.stderr)
                fcntl.flock(self._file, fcntl.LOCK_EX)
            with contextlib.suppress(OSError):  # a full disk: it is held, and does not say by whom
                self._file.seek(0)
                self._file.truncate()
                who = f"process {os.getpid()} on {platform.node()} since {time.strftime('%F %T')}\n"
                self._file.write(who.encode())
        except OSError as e:
            warnings.warn(f"{folder} cannot be locked ({e.strerror}): let no two runs write to it", stacklevel=2)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let others have it."""
        with contextlib.suppress(OSError):
            self._file.close()

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
