"""Where training begins: every parameter's first value by the spec's init rules.

Input: a `Model` and a seed.
Output: float32 arrays by path, for params and buffers that own their storage, bank axes in front.

A tensor's random numbers depend on the seed and its path alone (a bank's instances each on their own), so that an edit
elsewhere in the spec does not change them.

`orthogonal` is of a matrix, [rows, columns]: orthonormal rows or columns, whichever are fewer, times the gain.  With
more axes, each matrix of the last two is drawn by itself; a vector is one row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from cdrmix.diagnose import CompileError, Diagnostic
from cdrmix.ir import layout, walk
from cdrmix.ir.interp_expr import Array, Frame, expression
from cdrmix.ir.nodes import Init, Model, Param

Random = np.random.Generator


Finish = Callable[[layout.Weight, Array, Random], Array]
"""Makes a tensor's value of what it begins with."""


def _as_drawn(weight: layout.Weight, value: Array, random: Random) -> Array:
    return value


def initial_weights(model: Model, seed: int = 0, finish: Finish = _as_drawn) -> dict[str, Array]:
    """Every owned param and buffer, as the spec says it begins."""
    return {w.path: initial_tensor(w, seed, finish) for w in layout.weights(model) if w.owner == w.path}


def random_weights(model: Model, seed: int = 0) -> dict[str, Array]:
    """The initial values with noise on every one, since what starts at zero hides faults."""
    return initial_weights(model, seed, shaken)


def shaken(weight: layout.Weight, value: Array, random: Random) -> Array:
    """A tensor with noise that keeps a model sane.

    A vector gets noise of 0.3; anything with more axes half of what keeps a product with its last axis near one.
    """
    if weight.kind == "buffer":
        return value + 0.01 * random.standard_normal(value.shape)
    scale = 0.3 if value.ndim < 2 else 0.5 / np.sqrt(value.shape[-1])
    return value + scale * random.standard_normal(value.shape)


def initial_tensor(weight: layout.Weight, seed: int = 0, finish: Finish = _as_drawn) -> Array:
    """One tensor of `initial_weights`, for models that do not fit in memory.

    Raises `CompileError` for a rule with no finite value.
    """
    value = np.empty(weight.shape, np.float32)
    with np.errstate(all="ignore"):
        for at in np.ndindex(*weight.place.banks):
            random = stream(seed, "/".join([weight.path, *map(str, at)]))
            value[at] = finish(weight, _begin(weight, random), random)
    if not np.isfinite(value).all():
        message = f"`{weight.path}` begins with values that are not finite"
        help = "mend its init rule, or the sizes that it is made of"
        raise CompileError([Diagnostic("E0215", weight.decl.span, message, help)])
    return value


def stream(seed: int, name: str) -> Random:
    """The random numbers that belong to a name."""
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.Generator(np.random.PCG64([seed, *np.frombuffer(digest[:16], np.uint32).tolist()]))


def _begin(weight: layout.Weight, random: Random) -> Array:
    decl, instance = weight.decl, weight.place.instance
    frame = Frame({}, {"layer": instance.layer, "layers": instance.layers})
    init = decl.init if isinstance(decl, Param) else Init("value", (decl.init,))
    if init.rule == "value":
        return expression(init.args[0], order=decl.indices)(frame)
    shape, numbers = walk.sizes(decl.indices), [float(expression(n)(frame)) for n in init.args]
    match init.rule:
        case "orthogonal":
            return orthogonal(shape, numbers[0], random)
        case "uniform":
            return random.uniform(numbers[0], numbers[1], shape)
        case "normal":
            return numbers[0] * random.standard_normal(shape)


def orthogonal(shape: tuple[int, ...], gain: float, random: Random) -> Array:
    """Orthogonal matrices, uniformly drawn (QR of normals, the signs of R's diagonal made positive)."""
    *stack, rows, columns = (1, 1, *shape) if len(shape) < 2 else shape
    found = np.empty((*stack, rows, columns))
    for at in np.ndindex(*stack):
        drawn = random.standard_normal((max(rows, columns), min(rows, columns)))
        q, r = np.linalg.qr(drawn)
        q *= np.sign(np.diag(r))
        found[at] = q if rows >= columns else q.T
    return gain * found.reshape(shape)
