"""Helpers for kernel launches: device context and detection of Triton's interpreter."""

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction


@triton.jit
def _probe():
    pass


INTERPRETED = isinstance(_probe, InterpretedFunction)
"""Whether TRITON_INTERPRET was set when Triton was imported: kernels then run in NumPy, on the CPU, very slowly."""


def device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Return the context in which kernels are launched on a tensor's device."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def ceil_div(amount: int, size: int) -> int:
    """Return the number of blocks of a size that cover an amount."""
    return -(-amount // size)
