"""Ctrl-C while training: the step in hand is finished, so that it can be saved.

Input: SIGINT.  Output: a question that the loop asks after each step.  A second Ctrl-C ends the run at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SAID = b"\nstopping after this step; Ctrl-C again stops at once\n"


@contextmanager
def asked_to_stop(say: bool = True) -> Iterator[Callable[[], bool]]:
    """Within, the first Ctrl-C is kept for the function this gives; where it is ignored, or in a thread, none is.
    `say`: whether that is told on stderr."""
    before = signal.getsignal(signal.SIGINT)
    if before == signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, before or signal.default_int_handler)
        with contextlib.suppress(OSError):  # `| tee` has gone by the same Ctrl-C
            os.write(2, _SAID if say else b"")

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before or signal.default_int_handler)
