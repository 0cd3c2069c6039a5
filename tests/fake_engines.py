"""Stand-ins for engines that cannot be installed here: the interface and the layout of weights that each documents.

What they compute is lg3d's own convolution; how their weights are numbered is written out here as loops.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from lg3d_core.sparse import SparseTensor, sparse_convolution


def convolve(
    features: Tensor, coordinates: Tensor, kernel: Tensor, *, stride: int, finer: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Convolve rows whose coordinates count voxels of their own level; `kernel` is `(x, y, z, in, out)`."""
    size = kernel.shape[0]
    offsets = [kernel[x, y, z] for z in range(size) for y in range(size) for x in range(size)]
    weight = torch.stack(offsets) if size > 1 else offsets[0]
    x = SparseTensor(features, coordinates)
    if finer is not None:
        fine = SparseTensor(features.new_zeros(len(finer), 1), finer)
        assert fine.cache.num_voxels(2) == len(features)
        output = sparse_convolution(
            fine.replace(x.features, stride=2), weight, kernel_size=2, stride=2, transposed=True
        )
        return fine.restore(output.features), finer
    output = sparse_convolution(x, weight, kernel_size=size, stride=stride)
    if stride == 1:
        return x.restore(output.features), coordinates
    rows = output.coordinates.clone()
    rows[:, 1:] //= 2
    return output.features, rows


class FakeSpconv:
    """spconv.pytorch: weights `(out, x, y, z, in)`, a single matrix `(in, out)` in memory, maps kept by key."""

    class SparseConvTensor:
        def __init__(self, features: Tensor, indices: Tensor, spatial_shape: list[int], batch_size: int) -> None:
            assert all(size % 16 == 0 for size in spatial_shape)
            assert batch_size == 2
            self.features, self.indices = features, indices
            self.indice_dict: dict[str, Tensor] = {}

        def replace_feature(self, features: Tensor) -> "FakeSpconv.SparseConvTensor":
            other = object.__new__(FakeSpconv.SparseConvTensor)
            other.features, other.indices, other.indice_dict = features, self.indices, self.indice_dict
            return other

    class Layer(nn.Module):
        def __init__(
            self,
            in_channels: int,
            out_channels: int,
            size: int,
            *,
            indice_key: str,
            stride: int = 1,
            padding: int = 0,
            bias: bool,
            algo: str,
        ) -> None:
            super().__init__()
            assert padding == (size // 2 if size % 2 else 0)
            assert algo == "native"
            self.weight = nn.Parameter(torch.empty(out_channels, size, size, size, in_channels))
            self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
            self.key, self.stride, self.inverse = indice_key, stride, False

        def forward(self, x: Any) -> Any:
            size = self.weight.shape[1]
            if size == 1:
                kernel = self.weight.reshape(1, 1, 1, self.weight.shape[4], self.weight.shape[0])
            else:
                kernel = self.weight.permute(1, 2, 3, 4, 0)
            finer = x.indice_dict[self.key] if self.inverse else None
            assert self.inverse or self.stride == 1 or self.key not in x.indice_dict
            features, rows = convolve(x.features, x.indices, kernel, stride=self.stride, finer=finer)
            output = x.replace_feature(features if self.bias is None else features + self.bias)
            output.indices = rows
            output.indice_dict = x.indice_dict | {self.key: x.indices}
            return output

    SubMConv3d = SparseConv3d = Layer

    @staticmethod
    def SparseInverseConv3d(*shape: int, **options: Any) -> "FakeSpconv.Layer":
        layer = FakeSpconv.Layer(*shape, **options)
        layer.inverse = True
        return layer


class FakeMinkowski:
    """MinkowskiEngine 0.5: offsets and weights as lg3d numbers them, coordinates in input voxels."""

    CoordinateMapType = SimpleNamespace(CPU="cpu", CUDA="cuda")

    @staticmethod
    def CoordinateManager(D: int, num_threads: int, coordinate_map_type: str) -> dict[int, Tensor]:
        assert (D, num_threads, coordinate_map_type) == (3, torch.get_num_threads(), "cpu")
        return {}

    class SparseTensor:
        def __init__(
            self,
            features: Tensor,
            coordinates: Tensor | None = None,
            *,
            coordinate_map_key: int = 1,
            coordinate_manager: dict[int, Tensor],
        ) -> None:
            self.F, self.coordinate_map_key, self.coordinate_manager = features, coordinate_map_key, coordinate_manager
            if coordinates is not None:
                coordinate_manager[1] = coordinates

        @property
        def C(self) -> Tensor:
            rows = self.coordinate_manager[self.coordinate_map_key].clone()
            rows[:, 1:] *= self.coordinate_map_key
            return rows

    class Layer(nn.Module):
        def __init__(
            self, in_channels: int, out_channels: int, *, kernel_size: int, stride: int, bias: bool, dimension: int
        ) -> None:
            super().__init__()
            assert dimension == 3
            shape = (in_channels, out_channels) if kernel_size == 1 else (kernel_size**3, in_channels, out_channels)
            self.kernel = nn.Parameter(torch.empty(shape))
            self.bias = nn.Parameter(torch.empty(1, out_channels)) if bias else None
            self.size, self.stride, self.transposed = kernel_size, stride, False

        def forward(self, x: Any) -> Any:
            kernel = self.kernel.reshape(self.size, self.size, self.size, *self.kernel.shape[-2:]).permute(
                2, 1, 0, 3, 4
            )
            key, levels = x.coordinate_map_key, x.coordinate_manager
            finer = levels[key // 2] if self.transposed else None
            features, rows = convolve(x.F, levels[key], kernel, stride=self.stride, finer=finer)
            key = key // 2 if self.transposed else key * self.stride
            levels.setdefault(key, rows)
            features = features if self.bias is None else features + self.bias
            return FakeMinkowski.SparseTensor(features, coordinate_map_key=key, coordinate_manager=levels)

    MinkowskiConvolution = Layer

    @staticmethod
    def MinkowskiConvolutionTranspose(*shape: int, **options: Any) -> "FakeMinkowski.Layer":
        layer = FakeMinkowski.Layer(*shape, **options)
        layer.transposed = True
        return layer


MODULES: dict[str, Any] = {
    "spconv.core": SimpleNamespace(ConvAlgo=SimpleNamespace(Native="native")),
}
"""What the adapters import by name."""
