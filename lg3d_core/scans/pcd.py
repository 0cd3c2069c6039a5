"""Reader of PCD point clouds, the Point Cloud Library's format: ASCII, binary, and binary compressed with LZF.

Source: the format's description, version 0.7, https://pointclouds.org/documentation/tutorials/pcd_file_format.html.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError
from lg3d_core.scans.colors import (
    PACKED_NAMES,
    Colors,
    columns_as_rows,
    decide_colors,
    decide_packed_colors,
    find_channels,
)
from lg3d_core.scans.files import MAX_FILE_BYTES, read_file
from lg3d_core.scans.surface import EXACT_FLOAT32, Column, Surface, as_doubles, held_column, surface_in_memory

MAX_HEADER_BYTES = 1 << 14
KEYS = ("VERSION", "FIELDS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS", "DATA")
MAX_POINTS = 1 << 31


def open_pcd(path: Path) -> Surface:
    """Read a PCD file of at most 1 GiB; colours are read from three channels or from packed numbers.

    Raises:
        DataError: The file is missing, truncated, not PCD, or lacks x, y or z.
    """
    return open_pcd_columns(path)[0]


def open_pcd_columns(path: Path) -> tuple[Surface, dict[str, Column]]:
    """Read a PCD file as `open_pcd`; also return its fields by name."""
    columns, num_points = _read_columns(path)
    axes = {name.lower(): column for name, column in reversed(columns.items()) if column.ndim == 1}
    missing = [axis for axis in "xyz" if axis not in axes]
    if missing:
        raise DataError(f"{path}: expected fields x, y and z, found no {', '.join(missing)}")
    xyz = np.stack([axes[axis] for axis in "xyz"], axis=1)
    colors = _colors(columns, num_points)
    surface = surface_in_memory(
        path,
        xyz if xyz.dtype == np.float32 else as_doubles(xyz),
        None if colors is None or colors.read is None else colors.read(0, num_points),
        None,
        doubts=() if colors is None else colors.doubts,
    )
    return surface, {name: held_column(values) for name, values in columns.items()}


def _read_columns(path: Path) -> tuple[dict[str, npt.NDArray[Any]], int]:
    """Return the fields by name, and the number of points."""
    data = read_file(path)
    header, start = _read_header(data, path)
    record, num_points = _record(header, path)
    kind = header["DATA"][0]
    if kind == "ascii":
        return _read_ascii(data[start:], record, num_points, path), num_points
    if kind == "binary":
        return _read_binary(data, start, record, num_points, path), num_points
    if kind == "binary_compressed":
        return _read_compressed(data, start, record, num_points, path), num_points
    raise DataError(f"{path}: DATA {kind}: expected ascii, binary or binary_compressed")


def _read_header(data: bytes, path: Path) -> tuple[dict[str, list[str]], int]:
    header: dict[str, list[str]] = {}
    at = 0
    head = data[:MAX_HEADER_BYTES]
    first_cr, first_lf = head.find(b"\r"), head.find(b"\n")
    line_end = b"\r" if first_cr >= 0 and not 0 <= first_lf <= first_cr + 1 else b"\n"
    while "DATA" not in header:
        end = head.find(line_end, at)
        if end < 0:
            raise DataError(f"{path}: expected a PCD file with a line DATA in its header, found none")
        words = head[at:end].decode("latin-1").split()
        at = end + 1
        if not words or words[0].startswith("#"):
            continue
        key = {"COLUMNS": "FIELDS"}.get(words[0].upper(), words[0].upper())
        if key not in KEYS or len(words) < 2:
            raise DataError(f"{path}: invalid header line: {' '.join(words)[:80]!r}")
        header[key] = words[1:]
    return header, at


def _record(header: dict[str, list[str]], path: Path) -> tuple[np.dtype[Any], int]:
    """Return the columns of a point as a numpy record, and the number of points."""
    try:
        names = header["FIELDS"]
        sizes = [int(size) for size in header["SIZE"]]
        counts = [int(count) for count in header.get("COUNT", ["1"] * len(names))]
        num_points = (
            int(header["POINTS"][0]) if "POINTS" in header else int(header["WIDTH"][0]) * int(header["HEIGHT"][0])
        )
        fields: list[Any] = []
        types = header.get("TYPE", ["F"] * len(names))
        for k, (name, size, letter, count) in enumerate(zip(names, sizes, types, counts, strict=True)):
            kind = np.dtype(f"<{ {'F': 'f', 'I': 'i', 'U': 'u'}[letter.upper()] }{size}")
            unique = name if name != "_" else f"_{k}"
            fields.append((unique, kind) if count == 1 else (unique, kind, (count,)))
        record = np.dtype(fields)
        if not 0 <= num_points < MAX_POINTS or min(counts, default=1) < 0:
            raise ValueError
    except (KeyError, ValueError, TypeError):
        raise DataError(f"{path}: FIELDS, SIZE, TYPE, COUNT and POINTS are inconsistent: export it again") from None
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
            numbers = np.fromstring(text, dtype=np.float64, sep=" ") if text.strip() else np.zeros(0)
        except (DeprecationWarning, ValueError):
            raise DataError(f"{path}: the data contain text that is not a number: export it again") from None
    if len(numbers) != num_points * sum(widths):
        state = "truncated" if len(numbers) < num_points * sum(widths) else "longer than its header says"
        raise DataError(
            f"{path}: the file is {state}: {num_points} points need {num_points * sum(widths)} numbers, "
            f"found {len(numbers)}: copy or export it again"
        )
    table = numbers.reshape(num_points, sum(widths))
    columns: dict[str, npt.NDArray[Any]] = {}
    at = 0
    for name, width in zip(record.names or (), widths, strict=True):
        kind = record[name].base
        values = table[:, at] if width == 1 else table[:, at : at + width]
        if kind.kind in "iu":
            limits = np.iinfo(kind)
            if not ((values >= limits.min) & (values <= limits.max)).all():
                raise DataError(f"{path}: field {name} has values outside {limits.min} to {limits.max}")
        with np.errstate(over="ignore", invalid="ignore"):  # larger values become infinite and are dropped later
            columns[name] = values if _keeps_double(name, kind, values) else values.astype(kind)
        at += width
    return columns


def _keeps_double(name: str, kind: np.dtype[Any], values: npt.NDArray[np.float64]) -> bool:
    """Return whether positions of a text file have digits that float32 would lose."""
    if name.lower() not in ("x", "y", "z") or kind.kind != "f":
        return False
    return kind.itemsize == 8 or bool(np.abs(values[np.isfinite(values)]).max(initial=0) > EXACT_FLOAT32)


def _read_compressed(
    data: bytes, start: int, record: np.dtype[Any], num_points: int, path: Path
) -> dict[str, npt.NDArray[Any]]:
    """Read the compressed form: two lengths as uint32, then the fields one after another, compressed with LZF."""
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
    """Decompress LZF: a control byte below 32 precedes that many literal bytes plus one; others encode a copy.

    Raises:
        DataError: The bytes are not LZF data of this length.
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
            while count > 0:  # a copy may overlap its own output
                piece = out[begin : begin + count]
                out += piece
                begin += len(piece)
                count -= len(piece)
    except IndexError:
        raise DataError(f"{path}: the compressed data are damaged: copy or export it again") from None
    if len(out) != length:
        raise DataError(f"{path}: expected {length} bytes unpacked, found {len(out)}: copy or export it again")
    return bytes(out)


def _colors(columns: dict[str, npt.NDArray[Any]], num_points: int) -> Colors | None:
    """Return the colours of separate channels, of a vector, or of packed numbers; None if the file has none."""
    plain = [name for name, column in columns.items() if column.ndim == 1]
    channels = find_channels(plain)
    if channels is not None:
        return decide_colors(columns_as_rows([columns[name] for name in channels]), num_points)
    by_name = {name.lower(): columns[name] for name in reversed(columns)}
    for name in PACKED_NAMES:
        column = by_name.get(name)
        if column is None:
            continue
        if column.ndim == 2 and column.shape[1] in (3, 4):
            return decide_colors(columns_as_rows(list(column.T[:3])), num_points)
        if column.ndim == 1 and (colors := decide_packed_colors(column)) is not None:
            return colors
    return None
