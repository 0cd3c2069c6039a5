"""Parser of Wavefront OBJ and MTL text into triangles with materials."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError
from lg3d_core.synthetic.shapes import Array, IntArray

MOST_TRIANGLES = 2_000_000
PLAIN = (200.0, 200.0, 200.0)
"""Colour of a surface without a material."""


@dataclass(frozen=True, slots=True)
class Material:
    """Appearance of a surface.

    Attributes:
        rgb: Diffuse colour in 0..255.
        opacity: Opacity in 0..1.
        texture: File name of the image that multiplies the colour, or "".
    """

    rgb: tuple[float, float, float] = PLAIN
    opacity: float = 1.0
    texture: str = ""


class Triangles(NamedTuple):
    """Surface of a model in its file's axes and units.

    Attributes:
        xyz: Corners, shape `(triangles, 3, 3)`, counter-clockwise as seen from outside.
        uv: Texture coordinates of the corners, shape `(triangles, 3, 2)`; 0 if missing.
        material: Row in `materials`, shape `(triangles,)`.
        materials: Materials, at least one.
    """

    xyz: Array
    uv: Array
    material: IntArray
    materials: tuple[Material, ...]


def parse_wavefront(text: str, read_materials: Callable[[str], dict[str, Material]]) -> Triangles:
    """Parse an OBJ file; polygons are split into triangles.

    Args:
        text: Content of the file.
        read_materials: Function that returns the materials of an MTL file by its name.

    Raises:
        DataError: The file has no faces, refers to a missing vertex, or contains an invalid number.
    """
    materials: list[Material] = [Material()]
    rows: dict[str, int] = {}
    positions: list[str] = []
    texture: list[str] = []
    polygons: list[str] = []
    owners: list[int] = []
    seen: list[tuple[int, int]] = []
    current = 0
    for line in text.replace("\\\n", " ").splitlines():
        word, rest = split_word(line)
        if word == "vn":
            pass
        elif word == "v":
            positions.append(rest)
        elif word == "vt":
            texture.append(rest)
        elif word == "f":
            polygons.append(rest)
            owners.append(current)
            seen.append((len(positions), len(texture)))
        elif word == "usemtl":
            current = rows.get(rest, 0)
        elif word == "mtllib":
            for name, material in read_materials(rest).items():
                rows[name] = len(materials)
                materials.append(material)
    if not polygons:
        raise DataError("it has no faces")
    xyz = _table(positions, 3)
    uv = np.concatenate([_table(texture, 2), np.zeros((1, 2))])  # the last row represents a missing coordinate
    corners, corner_uv, sizes = _corners(polygons, seen)
    if len(corners) > 3 * MOST_TRIANGLES:
        raise DataError(f"it has {len(corners)} corners, expected at most {3 * MOST_TRIANGLES}")
    if corners.min() < 0 or corners.max() >= len(xyz) or corner_uv.max(initial=-1) >= len(uv) - 1:
        raise DataError("a face refers to a vertex that does not exist")
    rows_of_corners, polygon = _triangulate(sizes, xyz[corners])
    if not len(polygon):
        raise DataError("its faces have fewer than three corners")
    return Triangles(
        xyz[corners][rows_of_corners],
        uv[corner_uv][rows_of_corners],
        np.asarray(owners, dtype=np.int64)[polygon],
        tuple(materials),
    )


def split_word(line: str) -> tuple[str, str]:
    """Return the first word of a line and the rest; spaces and tabs separate words."""
    word, *rest = line.split(None, 1) or [""]
    return word, rest[0].rstrip() if rest else ""


def parse_materials(text: str) -> dict[str, Material]:
    """Return the materials of an MTL file by name, with defaults for missing values.

    Raises:
        DataError: A number is invalid.
    """
    found: dict[str, Material] = {}
    name, rgb, opacity, texture = "", PLAIN, 1.0, ""
    for line in [*text.splitlines(), "newmtl"]:
        word, rest = split_word(line)
        if word == "newmtl":
            if name:
                found[name] = Material(rgb, opacity, texture)
            name, rgb, opacity, texture = rest, PLAIN, 1.0, ""
        elif word == "Kd" and not rest.startswith(("spectral", "xyz")):
            values = _numbers([rest])
            r, g, b = (255 * float(min(max(value, 0.0), 1.0)) for value in np.resize(values, 3))
            rgb = (r, g, b)
        elif word in ("d", "Tr"):
            value = float(_numbers([rest.removeprefix("-halo").strip()])[0])
            opacity = min(max(value if word == "d" else 1.0 - value, 0.0), 1.0)
        elif word == "map_Kd":
            texture = rest
    return found


def _numbers(lines: list[str]) -> Array:
    try:
        values = np.array(" ".join(lines).split(), dtype=np.float64)
    except ValueError as error:
        raise DataError(f"expected numbers: {error}") from None
    if not len(values) or not np.isfinite(values).all():
        raise DataError("expected finite numbers")
    return values


def _table(lines: list[str], columns: int) -> Array:
    """Return the first `columns` numbers of every line."""
    if not lines:
        return np.zeros((0, columns))
    rows = [line.split()[:columns] for line in lines]  # some lines have a weight or a colour at the end
    if any(len(row) < columns for row in rows):
        raise DataError(f"a vertex has fewer than {columns} numbers")
    return _numbers([word for row in rows for word in row]).reshape(-1, columns)


def _corners(polygons: list[str], seen: list[tuple[int, int]]) -> tuple[IntArray, IntArray, IntArray]:
    """Return all polygons' rows of vertices and texture coordinates (-1 for none), and their numbers of corners."""
    regular = _regular_corners(polygons)
    if regular is not None:
        return regular
    corners: list[int] = []
    texture: list[int] = []
    sizes: list[int] = []
    try:
        for line, (num_xyz, num_uv) in zip(polygons, seen, strict=True):
            words = line.split()
            sizes.append(len(words))
            for word in words:
                first, _, others = word.partition("/")
                second = others.partition("/")[0]
                row = int(first)
                corners.append(row - 1 if row > 0 else num_xyz + row)
                row = int(second) if second else 0
                texture.append(row - 1 if row > 0 else num_uv + row if row else -1)
        return np.array(corners, dtype=np.int64), np.array(texture, dtype=np.int64), np.array(sizes, dtype=np.int64)
    except ValueError:
        raise DataError(f"invalid face {line!r}") from None
    except OverflowError:
        raise DataError("a face refers to a vertex of more than 64 bits") from None


def _regular_corners(polygons: list[str]) -> tuple[IntArray, IntArray, IntArray] | None:
    """Return what `_corners` returns for files with positive numbers and one form of corners, None for others."""
    text = "\n".join(polygons)
    for form, numbers in ((r"\d{1,9}/\d{0,9}/\d{1,9}", 3), (r"\d{1,9}/\d{1,9}", 2), (r"\d{1,9}", 1)):
        if re.fullmatch(rf"\s*+(?:{form}(?:\s++|\Z))++", text, re.ASCII):
            table = np.fromstring(text.replace("//", "/0/").replace("/", " "), dtype=np.int64, sep=" ")
            corners, texture = table.reshape(-1, numbers).T[:2] if numbers > 1 else (table, np.zeros_like(table))
            if (corners > 0).all():
                return corners - 1, texture - 1, np.array([len(line.split()) for line in polygons], dtype=np.int64)
    return None


def _triangulate(sizes: IntArray, xyz: Array) -> tuple[IntArray, IntArray]:
    """Split polygons into triangles: fans for convex polygons, ears for others.

    Returns:
        Rows of the corner list, shape `(triangles, 3)`, and the polygon of each triangle.
    """
    start = np.cumsum(sizes) - sizes
    pieces: list[npt.NDArray[np.int64]] = []
    polygons: list[npt.NDArray[np.int64]] = []
    for size in np.unique(sizes[sizes >= 3]):
        members = np.flatnonzero(sizes == size)
        rows = start[members][:, None] + np.arange(size)
        fan = np.stack([np.zeros(size - 2, dtype=np.int64), np.arange(1, size - 1), np.arange(2, size)], axis=1)
        if size > 3:
            points = xyz[rows]
            ahead, behind = np.roll(points, -1, axis=1) - points, points - np.roll(points, 1, axis=1)
            turn = np.cross(behind, ahead)
            normal = turn.sum(axis=1, keepdims=True)
            dents = ((turn * normal).sum(axis=2) < -1e-9 * (normal**2).sum(axis=2)).any(axis=1)
            for member, row in zip(members[dents], rows[dents], strict=True):
                ears = _ears(xyz[row])
                pieces.append(row[ears])
                polygons.append(np.full(len(ears), member))
            members, rows = members[~dents], rows[~dents]
        pieces.append(rows[:, fan].reshape(-1, 3))
        polygons.append(np.repeat(members, size - 2))
    if not pieces:
        return np.zeros((0, 3), dtype=np.int64), np.zeros(0, dtype=np.int64)
    return np.concatenate(pieces), np.concatenate(polygons)


def _ears(points: Array) -> IntArray:
    """Triangulate a concave polygon by ear clipping, shape `(corners, 3)`; an unclippable rest becomes a fan."""
    normal = np.cross(points, np.roll(points, -1, axis=0)).sum(axis=0)
    drop = int(np.abs(normal).argmax())
    flat = np.delete(points, drop, axis=1) * (1.0, 1.0 if (normal[drop] > 0) != (drop == 1) else -1.0)
    left = list(range(len(points)))
    ears: list[tuple[int, int, int]] = []
    while len(left) > 3:
        for n in range(len(left)):
            a, b, c = left[n - 1], left[n], left[(n + 1) % len(left)]
            if _area(flat[a], flat[b], flat[c]) <= 0:
                continue
            corners = {tuple(flat[k]) for k in (a, b, c)}
            others = [k for k in left if tuple(flat[k]) not in corners]
            if any(_within(flat[k], flat[a], flat[b], flat[c]) for k in others):
                continue
            ears.append((a, b, c))
            del left[n]
            break
        else:
            break
    ears += [(left[0], left[n], left[n + 1]) for n in range(1, len(left) - 1)]
    return np.array(ears, dtype=np.int64)


def _area(a: Array, b: Array, c: Array) -> float:
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))


def _within(p: Array, a: Array, b: Array, c: Array) -> bool:
    return _area(a, b, p) >= 0 and _area(b, c, p) >= 0 and _area(c, a, p) >= 0
