"""The sequence form's scans in torch: what generated models import (as `cdrmix_scans` inside an artefact).

Input: operands over whole sequences, time on axis 1; the state before the first token; `reset` [B, T] bool or None,
True at a document's first token, where the state before the token is `initial` (zero when None).
Output: what the state is or what its reads see, over [B, T], and the state after the last token.

| call | state |
|---|---|
| `shift(x, first, reset, initial)`, `delay(x, s0, reset, initial)` | s' = x |
| `linear_scan(a, b, h0, reset, initial)` | h' = a ∘ h + b |
| `maxplus_scan(d, b, p0, combine, reset, initial)` | p' = max(p + d, b), or logaddexp |
| `coupled_scan(A, b, h0, reset, initial)` | h'[f] = Σ_g A[f, g] ∘ h[g] + b[f] |
| `chunk_reads(q, after, w, k, v, S0, a, b, wv, reset, initial)` | S' = (S (Φ + Σ a bᵀ)) ∘ wv + Σ v kᵀ, all its reads |
| `chunk_scan(q, w, k, v, S0, a, b, wv, reset, initial)`, `read_after` | the pieces of it |
| `unfold`, `advance`, `ages`, `convolve` | windows of a history, the history after, a sum of products over windows |
| `attend(q, k, v, window, scale, …)` | softmax attention over a history |
| `enter`, `top`, `Stream`, `Cell`, `Streaming` | one token's window; the choice of a router; what modules are made of |
| `route`, `grouped_linear`, `run_every`, `run_chosen` | banks of experts |
| `squared_relu` | relu(x)² |
| `Sums` | what training measures over the tokens of a step |
| `orthogonal`, `uniform`, `normal` | the init rules that draw |

Everything is exact for any decay (0, 1e-30, negative) and differentiable once.
"""

from .activations import squared_relu
from .attention import attend
from .delay import delay, shift
from .elementwise import coupled_scan, linear_scan, maxplus_scan
from .experts import Routes, grouped_linear, route, run_chosen, run_every
from .initial import normal, orthogonal, uniform
from .module import Cell, Streaming
from .reads import chunk_reads, chunk_scan, read_after
from .stream import State, Stream, enter, top
from .sums import Sums
from .window import advance, ages, convolve, unfold

__all__ = [
    "Cell",
    "Routes",
    "State",
    "Stream",
    "Streaming",
    "Sums",
    "advance",
    "ages",
    "attend",
    "chunk_reads",
    "chunk_scan",
    "convolve",
    "coupled_scan",
    "delay",
    "enter",
    "grouped_linear",
    "linear_scan",
    "maxplus_scan",
    "normal",
    "orthogonal",
    "read_after",
    "route",
    "run_chosen",
    "run_every",
    "shift",
    "squared_relu",
    "top",
    "unfold",
    "uniform",
]
