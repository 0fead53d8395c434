"""How a training process holds memory.

Output: freed memory stays with the process, where its C library lets that be asked for (glibc does); sizes that this
machine cannot hold are refused with a `UserError` before anything is allocated.
"""

from __future__ import annotations

import ctypes
import os
import sys

from cdrmix.diagnose import UserError

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


def require_memory(tokens: int, vocab: int, remedy: str) -> None:
    """Refuse to run `tokens` tokens at once where their logits alone are more than the machine's memory."""
    needs, has = 4 * tokens * vocab, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needs > has:
        raise UserError(
            f"{tokens:,} tokens at once: their logits take {needs / 1e9:,.0f} GB, this machine has {has / 1e9:,.0f}",
            remedy,
        )
