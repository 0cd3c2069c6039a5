"""What is timed: an engine computes an operation on given voxels with given weights. Here are lg3d's own backends."""

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
    """Features per voxel, and where those voxels are.

    Attributes:
        features: Shape `(voxels, channels)`, in the engine's own order.
        coordinates: Gives the rows `batch, x, y, z`, in input voxels; asked for only outside of what is timed.
    """

    features: Tensor
    coordinates: Callable[[], Tensor]

    def order(self) -> Tensor:
        """The permutation that sorts the rows by batch, x, y, z."""
        return torch.argsort(pack(self.coordinates()))


@dataclass
class Trial:
    """One operation, ready to be computed by one engine, again and again."""

    engine: str
    """Name of the engine."""
    precision: str
    """What it computes in: fp32, bf16 or fp16."""
    forward: Callable[[], Rows]
    """Computes the operation; everything in it is timed."""
    context: Callable[[], AbstractContextManager[object]] = nullcontext
    """Entered around forward and backward."""
    casting: Callable[[], AbstractContextManager[object]] = nullcontext
    """Entered around forward alone: autocast."""
    module: nn.Module | None = None
    """Whose gradients are cleared before each pass."""
    kernels: Sequence[tuple[Tensor, Callable[[Tensor], Tensor]]] = field(default_factory=list)
    """Weights of all convolutions, and what brings their gradients into lg3d's layout `(offsets, in, out)`."""
    source: Rows | None = None
    """The input, where its gradient is wanted."""

    def infer(self) -> Rows:
        """Compute the operation without gradients."""
        with self.context(), torch.inference_mode(), self.casting():
            return self.forward()

    def train(self, draw: Callable[[Rows], Tensor]) -> Rows:
        """Compute the operation, and the gradients of weights and input from the output's, which `draw` gives."""
        with self.context():
            with self.casting():
                output = self.forward()
            torch.autograd.backward(output.features, draw(output))
        return output

    def clear(self) -> None:
        """Forget all gradients."""
        if self.module is not None:
            self.module.zero_grad(set_to_none=True)
        if self.source is not None:
            self.source.features.grad = None


class Engine(ABC):
    """Something that computes sparse convolutions."""

    name: str
    is_peer: bool = True

    def precision(self, wanted: str) -> str:
        """What it computes in when a precision is wanted: that, or the nearest that it has."""
        return wanted

    def refusal(self, *, training: bool) -> str | None:
        """Why it does not compute gradients (or anything) here; None if it does."""
        del training
        return None

    def remark(self) -> str:
        """What a reader should know whose eye falls on a wrong result of this engine; starts with punctuation."""
        return ""

    @abstractmethod
    def network_trial(self, network: MinkUNet, workload: Workload, *, precision: str, training: bool) -> Trial:
        """The whole U-Net with its classifier, from coordinates to logits, kernel maps included."""

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
        """One convolution whose kernel map is built already; a transposed one starts at half the resolution.

        Args:
            convolution: Its weights are used.
            workload: The voxels.
            features: One row per voxel, shape `(voxels, in)`.
            precision: What to compute in, one of this engine's.
            training: Gradients of the weights and of the input are wanted.
        """

    @abstractmethod
    def chain_trial(
        self, convolutions: Sequence[SparseConvolution], workload: Workload, features: Tensor, *, precision: str
    ) -> Trial:
        """Convolutions one after the other, from coordinates on, kernel maps included."""


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
        kernels = [(layer.kernel, _as_it_is) for layer in module.modules() if isinstance(layer, SparseConvolution)]
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
        """All operations inside are computed by this backend."""
        with use_backend(self.backend), owned_threads() if self.device.type == "cpu" else nullcontext():
            yield


def _as_it_is(kernel: Tensor) -> Tensor:
    return kernel


def halving_kernel(channels: int) -> Tensor:
    """Weights `(8, channels, channels)` of the convolution that brings a transposed layer's input to its level."""
    generator = torch.Generator().manual_seed(1)
    kernel = torch.randn(8, channels, channels, generator=generator)
    return kernel / math.sqrt(channels)


def halve(x: SparseTensor) -> SparseTensor:
    """Convolve down to half the resolution with `halving_kernel`."""
    kernel = halving_kernel(x.features.shape[1]).to(x.features)
    return sparse_convolution(x, kernel, kernel_size=2, stride=2)


def find_backends(wanted: Sequence[str], device: torch.device) -> tuple[list[Lg3dEngine], dict[str, str]]:
    """Give lg3d's backends that run on a device, `torch` first, and why others do not.

    Args:
        wanted: Names, or `all`: every one but the slow reference.
        device: Where they must run.

    Raises:
        UsageError: There is no backend of a wanted name, or none is left.
        Lg3dError: A backend that was asked for by name does not run here; its own message.
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
        raise UsageError("--backends: none of them runs on this device")
    return found, missing


def _try_backend(name: str, device: torch.device) -> None:
    """Convolve one voxel: a backend may find out only then that something is missing."""
    resolve_backend(name, device)
    x = SparseTensor(torch.ones(1, 4, device=device), torch.zeros(1, 4, dtype=torch.int32, device=device))
    with use_backend(name), torch.no_grad():
        sparse_convolution(x, torch.ones(27, 4, 4, device=device), kernel_size=3)
