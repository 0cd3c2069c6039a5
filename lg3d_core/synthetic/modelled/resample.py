"""Conversion of a designer's triangles to a scan-like mesh: even spacing, vertex colours, visible surfaces only."""

import io
import posixpath
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from lg3d_core.errors import DataError
from lg3d_core.synthetic.modelled.library import CatalogEntry, inside, read_member
from lg3d_core.synthetic.modelled.solid import fill_boxes, find_tops
from lg3d_core.synthetic.modelled.wavefront import Material, Triangles, parse_materials, parse_wavefront
from lg3d_core.synthetic.shapes import Array, IntArray, SampledMesh

CLUSTER = 0.7
"""Share of the spacing: vertices within a cell of this size are merged."""
OPAQUE = 0.15
"""Minimum opacity of a surface; more transparent ones, such as window panes, are removed."""
SOLID = 0.35
"""Minimum opacity of a texture; more transparent places are empty, e.g. between the leaves of a plant."""
DIRECTIONS = 46
"""Number of directions from which a model is rendered to find its interior."""
LEAST_FACING = 0.6
"""Minimum cosine between a surface's normal and a direction that decides about its visibility."""
MOST_PIXELS = 64_000_000
MOST_PIECES = 4_000_000


class SampledModel(NamedTuple):
    """Sampled model: origin on the ground below its centre, in metres, +z up, front towards -y.

    Attributes:
        mesh: Surface of the model.
        low: Low corners of the collision boxes, shape `(boxes, 3)`.
        high: High corners of the collision boxes, shape `(boxes, 3)`.
        tops: Tops for other things: low x, low y, high x, high y, z and the free height above, shape `(tops, 6)`.
    """

    mesh: SampledMesh
    low: Array
    high: Array
    tops: Array


class _Image(NamedTuple):
    """Texture: RGB in 0..255, shape `(rows, columns, 3)`, and opacity in 0..1, shape `(rows, columns)`."""

    rgb: Array
    opacity: Array


def sample_model(library: Path, entry: CatalogEntry, *, spacing: float) -> SampledModel:
    """Read a model and sample it.

    Args:
        library: `.sh3f` file.
        entry: Catalogue entry of the model.
        spacing: Approximate distance of neighbouring vertices in metres.

    Raises:
        DataError: The model is malformed; the message does not name it.
    """
    folder = posixpath.dirname(entry.member)
    images: dict[str, _Image | None] = {}
    with zipfile.ZipFile(library) as archive:

        def read_materials(name: str) -> dict[str, Material]:
            member = _find(archive, folder, name)
            return parse_materials(read_member(archive, member).decode("utf-8", "replace")) if member else {}

        text = read_member(archive, entry.member).decode("utf-8", "replace")
        triangles = parse_wavefront(text, read_materials)
        for material in triangles.materials:
            if material.texture and material.texture not in images:
                images[material.texture] = _read_image(archive, folder, material.texture)
    xyz = fit_to_size(triangles.xyz, entry)
    mesh = sample_surface(triangles._replace(xyz=xyz), images, spacing=spacing)
    if not len(mesh.faces):
        raise DataError("it has no visible surface")
    low, high = fill_boxes(mesh.xyz, spacing=spacing)
    return SampledModel(mesh, low, high, find_tops(mesh.xyz, mesh.normal, spacing=spacing))


def fit_to_size(xyz: Array, entry: CatalogEntry) -> Array:
    """Convert a file's axes (x right, y up, z to the front) to a thing's axes, and scale it to the catalogue's size."""
    turned = xyz @ np.array(entry.rotation).reshape(3, 3).T
    turned = np.stack([turned[..., 0], -turned[..., 2], turned[..., 1]], axis=-1)
    low, high = turned.reshape(-1, 3).min(axis=0), turned.reshape(-1, 3).max(axis=0)
    extent = high - low
    if (extent > 0).sum() < 2:
        raise DataError("all its vertices are on one line")
    scale = np.array(entry.size) / np.where(extent > 0, extent, 1.0)
    middle = (low + high) / 2
    middle[2] = low[2]
    fitted: Array = (turned - middle) * scale
    return fitted


def sample_surface(triangles: Triangles, images: "dict[str, _Image | None]", *, spacing: float) -> SampledMesh:
    """Subdivide triangles to the spacing, colour their corners, weld them, and remove surfaces invisible from outside.

    Both sides of a thin board stay separate: each cell keeps one vertex per main direction of its surfaces (of six),
    all at the same position.
    """
    xyz, uv, owner = triangles.xyz, triangles.uv, triangles.material
    opacity = np.array([material.opacity for material in triangles.materials])
    opaque = opacity[owner] >= OPAQUE
    if opaque.any():  # an all-glass thing is not changed
        xyz, uv, owner = xyz[opaque], uv[opaque], owner[opaque]
    textures = [
        _footprint(images.get(m.texture), xyz[owner == k], uv[owner == k], spacing) if m.texture else None
        for k, m in enumerate(triangles.materials)
    ]
    corners, owner = _split_edges(np.concatenate([xyz, uv], axis=2), owner, spacing)
    normal = np.cross(corners[:, 1, :3] - corners[:, 0, :3], corners[:, 2, :3] - corners[:, 0, :3])
    area = np.linalg.norm(normal, axis=1)
    solid = area > 1e-12
    if not solid.any():
        raise DataError("it has no visible surface")
    corners, owner, normal = corners[solid], owner[solid], normal[solid] / area[solid, None]
    rgb, alpha = _colors(corners, owner, triangles.materials, textures)
    seen = alpha.mean(axis=1) >= SOLID
    if seen.any():
        corners, normal, rgb = corners[seen], normal[seen], rgb[seen]
    mesh = _cluster(corners[..., :3], normal, rgb, CLUSTER * spacing)
    return _outside(mesh, spacing)


def _find(archive: zipfile.ZipFile, folder: str, reference: str) -> str | None:
    """Return the member of a reference: the exact path, or a file of the same name in the model's folder."""
    plain = inside(folder, reference)
    names = set(archive.namelist())
    if plain in names:
        return plain
    beside = inside(folder, reference.replace("\\", "/").rpartition("/")[2])
    return beside if beside in names else None


def _read_image(archive: zipfile.ZipFile, folder: str, reference: str) -> _Image | None:
    """Read a texture; return None if it is not in the model's folder or not an image."""
    member = _find(archive, folder, reference)
    if member is None:
        return None
    try:
        with Image.open(io.BytesIO(read_member(archive, member))) as image:
            if image.width * image.height > MOST_PIXELS:
                return None
            pixels = np.asarray(image.convert("RGBA"), dtype=np.float32)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError, DataError):
        return None
    return _Image(pixels[..., :3].astype(np.float64), pixels[..., 3].astype(np.float64) / 255)


def _footprint(image: _Image | None, xyz: Array, uv: Array, spacing: float) -> _Image | None:
    """Average a texture over blocks of a vertex's share of the surface, to avoid aliasing."""
    if image is None or not len(xyz):
        return None
    rows, columns = image.opacity.shape
    surface = np.linalg.norm(np.cross(xyz[:, 1] - xyz[:, 0], xyz[:, 2] - xyz[:, 0]), axis=1).sum()
    a, b = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
    covered = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() * rows * columns
    block = spacing * np.sqrt(covered / max(surface, 1e-12))
    down, right = (
        np.arange(n) * size // n for size in (rows, columns) for n in [max(1, round(size / max(block, 1.0)))]
    )
    rgb = np.add.reduceat(np.add.reduceat(image.rgb, down, axis=0), right, axis=1)
    opacity = np.add.reduceat(np.add.reduceat(image.opacity, down, axis=0), right, axis=1)
    count = np.outer(np.diff(np.append(down, rows)), np.diff(np.append(right, columns)))
    return _Image(rgb / count[..., None], opacity / count)


def _split_edges(corners: Array, owner: IntArray, longest: float) -> tuple[Array, IntArray]:
    """Halve edges until none is too long; neighbours split shared edges alike, so that no gap opens.

    Args:
        corners: Corners with x, y, z, u and v, shape `(triangles, 3, 5)`.
        owner: Original triangle, shape `(triangles,)`.
        longest: Longest edge in metres.

    Raises:
        DataError: The result would have more than `MOST_PIECES` triangles.
    """
    done: list[tuple[Array, IntArray]] = []
    while len(corners):
        ends = np.roll(corners, -1, axis=1)
        long = np.linalg.norm(ends[..., :3] - corners[..., :3], axis=2) > longest
        count = long.sum(axis=1)
        done.append((corners[count == 0], owner[count == 0]))
        keep = count > 0
        corners, owner, long, count = corners[keep], owner[keep], long[keep], count[keep]
        if sum(len(o) for _, o in done) + 4 * len(owner) > MOST_PIECES:
            raise DataError(f"it would need more than {MOST_PIECES} triangles of {longest} m")
        # Rotate the corners of each triangle so that a single long edge comes first, or a single short edge last.
        shift = np.where(count == 1, long.argmax(axis=1), np.where(count == 2, (~long).argmax(axis=1) + 1, 0))
        order = (np.arange(3) + shift[:, None]) % 3
        corners = np.take_along_axis(corners, order[:, :, None], axis=1)
        a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
        ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
        pieces: list[Array] = []
        owners: list[IntArray] = []
        for number, parts in (
            (1, ((a, ab, c), (ab, b, c))),
            (2, ((a, ab, c), (ab, b, bc), (ab, bc, c))),
            (3, ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))),
        ):
            rows = count == number
            pieces += [np.stack([corner[rows] for corner in part], axis=1) for part in parts]
            owners += [owner[rows]] * len(parts)
        corners, owner = np.concatenate(pieces), np.concatenate(owners)
    return np.concatenate([piece for piece, _ in done]), np.concatenate([row for _, row in done])


def _colors(
    corners: Array, owner: IntArray, materials: tuple[Material, ...], textures: "list[_Image | None]"
) -> tuple[Array, Array]:
    """Return colour in 0..255 and opacity of each corner, shapes `(triangles, 3, 3)` and `(triangles, 3)`."""
    rgb = np.array([material.rgb for material in materials])[owner][:, None].repeat(3, axis=1)
    alpha = np.ones(rgb.shape[:2])
    for row, image in enumerate(textures):
        if image is None:
            continue
        mine = np.flatnonzero(owner == row)
        height, width = image.opacity.shape
        # Sample slightly inside, so that a corner on the border of its patch does not read the neighbouring one.
        uv = corners[mine, :, 3:]
        uv = uv + (uv.mean(axis=1, keepdims=True) - uv) * 1e-3
        column = np.floor((uv[..., 0] % 1.0) * width).astype(np.int64).clip(0, width - 1)
        line = np.floor((1.0 - uv[..., 1] % 1.0) * height).astype(np.int64).clip(0, height - 1)
        rgb[mine] = image.rgb[line, column]
        alpha[mine] = image.opacity[line, column]
    return rgb, alpha


def _cluster(xyz: Array, normal: Array, rgb: Array, cell: float) -> SampledMesh:
    """Weld corners by cell and direction: average positions per cell, colours and normals per cell and direction."""
    points = xyz.reshape(-1, 3)
    normals = normal.repeat(3, axis=0)
    index = np.floor(points / cell).astype(np.int64)
    index -= index.min(axis=0)
    span = index.max(axis=0) + 1
    place = (index[:, 0] * span[1] + index[:, 1]) * span[2] + index[:, 2]
    axis = np.abs(normals).argmax(axis=1)
    facing = 2 * axis + (np.take_along_axis(normals, axis[:, None], axis=1)[:, 0] > 0)
    _, place = np.unique(place, return_inverse=True)
    keys, vertex = np.unique(place * 6 + facing, return_inverse=True)
    middle = _means(points, place, int(place.max()) + 1)[keys // 6]
    directions = _means(normals, vertex, len(keys))
    length = np.linalg.norm(directions, axis=1, keepdims=True)
    faces = vertex.reshape(-1, 3)
    a, b, c = (keys[corner] // 6 for corner in faces.T)
    faces = faces[(a != b) & (b != c) & (c != a)]
    ordered = np.sort(faces, axis=1)
    _, distinct = np.unique((ordered[:, 0] * len(keys) + ordered[:, 1]) * len(keys) + ordered[:, 2], return_index=True)
    return SampledMesh(
        middle,
        directions / np.maximum(length, 1e-9),
        _means(rgb.reshape(-1, 3), vertex, len(keys)),
        faces[np.sort(distinct)],
    )


def _means(values: Array, group: IntArray, size: int) -> Array:
    count = np.bincount(group, minlength=size)
    sums = np.stack([np.bincount(group, weights=column, minlength=size) for column in values.T], axis=1)
    return sums / count[:, None]


def _outside(mesh: SampledMesh, spacing: float) -> SampledMesh:
    """Keep the faces that are visible from outside, so that interiors are removed."""
    seen = np.zeros(len(mesh.xyz), dtype=bool)
    cell, slack = 1.6 * spacing, 0.8 * spacing
    for direction in _directions():
        helper = np.eye(3)[int(np.abs(direction).argmin())]
        right = np.cross(direction, helper)
        right /= np.linalg.norm(right)
        flat = np.stack([mesh.xyz @ right, mesh.xyz @ np.cross(direction, right)], axis=1)
        pixel = np.floor((flat - flat.min(axis=0)) / cell).astype(np.int64)
        pixel = pixel[:, 0] * (int(pixel[:, 1].max()) + 1) + pixel[:, 1]
        depth = -(mesh.xyz @ direction)  # smaller is nearer to the viewer
        nearest = np.full(int(pixel.max()) + 1, np.inf)
        np.minimum.at(nearest, pixel, depth)
        facing = mesh.normal @ direction
        # Only views near the normal count: in grazing views the depth within one pixel varies too much.
        steep = np.sqrt(np.clip(1.0 - facing**2, 0.0, 1.0)) / np.clip(facing, LEAST_FACING, 1.0)
        seen |= (facing > LEAST_FACING) & (depth < nearest[pixel] + slack + cell * steep)
    faces = mesh.faces[seen[mesh.faces].sum(axis=1) >= 2]
    used = np.zeros(len(mesh.xyz), dtype=bool)
    used[faces.reshape(-1)] = True
    renumber: npt.NDArray[np.int64] = np.cumsum(used) - 1
    return SampledMesh(mesh.xyz[used], mesh.normal[used], mesh.rgb[used], renumber[faces])


def _directions() -> Array:
    """Return unit vectors spread evenly over the sphere (a golden spiral)."""
    n = np.arange(DIRECTIONS) + 0.5
    z = 1 - 2 * n / DIRECTIONS
    angle = np.pi * (1 + 5**0.5) * n
    radius = np.sqrt(1 - z**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=1)
