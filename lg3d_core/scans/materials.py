"""Colours of a mesh's vertices and triangles: own colours, textures, or plain materials."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.scans.pictures import Pictures, PictureSource
from lg3d_core.scans.surface import Paint

PLAIN = 128
"""Grey of vertices without a colour, if other vertices have one."""
NUDGE = 0.1
"""Distance in pixels by which a position moves towards the centre of its triangle, away from the edge of its chart."""
MOST_NUDGE = 0.2
"""Maximum share of the way to the centre."""
SHOWN_NAMES = 3
"""Number of names that a message lists; the others are only counted."""
IDENTITY = np.eye(2, 3)

Rows = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


class Material(NamedTuple):
    """Material of triangles.

    Attributes:
        name: Name for messages.
        color: Red, green and blue from 0 to 1, multiplied with the texture; None if the material has no colour.
        picture: Index of the texture's picture; -1 for none.
        placement: Affine map from texture coordinates to positions in the picture, shape `(2, 3)`; the picture's first
            pixel is at (0, 0), its last one at (1, 1).
        wrap: Wrapping mode outside of the picture, for each axis: `repeat`, `clamp` or `mirror`.
    """

    name: str
    color: tuple[float, float, float] | None = None
    picture: int = -1
    placement: npt.NDArray[np.float64] = IDENTITY
    wrap: tuple[str, str] = ("repeat", "repeat")


class Model(NamedTuple):
    """Mesh with materials; each vertex occurs once.

    Attributes:
        xyz: Positions, shape `(vertices, 3)`, float64.
        faces: Triangles, shape `(faces, 3)`. A point with a material is stored as a triangle that repeats one vertex.
        num_triangles: Number of leading rows of `faces` that are real triangles.
        uv: Texture coordinates, shape `(coordinates, 2)`.
        uv_index: Row of `uv` of each corner, shape `(faces, 3)`; -1 for none.
        material: Index of each face's material, shape `(faces,)`; -1 for none.
        materials: Materials of the faces.
        pictures: Pictures of the materials.
        colors: Vertex colours, shape `(vertices, 3)`, uint8.
        has_color: Whether each vertex has a colour, shape `(vertices,)`.
        doubts: Warnings about data that could not be read.
        color_doubts: Warnings about the vertex colours.
        material_doubts: Warnings that apply only where colours come from materials.
    """

    xyz: npt.NDArray[np.float64]
    faces: npt.NDArray[np.integer]
    num_triangles: int
    uv: npt.NDArray[np.float64]
    uv_index: npt.NDArray[np.integer]
    material: npt.NDArray[np.integer]
    materials: list[Material]
    pictures: list[PictureSource]
    colors: Bytes
    has_color: npt.NDArray[np.bool_]
    doubts: tuple[str, ...] = ()
    color_doubts: tuple[str, ...] = ()
    material_doubts: tuple[str, ...] = ()


class ModelColors(NamedTuple):
    """Colours of a model.

    Attributes:
        rgb: Vertex colours, shape `(vertices, 3)`; None if the model has no colours.
        paint: Returns colours of positions on triangles, if materials carry more detail than vertices; else None.
        doubts: Warnings about missing colours.
    """

    rgb: Bytes | None
    paint: Paint | None
    doubts: tuple[str, ...]


def color_model(model: Model) -> ModelColors:
    """Return the colours of a model's vertices: own colours first, then those of a corner's texture, then the
    material's.

    Where texture charts or materials meet at a vertex, one of its corners is used. If all own colours are equal and the
    materials differ, the materials are used.
    """
    own = model.has_color
    if own.any() and _is_constant(model.colors[own]) and _materials_vary(model):
        tells = np.array([m.picture >= 0 or m.color is not None for m in model.materials] + [False])
        own = own.copy()
        own[model.faces[tells[model.material]]] = False
    num_vertices = len(model.xyz)
    if own.all():
        return ModelColors(model.colors, None, (*model.doubts, *model.color_doubts))
    painter = _Painter(model, own)
    rgb, known = painter.color_vertices()
    doubts = [*model.doubts, *model.material_doubts, *painter.doubts()]
    if own.any() or not known.any():
        doubts += model.color_doubts
    if not known.any():
        return ModelColors(None, None, tuple(doubts))
    if not known.all():
        doubts.append(f"{num_vertices - int(known.sum())} of {num_vertices} vertices have no colour: grey is used")
    elif not own.any() and not painter.used_pictures and _is_constant(rgb):
        doubts.append("all vertices have the colour of one plain material, which lowers accuracy")
    return ModelColors(rgb, painter.paint, tuple(doubts))


def list_names(names: Iterable[str]) -> str:
    """Join the first names of a list for a message, and count the others."""
    every = list(dict.fromkeys(names))
    more = f" and {len(every) - SHOWN_NAMES} more" if len(every) > SHOWN_NAMES else ""
    return ", ".join(every[:SHOWN_NAMES]) + more


def _is_constant(colors: Bytes) -> bool:
    return bool((colors == colors[0]).all())


def _materials_vary(model: Model) -> bool:
    used = [model.materials[k] for k in np.unique(model.material).tolist() if k >= 0]
    return any(m.picture >= 0 for m in used) or len({m.color for m in used if m.color is not None}) > 1


def _first_alike(materials: list[Material]) -> list[int]:
    """Return the index of the first material with the same appearance, for each material."""
    first: dict[object, int] = {}
    looks = [(m.color, m.picture, m.placement.tobytes(), m.wrap) for m in materials]
    return [first.setdefault(look, k) for k, look in enumerate(looks)]


class _Painter:
    """Sampler of a model's textures and materials, one picture at a time."""

    def __init__(self, model: Model, own: npt.NDArray[np.bool_]) -> None:
        self._model = model
        self._own = own
        self._pictures = Pictures(model.pictures)
        self._rgb = np.where(own[:, None], model.colors, np.uint8(PLAIN)).astype(np.uint8)
        has_picture = np.array([m.picture >= 0 for m in model.materials] + [False])
        has_color = np.array([m.color is not None for m in model.materials] + [False])
        colors = [m.color or (0.0, 0.0, 0.0) for m in model.materials] + [(0.0, 0.0, 0.0)]
        self._flat_rgb = np.clip(np.round(np.array(colors) * 255), 0, 255).astype(np.uint8)
        self._is_flat = has_color & ~has_picture
        # Material of each face that needs one; -1 if its corners have colours of their own
        same = np.array([*_first_alike(model.materials), -1])
        self._needed = np.where(own[model.faces].all(axis=1), -1, same[model.material]).astype(np.int64)
        textured = has_picture[self._needed]
        placed: npt.NDArray[np.bool_] = np.asarray((model.uv_index >= 0).all(axis=1))
        placed &= np.append(np.isfinite(model.uv).all(axis=1), False)[model.uv_index].all(axis=1)
        self._num_unplaced = int((textured & ~placed).sum())
        self._needed[textured & ~placed] = -1
        order = sorted({m for m in np.unique(self._needed).tolist() if m >= 0 and has_picture[m]}, key=self._picture_of)
        self._rank = np.full(len(model.materials) + 1, -1, dtype=np.int64)
        self._rank[order] = np.arange(len(order))
        self._order = order

    def _picture_of(self, material: int) -> tuple[int, int]:
        return self._model.materials[material].picture, material

    @property
    def used_pictures(self) -> bool:
        """Return whether a picture provided a colour."""
        return any(self._model.materials[m].picture not in self._pictures.problems for m in self._order)

    def doubts(self) -> list[str]:
        """Return warnings about pictures and texture coordinates."""
        found = []
        problems = list(dict.fromkeys(self._pictures.problems.values()))
        if problems:
            more = f", and {len(problems) - SHOWN_NAMES} more pictures" if len(problems) > SHOWN_NAMES else ""
            found.append(f"colours are missing: {'; '.join(problems[:SHOWN_NAMES])}{more}: grey is used")
        if self._num_unplaced:
            found.append(f"{self._num_unplaced} faces have a texture but no texture coordinates: grey is used")
        return found

    def color_vertices(self) -> tuple[Bytes, npt.NDArray[np.bool_]]:
        """Return the colours of the vertices and the mask of known ones; the others are grey."""
        faces = self._model.faces
        known = self._own.copy()
        every = np.arange(len(faces))
        for material, pixels, rows in self._textured(every):
            vertices, first = np.unique(faces[rows].reshape(-1), return_index=True)
            fresh = ~known[vertices]
            vertices, first = vertices[fresh], first[fresh]
            if len(vertices) == 0:
                continue
            weights = np.eye(3)[first % 3]
            self._rgb[vertices] = self._sample(material, pixels, rows[first // 3], weights)
            known[vertices] = True
        flat = np.flatnonzero(self._is_flat[self._needed])
        vertices = faces[flat].reshape(-1)[::-1]  # assigned in reverse order: the first face wins
        fresh = ~known[vertices]
        vertices, colors = vertices[fresh], self._flat_rgb[np.repeat(self._needed[flat], 3)[::-1][fresh]]
        self._rgb[vertices] = colors
        known[vertices] = True
        return self._rgb, known

    def paint(self, face: Rows, weights: npt.NDArray[np.float32]) -> Bytes:
        """Return the colours of positions on triangles; see `Surface.paint`."""
        mixed = np.einsum("nk,nkc->nc", weights, self._rgb[self._model.faces[face]].astype(np.float32))
        colors: Bytes = np.round(mixed).astype(np.uint8)
        flat = self._is_flat[self._needed[face]]
        colors[flat] = self._flat_rgb[self._needed[face[flat]]]
        for material, pixels, rows in self._textured(face):
            colors[rows] = self._sample(material, pixels, face[rows], weights[rows].astype(np.float64))
        return colors

    def _textured(self, face: Rows) -> Iterator[tuple[Material, Bytes, Rows]]:
        """Iterate over the materials with pictures, and yield the rows of `face` that use each."""
        rank = self._rank[self._needed[face]]
        rows = np.flatnonzero(rank >= 0)
        rows = rows[np.argsort(rank[rows], kind="stable")]
        bounds = np.searchsorted(rank[rows], np.arange(len(self._order) + 1))
        for k, index in enumerate(self._order):
            if bounds[k] < bounds[k + 1]:
                material = self._model.materials[index]
                pixels = self._pictures.pixels(material.picture)
                if pixels is not None:
                    yield material, pixels, rows[bounds[k] : bounds[k + 1]]

    def _sample(self, material: Material, pixels: Bytes, face: Rows, weights: npt.NDArray[np.float64]) -> Bytes:
        """Return the pixels at positions on textured triangles."""
        size = np.array([pixels.shape[1], pixels.shape[0]], dtype=np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            corners = (
                self._model.uv[self._model.uv_index[face]] @ material.placement[:, :2].T + material.placement[:, 2]
            )
            extent = (np.ptp(corners, axis=1) * size).max(axis=1)
            nudge = np.where(extent > 0, np.minimum(NUDGE / np.where(extent > 0, extent, 1), MOST_NUDGE), 0)[:, None]
            uv = np.einsum("nk,nkc->nc", weights * (1 - nudge) + nudge / 3, corners)
            column, row = (_pixel(uv[:, k], int(size[k]), material.wrap[k]) for k in range(2))
        found = pixels[row, column]
        if material.color is None or material.color == (1.0, 1.0, 1.0):
            return found
        tinted: Bytes = np.clip(np.round(found * np.array(material.color)), 0, 255).astype(np.uint8)
        return tinted


def _pixel(place: npt.NDArray[np.float64], count: int, wrap: str) -> Rows:
    """Return the pixel of each position along one axis of a picture; 1 is the end of its last pixel."""
    if wrap == "clamp":
        inside = np.clip(place, 0, 1)
    elif wrap == "mirror":
        inside = 1 - np.abs(place - 2 * np.floor(place / 2) - 1)
    else:
        inside = place - np.floor(place)
        inside = np.where((inside == 0) & (place >= 1), 1.0, inside)
    return np.minimum((np.nan_to_num(inside) * count).astype(np.int64), count - 1)
