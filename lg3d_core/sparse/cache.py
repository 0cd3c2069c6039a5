"""Coordinate cache of a forward pass: the voxels of every level, and the kernel maps between them."""

from dataclasses import replace

import torch
from torch import Tensor

from lg3d_core.errors import ShapeError
from lg3d_core.sparse.backends import LevelingBackend, MappingBackend, current_backend
from lg3d_core.sparse.coordinates import coarsen, unpack
from lg3d_core.sparse.kernel_maps import KernelMap, Level, build_strided_map, build_submanifold_map

NUM_LEVELS = 4
"""Number of coarser levels that are derived together to save synchronisations: as many as a MinkUNet has."""


class CoordinateCache:
    """Sorted voxel keys per tensor stride, and kernel maps per (stride, kernel), each built on first use."""

    def __init__(self, keys: Tensor) -> None:
        """Create a cache from the sorted, distinct keys of the finest level (stride 1)."""
        self._keys: dict[int, Tensor] = {1: keys}
        self._parents: dict[int, Tensor] = {}
        self._coordinates: dict[int, Tensor] = {}
        self._maps: dict[tuple[str, int, int], KernelMap] = {}

    def keys(self, stride: int) -> Tensor:
        """Return the sorted keys of a level; coarser levels are derived by halving the next finer one."""
        if stride not in self._keys:
            fine = stride // 2
            fine_keys = self.keys(fine)
            backend = current_backend(fine_keys.device)
            if isinstance(backend, LevelingBackend):
                levels = backend.build_levels(fine_keys, fine, NUM_LEVELS)
            else:
                levels = [torch.unique(coarsen(fine_keys, stride), sorted=True, return_inverse=True)]
            for level, (keys, parents) in enumerate(levels):
                self._keys[stride << level], self._parents[fine << level] = keys, parents
        return self._keys[stride]

    def num_voxels(self, stride: int) -> int:
        """Return the number of voxels of a level."""
        return len(self.keys(stride))

    def coordinates(self, stride: int) -> Tensor:
        """Return the rows `batch, x, y, z` of a level, in its storage order, multiples of `stride`, int32."""
        if stride not in self._coordinates:
            self._coordinates[stride] = unpack(self.keys(stride))
        return self._coordinates[stride]

    def submanifold_map(self, stride: int, kernel_size: int) -> KernelMap:
        """Return the map of an odd kernel from a level onto itself."""
        return self._map("same", stride, kernel_size)

    def downward_map(self, stride: int) -> KernelMap:
        """Return the map of a strided 2x2x2 kernel from `stride` to `2 * stride`."""
        return self._map("down", stride, 2)

    def upward_map(self, stride: int) -> KernelMap:
        """Return the map of a transposed 2x2x2 kernel from `stride` back to `stride / 2`.

        Raises:
            ShapeError: There is no finer level.
        """
        if stride < 2:
            raise ShapeError("A transposed convolution needs a tensor with a finer level, got a tensor of stride 1.")
        return self._map("up", stride, 2)

    def _map(self, kind: str, stride: int, kernel_size: int) -> KernelMap:
        wanted = (kind, stride, kernel_size)
        if wanted not in self._maps:
            if kind == "same":
                level = Level(self.keys(stride), stride)
                backend = current_backend(level.keys.device)
                build = backend.build_submanifold_map if isinstance(backend, MappingBackend) else build_submanifold_map
                kernel_map = build(level.keys, kernel_size, stride)
                self._maps[wanted] = replace(kernel_map, levels=(level, level))
            elif kind == "down":
                fine, coarse = Level(self.keys(stride), stride), Level(self.keys(2 * stride), 2 * stride)
                kernel_map = build_strided_map(fine.keys, self._parents[stride], len(coarse.keys), stride)
                self._maps[wanted] = replace(kernel_map, levels=(fine, coarse))
            else:
                self._maps[wanted] = self.downward_map(stride // 2).reversed()
        return self._maps[wanted]
