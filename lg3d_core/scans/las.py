"""Point clouds in LAS and LAZ, as laser scanners write them, through laspy; read a piece at a time."""

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError, MissingDependencyError
from lg3d_core.scans.colors import decide_colors, find_channels
from lg3d_core.scans.surface import Surface

if TYPE_CHECKING:
    import laspy

MAX_POINTS = 1 << 31
MIN_BITS = 1 / 64
"""Bits that a compressed point takes at least; a header that promises more points is wrong."""
_DAMAGED = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)
"""What laspy raises besides its own errors where a file is damaged; none of it names the file."""


def open_las(path: Path) -> Surface:
    """Open a LAS or LAZ file; points are read when they are asked for, with their scale and offset applied.

    Raises:
        DataError: The file is missing, damaged, or no LAS.
        MissingDependencyError: laspy, or lazrs for LAZ, is not installed.
    """
    try:
        import laspy  # noqa: F401
        import lazrs  # noqa: F401 - laspy decompresses with it
    except ImportError as error:
        raise MissingDependencyError(
            f"{path}: LAS and LAZ files need laspy and lazrs ({error}): pip install 'lg3d[las]', "
            "or convert the scan to PLY"
        ) from None
    with _opened(path) as reader:
        header = reader.header
        num_points, names = int(header.point_count), list(header.point_format.dimension_names)
        scales, offsets = np.asarray(header.scales, dtype=float), np.asarray(header.offsets, dtype=float)
        available = path.stat().st_size - int(header.offset_to_point_data)
        needed = num_points * (MIN_BITS / 8 if header.are_points_compressed else int(header.point_format.size))
    if not 0 <= num_points < MAX_POINTS or needed > available:
        raise DataError(
            f"{path}: the file is truncated: its header declares {num_points} points, {available} bytes follow it: "
            "copy or export it again"
        )
    if not (np.isfinite(scales).all() and np.isfinite(offsets).all() and (scales != 0).all()):
        raise DataError(f"{path}: the header has scales {scales.tolist()} and offsets {offsets.tolist()}: damaged")

    def positions(start: int, stop: int) -> npt.NDArray[np.float64]:
        points = _read(path, start, stop)
        with np.errstate(over="ignore"):
            return np.asarray(np.stack([np.asarray(points[axis]) for axis in "XYZ"], axis=1) * scales + offsets)

    colors: Callable[[int, int], npt.NDArray[np.uint8]] | None = None
    doubts: tuple[str, ...] = ()
    channels = find_channels(names)
    if channels is not None:
        colors, doubts = decide_colors(
            lambda start, stop: np.stack([np.asarray(_read(path, start, stop)[name]) for name in channels], axis=1),
            num_points,
        )
    return Surface(
        path=path,
        num_vertices=num_points,
        positions=positions,
        colors=colors,
        faces=np.zeros((0, 3), dtype=np.int32),
        is_double=True,
        doubts=doubts,
    )


def _read(path: Path, start: int, stop: int) -> "laspy.ScaleAwarePointRecord":
    with _opened(path) as reader:
        reader.seek(start)
        points = reader.read_points(stop - start)
        if len(points) != stop - start:
            raise DataError(
                f"{path}: the file is truncated: expected {reader.header.point_count} points, found "
                f"{start + len(points)}: copy or export it again"
            )
    return points


@contextmanager
def _opened(path: Path) -> "Iterator[laspy.LasReader]":
    import laspy
    import lazrs

    try:
        with laspy.open(path, laz_backend=laspy.LazBackend.Lazrs, read_evlrs=False) as reader:
            yield reader
    except (*_DAMAGED, laspy.errors.LaspyException, lazrs.LazrsError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: cannot be read as LAS ({reason}): copy or export it again") from None
