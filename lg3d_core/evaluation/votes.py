"""Test-time augmentation: symmetries and shifts of the voxel grid, whose features are averaged."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SYMMETRIES = 8
"""Rotations about z by quarter turns, with and without a mirror."""
LARGEST_SHIFT = 16
"""Number of different shifts per axis: the network's lowest level has cells of 16 voxels."""


class Vote(NamedTuple):
    """One view of a grid: x and y swapped or not, then mirrored or not, then shifted.

    Attributes:
        swaps: Whether x and y are swapped.
        signs: 1, or -1 for a mirrored axis, shape `(3,)`.
        shift: Shift in cells, shape `(3,)`.
    """

    swaps: bool
    signs: tuple[int, int, int]
    shift: tuple[int, int, int]

    def move(self, cells: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Return the cells of this view, shape `(voxels, 3)`; row k is the cell of row k."""
        moved = cells[:, [1, 0, 2]] if self.swaps else cells
        signs = np.array(self.signs, dtype=np.int32)
        # A mirrored cell c, which spans c to c + 1, spans -c - 1 to -c.
        shifted: npt.NDArray[np.int32] = signs * moved + np.minimum(signs, 0) + np.array(self.shift, dtype=np.int32)
        return shifted

    def restore(self, vectors: Tensor) -> Tensor:
        """Return vectors of this view, shape `(voxels, 3)`, in the axes of the original grid."""
        restored = vectors * torch.tensor(self.signs, dtype=vectors.dtype, device=vectors.device)
        return restored[:, [1, 0, 2]] if self.swaps else restored


def draw_votes(number: int) -> list[Vote]:
    """Return this many views: the grid itself first, then the other symmetries in a fixed random order, all shifted.

    Equal numbers give equal views, and a larger number only adds views.
    """
    rng = np.random.default_rng(0)
    votes = [Vote(False, (1, 1, 1), (0, 0, 0))]
    order: list[int] = []
    while len(votes) < number:
        if not order:
            # The first round lacks the grid itself.
            order = [int(k) for k in rng.permutation(np.arange(1 if len(votes) == 1 else 0, SYMMETRIES))]
        symmetry = order.pop()
        signs = (-1 if symmetry & 1 else 1, -1 if symmetry & 2 else 1, 1)
        x, y, z = (int(k) for k in rng.integers(LARGEST_SHIFT, size=3))
        votes.append(Vote(bool(symmetry & 4), signs, (x, y, z)))
    return votes
