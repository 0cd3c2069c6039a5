"""PLY of any origin: ASCII or binary, mesh or points, with or without colours; binary files stay on the disk."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError
from lg3d_core.scans.files import read_file
from lg3d_core.scans.ply import FACE_LISTS, MAX_HEADER_BYTES, Element, parse_header
from lg3d_core.scans.surface import CHUNK_ROWS, Surface, as_doubles, colors_from_numbers

COLOR_NAMES = (
    ("red", "green", "blue"),
    ("r", "g", "b"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),
)
MAX_CORNERS = 255


class _Rows(NamedTuple):
    """An element's rows.

    Attributes:
        columns: Plain numbers by name.
        lists: Rows of lists that all have one length, shape `(rows, length)`, by name.
    """

    columns: dict[str, npt.NDArray[Any]]
    lists: dict[str, npt.NDArray[Any]]


def open_ply(path: Path) -> Surface:
    """Open a PLY file as a surface; the vertices of a binary one are read when they are asked for.

    Faces of more than three corners become fans of triangles; faces of two corners or fewer are left out.

    Raises:
        DataError: The file is missing, truncated, no PLY, without vertices' positions, or has faces that name vertices
            which it lacks.
    """
    head = _read_head(path)
    order, elements, start = parse_header(head, path)
    by_name = {element.name: element for element in elements}
    if "vertex" not in by_name:
        raise DataError(f"{path}: the header has no element vertex: is this a scan?")
    names = [p.name for p in by_name["vertex"].properties if p.count_type is None]
    missing = [name for name in "xyz" if name not in names]
    if missing:
        raise DataError(f"{path}: expected vertex properties x, y and z, found no {', '.join(missing)}")
    found = _map_binary(path, start, elements, order) if order else _parse_ascii(path, start, elements)
    vertex = found["vertex"].columns
    channels = next((group for group in COLOR_NAMES if all(name in vertex for name in group)), None)
    num_vertices = by_name["vertex"].num_rows
    return Surface(
        path=path,
        num_vertices=num_vertices,
        positions=lambda first, last: np.stack([as_doubles(vertex[axis][first:last]) for axis in "xyz"], axis=1),
        colors=None if channels is None else _color_reader(vertex, channels),
        faces=_triangles(found.get("face"), num_vertices, path),
        is_double=vertex["x"].dtype.itemsize == 8,
    )


def _read_head(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise DataError(f"{path}: expected a file, found {'something else' if path.exists() else 'nothing'}")
        with path.open("rb") as stream:
            return stream.read(MAX_HEADER_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _color_reader(vertex: dict[str, npt.NDArray[Any]], channels: Sequence[str]) -> Any:
    columns = [vertex[name] for name in channels]
    unit_range = False
    if columns[0].dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            highest = max(
                (
                    float(np.nanmax(column[start : start + CHUNK_ROWS], initial=0.0))
                    for column in columns
                    for start in range(0, len(column), CHUNK_ROWS)
                ),
                default=0.0,
            )
        unit_range = highest <= 1.0
    return lambda start, stop: colors_from_numbers(
        np.stack([column[start:stop] for column in columns], axis=1), unit_range=unit_range
    )


def _map_binary(path: Path, start: int, elements: list[Element], order: str) -> dict[str, _Rows]:
    size = path.stat().st_size
    data = np.memmap(path, dtype=np.uint8, mode="r") if size else np.zeros(0, dtype=np.uint8)
    offset = start
    found: dict[str, _Rows] = {}
    for element in elements:
        # A row takes a byte at least: what is declared is held against the file before anything is made of it.
        smallest = sum(np.dtype(p.count_type or p.type).itemsize for p in element.properties)
        if element.num_rows * smallest > size - offset:
            raise DataError(
                f"{path}: the file is truncated: {element.num_rows} {element.name} rows need at least "
                f"{element.num_rows * smallest} bytes, found {max(0, size - offset)}: copy or export it again"
            )
        rows, offset = _map_element(data, offset, element, order, path)
        if rows is None:
            if element.name == "vertex" or {"vertex"} - set(found):
                raise DataError(f"{path}: element {element.name} has lists of different lengths before the vertices")
            break
        found[element.name] = rows
    return found


def _map_element(
    data: npt.NDArray[np.uint8], offset: int, element: Element, order: str, path: Path
) -> tuple[_Rows | None, int]:
    """Rows of an element as views into the file, and the byte behind them; faces of mixed lengths are walked."""
    fields: list[Any] = []
    at = offset
    for p in element.properties:
        number = np.dtype(order + p.type)
        if p.count_type is None:
            fields.append((p.name, number))
            at += number.itemsize
            continue
        count = np.dtype(order + p.count_type)
        length = int(data[at : at + count.itemsize].view(count)[0]) if element.num_rows else 0
        if not 0 <= length <= max(MAX_CORNERS, len(data)):
            raise DataError(f"{path}: element {element.name} has a list of {length} entries: the file is damaged")
        fields += [(f"{p.name} length", count), (p.name, number, (length,))]
        at += count.itemsize + length * number.itemsize
    if not fields:  # rows without properties take no bytes
        return _Rows({}, {}), offset
    record = np.dtype(fields)
    end = offset + element.num_rows * record.itemsize
    lists = [p for p in element.properties if p.count_type is not None]
    if end <= len(data):
        rows = data[offset:end].view(record) if element.num_rows else np.zeros(0, dtype=record)
        if all((rows[f"{p.name} length"] == rows[f"{p.name} length"][:1]).all() for p in lists):
            names = [p.name for p in element.properties if p.count_type is None]
            return _Rows({name: rows[name] for name in names}, {p.name: rows[p.name] for p in lists}), end
    elif not lists:
        raise DataError(
            f"{path}: the file is truncated: {element.num_rows} {element.name} rows need {end - offset} bytes, "
            f"found {len(data) - offset}: copy or export it again"
        )
    if element.name != "face":
        return None, offset
    return _walk_faces(data, offset, element, order, path)


def _walk_faces(
    data: npt.NDArray[np.uint8], offset: int, element: Element, order: str, path: Path
) -> tuple[_Rows, int]:
    """Triangles of faces whose lists have different lengths, row by row."""
    buffer: Any = data
    steps = [
        (
            p.name in FACE_LISTS,
            np.dtype(order + p.type),
            None if p.count_type is None else np.dtype(order + p.count_type),
        )
        for p in element.properties
    ]
    corners: list[npt.NDArray[Any]] = []
    at = offset
    for row in range(element.num_rows):
        for is_corners, number, count in steps:
            length = 1
            if count is not None:
                if at + count.itemsize > len(data):
                    break
                length = int(np.frombuffer(buffer, count, 1, at)[0])
                at += count.itemsize
            if length < 0 or at + length * number.itemsize > len(data):
                at = len(data) + 1
                break
            if is_corners and count is not None:
                corners.append(np.frombuffer(buffer, number, length, at))
            at += length * number.itemsize
        if at > len(data):
            raise DataError(
                f"{path}: the file is truncated or damaged in face {row} of {element.num_rows}: copy or export it again"
            )
    return _Rows({}, {FACE_LISTS[0]: _fan_mixed(corners, path)}), at


def _fan_mixed(corners: list[npt.NDArray[Any]], path: Path) -> npt.NDArray[np.int64]:
    by_length: dict[int, list[npt.NDArray[Any]]] = {}
    for row in corners:
        by_length.setdefault(len(row), []).append(row)
    stacked = [np.stack(rows) for rows in by_length.values()]
    for rows in stacked:
        if rows.dtype.kind == "f" and not ((np.abs(rows) < 2**53) & (rows == np.floor(rows))).all():
            raise DataError(f"{path}: expected faces of whole numbers")
    fans = [_fan(rows.astype(np.int64)) for rows in stacked]
    return np.concatenate(fans) if fans else np.zeros((0, 3), dtype=np.int64)


def _fan(polygons: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Triangles of polygons of one length, shape `(faces * (length - 2), 3)`."""
    length = polygons.shape[1]
    if length == 3:
        return polygons
    if length < 3:
        return np.zeros((0, 3), dtype=np.int64)
    parts = [polygons[:, [0, k, k + 1]] for k in range(1, length - 1)]
    return np.stack(parts, axis=1).reshape(-1, 3)


def _parse_ascii(path: Path, start: int, elements: list[Element]) -> dict[str, _Rows]:
    text = read_file(path)[start:]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            numbers = np.fromstring(text, dtype=np.float64, sep=" ")
        except (DeprecationWarning, ValueError):
            raise DataError(f"{path}: the data are not all numbers: copy or export it again") from None
    at = 0
    found: dict[str, _Rows] = {}
    for element in elements:
        rows, at = _take_rows(numbers, at, element, path)
        found[element.name] = rows
    return found


def _take_rows(numbers: npt.NDArray[np.float64], at: int, element: Element, path: Path) -> tuple[_Rows, int]:
    """An element's rows out of a stream of numbers."""
    lists = [p for p in element.properties if p.count_type is not None]
    columns: dict[str, npt.NDArray[Any]] = {}
    if not lists:
        width = len(element.properties)
        end = at + element.num_rows * width
        _require_numbers(end, numbers, element, path)
        table = numbers[at:end].reshape(element.num_rows, width)
        for k, p in enumerate(element.properties):
            kind = np.dtype(p.type)
            columns[p.name] = table[:, k] if kind.kind == "f" else _whole(table[:, k], kind, p.name, path)
        return _Rows(columns, {}), end
    corners: list[npt.NDArray[Any]] = []
    for _ in range(element.num_rows):
        for p in element.properties:
            length = 1
            if p.count_type is not None:
                _require_numbers(at + 1, numbers, element, path)
                length = int(numbers[at]) if 0 <= numbers[at] <= len(numbers) else len(numbers)
                at += 1
            _require_numbers(at + length, numbers, element, path)
            if p.name in FACE_LISTS and p.count_type is not None:
                corners.append(numbers[at : at + length])
            at += length
    return _Rows(columns, {FACE_LISTS[0]: _fan_mixed(corners, path)} if element.name == "face" else {}), at


def _whole(values: npt.NDArray[np.float64], kind: np.dtype[Any], name: str, path: Path) -> npt.NDArray[Any]:
    limits = np.iinfo(kind)
    if not ((values >= limits.min) & (values <= limits.max)).all():
        raise DataError(f"{path}: property {name} has values outside {limits.min} to {limits.max}")
    return values.astype(kind)


def _require_numbers(end: int, numbers: npt.NDArray[np.float64], element: Element, path: Path) -> None:
    if end > len(numbers):
        raise DataError(
            f"{path}: the file is truncated: it ends within its {element.num_rows} {element.name} rows "
            f"({len(numbers)} numbers found): copy or export it again"
        )


def _triangles(face: _Rows | None, num_vertices: int, path: Path) -> npt.NDArray[np.integer]:
    name = None if face is None else next((name for name in FACE_LISTS if name in face.lists), None)
    if face is None or name is None or len(face.lists[name]) == 0:
        return np.zeros((0, 3), dtype=np.int32)
    triangles: npt.NDArray[np.integer] = _fan(face.lists[name])
    if triangles.dtype.kind == "f":
        raise DataError(f"{path}: expected faces of whole numbers")
    if len(triangles) and not (int(triangles.min()) >= 0 and int(triangles.max()) < num_vertices):
        raise DataError(
            f"{path}: faces name vertices {int(triangles.min())} to {int(triangles.max())}, the file has {num_vertices}"
        )
    return triangles
