"""How a training process holds memory.

Input: none.  Output: freed memory stays with the process, where its C library lets that be asked for (glibc does).
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_MOST = (1 << 31) - 1


def keep_freed_memory() -> None:
    """Let the next step use what this one freed.

    By default malloc hands large tensors back to the system when they are freed, and the system clears and maps them
    again for the next ones, several times a step: a tenth and more of the time of training a small model on one core.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _MOST)
        mallopt(_TRIM_THRESHOLD, _MOST)
