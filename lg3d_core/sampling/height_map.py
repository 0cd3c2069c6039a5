"""The height map of a room: how high each place is, whether something can stand there, and how much room is above it.

It is made from geometry alone, so labels outside a budget cannot reach it.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

CELL = 0.05
"""Edge of a cell in metres, or more where the vertices are farther apart."""
CELL_PER_SPACING = 1.5
"""A cell is at least this many distances of neighbouring vertices wide: a surface has a vertex in nearly every cell."""
MAX_CELLS = 1 << 22
REACH = 1.5
"""Nothing is put on surfaces higher above the floor than this, in metres: not on wardrobes, lamps or ceilings."""
LEVEL = 0.75
"""|cosine| between a normal and the vertical from which a surface is level; meshes are wound either way."""
FLOOR_PERCENTILE = 0.2


class Footprint(NamedTuple):
    """A rectangle of cells, as slices of the map."""

    x: slice
    y: slice


@dataclass(eq=False)
class HeightMap:
    """The surface of a room seen from above, below `REACH`; it changes as things are put into the room.

    Attributes:
        origin: Corner of the first cell and smallest x and y of the room, metres, shape `(2,)`, float64.
        limit: Largest x and y of the room, metres, shape `(2,)`, float64.
        cell: Edge of a cell in metres.
        height: Highest point of each cell below the reach, -inf where there is none, shape `(cells x, cells y)`.
        free: Lowest point of each cell above the reach, inf where there is none, same shape.
        support: Whether the highest point is on a level surface, same shape.
    """

    origin: npt.NDArray[np.float64]
    limit: npt.NDArray[np.float64]
    cell: float
    height: npt.NDArray[np.float32]
    free: npt.NDArray[np.float32]
    support: npt.NDArray[np.bool_]

    def footprint(self, low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]) -> Footprint | None:
        """Return the cells that a rectangle touches, or None where it leaves the room's box.

        Args:
            low: Its smallest x and y, metres, shape `(2,)`.
            high: Its largest, likewise.
        """
        if (low < self.origin).any() or (high > self.limit).any():
            return None
        x0, y0 = ((low - self.origin) // self.cell).astype(int).tolist()
        x1, y1 = ((high - self.origin) // self.cell).astype(int).tolist()
        return Footprint(slice(x0, x1 + 1), slice(y0, y1 + 1))

    def stand(self, footprint: Footprint, height: float, *, tolerance: float, share: float) -> float | None:
        """How high something with this footprint stands, or None where it cannot.

        It stands on the highest point under it, so it goes through nothing; at least `share` of its footprint must be
        level and no more than `tolerance` lower, and nothing may hang into it. All of the footprint and of the cells
        around it must have points: within a cell the room may end before the object does.

        Args:
            footprint: The cells below it.
            height: Its own, metres.
            tolerance: Metres.
            share: 0..1.
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
        """Raise the map to something that was put there; nothing else will stand on it."""
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
    """Look at a room from above, below its ceiling.

    Args:
        xyz: Metres, +z up, at least one point, shape `(points, 3)`.
        normal: Unit normals; a point with none (zeros) counts as level, shape `(points, 3)`.
        faces: Triangles, for the distance of neighbouring vertices, shape `(faces, 3)`, perhaps none.
        tolerance: A cell supports where a level point lies no lower than this below its highest, metres.
    """
    x, y, z = np.ascontiguousarray(xyz.T)  # reductions along rows of three are many times slower
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
    with np.errstate(invalid="ignore"):  # -inf against -inf, where a cell has no point at all
        support = (standable > -np.inf) & (standable >= height - np.float32(tolerance))
    shape = (int(size[0]), int(size[1]))
    return HeightMap(low, high, cell, height.reshape(shape), free.reshape(shape), support.reshape(shape))


def _floor(z: npt.NDArray[np.float32], level: npt.NDArray[np.bool_]) -> float:
    """Height of the floor: the lowest level surface, some noise left out."""
    some = z[level] if level.any() else z
    return float(np.percentile(some[:: max(1, len(some) // 10_000)], FLOOR_PERCENTILE))


def vertex_spacing(xyz: npt.NDArray[np.float32], faces: npt.NDArray[np.int32]) -> float:
    """Typical distance of neighbouring vertices in metres; 0 where there are no triangles to tell."""
    some = faces[:: max(1, len(faces) // 2_000)]
    if len(some) == 0:
        return 0.0
    return float(np.median(np.linalg.norm(xyz[some[:, 0]] - xyz[some[:, 1]], axis=1)))
