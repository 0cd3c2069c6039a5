"""The optimiser and its learning-rate schedule."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from lg3d_core.settings import Schedule, TrainSettings


def make_optimiser(network: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """SGD with momentum and dampening on all parameters (section 3.3), or AdamW, each in one pass over the weights."""
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
    return torch.optim.SGD(
        network.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        dampening=settings.dampening,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def set_norm_momentum(network: nn.Module, momentum: float | None) -> None:
    """Give all batch normalisation one momentum of its running statistics; None leaves each layer its own."""
    for module in network.modules():
        if momentum is not None and isinstance(module, nn.BatchNorm1d | nn.SyncBatchNorm):
            module.momentum = momentum


def learning_rate_factor(
    done: float, *, schedule: Schedule, decay: float, milestones: Sequence[float], warmup: float
) -> float:
    """What the base learning rate is multiplied by.

    Args:
        done: Share of the training that is done, in 0..1.
        schedule: `step` multiplies by `decay` at each milestone passed; `cosine` falls from 1 to 0.
        decay: Factor at each milestone.
        milestones: Shares of the training.
        warmup: Share over which the factor rises linearly, on top of the schedule.
    """
    rise = min(1.0, done / warmup) if warmup > 0 else 1.0
    if schedule == "cosine":
        return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return rise * decay ** sum(done >= milestone for milestone in milestones)
