"""The kernels as operators of torch, so that a compiled graph keeps them whole; with gradients.

Input: the operands as the kernels' files say.
Output: `OPS`, in a namespace of these sources: two copies of the package in one process share it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

STEP = 16  # tokens between two kept states, as in tokens.py and chunks.py


# --- matrix states -------------------------------------------------------------------------------------------------
def _chunk_scan(
    q: Tensor, w: Tensor | None, k: Tensor, v: Tensor, a: Tensor, b: Tensor, wv: Tensor | None, S0: Tensor,
    reset: Tensor | None, initial: Tensor | None, keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    from . import chunks, tokens

    if chunks.suits(k, v, a, wv, initial):
        return chunks.forward(q, w, k, v, a, b, S0, reset, keep)
    return tokens.forward(q, w, k, v, a, b, wv, S0, reset, initial, keep)


def _chunk_scan_fake(q, w, k, v, a, b, wv, S0, reset, initial, keep):  # type: ignore[no-untyped-def]
    B, T, H, N, K = q.shape
    V = v.shape[-1]
    x, kept = (
        S0.new_empty(B, T if keep else 0, H, a.shape[3], V),
        S0.new_empty(B, H, -(-T // STEP) if keep else 0, V, K),
    )
    return S0.new_empty(B, T, H, N, V), torch.empty_like(S0), x, kept


def _chunk_scan_backward(
    q: Tensor, w: Tensor | None, k: Tensor, v: Tensor, a: Tensor, b: Tensor, wv: Tensor | None,
    reset: Tensor | None, initial: Tensor | None, x: Tensor, kept: Tensor, dy: Tensor, dlast: Tensor,
) -> list[Tensor]:  # fmt: skip
    from . import chunks, tokens

    if chunks.suits(k, v, a, wv, initial):
        return _there(chunks.backward(q, w, k, v, a, b, reset, x, kept, dy, dlast))
    return _there(tokens.backward(q, w, k, v, a, b, wv, reset, initial, x, kept, dy, dlast))


def _chunk_scan_backward_fake(q, w, k, v, a, b, wv, reset, initial, x, kept, dy, dlast):  # type: ignore[no-untyped-def]
    return [torch.empty_like(x) for x in (q, w, k, v, a, b, wv, dlast, initial) if x is not None]


def _chunk_scan_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *operands, _, reset, initial, _ = inputs  # all but S0
    ctx.save_for_backward(*operands, reset, initial, *output[2:])


def _chunk_scan_gradient(ctx: Any, dy: Tensor, dlast: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    made = iter(OPS.chunk_scan_backward(*saved, dy.contiguous(), dlast.contiguous()))
    *operands, _, initial, _, kept = saved
    *grads, dS0, dinitial = (None if x is None else next(made) for x in (*operands, kept, initial))
    return *grads, dS0, None, dinitial, None


def _there(grads: list[Tensor | None]) -> list[Tensor]:
    """An operator returns no None: the gradients of what was given, in order."""
    return [x for x in grads if x is not None]


# --- elementwise states --------------------------------------------------------------------------------------------
def _mix_scan(A: Tensor, b: Tensor, h0: Tensor, reset: Tensor | None, initial: Tensor | None) -> Tensor:
    from . import elements

    return elements.mix(A, b, h0, reset, initial)


def _mix_scan_backward(
    A: Tensor, h: Tensor, h0: Tensor, reset: Tensor | None, initial: Tensor | None, dh: Tensor
) -> list[Tensor]:
    from . import elements

    return _there(elements.mix_backward(A, h, h0, reset, initial, dh))


def _mix_scan_backward_fake(A, h, h0, reset, initial, dh):  # type: ignore[no-untyped-def]
    return [h.new_empty(A.shape), *(torch.empty_like(x) for x in (h, h0, initial) if x is not None)]


def _mix_scan_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    A, _, *others = inputs
    ctx.save_for_backward(A, output, *others)


def _mix_scan_gradient(ctx: Any, dh: Tensor) -> tuple[Tensor | None, ...]:
    dA, db, dh0, *dinitial = OPS.mix_scan_backward(*ctx.saved_tensors, dh.contiguous())
    return dA, db, dh0, None, *(dinitial or [None])


def _maxplus_scan(d: Tensor, b: Tensor, p0: Tensor, reset: Tensor | None, initial: Tensor | None, soft: bool) -> Tensor:
    from . import elements

    return elements.maxplus(d, b, p0, reset, initial, soft)


def _maxplus_scan_backward(
    d: Tensor, b: Tensor, p: Tensor, p0: Tensor, reset: Tensor | None, initial: Tensor | None, soft: bool, dp: Tensor
) -> list[Tensor]:
    from . import elements

    return _there(elements.maxplus_backward(d, b, p, p0, reset, initial, soft, dp))


def _maxplus_scan_backward_fake(d, b, p, p0, reset, initial, soft, dp):  # type: ignore[no-untyped-def]
    return [torch.empty_like(x) for x in (p, p, p0, initial) if x is not None]


def _maxplus_scan_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    d, b, p0, reset, initial, ctx.soft = inputs
    ctx.save_for_backward(d, b, output, p0, reset, initial)


def _maxplus_scan_gradient(ctx: Any, dp: Tensor) -> tuple[Tensor | None, ...]:
    dd, db, dp0, *dinitial = OPS.maxplus_scan_backward(*ctx.saved_tensors, ctx.soft, dp.contiguous())
    return dd, db, dp0, None, *(dinitial or [None]), None


# --- operators -----------------------------------------------------------------------------------------------------
Definition = tuple[str, Callable[..., Any], Callable[..., Any]]

DEFINITIONS: dict[str, Definition] = {
    "chunk_scan": (
        "(Tensor q, Tensor? w, Tensor k, Tensor v, Tensor a, Tensor b, Tensor? wv, Tensor S0, Tensor? reset,"
        " Tensor? initial, bool keep) -> (Tensor, Tensor, Tensor, Tensor)",
        _chunk_scan,
        _chunk_scan_fake,
    ),
    "chunk_scan_backward": (
        "(Tensor q, Tensor? w, Tensor k, Tensor v, Tensor a, Tensor b, Tensor? wv, Tensor? reset, Tensor? initial,"
        " Tensor x, Tensor kept, Tensor dy, Tensor dlast) -> Tensor[]",
        _chunk_scan_backward,
        _chunk_scan_backward_fake,
    ),
    "mix_scan": (
        "(Tensor A, Tensor b, Tensor h0, Tensor? reset, Tensor? initial) -> Tensor",
        _mix_scan,
        lambda A, b, h0, reset, initial: torch.empty_like(b),
    ),
    "mix_scan_backward": (
        "(Tensor A, Tensor h, Tensor h0, Tensor? reset, Tensor? initial, Tensor dh) -> Tensor[]",
        _mix_scan_backward,
        _mix_scan_backward_fake,
    ),
    "maxplus_scan": (
        "(Tensor d, Tensor b, Tensor p0, Tensor? reset, Tensor? initial, bool soft) -> Tensor",
        _maxplus_scan,
        lambda d, b, p0, reset, initial, soft: torch.empty_like(b),
    ),
    "maxplus_scan_backward": (
        "(Tensor d, Tensor b, Tensor p, Tensor p0, Tensor? reset, Tensor? initial, bool soft, Tensor dp) -> Tensor[]",
        _maxplus_scan_backward,
        _maxplus_scan_backward_fake,
    ),
}
GRADIENTS: dict[str, tuple[Callable[..., Any], Callable[..., None]]] = {
    "chunk_scan": (_chunk_scan_gradient, _chunk_scan_context),
    "mix_scan": (_mix_scan_gradient, _mix_scan_context),
    "maxplus_scan": (_maxplus_scan_gradient, _maxplus_scan_context),
}


def _define() -> tuple[Any, torch.library.Library | None]:
    """The operators, of a namespace that another copy of this package may have made in this process."""
    key = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        key.update(source.read_bytes())
    name = f"cdrmix_gpu_{key.hexdigest()[:12]}"
    ops = getattr(torch.ops, name)
    if hasattr(ops, "chunk_scan"):
        return ops, None
    library = torch.library.Library(name, "FRAGMENT")
    for op, (schema, function, fake) in DEFINITIONS.items():
        library.define(op + schema)
        library.impl(op, function, "CompositeExplicitAutograd")
        torch.library.register_fake(f"{name}::{op}", fake, lib=library)
    for op, (gradient, context) in GRADIENTS.items():
        torch.library.register_autograd(f"{name}::{op}", gradient, setup_context=context, lib=library)
    return ops, library


OPS, _LIBRARY = _define()
