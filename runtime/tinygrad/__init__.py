"""What a generated `program.py` imports: tensors arranged, scans, windows, banks, and what a program is made of.

In an artefact this package is `cdrmix_tinygrad`.
"""

from .arrange import beside, constant, delay, heads, joined, last, mix, places, shift, take, tokens, view, within_a_turn
from .choice import choices
from .frame import Frame
from .functions import (
    atan2,
    cos,
    erf,
    exp,
    expm1,
    floor_divide,
    log1p,
    logaddexp,
    logsumexp,
    remainder,
    round,
    sigmoid,
    silu,
    sin,
    softmax,
    softplus,
    tanh,
    whole_power,
)
from .histories import attend, remember, there, windows
from .means import mean, mean_square, moments
from .picks import top
from .program import Call, Result, Slot, Unit, advance
from .scans import chunk_scan, coupled_scan, linear_scan, max_plus_scan

__all__ = [
    "Call",
    "Frame",
    "Result",
    "Slot",
    "Unit",
    "advance",
    "atan2",
    "attend",
    "beside",
    "choices",
    "chunk_scan",
    "constant",
    "cos",
    "coupled_scan",
    "delay",
    "erf",
    "exp",
    "expm1",
    "floor_divide",
    "heads",
    "joined",
    "last",
    "linear_scan",
    "log1p",
    "logaddexp",
    "logsumexp",
    "max_plus_scan",
    "mean",
    "mean_square",
    "mix",
    "moments",
    "places",
    "remainder",
    "remember",
    "round",
    "shift",
    "sigmoid",
    "silu",
    "sin",
    "softmax",
    "softplus",
    "take",
    "tanh",
    "there",
    "tokens",
    "top",
    "view",
    "whole_power",
    "windows",
    "within_a_turn",
]
