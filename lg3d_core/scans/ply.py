"""PLY files: a bounded reader of meshes and points of any program, a strict reader of ScanNet's meshes, and a writer.

Binary files are memory-mapped, so that the vertices of a large scan are read on demand.
"""

import struct
import warnings
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError, ShapeError
from lg3d_core.scans.colors import (
    PACKED_NAMES,
    SPLAT_NAMES,
    Colors,
    columns_as_rows,
    decide_colors,
    decide_packed_colors,
    find_channels,
    splat_rows,
)
from lg3d_core.scans.files import read_file
from lg3d_core.scans.surface import CHUNK_ROWS, EXACT_FLOAT32, Column, Surface, as_doubles

# Names of the number types in a header, and their numpy types without byte order.
INTEGER_TYPES = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"}
SIZED_TYPES = {f"{kind}int{8 * size}": f"{kind or 'i'}{size}" for kind in ("", "u") for size in (1, 2, 4, 8)}
FLOAT_TYPES = {"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"}
NUMBER_TYPES = INTEGER_TYPES | SIZED_TYPES | FLOAT_TYPES
BYTE_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}
VERTEX_NAMES = ("vertex", "vertices", "point", "points")
FACE_LISTS = ("vertex_indices", "vertex_index")
MAX_HEADER_BYTES = 1 << 16
MAX_TRAILING_BYTES = 2
"""Number of bytes after the last element that cause no warning: a line end."""

Numbers = npt.NDArray[Any]


class Mesh(NamedTuple):
    """Triangle mesh.

    Attributes:
        xyz: Vertices in metres, shape `(vertices, 3)`, float32.
        rgb: Vertex colours, shape `(vertices, 3)`, uint8.
        faces: Rows of the corners of each triangle, shape `(faces, 3)`, int32.
    """

    xyz: npt.NDArray[np.float32]
    rgb: npt.NDArray[np.uint8]
    faces: npt.NDArray[np.int32]


class Property(NamedTuple):
    """Property of an element, as declared in the header."""

    name: str
    type: str
    count_type: str | None
    """Type of the length in front of a list; None for a number."""


class Element(NamedTuple):
    """Element of a PLY file, as declared in the header."""

    name: str
    num_rows: int
    properties: list[Property]

    def size(self, list_length: int) -> int:
        """Return the bytes of one row whose lists have a length."""
        return sum(_row_sizes(self, list_length, is_text=False))

    def num_values(self, list_length: int) -> int:
        """Return the number of values of one row whose lists have a length."""
        return sum(_row_sizes(self, list_length, is_text=True))


class Header(NamedTuple):
    """Header of a PLY file.

    Attributes:
        order: Byte order of the data, "<" or ">", "" for ASCII.
        elements: Elements in the file's order.
        start: Byte at which the data start.
        comments: Texts of the comment lines.
    """

    order: str
    elements: list[Element]
    start: int
    comments: list[str]


class Lists(NamedTuple):
    """Lists of one property.

    Attributes:
        counts: Length of each list, shape `(rows,)`, int64.
        values: Concatenated lists, shape `(sum of counts,)`.
    """

    counts: npt.NDArray[np.int64]
    values: Numbers


class Table(NamedTuple):
    """Rows of an element; each property is read on demand.

    Attributes:
        columns: Number columns by name, shape `(rows,)`.
        lists: Lists by name, shape `(rows, length)` if all have the same length, else `Lists`.
    """

    columns: dict[str, Column]
    lists: dict[str, Callable[[], "Numbers | Lists"]]


def open_ply(path: Path) -> Surface:
    """Open a PLY file as a surface; the vertices of a binary file are read on demand.

    Faces of more than three corners become triangle fans, strips become triangles, and faces of two corners or fewer
    are dropped. Face colours are averaged at their vertices.

    Raises:
        DataError: The file is missing, truncated, not PLY, has no vertex positions, or has faces with missing vertices.
    """
    return open_ply_columns(path)[0]


def open_ply_columns(path: Path) -> tuple[Surface, dict[str, Column]]:
    """Open a PLY file as `open_ply`; also return the number properties of its vertices by name."""
    header = parse_header(_read_head(path), path)
    vertices = _find_vertices(header, path)
    tables, rest = _open_tables(path, header)
    doubts: list[str] = []
    if rest > MAX_TRAILING_BYTES:
        doubts.append(f"{rest} bytes after the last element are ignored: the header may be wrong")
    table, num_vertices = tables[vertices.name], vertices.num_rows
    axes = _axes(vertices)
    xyz = [table.columns[name]() for name in axes]
    if not header.order:
        xyz = [_as_declared(column, p, path) for column, p in zip(xyz, _properties(vertices, axes), strict=True)]
    corners = _corner_lists(header, tables, doubts)
    faces = _triangles(corners, num_vertices, path)
    colors = _open_colors(header, vertices, tables, corners, doubts)
    surface = Surface(
        path=path,
        num_vertices=num_vertices,
        positions=lambda first, last: np.stack([as_doubles(column[first:last]) for column in xyz], axis=1),
        colors=colors,
        faces=faces,
        is_double=any(_needs_double(column) for column in xyz),
        doubts=tuple(doubts),
    )
    return surface, table.columns


class FaceValues(NamedTuple):
    """Faces of a PLY file with a number of each.

    Attributes:
        counts: Number of corners of each face, shape `(faces,)`, int64.
        corners: Concatenated corners, shape `(sum of counts,)`, int64.
        values: Number of each face, shape `(faces,)`.
    """

    counts: npt.NDArray[np.int64]
    corners: npt.NDArray[np.int64]
    values: Numbers


def read_face_values(path: Path, name: str) -> FaceValues:
    """Return the faces of a PLY file with a number property of theirs.

    Raises:
        DataError: As `open_ply`, or the faces have no such property, or use missing vertices.
    """
    header = parse_header(_read_head(path), path)
    tables, _ = _open_tables(path, header)
    num_vertices = _find_vertices(header, path).num_rows
    for element, lists in _corner_lists(header, tables, []).items():
        if name not in tables[element].columns:
            continue
        if isinstance(lists, Lists):
            counts, corners = lists.counts, _whole_corners(lists.values, path).astype(np.int64)
        else:
            counts = np.full(len(lists), lists.shape[1], dtype=np.int64)
            corners = _whole_corners(lists, path).astype(np.int64).reshape(-1)
        if len(corners) and not 0 <= int(corners.min()) <= int(corners.max()) < num_vertices:
            raise DataError(f"{path}: faces use vertices outside of 0 to {num_vertices - 1}")
        return FaceValues(counts, corners, tables[element].columns[name]())
    raise DataError(f"{path}: expected faces with a property {name}, found none")


def read_ply(path: Path) -> Mesh:
    """Read a mesh of triangles with coloured vertices in ScanNet's form.

    Binary of either byte order and ASCII are accepted, as are coordinates in double precision and further properties
    and elements, which are ignored. The header is checked against the file's size before anything is allocated.
    Coordinates may be NaN or infinite; the caller checks them.

    Raises:
        DataError: The file is missing, truncated, does not match its header, lacks coordinates or colours, or has faces
            that are not triangles of existing vertices.
    """
    return parse_ply(read_file(path), path)


def parse_ply(data: bytes, path: Path) -> Mesh:
    """Read a mesh from the bytes of a PLY file; `path` is used in errors only. See `read_ply`."""
    header = parse_header(data, path)
    _require_mesh(header.elements, path)
    tables, rest = _parse_tables(np.frombuffer(data, dtype=np.uint8), header, path)
    if rest:
        _refuse_size(header, len(data), path, state="longer than its header says")
    vertex = tables["vertex"].columns
    num_vertices = next(e.num_rows for e in header.elements if e.name == "vertex")
    xyz = np.empty((num_vertices, 3), dtype=np.float32)
    rgb = np.empty((num_vertices, 3), dtype=np.uint8)
    for k in range(3):
        channel = ("red", "green", "blue")[k]
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # values beyond float32 become infinite; the caller checks them
            xyz[:, k] = vertex["xyz"[k]]()
        values = vertex[channel]()
        rgb[:, k] = values if header.order else _whole_numbers(values, channel, 0, 255, path)
    face = tables.get("face")
    if face is None:
        return Mesh(xyz, rgb, np.empty((0, 3), dtype=np.int32))
    (lists,) = face.lists.values()
    corners = _require_triangles(lists(), path)
    if not header.order:
        corners = _whole_numbers(corners, "a corner", -(2**31), 2**31 - 1, path)
    if len(corners) and not (int(corners.min()) >= 0 and int(corners.max()) < num_vertices):
        row = int(np.flatnonzero(((corners < 0) | (corners >= num_vertices)).any(axis=1))[0])
        raise DataError(f"{path}: face {row} has corners {corners[row].tolist()}, expected 0 to {num_vertices - 1}")
    return Mesh(xyz, rgb, np.ascontiguousarray(corners, dtype=np.int32))


def write_ply(path: Path, mesh: Mesh) -> None:
    """Write a mesh in ScanNet's form: binary little endian, opaque alpha, faces as lists of ints with a length.

    Raises:
        ShapeError: The arrays have inconsistent shapes.
    """
    xyz, rgb, faces = mesh
    if xyz.ndim != 2 or xyz.shape[1] != 3 or rgb.shape != xyz.shape or faces.ndim != 2 or faces.shape[1] != 3:
        raise ShapeError(
            f"a mesh has xyz (N, 3), rgb (N, 3) and faces (F, 3), got {xyz.shape}, {rgb.shape} and {faces.shape}"
        )
    vertex = np.empty(len(xyz), dtype=[("xyz", "<f4", (3,)), ("rgb", "u1", (3,)), ("alpha", "u1")])
    vertex["xyz"], vertex["rgb"], vertex["alpha"] = xyz, rgb, 255
    face = np.empty(len(faces), dtype=[("length", "u1"), ("corners", "<i4", (3,))])
    face["length"], face["corners"] = 3, faces
    header = (
        "ply\nformat binary_little_endian 1.0\n"
        f"element vertex {len(xyz)}\nproperty float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\nproperty uchar alpha\n"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    with path.open("wb") as file:
        file.write(header.encode("ascii"))
        file.write(vertex.tobytes())
        file.write(face.tobytes())


# Header


def parse_header(data: bytes, path: Path) -> Header:
    """Parse the header of a PLY file.

    Lines may end in LF, CR LF or CR, with trailing blanks. Comments may occur anywhere.

    Raises:
        DataError: The bytes are not a PLY header.
    """
    head = data[:MAX_HEADER_BYTES]
    first = head[:64].splitlines(keepends=True)
    if not first or first[0].strip().lower() != b"ply" or not head[:1].isalpha():
        raise DataError(f"{path}: expected a PLY file that begins with 'ply', found {head[:12]!r} ({len(data)} bytes)")
    line_end = b"\r" if first[0].endswith(b"\r") else b"\n"
    lines: list[str] = []
    at = 0
    while not lines or lines[-1].strip() != "end_header":
        end = head.find(line_end, at)
        if end < 0:
            raise DataError(
                f"{path}: expected a line end_header within the first {MAX_HEADER_BYTES} bytes, "
                f"found none in {len(head)}: the file is truncated or not PLY"
            )
        lines.append(head[at:end].decode("latin-1"))
        at = end + 1
    byte_order: str | None = None
    elements: list[Element] = []
    comments: list[str] = []
    for line in lines[1:-1]:
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            comments.append(" ".join(words[1:]))
            continue
        if words[0] == "format" and len(words) == 3 and words[1] in BYTE_ORDERS and words[2] in ("1.0", "1"):
            byte_order = BYTE_ORDERS[words[1]]
        elif words[0] == "element" and len(words) == 3 and words[2].isdecimal() and len(words[2]) < 18:
            if any(e.name == words[1] for e in elements):
                raise DataError(f"{path}: the header declares element {words[1]} twice")
            elements.append(Element(words[1], int(words[2]), []))
        elif words[0] == "property" and elements and (own := _parse_property(words)) is not None:
            if any(p.name == own.name for p in elements[-1].properties):
                raise DataError(f"{path}: the header declares property {own.name} of {elements[-1].name} twice")
            elements[-1].properties.append(own)
        else:
            raise DataError(f"{path}: invalid header line: {line.strip()[:80]!r}")
    if byte_order is None:
        raise DataError(f"{path}: the header has no format line, expected one of {', '.join(BYTE_ORDERS)} 1.0")
    return Header(byte_order, elements, at, comments)


def _parse_property(words: list[str]) -> Property | None:
    if len(words) == 3 and words[1] in NUMBER_TYPES:
        return Property(words[2], NUMBER_TYPES[words[1]], None)
    if len(words) == 5 and words[1] == "list" and words[2] in NUMBER_TYPES and words[3] in NUMBER_TYPES:
        return Property(words[4], NUMBER_TYPES[words[3]], NUMBER_TYPES[words[2]])
    return None


def _read_head(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise DataError(f"{path}: expected a file, found {'something else' if path.exists() else 'nothing'}")
        with path.open("rb") as stream:
            return stream.read(MAX_HEADER_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _find_vertices(header: Header, path: Path) -> Element:
    by_name = {element.name.lower(): element for element in reversed(header.elements)}
    name = next((name for name in VERTEX_NAMES if name in by_name), None)
    if name is None:
        raise DataError(f"{path}: the header has no element vertex: is this a scan?")
    names = {p.name.lower() for p in by_name[name].properties if p.count_type is None}
    if "packed_position" in names:
        raise DataError(f"{path}: compressed Gaussian splats cannot be read: export them as uncompressed PLY")
    missing = [axis for axis in "xyz" if axis not in names]
    if missing:
        raise DataError(f"{path}: expected vertex properties x, y and z, found no {', '.join(missing)}")
    return by_name[name]


def _axes(vertices: Element) -> list[str]:
    names = {p.name.lower(): p.name for p in reversed(vertices.properties) if p.count_type is None}
    return [names[axis] for axis in "xyz"]


def _properties(element: Element, names: Sequence[str]) -> list[Property]:
    by_name = {p.name: p for p in element.properties}
    return [by_name[name] for name in names]


# Tables


def _open_tables(path: Path, header: Header) -> tuple[dict[str, Table], int]:
    """Map a binary file, or read an ASCII file; see `_parse_tables`."""
    if header.order:
        return _parse_tables(np.memmap(path, dtype=np.uint8, mode="r"), header, path)
    return _parse_tables(np.frombuffer(read_file(path), dtype=np.uint8), header, path)


def _parse_tables(data: npt.NDArray[np.uint8], header: Header, path: Path) -> tuple[dict[str, Table], int]:
    """Return the tables of the elements by name, and the number of bytes after the last one.

    Raises:
        DataError: The data end early, are not numbers, or have more numbers than the header declares.
    """
    # An empty list needs only its length: sizes are checked against the file before anything is allocated.
    available, is_text = len(data) - header.start, not header.order
    smallest = sum(e.num_rows * (e.num_values(0) if is_text else e.size(0)) for e in header.elements)
    if smallest > available:
        _refuse_size(header, len(data), path)
    values: Numbers = data
    at = header.start
    if is_text:
        values, at = _parse_numbers(data[header.start :].tobytes(), path), 0
        if smallest > len(values):
            _refuse_size(header, len(values), path)
    tables: dict[str, Table] = {}
    for element in header.elements:
        tables[element.name], at = _parse_element(values, at, element, header, path)
    if is_text and at < len(values):
        _refuse_size(header, len(values), path, state="longer than its header says")
    return tables, len(values) - at


def _parse_numbers(text: bytes, path: Path) -> npt.NDArray[np.float64]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            numbers: npt.NDArray[np.float64] = np.fromstring(text, dtype=np.float64, sep=" ")
        except (DeprecationWarning, ValueError):
            raise DataError(f"{path}: the data contain text that is not a number: copy or export it again") from None
    return numbers


def _row_sizes(element: Element, list_length: int, *, is_text: bool) -> list[int]:
    """Return the bytes (or numbers of a text file) of each property of a row whose lists have a length."""

    def size(name: str) -> int:
        return 1 if is_text else int(name[1:])

    return [
        size(p.type) if p.count_type is None else size(p.count_type) + list_length * size(p.type)
        for p in element.properties
    ]


def _parse_element(values: Numbers, at: int, element: Element, header: Header, path: Path) -> tuple[Table, int]:
    """Return an element's rows, as views into the file if all lists have the same length, and the offset after them."""
    if not element.properties or not element.num_rows:
        empty = {p.name: np.zeros(0, dtype=p.type) for p in element.properties}
        return _table(element, lambda p: empty[p.name], lambda p: np.zeros((0, 3), dtype=p.type)), at
    order = header.order
    fields: list[Any] = []
    place = at
    for p in element.properties:
        number = np.dtype(order + p.type) if order else values.dtype
        if p.count_type is None:
            fields.append((p.name, number))
            place += number.itemsize if order else 1
            continue
        count = np.dtype(order + p.count_type) if order else values.dtype
        step = count.itemsize if order else 1
        first = values[place : place + step]
        length = _as_length(first.view(count)[0]) if len(first) == step else -1
        if not 0 <= length <= len(values):
            return _walk_element(values, at, element, header, path)
        fields += [(_length_of(p), count), (p.name, number, (length,))]
        place += step + length * (number.itemsize if order else 1)
    record = np.dtype(fields)
    width = record.itemsize if order else record.itemsize // values.itemsize
    end = at + element.num_rows * width
    lists = [p for p in element.properties if p.count_type is not None]
    if end > len(values) or record.itemsize >= 2**31:
        if lists:
            return _walk_element(values, at, element, header, path)
        _refuse_size(header, len(values), path)
    rows = values[at:end].view(record)
    if not all((rows[_length_of(p)] == rows[_length_of(p)][:1]).all() for p in lists):
        return _walk_element(values, at, element, header, path)
    return _table(element, lambda p: rows[p.name], lambda p: rows[p.name]), end


def _length_of(p: Property) -> str:
    return f"length of {p.name}"  # cannot be the name of a property, which has no blanks


def _as_length(value: Any) -> int:
    return int(value) if np.isfinite(value) and value == np.floor(value) else -1


def _table(
    element: Element, column: Callable[[Property], Numbers], lists: Callable[[Property], "Numbers | Lists"]
) -> Table:
    def later(read: Callable[[Property], Any], p: Property) -> Callable[[], Any]:
        return lambda: read(p)

    return Table(
        {p.name: later(column, p) for p in element.properties if p.count_type is None},
        {p.name: later(lists, p) for p in element.properties if p.count_type is not None},
    )


def _walk_element(values: Numbers, at: int, element: Element, header: Header, path: Path) -> tuple[Table, int]:
    """Find the rows of an element whose lists have different lengths, one by one."""
    order = header.order
    before: dict[str, tuple[int, list[tuple[int, int]]]] = {}
    """For each property: fixed bytes before it in a row, and preceding lists with their item sizes."""
    steps: list[tuple[int, Callable[[int], Any], int, int, array[int]]] = []
    fixed, skipped = 0, 0
    passed: list[tuple[int, int]] = []
    buffer = memoryview(np.ascontiguousarray(values))  # type: ignore[arg-type]
    for p in element.properties:
        item = np.dtype(p.type).itemsize if order else 1
        if p.count_type is None:
            before[p.name] = (fixed, list(passed))
            fixed, skipped = fixed + item, skipped + item
            continue
        step = np.dtype(p.count_type).itemsize if order else 1
        before[p.name] = (fixed + step, list(passed))
        steps.append((skipped, _length_reader(buffer, order, p.count_type), step, item, array("q")))
        fixed, skipped = fixed + step, 0
        passed.append((len(steps) - 1, item))
    places, end = array("q"), len(values)
    row = 0
    try:
        for row in range(element.num_rows):  # noqa: B007 - named in the error
            places.append(at)
            for skip, read_length, step, item, lengths in steps:
                at += skip
                length = read_length(at)
                if length < 0 or length != length // 1:
                    raise ValueError
                length = int(length)
                lengths.append(length)
                at += step + length * item
            at += skipped
            if at > end:
                raise IndexError
    except (IndexError, ValueError, OverflowError, struct.error):
        where = "" if not order else f" or damaged in {element.name} {row} of {element.num_rows}"
        _refuse_size(header, len(values), path, state=f"truncated{where}")
    starts = np.frombuffer(places, dtype=np.int64)
    counts = [np.frombuffer(lengths, dtype=np.int64) for *_, lengths in steps]

    def place_of(p: Property) -> npt.NDArray[np.int64]:
        constant, lists = before[p.name]
        return sum((counts[k] * item for k, item in lists), starts + constant)

    def column(p: Property) -> Numbers:
        return _gather(values, place_of(p), p, order)

    list_names = [p.name for p in element.properties if p.count_type is not None]

    def lists(p: Property) -> Lists:
        own = counts[list_names.index(p.name)]
        item = np.dtype(p.type).itemsize if order else 1
        first = np.cumsum(own) - own
        inside = np.arange(int(own.sum()), dtype=np.int64)
        return Lists(own, _gather(values, np.repeat(place_of(p) - item * first, own) + item * inside, p, order))

    return _table(element, column, lists), at


def _length_reader(buffer: Any, order: str, kind: str) -> Callable[[int], Any]:
    if kind == "u1" or not order:
        read: Callable[[int], Any] = buffer.__getitem__
        return read
    unpack = struct.Struct(order + {"i": "bhiq", "u": "BHIQ", "f": "  fd"}[kind[0]][int(kind[1]).bit_length() - 1])
    return lambda at: unpack.unpack_from(buffer, at)[0]


def _gather(values: Numbers, places: npt.NDArray[np.int64], p: Property, order: str) -> Numbers:
    """Return the numbers of a property at positions in the file."""
    if not order:
        return np.asarray(values[places])
    number = np.dtype(order + p.type)
    found = np.empty(len(places), dtype=number)
    steps = np.arange(number.itemsize)
    for start in range(0, len(places), CHUNK_ROWS):
        piece = values[places[start : start + CHUNK_ROWS, None] + steps]
        found[start : start + CHUNK_ROWS] = np.ascontiguousarray(piece).view(number)[:, 0]
    return found


def _refuse_size(header: Header, num_found: int, path: Path, *, state: str = "truncated") -> NoReturn:
    """Raise DataError for a file whose length contradicts its header; lists are counted as triangles."""
    counts = " and ".join(f"{element.num_rows} {element.name} rows" for element in header.elements)
    if header.order:
        expected, found, unit = sum(e.num_rows * e.size(3) for e in header.elements), num_found - header.start, "bytes"
    else:
        expected, found, unit = sum(e.num_rows * e.num_values(3) for e in header.elements), num_found, "numbers"
    raise DataError(
        f"{path}: the file is {state}: {counts} need {expected} {unit} after the header, found {found}: "
        "copy or export it again"
    )


# Meaning


def _as_declared(column: Numbers, p: Property, path: Path) -> Numbers:
    """Check numbers of a text file against the type that the header declares."""
    if p.type[0] != "f":
        limits = np.iinfo(p.type)
        if not ((column >= limits.min) & (column <= limits.max) & (column == np.floor(column))).all():
            raise DataError(f"{path}: property {p.name} has values outside {limits.min} to {limits.max}")
        return column.astype(p.type)
    if p.type == "f4" and not np.abs(column[np.isfinite(column)]).max(initial=0) > EXACT_FLOAT32:
        return column.astype(np.float32)
    return column


def _needs_double(column: Numbers) -> bool:
    return column.dtype.itemsize > (4 if column.dtype.kind == "f" else 2)


def _corner_lists(header: Header, tables: dict[str, Table], doubts: list[str]) -> dict[str, "Numbers | Lists"]:
    """Return the lists of corners of faces and strips, by element."""
    found: dict[str, Numbers | Lists] = {}
    for element in header.elements:
        kind = element.name.lower().removesuffix("s")
        if kind not in ("face", "tristrip", "polygon", "triangle"):
            continue
        names = [p.name for p in element.properties if p.count_type is not None]
        named = [name for name in names if name.lower() in FACE_LISTS]
        if not named and len(names) == 1:
            named = names
        if named:
            found[element.name] = tables[element.name].lists[named[0]]()
        elif element.num_rows:
            doubts.append(f"{element.num_rows} {element.name} rows without a list vertex_indices are dropped")
    return found


def _triangles(corners: dict[str, "Numbers | Lists"], num_vertices: int, path: Path) -> npt.NDArray[np.integer]:
    parts: list[npt.NDArray[np.integer]] = []
    for name, lists in corners.items():
        is_strip = name.lower().startswith("tristrip")
        if isinstance(lists, Lists):
            lists = lists._replace(values=_whole_corners(lists.values, path))
        else:
            lists = _whole_corners(lists, path)
            if lists.shape[1] == 3 and not is_strip:
                parts.append(lists)
                continue
            lists = Lists(np.full(len(lists), lists.shape[1], dtype=np.int64), lists.reshape(-1))
        parts.append(_split_strips(lists) if is_strip else _fan(lists))
    parts = [part for part in parts if len(part)]
    if not parts:
        return np.zeros((0, 3), dtype=np.int32)
    triangles: npt.NDArray[np.integer] = parts[0] if len(parts) == 1 else np.concatenate(parts)
    if not (int(triangles.min()) >= 0 and int(triangles.max()) < num_vertices):
        raise DataError(
            f"{path}: faces use vertices {int(triangles.min())} to {int(triangles.max())}, the file has {num_vertices}"
        )
    return triangles


def _whole_corners(values: Numbers, path: Path) -> npt.NDArray[np.integer]:
    if values.dtype.kind != "f":
        return values
    with np.errstate(invalid="ignore"):
        if not ((np.abs(values) < 2**53) & (values == np.floor(values))).all():
            raise DataError(f"{path}: expected integers as corners of faces")
    return values.astype(np.int64)


def _fan(polygons: Lists) -> npt.NDArray[np.integer]:
    """Return the triangles of polygons, as a fan around the first corner, shape `(triangles, 3)`."""
    first = np.cumsum(polygons.counts) - polygons.counts
    num_triangles = np.maximum(polygons.counts - 2, 0)
    total = int(num_triangles.sum())
    inside = np.arange(total) - np.repeat(np.cumsum(num_triangles) - num_triangles, num_triangles)
    start = np.repeat(first, num_triangles)
    return np.stack([polygons.values[start + at] for at in (0, inside + 1, inside + 2)], axis=1)


def _split_strips(strips: Lists) -> npt.NDArray[np.integer]:
    """Return the triangles of strips, which end at -1, with every second one reversed, shape `(triangles, 3)`."""
    values = strips.values
    if len(values) < 3:
        return np.zeros((0, 3), dtype=np.int32)
    ends = np.cumsum(strips.counts)
    begins = np.zeros(len(values) + 1, dtype=bool)
    begins[0] = begins[ends] = True
    begins[1:] |= values == -1
    begins = begins[:-1]
    places = np.arange(len(values))
    inside = places - np.maximum.accumulate(np.where(begins, places + (values == -1), 0))
    last = np.flatnonzero((values != -1) & (inside >= 2))
    triangles = np.stack([values[last - 2], values[last - 1], values[last]], axis=1)
    odd = inside[last] % 2 == 1
    triangles[odd] = triangles[odd][:, [1, 0, 2]]
    same = (triangles[:, 0] == triangles[:, 1]) | (triangles[:, 1] == triangles[:, 2])
    kept: npt.NDArray[np.integer] = triangles[
        ~(same | (triangles[:, 0] == triangles[:, 2]))
    ]  # strips turn with empty ones
    return kept


def _open_colors(
    header: Header,
    vertices: Element,
    tables: dict[str, Table],
    corners: dict[str, "Numbers | Lists"],
    doubts: list[str],
) -> Callable[[int, int], npt.NDArray[np.uint8]] | None:
    """Return the reader of the vertex colours: their own, or else those of the adjacent faces."""
    colors = _own_colors(tables[vertices.name], vertices, header)
    if colors is not None:
        doubts += colors.doubts
        if colors.read is not None:
            return colors.read
    rgb = _face_colors(header, vertices, tables, corners, doubts)
    if rgb is not None:
        return lambda start, stop: rgb[start:stop]
    pictures = [text.split(None, 1)[1] for text in header.comments if text.lower().startswith("texturefile ")]
    if pictures:
        doubts.append(
            f"colours are in the picture {pictures[0]}, which is not read for PLY: export the scan as OBJ or GLB"
        )
    return None


def _own_colors(table: Table, element: Element, header: Header) -> Colors | None:
    """Return the colours of an element's rows, or None."""
    names = list(table.columns)
    channels = find_channels(names)
    if channels is not None:
        columns = [table.columns[name]() for name in channels]
        if not header.order:
            declared = _properties(element, channels)
            columns = [_as_integers_if_declared(column, p.type) for column, p in zip(columns, declared, strict=True)]
        return decide_colors(columns_as_rows(columns), element.num_rows)
    by_name = {name.lower(): name for name in reversed(names)}
    if all(name in by_name for name in SPLAT_NAMES):
        colors = decide_colors(splat_rows([table.columns[by_name[n]]() for n in SPLAT_NAMES]), element.num_rows)
        return colors._replace(doubts=(*colors.doubts, "Gaussian splats: their centres are used as points"))
    packed_name = next((by_name[name] for name in PACKED_NAMES if name in by_name), None)
    if packed_name is None:
        return None
    packed = table.columns[packed_name]()
    if not header.order:
        kind = np.dtype(_properties(element, [packed_name])[0].type)
        with np.errstate(over="ignore"):
            packed = packed.astype(kind) if kind.kind == "f" else packed.astype(np.int64)
    return decide_packed_colors(packed)


def _as_integers_if_declared(column: Numbers, kind: str) -> Numbers:
    """Convert numbers of a text file to the integer type of the header, unless their values contradict it."""
    if kind[0] == "f":
        return column
    limits = np.iinfo(kind)
    with np.errstate(invalid="ignore"):
        fits = (column >= limits.min) & (column <= limits.max) & (column == np.floor(column))
    return column.astype(kind) if fits.all() else column


def _face_colors(
    header: Header,
    vertices: Element,
    tables: dict[str, Table],
    corners: dict[str, "Numbers | Lists"],
    doubts: list[str],
) -> npt.NDArray[np.uint8] | None:
    """Return the mean colour of the faces at each vertex, grey if it has none, shape `(vertices, 3)`."""
    for element in header.elements:
        if element.name not in corners or find_channels(list(tables[element.name].columns)) is None:
            continue
        colors = _own_colors(tables[element.name], element, header)
        if colors is None or colors.read is None:
            doubts += () if colors is None else colors.doubts
            continue
        lists = corners[element.name]
        if isinstance(lists, Lists):
            counts, flat = lists.counts, lists.values.astype(np.int64)
        else:
            counts, flat = np.full(len(lists), lists.shape[1], dtype=np.int64), lists.reshape(-1).astype(np.int64)
        owner = np.repeat(np.arange(element.num_rows), counts)
        inside = (flat >= 0) & (flat < vertices.num_rows)
        owner, flat = owner[inside], flat[inside]
        of_face = colors.read(0, element.num_rows)
        touching = np.bincount(flat, minlength=vertices.num_rows)
        rgb = np.full((vertices.num_rows, 3), 128, dtype=np.uint8)
        used = touching > 0
        for channel in range(3):
            total = np.bincount(flat, weights=of_face[owner, channel], minlength=vertices.num_rows)
            rgb[used, channel] = (total[used] / touching[used] + 0.5).astype(np.uint8)
        doubts += colors.doubts
        doubts.append("colours belong to faces: each vertex gets the mean of its faces")
        if not used.all():
            doubts.append(f"{int((~used).sum())} of {vertices.num_rows} vertices belong to no face: grey is used")
        return rgb
    return None


# ScanNet's form


def _require_mesh(elements: list[Element], path: Path) -> None:
    by_name = {element.name: element for element in elements}
    if "vertex" not in by_name:
        raise DataError(f"{path}: the header has no element vertex")
    types = {p.name: p.type for p in by_name["vertex"].properties if p.count_type is None}
    for names, allowed, what in (
        (("x", "y", "z"), ("f4", "f8"), "float"),
        (("red", "green", "blue"), ("u1",), "uchar"),
    ):
        for name in names:
            if types.get(name) not in allowed:
                found = "none" if name not in types else f"one of another type ({types[name]})"
                raise DataError(f"{path}: expected a vertex property {name} of type {what}, found {found}")
    for element in elements:
        lists = [p for p in element.properties if p.count_type is not None]
        if element.name == "face":
            if len(lists) != 1 or lists[0].name not in FACE_LISTS or "f" in lists[0].type + str(lists[0].count_type):
                raise DataError(f"{path}: expected faces as one list vertex_indices of whole numbers")
        elif lists:
            raise DataError(f"{path}: element {element.name} has a list {lists[0].name}, expected lists in faces alone")


def _whole_numbers(values: Numbers, what: str, low: int, high: int, path: Path) -> npt.NDArray[np.int64]:
    if not ((values >= low) & (values <= high) & (values == np.floor(values))).all():
        raise DataError(f"{path}: expected {what} as a whole number from {low} to {high}")
    return values.astype(np.int64)


def _require_triangles(lists: "Numbers | Lists", path: Path) -> Numbers:
    counts = lists.counts if isinstance(lists, Lists) else np.full(len(lists), lists.shape[1])
    other = np.flatnonzero(counts != 3)
    if len(other) or isinstance(lists, Lists):
        row = int(other[0])
        raise DataError(f"{path}: face {row} has {counts[row]} corners, expected triangles (or the file is damaged)")
    return lists
