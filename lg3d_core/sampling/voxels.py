"""Voxelisation: the occupied cells of a regular grid and the point that each of them keeps."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError, ShapeError

MAX_CELL = 2**17 - 512
"""Largest magnitude of a cell index: the sparse engine's range (2.6 km at 2 cm) minus a margin for batch shifts."""

BITS = 20
"""Bits per axis of a packed cell."""

DENSE_CELLS = 2**28
"""Maximum cells of a bounding box for the dense occupancy grid (at most 1.3 GB, allocated lazily)."""

DENSE_CELLS_PER_POINT = 64
"""Maximum cells per point for the dense grid. Beyond it, sorting the points is faster."""


class Voxels(NamedTuple):
    """Occupied voxels of a point cloud.

    Attributes:
        cells: Integer cell indices in lexicographic order, shape `(voxels, 3)`, int32; cell `c` spans
            `c * voxel_size` to `(c + 1) * voxel_size`.
        point: Row of the one point that each voxel keeps, shape `(voxels,)`, int64.
        point_to_voxel: Row of `cells` that holds each point, shape `(points,)`, int64.
    """

    cells: npt.NDArray[np.int32]
    point: npt.NDArray[np.int64]
    point_to_voxel: npt.NDArray[np.int64]


def voxelize(xyz: npt.NDArray[np.floating], voxel_size: float, *, rng: np.random.Generator | None = None) -> Voxels:
    """Snap points to a regular grid and keep one point per occupied cell.

    The bounding box of a room usually fits a dense occupancy grid; otherwise packed cell keys are sorted. Both methods
    give the same result.

    Args:
        xyz: Positions in metres, shape `(points, 3)`, floating point, finite, of any sign.
        voxel_size: Edge of a cubic voxel in metres.
        rng: Random generator that selects the kept point of each voxel uniformly; None keeps the first in row order.

    Raises:
        ShapeError: `xyz` is not a floating-point `(points, 3)` array, or `voxel_size` is not positive and finite.
        DataError: Positions are not finite, or are too far from the origin for this voxel size.
    """
    if xyz.ndim != 2 or xyz.shape[1] != 3 or not np.issubdtype(xyz.dtype, np.floating):
        raise ShapeError(f"expected floating-point positions of shape (points, 3), got {xyz.shape} {xyz.dtype}")
    if not (math.isfinite(voxel_size) and voxel_size > 0):
        raise ShapeError(f"expected a voxel size in metres above 0, got {voxel_size}")
    order = np.arange(len(xyz), dtype=np.int64) if rng is None else rng.permutation(len(xyz))
    if len(xyz) == 0:
        return Voxels(np.zeros((0, 3), np.int32), order, order.copy())
    scaled = np.floor(xyz.T.astype(np.float64, order="C") / voxel_size)
    low, high = scaled.min(axis=1), scaled.max(axis=1)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        rows = np.flatnonzero(~np.isfinite(scaled).all(axis=0))
        raise DataError(f"positions of {len(rows)} points are not finite; the first is row {rows[0]}")
    if low.min() < -MAX_CELL or high.max() > MAX_CELL:
        raise DataError(
            f"positions reach {np.abs(xyz).max():.6g} m, expected at most {MAX_CELL * voxel_size:.6g} m with voxels of "
            f"{voxel_size:g} m: check that the coordinates are in metres, or increase --voxel-size"
        )
    size = [int(count) for count in high - low + 1]
    cell = (scaled - low[:, None]).astype(np.int64)
    key = (cell[0] * size[1] + cell[1]) * size[2] + cell[2]
    num_cells = math.prod(size)
    if num_cells < DENSE_CELLS and num_cells <= DENSE_CELLS_PER_POINT * len(xyz):
        point, point_to_voxel = _group_in_grid(key, order, num_cells)
    else:
        point, point_to_voxel = _group_by_sorting(key, order)
    cells = np.ascontiguousarray(scaled.take(point, axis=1).T, dtype=np.int32)
    return Voxels(cells, point, point_to_voxel)


def pack(cells: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Pack cells `(rows, 3)` into one number each, with the same order."""
    shifted = cells + (1 << BITS - 1)
    return (shifted[:, 0] << 2 * BITS) | (shifted[:, 1] << BITS) | shifted[:, 2]


def unpack(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Unpack the cells of `pack`, shape `(rows, 3)`, int32."""
    mask = (1 << BITS) - 1
    parts = [keys >> 2 * BITS, keys >> BITS & mask, keys & mask]
    return np.stack([(part - (1 << BITS - 1)).astype(np.int32) for part in parts], axis=1)


def mean_colors(
    rgb: npt.NDArray[np.uint8], point_to_voxel: npt.NDArray[np.int64], num_voxels: int
) -> npt.NDArray[np.uint8]:
    """Return the mean colour of each voxel's points, rounded, shape `(voxels, 3)`.

    Args:
        rgb: Colours, shape `(points, 3)`.
        point_to_voxel: Voxel of each point, shape `(points,)`.
        num_voxels: Number of voxels, each with at least one point.
    """
    number = np.bincount(point_to_voxel, minlength=num_voxels)
    sums = [np.bincount(point_to_voxel, weights=rgb[:, k], minlength=num_voxels) for k in range(3)]
    mean: npt.NDArray[np.uint8] = np.round(np.stack(sums, axis=1) / number[:, None]).astype(np.uint8)
    return mean


_Grouping = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def _group_in_grid(key: npt.NDArray[np.int64], order: npt.NDArray[np.int64], num_cells: int) -> _Grouping:
    """Return the earliest point in `order` of each occupied cell, and each point's rank among the occupied cells."""
    occupied = np.zeros(num_cells, dtype=np.bool_)
    occupied[key] = True
    cells = np.flatnonzero(occupied)
    rank = np.empty(num_cells, dtype=np.int32)  # only the pages of occupied cells are touched
    rank[cells] = np.arange(len(cells), dtype=np.int32)
    point_to_voxel = rank[key].astype(np.int64)
    point = np.empty(len(cells), dtype=np.int64)
    backwards = order[::-1]
    point[point_to_voxel[backwards]] = backwards  # the last assignment wins, which is the earliest point in `order`
    return point, point_to_voxel


def _group_by_sorting(key: npt.NDArray[np.int64], order: npt.NDArray[np.int64]) -> _Grouping:
    """Return the same as `_group_in_grid` by sorting keys that have each point's rank in `order` in their low bits."""
    num_points = len(key)
    bits = (num_points - 1).bit_length()
    if int(key.max()) < 2 ** (63 - bits):
        packed = np.sort((key[order] << bits) | np.arange(num_points))  # a plain sort is vectorised, argsort is not
        rows, sorted_key = order[packed & ((1 << bits) - 1)], packed >> bits
    else:
        places = np.argsort(key[order], kind="stable")
        rows, sorted_key = order[places], key[order[places]]
    first = np.ones(num_points, dtype=np.bool_)
    np.not_equal(sorted_key[1:], sorted_key[:-1], out=first[1:])
    point_to_voxel = np.empty(num_points, dtype=np.int64)
    point_to_voxel[rows] = np.cumsum(first) - 1
    return rows[first], point_to_voxel
