"""Counts the bytes that torch would hold while something runs on fake tensors, which have none.

Input: whatever runs inside `with Ledger() as ledger`, after `hold` has named what was there before.
Output: the bytes that live now and the most since the last `mark`, by what they are for; and the bytes that ops moved.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Purpose = Literal["weights", "copies", "gradients", "optimiser", "rest"]
"""`copies` were made of weights alone, such as bf16 ones; `rest` are activations and what is needed in passing."""

_DEVICE = torch.ops.prim.device.default
_SCALAR = torch.ops.aten._local_scalar_dense.default
_PLACES = torch.ops.aten.nonzero.default
_PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "_grouped_mm", "rows_times", "rows_by")
"""Ops that multiply matrices, by name."""
_FREE = ("detach", "empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")
"""Ops that move no bytes."""


@dataclass(slots=True)
class Segment:
    """What happened between two marks: bytes by purpose, more or fewer at the end; the most there were of all, and of
    `copies` and the `rest`, above those at the start; bytes read and written by all ops, and by those that a compiler
    of graphs leaves alone: products of matrices, scans, attention."""

    change: Counter[Purpose] = field(default_factory=Counter)
    most: int = 0
    most_rest: int = 0
    moved: int = 0
    moved_whole: int = 0


class Ledger(TorchDispatchMode):
    """See the module.  A storage counts from the op that makes it to the end of its last tensor.

    As there is no data, a number that is read from a tensor is 1, a truth is false, and of places that a mask
    chooses there are as many as could be.  `of_weights` is what is made of weights alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = Counter[Purpose]()
        self.of_weights: Purpose = "copies"
        self._purpose: dict[int, Purpose] = {}
        self._begin: Counter[Purpose] = Counter()
        self._now = Segment()

    def hold(self, tensors: Iterable[Tensor], purpose: Purpose) -> None:
        """Count these for a purpose, whatever they counted for before."""
        for x in tensors:
            storage = x.untyped_storage()
            if (known := self._purpose.get(id(storage))) is None:
                self._add(storage, purpose)
            elif known != purpose:
                self.live[known] -= storage.nbytes()
                self.live[purpose] += storage.nbytes()
                self._purpose[id(storage)] = purpose

    def mark(self) -> Segment:
        """The segment that ends here; the next one begins."""
        found, self._now = self._now, Segment()
        found.change = Counter(self.live)
        found.change.subtract(self._begin)
        self._begin = Counter(self.live)
        return found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _DEVICE:  # fake tensors are asked so often that the answer is given here
            return args[0].fake_device
        if func is _SCALAR:
            dtype = args[0].dtype
            return False if dtype == torch.bool else 1.0 if dtype.is_floating_point else 1
        if func is _PLACES and args[0].dim() == 1:
            return args[0].new_empty(args[0].numel(), 1, dtype=torch.int64)
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        new = {id(s): s for x in made if id(s := x.untyped_storage()) not in self._purpose}
        for storage in new.values():
            self._add(storage, self.of_weights if given and all(self._of_weights(x) for x in given) else "rest")
        if (new or func._schema.is_mutable) and name not in _FREE:
            bytes = sum(x.numel() * x.element_size() for x in (*given, *made))
            self._now.moved += bytes
            whole = name in _PRODUCTS or "attention" in name or not func._schema.name.startswith("aten::")
            self._now.moved_whole += bytes * whole
        return out

    def _of_weights(self, x: Tensor) -> bool:
        return self._purpose.get(id(x.untyped_storage())) in ("weights", "copies")

    def _add(self, storage: Any, purpose: Purpose) -> None:
        key, size = id(storage), storage.nbytes()
        self._purpose[key] = purpose
        self.live[purpose] += size
        weakref.finalize(storage, self._gone, key, size).atexit = False
        self._now.most = max(self._now.most, self.live.total() - self._begin.total())
        passing = (self.live[p] - self._begin[p] for p in ("copies", "rest"))
        self._now.most_rest = max(self._now.most_rest, sum(passing))

    def _gone(self, key: int, size: int) -> None:
        self.live[self._purpose.pop(key)] -= size


def tensors_of(state: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors of an optimiser's states."""
    return (x for kept in state for x in kept.values() if isinstance(x, Tensor))
