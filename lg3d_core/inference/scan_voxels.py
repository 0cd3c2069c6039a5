"""Occupied voxels of a scan that may be larger than memory, and the mapping from vertices to voxels."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError
from lg3d_core.evaluation.interpolation import Candidates, choose_voxels
from lg3d_core.evaluation.predictor import voxel_centres
from lg3d_core.sampling.voxels import MAX_CELL, pack, unpack
from lg3d_core.scans.frame import Frame
from lg3d_core.scans.surface import Surface

GREY = 128
"""Colour of a scan without colours: the middle of the training range."""
KEPT_ROWS = 1 << 25
"""Maximum number of vertices whose voxels are kept between two uses (8 bytes each); above it, they are found again."""


RowPiece = tuple[int, int, npt.NDArray[np.int64]]
"""First row and end row of a piece of a scan, and the voxel or superpoint of each vertex in it, -1 for none."""


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
        return voxel_centres(self.cells, self.voxel_size)


def voxelize_scan(surface: Surface, frame: Frame, voxel_size: float) -> ScanVoxels:
    """Assign a scan to the voxel grid, piece by piece; the colour of a voxel is the mean over its vertices.

    Raises:
        DataError: The scan is too large for the grid, or has no usable vertex.
    """
    keys = np.zeros(0, dtype=np.int64)
    sums = np.zeros((0, 4))  # red, green, blue, number of vertices
    num_outside = 0
    for start, stop in surface.chunks():
        inside, metres = _read_usable(surface, frame, start, stop)
        own = _pack_cells(surface, frame, metres, voxel_size)
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


def vertex_rows(surface: Surface, frame: Frame, voxels: ScanVoxels) -> Iterator[RowPiece]:
    """Yield for each piece its first row, its end row, and the voxel of each vertex, -1 for none.

    If the voxels have candidates, this is the voxel whose label the vertex takes (see `choose_voxels`), else the one
    that contains it.
    """
    for start, stop in surface.chunks():
        inside, metres = _read_usable(surface, frame, start, stop)
        rows = np.full(stop - start, -1, dtype=np.int64)
        if voxels.candidates is None:
            rows[inside] = np.searchsorted(voxels.keys, _pack_cells(surface, frame, metres, voxels.voxel_size))
        else:
            rows[inside] = choose_voxels(voxels.candidates, voxels.keys, metres, voxel_size=voxels.voxel_size)
        yield start, stop, rows


class VertexRows:
    """Function that yields `vertex_rows` of a scan; they are found once if they fit into memory."""

    def __init__(self, surface: Surface, frame: Frame, voxels: ScanVoxels) -> None:
        self._scan = (surface, frame, voxels)
        self._kept: list[RowPiece] | None = None

    def __call__(self) -> Iterator[RowPiece]:
        """Yield the pieces; callers do not change them."""
        if self._kept is not None:
            yield from self._kept
            return
        fits = self._scan[0].num_vertices <= KEPT_ROWS
        kept = []
        for piece in vertex_rows(*self._scan):
            if fits:
                kept.append(piece)
            yield piece
        if fits:
            self._kept = kept


def _read_usable(
    surface: Surface, frame: Frame, start: int, stop: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the rows of usable vertices in a piece, and their positions in metres, shape `(usable, 3)`.

    The positions are rounded to float32 as in a store, so that cells do not depend on the type in the file; the offset
    is already off.
    """
    xyz = surface.positions(start, stop)
    inside = np.flatnonzero(frame.holds(xyz) & np.isfinite(xyz).all(axis=1))
    with np.errstate(over="ignore"):  # infinite positions are refused by their cells
        return inside, frame.to_metres(xyz[inside]).astype(np.float32).astype(np.float64)


def _pack_cells(
    surface: Surface, frame: Frame, metres: npt.NDArray[np.float64], voxel_size: float
) -> npt.NDArray[np.int64]:
    """Return the packed cells of positions in metres."""
    scaled = np.floor(metres / voxel_size)
    if len(scaled) and np.abs(scaled).max() > MAX_CELL:
        reach = float(np.abs(metres).max())
        raise DataError(
            f"{surface.path}: reaches {reach:.6g} m with a unit of {frame.scale:g} m, expected at most "
            f"{MAX_CELL * voxel_size:.6g} m: pass --scale"
        )
    return pack(scaled.astype(np.int64))
