"""The intermediate representation: one token's program, as scalar index expressions.

An expression is a tree of `Node`s.  It stands for one number at each value of its *free* index variables; a
"tensor" is only a name that was defined over indices (`Def`).  Whole-tensor text is brought to this form by the
checker: `Wr @ (x + dx*mr)` becomes `sum[k](Wr[i,k] * (x[k] + dx[k]*mr[k]))`.

A `Cell` is one op with its statics fixed.  Cells that differ only in their layer's init values are one cell; a
`Model` is a stack of `Instance`s of cells.  Everything is frozen; passes return new values.

Rules that `verify` keeps:
- within a `Def` every index variable, free or bound, has its own name; its free ones are exactly `Def.indices`;
- a cell's axes have distinct names; a cell's body is in an order in which it can be evaluated;
- a `read` has one index argument an axis of its `view`; `view` has as many elements as the thing read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from cdrmix.diagnose import NOWHERE, Span

DType = Literal["work", "f32", "bf16", "f16", "int", "bool", "pick"]
"""`work` is the type of activations, which a target or a training run chooses (`ir/types.py`); `int` is index
arithmetic and `pos`; `bool` is a comparison (0 or 1 when used as a number); `pick` is a place on an axis chosen at run
time."""


Stored = str
"""How an artefact holds a parameter: the name of an encoding (`runtime/encodings.py`).  `passes/encodings.py` decides;
what is computed has the type that `DType` says."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A nominal axis: two axes of one size are not one axis."""

    name: str
    size: int


TOKENS = Axis("tokens", 0)
"""The axis of all tokens of an optimiser step; only `aux`, `metric` and `after step` reduce over it."""


@dataclass(frozen=True, slots=True)
class Index:
    """An index variable and the axis it runs over."""

    name: str
    axis: Axis


RefKind = Literal["def", "input", "param", "state", "next", "carry", "history", "buffer", "output"]


@dataclass(frozen=True, slots=True)
class Ref:
    """A name of a cell.

    `state` is the value before this token and `next` the one after it.  `carry` is what a layer above wrote when
    read, and this layer's own value when defined.  A `history` is defined by this token's entry and read with the
    age first: `K[t, …]`, t = 0 being this token.  `output` is the cell's result and has the name `out`.
    """

    kind: RefKind
    name: str


@dataclass(frozen=True, slots=True)
class Access:
    """What a `read` node reads: a name, seen under the axes `view`.

    `view` is the declared axes, or a row-major split or merge of them with the same number of elements
    (a [D] read as [h, n]; a [H, N] read flat by `as`).
    """

    ref: Ref
    view: tuple[Axis, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """One operation.  `op` is a row of `ops.OPS`; `arg` is what that row says it is.

    | op | args | arg |
    |---|---|---|
    | `const` | | the int, float or bool |
    | `index` | | the `Index` whose value this is |
    | `context` | | `"pos"` in bodies; `"layer"`, `"layers"` in init rules only |
    | `read` | one int or pick expression an axis of the view | `Access` |
    | elementwise rows (`add`, `exp`, `select`, …) | operands | None |
    | reductions (`sum`, `mean`, `max_over`, …) | body | the tuple of bound `Index`es |
    | `softmax` | body | the `Index` it is normalised along, which stays free |
    """

    op: str
    args: tuple[Node, ...] = ()
    arg: Any = None
    dtype: DType = "work"
    free: tuple[Index, ...] = ()
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Def:
    """`ref[indices] = value`.  `ref.kind` is def, next, carry, history (this token's entry) or output."""

    ref: Ref
    indices: tuple[Index, ...]
    value: Node
    dtype: DType = "work"
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Top:
    """`values, picks = top[k](source)`: the largest entries along `over`, largest first, ties by lowest place.

    Defines `values[lead…, k]` and `picks[lead…, k]` (dtype pick, places on `over.axis`).  Either may be None.
    """

    values: str | None
    picks: str | None
    lead: tuple[Index, ...]
    k: Index
    over: Index
    source: Node
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Given:
    """An argument of `Apply`: a defined name whose leading axes are indexed by `lead` and whose rest is the formal."""

    ref: Ref
    lead: tuple[Index, ...] = ()


@dataclass(frozen=True, slots=True)
class Apply:
    """`name[lead…, outs…] = part[select](inputs)[outs…]`: one advance of a part, or of the chosen experts of a bank.

    `select` is None for a part.  For a bank it is an index variable in `lead` (every instance, one each) or a pick
    read whose free indices are `lead` (only the chosen instances run).
    """

    name: str
    part: str
    lead: tuple[Index, ...]
    select: Node | None
    inputs: tuple[Given, ...]
    outs: tuple[Index, ...]
    dtype: DType = "work"
    span: Span = field(default=NOWHERE, compare=False)


Stmt = Def | Top | Apply


@dataclass(frozen=True, slots=True)
class Input:
    """A tensor formal.  A token id or other place on an axis has dtype pick, no axes and `extent`."""

    name: str
    axes: tuple[Axis, ...]
    dtype: DType = "work"
    extent: Axis | None = None


@dataclass(frozen=True, slots=True)
class Init:
    """How a param begins.

    `value`: args = (expression over the param's indices; may read `layer`, `layers` by `context`).
    `orthogonal`: args = (gain,).  `uniform`: args = (low, high).  `normal`: args = (std,).
    """

    rule: Literal["value", "orthogonal", "uniform", "normal"]
    args: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Param:
    """A trained tensor.  `lr` multiplies the learning rate; `decay` the weight decay (None: by the default rule)."""

    name: str
    indices: tuple[Index, ...]
    init: Init
    dtype: DType = "work"
    lr: float = 1.0
    decay: float | None = None
    span: Span = field(default=NOWHERE, compare=False)
    stored: Stored = "f32"


@dataclass(frozen=True, slots=True)
class State:
    """A value along time.  `init` is over `indices`: a constant or a read of a param.  Its `next` is in the body."""

    name: str
    indices: tuple[Index, ...]
    init: Node
    dtype: DType = "f32"
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class History:
    """The last `window.size` entries over `axes`, this token's included."""

    name: str
    window: Axis
    axes: tuple[Axis, ...]
    dtype: DType = "work"
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Carry:
    """A value along depth, keyed by name across the model."""

    name: str
    axes: tuple[Axis, ...]
    reads: bool
    writes: bool
    dtype: DType = "work"
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Buffer:
    """A value moved by `after step`, saved but not trained."""

    name: str
    indices: tuple[Index, ...]
    init: Node
    dtype: DType = "f32"
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Part:
    """An instance of another cell inside this one; with `bank`, one instance a place on that index's axis.

    `capacity` > 0: in training each instance takes at most that many times its even share of the tokens.
    """

    name: str
    cell: str
    bank: Index | None = None
    capacity: float = 0.0
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Training:
    """A training-only value: `aux` (no indices), `metric`, or `after` (the buffer's next value).

    `value` reduces over `TOKENS` (an `Index("tokens", TOKENS)` among the bound indices of a `mean` or `sum`).
    """

    kind: Literal["aux", "metric", "after"]
    name: str
    indices: tuple[Index, ...]
    value: Node
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Cell:
    """One op with its statics fixed: what happens to one token.

    `name` is unique in the model and an identifier; `op` is the op's name in the text.
    """

    name: str
    op: str
    inputs: tuple[Input, ...]
    out_axes: tuple[Axis, ...]
    body: tuple[Stmt, ...]
    params: tuple[Param, ...] = ()
    states: tuple[State, ...] = ()
    histories: tuple[History, ...] = ()
    carries: tuple[Carry, ...] = ()
    buffers: tuple[Buffer, ...] = ()
    parts: tuple[Part, ...] = ()
    training: tuple[Training, ...] = ()
    doc: str = ""
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Instance:
    """A cell at a place in the stack.  `path` is made of labels (`layer.3.att`)."""

    path: str
    cell: str
    layer: int = 0
    layers: int = 1


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the stack: `x + f(x)` when residual, else `f(x)`, for the whole chain f."""

    path: str
    residual: bool
    chain: tuple[Instance, ...]
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Model:
    """A checked, expanded model: a token id in, a [vocab] of logits out.

    `cells` holds callees before their callers.  `ties` maps a parameter's path to the path that owns its storage.
    `settings` are the resolved ones, groups as dotted names; `notes` what the checker says of a text that is right.
    `work` is what the passes made the type of activations.
    """

    name: str
    vocab: int
    width: int
    lines: tuple[Line, ...]
    cells: Mapping[str, Cell]
    ties: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = field(default=(), compare=False)
    doc: str = ""
    span: Span = field(default=NOWHERE, compare=False)
    work: DType = "f32"
