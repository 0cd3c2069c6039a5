"""The same answer twice: seeds, and algorithms whose result does not depend on chance.

Every random draw of a run comes from its seed and its position, never from a process or the clock, and on the CPU all
sums are added in one order. What is left to chance is the order in which some of PyTorch's kernels add on CUDA, and
MinkowskiEngine's.
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
    """Seed Python, NumPy and PyTorch, CUDA included; PyTorch's loaders seed their worker processes from it.

    What is drawn for samples and losses depends on the run's seed alone anyway: this is for code of others.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  code of others draws from there
    torch.manual_seed(seed)


@contextmanager
def repeatable(settings: TrainSettings) -> Iterator[None]:
    """With `settings.deterministic`, let PyTorch take repeatable algorithms inside, and refuse what has none.

    Raises:
        UsageError: An engine, a workspace or an operation whose results differ from run to run.
    """
    if not settings.deterministic:
        yield
        return
    if settings.backend == "minkowski":
        raise UsageError(
            "--deterministic: MinkowskiEngine adds in no fixed order; take --backend auto, whose weights are the same"
        )
    workspace = os.environ.setdefault(CUBLAS_WORKSPACE, REPEATABLE_WORKSPACES[0])  # read when CUDA is first used
    if workspace not in REPEATABLE_WORKSPACES:
        raise UsageError(
            f"--deterministic: {CUBLAS_WORKSPACE} is {workspace!r} in the environment; leave it out, or set it to "
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
            f"--deterministic: PyTorch has no repeatable form of an operation on {settings.device} "
            f"({str(error).partition('.')[0]}): leave out --deterministic, or take --device cpu"
        ) from None
    finally:
        torch.use_deterministic_algorithms(enabled)
        torch.backends.cudnn.benchmark = benchmark
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
