"""The same answer twice: seeds, and algorithms whose result does not depend on chance."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from lg3d_core.progress import Progress
from lg3d_core.settings import TrainSettings

CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch, CUDA included. What is drawn for samples depends on the seed alone anyway."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  for code of others, which draws from there
    torch.manual_seed(seed)


@contextmanager
def repeatable(settings: TrainSettings, device: torch.device, progress: Progress) -> Iterator[None]:
    """With `settings.deterministic`, let PyTorch take repeatable algorithms inside, and refuse where it has none."""
    del device, progress
    if not settings.deterministic:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    os.environ.setdefault(CUBLAS_WORKSPACE, ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
