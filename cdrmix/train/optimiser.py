"""The optimiser with the spec's parameter groups, and the learning rate of a step.

Input: the generated module (its `param_groups` carry `!lr` and `!decay`) and an `OptimConfig`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from cdrmix.train.config import OptimConfig
from cdrmix.train.muon import MOMENTUM, Muon
from cdrmix.train.shard import alike


def make_optimiser(module: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW, or Muon for matrices and AdamW for the rest; each group's `lr` stands for the peak, kept as `peak`."""
    groups = alike(module.param_groups(config.lr, config.weight_decay))  # type: ignore[operator]
    common: dict[str, Any] = {"betas": (config.beta1, config.beta2), "eps": config.eps, "fused": True}
    if config.kind == "adamw":
        optimiser = torch.optim.AdamW(groups, lr=config.lr, **common)
    else:
        for group in groups:
            group["lr"] *= config.muon_lr / config.lr if group["matrices"] else 1.0
        optimiser = Muon(groups, config.momentum, lr=config.lr, **common)
    for group in optimiser.param_groups:
        group["peak"] = group["lr"]
    return optimiser


def kept(optimiser: torch.optim.Optimizer) -> dict[nn.Parameter, tuple[str, ...]]:
    """The names of what is kept of each parameter that has moved: tensors of its shape, and `step`, a number."""
    return {
        p: (MOMENTUM,) if isinstance(optimiser, Muon) and group["matrices"] else ("exp_avg", "exp_avg_sq", "step")
        for group in optimiser.param_groups
        for p in group["params"]
    }


def rate(config: OptimConfig, step: int, steps: int) -> float:
    """The share of the peak learning rate at a step, counted from 0; at the last one it is `final`, always.

    Where warm-up and decay overlap, the decay falls from where the warm-up is.
    """
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    last = steps - 1
    if config.schedule == "wsd":
        left = min(1.0, (last - step) / _falling(config, steps))
    else:
        peak = min(config.warmup, last - 1)
        done = max(0, step - peak) / (last - peak)
        left = 1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return config.final + (warm - config.final) * left


def _falling(config: OptimConfig, steps: int) -> int:
    """How many of the last steps are below the peak."""
    return max(1, round(config.decay * steps)) if config.schedule == "wsd" else 1


def overlap(config: OptimConfig, steps: int) -> str:
    """A word about a run too short for its warm-up and its decay; empty where both fit."""
    falling = _falling(config, steps)
    if max(1, config.warmup) + falling <= steps:
        return ""
    if config.schedule == "wsd":
        found, remedy = f"{config.warmup} steps of warm-up and {falling} of decay", "optim.warmup or optim.decay"
    else:
        found, remedy = f"{config.warmup} steps of warm-up and a fall to `optim.final`", "optim.warmup"
    return f"{found} do not fit into {steps}: the learning rate does not reach optim.lr; lower {remedy}"


def set_rate(optimiser: torch.optim.Optimizer, share: float) -> None:
    """Set every group to its share of its own peak."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * share
