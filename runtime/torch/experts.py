"""Banks of experts: one stack of parameters, of which each token uses a few.

Input: `pick` [*lead, k], the expert each token chose for each of its places, and what the experts are given.
Output: what the chosen experts said, in the order of `pick`.  Only the chosen ones compute.

Experts without state see all their tokens as rows of one matrix, sorted by expert (`route`, `grouped_linear`).
Experts with state run each document row's own tokens in order (`run_chosen`): exact, and slow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .grouped import rows_times
from .module import Cell
from .stream import State, Stream
from .sums import Sums


def instances(bank: Cell) -> list[Cell]:
    """The experts of a bank, each the same code over its slices of the stack.

    The stack is cut once (`unbind`): a slice a token would make a full-size gradient each time.
    """
    size = bank.banks[0]
    params = {name: p.unbind(0) for name, p in bank._parameters.items() if p is not None}
    buffers = {name: b.unbind(0) for name, b in bank._buffers.items() if b is not None}
    parts = {name: instances(part) for name, part in bank._modules.items() if isinstance(part, Cell)}
    found = []
    for e in range(size):
        one: Cell = object.__new__(type(bank))
        one.__dict__.update(bank.__dict__)
        one.banks = bank.banks[1:]
        one.__dict__["_parameters"] = {name: cut[e] for name, cut in params.items()}
        one.__dict__["_buffers"] = {name: cut[e] for name, cut in buffers.items()}
        one.__dict__["_modules"] = {name: part[e] for name, part in parts.items()}
        found.append(one)
    return found


@dataclass(frozen=True, slots=True)
class Routes:
    """Rows sorted by expert: `order` [rows] are their places in the flat pick, `ends` [E] where each expert's end.

    `chosen` [E] is how many places of the pick chose each expert, those that it has no room for included.
    """

    shape: torch.Size
    order: Tensor
    expert: Tensor
    ends: Tensor
    chosen: Tensor

    @property
    def dropped(self) -> int:
        """How many places of the pick no expert had room for."""
        return self.shape.numel() - self.order.numel()

    def rows(self, x: Tensor, axes: int) -> Tensor:
        """What each row is given, [rows, *formal]: x has the pick's first axes and then `axes` of its own."""
        flat = x.flatten(0, x.dim() - axes - 1)
        return flat.index_select(0, self.order // (self.shape.numel() // flat.shape[0]))

    def back(self, y: Tensor) -> Tensor:
        """The rows' results [rows, *outs] in the order of the pick, [*pick, *outs]; zero where dropped."""
        flat = y.new_zeros(self.shape.numel(), *y.shape[1:]).index_copy(0, self.order, y)
        return flat.reshape(*self.shape, *y.shape[1:])


def route(pick: Tensor, experts: int, capacity: float = 0.0) -> Routes:
    """Sort the places of `pick` by expert; with a capacity, an expert's tokens beyond that share are dropped."""
    flat = pick.flatten()
    expert, order = flat.sort(stable=True)
    chosen = torch.zeros(experts, dtype=torch.int64, device=flat.device).scatter_add_(0, flat, torch.ones_like(flat))
    counts = chosen
    if capacity > 0.0:
        room = max(1, int(capacity * flat.numel() / experts))
        place = torch.arange(flat.numel(), device=flat.device) - (counts.cumsum(0) - counts)[expert]
        expert, order, counts = expert[place < room], order[place < room], counts.clamp(max=room)
    return Routes(pick.shape, order, expert, counts.cumsum(0).to(torch.int32), chosen)


def grouped_linear(x: Tensor, w: Tensor, routes: Routes) -> Tensor:
    """Each row of x [rows, K] times its expert's matrix of w [E, N, K]: [rows, N]."""
    return rows_times(x, w, routes.ends)


def run_every(bank: Cell, at: str, given: Sequence[tuple[Tensor, bool]], stream: Stream) -> Tensor:
    """Every expert over every token: [*lead, E, *outs].  `given` holds tensors and whether they have an expert axis."""
    lead = stream.pos.dim()
    said: list[Tensor] = []
    after: list[State] = []
    within = Sums()
    for e, expert in enumerate(instances(bank)):
        inputs = [x.select(lead, e) if each else x for x, each in given]
        own = {key: x[:, e] for key, x in stream.old.items() if key.startswith(at)}
        inside = Stream(own, {}, stream.pos, stream.reset, None if stream.sums is None else Sums())
        said.append(expert(*inputs, inside) if lead == 2 else expert.step(*inputs, inside))
        after.append(inside.new)
        within += inside.sums or {}
    if stream.sums is not None:
        stream.sums.update(within)
    stream.new.update({key: torch.stack([new[key] for new in after], 1) for key in after[0]})
    return torch.stack(said, lead)


def run_chosen(
    bank: Cell, at: str, pick: Tensor, given: Sequence[tuple[Tensor, bool]], stream: Stream, capacity: float = 0.0
) -> tuple[Tensor, Routes]:
    """Experts with state: each runs its own tokens of each row of the batch, and its state advances on them alone.

    pick [B, T, k], or [B, k] in a step; `given` holds tensors and whether they have the axis k.  Returns what the
    chosen experts said, [*pick, *outs], and the routes.
    """
    if (pick.sort(-1).values.diff(dim=-1) == 0).any():
        raise ValueError(f"{at[:-1]}: an expert with state is chosen twice by one token")
    once = pick.dim() == 2
    if once:
        pick, given = pick.unsqueeze(1), [(x.unsqueeze(1), each) for x, each in given]
    pos = stream.pos.unsqueeze(1) if once else stream.pos
    B, T, k = pick.shape
    document = torch.zeros_like(pos) if stream.reset is None else stream.reset.cumsum(1)
    routes = route(pick, bank.banks[0], capacity)
    kept = torch.zeros(B * T * k, dtype=torch.bool, device=pick.device).index_fill(0, routes.order, True)
    kept = kept.reshape(pick.shape)
    places: list[Tensor] = []
    said: list[Tensor] = []
    after: list[list[State]] = [[] for _ in range(B)]
    within = Sums()
    for e, expert in enumerate(instances(bank)):
        begin = _begin(expert, given[0][0])
        for b in range(B):
            t, j = ((pick[b] == e) & kept[b]).nonzero(as_tuple=True)
            own = {key: stream.old[key][b : b + 1, e] if key in stream.old else x for key, x in begin.items()}
            if t.numel():
                inputs = [(x[b, t, j] if each else x[b, t]).unsqueeze(0) for x, each in given]
                seen = torch.cat([document.new_zeros(1), document[b, t]])
                sums = None if stream.sums is None else Sums()
                inside = Stream(own, {}, pos[b, t].unsqueeze(0), (seen.diff() > 0).unsqueeze(0), sums)
                if once:
                    inside.pos, inside.reset = inside.pos[:, 0], None
                    y = expert.step(*(x[:, 0] for x in inputs), inside).unsqueeze(1)
                else:
                    y = expert(*inputs, inside)
                within += sums or {}
                said.append(y[0])
                places.append((b * T + t) * k + j)
                own, last = inside.new, document[b, t[-1]]
            else:
                last = document.new_zeros(())
            after[b].append(begin if document[b, -1] > last else own)
    stream.new.update({key: torch.stack([_stack(row, key) for row in after]) for key in after[0][0]})
    if stream.sums is not None:
        stream.sums.update(within)
    rows = torch.cat(said)
    out = rows.new_zeros(B * T * k, *rows.shape[1:]).index_copy(0, torch.cat(places), rows)
    out = out.reshape(*pick.shape, *rows.shape[1:])
    return (out.squeeze(1) if once else out), routes


def _stack(row: Sequence[State], key: str) -> Tensor:
    return torch.stack([state[key][0] for state in row])


def _begin(expert: Cell, x: Tensor) -> State:
    """An expert's state before a document's first token, its parts' too."""
    dtype = next((p.dtype for p in expert.parameters()), x.dtype)
    like = x.new_zeros((), dtype=torch.promote_types(dtype, torch.float32))
    return {path: s for cell in expert.modules() if isinstance(cell, Cell) for path, s in cell.start(1, like).items()}
