"""Reader of E57 point clouds, the format of terrestrial laser scanners, based on pye57."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError, MissingDependencyError
from lg3d_core.scans.colors import colors_as_bytes
from lg3d_core.scans.surface import CHUNK_ROWS, Surface, surface_in_memory

CARTESIAN = ("cartesianX", "cartesianY", "cartesianZ")
SPHERICAL = ("sphericalRange", "sphericalAzimuth", "sphericalElevation")
CHANNELS = ("colorRed", "colorGreen", "colorBlue")
INVALID = ("cartesianInvalidState", "sphericalInvalidState")
MAX_POINTS = 1 << 27
"""Maximum number of points of all scans of a file, which are held in memory (about 4 GB)."""


def open_e57(path: Path) -> Surface:
    """Read the scans of an E57 file and transform each by its pose.

    Invalid points keep their row, with NaN as position.

    Raises:
        DataError: The file is missing, damaged, too large, or not E57.
        MissingDependencyError: pye57 is not installed.
    """
    try:
        import pye57
    except ImportError as error:
        raise MissingDependencyError(
            f"{path}: E57 files need pye57 ({error}): pip install 'lg3d[e57]', or convert the scan to PLY"
        ) from None
    try:
        file = pye57.E57(str(path))
        try:
            headers = [file.get_header(k) for k in range(file.scan_count)]
            num_points = sum(header.point_count for header in headers)
            if num_points > MAX_POINTS:
                raise DataError(f"{path}: expected at most {MAX_POINTS} points, found {num_points}: split the file")
            scans = [_read_scan(file, header) for header in headers if header.point_count]
        finally:
            file.close()
    except (
        pye57.libe57.E57Exception,
        ArithmeticError,
        LookupError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: cannot be read as E57 ({reason}): copy or export it again") from None
    if not scans:
        raise DataError(f"{path}: the scan has no vertices")
    xyz = np.concatenate([xyz for xyz, _ in scans])
    doubts: list[str] = []
    rgb = None
    if any(values is not None for _, values in scans):
        parts = []
        for k, (points, values) in enumerate(scans):
            own, own_doubts = (None, ("no colours",)) if values is None else colors_as_bytes(values)
            doubts += [f"scan {k + 1} of {len(scans)}: {doubt}" if len(scans) > 1 else doubt for doubt in own_doubts]
            parts.append(np.full((len(points), 3), 128, dtype=np.uint8) if own is None else own)
            rgb = parts if own is not None else rgb
    return surface_in_memory(path, xyz, None if rgb is None else np.concatenate(rgb), None, doubts=tuple(doubts))


def _read_scan(file: Any, header: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[Any] | None]:
    """Return positions of a scan in the file's frame, and its colours as stored, shape `(points, 3)` or None."""
    import pye57

    fields = set(header.point_fields)
    axes = next((axes for axes in (CARTESIAN, SPHERICAL) if fields >= set(axes)), None)
    if axes is None:
        raise ValueError("a scan without cartesian or spherical positions")
    channels = CHANNELS if fields >= set(CHANNELS) else ()
    invalid = tuple(name for name in INVALID if name in fields and name[:4] == axes[0][:4])
    names = (*axes, *channels, *invalid)
    buffers = pye57.libe57.VectorSourceDestBuffer()
    arrays = {}
    for name in names:
        arrays[name], buffer = file.make_buffer(name, min(header.point_count, CHUNK_ROWS))
        buffers.append(buffer)
    reader = header.points.reader(buffers)
    xyz = np.empty((header.point_count, 3))
    rgb = np.empty((header.point_count, 3), dtype=arrays[channels[0]].dtype) if channels else None
    row = 0
    while count := reader.read():
        for k in range(3):
            xyz[row : row + count, k] = arrays[axes[k]][:count]
            if rgb is not None:
                rgb[row : row + count, k] = arrays[channels[k]][:count]
        for name in invalid:
            xyz[row : row + count][arrays[name][:count] != 0] = np.nan  # 1: the direction alone is valid
        row += count
    reader.close()
    if row != header.point_count:
        raise ValueError(f"{header.point_count} points declared, {row} found")
    if axes == SPHERICAL:
        distance, azimuth, elevation = xyz.T.copy()
        xyz[:, 0] = distance * np.cos(elevation) * np.cos(azimuth)
        xyz[:, 1] = distance * np.cos(elevation) * np.sin(azimuth)
        xyz[:, 2] = distance * np.sin(elevation)
    if header.has_pose():
        with np.errstate(invalid="ignore", over="ignore"):
            xyz = xyz @ np.asarray(header.rotation_matrix).T + header.translation
    return xyz, rgb
