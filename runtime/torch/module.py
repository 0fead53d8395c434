"""What every generated module has: `Cell`, one op at its place in the stack, and `Streaming`, the model.

Input: the subclasses' equations.
Output: the state, the optimiser's groups, what training values are of given sums, and the keys of `state_dict`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from .stream import State, Stream, rename_keys
from .sums import Sums


class Cell(nn.Module):
    """One op: its parameters, and what happens to a token.

    `at` is its path with a dot, `depth` its layer and how many there are, `banks` the sizes of the banks it is in,
    which stand in front of every parameter.
    """

    groups: ClassVar[Mapping[str, tuple[float, float]]] = {}
    """Multiples of the learning rate and the weight decay, by parameter, where the spec gives them."""

    matrices: ClassVar[frozenset[str]] = frozenset()
    """The parameters [*banks, rows, columns] that multiply vectors."""

    outside: ClassVar[frozenset[str]] = frozenset()
    """The parameters that are read outside of `forward`: where a state begins, and in what training measures."""

    step: Callable[..., Any]
    """One token; `forward` is over [B, T]."""
    routed: Callable[..., Tensor]
    """Rows of tokens and the expert of each; for cells of banks, where nothing runs along time."""

    def __init__(self, at: str, layer: int = 0, layers: int = 1, banks: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.at, self.depth, self.banks = at, (layer, layers), banks

    def start(self, batch: int, like: Tensor) -> State:
        """This cell's own state before a document's first token."""
        return {}

    def init_weights(self, generator: Generator | None = None) -> None:
        """Fill the parameters by the spec's rules."""

    def aux(self, sums: Sums) -> dict[str, Tensor]:
        """This cell's auxiliary losses of sums over tokens."""
        return {}

    def metrics(self, sums: Sums) -> dict[str, Tensor]:
        """This cell's metrics of sums over tokens."""
        return {}

    def after_step(self, sums: Sums) -> None:
        """Move the buffers after an optimiser step."""


class Streaming(nn.Module):
    """A model of cells; the state is always an argument, never kept here."""

    paths: ClassVar[tuple[tuple[str, str], ...]] = ()
    """(attribute path, tensor's path) where Python or torch has taken a name of the spec."""
    ties: ClassVar[Mapping[str, str]] = {}
    """The attribute path of each tied tensor, and of its owner."""
    first_line: ClassVar[tuple[str, ...]] = ()
    """The modules of the first line, which reads tokens."""
    last_line: ClassVar[tuple[str, ...]] = ()
    """The modules of the last line."""
    apart: ClassVar[bool] = False
    """Whether `logits` is the last line, which each token passes through by itself."""
    logits: Callable[[Tensor], Tensor]
    """The last line, of what `hidden` gives."""

    def hidden(self, *given: Any, **named: Any) -> tuple[Tensor, State]:
        """`forward` but for `logits`: the whole of it, where the last line is not such a one."""
        found: tuple[Tensor, State] = self.forward(*given, **named)
        return found

    def build(self, seed: int | None, init: bool) -> None:
        """Share what is tied, and begin every parameter; with a seed, always with the same numbers.

        Without `init` the parameters are left as they come: for weights that are loaded next.
        """
        generator = None if seed is None else Generator().manual_seed(seed)
        with torch.no_grad():
            for cell in self._cells() if init else ():
                cell.init_weights(generator)
        for tied, owner in self.ties.items():
            at, _, name = tied.rpartition(".")
            setattr(self.get_submodule(at), name, self.get_parameter(owner))
        rename_keys(self, self.paths, self.ties)

    def drawn(self, seed: int) -> Iterator[tuple[str, Tensor]]:
        """What `build` begins every parameter and buffer with, by attribute path: for one that keeps its own elsewhere.

        One cell's are in memory at a time.
        """
        generator = Generator().manual_seed(seed)
        for path, cell in self.named_modules():
            if isinstance(cell, Cell):
                one = object.__new__(type(cell))
                one.__dict__.update(cell.__dict__)
                params = {n: torch.empty(p.shape) for n, p in cell._parameters.items() if p is not None}
                buffers = {n: torch.zeros(b.shape) for n, b in cell._buffers.items() if b is not None}
                one.__dict__.update({"_parameters": params, "_buffers": buffers})
                with torch.no_grad():
                    one.init_weights(generator)
                for name, x in (*params.items(), *buffers.items()):
                    if f"{path}.{name}" not in self.ties:
                        yield f"{path}.{name}", x

    def layers(self) -> Iterator[nn.Module]:
        """The blocks that repeat, in order: what is computed again, or sharded, as one."""
        for blocks in self.children():
            if isinstance(blocks, nn.ModuleList):
                yield from blocks

    def _cells(self) -> Iterator[Cell]:
        return (m for m in self.modules() if isinstance(m, Cell))

    # --- state ------------------------------------------------------------------------------------------------------
    def init_state(self, batch: int) -> State:
        """The state before a document's first token."""
        some = next(self.parameters(), torch.empty(0))
        like = torch.empty((), dtype=torch.promote_types(some.dtype, torch.float32), device=some.device)
        state: State = {"pos": torch.zeros(batch, dtype=torch.int64, device=some.device)}
        for cell in self._cells():
            state.update(cell.start(batch, like))
        return state

    def begin(
        self, tokens: Tensor, state: Mapping[str, Tensor] | None, reset: Tensor | None, sums: Sums | None
    ) -> Stream:
        """The stream of a forward over tokens [B, T, ...]; it measures where the caller gives `sums`."""
        batch, T = tokens.shape[:2]
        if state is None:
            start = self.init_state(batch)
            held = {p for p in start if f"{p}.count" in start}  # histories are None while they hold nothing
            state = {p: x for p, x in start.items() if p not in held and p.removesuffix(".count") not in held}
        return Stream.over(state, T, reset, None if sums is None else Sums())

    def close(self, stream: Stream, sums: Sums | None) -> State:
        """The state after the last token; what the forward measured is added to the caller's sums."""
        if sums is not None and stream.sums is not None:
            stream.sums["tokens"] = torch.tensor(float(stream.pos.numel()), device=stream.pos.device)
            sums += stream.sums
        return stream.new

    # --- training ---------------------------------------------------------------------------------------------------
    def aux(self, sums: Sums) -> dict[str, Tensor]:
        """Every auxiliary loss by path, to be added to the loss; `Sums.of_step` is for a step in parts."""
        return {path: x for cell in self._cells() for path, x in cell.aux(sums).items()}

    def metrics(self, sums: Sums) -> dict[str, Tensor]:
        """Every metric by path, and how many tokens found no room in a bank with a capacity (`….dropped`)."""
        found = {path: x for path, x in sums.items() if path.endswith(".dropped")}
        with torch.no_grad():
            for cell in self._cells():
                found.update(cell.metrics(sums))
        return found

    def routed(self, sums: Sums) -> dict[str, Tensor]:
        """By the path of a bank that tokens choose from: how often each expert was chosen, [E]."""
        return {path.removesuffix(".routed"): x for path, x in sums.items() if path.endswith(".routed")}

    def after_step(self, sums: Sums) -> None:
        """Move every buffer by its `after step`, from sums over all tokens of the optimiser step."""
        with torch.no_grad():
            for cell in self._cells():
                cell.after_step(sums)

    def param_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """The optimiser's groups: the spec's multiples of both; without any, only matrices decay.

        `matrices` says of a group that it holds matrices of cells between the first and the last line.
        """
        ends = {p for path in (*self.first_line, *self.last_line) for p in self.get_submodule(path).parameters()}
        found: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
        for path, cell in self.named_modules():
            if isinstance(cell, Cell):
                for name, p in cell.named_parameters(recurse=False):
                    if f"{path}.{name}" not in self.ties:
                        default = (1.0, 1.0 if p.dim() - len(cell.banks) > 1 else 0.0)
                        matrix = name in cell.matrices and p not in ends
                        found.setdefault((*cell.groups.get(name, default), matrix), []).append(p)
        return [
            {"params": params, "lr": lr * scale, "weight_decay": weight_decay * decay, "matrices": matrices}
            for (scale, decay, matrices), params in sorted(found.items(), key=lambda item: item[0])
        ]
