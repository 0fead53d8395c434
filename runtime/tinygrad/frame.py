"""What a cell is given besides its inputs: its weights, states and carries by their names in the spec.

Input: a unit's tensors, and where in the unit the cell stands.
Output: the states and carries that the cells leave, in `states` and `carries`; `written` are slots after a kernel has
written into them.

Inside a bank a frame holds many instances at once: axis B is then groups of tokens, `select` the instance of each
group (None: group g is instance g), T the tokens of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod

from tinygrad import Tensor

from .experts import back, group_by_expert, rows
from .lookup import table_rows
from .products import row_product
from .several import row_products
from .weights import widen

TILE = 8
"""Tokens of one expert that share a read of its weights."""


@dataclass(frozen=True, slots=True)
class Frame:
    """See the module.  `path` is the prefix of this cell's names; `banks` the sizes of the banks around it."""

    weights: Mapping[str, Tensor]
    slots: Mapping[str, Tensor]
    above: Mapping[str, Tensor]
    place: Tensor | None
    path: str = ""
    banks: tuple[int, ...] = ()
    select: Tensor | None = None
    states: dict[str, Tensor | None] = field(default_factory=dict)
    written: dict[str, Tensor] = field(default_factory=dict)
    carries: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, x: Tensor, w: Mapping[str, Tensor], s: Mapping[str, Tensor], c: Mapping[str, Tensor]) -> Frame:
        """The frame of a unit."""
        place = s["pos"].unsqueeze(1) if "pos" in s else None
        if place is not None and x.shape[1] > 1:
            place = place + Tensor.arange(x.shape[1])
        return cls(w, s, c, place)

    # --- weights ---------------------------------------------------------------------------------------------------
    def _stored(self, name: str) -> tuple[Tensor, Tensor | None]:
        """A weight as it lies, and its scales; instances of banks along one axis in front."""
        found = []
        for key in (self.path + name, f"{self.path}{name}.scale"):
            w = self.weights.get(key)
            found.append(w.reshape(-1, *w.shape[len(self.banks) :]) if w is not None and self.banks else w)
        return found[0], found[1]  # type: ignore[return-value]

    def weight(self, name: str, *sizes: int) -> Tensor:
        """A weight's values, [1, 1, *shape]; with `sizes`, seen under those axes."""
        w, scale = self._stored(name)
        if self.select is not None:
            w, scale = w[self.select], None if scale is None else scale[self.select]
        value = widen(w, scale)
        groups = value.shape[0] if self.banks else 1
        return value.reshape(groups, 1, *(sizes or value.shape[1 if self.banks else 0 :]))

    def row(self, name: str, at: Tensor) -> Tensor:
        """Rows of a table [V, *S]: `at` [B, T, *A] to [B, T, *A, *S]; only the rows asked for are read."""
        w, scale = self._stored(name)
        if self.banks:
            b, v = int(at.shape[0]), int(w.shape[1])
            at = at + (self._instance(b) * v).reshape(b, *[1] * (at.ndim - 1))
            w, scale = w.flatten(0, 1), None if scale is None else scale.flatten(0, 1)
        sizes = w.shape[1:]
        k, each = int(prod(sizes[-1:])), int(prod(sizes[:-1]))  # a row is `each` lines of k
        lines = at.flatten() if each == 1 else (at.unsqueeze(-1) * each + Tensor.arange(each)).flatten()
        found = table_rows(w.reshape(-1, k), lines, None if scale is None else scale.flatten())
        return found.reshape(*at.shape, *sizes)

    def _instance(self, groups: int) -> Tensor:
        """The instance of each group."""
        return Tensor.arange(groups) if self.select is None else self.select

    def product(self, name: str, x: Tensor, groups: tuple[int, ...] = (), along: int = 1) -> Tensor:
        """The sum over a weight's last axes times those of x: x [B, T, *groups, *own, *K] to [B, T, *groups, *own, M].

        The weight is [*groups, *rows, *K] in row-major order; `along` counts the axes K of x.
        """
        w, scale = self._stored(name)
        b, t, *sizes = x.shape
        own, k = sizes[len(groups) : len(sizes) - along], prod(sizes[len(sizes) - along :])
        g = prod(groups)
        m = prod(w.shape[1 if self.banks else 0 :]) // (g * k)
        if not self.banks and g == 1:
            y = row_product(w.reshape(m, k), x.reshape(-1, k), None if scale is None else scale.reshape(m))
            return y.reshape(b, t, *groups, *own, m)
        lead = b if self.banks else 1
        x = x.reshape(lead, b * t // lead, g, prod(own), k).permute(0, 2, 1, 3, 4)  # [instances, g, tokens, own, k]
        x = x.reshape(lead * g, b * t // lead * prod(own), k)
        pick = self.select
        if pick is not None and g > 1:
            pick = (pick.unsqueeze(1) * g + Tensor.arange(g)).flatten()
        w, scale = w.reshape(-1, m, k), None if scale is None else scale.reshape(-1, m)
        y = row_product(w, x, scale, pick).reshape(lead, g, b * t // lead, prod(own), m)
        return y.permute(0, 2, 1, 3, 4).reshape(b, t, *groups, *own, m)

    def products(self, *given: tuple[str, Tensor]) -> list[Tensor]:
        """Several products, none of which needs another: each x [B, T, *own, K] to [B, T, *own, M]."""
        if self.banks:
            return [self.product(name, x) for name, x in given]
        weights, scales = zip(*(self._stored(name) for name, _ in given), strict=True)
        xs = [x.reshape(-1, x.shape[-1]) for _, x in given]
        W = [w.reshape(-1, x.shape[-1]) for w, (_, x) in zip(weights, given, strict=True)]
        ys = row_products(W, xs, [None if s is None else s.flatten() for s in scales])
        return [y.reshape(*x.shape[:-1], -1) for y, (_, x) in zip(ys, given, strict=True)]

    # --- along time and depth --------------------------------------------------------------------------------------
    def state(self, name: str) -> Tensor:
        """The slot of a state or history before this block: [B, *shape]."""
        return self.slots[self.path + name]

    def keep(self, name: str, value: Tensor) -> None:
        """The state after the block."""
        self.states[self.path + name] = value

    def wrote(self, name: str, slot: Tensor) -> None:
        """The state's slot after a kernel has written the state after the block into it."""
        self.states[self.path + name] = None
        self.written[self.path + name] = slot

    @property
    def pos(self) -> Tensor:
        """The place of each token in its document, [B, T]."""
        assert self.place is not None
        return self.place

    def carry(self, name: str) -> Tensor:
        """What a layer above, or an earlier cell of this line, wrote."""
        return self.carries[name] if name in self.carries else self.above[name]

    def give(self, name: str, value: Tensor) -> None:
        """Write a carry."""
        self.carries[name] = value

    # --- parts and banks -------------------------------------------------------------------------------------------
    def part(self, name: str) -> Frame:
        """The frame of a part, or of a cell earlier in the chain."""
        return replace(self, path=f"{self.path}{name}.")

    def _instances(self, name: str, size: int, select: Tensor | None, place: Tensor | None) -> Frame:
        return replace(self.part(name), banks=(*self.banks, size), select=select, place=place)

    def every(self, name: str, size: int, cell: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Every instance of a bank: each input [B, T, size | 1, *S] to [B, T, size, *out]."""
        b, t = inputs[0].shape[:2]
        groups = b if self.banks else 1  # instances around this bank stay in front
        given = [*inputs, *(() if self.place is None else (self.place.expand(b, t).unsqueeze(2),))]
        spread = []
        for x in given:
            x = x.expand(b, t, size, *x.shape[3:]).reshape(groups, b * t // groups, size, *x.shape[3:])
            x = x.permute(0, 2, 1, *range(3, x.ndim))
            spread.append(x.reshape(groups * size, b * t // groups, *x.shape[3:]))
        select = None if self.select is None else (self.select.unsqueeze(1) * size + Tensor.arange(size)).flatten()
        place = None if self.place is None else spread.pop()
        y = cell(self._instances(name, size, select, place), *spread)
        y = y.reshape(groups, size, b * t // groups, *y.shape[2:])
        return y.permute(0, 2, 1, *range(3, y.ndim)).reshape(b, t, size, *y.shape[3:])

    def chosen(self, name: str, size: int, cell: Callable[..., Tensor], pick: Tensor, *inputs: Tensor) -> Tensor:
        """The instances picked: pick [B, T, P], each input [B, T, P | 1, *S] to [B, T, P, *out].

        Few pairs of a token and an expert: each reads its own expert's weights.  Many: pairs of one expert share them.
        """
        b, t, p = (int(n) for n in pick.shape)
        given = [*inputs, *(() if self.place is None else (self.place.expand(b, t).unsqueeze(2),))]
        if self.banks:
            pick = self._instance(b).reshape(b, 1, 1) * size + pick
        experts = prod(self.banks) * size
        pairs = b * t * p
        if pairs <= experts:
            each = [x.expand(b, t, p, *x.shape[3:]).reshape(pairs, 1, *x.shape[3:]) for x in given]
            place = None if self.place is None else each.pop()
            y = cell(self._instances(name, size, pick.flatten().contiguous(), place), *each)
            return y.reshape(b, t, p, *y.shape[2:])
        tiles = group_by_expert(pick.reshape(b * t, p), experts, TILE)
        tiled = []
        for x in given:
            each = x.shape[2] == p
            tiled.append(rows(x.reshape(b * t, *([p] if each else []), *x.shape[3:]), tiles, each))
        place = None if self.place is None else tiled.pop()
        y = cell(self._instances(name, size, tiles.expert, place), *tiled)
        return back(y, tiles).reshape(b, t, p, *y.shape[2:])
