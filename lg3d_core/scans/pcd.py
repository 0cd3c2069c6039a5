"""Point clouds in PCD, the Point Cloud Library's format: ASCII, binary, and binary compressed with LZF.

Source: the format's description, version 0.7, https://pointclouds.org/documentation/tutorials/pcd_file_format.html.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError
from lg3d_core.scans.files import MAX_FILE_BYTES, read_file
from lg3d_core.scans.surface import Surface, as_doubles, colors_from_numbers, surface_in_memory

MAX_HEADER_BYTES = 1 << 14
KEYS = ("VERSION", "FIELDS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS", "DATA")
MAX_POINTS = 1 << 31


def open_pcd(path: Path) -> Surface:
    """Read a PCD file of at most 1 GiB; colours come from `rgb` or `rgba`, or from `r`, `g`, `b`.

    Raises:
        DataError: The file is missing, truncated, no PCD, or lacks x, y or z.
    """
    data = read_file(path)
    header, start = _read_header(data, path)
    record, num_points = _record(header, path)
    kind = header["DATA"][0]
    if kind == "ascii":
        columns = _read_ascii(data[start:], record, num_points, path)
    elif kind == "binary":
        columns = _read_binary(data, start, record, num_points, path)
    elif kind == "binary_compressed":
        columns = _read_compressed(data, start, record, num_points, path)
    else:
        raise DataError(f"{path}: DATA {kind}: expected ascii, binary or binary_compressed")
    missing = [axis for axis in "xyz" if axis not in columns or columns[axis].ndim != 1]
    if missing:
        raise DataError(f"{path}: expected fields x, y and z, found no {', '.join(missing)}")
    xyz = np.stack([columns[axis] for axis in "xyz"], axis=1)
    return surface_in_memory(path, xyz if xyz.dtype == np.float32 else as_doubles(xyz), _colors(columns), None)


def _read_header(data: bytes, path: Path) -> tuple[dict[str, list[str]], int]:
    header: dict[str, list[str]] = {}
    at = 0
    while "DATA" not in header:
        end = data.find(b"\n", at, MAX_HEADER_BYTES)
        if end < 0:
            raise DataError(f"{path}: expected a PCD file with a line DATA in its header, found none")
        words = data[at:end].decode("latin-1").split()
        at = end + 1
        if not words or words[0].startswith("#"):
            continue
        if words[0] not in KEYS or len(words) < 2:
            raise DataError(f"{path}: a header line that cannot be understood: {' '.join(words)[:80]!r}")
        header[words[0]] = words[1:]
    return header, at


def _record(header: dict[str, list[str]], path: Path) -> tuple[np.dtype[Any], int]:
    """The columns of a point as numpy's record, and the number of points."""
    try:
        names = header["FIELDS"]
        sizes = [int(size) for size in header["SIZE"]]
        counts = [int(count) for count in header.get("COUNT", ["1"] * len(names))]
        num_points = (
            int(header["POINTS"][0]) if "POINTS" in header else int(header["WIDTH"][0]) * int(header["HEIGHT"][0])
        )
        fields: list[Any] = []
        for k, (name, size, letter, count) in enumerate(zip(names, sizes, header["TYPE"], counts, strict=True)):
            kind = np.dtype(f"<{ {'F': 'f', 'I': 'i', 'U': 'u'}[letter] }{size}")
            unique = name if name != "_" else f"_{k}"
            fields.append((unique, kind) if count == 1 else (unique, kind, (count,)))
        record = np.dtype(fields)
        if not 0 <= num_points < MAX_POINTS or min(counts, default=1) < 0:
            raise ValueError
    except (KeyError, ValueError, TypeError):
        raise DataError(f"{path}: FIELDS, SIZE, TYPE, COUNT and POINTS do not make a table: export it again") from None
    return record, num_points


def _read_binary(
    data: bytes, start: int, record: np.dtype[Any], num_points: int, path: Path
) -> dict[str, npt.NDArray[Any]]:
    if start + num_points * record.itemsize > len(data):
        raise DataError(
            f"{path}: the file is truncated: {num_points} points need {num_points * record.itemsize} bytes, "
            f"found {len(data) - start}: copy or export it again"
        )
    rows = np.frombuffer(data, dtype=record, count=num_points, offset=start)
    return {name: rows[name] for name in record.names or ()}


def _read_ascii(text: bytes, record: np.dtype[Any], num_points: int, path: Path) -> dict[str, npt.NDArray[Any]]:
    widths = [record[name].shape[0] if record[name].shape else 1 for name in record.names or ()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            numbers = np.fromstring(text, dtype=np.float64, sep=" ")
        except (DeprecationWarning, ValueError):
            raise DataError(f"{path}: the data are not all numbers: export it again") from None
    if len(numbers) < num_points * sum(widths):
        raise DataError(
            f"{path}: the file is truncated: {num_points} points need {num_points * sum(widths)} numbers, "
            f"found {len(numbers)}: copy or export it again"
        )
    table = numbers[: num_points * sum(widths)].reshape(num_points, sum(widths))
    columns: dict[str, npt.NDArray[Any]] = {}
    at = 0
    for name, width in zip(record.names or (), widths, strict=True):
        kind = record[name].base
        values = table[:, at] if width == 1 else table[:, at : at + width]
        if kind.kind in "iu":
            limits = np.iinfo(kind)
            if not ((values >= limits.min) & (values <= limits.max)).all():
                raise DataError(f"{path}: field {name} has values outside {limits.min} to {limits.max}")
        with np.errstate(over="ignore", invalid="ignore"):  # beyond float32 becomes infinite, and is left out later
            columns[name] = values if name in "xyz" and kind.itemsize == 8 else values.astype(kind)
        at += width
    return columns


def _read_compressed(
    data: bytes, start: int, record: np.dtype[Any], num_points: int, path: Path
) -> dict[str, npt.NDArray[Any]]:
    """Two lengths as uint32, then all of the first field, all of the second, and so on, packed with LZF."""
    expected = num_points * record.itemsize
    if expected > MAX_FILE_BYTES:
        raise DataError(f"{path}: {num_points} points unpack to {expected} bytes, expected at most {MAX_FILE_BYTES}")
    lengths = np.frombuffer(data[start : start + 8].ljust(8, b"\0"), dtype="<u4")
    packed = data[start + 8 : start + 8 + int(lengths[0])]
    if len(packed) < int(lengths[0]) or int(lengths[1]) != expected:
        raise DataError(
            f"{path}: the file is truncated or damaged: {num_points} points need {expected} bytes unpacked and "
            f"{int(lengths[0])} packed, found {int(lengths[1])} and {len(packed)}: copy or export it again"
        )
    plain = unpack_lzf(packed, expected, path)
    columns: dict[str, npt.NDArray[Any]] = {}
    at = 0
    for name in record.names or ():
        kind = record[name]
        columns[name] = np.frombuffer(plain, dtype=kind, count=num_points, offset=at)
        at += num_points * kind.itemsize
    return columns


def unpack_lzf(packed: bytes, length: int, path: Path) -> bytes:
    """Unpack LZF: a control byte below 32 is followed by that many bytes and one more; another names a copy.

    Raises:
        DataError: The bytes are no LZF of that length.
    """
    out = bytearray()
    at = 0
    try:
        while at < len(packed):
            control = packed[at]
            at += 1
            if control < 32:
                out += packed[at : at + control + 1]
                at += control + 1
                continue
            count = control >> 5
            if count == 7:
                count += packed[at]
                at += 1
            begin = len(out) - ((control & 31) << 8) - packed[at] - 1
            at += 1
            if begin < 0 or len(out) > length:
                raise IndexError
            count += 2
            while count > 0:  # a copy may reach into what it is writing
                piece = out[begin : begin + count]
                out += piece
                begin += len(piece)
                count -= len(piece)
    except IndexError:
        raise DataError(f"{path}: the compressed data are damaged: copy or export it again") from None
    if len(out) != length:
        raise DataError(f"{path}: expected {length} bytes unpacked, found {len(out)}: copy or export it again")
    return bytes(out)


def _colors(columns: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.uint8] | None:
    for name in ("rgb", "rgba"):
        if name in columns and columns[name].ndim == 1 and columns[name].dtype.itemsize == 4:
            packed = np.ascontiguousarray(columns[name]).view(np.uint32)  # 0x00RRGGBB, often declared as a float
            return np.stack([(packed >> shift & 255).astype(np.uint8) for shift in (16, 8, 0)], axis=1)
    if all(name in columns and columns[name].ndim == 1 for name in "rgb"):
        values = np.stack([columns[name] for name in "rgb"], axis=1)
        unit_range = values.dtype.kind == "f" and float(np.nanmax(values, initial=0.0)) <= 1.0
        return colors_from_numbers(values, unit_range=unit_range)
    return None
