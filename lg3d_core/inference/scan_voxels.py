"""Occupied voxels of a scan that may be larger than memory, and the mapping from vertices to voxels."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError
from lg3d_core.sampling.voxels import MAX_CELL
from lg3d_core.scans.frame import Frame
from lg3d_core.scans.surface import Surface

GREY = 128
"""Colour of a scan without colours: the middle of the training range."""
BITS = 20
MAX_VOXELS = 1 << 31


class ScanVoxels(NamedTuple):
    """Occupied voxels of a scan, each with the colour of its first vertex.

    Attributes:
        keys: Packed cells in lexicographic order, shape `(voxels,)`, int64; see `unpack`.
        rgb: Colours, shape `(voxels, 3)`, uint8.
        voxel_size: Edge length in metres.
        num_outside: Number of vertices without a voxel: not finite, or far from the rest.
    """

    keys: npt.NDArray[np.int64]
    rgb: npt.NDArray[np.uint8]
    voxel_size: float
    num_outside: int

    @property
    def cells(self) -> npt.NDArray[np.int32]:
        """Voxel cells, shape `(voxels, 3)`, int32; cell `c` spans `c * voxel_size` to `(c + 1) * voxel_size`."""
        return unpack(self.keys)

    @property
    def centres(self) -> npt.NDArray[np.float64]:
        """Voxel centres in metres, +z up, shape `(voxels, 3)`, float64."""
        return (self.cells.astype(np.float64) + 0.5) * self.voxel_size


def pack(cells: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Pack cells `(rows, 3)` into one number each, with the same order."""
    shifted = cells + (1 << BITS - 1)
    return (shifted[:, 0] << 2 * BITS) | (shifted[:, 1] << BITS) | shifted[:, 2]


def unpack(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Unpack the cells of `pack`, shape `(rows, 3)`, int32."""
    mask = (1 << BITS) - 1
    parts = [keys >> 2 * BITS, keys >> BITS & mask, keys & mask]
    return np.stack([(part - (1 << BITS - 1)).astype(np.int32) for part in parts], axis=1)


def voxelize_scan(surface: Surface, frame: Frame, voxel_size: float) -> ScanVoxels:
    """Assign a scan to the voxel grid, piece by piece; the first vertex of a voxel determines its colour.

    Raises:
        DataError: The scan is too large for the grid, or has no usable vertex.
    """
    keys = np.zeros(0, dtype=np.int64)
    rgb = np.zeros((0, 3), dtype=np.uint8)
    num_outside = 0
    for start, stop in surface.chunks():
        own, inside = _chunk_keys(surface, frame, voxel_size, start, stop)
        num_outside += (stop - start) - len(inside)
        first_keys, first = np.unique(own, return_index=True)
        if surface.colors is None:
            colors = np.full((len(first), 3), GREY, dtype=np.uint8)
        else:
            colors = surface.colors(start, stop)[inside[first]]
        if len(keys) == 0:
            keys, rgb = first_keys, colors
            continue
        at = np.searchsorted(keys, first_keys)
        known = keys[np.minimum(at, len(keys) - 1)] == first_keys
        merged = np.concatenate([keys, first_keys[~known]])
        order = np.argsort(merged, kind="stable")
        keys, rgb = merged[order], np.concatenate([rgb, colors[~known]])[order]
    if len(keys) == 0:
        raise DataError(f"{surface.path}: none of the {surface.num_vertices} vertices has a usable position")
    return ScanVoxels(keys, np.ascontiguousarray(rgb), voxel_size, num_outside)


def vertex_rows(surface: Surface, frame: Frame, voxels: ScanVoxels) -> Iterator[tuple[int, int, npt.NDArray[np.int64]]]:
    """Yield for each piece its first row, its end row, and the voxel of each vertex, -1 for none."""
    for start, stop in surface.chunks():
        keys, inside = _chunk_keys(surface, frame, voxels.voxel_size, start, stop)
        rows = np.full(stop - start, -1, dtype=np.int64)
        rows[inside] = np.searchsorted(voxels.keys, keys)
        yield start, stop, rows


def _chunk_keys(
    surface: Surface, frame: Frame, voxel_size: float, start: int, stop: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the packed cells of usable vertices, and their rows in the piece."""
    xyz = surface.positions(start, stop)
    inside = np.flatnonzero(frame.holds(xyz) & np.isfinite(xyz).all(axis=1))
    # Rounded to float32 as in a store, so that cells do not depend on the type in the file; the offset is already off.
    metres = frame.to_metres(xyz[inside]).astype(np.float32).astype(np.float64)
    scaled = np.floor(metres / voxel_size)
    if len(scaled) and np.abs(scaled).max() > MAX_CELL:
        reach = float(np.abs(metres).max())
        raise DataError(
            f"{surface.path}: reaches {reach:.6g} m with a unit of {frame.scale:g} m, expected at most "
            f"{MAX_CELL * voxel_size:.6g} m: pass --scale"
        )
    return pack(scaled.astype(np.int64)), inside
