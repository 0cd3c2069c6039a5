"""Triangle meshes with coloured vertices in PLY: a strict reader, and a writer of ScanNet's own form."""

from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError, ShapeError
from lg3d_core.scans.files import read_file

# What a header may call each number, and the numpy type without its byte order.
INTEGER_TYPES = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"}
SIZED_TYPES = {"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"}
FLOAT_TYPES = {"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"}
NUMBER_TYPES = INTEGER_TYPES | SIZED_TYPES | FLOAT_TYPES
BYTE_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}
FACE_LISTS = ("vertex_indices", "vertex_index")
MAX_HEADER_BYTES = 1 << 16


class Mesh(NamedTuple):
    """A triangle mesh.

    Attributes:
        xyz: Vertices in metres, shape `(vertices, 3)`, float32.
        rgb: Their colours, shape `(vertices, 3)`, uint8.
        faces: Rows of the three corners of each triangle, shape `(faces, 3)`, int32.
    """

    xyz: npt.NDArray[np.float32]
    rgb: npt.NDArray[np.uint8]
    faces: npt.NDArray[np.int32]


class Property(NamedTuple):
    """A column of an element, as the header declares it."""

    name: str
    type: str
    count_type: str | None
    """Type of the length in front of a list, None for a plain number."""


class Element(NamedTuple):
    """A table of a PLY file, as the header declares it."""

    name: str
    num_rows: int
    properties: list[Property]

    @property
    def has_list(self) -> bool:
        return any(p.count_type is not None for p in self.properties)

    def record(self, order: str) -> np.dtype[Any]:
        """One row as bytes; a list counts as that of a triangle."""
        fields: list[Any] = []
        for p in self.properties:
            if p.count_type is None:
                fields.append((p.name, order + p.type))
            else:
                fields += [(f"{p.name} length", order + p.count_type), (p.name, order + p.type, (3,))]
        return np.dtype(fields)


def read_ply(path: Path) -> Mesh:
    """Read a mesh of triangles with coloured vertices.

    Binary of either byte order and ASCII are accepted, as are coordinates in double precision and further properties
    and elements, which are ignored. The header is checked against the file's size before anything is allocated.
    Coordinates may be NaN or infinite: the caller knows what is allowed.

    Raises:
        DataError: The file is missing, truncated, lies about its size, lacks coordinates or colours, has faces of
            other than three corners, or corners beyond the vertices.
    """
    return parse_ply(read_file(path), path)


def parse_ply(data: bytes, path: Path) -> Mesh:
    """Read a mesh from the bytes of a PLY file; `path` only names it in errors. See `read_ply`."""
    byte_order, elements, start = parse_header(data, path)
    _require_mesh(elements, path)
    columns: dict[str, Any] = {}
    if byte_order:
        columns = _read_binary(data, start, elements, byte_order, path)
    else:
        columns = _read_ascii(data, start, elements, path)
    vertex, face = columns["vertex"], columns.get("face")
    num_vertices = next(e.num_rows for e in elements if e.name == "vertex")
    xyz = np.empty((num_vertices, 3), dtype=np.float32)
    rgb = np.empty((num_vertices, 3), dtype=np.uint8)
    for k in range(3):
        with np.errstate(over="ignore", invalid="ignore"):  # beyond float32 becomes infinite, which the caller sees
            xyz[:, k] = vertex["xyz"[k]]
        rgb[:, k] = vertex[("red", "green", "blue")[k]]
    if face is None:
        return Mesh(xyz, rgb, np.empty((0, 3), dtype=np.int32))
    if len(face) and not (int(face.min()) >= 0 and int(face.max()) < num_vertices):
        row = int(np.flatnonzero(((face < 0) | (face >= num_vertices)).any(axis=1))[0])
        corners = face[row].tolist()
        raise DataError(f"{path}: face {row} has corners {corners}, expected 0 to {num_vertices - 1}")
    return Mesh(xyz, rgb, np.ascontiguousarray(face, dtype=np.int32))


def write_ply(path: Path, mesh: Mesh) -> None:
    """Write a mesh as ScanNet does: binary little endian, colours with an opaque alpha, faces as counted int lists.

    Raises:
        ShapeError: The arrays do not make a mesh.
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


def parse_header(data: bytes, path: Path) -> tuple[str, list[Element], int]:
    """Read what the first bytes of a PLY file declare.

    Returns:
        The byte order of its data ("<" or ">", "" for ASCII), its elements, and the byte at which the data start.

    Raises:
        DataError: They are no header of a PLY file.
    """
    head = data[:MAX_HEADER_BYTES]
    if not head.startswith((b"ply\n", b"ply\r\n")):
        raise DataError(f"{path}: expected a PLY file that begins with 'ply', found {head[:12]!r} ({len(data)} bytes)")
    end = head.find(b"\nend_header")
    line_end = head.find(b"\n", end + 1)
    if end < 0 or line_end < 0:
        raise DataError(
            f"{path}: expected a line end_header within the first {MAX_HEADER_BYTES} bytes, "
            f"found none in {len(head)}: the file is truncated or no PLY"
        )
    byte_order: str | None = None
    elements: list[Element] = []
    for line in head[:end].decode("latin-1").split("\n")[1:]:
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format" and len(words) == 3 and words[1] in BYTE_ORDERS and words[2] == "1.0":
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
            raise DataError(f"{path}: a header line that cannot be understood: {line.strip()[:80]!r}")
    if byte_order is None:
        raise DataError(f"{path}: the header has no format line, expected one of {', '.join(BYTE_ORDERS)} 1.0")
    return byte_order, elements, line_end + 1


def _parse_property(words: list[str]) -> Property | None:
    if len(words) == 3 and words[1] in NUMBER_TYPES:
        return Property(words[2], NUMBER_TYPES[words[1]], None)
    if len(words) == 5 and words[1] == "list" and words[2] in NUMBER_TYPES and words[3] in NUMBER_TYPES:
        return Property(words[4], NUMBER_TYPES[words[3]], NUMBER_TYPES[words[2]])
    return None


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


def _read_binary(data: bytes, start: int, elements: list[Element], order: str, path: Path) -> dict[str, Any]:
    """Vertex records and face corners, as views into `data`."""
    found = len(data) - start
    expected = sum(element.num_rows * element.record(order).itemsize for element in elements)
    columns: dict[str, Any] = {}
    offset = start
    for element in elements:
        record = element.record(order)
        num_present = min(element.num_rows, max(0, len(data) - offset) // max(1, record.itemsize))
        rows = np.frombuffer(data, dtype=record, count=num_present, offset=min(offset, len(data)))
        if element.name == "face":
            name = next(p.name for p in element.properties if p.count_type is not None)
            _require_triangles(rows[f"{name} length"], path)
            columns["face"] = rows[name]
        elif element.name == "vertex":
            columns["vertex"] = rows
        offset += element.num_rows * record.itemsize
    if expected != found:
        _refuse_size(expected, found, elements, path, unit="bytes")
    return columns


def _read_ascii(data: bytes, start: int, elements: list[Element], path: Path) -> dict[str, Any]:
    """Vertex columns and face corners."""
    expected = sum(e.num_rows * sum(4 if p.count_type is not None else 1 for p in e.properties) for e in elements)
    if expected > len(data) - start:  # every number takes a character and a space, less the last space
        _refuse_size(expected, len(data) - start, elements, path, unit="numbers, one or more bytes each")
    try:
        numbers = np.array(data[start:].split(), dtype=np.float64)
    except ValueError as error:
        raise DataError(f"{path}: the data are not numbers: {error}") from None
    columns: dict[str, Any] = {}
    offset = 0
    for element in elements:
        width = sum(4 if p.count_type is not None else 1 for p in element.properties)
        num_present = min(element.num_rows, max(0, len(numbers) - offset) // max(1, width))
        rows = numbers[offset : offset + num_present * width].reshape(num_present, width)
        offset += element.num_rows * width
        at = 0
        table: dict[str, Any] = {}
        for p in element.properties:
            if p.count_type is not None:
                _require_triangles(rows[:, at], path)
                columns["face"] = _whole_numbers(rows[:, at + 1 : at + 4], "a corner", -(2**31), 2**31 - 1, path)
                at += 4
            else:
                table[p.name] = rows[:, at]
                at += 1
        if element.name == "vertex":
            for channel in ("red", "green", "blue"):
                table[channel] = _whole_numbers(table[channel], channel, 0, 255, path)
            columns["vertex"] = table
    if len(numbers) != expected:
        _refuse_size(expected, len(numbers), elements, path, unit="numbers")
    return columns


def _whole_numbers(
    values: npt.NDArray[np.float64], what: str, low: int, high: int, path: Path
) -> npt.NDArray[np.int64]:
    if not ((values >= low) & (values <= high) & (values == np.floor(values))).all():
        raise DataError(f"{path}: expected {what} as a whole number from {low} to {high}")
    return values.astype(np.int64)


def _require_triangles(lengths: npt.NDArray[Any], path: Path) -> None:
    other = np.flatnonzero(lengths != 3)
    if len(other):
        raise DataError(
            f"{path}: face {other[0]} has {int(lengths[other[0]])} corners, expected triangles (or the file is damaged)"
        )


def _refuse_size(expected: int, found: int, elements: list[Element], path: Path, *, unit: str) -> NoReturn:
    counts = " and ".join(f"{element.num_rows} {element.name} rows" for element in elements)
    state = "truncated" if found < expected else "longer than its header says"
    raise DataError(f"{path}: the file is {state}: {counts} need {expected} {unit} after the header, found {found}")
