"""The interpreter: a model run literally as its text says, one token at a time, in float64.  It is the semantics.

Input: a `Model` and its weights by path (owners; a tied path may be absent).
Output: logits, and the state as a dict with the keys and shapes of `layout.slots`, a history's `path + ".count"`, and
`"pos"`, the tokens since the document's start.  With `collect`, what training values need of every token.

A bank's capacity acts in training only; here no token is dropped.

With `rounding`, on a model whose types are decided, values are rounded where `ir/types.py` says, so that mixed
precision has an executable meaning.  What is f32 there is float64 here: the difference is f32's own noise, which every
backend has in its own way, and which a reference should not have.  Only where a value is rounded to a narrow type does
it become f32 first, as it would be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from cdrmix.ir import interp_training, layout
from cdrmix.ir.interp_cell import Banks, Program, Recording, Site, Token
from cdrmix.ir.interp_expr import Array, Frame, expression
from cdrmix.ir.layout import Slot
from cdrmix.ir.nodes import Buffer, Cell, DType, Instance, Model, Param, Ref
from cdrmix.ir.types import rounded

State = dict[str, Array]
Fed = int | Array | tuple[Array, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """A stretch of tokens: `logits` [T, vocab], the state after it, and the recording when collected."""

    logits: Array
    state: State
    recording: Recording = field(default_factory=dict)

    def __iter__(self) -> Iterator[Any]:
        """As the pair `logits, state`."""
        return iter((self.logits, self.state))


def first_value(slot: Slot, params: Callable[[Banks], Mapping[Ref, Array]]) -> Array:
    """What a state begins with; `params` gives its cell's parameters at a place in the banks around it."""
    decl = next(s for s in slot.place.cell.states if s.name == slot.decl.name)
    value = expression(decl.init, order=decl.indices)
    first = np.zeros(slot.shape)
    for at in np.ndindex(*slot.place.banks):
        first[at] = value(Frame(dict(params(at))))
    return first


class Interpreter:
    """Runs one model with one set of weights.

    A token is an id; for a model of one bare op (`vocab == 0`) it is the op's input, or a tuple of its inputs.
    """

    def __init__(self, model: Model, weights: Mapping[str, Array], rounding: bool = False):
        self.model = model
        self.rounding = rounding
        self.weights: dict[str, Array] = {}
        for w in layout.weights(model):
            if w.owner not in weights:
                raise KeyError(f"no weight `{w.owner}`")
            value = np.asarray(weights[w.owner])
            if value.shape != w.shape:
                raise ValueError(f"`{w.path}` has the shape {w.shape}, not {value.shape}")
            self.weights[w.path] = self._held(value.astype(np.float64), w.decl.dtype)
        self._slots = layout.slots(model)
        self._bound: dict[tuple[str, Banks], dict[Ref, Array]] = {}
        self._programs: dict[str, Program] = {}
        for name, cell in model.cells.items():
            self._programs[name] = Program(cell, self._programs, self._weights_of, rounding)

    def start(self) -> State:
        """The state before a document's first token."""
        state: State = {"pos": np.asarray(0, np.int64)}
        for slot in self._slots:
            banks = slot.place.banks
            state[slot.path] = np.zeros(slot.shape)
            if slot.kind == "history":
                state[f"{slot.path}.count"] = np.zeros(banks, np.int64)
                continue
            value = first_value(slot, partial(self._weights_of, slot.place.path, slot.place.cell))
            state[slot.path] = self._held(value, slot.decl.dtype)
        return state

    def _held(self, value: Array, dtype: DType) -> Array:
        return rounded(value, dtype) if self.rounding else value

    def step(self, token: Fed, state: Mapping[str, Array]) -> tuple[Array, State]:
        """The logits after one more token, and the state after it; `state` is left alone."""
        logits, new = self._step(token, state, None)
        return logits, new

    def run(
        self,
        tokens: Sequence[Fed] | Array,
        state: Mapping[str, Array] | None = None,
        resets: Sequence[bool] | Array | None = None,
        collect: bool = False,
    ) -> Run:
        """Every token in turn; where `resets` is true, the token is the first of a document."""
        recording: Recording | None = {} if collect else None
        now = dict(state) if state is not None else self.start()
        logits = []
        for t, token in enumerate(tokens):
            if resets is not None and resets[t]:
                now = self.start()
            out, now = self._step(token, now, recording)
            logits.append(out)
        width = self.model.vocab or self.model.width
        return Run(np.stack(logits) if logits else np.zeros((0, width)), now, recording or {})

    def training_values(self, runs: Sequence[Run]) -> interp_training.Values:
        """The `aux` and `metric` values and the buffers after the step, over all tokens of some collected runs."""
        joined: Recording = {}
        for run in runs:
            for site, kept in run.recording.items():
                joined.setdefault(site, []).extend(kept)
        return interp_training.evaluate(self.model, joined, self._weights_of)

    @np.errstate(all="ignore")  # the branch of a choice that is not taken may have no value
    def _step(self, token: Fed, state: Mapping[str, Array], recording: Recording | None) -> tuple[Array, State]:
        new = {path: np.array(value) for path, value in state.items()}
        pos = int(state["pos"])
        new["pos"] = np.asarray(pos + 1, np.int64)
        now = Token(pos, state, new, {}, recording)
        x = token if isinstance(token, tuple) else (np.asarray(token),)
        for line in self.model.lines:
            y = x
            for instance in line.chain:
                y = (self._instance(instance, y, now),)
            x = (self._held(x[0] + y[0], self.model.work),) if line.residual else y
        return x[0], new

    def _instance(self, instance: Instance, x: tuple[Array, ...], token: Token) -> Array:
        return self._programs[instance.cell].run(Site(instance.path), x, token)

    def _weights_of(self, path: str, cell: Cell, banks: Banks) -> Mapping[Ref, Array]:
        found = self._bound.get((path, banks))
        if found is None:
            decls: tuple[Param | Buffer, ...] = (*cell.params, *cell.buffers)
            kinds = ["param"] * len(cell.params) + ["buffer"] * len(cell.buffers)
            found = {
                Ref(kind, d.name): self.weights[f"{path}.{d.name}"][banks]  # type: ignore[arg-type]
                for kind, d in zip(kinds, decls, strict=True)
            }
            self._bound[path, banks] = found
        return found
