"""AdamW with the spec's parameter groups, and the learning rate of a step.

Input: the generated module (its `param_groups` carry `!lr` and `!decay`) and an `OptimConfig`.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from cdrmix.train.config import OptimConfig


def make_optimiser(module: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW; each group's `lr` stands for the peak and is kept as `peak`."""
    groups = module.param_groups(config.lr, config.weight_decay)  # type: ignore[operator]
    betas = (config.beta1, config.beta2)
    optimiser = torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps, fused=True)
    for group in optimiser.param_groups:
        group["peak"] = group["lr"]
    return optimiser


def rate(config: OptimConfig, step: int, steps: int) -> float:
    """The share of the peak learning rate at a step, counted from 0; at the last one it is `final`, always.

    Where warm-up and decay overlap, the decay falls from where the warm-up is.
    """
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    last = steps - 1
    if config.schedule == "cosine":
        peak = min(config.warmup, last - 1)
        done = max(0, step - peak) / (last - peak)
        left = 0.5 * (1 + math.cos(math.pi * done))
    else:
        left = min(1.0, (last - step) / _falling(config, steps))
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
