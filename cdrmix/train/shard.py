"""A module over the ranks of a mesh: each keeps a share of every parameter, and gathers a layer's while it computes.

Input: a built module, the same at every rank, and a `Mesh`.
Output: the module sharded by torch's FSDP2 (`fully_shard`): parameters, their gradients and what the optimiser keeps of
them are f32 tensors cut along their first axis.  Gradients are summed over the ranks, not averaged.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard

from cdrmix.diagnose import UserError
from cdrmix.runtime.torch.module import Cell, Streaming
from cdrmix.train.ranks import ALONE, Ranks


@dataclass(frozen=True, slots=True)
class Mesh:
    """`replicate` groups of `shard` ranks: inside a group each keeps another share, between groups the same (fully
    sharded data parallel, Zhao et al. 2023; hybrid where both are above 1)."""

    replicate: int = 1
    shard: int = 1

    @property
    def ranks(self) -> int:
        """How many there are."""
        return self.replicate * self.shard

    @classmethod
    def of(cls, ranks: int, replicate: int, shard: int | None) -> Mesh:
        """The mesh of so many ranks; a `shard` of None is what is left."""
        found = cls(replicate, ranks // replicate if shard is None else shard)
        if found.ranks != ranks:
            asked = f"{replicate} x {'auto' if shard is None else shard}"
            raise UserError(
                f"`mesh`: replicate x shard is {asked}, and there are {ranks} processes",
                "change `mesh`, or how many are started (--nproc, or torchrun's)",
            )
        return found


def shard(module: Streaming, mesh: Mesh, device: str) -> None:
    """Shard each layer as one, and what is in none with the root, whose parameters stay gathered for the loss."""
    require_ties_within(module)
    whole = read_outside(module)
    for p in whole:
        p.data = p.data.to(device)
    # of modules whose results are changed in place: generated ones change nothing so
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
    grid = init_device_mesh(device, (mesh.replicate, mesh.shard), mesh_dim_names=("replicate", "shard"))
    for unit in (*module.layers(), module):
        sharded = fully_shard(unit, mesh=grid, ignored_params=whole)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)
    register_fsdp_forward_method(module, "hidden")


def read_outside(module: Streaming) -> set[nn.Parameter]:
    """The parameters that every rank holds whole: those that are read where FSDP has nothing gathered."""
    cells = (cell for cell in module.modules() if isinstance(cell, Cell))
    return {getattr(cell, name) for cell in cells for name in cell.outside}


def require_ties_within(module: Streaming) -> None:
    """A layer's parameters are gathered and freed together: another's cannot be among them."""
    blocks = {id(p): block for block in module.layers() for p in block.parameters()}
    for unit in module.layers():
        if any(blocks[id(p)] is not unit for p in unit.parameters()):
            raise UserError("layers that share parameters cannot be sharded", "train in one process")
    others = (part for part in module.children() if not isinstance(part, nn.ModuleList))
    outside = (p for part in others for p in part.parameters())
    if any(id(p) in blocks for p in outside):
        raise UserError("a layer that shares parameters with what is in none cannot be sharded", "train in one process")


def settle(module: nn.Module) -> None:
    """Let go of what a forward without a backward has left gathered."""
    if isinstance(module, FSDPModule):
        module.reshard()


def alike(groups: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Groups of parameters that are all sharded, or all whole: a fused optimiser takes none of both."""
    parts = []
    for group in groups:
        for cut in (True, False):
            params = [p for p in group["params"] if isinstance(p, DTensor) == cut]
            parts += [{**group, "params": params}] if params else []
    return parts


def own(x: Tensor) -> Tensor:
    """This rank's share of a tensor: all of it, where it is not sharded."""
    return x.to_local() if isinstance(x, DTensor) else x


def own_rows(x: Tensor) -> slice:
    """Which rows of the whole tensor those are."""
    if not isinstance(x, DTensor):
        return slice(0, x.shape[0] if x.dim() else 1)
    ((axis, _),) = [(n, p) for n, p in enumerate(x.placements) if isinstance(p, Shard)]
    return _rows(x.shape[0], x.device_mesh.size(axis), x.device_mesh.get_local_rank(axis))


def _rows(count: int, ranks: int, rank: int) -> slice:
    """A rank's share of rows, as torch.chunk cuts them."""
    each = -(-count // ranks)
    begin = min(count, each * rank)
    return slice(begin, min(count, begin + each))


def put(into: Tensor, x: Tensor) -> None:
    """Fill a tensor, sharded or not, with a whole one."""
    own(into).copy_(x[own_rows(into)] if x.dim() else x)


def keeps(x: Tensor, ranks: Ranks) -> bool:
    """Whether this rank is the one to write its share: others may hold the same."""
    if not isinstance(x, DTensor):
        return ranks.first
    return all(x.device_mesh.get_local_rank(n) == 0 for n, p in enumerate(x.placements) if not isinstance(p, Shard))


def add_gradients(params: Iterable[nn.Parameter], ranks: Ranks) -> None:
    """Add over the ranks the gradients of parameters that each holds whole; those of the others are added already."""
    whole = [p for p in params if not isinstance(p, DTensor)]
    if ranks.size == 1 or not whole:
        return
    count = ranks.add(torch.tensor([float(p.grad is not None) for p in whole]))
    for p, has in zip(whole, count.tolist(), strict=True):
        if has:
            p.grad = ranks.add(torch.zeros_like(p) if p.grad is None else p.grad)


def clip_gradient(params: Iterable[nn.Parameter], most: float, ranks: Ranks = ALONE) -> float:
    """The norm of the gradient over all ranks; where it is above `most`, the gradient is scaled down to it."""
    params = list(params)
    if ranks.size == 1:
        return float(nn.utils.clip_grad_norm_(params, most))
    kept = [p.grad for p in params if p.grad is not None]
    squared = nn.utils.get_total_norm(own(g) for g in kept if keeps(g, ranks)).double().square().cpu()
    norm = math.sqrt(float(ranks.add(squared)))
    if norm > most:
        for grad in kept:
            own(grad).mul_(most / (norm + 1e-6))
    return norm


def on_matrices(like: Sequence[Tensor], shares: Sequence[Tensor], work: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """What `work` makes of matrices [n, rows, columns], of which each rank has a share; returns its shares of that.

    `like` are the parameters, [*banks, rows, columns] and all of one shape in the last two.  Of banks a rank has whole
    matrices, and works on those.  Of a parameter that is one matrix it has some rows: the ranks exchange them so that
    each has a part of the matrices whole, works on them, and gives everyone his rows back.
    """
    rows, columns = like[0].shape[-2:]
    cut = [p.dim() == 2 and isinstance(p, DTensor) and p.device_mesh["shard"].size() > 1 for p in like]
    here = [x.reshape(-1, rows, columns) for x, is_cut in zip(shares, cut, strict=True) if not is_cut]
    made = iter(work(torch.cat(here)).split([len(x) for x in here]) if sum(map(len, here)) else here)
    mesh = next((p.device_mesh for p in like if isinstance(p, DTensor)), None) if any(cut) else None
    if mesh is None:
        return [x.view(share.shape) for x, share in zip(made, shares, strict=True)]
    sent = torch.stack([x for x, is_cut in zip(shares, cut, strict=True) if is_cut])
    back = iter(_exchanged(sent, rows, mesh["shard"], work))
    return [next(back) if is_cut else next(made).view(x.shape) for x, is_cut in zip(shares, cut, strict=True)]


def _exchanged(x: Tensor, rows: int, mesh: DeviceMesh, work: Callable[[Tensor], Tensor]) -> Tensor:
    """`work` on whole matrices, of which x [n, own rows, columns] holds this rank's rows: its rows of the result."""
    count, mine, columns = x.shape
    size, group = mesh.size(), mesh.get_group()
    of_rank = [_rows(count, size, k) for k in range(size)]
    has = [s.stop - s.start for s in of_rank]  # matrices
    holds = [s.stop - s.start for s in (_rows(rows, size, k) for k in range(size))]  # rows of each
    own_count = has[mesh.get_local_rank()]
    out, into = [n * mine * columns for n in has], [own_count * n * columns for n in holds]
    came = x.new_empty(sum(into))
    dist.all_to_all_single(came, x.flatten(), into, out, group)
    parts = [part.view(own_count, -1, columns) for part in came.split(into)] if own_count else []
    done = work(torch.cat(parts, 1)) if parts else x.new_empty(0, rows, columns)
    back = x.new_empty(x.numel())
    sent = torch.cat([part.flatten() for part in done.split(holds, 1)])
    dist.all_to_all_single(back, sent, out, into, group)
    return back.view(x.shape)
