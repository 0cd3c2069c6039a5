"""Devices and numeric precision."""

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from lg3d_core.errors import SettingsError


def resolve_device(name: str) -> torch.device:
    """Return the device of a name; `auto` is CUDA if available, otherwise the CPU.

    A numbered GPU also becomes PyTorch's current device, on which some libraries launch their kernels.

    Raises:
        SettingsError: CUDA was requested but is not available, or has no GPU of that number.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise SettingsError(f"--device {name}: PyTorch finds no CUDA device; use --device cpu, or install a CUDA build")
    if device.index is not None:
        count = torch.cuda.device_count()
        if device.index >= count:
            others = "only cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
            raise SettingsError(f"--device {name}: this machine has {count} GPU{'s' * (count > 1)}, {others}")
        torch.cuda.set_device(device)
    return device


def copies_without_waiting(device: torch.device) -> bool:
    """Return whether copies to a device from page-locked memory overlap with other work."""
    return device.type == "cuda"


def multiplies_bfloat16(gpu: torch.device) -> bool:
    """Return whether a GPU has bfloat16 matrix products: compute capability 8.0 (Ampere) or newer."""
    return _capability(gpu) >= (8, 0)


@functools.cache
def _capability(gpu: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(gpu)


def resolve_precision(name: str, device: torch.device) -> str:
    """Return the precision of a name; `auto` is bf16 on GPUs that multiply it, and fp32 otherwise."""
    if name == "auto":
        return "bf16" if device.type == "cuda" and multiplies_bfloat16(device) else "fp32"
    return name


@contextmanager
def training_products(device: torch.device, precision: str) -> Iterator[None]:
    """Multiply float32 matrices in TF32 within the context, if it is a training step in bf16 on CUDA.

    This concerns the products of features and text anchors in the losses, forward and backward: bfloat16 features are
    exact in TF32, and anchors keep 10 bits. Class scores are computed outside the context and stay exact.
    """
    if device.type != "cuda" or precision != "bf16":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Return the context of a forward pass in a precision, fp32 or bf16."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()
