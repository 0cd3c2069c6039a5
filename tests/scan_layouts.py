"""The same points in the layouts that programs write: random PLY, PCD and LAS files with the values that they hold."""

import io
import random
import struct
from typing import Any, NamedTuple

import numpy as np


class Layout(NamedTuple):
    """A file and what it holds.

    Attributes:
        data: Bytes of the file.
        suffix: Of its name.
        xyz: Positions, shape `(points, 3)`.
        rgb: Colours, shape `(points, 3)`, or None.
        faces: Triangles, shape `(faces, 3)`.
        told: Whether a warning must or may stand in for equal colours.
        text: How it was made.
    """

    data: bytes
    suffix: str
    xyz: np.ndarray
    rgb: np.ndarray | None
    faces: np.ndarray
    told: bool
    text: str


CODES = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "f4": "f", "f8": "d"}
TYPE_NAMES = {
    "i1": ("char", "int8"),
    "u1": ("uchar", "uint8"),
    "i2": ("short", "int16"),
    "u2": ("ushort", "uint16"),
    "i4": ("int", "int32"),
    "u4": ("uint", "uint32"),
    "f4": ("float", "float32"),
    "f8": ("double", "float64"),
}
CHANNELS = (
    *(("red", "green", "blue"), ("Red", "Green", "Blue"), ("RED", "GREEN", "BLUE"), ("r", "g", "b"), ("R", "G", "B")),
    *(("red_", "green_", "blue_"), ("r_", "g_", "b_"), ("diffuse_red", "diffuse_green", "diffuse_blue")),
)
ENCODINGS = {
    "bytes": ("u1", lambda c: c),
    "bytes in 16 bits": ("u2", lambda c: c),
    "16 bits": ("u2", lambda c: c * 257),
    "upper half of 16 bits": ("u2", lambda c: c * 256),
    "signed 16 bits": ("i2", lambda c: (c * 257 + 2**15) % 2**16 - 2**15),
    "bytes in 32 bits": ("i4", lambda c: c),
    "unsigned 32 bits": ("u4", lambda c: c),
    "signed bytes": ("i1", lambda c: (c + 128) % 256 - 128),
    "fractions": ("f4", lambda c: (c / 255).astype(np.float32)),
    "double fractions": ("f8", lambda c: c / 255),
    "bytes as floats": ("f4", lambda c: c),
    "bytes as doubles": ("f8", lambda c: c),
    "16 bits as floats": ("f4", lambda c: c * 257),
}
"""Name, type and values of colours that are given as whole numbers to 255."""


def points(rng: random.Random) -> tuple[np.ndarray, np.ndarray, int]:
    """Positions, colours, and the brightest of these."""
    numpy_rng = np.random.default_rng(rng.randrange(2**32))
    count = rng.choice((1, 3, 4, 17, 40))
    xyz = numpy_rng.integers(-400, 400, size=(count, 3)) / 128  # exact in float32 and in few digits
    highest = rng.choice((255, 255, 255, 200, 100, 64, 20, 5, 1))
    rgb = numpy_rng.integers(0, highest + 1, size=(count, 3))
    rgb[rng.randrange(count), rng.randrange(3)] = highest
    return xyz, rgb, highest


def random_ply(rng: random.Random) -> Layout:
    """PLY with properties, elements, lists and a header in any of the usual forms."""
    xyz, rgb, highest = points(rng)
    count = len(xyz)
    order = rng.choice(("", "<", ">"))
    line_end = rng.choice(("\n", "\n", "\r\n", "\r"))
    notes: list[str] = [repr(order), repr(line_end)]
    number = rng.choice(("f4", "f4", "f8"))
    axes = rng.choice(("xyz", "xyz", "XYZ"))
    columns: list[tuple[str, str, str | None, list[Any]]] = [
        (axes[k], number, None, xyz[:, k].tolist()) for k in range(3)
    ]
    has_colors = rng.random() < 0.9
    told = highest < 16
    if has_colors:
        kind = rng.choice((*ENCODINGS, *ENCODINGS, "splats", "packed", "fractions declared as bytes"))
        notes.append(f"{kind} to {highest}")
        if kind == "splats":
            told = True
            columns += [
                (f"f_dc_{k}", "f4", None, ((rgb[:, k] / 255 - 0.5) / 0.28209479177387814).tolist()) for k in range(3)
            ]
        elif kind == "packed":
            packed = (rgb << [16, 8, 0]).sum(axis=1) + (255 << 24) * rng.randrange(2)
            columns.append((rng.choice(("rgb", "rgba", "RGBA")), "u4", None, packed.tolist()))
        else:
            if kind == "fractions declared as bytes" and order:
                kind = "fractions"
            number, encode = ("u1", lambda c: c / 255) if kind.endswith("declared as bytes") else ENCODINGS[kind]
            names = rng.choice(CHANNELS)
            own = [(name, number, None, encode(rgb[:, k]).tolist()) for k, name in enumerate(names)]
            if rng.random() < 0.3:
                own.append((rng.choice(("alpha", "a", "A")), number, None, encode(np.full(count, 255)).tolist()))
            columns += own
            told = told or kind == "fractions declared as bytes"
    for name, kind in (("nx", "f4"), ("quality", "f8"), ("flags", "u1"), ("label", "i4"), ("views", "list")):
        if rng.random() < 0.3:
            if kind == "list":
                length = rng.choice((None, 0, 2))
                lists = [
                    [rng.randrange(100) for _ in range(rng.randrange(4) if length is None else length)]
                    for _ in range(count)
                ]
                columns.append((name, rng.choice(("u1", "i4", "f4")), rng.choice(("u1", "i4", "u2")), lists))
            else:
                columns.append((name, kind, None, [rng.randrange(100) for _ in range(count)]))
    if rng.random() < 0.4:
        rng.shuffle(columns)
    elements = [("vertex", count, columns)]
    faces: list[tuple[int, int, int]] = []
    if count >= 3 and rng.random() < 0.7:
        elements.append(_faces(rng, count, faces))
    for name in ("camera", "edge", "material"):
        if rng.random() < 0.25:
            rows = rng.randrange(4)
            lists = [[rng.randrange(9) for _ in range(rng.randrange(4))] for _ in range(rows)]
            extra = [("id", "i2", None, list(range(rows))), ("ends", "u4", "u1", lists)]
            elements.insert(rng.randrange(len(elements) + 1), (name, rows, extra))
    lines = ["ply" + rng.choice(("", "", " ", "\t ")), f"format {_form(order)} 1.0"]
    for name, rows, properties in elements:
        lines.append(f"element {name} {rows}")
        for own, kind, length, _ in properties:
            text = rng.choice(TYPE_NAMES[kind])
            listed = "" if length is None else f"list {rng.choice(TYPE_NAMES[length])} "
            lines.append(f"property {listed}{text} {own}" + rng.choice(("", "", "  ")))
    for _ in range(rng.randrange(3)):
        lines.insert(rng.randrange(1, len(lines) + 1), rng.choice(("comment made by hand", "obj_info num_cols 3", "")))
    head = line_end.join([*lines, "end_header" + rng.choice(("", "", " ")), ""]).encode()
    body = b"".join(
        _ply_row([(kind, length, values[row]) for _, kind, length, values in properties], order, line_end)
        for _, rows, properties in elements
        for row in range(rows)
    )
    triangles = np.array(faces, dtype=np.int64).reshape(-1, 3)
    return Layout(head + body, ".ply", xyz, rgb if has_colors else None, triangles, told, "; ".join(notes))


def _form(order: str) -> str:
    return {"": "ascii", "<": "binary_little_endian", ">": "binary_big_endian"}[order]


def _faces(rng: random.Random, count: int, faces: list[tuple[int, int, int]]) -> tuple[str, int, list[Any]]:
    """An element of polygons or strips; the triangles that it stands for are appended to `faces`."""
    kind, length = rng.choice(("i4", "u4", "i2")), rng.choice(("u1", "i4", "u2"))
    name = rng.choice(("vertex_indices", "vertex_index"))
    lists = []
    if rng.random() < 0.2:
        strips = [rng.sample(range(count), rng.randrange(3, min(count, 8) + 1)) for _ in range(rng.randrange(1, 4))]
        for strip in strips:
            for k in range(len(strip) - 2):
                a, b, c = strip[k : k + 3]
                faces.append((b, a, c) if k % 2 else (a, b, c))
        lists = [[corner for strip in strips for corner in (*strip, -1)]]
        return "tristrips", 1, [(name, "i4", "i4", lists)]
    for _ in range(rng.randrange(6)):
        corners = rng.sample(range(count), rng.choice((3, 3, min(4, count), min(5, count), 2)))
        lists.append(corners)
        faces += [(corners[0], corners[k], corners[k + 1]) for k in range(1, len(corners) - 1)]
    columns = [(name, kind, length, lists)]
    if rng.random() < 0.3:
        columns.insert(rng.randrange(2), ("flags", "u1", None, [0] * len(lists)))
    return "face", len(lists), columns


def _ply_row(values: list[tuple[str, str | None, Any]], order: str, line_end: str) -> bytes:
    if not order:
        words = []
        for _, length, value in values:
            words += [str(len(value)), *map(str, value)] if length is not None else [repr(value)]
        return (" ".join(words) + line_end).encode()
    parts = []
    for kind, length, value in values:
        if length is not None:
            parts.append(struct.pack(f"{order}{CODES[length]}{len(value)}{CODES[kind]}", len(value), *value))
        else:
            parts.append(struct.pack(order + CODES[kind], value))
    return b"".join(parts)


def random_pcd(rng: random.Random) -> Layout:
    """PCD with fields, colours and a header in any of the usual forms."""
    xyz, rgb, highest = points(rng)
    count = len(xyz)
    form = rng.choice(("ascii", "binary", "binary_compressed"))
    number = rng.choice(("f4", "f4", "f8"))
    axes = rng.choice(("xyz", "xyz", "XYZ"))
    fields: list[tuple[str, str, int, np.ndarray]] = [(axes[k], number, 1, xyz[:, k]) for k in range(3)]
    told, has_colors = highest < 16, rng.random() < 0.9
    kind = ""
    if has_colors:
        kind = rng.choice((*ENCODINGS, "packed", "packed", "packed floats", "packed floats", "number floats", "vector"))
        packed = (rgb << [16, 8, 0]).sum(axis=1)
        name = rng.choice(("rgb", "rgb", "rgba", "RGB"))
        if kind == "packed":
            fields.append((name, rng.choice(("u4", "i4")), 1, packed.astype(np.uint32)))
        elif kind == "packed floats":
            alpha = rng.choice((0, 255)) if form != "ascii" else 0
            fields.append((name, "f4", 1, (packed + (alpha << 24)).astype(np.uint32).view(np.float32)))
        elif kind == "number floats":
            fields.append((name, rng.choice(("f4", "f8")), 1, packed.astype(np.float64)))
        elif kind == "vector":
            fields.append((name, "u1", 3, rgb))
        else:
            number, encode = ENCODINGS[kind]
            fields += [(name, number, 1, encode(rgb[:, k])) for k, name in enumerate(rng.choice(CHANNELS))]
    for name, number, width in (("intensity", "f4", 1), ("ring", "u2", 1), ("_", "u1", 4), ("normal", "f4", 3)):
        if rng.random() < 0.3:
            at = rng.randrange(len(fields) + 1)
            fields.insert(at, (name, number, width, np.full((count, width), 7).reshape(count, -1)))
    record = np.dtype([(f"{k}", "<" + number, (width,)) for k, (_, number, width, _) in enumerate(fields)])
    rows = np.zeros(count, dtype=record)
    for k, (_, number, width, values) in enumerate(fields):
        with np.errstate(invalid="ignore"):
            columns = np.ascontiguousarray(values)
            own = (
                columns.view("u4").astype("<u4").view("<i4")
                if number == "i4" and columns.dtype == np.uint32
                else columns
            )
            rows[f"{k}"] = own.reshape(count, width) if own.dtype == "f4" else own.reshape(count, width).astype(number)
    letters = {"f": "F", "i": "I", "u": "U"}
    lines = ["# .PCD v0.7", "VERSION 0.7", rng.choice(("FIELDS", "FIELDS", "COLUMNS"))]
    lines[-1] += " " + " ".join(name for name, *_ in fields)
    lines.append("SIZE " + " ".join(number[1:] for _, number, *_ in fields))
    lines.append("TYPE " + " ".join(letters[number[0]] for _, number, *_ in fields))
    if any(width > 1 for _, _, width, _ in fields) or rng.random() < 0.8:
        lines.append("COUNT " + " ".join(str(width) for _, _, width, _ in fields))
    lines += [f"WIDTH {count}", "HEIGHT 1", "VIEWPOINT 0 0 0 1 0 0 0"]
    if rng.random() < 0.8:
        lines.append(f"POINTS {count}")
    line_end = rng.choice(("\n", "\n", "\r\n"))
    head = line_end.join([*lines, f"DATA {form}", ""]).encode()
    if form == "ascii":
        body = "".join(" ".join(repr(v) for part in row for v in part.tolist()) + line_end for row in rows).encode()
    elif form == "binary":
        body = rows.tobytes()
    else:
        plain = b"".join(np.ascontiguousarray(rows[name]).tobytes() for name in record.names or ())
        packs = b"".join(bytes([len(plain[k : k + 32]) - 1]) + plain[k : k + 32] for k in range(0, len(plain), 32))
        body = struct.pack("<II", len(packs), len(plain)) + packs
    text = f"{form}; {kind} to {highest}"
    return Layout(head + body, ".pcd", xyz, rgb if has_colors else None, np.zeros((0, 3)), told, text)


def random_las(rng: random.Random) -> Layout:
    """LAS or LAZ of a random point format, scale, offset and range of colours."""
    import laspy

    xyz, rgb, highest = points(rng)
    form = rng.choice((0, 1, 2, 3, 5, 6, 7, 8))
    header = laspy.LasHeader(point_format=form, version="1.4" if form > 5 else "1.3" if form > 3 else "1.2")
    header.scales = [rng.choice((1 / 128, 1 / 1024, 0.001, 1e-4))] * 3
    shift = np.array(rng.choice(((0, 0, 0), (500_000, 5_200_000, 300), (-30, 4, 1))))
    header.offsets = shift * rng.choice((0, 1)) if abs(shift).max() / header.scales[0] < 2**30 else shift
    xyz = xyz + shift
    las = laspy.LasData(header)
    las.x, las.y, las.z = xyz.T
    has_colors = form in (2, 3, 5, 7, 8)
    factor = rng.choice((1, 256, 257))
    if has_colors:
        las.red, las.green, las.blue = (rgb * factor).astype(np.uint16).T
    stream = io.BytesIO()
    is_packed = rng.random() < 0.5
    las.write(stream, do_compress=is_packed, laz_backend=laspy.LazBackend.Lazrs if is_packed else None)
    text = f"format {form}; factor {factor} to {highest}; packed {is_packed}"
    suffix = rng.choice((".las", ".laz", ".LAS"))
    return Layout(stream.getvalue(), suffix, xyz, rgb if has_colors else None, np.zeros((0, 3)), highest < 16, text)
