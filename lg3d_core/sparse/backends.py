"""The backends that can compute a sparse convolution, and the choice among them."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lg3d_core.errors import MissingDependencyError, SettingsError, UsageError
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
            weight: Shape `(offsets, in, out)`, same device, and same dtype unless the backend rounds weights itself.
            kernel_map: Which input meets which output.

        Returns:
            Shape `(outputs, out)`, differentiable with respect to `features` and `weight`.
        """
        ...


@runtime_checkable
class FusingBackend(Protocol):
    """A backend that also computes, at inference, a convolution with what follows it."""

    def convolve_fused(
        self,
        features: Tensor,
        weight: Tensor,
        kernel_map: KernelMap,
        *,
        scale: Tensor,
        shift: Tensor,
        residual: Tensor | None = None,
        relu: bool = False,
    ) -> Tensor:
        """Convolve validated tensors, then scale and shift, add the residual and clip at zero; no gradients.

        Args:
            features: Shape `(inputs, in)`, in storage order.
            weight: As for `Backend.convolve`.
            kernel_map: Which input meets which output.
            scale: Per output channel, float32: of a batch norm with known statistics.
            shift: As `scale`.
            residual: Shape `(outputs, out)`, dtype of `features`.
            relu: Clip at zero.

        Returns:
            Shape `(outputs, out)`, dtype of `features`.
        """
        ...


@runtime_checkable
class NarrowBackend(Protocol):
    """A backend whose kernels multiply some narrow dtypes only on some processors."""

    def computes(self, dtype: torch.dtype) -> bool:
        """Return whether the kernels multiply rows of this dtype on this processor."""
        ...


@runtime_checkable
class RoundingBackend(Protocol):
    """A backend that takes weights in float32 beside narrower features, and rounds them as it reads them."""

    rounds_weights: bool


class RowKernels(Protocol):
    """The steps of a batch normalisation on pieces of contiguous rows, each result written into a tensor.

    A backend may offer them as its attribute `row_kernels`.
    """

    @property
    def dtype(self) -> torch.dtype:
        """Of the rows."""
        ...

    def measure(self, features: Tensor, mean: Tensor, variance: Tensor) -> None:
        """Write mean and biased variance per channel, float32, of at least one row."""
        ...

    def normalize(
        self, features: Tensor, residual: Tensor | None, output: Tensor, scale: Tensor, shift: Tensor, *, relu: bool
    ) -> None:
        """Write `relu(features * scale + shift + residual)`."""
        ...

    def sum_gradients(
        self,
        gradient: Tensor,
        output: Tensor | None,
        features: Tensor,
        clipped: Tensor | None,
        *,
        mean: Tensor,
        inverse_deviation: Tensor,
        plain: Tensor,
        by_features: Tensor,
    ) -> None:
        """Write the sums over rows of the gradient and of the gradient times the normalised features.

        Args:
            gradient: Of the output.
            output: Of the ReLU, where there was one: the gradient is zero where it is not positive.
            features: The rows that were normalised.
            clipped: Receives the gradient after the ReLU; requires `output`.
            mean: Per channel.
            inverse_deviation: Per channel.
            plain: Receives the first sums.
            by_features: Receives the second sums.
        """
        ...

    def combine(
        self,
        gradient: Tensor,
        output: Tensor | None,
        features: Tensor,
        result: Tensor,
        *,
        slope: Tensor,
        by_features: Tensor,
        constant: Tensor,
    ) -> None:
        """Write `gradient * slope + features * by_features + constant`; `output` as in `sum_gradients`."""
        ...


@runtime_checkable
class MappingBackend(Protocol):
    """A backend that builds the kernel maps of odd kernels its own way, with the same result."""

    def build_submanifold_map(self, keys: Tensor, kernel_size: int, stride: int) -> KernelMap:
        """See `lg3d_core.sparse.kernel_maps.build_submanifold_map`."""
        ...


@runtime_checkable
class LevelingBackend(Protocol):
    """A backend that derives several coarser levels at once, with one trip to the host for all of them."""

    def build_levels(self, keys: Tensor, stride: int, num_levels: int) -> list[tuple[Tensor, Tensor]]:
        """Halve the resolution several times.

        Args:
            keys: Sorted, distinct keys of one level, shape `(voxels,)`, int64.
            stride: Tensor stride of that level.
            num_levels: How many coarser levels to build.

        Returns:
            Per level its sorted, distinct keys, and the row of the parent of each voxel of the next finer one, int64.
        """
        ...


def _minkowski() -> Backend:
    from lg3d_core.sparse.minkowski_backend import MinkowskiBackend

    return MinkowskiBackend()


def _native() -> Backend:
    from lg3d_core.sparse.native import NativeBackend

    return NativeBackend()


def _triton() -> Backend:
    if find_spec("triton") is None:
        raise MissingDependencyError("--backend triton: Triton is not installed; install it with: pip install triton")
    from lg3d_core.sparse.triton.backend import TritonBackend

    return TritonBackend()


BACKENDS: dict[str, Callable[[], Backend]] = {
    "minkowski": _minkowski,
    "native": _native,
    "reference": ReferenceBackend,
    "torch": TorchBackend,
    "triton": _triton,
}
_instances: dict[str, Backend] = {}
_chosen: ContextVar[str] = ContextVar("lg3d_sparse_backend", default="auto")


def resolve_backend(name: str, device: torch.device) -> Backend:
    """Give the backend of a name; `auto` takes the fastest one for the device.

    Raises:
        UsageError: There is no backend of this name.
        MissingDependencyError: It is not installed; the message has the line that installs it.
    """
    if name == "auto":
        name = _fastest(device)
    if name not in BACKENDS:
        raise UsageError(f"--backend: expected auto or one of {', '.join(sorted(BACKENDS))}, got {name!r}.")
    if name not in _instances:
        _instances[name] = BACKENDS[name]()
    return _instances[name]


def current_backend(device: torch.device) -> Backend:
    """Give the backend that convolutions on this device use now."""
    return resolve_backend(_chosen.get(), device)


def trains_faster_in_bf16(name: str, device: torch.device) -> bool:
    """Return whether a backend trains faster in bfloat16 than in float32.

    On CUDA all do. On the CPU only the compiled kernels do, where the processor multiplies bfloat16 (AVX512-BF16).

    Raises:
        SettingsError: There is no backend of this name.
        MissingDependencyError: It is not installed.
    """
    if device.type != "cpu":
        return True
    backend = resolve_backend(name, device)
    return isinstance(backend, NarrowBackend) and backend.computes(torch.bfloat16)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Compute every sparse convolution inside the block with one backend.

    Raises:
        UsageError: There is no backend of this name.
        MissingDependencyError: It is not installed.
    """
    resolve_backend(name, torch.device("cpu"))
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def _fastest(device: torch.device) -> str:
    if device.type == "cuda" and find_spec("triton") is not None:
        return "triton"
    return "native" if device.type == "cpu" and _can_compile() else "torch"


@functools.cache
def _can_compile() -> bool:
    try:
        _native()
    except MissingDependencyError:  # `lg3d doctor` tells why
        return False
    return True


def describe_backends() -> dict[str, str]:
    """Tell for every backend whether it can be used here, or what is missing."""
    return {name: _describe(name) for name in BACKENDS}


def _describe(name: str) -> str:
    try:
        resolve_backend(name, torch.device("cpu"))
    except (MissingDependencyError, SettingsError) as error:
        return f"no: {error}"
    return "yes"
