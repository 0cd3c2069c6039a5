"""Backends for sparse convolution, and the choice between them."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, distributed, nn

from lg3d_core.devices import multiplies_bfloat16
from lg3d_core.errors import MissingDependencyError, SettingsError, UsageError
from lg3d_core.sparse.kernel_maps import KernelMap
from lg3d_core.sparse.reference import ReferenceBackend
from lg3d_core.sparse.torch_backend import TorchBackend


class Backend(Protocol):
    """Implementation of a sparse convolution, with values and both gradients."""

    @property
    def name(self) -> str:
        """Name by which users select the backend."""
        ...

    def convolve(self, features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
        """Convolve validated tensors.

        Args:
            features: Shape `(inputs, in)`, in storage order.
            weight: Shape `(offsets, in, out)`, same device, and same dtype unless the backend rounds weights itself.
            kernel_map: Neighbours of every output voxel.

        Returns:
            Output features, shape `(outputs, out)`, differentiable with respect to `features` and `weight`.
        """
        ...


@runtime_checkable
class FusingBackend(Protocol):
    """Backend that can fuse a convolution with the operations after it, at inference."""

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
        """Convolve validated tensors, then scale and shift, add the residual and apply a ReLU; without gradients.

        Args:
            features: Shape `(inputs, in)`, in storage order.
            weight: As for `Backend.convolve`.
            kernel_map: Neighbours of every output voxel.
            scale: Scale per output channel, float32, of a batch normalisation with known statistics.
            shift: Shift per output channel, float32.
            residual: Residual, shape `(outputs, out)`, dtype of `features`.
            relu: Whether to apply a ReLU.

        Returns:
            Output features, shape `(outputs, out)`, dtype of `features`.
        """
        ...


@runtime_checkable
class NarrowBackend(Protocol):
    """Backend whose kernels support some narrow dtypes only on some processors."""

    def computes(self, dtype: torch.dtype) -> bool:
        """Return whether the kernels multiply rows of this dtype on this processor."""
        ...


class RoundingBackend(Protocol):
    """Backend that accepts float32 weights with narrower features, and rounds them while reading.

    Backends are asked for the attribute in every layer; `isinstance` with a protocol would be slow.
    """

    rounds_weights: bool


class RowKernels(Protocol):
    """Steps of a batch normalisation on contiguous rows; each result is written into a tensor.

    A backend may offer them as its attribute `row_kernels`.
    """

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the rows."""
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
            gradient: Gradient of the output.
            output: Output of the ReLU, if there is one; the gradient is zero where it is not positive.
            features: Rows that were normalised.
            clipped: Receives the gradient after the ReLU; requires `output`.
            mean: Mean per channel.
            inverse_deviation: Inverse standard deviation per channel.
            plain: Receives the sums of the gradient.
            by_features: Receives the sums of the gradient times the normalised features.
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


class NormalizingBackend(Protocol):
    """Backend with its own batch normalisation for training on a GPU; found by the name of its method."""

    def normalize_rows(
        self,
        features: Tensor,
        bn: nn.BatchNorm1d,
        *,
        residual: Tensor | None,
        relu: bool,
        group: distributed.ProcessGroup | None,
    ) -> Tensor | None:
        """Normalise rows by their own statistics, and update the running statistics.

        Args:
            features: Shape `(rows, channels)`.
            bn: Parameters and running statistics; the latter are used with fewer than two rows.
            residual: Added after normalisation; shape and dtype of `features`.
            relu: Whether to apply a ReLU.
            group: Processes that normalise together, each with its own rows.

        Returns:
            Normalised rows, differentiable; None if the backend does not support dtype or momentum.
        """
        ...


@runtime_checkable
class MappingBackend(Protocol):
    """Backend with its own construction of the kernel maps of odd kernels, with the same result."""

    def build_submanifold_map(self, keys: Tensor, kernel_size: int, stride: int) -> KernelMap:
        """See `lg3d_core.sparse.kernel_maps.build_submanifold_map`."""
        ...


@runtime_checkable
class LevelingBackend(Protocol):
    """Backend that derives several coarser levels with one synchronisation."""

    def build_levels(self, keys: Tensor, stride: int, num_levels: int) -> list[tuple[Tensor, Tensor]]:
        """Halve the resolution several times.

        Args:
            keys: Sorted, distinct keys of one level, shape `(voxels,)`, int64.
            stride: Tensor stride of that level.
            num_levels: Number of coarser levels.

        Returns:
            For each level its sorted, distinct keys, and the parent row of each voxel of the next finer level, int64.
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
    """Return the backend of a name; `auto` selects the fastest one for the device.

    Raises:
        UsageError: No backend has this name.
        MissingDependencyError: The backend is not installed; the message has the command that installs it.
    """
    if name == "auto":
        name = _fastest(device)
    if name not in BACKENDS:
        raise UsageError(f"--backend: expected auto or one of {', '.join(sorted(BACKENDS))}, got {name!r}.")
    if name not in _instances:
        _instances[name] = BACKENDS[name]()
    return _instances[name]


def current_backend(device: torch.device) -> Backend:
    """Return the backend that convolutions on this device currently use."""
    return resolve_backend(_chosen.get(), device)


def trains_faster_in_bf16(name: str, device: torch.device) -> bool:
    """Return whether a backend trains faster in bfloat16 than in float32.

    GPUs that multiply bfloat16 do. On the CPU only the compiled kernels do, if the processor has bfloat16 instructions
    (AVX512-BF16).

    Raises:
        UsageError: No backend has this name.
        MissingDependencyError: The backend is not installed.
    """
    if device.type != "cpu":
        return multiplies_bfloat16(device)
    backend = resolve_backend(name, device)
    return isinstance(backend, NarrowBackend) and backend.computes(torch.bfloat16)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Use one backend for every sparse convolution within the context.

    Raises:
        UsageError: No backend has this name.
        MissingDependencyError: The backend is not installed.
    """
    if name != "auto":  # which is resolved for each device, and would compile the CPU's kernels here
        resolve_backend(name, torch.device("cpu"))
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def _fastest(device: torch.device) -> str:
    if device.type == "cuda" and multiplies_bfloat16(device) and find_spec("triton") is not None:
        return "triton"
    return "native" if device.type == "cpu" and _can_compile() else "torch"


@functools.cache
def _can_compile() -> bool:
    try:
        _native()
    except MissingDependencyError:  # `lg3d doctor` reports the reason
        return False
    return True


def describe_backends() -> dict[str, str]:
    """Return for every backend whether it is available, or what is missing."""
    return {name: _describe(name) for name in BACKENDS}


def _describe(name: str) -> str:
    try:
        resolve_backend(name, torch.device("cpu"))
    except (MissingDependencyError, SettingsError) as error:
        return f"no: {error}"
    return "yes"
