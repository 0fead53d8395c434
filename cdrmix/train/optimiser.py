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
    """The share of the peak learning rate at a step, counted from 0."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "cosine":
        done = (step - config.warmup) / max(1, steps - config.warmup)
        return config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    falling = max(1, round(config.decay * steps))
    left = (steps - step) / falling
    return config.final + (1 - config.final) * min(1.0, left)


def set_rate(optimiser: torch.optim.Optimizer, share: float) -> None:
    """Set every group to its share of its own peak."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * share
