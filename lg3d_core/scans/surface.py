"""A scan of any origin: vertices that are read in rows, perhaps with colours and triangles."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

CHUNK_ROWS = 1 << 20
"""Vertices that are in memory at once while a scan is read in pieces."""
EXACT_FLOAT32 = 1000.0
"""Coordinate beyond which decimals of a text are kept in float64."""

Paint = Callable[[npt.NDArray[np.int64], npt.NDArray[np.float32]], npt.NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Surface:
    """Vertices of a scan in the file's order, units and axes.

    A scan may be larger than memory: nothing but the rows that are asked for is read.

    Attributes:
        path: Where it came from; a store's scene gives its id.
        num_vertices: How many.
        positions: Gives rows `start` to `stop` in the file's units, shape `(rows, 3)`, float64; may hold NaN.
        colors: Gives their colours, shape `(rows, 3)`, uint8; None where the file has none.
        faces: Corners of triangles, shape `(faces, 3)`, integers; none for points. May be mapped from the file.
        is_double: Whether the file's positions need more digits than float32 has.
        up: Axis that points up by the format's own rule (glTF), or None where the format has no rule.
        scale: Metres of one unit by the format's own rule, or None.
        paint: Return the colours of places on triangles by their materials, uint8 `(places, 3)`, for the rows of their
            triangles `(places,)` and the weights of the corners `(places, 3)`; None where vertices have all colours.
        doubts: Warnings: what the file lacks, or what could only be guessed.
    """

    path: Path
    num_vertices: int
    positions: Callable[[int, int], npt.NDArray[np.float64]]
    colors: Callable[[int, int], npt.NDArray[np.uint8]] | None
    faces: npt.NDArray[np.integer]
    is_double: bool = False
    up: str | None = None
    scale: float | None = None
    paint: Paint | None = None
    doubts: tuple[str, ...] = ()

    def chunks(self, rows: int = CHUNK_ROWS) -> Iterator[tuple[int, int]]:
        """First row and row behind the last of each piece."""
        for start in range(0, self.num_vertices, rows):
            yield start, min(self.num_vertices, start + rows)


def surface_in_memory(
    path: Path,
    xyz: npt.NDArray[np.floating],
    rgb: npt.NDArray[np.uint8] | None,
    faces: npt.NDArray[np.integer] | None,
    *,
    up: str | None = None,
    scale: float | None = None,
    paint: Paint | None = None,
    doubts: tuple[str, ...] = (),
) -> Surface:
    """A surface of arrays: positions `(vertices, 3)`, colours likewise or None, triangles `(faces, 3)` or None."""
    return Surface(
        path=path,
        num_vertices=len(xyz),
        positions=lambda start, stop: as_doubles(xyz[start:stop]),
        colors=None if rgb is None else lambda start, stop: rgb[start:stop],
        faces=np.zeros((0, 3), dtype=np.int32) if faces is None else faces,
        is_double=xyz.dtype == np.float64,
        up=up,
        scale=scale,
        paint=paint,
        doubts=doubts,
    )


def as_doubles(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """Numbers as float64; a NaN that signals stays a NaN, without the warning."""
    with np.errstate(invalid="ignore"):
        return values.astype(np.float64)
