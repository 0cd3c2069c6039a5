"""Reproducibility: seeds and deterministic algorithms.

Every random draw of a run depends only on its seed and its position, not on a process or the clock, and sums on the CPU
have a fixed order. Only some of PyTorch's CUDA kernels and MinkowskiEngine add in an order that varies.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from lg3d_core.errors import UsageError
from lg3d_core.settings import TrainSettings

CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
REPEATABLE_WORKSPACES = (":4096:8", ":16:8")
NO_REPEATABLE_FORM = "does not have a deterministic implementation"


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch, including CUDA; PyTorch's data loaders seed their workers from it.

    lg3d draws for samples and losses from the run's seed alone; this function covers third-party code.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  third-party code may draw from the global generator
    torch.manual_seed(seed)


@contextmanager
def repeatable(settings: TrainSettings) -> Iterator[None]:
    """Use deterministic PyTorch algorithms within the context if `settings.deterministic` is set.

    Raises:
        UsageError: The backend, the cuBLAS workspace or an operation is not deterministic.
    """
    if not settings.deterministic:
        yield
        return
    if settings.backend == "minkowski":
        raise UsageError(
            "--deterministic: MinkowskiEngine has no fixed order of summation; "
            "pass --backend auto, which loads the same weights"
        )
    workspace = os.environ.setdefault(CUBLAS_WORKSPACE, REPEATABLE_WORKSPACES[0])  # read when CUDA is first used
    if workspace not in REPEATABLE_WORKSPACES:
        raise UsageError(
            f"--deterministic: {CUBLAS_WORKSPACE} is {workspace!r} in the environment: unset it, or set it to "
            f"{' or '.join(REPEATABLE_WORKSPACES)}"
        )
    enabled, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    except RuntimeError as error:
        if NO_REPEATABLE_FORM not in str(error):
            raise
        raise UsageError(
            f"--deterministic: PyTorch has no deterministic version of an operation on {settings.device} "
            f"({str(error).partition('.')[0]}): omit --deterministic, or pass --device cpu"
        ) from None
    finally:
        torch.use_deterministic_algorithms(enabled)
        torch.backends.cudnn.benchmark = benchmark
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
