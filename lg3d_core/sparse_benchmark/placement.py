"""Resolution, number of pairs and minimum cost of the convolutions of a network."""

from typing import NamedTuple

import torch

from lg3d_core.sparse import CoordinateCache, SparseConvolution, SparseTensor
from lg3d_core.sparse_benchmark.workload import Workload

NUM_LEVELS = 5


class Work(NamedTuple):
    """Size of one convolution.

    Attributes:
        pairs: Number of pairs of an input and an output voxel.
        inputs: Number of input voxels.
        outputs: Number of output voxels.
        offsets: Number of weight matrices.
        in_channels: Number of input channels.
        out_channels: Number of output channels.
    """

    pairs: int
    inputs: int
    outputs: int
    offsets: int
    in_channels: int
    out_channels: int

    @property
    def flops(self) -> int:
        """FLOPs of one product: the output, or one of the two gradients."""
        return 2 * self.pairs * self.in_channels * self.out_channels

    @property
    def elements(self) -> int:
        """Number of values moved by one product: it reads two of input, output and weights, and writes the third."""
        weights = self.offsets * self.in_channels * self.out_channels
        return self.inputs * self.in_channels + self.outputs * self.out_channels + weights


class Voxelization:
    """Numbers of voxels and pairs at every level of a workload, counted with lg3d's own maps."""

    def __init__(self, workload: Workload) -> None:
        self._cache: CoordinateCache = SparseTensor(
            torch.zeros(workload.num_voxels, 1, device=workload.device), workload.coordinates
        ).cache
        self._pairs: dict[tuple[int, int], int] = {}

    def num_voxels(self, stride: int) -> int:
        """Return the number of voxels of a level."""
        return self._cache.num_voxels(stride)

    def num_pairs(self, stride: int, kernel_size: int) -> int:
        """Return the pairs of an odd kernel on a level, or of a 2^3 kernel between `stride` and `2 * stride`."""
        if kernel_size == 1:
            return self.num_voxels(stride)
        if kernel_size == 2:
            return self.num_voxels(stride)  # every fine voxel has one parent
        if (stride, kernel_size) not in self._pairs:
            neighbours = self._cache.submanifold_map(stride, kernel_size).neighbours
            self._pairs[stride, kernel_size] = int((neighbours >= 0).sum())
        return self._pairs[stride, kernel_size]

    def work(self, convolution: SparseConvolution, stride: int) -> Work:
        """Return the size of a convolution whose input has a tensor stride."""
        size = convolution.kernel_size
        coarse, fine = stride, stride
        if convolution.stride == 2:
            fine, coarse = (stride // 2, stride) if convolution.transposed else (stride, 2 * stride)
        num_fine, num_coarse = self.num_voxels(fine), self.num_voxels(coarse)
        inputs, outputs = (num_coarse, num_fine) if convolution.transposed else (num_fine, num_coarse)
        in_channels, out_channels = convolution.kernel.shape[-2:]
        return Work(self.num_pairs(fine, size), inputs, outputs, size**3, in_channels, out_channels)
