"""What is being done, said on stderr of whatever takes more than two seconds.

Input: stretches of work, one inside another: `with doing("making the first weights", of=512) as step: step()`.
Output: on a terminal one line that is rewritten and erased at the end; elsewhere a line at first and then every half
minute.  Nothing is said but inside `shown()`: the command line asks for it, a library's caller is left alone.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

AFTER, AGAIN, TICK = 2.0, 30.0, 0.25
"""Seconds: until work is spoken of, between two lines of a log, between two looks."""

Item = TypeVar("Item")


@dataclass(slots=True)
class _Work:
    what: str
    of: int | None
    unit: str
    done: int = 0
    began: float = field(default_factory=time.monotonic)

    def told(self, now: float) -> str:
        """The work, how far it is, and for how long it has been going on."""
        far = f"{self.done} of {self.of}{self.unit}" if self.of else f"{self.done}{self.unit}" if self.done else "…"
        return f"{self.what}{'' if far == '…' else ':'} {far}, {now - self.began:.0f} s"


class _Speaker(threading.Thread):
    """Looks at the work in hand, a few times a second, and says what takes long."""

    def __init__(self) -> None:
        super().__init__(daemon=True, name="progress")
        self.stack: list[_Work] = []
        self._over = threading.Event()
        self._said, self._when, self._drawn = "", 0.0, False

    def run(self) -> None:
        while not self._over.wait(TICK):
            self.look(time.monotonic())

    def look(self, now: float) -> None:
        """Say what has taken long by now: the innermost such work."""
        long = [work for work in tuple(self.stack) if now - work.began >= AFTER]
        if not long:
            return
        work = long[-1]
        if sys.stderr.isatty():
            print(f"\r\x1b[K{work.told(now)}", end="", file=sys.stderr, flush=True)
            self._drawn = True
        elif work.what != self._said or now - self._when >= AGAIN:
            print(work.told(now), file=sys.stderr, flush=True)
            self._said, self._when = work.what, now

    def clear(self) -> None:
        """Erase the line of a terminal."""
        if self._drawn:
            self._drawn = False
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def stop(self) -> None:
        self._over.set()
        self.join()
        self.clear()


_speaker: _Speaker | None = None


@contextmanager
def shown() -> Iterator[None]:
    """Say what is being done in here."""
    global _speaker
    _speaker = speaker = _Speaker()
    speaker.start()
    try:
        yield
    finally:
        _speaker = None
        speaker.stop()


@contextmanager
def doing(what: str, of: int | None = None, unit: str = "") -> Iterator[Callable[[int], None]]:
    """A stretch of work; call what it gives with how much more is done, of `of` (None: unknown), counted in `unit`."""
    work = _Work(what, of, unit and f" {unit}")
    stack = _speaker.stack if _speaker else []
    stack.append(work)

    def step(more: int = 1) -> None:
        work.done += more

    try:
        yield step
    finally:
        stack.remove(work)
        if _speaker:
            _speaker.clear()


def over(items: Iterable[Item], what: str, of: int | None = None, unit: str = "") -> Iterator[Item]:
    """The items, told of as they are worked through."""
    with doing(what, of, unit) as step:
        for item in items:
            yield item
            step(1)
