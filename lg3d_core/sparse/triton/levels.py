"""Construction of all coarser levels of a voxel set with one synchronisation.

Reference: `torch.unique` of the coarsened keys, level by level. Here every level stays as long as the finest one,
padded with a guard, until the lengths of all levels are read together.
"""

import torch
from torch import Tensor

from lg3d_core.sparse.coordinates import coarsen

GUARD = torch.iinfo(torch.int64).max


def build_levels(keys: Tensor, stride: int, num_levels: int) -> list[tuple[Tensor, Tensor]]:
    """Halve the resolution several times.

    Args:
        keys: Sorted, distinct keys of one level, shape `(voxels,)`, int64.
        stride: Tensor stride of that level.
        num_levels: Number of coarser levels.

    Returns:
        For each level its sorted, distinct keys, and the parent row of each voxel of the next finer level, int64.
    """
    padded, lengths, levels = keys, [], []
    for level in range(num_levels):
        coarse = torch.where(padded == GUARD, GUARD, coarsen(padded, stride << (level + 1)))
        in_order, order = torch.sort(coarse)
        is_first = torch.ones_like(in_order, dtype=torch.bool)
        is_first[1:] = in_order[1:] != in_order[:-1]
        row = torch.cumsum(is_first, dim=0) - 1
        parents = torch.empty_like(row).scatter_(0, order, row)
        padded = torch.full_like(keys, GUARD).scatter_(0, row, in_order)  # equal keys go to the same row
        lengths.append((is_first & (in_order != GUARD)).sum())
        levels.append((padded, parents))
    if not levels:
        return []
    counts = torch.stack(lengths).tolist()
    fine_counts = [len(keys), *counts]
    return [
        (level_keys[:count].clone(), parents[:fine].clone())
        for (level_keys, parents), count, fine in zip(levels, counts, fine_counts, strict=False)
    ]
