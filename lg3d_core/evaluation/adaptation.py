"""Adaptation of a network to one scan: its own statistics in batch normalisation."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def measuring_statistics(network: nn.Module, share: float) -> Iterator[None]:
    """Mix the statistics of the next forward pass in training mode into the running statistics, until the block ends.

    Every batch normalisation then uses (1 - share) times its running mean and variance plus `share` times those of the
    scan. At the end, the running statistics and momenta are restored.

    Source: F. You et al., "Test-time Batch Statistics Calibration for Covariate Shift" (arXiv:2110.04065). Here, the
    statistics are measured in a pass of their own, in which every layer is normalised by the scan alone.

    Args:
        network: Network on any device. Its training mode is not changed.
        share: Weight of the scan's own statistics, 0..1.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d)]
    kept = [(norm, norm.momentum, [buffer.clone() for buffer in norm.buffers()]) for norm in norms]
    for norm in norms:
        norm.momentum = share
    try:
        yield
    finally:
        for norm, momentum, buffers in kept:
            norm.momentum = momentum
            with torch.inference_mode():
                for buffer, value in zip(norm.buffers(), buffers, strict=True):
                    buffer.copy_(value)
