"""The processes of a run, one a device: who they are, and all that they tell each other but weights and gradients.

Input: what `torchrun` has set in the environment of each.  Output: a `Ranks`; of a run in one process, `ALONE`.
Weights and gradients travel by torch's FSDP (`shard.py`).  Every call here is made by all ranks alike.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from cdrmix.diagnose import UserError
from cdrmix.runtime.torch.sums import Sums

LONG = timedelta(days=7)
"""What one rank does while the others wait (a text is tokenised, a checkpoint is written) may take so long."""

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Ranks:
    """`rank` of `size` processes, `local` of which are on this machine, this one the `place`th of them."""

    rank: int = 0
    size: int = 1
    place: int = 0
    local: int = 1
    _words: Any = None
    """The group that objects travel in: waiting in it may take long."""
    _store: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the rank that speaks, and writes what is written once."""
        return self.rank == 0

    def rows(self, count: int, parts: int) -> list[slice]:
        """This rank's rows of `count`: its share of each of `parts` equal parts, one slice a part."""
        part = count // parts
        own = part // self.size
        return [slice(begin := m * part + self.rank * own, begin + own) for m in range(parts)]

    # --- numbers -----------------------------------------------------------------------------------------------------
    def add(self, x: Tensor) -> Tensor:
        """The sum over the ranks, in the place of x."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def count(self, n: int) -> int:
        """The sum of integers."""
        return int(self.add(torch.tensor(n))) if self.size > 1 else n

    def any(self, said: bool) -> bool:
        """Whether a rank says so."""
        return self.count(int(said)) > 0

    def add_sums(self, sums: Sums) -> Sums:
        """The sums over the tokens of all ranks: one all-reduce of all of them."""
        if self.size == 1:
            return sums
        flat = self.add(torch.cat([x.flatten() for x in sums.values()]))
        parts = flat.split([x.numel() for x in sums.values()])
        return Sums({path: x.view(old.shape).to(old.dtype) for (path, old), x in zip(sums.items(), parts, strict=True)})

    # --- work --------------------------------------------------------------------------------------------------------
    def once(self, work: Callable[[], Found]) -> Found:
        """What the work gives at the first rank, which alone does it; its error is raised at all."""
        if self.size == 1:
            return work()
        said: list[Any] = [_attempt(work) if self.first else None]
        dist.broadcast_object_list(said, src=0, group=self._words)
        found: Found = _result(said[0])
        return found

    def together(self, work: Callable[[], Found]) -> Found:
        """What the work gives here; where it raises at some ranks, it raises at all, once all are through."""
        if self.size == 1:
            return work()
        own = _attempt(work)
        failed: list[BaseException | None] = [None] * self.size
        dist.all_gather_object(failed, own[1], group=self._words)
        for error in (own[1], *failed):
            if error is not None:
                raise error
        return _result(own)

    @contextmanager
    def within(self, opened: Callable[[], contextlib.AbstractContextManager[Found]]) -> Iterator[Found]:
        """A context of the first rank: all get what it gives, and go on when it has been left."""
        with ExitStack() as stack:
            yield self.once(lambda: stack.enter_context(opened()))  # what a rank then fails at fails at all
            self.once(stack.close)

    # --- words -------------------------------------------------------------------------------------------------------
    def quiet(self) -> contextlib.AbstractContextManager[Any]:
        """Within, only the first rank is heard on stderr."""
        return contextlib.nullcontext() if self.first else contextlib.redirect_stderr(open(os.devnull, "w"))

    def may_tell(self) -> bool:
        """Whether this is the first rank with an error to tell: the others' are of its going away, or the same.  Where
        the rank was killed that all ask, the launcher tells of it."""
        try:
            return self._store is None or self._store.add("error", 1) == 1
        except RuntimeError:
            return False

    def leave(self) -> None:
        """Close the connections."""
        if self.size > 1:
            dist.destroy_process_group()


ALONE = Ranks()


def _attempt(work: Callable[[], Found]) -> tuple[Found | None, BaseException | None]:
    try:
        return work(), None
    except Exception as e:
        return None, e


def _result(said: tuple[Found | None, BaseException | None]) -> Found:
    found, error = said
    if error is not None:
        raise error
    return cast(Found, found)


def join() -> Ranks:
    """The ranks that `torchrun`, or `cdrmix train --nproc`, has started; `ALONE` where neither has, or one alone."""
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1 or "RANK" not in os.environ:
        return ALONE
    if "MASTER_ADDR" not in os.environ:
        raise UserError("RANK and WORLD_SIZE are set, and MASTER_ADDR is not", "start by torchrun, or unset them")
    _end_with_parent()
    store, rank, size = next(iter(rendezvous("env://")))
    gpu = torch.cuda.is_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", store=store, rank=rank, world_size=size)
    place = int(os.environ.get("LOCAL_RANK", rank))
    if gpu:
        torch.cuda.set_device(place % torch.cuda.device_count())
    local = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    return Ranks(rank, size, place, local, dist.new_group(backend="gloo", timeout=LONG), store)


def restarted() -> bool:
    """Whether an agent has started these ranks anew, after one of them was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def lost_one(error: BaseException) -> bool:
    """Whether an error of torch's is of another rank that went away."""
    words = ("gloo", "nccl", "connection", "processgroup", "timed out")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def _end_with_parent() -> None:
    """Where a process can ask for it (Linux): end when the agent that watches it does, however that ends."""
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
