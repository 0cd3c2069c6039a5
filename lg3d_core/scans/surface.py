"""Interface of a scan of any origin: vertices that are read in rows, optional colours and triangles."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

CHUNK_ROWS = 1 << 20
"""Number of vertices per chunk when a scan is read in chunks."""
EXACT_FLOAT32 = 1000.0
"""Coordinate beyond which the decimals of a text file are kept in float64."""

Column = Callable[[], npt.NDArray[Any]]
"""Returns a number property of all vertices, shape `(vertices,)` or `(vertices, count)`; it is read on demand."""
Paint = Callable[[npt.NDArray[np.int64], npt.NDArray[np.float32]], npt.NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Surface:
    """Vertices of a scan in the file's order, units and axes.

    A scan may be larger than memory: only the requested rows are read.

    Attributes:
        path: File of the scan, or the id of a scene in a store.
        num_vertices: Number of vertices.
        positions: Returns rows `start` to `stop` in the file's units, shape `(rows, 3)`, float64; may hold NaN.
        colors: Returns their colours, shape `(rows, 3)`, uint8; None if the file has none.
        faces: Corners of triangles, shape `(faces, 3)`, integers; empty for points. May be memory-mapped.
        is_double: Whether the file's positions need more digits than float32 has.
        scale: Unit in metres that the format defines, or None.
        paint: Returns material colours of positions on triangles, uint8 `(positions, 3)`, from the triangles' rows
            `(positions,)` and the weights of the corners `(positions, 3)`; None if the vertices hold all colours.
        doubts: Warnings about missing or estimated data.
    """

    path: Path
    num_vertices: int
    positions: Callable[[int, int], npt.NDArray[np.float64]]
    colors: Callable[[int, int], npt.NDArray[np.uint8]] | None
    faces: npt.NDArray[np.integer]
    is_double: bool = False
    scale: float | None = None
    paint: Paint | None = None
    doubts: tuple[str, ...] = ()

    def chunks(self) -> Iterator[tuple[int, int]]:
        """Yield the first row and the end row of each chunk."""
        for start in range(0, self.num_vertices, CHUNK_ROWS):
            yield start, min(self.num_vertices, start + CHUNK_ROWS)


def surface_in_memory(
    path: Path,
    xyz: npt.NDArray[np.floating],
    rgb: npt.NDArray[np.uint8] | None,
    faces: npt.NDArray[np.integer] | None,
    *,
    scale: float | None = None,
    paint: Paint | None = None,
    doubts: tuple[str, ...] = (),
) -> Surface:
    """Return a surface from arrays: positions and optional colours `(vertices, 3)`, optional triangles `(faces, 3)`."""
    return Surface(
        path=path,
        num_vertices=len(xyz),
        positions=lambda start, stop: as_doubles(xyz[start:stop]),
        colors=None if rgb is None else lambda start, stop: rgb[start:stop],
        faces=np.zeros((0, 3), dtype=np.int32) if faces is None else faces,
        is_double=xyz.dtype == np.float64,
        scale=scale,
        paint=paint,
        doubts=doubts,
    )


def held_column(values: npt.NDArray[Any]) -> Column:
    """Return a property that is in memory."""
    return lambda: values


def as_doubles(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """Convert numbers to float64; signalling NaN becomes NaN without a warning."""
    with np.errstate(invalid="ignore"):
        return values.astype(np.float64)
