"""What the cells of one call share: the state before it and after it, and where documents begin.

Input: a state (keys and shapes of the model's slots, batch in front, and `pos`), `reset` [B, T] or None (True: this
token is a document's first).
Output: a `Stream` whose `new` the cells fill; `old` is never written, so a cell may be run again (checkpointing).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from .sums import Sums
from .window import ages

State = dict[str, Tensor]
Path = tuple[str, str]
"""The module's own name of a tensor and its name in `state_dict`."""


class Stream:
    """One call's way through time; `pos` [B, T], or [B] in a step, is each token's place in its document.

    `sums` are this call's own, None where nobody measures: a cell that is run again writes the same ones again.
    It is no dataclass: torch's FSDP looks for tensors inside those that a layer is given, and gives it a copy of them,
    in which what the layer leaves for others would be lost.
    """

    __slots__ = ("new", "old", "pos", "reset", "sums")

    def __init__(
        self,
        old: Mapping[str, Tensor],
        new: State,
        pos: Tensor,
        reset: Tensor | None = None,
        sums: Sums | None = None,
    ) -> None:
        self.old, self.new, self.pos, self.reset, self.sums = old, new, pos, reset, sums

    @classmethod
    def over(cls, old: Mapping[str, Tensor], T: int, reset: Tensor | None = None, sums: Sums | None = None) -> Stream:
        """The stream of T tokens that follow `old`."""
        before = old["pos"]
        pos = ages(reset, before, before.shape[0], T, before.device)
        return cls(old, {"pos": pos[:, -1] + 1}, pos, reset, sums)

    @classmethod
    def nowhere(cls) -> Stream:
        """A stream for cells that read nothing of it."""
        return cls({}, {}, torch.empty(0))

    @classmethod
    def once(cls, old: Mapping[str, Tensor]) -> Stream:
        """The stream of the one token that follows `old`."""
        return cls(old, {"pos": old["pos"] + 1}, old["pos"])


def top(source: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest along the last axis, largest first, and their places; ties go to the lowest place."""
    values, places = source.sort(dim=-1, descending=True, stable=True)
    return values[..., :k], places[..., :k]


def enter(x: Tensor, old: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One token's entry x [B, *S] put in front of a history `old` [B, W-1, *S] that holds `count` [B].

    Returns the window [B, W, *S], the mask [B, W] of what is there, and the history after the token and its count.
    """
    window = torch.cat([x.unsqueeze(1), old.to(x.dtype)], 1)
    there = torch.arange(window.shape[1], device=x.device) <= count.unsqueeze(1)
    return window, there, window[:, :-1], (count + 1).clamp(max=old.shape[1])


def rename_keys(module: torch.nn.Module, paths: Iterable[Path], ties: Mapping[str, str]) -> None:
    """Make `state_dict` speak of paths: rename what Python would not take, and keep a tied tensor once.

    `paths` hold (the attribute path, the tensor's path); `ties` the attribute path of a tied tensor and its owner's.
    """
    paths = tuple(paths)

    def save(_: torch.nn.Module, state: dict[str, Tensor], prefix: str, __: object) -> None:
        for tied in ties:
            state.pop(prefix + tied, None)
        _rename(state, [(prefix + inside, prefix + path) for inside, path in paths])

    def load(_: torch.nn.Module, state: dict[str, Tensor], prefix: str, *__: object) -> None:
        _rename(state, [(prefix + path, prefix + inside) for inside, path in paths])
        for tied, owner in ties.items():
            if prefix + owner in state:
                state[prefix + tied] = state[prefix + owner]

    module.register_state_dict_post_hook(save)  # type: ignore[no-untyped-call]
    module.register_load_state_dict_pre_hook(load)  # type: ignore[no-untyped-call]


def _rename(state: dict[str, Tensor], names: list[tuple[str, str]]) -> None:
    """All at once: one name may be another's old one."""
    moved = {new: state.pop(old) for old, new in names if old in state}
    state.update(moved)
