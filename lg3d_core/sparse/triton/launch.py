"""What every kernel launch needs: the right device, and whether kernels are interpreted instead of compiled."""

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction


@triton.jit
def _probe():
    pass


INTERPRETED = isinstance(_probe, InterpretedFunction)
"""TRITON_INTERPRET was set when Triton was loaded: kernels run in NumPy, on the CPU, very slowly."""


def device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """The context in which kernels are launched on a tensor's device."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def ceil_div(amount: int, size: int) -> int:
    """Count the blocks of a size that cover an amount."""
    return -(-amount // size)
