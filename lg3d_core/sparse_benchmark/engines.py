"""Interface of the timed engines, which compute operations on given voxels and weights, and lg3d's own backends."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lg3d_core.devices import autocast
from lg3d_core.errors import Lg3dError, UsageError
from lg3d_core.memory import kept_memory
from lg3d_core.networks import MinkUNet
from lg3d_core.sparse import (
    BACKENDS,
    SparseConvolution,
    SparseTensor,
    owned_threads,
    resolve_backend,
    sparse_convolution,
    use_backend,
)
from lg3d_core.sparse.coordinates import pack
from lg3d_core.sparse_benchmark.machine import DTYPES
from lg3d_core.sparse_benchmark.workload import Workload


class Rows(NamedTuple):
    """Voxel features and the coordinates of their voxels.

    Attributes:
        features: Features in the engine's own row order, shape `(voxels, channels)`.
        coordinates: Returns rows `batch, x, y, z` in input voxels; called only outside the timed section.
    """

    features: Tensor
    coordinates: Callable[[], Tensor]

    def order(self) -> Tensor:
        """Return the permutation that sorts the rows by batch, x, y, z."""
        return torch.argsort(pack(self.coordinates()))


@dataclass
class Trial:
    """One operation, ready to be computed repeatedly by one engine."""

    engine: str
    """Name of the engine."""
    precision: str
    """Precision of the computation: fp32, bf16 or fp16."""
    forward: Callable[[], Rows]
    """Computes the operation; all of it is timed."""
    context: Callable[[], AbstractContextManager[object]] = nullcontext
    """Context of forward and backward passes."""
    casting: Callable[[], AbstractContextManager[object]] = nullcontext
    """Context of the forward pass only: autocast."""
    module: nn.Module | None = None
    """Module whose gradients are cleared before each pass."""
    kernels: Sequence[tuple[Tensor, Callable[[Tensor], Tensor]]] = field(default_factory=list)
    """Weights of all convolutions, and functions that convert their gradients to lg3d's layout `(offsets, in, out)`."""
    source: Rows | None = None
    """Input of the operation, if its gradient is requested."""

    def infer(self) -> Rows:
        """Compute the operation without gradients."""
        with self.context(), torch.inference_mode(), self.casting():
            return self.forward()

    def train(self, draw: Callable[[Rows], Tensor]) -> Rows:
        """Compute the operation, and backpropagate the output gradient that `draw` returns to weights and input."""
        with self.context():
            with self.casting():
                output = self.forward()
            torch.autograd.backward(output.features, draw(output))
        return output

    def clear(self) -> None:
        """Clear all gradients."""
        if self.module is not None:
            self.module.zero_grad(set_to_none=True)
        if self.source is not None:
            self.source.features.grad = None


class Engine(ABC):
    """An implementation of sparse convolutions."""

    name: str
    is_peer: bool = True

    def precision(self, wanted: str) -> str:
        """Return the precision used for a requested one: the same, or the closest that the engine has."""
        return wanted

    def refusal(self, *, training: bool) -> str | None:
        """Return why the engine cannot compute gradients (or anything) here; None if it can."""
        del training
        return None

    def remark(self) -> str:
        """Return a known cause of wrong results of this engine, to append to a warning; starts with punctuation."""
        return ""

    @abstractmethod
    def network_trial(self, network: MinkUNet, workload: Workload, *, precision: str, training: bool) -> Trial:
        """Return a trial of the whole U-Net with its classifier, from coordinates to logits, kernel maps included."""

    @abstractmethod
    def layer_trial(
        self,
        convolution: SparseConvolution,
        workload: Workload,
        features: Tensor,
        *,
        precision: str,
        training: bool,
    ) -> Trial:
        """Return a trial of one convolution with a prebuilt kernel map; transposed ones start at half the resolution.

        Args:
            convolution: Convolution with the weights.
            workload: Voxels.
            features: Input features, shape `(voxels, in)`.
            precision: Precision of the computation, one of this engine's.
            training: Whether gradients of the weights and of the input are requested.
        """

    @abstractmethod
    def chain_trial(
        self, convolutions: Sequence[SparseConvolution], workload: Workload, features: Tensor, *, precision: str
    ) -> Trial:
        """Return a trial of consecutive convolutions, starting from coordinates, kernel maps included."""


class Lg3dEngine(Engine):
    """One of lg3d's own backends."""

    is_peer = False

    def __init__(self, backend: str, device: torch.device) -> None:
        self.backend = backend
        self.device = device
        self.name = f"lg3d {backend}"

    def network_trial(self, network: MinkUNet, workload: Workload, *, precision: str, training: bool) -> Trial:
        def forward() -> Rows:
            features = network(SparseTensor(workload.colours, workload.coordinates))
            return Rows(network.classify(features), lambda: workload.coordinates)

        return self._trial(forward, network.train(training), precision)

    def layer_trial(
        self,
        convolution: SparseConvolution,
        workload: Workload,
        features: Tensor,
        *,
        precision: str,
        training: bool,
    ) -> Trial:
        x = SparseTensor(features, workload.coordinates)
        if convolution.transposed:
            with use_backend(self.backend), torch.no_grad():
                x = halve(x)
        leaf = x.features.detach().to(DTYPES[precision]).requires_grad_(training)
        x = x.replace(leaf)

        def forward() -> Rows:
            output = convolution(x)
            return Rows(output.features, lambda: output.coordinates)

        trial = self._trial(forward, convolution, precision)
        trial.source = Rows(leaf, lambda: x.coordinates)
        return trial

    def chain_trial(
        self, convolutions: Sequence[SparseConvolution], workload: Workload, features: Tensor, *, precision: str
    ) -> Trial:
        features = features.to(DTYPES[precision])

        def forward() -> Rows:
            x = SparseTensor(features, workload.coordinates)
            for convolution in convolutions:
                x = convolution(x)
            return Rows(x.features, lambda: x.coordinates)

        return self._trial(forward, nn.ModuleList(convolutions), precision)

    def _trial(self, forward: Callable[[], Rows], module: nn.Module, precision: str) -> Trial:
        kernels = [(layer.kernel, _identity) for layer in module.modules() if isinstance(layer, SparseConvolution)]
        return Trial(
            self.name,
            precision,
            forward,
            context=self.context,
            casting=lambda: autocast(self.device, precision),
            module=module,
            kernels=kernels,
        )

    @contextmanager
    def context(self) -> Iterator[None]:
        """Run all operations inside the block on this backend."""
        with use_backend(self.backend), kept_memory(), owned_threads() if self.device.type == "cpu" else nullcontext():
            yield


def _identity(kernel: Tensor) -> Tensor:
    return kernel


def halving_kernel(channels: int) -> Tensor:
    """Return weights `(8, channels, channels)` of the convolution that makes the input of a transposed layer."""
    generator = torch.Generator().manual_seed(1)
    kernel = torch.randn(8, channels, channels, generator=generator)
    return kernel / math.sqrt(channels)


def halve(x: SparseTensor) -> SparseTensor:
    """Convolve to half the resolution with `halving_kernel`."""
    kernel = halving_kernel(x.features.shape[1]).to(x.features)
    return sparse_convolution(x, kernel, kernel_size=2, stride=2)


def find_backends(wanted: Sequence[str], device: torch.device) -> tuple[list[Lg3dEngine], dict[str, str]]:
    """Return lg3d's backends that run on a device, `torch` first, and the reasons why others do not.

    Args:
        wanted: Backend names, or `all` for all except the slow reference.
        device: Device to run on.

    Raises:
        UsageError: A name is unknown, or no backend remains.
        Lg3dError: A backend requested by name does not run here; its own message.
    """
    unknown = [name for name in wanted if name not in BACKENDS and name != "all"]
    if unknown:
        raise UsageError(f"--backends: expected all or some of {', '.join(BACKENDS)}, got {unknown[0]!r}")
    everything = "all" in wanted
    found, missing = [], {}
    for name in sorted(BACKENDS, key=lambda name: (name != "torch", name)):
        if not (name in wanted or (everything and name != "reference")):
            continue
        try:
            _try_backend(name, device)
        except Lg3dError as error:
            if name in wanted:
                raise
            missing[f"lg3d {name}"] = str(error)
            continue
        found.append(Lg3dEngine(name, device))
    if not found:
        raise UsageError("--backends: no backend runs on this device")
    return found, missing


def _try_backend(name: str, device: torch.device) -> None:
    """Convolve one voxel, because a backend may detect missing parts only then.

    Raises:
        UsageError: The backend computes as another one on this device.
    """
    if name == "native" and device.type != "cpu":
        raise UsageError(f"--backends native: its kernels are for CPUs; on {device} it is the backend torch")
    resolve_backend(name, device)
    x = SparseTensor(torch.ones(1, 4, device=device), torch.zeros(1, 4, dtype=torch.int32, device=device))
    with use_backend(name), torch.no_grad():
        sparse_convolution(x, torch.ones(27, 4, 4, device=device), kernel_size=3)
