"""What the matrices of a module are multiplied with, seen while it runs.

Input: a generated module.  Output: within a `with` block, every product of a parameter with vectors passes through
`seen`; products of other kinds do not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cdrmix.runtime.torch.grouped import PRODUCT
from cdrmix.runtime.torch.module import Streaming

GROUP = 32
"""How many elements of a vector share a scale where vectors are rounded."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """Where a product's matrix lies: the parameter's path, its number in a bank, and whether what it is multiplied with
    runs along its rows (`turned`) and not, as usual, along its columns."""

    path: str
    number: int
    turned: bool


class Products(TorchFunctionMode):
    """Passes the vectors [n, K] of every product through `seen`, which may give others."""

    def __init__(self, module: Streaming):
        super().__init__()
        self.paths = {x.untyped_storage().data_ptr(): path for path, x in module.state_dict().items()}

    def seen(self, matrix: Matrix, x: Tensor) -> Tensor:
        """The vectors to multiply."""
        return x

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear and args[1].dim() == 2 and (matrix := self._matrix(args[1])):
            args = (self.seen(matrix, args[0]), *args[1:])
        elif func is PRODUCT and (bank := self._matrix(args[1])):
            args = (self._rows(bank, args[0], args[2].tolist()), *args[1:])
        return func(*args, **kwargs)

    def _rows(self, bank: Matrix, x: Tensor, ends: Sequence[int]) -> Tensor:
        """Rows sorted by the matrix of a bank that each is multiplied with."""
        cuts = zip([0, *ends], ends, strict=False)
        return torch.cat(
            [self.seen(Matrix(bank.path, n, bank.turned), x[a:z]) for n, (a, z) in enumerate(cuts, bank.number)]
        )

    def _matrix(self, w: Tensor) -> Matrix | None:
        """The parameter that w [N, K], or a bank [E, N, K] of them, is a view of."""
        path = self.paths.get(w.untyped_storage().data_ptr())
        return (
            None if path is None else Matrix(path, w.storage_offset() // (w.shape[-2] * w.shape[-1]), w.stride(-1) != 1)
        )


@dataclass(slots=True)
class Moments:
    """The second moments of what a parameter's matrices are multiplied with: [K, K] by a matrix's place in a bank."""

    turned: bool
    of: dict[int, Tensor]


class Collect(Products):
    """Adds up second moments, by path."""

    def __init__(self, module: Streaming):
        super().__init__(module)
        self.found: dict[str, Moments] = {}

    def seen(self, matrix: Matrix, x: Tensor) -> Tensor:
        moments = self.found.setdefault(matrix.path, Moments(matrix.turned, {}))
        rows = x.flatten(0, -2)
        if moments.turned == matrix.turned and len(rows):
            more = rows.T @ rows
            moments.of[matrix.number] = moments.of.get(matrix.number, torch.zeros_like(more)) + more
        return x


class WholeVectors(Products):
    """Rounds vectors to 8 bits, as a target's kernels do that multiply whole numbers; `paths` are the matrices'."""

    def __init__(self, module: Streaming, paths: Collection[str]):
        super().__init__(module)
        self.rounds = frozenset(paths)

    def seen(self, matrix: Matrix, x: Tensor) -> Tensor:
        if matrix.path not in self.rounds:
            return x
        groups = F.pad(x, (0, -x.shape[-1] % GROUP)).unflatten(-1, (-1, GROUP))
        scale = groups.abs().amax(-1, keepdim=True) / 127
        rounded = (groups / scale.where(scale > 0, 1)).round() * scale
        flat: Tensor = rounded.flatten(-2)
        return flat[..., : x.shape[-1]]
