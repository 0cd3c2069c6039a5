"""Kernel maps: the input voxel of every output voxel under each kernel offset."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lg3d_core.sparse.coordinates import X_STEP, Y_STEP, fine_offset


class Level(NamedTuple):
    """Voxels of one level."""

    keys: Tensor
    """Sorted, distinct keys, shape `(voxels,)`, int64."""
    stride: int
    """Distance of adjacent voxels, in input voxels."""


@dataclass(frozen=True, eq=False)
class KernelMap:
    """Neighbours of every output voxel, one row of the table per kernel offset.

    Offsets are in the order of MinkowskiEngine 0.5: the first axis is fastest; odd kernels are centred, kernels of
    size 2 have offsets 0 and 1.
    """

    neighbours: Tensor
    """Input row per offset and output voxel, -1 for none, shape `(offsets, outputs)`, int32."""
    num_inputs: int
    """Number of voxels of the input."""
    reverse_neighbours: Tensor | None
    """Output row per offset and input voxel, shape `(offsets, inputs)`, int32. None for a map onto the same voxels,
    whose reverse is the map itself with the offsets in reverse order."""
    is_reversed: bool = False
    """Whether the map was made by `reversed()`."""
    plans: dict[Hashable, Any] = field(default_factory=dict, repr=False)
    """Data that backends derive from the map, shared by all layers on the same voxels. A map and its reverse share one
    dict; the keys tell which of the two an entry belongs to."""
    levels: tuple[Level, Level] | None = None
    """Voxels of the input and of the output, for backends with their own neighbour search."""

    @property
    def num_outputs(self) -> int:
        return self.neighbours.shape[1]

    @property
    def num_offsets(self) -> int:
        return self.neighbours.shape[0]

    @property
    def is_submanifold(self) -> bool:
        return self.reverse_neighbours is None

    def reversed(self) -> "KernelMap":
        """Return the map of the transposed convolution: inputs and outputs are swapped, offsets keep their index."""
        if self.reverse_neighbours is None:
            return KernelMap(self.neighbours.flip(0), self.num_outputs, None)
        levels = None if self.levels is None else (self.levels[1], self.levels[0])
        return KernelMap(
            self.reverse_neighbours, self.num_outputs, self.neighbours, not self.is_reversed, self.plans, levels
        )


def build_submanifold_map(keys: Tensor, kernel_size: int, stride: int) -> KernelMap:
    """Find the neighbours of every voxel within an odd, centred kernel.

    The voxels of one (x, y) column are adjacent in the sorted keys, so one binary search serves a whole run along z.
    The second half of the offsets is the first half in the opposite direction.

    Args:
        keys: Sorted, distinct keys of one level, shape `(voxels,)`, int64.
        kernel_size: Edge length of the kernel, odd.
        stride: Tensor stride of the level: the distance of adjacent voxels.
    """
    num_voxels, radius = len(keys), kernel_size // 2
    table = torch.full((kernel_size**3, num_voxels), -1, dtype=torch.int32, device=keys.device)
    rows = torch.arange(num_voxels, dtype=torch.int32, device=keys.device)
    table[kernel_size**3 // 2] = rows
    if num_voxels < 2:
        return KernelMap(table, num_voxels, None)
    guarded = torch.cat([keys, keys.new_full((kernel_size,), torch.iinfo(torch.int64).max)])
    for dx in range(radius + 1):
        for dy in range(-radius if dx > 0 else 0, radius + 1):
            own_column = dx == 0 and dy == 0
            lowest = 1 if own_column else -radius
            wanted = keys + (dx * X_STEP + dy * Y_STEP + lowest) * stride
            position = rows.long() + 1 if own_column else torch.searchsorted(keys, wanted)
            for dz in range(lowest, radius + 1):
                found = guarded[position] == wanted
                offset = (dz + radius) * kernel_size**2 + (dy + radius) * kernel_size + dx + radius
                here = found.nonzero().squeeze(1)
                there = position[here]
                table[offset, here] = there.to(torch.int32)
                table[kernel_size**3 - 1 - offset, there] = here.to(torch.int32)
                position = position + found
                wanted = wanted + stride
    return KernelMap(table, num_voxels, None)


def build_strided_map(fine_keys: Tensor, parents: Tensor, num_coarse: int, stride: int) -> KernelMap:
    """Build the map from every fine voxel to its 2x2x2 parent.

    Args:
        fine_keys: Sorted keys of the finer level.
        parents: Row of each fine voxel's parent in the coarser level, shape `(fine,)`, int64.
        num_coarse: Number of voxels of the coarser level.
        stride: Tensor stride of the finer level.
    """
    num_fine = len(fine_keys)
    offsets = fine_offset(fine_keys, stride)
    rows = torch.arange(num_fine, device=fine_keys.device)
    down = torch.full((8, num_coarse), -1, dtype=torch.int32, device=fine_keys.device)
    down[offsets, parents] = rows.to(torch.int32)
    up = torch.full((8, num_fine), -1, dtype=torch.int32, device=fine_keys.device)
    up[offsets, rows] = parents.to(torch.int32)
    return KernelMap(down, num_fine, up)
