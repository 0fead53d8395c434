"""The scans on a GPU: Triton kernels for NVIDIA and AMD, with gradients, as operators that `torch.compile` keeps whole.

Input: operands as `reads.chunk_scan` and `elementwise` describe them, the state in f32 on torch's device `cuda` (AMD's
ROCm is called so too); `CDRMIX_KERNELS=torch` does without them, and so does a machine without triton.
Output: the same as the forms in plain torch: exact at any decay (0, 1e-30, negative), by products only.
"""

from __future__ import annotations

import functools
import importlib.util
import os

import torch
from torch import Tensor

from .operators import OPS


def usable(state: Tensor) -> bool:
    """True where the kernels are the right choice for a state: float32 on a GPU, with triton installed."""
    return state.device.type == "cuda" and state.dtype == torch.float32 and _installed()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _installed() -> bool:
    return installed()


@functools.cache
def installed() -> bool:
    """Whether triton is there and is wanted."""
    return os.environ.get("CDRMIX_KERNELS") != "torch" and importlib.util.find_spec("triton") is not None


def takes(state: Tensor, w: Tensor | None) -> bool:
    """True where `chunk_scan` is the right choice: not for G states coupled by a decay [B, T, H, G, G, K/G]."""
    return usable(state) and (w is None or w.dim() == 4)


def chunk_scan(
    q: Tensor,
    w: Tensor | None,
    k: Tensor,
    v: Tensor,
    S0: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    wv: Tensor | None = None,
    reset: Tensor | None = None,
    initial: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """S' = (S (diag(w) + Σ_r a_r b_rᵀ)) ∘ wv + Σ_m v_m k_mᵀ;  y_n = S q_n with S before the token.

    q [B, T, H, n, K]; w None, [B, T, H, 1] or [B, T, H, K]; k [B, T, H, m, K]; v [B, T, H, m, V]; a, b
    [B, T, H, r, K] or None; wv [B, T, H, V] or None; S0 [B, H, V, K].  `reset` [B, T] bool: S before that token is
    `initial` (broadcasts to S0's shape; zero when None).  Operands in f32, bf16 or f16, sums in f32.
    Returns y [B, T, H, n, V] and the state after the last token, f32.
    """
    if a is None or b is None:
        a, b = (q.new_empty(*q.shape[:3], 0, q.shape[-1]) for _ in "ab")
    start = _start(initial, S0, reset)
    xs = [x if x is None else x.contiguous() for x in (q, w, k, v, a, b, wv, S0, reset, start)]
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in xs)
    y, S, *_ = OPS.chunk_scan(*xs, keep)
    return y, S


def linear_scan(a: Tensor, b: Tensor, h0: Tensor, reset: Tensor | None, initial: Tensor | None) -> Tensor:
    """h' = a ∘ h + b.  a, b [B, T, *S], h0 [B, *S]; `initial` broadcasts to h0.  Returns h [B, T, *S]."""
    start = None if initial is None else initial.expand(h0.shape).unsqueeze(1)
    return coupled_scan(a[:, :, None, None], b.unsqueeze(2), h0.unsqueeze(1), reset, start).squeeze(2)


def coupled_scan(A: Tensor, b: Tensor, h0: Tensor, reset: Tensor | None, initial: Tensor | None) -> Tensor:
    """h'[f] = Σ_g A[f, g] ∘ h[g] + b[f].

    A [B, T, G, G, *S] (target, source), which stays as it is where it repeats over B and T; b [B, T, G, *S];
    h0 [B, G, *S]; `initial` broadcasts to h0.  Returns h [B, T, G, *S].
    """
    start = _start(initial, h0, reset)
    A = _flat(A, 4)
    A = A if A[0, 0].is_contiguous() else A.contiguous()
    xs = [A, _flat(b, 3).contiguous(), _flat(h0, 2).contiguous(), reset, start if start is None else _flat(start, 2)]
    return OPS.mix_scan(*xs).view(b.shape)  # type: ignore[no-any-return]


def maxplus_scan(d: Tensor, b: Tensor, p0: Tensor, soft: bool, reset: Tensor | None, initial: Tensor | None) -> Tensor:
    """p' = max(p + d, b), or logaddexp if `soft`.  d, b [B, T, *S], p0 [B, *S]; `initial` broadcasts to p0."""
    start = _start(initial, p0, reset)
    xs = [_flat(d, 2).contiguous(), _flat(b, 2).contiguous(), _flat(p0, 1).contiguous(), reset]
    return OPS.maxplus_scan(*xs, start if start is None else _flat(start, 1), soft).view(b.shape)  # type: ignore[no-any-return]


def _start(initial: Tensor | None, state: Tensor, reset: Tensor | None) -> Tensor | None:
    """`initial` of the state's whole shape, where documents begin with it."""
    return None if reset is None or initial is None else initial.to(state.dtype).expand(state.shape).contiguous()


def _flat(x: Tensor, lead: int) -> Tensor:
    """All axes after the first `lead` as one; a state of one number has none."""
    return x.flatten(lead) if x.dim() > lead else x.unsqueeze(lead)
