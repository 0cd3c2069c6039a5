"""Reader of LAS and LAZ point clouds, the formats of laser scanners, based on laspy; points are read in chunks."""

import functools
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError, MissingDependencyError
from lg3d_core.scans.colors import decide_colors, find_channels
from lg3d_core.scans.surface import Column, Surface

if TYPE_CHECKING:
    import laspy

MAX_POINTS = 1 << 31
MIN_BITS = 1 / 64
"""Minimum bits of a compressed point; a header that promises more points is wrong."""
HEADER_BYTES, RECORDS_AT, FORMAT_AT, RECORD_BYTES, MIN_CHUNK_BYTES = 227, 94, 104, 54, 20
"""Size of the shortest header in bytes; offsets of its own size, of the start of the points and of the number of
records, and of the point format; sizes of the shortest record and of the shortest compressed chunk, which begins with
one uncompressed point. Source: ASPRS LAS 1.4, table 3 and section 2.5."""
LAYERS = {6: 9, 7: 10, 8: 11, 9: 10, 10: 12}
"""Number of layers of a compressed chunk by point format, without those of extra bytes. Source: LASzip 3."""
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
"""Exceptions besides laspy's own that laspy raises for damaged files; their messages do not name the file."""


def open_las(path: Path) -> Surface:
    """Open a LAS or LAZ file; points are read on demand, with their scale and offset applied.

    Raises:
        DataError: The file is missing, damaged, or not LAS.
        MissingDependencyError: laspy, or lazrs for LAZ, is not installed.
    """
    return open_las_columns(path)[0]


def open_las_columns(path: Path) -> tuple[Surface, dict[str, Column]]:
    """Open a LAS or LAZ file as `open_las`; also return the dimensions of its points by name."""
    try:
        import laspy  # noqa: F401
        import lazrs  # noqa: F401 - laspy decompresses with it
    except ImportError as error:
        raise MissingDependencyError(
            f"{path}: LAS and LAZ files need laspy and lazrs ({error}): pip install 'lg3d[las]', "
            "or convert the scan to PLY"
        ) from None
    _require_honest_header(path)
    with _opened(path) as reader:
        header = reader.header
        num_points, names = int(header.point_count), list(header.point_format.dimension_names)
        scales, offsets = np.asarray(header.scales, dtype=float), np.asarray(header.offsets, dtype=float)
        if header.are_points_compressed and header.point_format.id in LAYERS:
            _require_honest_layers(path, header)
        available = path.stat().st_size - int(header.offset_to_point_data)
        needed = num_points * (MIN_BITS / 8 if header.are_points_compressed else int(header.point_format.size))
    if not 0 <= num_points < MAX_POINTS or needed > available:
        raise DataError(
            f"{path}: the file is truncated: its header declares {num_points} points, {available} bytes follow it: "
            "copy or export it again"
        )
    if not (np.isfinite(scales).all() and np.isfinite(offsets).all() and (scales != 0).all()):
        raise DataError(
            f"{path}: the header has scales {scales.tolist()} and offsets {offsets.tolist()}: the file is damaged"
        )

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
    surface = Surface(
        path=path,
        num_vertices=num_points,
        positions=positions,
        colors=colors,
        faces=np.zeros((0, 3), dtype=np.int32),
        is_double=True,
        doubts=doubts,
    )

    @functools.cache
    def points() -> "laspy.ScaleAwarePointRecord":
        return _read(path, 0, num_points)

    def later(name: str) -> Column:
        return lambda: np.asarray(points()[name])

    return surface, {name: later(name) for name in names}


def _require_honest_header(path: Path) -> None:
    """Raise DataError if a header promises more records than the file can hold: laspy would allocate all of them."""
    try:
        if not path.is_file():
            raise DataError(f"{path}: expected a file, found something else")
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
            num_chunks = _count_chunks(file, head, size)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if len(head) < HEADER_BYTES or not head.startswith(b"LASF"):
        raise DataError(
            f"{path}: expected a LAS file that begins with 'LASF' and has at least {HEADER_BYTES} bytes, found "
            f"{head[:12]!r} ({size} bytes)"
        )
    header_size, start, num_records = struct.unpack_from("<HII", head, RECORDS_AT)
    if header_size + num_records * RECORD_BYTES > min(start, size) or start > size:
        raise DataError(
            f"{path}: the file is truncated or damaged: its header declares {num_records} records in {start} bytes, "
            f"the file has {size}: copy or export it again"
        )
    if num_chunks * MIN_CHUNK_BYTES > size:
        raise DataError(f"{path}: the file is damaged: it declares {num_chunks} chunks in {size} bytes")


def _count_chunks(file: BinaryIO, head: bytes, size: int) -> int:
    """Return the number of chunks that the table of a LAZ file declares (lazrs allocates all of them), 0 for LAS.

    The eight bytes before the first point, or the last eight of a streamed file, hold the table's position.
    """
    if len(head) < HEADER_BYTES or not head[FORMAT_AT] & 0xC0:
        return 0
    (start,) = struct.unpack_from("<I", head, RECORDS_AT + 2)
    for at in (start, size - 8):
        file.seek(max(at, 0))
        (place,) = struct.unpack("<q", file.read(8).ljust(8, b"\xff"))
        if 0 <= place <= size - 8:
            file.seek(place + 4)
            return int.from_bytes(file.read(4), "little")
    return 0


def _require_honest_layers(path: Path, header: "laspy.LasHeader") -> None:
    """Raise DataError if a chunk's layers are longer than the file: lazrs would allocate them."""
    import lazrs

    size = path.stat().st_size
    form, at = header.point_format, int(header.offset_to_point_data) + 8
    num_layers = LAYERS[form.id] + int(form.num_extra_bytes)
    with path.open("rb") as file:
        file.seek(at - 8)
        records = header.vlrs.get("LasZipVlr")
        chunks = lazrs.read_chunk_table(file, lazrs.LazVlr(records[0].record_data_bytes())) if records else None
        for _, num_bytes in chunks or ():
            file.seek(at + int(form.size) + 4)
            lengths = np.frombuffer(file.read(4 * num_layers).ljust(4 * num_layers, b"\0"), dtype="<u4")
            if int(lengths.sum(dtype=np.int64)) > size:
                raise DataError(f"{path}: the file is damaged: a chunk declares {lengths.sum()} bytes of {size}")
            at += num_bytes


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
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # lazrs panics, which are not subclasses of Exception
            raise
        raise DataError(f"{path}: the compressed points are damaged: copy or export it again") from None
