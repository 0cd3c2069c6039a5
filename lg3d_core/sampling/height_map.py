"""The height map of a room: the height of each cell, whether it can support an object, and the free space above it.

It is computed from geometry alone, so labels outside a budget cannot affect it.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

CELL = 0.05
"""Minimum edge of a cell in metres. Cells are larger where the vertices are farther apart."""
CELL_PER_SPACING = 1.5
"""Minimum edge of a cell in vertex spacings, so that a surface has a vertex in nearly every cell."""
MAX_CELLS = 1 << 22
REACH = 1.5
"""Maximum height of a supporting surface above the floor in metres; excludes wardrobes, lamps and ceilings."""
LEVEL = 0.75
"""Minimum |cosine| between the normal of a level surface and the vertical. The sign depends on the mesh winding."""
FLOOR_PERCENTILE = 0.2


class Footprint(NamedTuple):
    """Rectangle of cells, as slices of the map."""

    x: slice
    y: slice


@dataclass(eq=False)
class HeightMap:
    """The surface of a room seen from above, up to `REACH` above the floor. Placed objects update it.

    Attributes:
        origin: Corner of the first cell, which is the smallest x and y of the room, metres, shape `(2,)`, float64.
        limit: Largest x and y of the room, metres, shape `(2,)`, float64.
        cell: Edge of a cell in metres.
        height: Highest point of each cell within reach, -inf for no point, shape `(cells x, cells y)`.
        free: Lowest point of each cell above reach, inf for no point, shape `(cells x, cells y)`.
        support: Whether the highest point is on a level surface, shape `(cells x, cells y)`.
    """

    origin: npt.NDArray[np.float64]
    limit: npt.NDArray[np.float64]
    cell: float
    height: npt.NDArray[np.float32]
    free: npt.NDArray[np.float32]
    support: npt.NDArray[np.bool_]

    def footprint(self, low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]) -> Footprint | None:
        """Return the cells that a rectangle touches, or None if it extends beyond the room's bounding box.

        Args:
            low: Smallest x and y of the rectangle in metres, shape `(2,)`.
            high: Largest x and y of the rectangle in metres, shape `(2,)`.
        """
        if (low < self.origin).any() or (high > self.limit).any():
            return None
        x0, y0 = ((low - self.origin) // self.cell).astype(int).tolist()
        x1, y1 = ((high - self.origin) // self.cell).astype(int).tolist()
        return Footprint(slice(x0, x1 + 1), slice(y0, y1 + 1))

    def stand(self, footprint: Footprint, height: float, *, tolerance: float, share: float) -> float | None:
        """Return the height at which an object with this footprint stands, or None if it cannot stand there.

        The object stands on the highest point under it, so it intersects nothing below. At least `share` of its
        footprint must be level and at most `tolerance` lower than that point, and nothing above may intersect the
        object. All cells of the footprint and around it must have points, because the room may end inside a cell.

        Args:
            footprint: Cells below the object.
            height: Height of the object in metres.
            tolerance: Maximum height difference of supporting cells in metres.
            share: Required fraction of supporting cells, 0..1.
        """
        patch = self.height[footprint]
        bottom = float(patch.max())
        if not self._is_surrounded(footprint) or bottom + height > self.free[footprint].min():
            return None
        held = self.support[footprint] & (patch >= bottom - tolerance)
        return bottom if np.count_nonzero(held) >= share * held.size else None

    def _is_surrounded(self, footprint: Footprint) -> bool:
        x, y = (slice(max(0, cells.start - 1), cells.stop + 1) for cells in footprint)
        return bool(self.height[x, y].min() > -np.inf)

    def occupy(self, footprint: Footprint, xyz: npt.NDArray[np.float32]) -> None:
        """Raise the map to the points of a placed object. No other object will stand on it."""
        x, y = ((xyz[:, :2] - self.origin) // self.cell).astype(np.int64).T
        np.maximum.at(self.height, (x, y), xyz[:, 2])
        self.support[footprint] = False


def build_height_map(
    xyz: npt.NDArray[np.float32],
    normal: npt.NDArray[np.float32],
    faces: npt.NDArray[np.int32],
    *,
    tolerance: float,
) -> HeightMap:
    """Compute the height map of a room from its points below the ceiling.

    Args:
        xyz: Positions in metres, +z up, shape `(points, 3)`, at least one point.
        normal: Unit normals, shape `(points, 3)`; a point without a normal (zeros) counts as level.
        faces: Triangles, used to measure the vertex spacing, shape `(faces, 3)`, possibly empty.
        tolerance: Maximum distance in metres between a cell's highest point and its highest level point for support.
    """
    x, y, z = np.ascontiguousarray(xyz.T)  # reductions over rows of three are many times slower
    low, high = np.array([x.min(), y.min()], dtype=np.float64), np.array([x.max(), y.max()], dtype=np.float64)
    cell = max(CELL, CELL_PER_SPACING * vertex_spacing(xyz, faces))
    cell = max(cell, float(np.sqrt((high[0] - low[0]) * (high[1] - low[1]) / MAX_CELLS)))
    size = ((high - low) // cell).astype(np.int64) + 1
    row, column = (
        np.minimum(((values - values.min()) * np.float32(1 / cell)).astype(np.int64), last)
        for values, last in ((x, size[0] - 1), (y, size[1] - 1))
    )
    flat = row * size[1] + column
    nx, ny, nz = np.ascontiguousarray(normal.T)
    level = (np.abs(nz) > LEVEL) | ((nx == 0) & (ny == 0) & (nz == 0))
    below = z < _floor(z, level) + REACH
    height = np.full(int(size.prod()), -np.inf, dtype=np.float32)
    standable, free = height.copy(), np.full_like(height, np.inf)
    np.maximum.at(height, flat[below], z[below])
    np.minimum.at(free, flat[~below], z[~below])
    on_level = below & level
    np.maximum.at(standable, flat[on_level], z[on_level])
    with np.errstate(invalid="ignore"):  # -inf - tolerance compared with -inf in cells without points
        support = (standable > -np.inf) & (standable >= height - np.float32(tolerance))
    shape = (int(size[0]), int(size[1]))
    return HeightMap(low, high, cell, height.reshape(shape), free.reshape(shape), support.reshape(shape))


def _floor(z: npt.NDArray[np.float32], level: npt.NDArray[np.bool_]) -> float:
    """Return the height of the floor: a low percentile of the level points, robust to noise."""
    some = z[level] if level.any() else z
    return float(np.percentile(some[:: max(1, len(some) // 10_000)], FLOOR_PERCENTILE))


def vertex_spacing(xyz: npt.NDArray[np.float32], faces: npt.NDArray[np.int32]) -> float:
    """Return the median distance of neighbouring vertices in metres, 0 without triangles."""
    some = faces[:: max(1, len(faces) // 2_000)]
    if len(some) == 0:
        return 0.0
    return float(np.median(np.linalg.norm(xyz[some[:, 0]] - xyz[some[:, 1]], axis=1)))
