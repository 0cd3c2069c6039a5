"""The optimiser and its learning-rate schedule."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from lg3d_core.settings import Schedule, TrainSettings


def make_optimiser(network: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """Create SGD with momentum and dampening (section 3.3) or AdamW over all parameters, as a fused optimiser."""
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
    """Set the momentum of the running statistics of all batch normalisation layers; None changes nothing."""
    for module in network.modules():
        if momentum is not None and isinstance(module, nn.BatchNorm1d):
            module.momentum = momentum


def learning_rate_factor(
    done: float, *, schedule: Schedule, decay: float, milestones: Sequence[float], warmup: float
) -> float:
    """Return the factor of the base learning rate.

    Args:
        done: Completed fraction of the training, in 0..1.
        schedule: `step` multiplies by `decay` at each milestone passed; `cosine` falls from 1 to 0.
        decay: Factor at each milestone.
        milestones: Fractions of the training, in 0..1.
        warmup: Fraction of the training over which the factor rises linearly, multiplied with the schedule.
    """
    rise = min(1.0, done / warmup) if warmup > 0 else 1.0
    if schedule == "cosine":
        return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return rise * decay ** sum(done >= milestone for milestone in milestones)
