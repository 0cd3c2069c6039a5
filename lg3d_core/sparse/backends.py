"""The backends that can compute a sparse convolution, and the choice among them."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import torch
from torch import Tensor

from lg3d_core.errors import MissingDependencyError, SettingsError
from lg3d_core.sparse.kernel_maps import KernelMap
from lg3d_core.sparse.reference import ReferenceBackend
from lg3d_core.sparse.torch_backend import TorchBackend


class Backend(Protocol):
    """One way to compute a sparse convolution, values and both gradients."""

    @property
    def name(self) -> str:
        """The name by which users choose it."""
        ...

    def convolve(self, features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
        """Convolve validated tensors.

        Args:
            features: Shape `(inputs, in)`, in storage order.
            weight: Shape `(offsets, in, out)`, same dtype and device.
            kernel_map: Which input meets which output.

        Returns:
            Shape `(outputs, out)`, differentiable with respect to `features` and `weight`.
        """
        ...


def _minkowski() -> Backend:
    from lg3d_core.sparse.minkowski_backend import MinkowskiBackend

    return MinkowskiBackend()


def _native() -> Backend:
    from lg3d_core.sparse.native import NativeBackend

    return NativeBackend()


BACKENDS: dict[str, Callable[[], Backend]] = {
    "minkowski": _minkowski,
    "native": _native,
    "reference": ReferenceBackend,
    "torch": TorchBackend,
}
_instances: dict[str, Backend] = {}
_chosen: ContextVar[str] = ContextVar("lg3d_sparse_backend", default="auto")


def resolve_backend(name: str, device: torch.device) -> Backend:
    """Give the backend of a name; `auto` takes the fastest one for the device.

    Raises:
        SettingsError: There is no backend of this name.
        MissingDependencyError: It is not installed; the message has the line that installs it.
    """
    if name == "auto":
        name = _fastest(device)
    if name not in BACKENDS:
        raise SettingsError(f"--backend: expected auto or one of {', '.join(sorted(BACKENDS))}, got {name!r}.")
    if name not in _instances:
        _instances[name] = BACKENDS[name]()
    return _instances[name]


def current_backend(device: torch.device) -> Backend:
    """Give the backend that convolutions on this device use now."""
    return resolve_backend(_chosen.get(), device)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Compute every sparse convolution inside the block with one backend.

    Raises:
        SettingsError: There is no backend of this name.
        MissingDependencyError: It is not installed.
    """
    resolve_backend(name, torch.device("cpu"))
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def _fastest(device: torch.device) -> str:
    return "native" if device.type == "cpu" and _can_compile() else "torch"


@functools.cache
def _can_compile() -> bool:
    try:
        _native()
    except MissingDependencyError:  # `lg3d doctor` tells why
        return False
    return True
