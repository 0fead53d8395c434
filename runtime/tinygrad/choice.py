"""The choice of the next token, as units that run after the stack so that only a token leaves the device.

`choices(vocab)`: `argmax`, and `sample`, which draws from the `TOP_K` likeliest by three numbers a session, given as
carries: `temperature`, `top_p`, and `u` in [0, 1).
"""

from __future__ import annotations

from tinygrad import Tensor

from .frame import Frame
from .picks import argmax, sample
from .program import Unit

TOP_K = 64
SETTINGS = ("temperature", "top_p", "u")


def _argmax(here: Frame, x: Tensor) -> Tensor:
    """The likeliest token."""
    return argmax(x)


def _sample(here: Frame, x: Tensor) -> Tensor:
    """A token drawn from the likeliest."""
    temperature, top_p, u = (here.carry(name)[:, 0] for name in SETTINGS)
    return sample(x[:, 0], temperature, top_p, TOP_K, u).unsqueeze(1)


def choices(vocab: int) -> dict[str, Unit]:
    """Both units, from logits [B, 1, vocab] to tokens [B, 1]."""
    drawn = dict.fromkeys(SETTINGS, ())
    return {
        "argmax": Unit("argmax", _argmax, (vocab,), "f32", (), {}, {}, {}, {}),
        "sample": Unit("sample", _sample, (vocab,), "f32", (), {}, {}, drawn, {}),
    }
