"""Helpers for kernel launches: device context and detection of Triton's interpreter."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime.errors import OutOfResources
from triton.runtime.interpreter import InterpretedFunction

from lg3d_core.errors import SettingsError


@triton.jit
def _probe():
    pass


INTERPRETED = isinstance(_probe, InterpretedFunction)
"""Whether TRITON_INTERPRET was set when Triton was imported: kernels then run in NumPy, on the CPU, very slowly."""


class _OnGpu(torch.cuda.device):
    """Makes a GPU the current one, and reports a kernel that does not fit on it."""

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> Any:
        super().__exit__(kind, error, traceback)
        if isinstance(error, OutOfResources):
            raise SettingsError(
                f"--backend triton: a kernel needs more {error.name} than this GPU has ({error.required}, limit "
                f"{error.limit}): pass --backend torch"
            ) from None
        return False


def device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Return the context in which kernels are launched on a tensor's device.

    Raises:
        SettingsError: A kernel needs more resources than the GPU has.
    """
    return _OnGpu(tensor.device) if tensor.is_cuda else nullcontext()


def ceil_div(amount: int, size: int) -> int:
    """Return the number of blocks of a size that cover an amount."""
    return -(-amount // size)
