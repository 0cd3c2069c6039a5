"""Adapters of other sparse engines: the same voxels and weights, with the peer's own layers.

A peer's network mirrors lg3d's: every convolution becomes the peer's own layer with the same weights in the peer's
layout. Batch norm and ReLU are PyTorch's, in place where allowed, so that no peer pays for wrappers of lg3d.
docs/results/README.md lists the assumptions of the adapters and which of them have been run.
"""

import copy
import importlib
import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from lg3d_core.errors import MissingDependencyError, UsageError
from lg3d_core.networks import MinkUNet
from lg3d_core.networks.blocks import ResidualBlock
from lg3d_core.networks.placement import place_convolutions
from lg3d_core.sparse import SparseConvolution
from lg3d_core.sparse.old_collections import old_names
from lg3d_core.sparse_benchmark.engines import Engine, Rows, Trial, halving_kernel
from lg3d_core.sparse_benchmark.machine import DTYPES
from lg3d_core.sparse_benchmark.workload import Workload

IMPORT_FAILURES = (ImportError, OSError, RuntimeError, AttributeError)
"""Exceptions of a package that is installed but does not fit this PyTorch, Python or machine."""


class Peer(Engine):
    """An engine of another project. `Any` stands for its sparse tensor type."""

    title: ClassVar[str]
    module_name: ClassVar[str]
    install: ClassVar[str]
    """Installation command for the error message."""
    half: ClassVar[str | None] = None
    """Precision on CUDA if bf16 is requested; None means fp32."""

    def __init__(self, module: Any, device: torch.device) -> None:
        self.module = module
        self.device = device
        self.name = self.title

    def precision(self, wanted: str) -> str:
        if wanted == "fp32" or self.half is None or self.device.type != "cuda":
            return "fp32"
        return self.half

    @abstractmethod
    def open(self, workload: Workload, features: Tensor) -> Any:
        """Return a sparse tensor of the peer at full resolution, without any maps."""

    @abstractmethod
    def make_layer(self, convolution: SparseConvolution, stride: int) -> nn.Module:
        """Return the peer's layer for a convolution of lg3d whose input has a tensor stride, with the same weights."""

    def convolve(self, layer: nn.Module, x: Any, finer: Any) -> Any:
        """Apply a layer. `finer` is a tensor on the output voxels of a transposed layer."""
        del finer
        return layer(x)

    @abstractmethod
    def features(self, x: Any) -> Tensor:
        """Return the features of a sparse tensor."""

    @abstractmethod
    def replace(self, x: Any, features: Tensor) -> Any:
        """Return a sparse tensor with other features on the same voxels and maps."""

    @abstractmethod
    def coordinates(self, x: Any) -> Tensor:
        """Return rows `batch, x, y, z` in input voxels."""

    def kernel(self, layer: nn.Module) -> nn.Parameter:
        """Return the weights of a layer."""
        kernel = layer.kernel
        assert isinstance(kernel, nn.Parameter)
        return kernel

    def pack(self, kernel: Tensor) -> Tensor:
        """Convert weights `(offsets, in, out)`, first axis fastest, or `(in, out)`, to the peer's layout."""
        return kernel

    def unpack(self, kernel: Tensor) -> Tensor:
        """Convert weights from the peer's layout to lg3d's."""
        return kernel

    def keeps_map(self, convolution: SparseConvolution) -> bool:
        """Return whether a layer reuses its map when it is called again on the same voxels."""
        del convolution
        return True

    def copy_weights(self, layer: nn.Module, convolution: SparseConvolution) -> nn.Module:
        """Copy the weights of a convolution of lg3d to a layer of the peer."""
        with torch.no_grad():
            self.kernel(layer).data = self.pack(convolution.kernel.detach().cpu()).contiguous().clone()
            if convolution.bias is not None:
                bias = layer.bias
                assert isinstance(bias, Tensor)
                bias.copy_(convolution.bias.detach().reshape(bias.shape))
        return layer

    def network_trial(self, network: MinkUNet, workload: Workload, *, precision: str, training: bool) -> Trial:
        twin = Twin(self, network)
        colours = self._prepare(twin, workload.colours, precision, training)

        def forward() -> Rows:
            output = twin(self.open(workload, colours))
            return Rows(self.features(output), lambda: self.coordinates(output))

        kernels = [(self.kernel(layer), self.unpack) for layer in twin.convolutions.values()]
        return self._trial(forward, twin, precision, training, kernels)

    def layer_trial(
        self,
        convolution: SparseConvolution,
        workload: Workload,
        features: Tensor,
        *,
        precision: str,
        training: bool,
    ) -> Trial:
        stride = 2 if convolution.transposed else 1
        layer = self.make_layer(convolution, stride)
        features = self._prepare(layer, features, precision, training)
        finest = x = self.open(workload, features)
        if convolution.transposed:
            halving = SparseConvolution(features.shape[1], features.shape[1], kernel_size=2, stride=2)
            halving.kernel.data = halving_kernel(features.shape[1])
            down = self.make_layer(halving, 1)
            self._prepare(down, features, precision, training)
            with torch.no_grad(), self._casting(precision, training)():
                x = self.convolve(down, finest, None)
        leaf = self.features(x).detach().requires_grad_(training)
        x = self.replace(x, leaf)

        def forward() -> Rows:
            output = self.convolve(layer, x, finest if convolution.transposed else None)
            return Rows(self.features(output), lambda: self.coordinates(output))

        trial = self._trial(forward, layer, precision, training, [(self.kernel(layer), self.unpack)])
        trial.source = Rows(leaf, lambda: self.coordinates(x))
        return trial

    def chain_trial(
        self, convolutions: Sequence[SparseConvolution], workload: Workload, features: Tensor, *, precision: str
    ) -> Trial:
        layers, stride = nn.ModuleList(), 1
        for convolution in convolutions:
            layers.append(self.make_layer(convolution, stride))
            if convolution.stride == 2:
                stride = stride // 2 if convolution.transposed else stride * 2
        features = self._prepare(layers, features, precision, False)

        def forward() -> Rows:
            x, finer = self.open(workload, features), []
            for convolution, layer in zip(convolutions, layers, strict=True):
                if convolution.stride == 2 and not convolution.transposed:
                    finer.append(x)
                x = self.convolve(layer, x, finer.pop() if convolution.transposed else None)
            return Rows(self.features(x), lambda: self.coordinates(x))

        return self._trial(forward, layers, precision, False, [])

    def _prepare(self, module: nn.Module, features: Tensor, precision: str, training: bool) -> Tensor:
        """Set a module's device, mode and precision, and return the features in its input precision."""
        module.to(self.device).train(training)
        if precision == "fp32" or training:
            return features
        if precision == "fp16":
            module.half()
        return features.to(DTYPES[precision])

    def _casting(self, precision: str, training: bool) -> Callable[[], AbstractContextManager[object]]:
        if precision == "fp32" or (precision == "fp16" and not training):
            return nullcontext
        return lambda: torch.autocast(self.device.type, dtype=DTYPES[precision])

    def _trial(
        self,
        forward: Callable[[], Rows],
        module: nn.Module,
        precision: str,
        training: bool,
        kernels: Sequence[tuple[nn.Parameter, Callable[[Tensor], Tensor]]],
    ) -> Trial:
        casting = self._casting(precision, training)
        return Trial(self.name, precision, forward, casting=casting, module=module, kernels=kernels)


class Twin(nn.Module):
    """lg3d's U-Net built from a peer's layers, with the same weights and running statistics."""

    def __init__(self, peer: Peer, network: MinkUNet) -> None:
        super().__init__()
        self.peer = peer
        self.convolutions: dict[str, nn.Module] = {
            placed.name: peer.make_layer(placed.convolution, placed.stride) for placed in place_convolutions(network)
        }
        self._all_convolutions = nn.ModuleList(self.convolutions.values())
        self.norms: dict[str, nn.Module] = {
            name.removesuffix(".bn"): copy.deepcopy(module)
            for name, module in network.named_modules()
            if isinstance(module, nn.BatchNorm1d)
        }
        self._all_norms = nn.ModuleList(self.norms.values())
        self.final_relus: dict[str, bool] = {
            name: module.final_relu for name, module in network.named_modules() if isinstance(module, ResidualBlock)
        }

    def forward(self, x: Any) -> Any:
        levels = [self._stage("conv0p1s1", "bn0", x)]
        for stage in range(1, 5):
            x = self._stage(f"conv{stage}p{2 ** (stage - 1)}s2", f"bn{stage}", levels[-1])
            levels.append(self._blocks(f"block{stage}", x))
        x = levels.pop()
        for stage in range(4, 8):
            finer = levels.pop()
            x = self._stage(f"convtr{stage}p{2 ** (8 - stage)}s2", f"bntr{stage}", x, finer)
            joined = torch.cat([self.peer.features(x), self.peer.features(finer)], dim=1)
            x = self._blocks(f"block{stage + 1}", self.peer.replace(x, joined))
        return self.peer.convolve(self.convolutions["final"], x, None)

    def _stage(self, convolution: str, norm: str, x: Any, finer: Any = None) -> Any:
        x = self.peer.convolve(self.convolutions[convolution], x, finer)
        return self.peer.replace(x, functional.relu(self.norms[norm](self.peer.features(x)), inplace=True))

    def _blocks(self, stage: str, x: Any) -> Any:
        for name, final_relu in self.final_relus.items():
            if name.startswith(f"{stage}."):
                x = self._block(name, x, final_relu)
        return x

    def _block(self, name: str, x: Any, final_relu: bool) -> Any:
        peer, shortcut = self.peer, self.peer.features(x)
        if f"{name}.downsample.0" in self.convolutions:
            projected = peer.convolve(self.convolutions[f"{name}.downsample.0"], x, None)
            shortcut = self.norms[f"{name}.downsample.1"](peer.features(projected))
        x = self._stage(f"{name}.conv1", f"{name}.norm1", x)
        x = peer.convolve(self.convolutions[f"{name}.conv2"], x, None)
        output = self.norms[f"{name}.norm2"](peer.features(x)).add_(shortcut)
        return peer.replace(x, functional.relu(output, inplace=True) if final_relu else output)


class MinkowskiPeer(Peer):
    """MinkowskiEngine 0.5. Its layout and its order of offsets are lg3d's. It has fp32 only."""

    title = "MinkowskiEngine"
    module_name = "MinkowskiEngine"
    install = "make minkowski"

    def refusal(self, *, training: bool) -> str | None:
        del training
        if self.device.type == "cuda" and not self.module.is_cuda_available():
            return "this MinkowskiEngine was built without CUDA"
        return None

    def open(self, workload: Workload, features: Tensor) -> Any:
        # The default coordinate manager sets the thread count of the whole process to all cores.
        manager = self.module.CoordinateManager(
            D=3, num_threads=torch.get_num_threads(), coordinate_map_type=self._map_type()
        )
        return self.module.SparseTensor(features, coordinates=workload.coordinates, coordinate_manager=manager)

    def _map_type(self) -> Any:
        return self.module.CoordinateMapType.CUDA if self.device.type == "cuda" else self.module.CoordinateMapType.CPU

    def make_layer(self, convolution: SparseConvolution, stride: int) -> nn.Module:
        del stride
        kind = self.module.MinkowskiConvolution
        if convolution.transposed:
            kind = self.module.MinkowskiConvolutionTranspose
        layer = kind(
            *convolution.kernel.shape[-2:],
            kernel_size=convolution.kernel_size,
            stride=convolution.stride,
            bias=convolution.bias is not None,
            dimension=3,
        )
        return self.copy_weights(layer, convolution)

    def features(self, x: Any) -> Tensor:
        features: Tensor = x.F
        return features

    def replace(self, x: Any, features: Tensor) -> Any:
        return self.module.SparseTensor(
            features, coordinate_map_key=x.coordinate_map_key, coordinate_manager=x.coordinate_manager
        )

    def coordinates(self, x: Any) -> Tensor:
        coordinates: Tensor = x.C
        return coordinates


class SpconvPeer(Peer):
    """spconv 2. Weights are `(out, x, y, z, in)`, axes in the order of the coordinate columns; fp16 on CUDA."""

    title = "spconv"
    module_name = "spconv.pytorch"
    install = "pip install spconv (CPU) or spconv-cu120 (CUDA)"
    half = "fp16"

    def refusal(self, *, training: bool) -> str | None:
        if training and self.device.type == "cpu":
            return "spconv has no usable gradients on the CPU"
        if self.device.type == "cuda" and importlib.import_module("spconv.cppconstants").CPU_ONLY_BUILD:
            return "this spconv was built without CUDA"
        return None

    def remark(self) -> str:
        if self.device.type == "cuda" or torch.get_num_threads() == 1:
            return ""
        return "; spconv's CPU threads occasionally overwrite each other's sums, pass --threads 1 to avoid it"

    def open(self, workload: Workload, features: Tensor) -> Any:
        return self.module.SparseConvTensor(features, workload.coordinates, list(workload.shape), workload.batch_size)

    def make_layer(self, convolution: SparseConvolution, stride: int) -> nn.Module:
        in_channels, out_channels = convolution.kernel.shape[-2:]
        options: dict[str, Any] = {"bias": convolution.bias is not None} | self._algorithm()
        size = convolution.kernel_size
        if convolution.transposed:
            layer = self.module.SparseInverseConv3d(
                in_channels, out_channels, size, indice_key=f"down{stride // 2}", **options
            )
        elif convolution.stride == 2:
            layer = self.module.SparseConv3d(
                in_channels, out_channels, size, stride=2, indice_key=f"down{stride}", **options
            )
        else:
            layer = self.module.SubMConv3d(
                in_channels, out_channels, size, padding=size // 2, indice_key=f"same{stride}-{size}", **options
            )
        layer.tensor_stride = stride // 2 if convolution.transposed else stride * convolution.stride
        return self.copy_weights(layer, convolution)

    def _algorithm(self) -> dict[str, Any]:
        """Return the only algorithm that a CUDA build has on the CPU; elsewhere spconv chooses."""
        if self.device.type != "cpu":
            return {}
        return {"algo": importlib.import_module("spconv.core").ConvAlgo.Native}

    def convolve(self, layer: nn.Module, x: Any, finer: Any) -> Any:
        del finer
        output = layer(x)
        output.tensor_stride = layer.tensor_stride
        x.indice_dict.update(output.indice_dict)  # so that a later call on the same voxels reuses the map
        return output

    def features(self, x: Any) -> Tensor:
        features: Tensor = x.features
        return features

    def replace(self, x: Any, features: Tensor) -> Any:
        output = x.replace_feature(features)
        output.tensor_stride = getattr(x, "tensor_stride", 1)
        return output

    def coordinates(self, x: Any) -> Tensor:
        rows: Tensor = x.indices.clone()
        rows[:, 1:] *= getattr(x, "tensor_stride", 1)
        return rows

    def kernel(self, layer: nn.Module) -> nn.Parameter:
        kernel = layer.weight
        assert isinstance(kernel, nn.Parameter)
        return kernel

    def pack(self, kernel: Tensor) -> Tensor:
        if kernel.dim() == 2:  # a single matrix is stored as (in, out), whatever its shape
            return kernel.reshape(kernel.shape[1], 1, 1, 1, kernel.shape[0])
        size = round(kernel.shape[0] ** (1 / 3))
        return kernel.reshape(size, size, size, *kernel.shape[-2:]).permute(4, 2, 1, 0, 3)

    def unpack(self, kernel: Tensor) -> Tensor:
        out_channels, size, _, _, in_channels = kernel.shape
        if size == 1:
            return kernel.reshape(in_channels, out_channels)
        return kernel.permute(3, 2, 1, 4, 0).reshape(size**3, in_channels, out_channels)

    def keeps_map(self, convolution: SparseConvolution) -> bool:
        return convolution.stride == 1 or convolution.transposed


class SpconvTritonPeer(SpconvPeer):
    """spconv-triton: spconv's interface implemented in Triton, CUDA only."""

    title = "spconv-triton"
    module_name = "spconv_triton.pytorch"
    install = "pip install spconv-triton"

    def refusal(self, *, training: bool) -> str | None:
        del training
        return None if self.device.type == "cuda" else "spconv-triton needs CUDA"

    def remark(self) -> str:
        return ""

    def _algorithm(self) -> dict[str, Any]:
        return {}


PEERS: dict[str, type[Peer]] = {
    "minkowski": MinkowskiPeer,
    "spconv": SpconvPeer,
    "spconv-triton": SpconvTritonPeer,
}


def find_peers(wanted: Sequence[str], device: torch.device) -> tuple[list[Peer], dict[str, str]]:
    """Return the peers that can be imported and run on a device, and the reasons why others do not.

    Args:
        wanted: Peer names, `all` or `none`.
        device: Device to run on.

    Raises:
        UsageError: A name is unknown.
        MissingDependencyError: A peer requested by name is not installed, or does not run on this device.
    """
    unknown = [name for name in wanted if name not in PEERS and name not in ("all", "none")]
    if unknown:
        raise UsageError(f"--peers: expected all, none or some of {', '.join(PEERS)}, got {unknown[0]!r}")
    found, missing = [], {}
    for name, kind in PEERS.items():
        if name not in wanted and "all" not in wanted:
            continue
        try:
            peer = kind(import_peer(kind.module_name), device)
            reason = peer.refusal(training=False)
        except IMPORT_FAILURES as error:
            installed = importlib.util.find_spec(kind.module_name.split(".")[0]) is not None
            reason = f"it cannot be imported: {error}" if installed else f"not installed ({kind.install})"
        if reason is None:
            found.append(peer)
        elif name in wanted:
            raise MissingDependencyError(f"--peers {name}: {reason}")
        else:
            missing[kind.title] = reason
    return found, missing


def import_peer(module_name: str) -> Any:
    """Import a peer without warnings."""
    with old_names() if module_name == "MinkowskiEngine" else nullcontext(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(module_name)
