"""The interpreter: a model run literally as its text says, one token at a time, in float64.  It is the semantics.

Input: a `Model` and its weights by path (owners; a tied path may be absent).
Output: logits, and the state as a dict with the keys and shapes of `layout.slots`, a history's `path + ".count"`, and
`"pos"`, the tokens since the document's start.  With `collect`, what training values need of every token.
Training values (`aux`, `metric`, `after step`) come from these, over all tokens of an optimiser step.

A bank's capacity acts in training only; here no token is dropped.  An instance of a bank reduces over its own tokens;
one that saw none has no part: its training values are zero, and its buffers stay.

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

from cdrmix.ir import build, layout, walk
from cdrmix.ir.interp_cell import Banks, Recording, Runner, Site, Token
from cdrmix.ir.interp_expr import Array, Frame, expression
from cdrmix.ir.layout import Slot
from cdrmix.ir.nodes import TOKENS, Axis, Cell, DType, Index, Model, Node, Ref
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


@dataclass(frozen=True, slots=True)
class Values:
    """Training values by path (`layer.3.ffn.balance_loss`), with the axes of the banks around in front.

    `after` holds the next value of every buffer that an `after step` writes.
    """

    aux: dict[str, Array] = field(default_factory=dict)
    metrics: dict[str, Array] = field(default_factory=dict)
    after: dict[str, Array] = field(default_factory=dict)


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
        self._runners: dict[str, Runner] = {}
        for name, cell in model.cells.items():
            self._runners[name] = Runner(cell, self._runners, self._weights_of, rounding)

    def start(self) -> State:
        """The state before a document's first token."""
        state: State = {"pos": np.asarray(0, np.int64)}
        for slot in self._slots:
            if slot.kind == "history":
                state[slot.path] = np.zeros(slot.shape)
                state[f"{slot.path}.count"] = np.zeros(slot.place.banks, np.int64)
            else:
                value = first_value(slot, partial(self._weights_of, slot.place.path, slot.place.cell))
                state[slot.path] = self._held(value, slot.decl.dtype)
        return state

    def _held(self, value: Array, dtype: DType) -> Array:
        return rounded(value, dtype) if self.rounding else value

    @np.errstate(all="ignore")  # the branch of a choice that is not taken may have no value
    def step(self, token: Fed, state: Mapping[str, Array], recording: Recording | None = None) -> tuple[Array, State]:
        """The logits after one more token, and the state after it; `state` is left alone."""
        new = {path: np.array(value) for path, value in state.items()}
        pos = int(state["pos"])
        new["pos"] = np.asarray(pos + 1, np.int64)
        now = Token(pos, state, new, {}, recording)
        x = token if isinstance(token, tuple) else (np.asarray(token),)
        for line in self.model.lines:
            y = x
            for instance in line.chain:
                y = (self._runners[instance.cell].run(Site(instance.path), y, now),)
            x = (self._held(x[0] + y[0], self.model.work),) if line.residual else y
        return x[0], new

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
            out, now = self.step(token, now, recording)
            logits.append(out)
        width = self.model.vocab or self.model.width
        return Run(np.stack(logits) if logits else np.zeros((0, width)), now, recording or {})

    def training_values(self, runs: Sequence[Run]) -> Values:
        """The `aux` and `metric` values and the buffers after the step, over all tokens of some collected runs."""
        values = Values()
        groups = {"aux": values.aux, "metric": values.metrics, "after": values.after}
        for place in layout.places(self.model):
            for t in place.cell.training:
                found = np.zeros((*place.banks, *walk.sizes(t.indices)))
                for at in np.ndindex(*place.banks):
                    fixed = self._weights_of(place.path, place.cell, at)
                    kept = [names for run in runs for names in run.recording.get((place.path, at), [])]
                    if kept:
                        stacked = {ref: np.stack([names[ref] for names in kept]) for ref in kept[0]}
                        value = expression(_along_tokens(t.value, Axis(TOKENS.name, len(kept))), order=t.indices)
                        found[at] = value(Frame({**fixed, **stacked}))
                    elif t.kind == "after":
                        found[at] = fixed[Ref("buffer", t.name)]
                groups[t.kind][f"{place.path}.{t.name}"] = found
        return values

    def _weights_of(self, path: str, cell: Cell, banks: Banks) -> Mapping[Ref, Array]:
        if (path, banks) not in self._bound:
            refs = [Ref("param", p.name) for p in cell.params] + [Ref("buffer", b.name) for b in cell.buffers]
            self._bound[path, banks] = {ref: self.weights[f"{path}.{ref.name}"][banks] for ref in refs}
        return self._bound[path, banks]


def first_value(slot: Slot, params: Callable[[Banks], Mapping[Ref, Array]]) -> Array:
    """What a state begins with; `params` gives its cell's parameters at a place in the banks around it."""
    decl = next(s for s in slot.place.cell.states if s.name == slot.decl.name)
    value = expression(decl.init, order=decl.indices)
    first = np.zeros(slot.shape)
    for at in np.ndindex(*slot.place.banks):
        first[at] = value(Frame(dict(params(at))))
    return first


def _along_tokens(n: Node, tokens: Axis, i: Index | None = None) -> Node:
    """`n` with the axis of tokens made an ordinary one, in front of everything that differs by token."""
    arg = n.arg
    for over in walk.bound(n):
        if over.axis == TOKENS:
            i = Index(over.name, tokens)
            arg = tuple(i if j is over else j for j in n.arg)
    args = tuple(_along_tokens(a, tokens, i) for a in n.args)
    if n.op == "read" and n.arg.ref.kind not in ("param", "buffer"):
        ref, view = n.arg.ref, n.arg.view
        if i is None:
            raise ValueError(f"{n.span}: `{ref.name}` differs by token and is read outside a reduction over tokens")
        return build.read(ref, (tokens, *view), (build.index(i), *args), n.dtype, n.span)
    return build.again(n, args, arg)
