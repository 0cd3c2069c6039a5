"""Sparse layers as modules, with the parameter names of MinkowskiEngine 0.5."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from lg3d_core.sparse.functional import sparse_convolution
from lg3d_core.sparse.tensor import SparseTensor


class SparseConvolution(nn.Module):
    """A sparse convolution with weights `kernel` (and `bias`), initialised for ReLU networks (He, fan out)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        stride: int = 1,
        transposed: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.transposed = kernel_size, stride, transposed
        shape = (in_channels, out_channels) if kernel_size == 1 else (kernel_size**3, in_channels, out_channels)
        self.kernel = nn.Parameter(torch.empty(shape))
        self.bias: nn.Parameter | None = nn.Parameter(torch.zeros(1, out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        fan_out = self.kernel.shape[-1] * (1 if self.transposed else self.kernel_size**3)
        nn.init.normal_(self.kernel, std=math.sqrt(2.0 / fan_out))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: SparseTensor) -> SparseTensor:
        return sparse_convolution(
            x,
            self.kernel,
            kernel_size=self.kernel_size,
            stride=self.stride,
            transposed=self.transposed,
            bias=self.bias,
        )

    def extra_repr(self) -> str:
        way = ", transposed" if self.transposed else ""
        size = f"kernel_size={self.kernel_size}, stride={self.stride}"
        return f"{self.kernel.shape[-2]}, {self.kernel.shape[-1]}, {size}{way}, bias={self.bias is not None}"


class SparseBatchNorm(nn.Module):
    """Batch normalisation over all voxels of the batch; its parameters live under `bn`, as in released weights."""

    def __init__(self, channels: int, *, momentum: float = 0.1) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(channels, momentum=momentum)

    def forward(self, x: SparseTensor) -> SparseTensor:
        return x.replace(self.normalize(x.features))

    def normalize(self, features: Tensor) -> Tensor:
        """Normalise rows of shape `(voxels, channels)`.

        A single voxel has no variance: it is normalised by the running statistics, which it leaves alone.
        """
        if self.training and len(features) < 2:
            bn = self.bn
            return functional.batch_norm(features, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)
        normalized: Tensor = self.bn(features)
        return normalized
