"""How fast an artefact runs on this machine, beside what the machine's memory allows.

Input: an artefact's folder.  Output: a `Speed`, and the text that `cdrmix bench` shows.
A round reads a prompt, decodes, steps a batch, and reads memory; figures are medians over the rounds, and a share is
that of each round's own figures.  Time is the wall's.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from cdrmix.inspect import count, size
from cdrmix.ir.cost import cost
from cdrmix.progress import over
from cdrmix.runtime.errors import ArtifactError
from cdrmix.runtime.session import Batch, Session, read_manifest
from cdrmix.verification import spec_of

PASSES = 4
"""Over the memory that is read to measure it, more than any cache holds."""
READ_SIZE = PASSES << 28
"""Bytes that are read in all of them."""

ALONE = 0.85
"""The least share of the wall's time that a process has which runs alone."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What was measured.  Rates are tokens a second; None stands for what cannot be measured here."""

    model: str
    target: str
    how: str
    """`executed`, or what stands for it, in the words of the README's table."""
    about: str
    """What computes: the kernels in use, or the device."""
    processor: str
    cores: int
    """That this process may use."""
    threads: int
    """That compute; 0 where a device does."""
    open_seconds: float
    """Opening the artefact once more: its files are compared and its weights laid out, its program is built already."""
    resident_bytes: int | None
    """What this process has grown by, after a prompt and decoding."""
    state_bytes: int
    """Of one stream."""
    weight_bytes_read: int
    """Of the weights that one token needs, as the artefact holds them; of experts, the chosen ones."""
    prompt: float
    decode: float
    batch: float | None
    """Of all streams of a batch together."""
    no_batch: str
    """Why there is no such figure."""
    bandwidth: float | None
    """Bytes a second that as many threads read from memory."""
    bandwidth_share: float | None
    """The rate of decoding times the bytes that a token needs, over the bandwidth.  Above 1 where a cache has them."""
    prompt_tokens: int
    tokens: int
    streams: int
    rounds: int
    alone: bool
    """Whether this process had the processor's time: else all rates are lower than they could be."""


class Memory:
    """Some memory, and so many threads to read it."""

    def __init__(self, threads: int):
        self._pool = ThreadPoolExecutor(threads)
        self._parts = np.array_split(np.ones(READ_SIZE // PASSES // 4, np.int32), threads)

    def read(self) -> None:
        """Read READ_SIZE bytes: numpy's largest of int32 is nothing but loads, and lets go of Python's lock."""
        for _ in self._pool.map(np.max, PASSES * self._parts):
            pass

    def close(self) -> None:
        self._pool.shutdown()


def measure(
    folder: Path, prompt: int = 512, tokens: int = 64, streams: int = 8, rounds: int = 5, threads: int | None = None
) -> Speed:
    """Measure an artefact: a prompt of so many tokens, so many decoded one by one, and by so many streams at once.

    Without `threads` they are as many as the target uses without being asked.
    """
    manifest = read_manifest(folder)
    read_bytes = cost(spec_of(manifest)).total.read_bytes()
    with Session.open(folder, threads) as first:  # builds the program, where that was not done
        threads = first.threads
    with ExitStack() as stack:
        memory = Memory(threads) if threads else None
        if memory:
            stack.callback(memory.close)
        before, start = resident(), time.perf_counter()
        session = stack.enter_context(Session.open(folder, threads or None))
        opened = time.perf_counter() - start
        random = np.random.default_rng(0)
        asked, decoded = (random.integers(0, session.vocab, n).tolist() for n in (prompt, tokens))

        def read_prompt() -> None:
            session.reset()
            session.prefill(asked)

        def decode() -> None:
            for token in decoded:
                session.step(token)

        read_prompt()
        decode()
        grown = _grown(before)
        batch, why = _batch(session, streams)
        work = {"prompt": read_prompt, "decode": decode}
        if batch:
            stack.callback(batch.close)
            work["batch"] = lambda: _step_all(batch, decoded, streams)
        if memory:
            work["memory"] = memory.read
        taken, alone = _rounds(work, rounds)
        amounts = {"prompt": prompt, "decode": tokens, "batch": streams * tokens, "memory": READ_SIZE}
        rates = {name: [amounts[name] / t for t in times] for name, times in taken.items()}
        shares = [a * read_bytes / b for a, b in zip(rates["decode"], rates.get("memory", []), strict=False)]
        return Speed(
            model=manifest["model"],
            target=manifest["target"],
            how=session.how,
            about=session.about,
            processor=_processor(),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            threads=threads,
            open_seconds=opened,
            resident_bytes=grown,
            state_bytes=session.state_bytes,
            weight_bytes_read=read_bytes,
            prompt=median(rates["prompt"]),
            decode=median(rates["decode"]),
            batch=median(rates["batch"]) if batch else None,
            no_batch=why,
            bandwidth=median(rates["memory"]) if memory else None,
            bandwidth_share=median(shares) if memory else None,
            prompt_tokens=prompt,
            tokens=tokens,
            streams=streams,
            rounds=rounds,
            alone=alone or not threads,
        )


def _rounds(work: dict[str, Callable[[], None]], rounds: int) -> tuple[dict[str, list[float]], bool]:
    """Seconds of each, a round; whether this process had the processor.  A round before them is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    shares = []
    for turn in over(range(rounds + 1), "measuring", rounds + 1, "rounds"):
        busy, began = time.process_time(), time.perf_counter()
        for name, run in work.items():
            start = time.perf_counter()
            run()
            if turn:
                taken[name].append(time.perf_counter() - start)
        shares.append((time.process_time() - busy) / (time.perf_counter() - began))
    return taken, median(shares) >= ALONE


def _batch(session: Session, streams: int) -> tuple[Batch | None, str]:
    """A batch, or why there is none."""
    try:
        return session.batch(streams), ""
    except ArtifactError as e:
        return None, e.message


def _step_all(batch: Batch, tokens: list[int], streams: int) -> None:
    """Every stream reads the tokens, each beginning at another one, so that experts are chosen as they are apart."""
    for n in range(len(tokens)):
        batch.step([tokens[(n + row) % len(tokens)] for row in range(streams)])


def resident() -> int | None:
    """Bytes of memory that this process takes now, where the system says so."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def _grown(before: int | None) -> int | None:
    now = resident()
    return None if before is None or now is None else max(now - before, 0)


def _processor() -> str:
    """The processor's name, or its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = (x.partition(":")[2].strip() for x in lines if x.partition(":")[0].strip() in ("model name", "Model"))
    return next(named, platform.machine())


def describe(found: Speed) -> str:
    """The figures for people."""
    return "\n".join(_lines(found))


def _lines(found: Speed) -> Iterator[str]:
    threads = f", {found.threads} thread{'s' * (found.threads > 1)}" if found.threads else ""
    yield f"{found.model} ({found.target}): {found.about}{threads}, {found.how}"
    yield f"{found.processor}, {found.cores} core{'s' * (found.cores > 1)}"
    yield ""
    share = ""
    if found.bandwidth and found.bandwidth_share is not None:
        read = f"{size(found.weight_bytes_read)} a token, memory reads {found.bandwidth / 1e9:.1f} GB/s"
        share = f"   {found.bandwidth_share:.2f} of what memory allows ({read})"
    yield f"decoding      {_rate(found.decode)}{share}"
    yield f"a prompt      {_rate(found.prompt)}   of {found.prompt_tokens} tokens"
    if found.batch is None:
        yield f"a batch       none: {found.no_batch}"
    else:
        yield f"a batch       {_rate(found.batch)}   of {found.streams} streams together"
    resident = "" if found.resident_bytes is None else f"{size(found.resident_bytes)} resident, "
    yield f"memory        {resident}{size(found.state_bytes)} a stream's state"
    yield f"opening       {found.open_seconds:.3f} s"
    if not found.alone:
        yield "note: other programs had part of the processor's time: alone, all of this is faster"


def _rate(rate: float) -> str:
    return f"{rate:10.1f} tokens/s" if rate < 1e4 else f"{count(round(rate)):>10} tokens/s"
