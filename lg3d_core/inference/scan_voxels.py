"""Occupied voxels of a scan that may be larger than memory, and the mapping from vertices to voxels."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError
from lg3d_core.evaluation.interpolation import Candidates, choose_voxels
from lg3d_core.sampling.voxels import MAX_CELL, pack, unpack
from lg3d_core.scans.frame import Frame
from lg3d_core.scans.surface import Surface

GREY = 128
"""Colour of a scan without colours: the middle of the training range."""
MAX_VOXELS = 1 << 31


class ScanVoxels(NamedTuple):
    """Occupied voxels of a scan, each with the mean colour of its vertices.

    Attributes:
        keys: Packed cells in lexicographic order, shape `(voxels,)`, int64; see `unpack`.
        rgb: Colours, shape `(voxels, 3)`, uint8.
        voxel_size: Edge length in metres.
        num_outside: Number of vertices without a voxel: not finite, or far from the rest.
        candidates: Most probable classes of each voxel, once they are predicted.
    """

    keys: npt.NDArray[np.int64]
    rgb: npt.NDArray[np.uint8]
    voxel_size: float
    num_outside: int
    candidates: Candidates | None = None

    @property
    def cells(self) -> npt.NDArray[np.int32]:
        """Voxel cells, shape `(voxels, 3)`, int32; cell `c` spans `c * voxel_size` to `(c + 1) * voxel_size`."""
        return unpack(self.keys)

    @property
    def centres(self) -> npt.NDArray[np.float64]:
        """Voxel centres in metres, +z up, shape `(voxels, 3)`, float64."""
        return (self.cells.astype(np.float64) + 0.5) * self.voxel_size


def voxelize_scan(surface: Surface, frame: Frame, voxel_size: float) -> ScanVoxels:
    """Assign a scan to the voxel grid, piece by piece; the colour of a voxel is the mean over its vertices.

    Raises:
        DataError: The scan is too large for the grid, or has no usable vertex.
    """
    keys = np.zeros(0, dtype=np.int64)
    sums = np.zeros((0, 4))  # red, green, blue, number of vertices
    num_outside = 0
    for start, stop in surface.chunks():
        own, inside = _chunk_keys(surface, frame, voxel_size, start, stop)
        num_outside += (stop - start) - len(inside)
        own_keys, point_to_voxel = np.unique(own, return_inverse=True)
        colors = None if surface.colors is None else surface.colors(start, stop)[inside]
        own_sums = _sum_colors(colors, point_to_voxel.reshape(-1), len(own_keys))
        merged, place = np.unique(np.concatenate([keys, own_keys]), return_inverse=True)
        total = np.zeros((len(merged), 4))
        total[place[: len(keys)]] = sums
        total[place[len(keys) :]] += own_sums
        keys, sums = merged, total
    if len(keys) == 0:
        raise DataError(f"{surface.path}: none of the {surface.num_vertices} vertices has a usable position")
    rgb = np.round(sums[:, :3] / sums[:, 3:]).astype(np.uint8)
    return ScanVoxels(keys, rgb, voxel_size, num_outside)


def _sum_colors(
    colors: npt.NDArray[np.uint8] | None, point_to_voxel: npt.NDArray[np.int64], num_voxels: int
) -> npt.NDArray[np.float64]:
    """Return the sum of the colours and the number of the vertices of each voxel, shape `(voxels, 4)`."""
    number = np.bincount(point_to_voxel, minlength=num_voxels).astype(np.float64)
    if colors is None:
        return np.stack([GREY * number, GREY * number, GREY * number, number], axis=1)
    channels = [np.bincount(point_to_voxel, weights=colors[:, k], minlength=num_voxels) for k in range(3)]
    return np.stack([*channels, number], axis=1)


def vertex_rows(surface: Surface, frame: Frame, voxels: ScanVoxels) -> Iterator[tuple[int, int, npt.NDArray[np.int64]]]:
    """Yield for each piece its first row, its end row, and the voxel of each vertex, -1 for none.

    If the voxels have candidates, this is the voxel whose label the vertex takes (see `choose_voxels`), else the one
    that contains it.
    """
    for start, stop in surface.chunks():
        keys, inside = _chunk_keys(surface, frame, voxels.voxel_size, start, stop)
        rows = np.full(stop - start, -1, dtype=np.int64)
        if voxels.candidates is None:
            rows[inside] = np.searchsorted(voxels.keys, keys)
        else:
            xyz = _to_metres(surface, frame, start, stop, inside)
            rows[inside] = choose_voxels(voxels.candidates, voxels.keys, xyz, voxel_size=voxels.voxel_size)
        yield start, stop, rows


def _chunk_keys(
    surface: Surface, frame: Frame, voxel_size: float, start: int, stop: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the packed cells of usable vertices, and their rows in the piece."""
    xyz = surface.positions(start, stop)
    inside = np.flatnonzero(frame.holds(xyz) & np.isfinite(xyz).all(axis=1))
    metres = _to_metres(surface, frame, start, stop, inside)
    scaled = np.floor(metres / voxel_size)
    if len(scaled) and np.abs(scaled).max() > MAX_CELL:
        reach = float(np.abs(metres).max())
        raise DataError(
            f"{surface.path}: reaches {reach:.6g} m with a unit of {frame.scale:g} m, expected at most "
            f"{MAX_CELL * voxel_size:.6g} m: pass --scale"
        )
    return pack(scaled.astype(np.int64)), inside


def _to_metres(
    surface: Surface, frame: Frame, start: int, stop: int, inside: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return positions of a piece in metres.

    They are rounded to float32 as in a store, so that cells do not depend on the type in the file; the offset is
    already off.
    """
    xyz = surface.positions(start, stop)[inside]
    with np.errstate(over="ignore"):  # infinite positions are refused by their cells
        metres: npt.NDArray[np.float64] = frame.to_metres(xyz).astype(np.float32).astype(np.float64)
    return metres
