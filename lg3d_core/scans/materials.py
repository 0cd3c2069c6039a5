"""Colours of a mesh's vertices and triangles, from the vertices themselves, from pictures, or from plain materials."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.scans.pictures import Pictures, PictureSource
from lg3d_core.scans.surface import Paint

PLAIN = 128
"""Grey of vertices without a colour beside vertices that have one."""
NUDGE = 0.1
"""Pixels by which a place is moved towards the middle of its triangle, away from the rim of its chart."""
MOST_NUDGE = 0.2
"""Share of the way to the middle at most."""
SHOWN_NAMES = 3
"""Names in a message; of the others only the number is reported."""
IDENTITY = np.eye(2, 3)

Rows = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


class Material(NamedTuple):
    """How triangles are coloured.

    Attributes:
        name: Name for messages.
        color: Red, green and blue from 0 to 1; multiplies the picture. None where the material has no colour.
        picture: Index of its picture; -1 for none.
        placement: Texture coordinates to places in the picture, shape `(2, 3)`: the picture's first pixel is at (0, 0),
            its last one at (1, 1).
        wrap: What lies outside of the picture, for both axes: `repeat`, `clamp` or `mirror`.
    """

    name: str
    color: tuple[float, float, float] | None = None
    picture: int = -1
    placement: npt.NDArray[np.float64] = IDENTITY
    wrap: tuple[str, str] = ("repeat", "repeat")


class Model(NamedTuple):
    """A mesh with materials, each vertex once.

    Attributes:
        xyz: Positions, shape `(vertices, 3)`, float64.
        faces: Triangles, shape `(faces, 3)`. A point whose colour comes from a material is a triangle of one vertex.
        num_triangles: The first ones of `faces` that are triangles.
        uv: Texture coordinates, shape `(coordinates, 2)`.
        uv_index: Row of `uv` of each corner, shape `(faces, 3)`; -1 for none.
        material: Index of each face's material, shape `(faces,)`; -1 for none.
        materials: The materials.
        pictures: Their pictures.
        colors: Colours of the vertices' own, shape `(vertices, 3)`, uint8.
        has_color: Which vertices have one, shape `(vertices,)`.
        doubts: Warnings about what could not be read.
        color_doubts: Warnings about the vertices' own colours.
        material_doubts: Warnings that matter only where colours come from materials.
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
        rgb: Colours of its vertices, shape `(vertices, 3)`; None where it has none.
        paint: Colours of places on its triangles, where materials say more than its vertices.
        doubts: Warnings about what is missing.
    """

    rgb: Bytes | None
    paint: Paint | None
    doubts: tuple[str, ...]


def color_model(model: Model) -> ModelColors:
    """Colour every vertex of a model: its own colour, else that of a corner in its picture, else its material's.

    Where charts of a picture or materials meet at a vertex, one of its corners decides. Own colours that are all equal
    give way to materials that differ.
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
        doubts.append(f"{num_vertices - int(known.sum())} of {num_vertices} vertices have no colour: taken as grey")
    elif not own.any() and not painter.used_pictures and _is_constant(rgb):
        doubts.append("all vertices have the colour of one plain material, which costs accuracy")
    return ModelColors(rgb, painter.paint, tuple(doubts))


def list_names(names: Iterable[str]) -> str:
    """Name a few of many things for a message."""
    every = list(dict.fromkeys(names))
    more = f" and {len(every) - SHOWN_NAMES} more" if len(every) > SHOWN_NAMES else ""
    return ", ".join(every[:SHOWN_NAMES]) + more


def _is_constant(colors: Bytes) -> bool:
    return bool((colors == colors[0]).all())


def _materials_vary(model: Model) -> bool:
    used = [model.materials[k] for k in np.unique(model.material).tolist() if k >= 0]
    return any(m.picture >= 0 for m in used) or len({m.color for m in used if m.color is not None}) > 1


def _first_alike(materials: list[Material]) -> list[int]:
    """Index of the first material that looks like each one."""
    first: dict[object, int] = {}
    looks = [(m.color, m.picture, m.placement.tobytes(), m.wrap) for m in materials]
    return [first.setdefault(look, k) for k, look in enumerate(looks)]


class _Painter:
    """Looks colours up in the pictures and materials of a model, one picture at a time."""

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
        # The material of each face that needs one; -1 where its corners have colours of their own.
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
        """Whether a picture gave a colour."""
        return any(self._model.materials[m].picture not in self._pictures.problems for m in self._order)

    def doubts(self) -> list[str]:
        """Return warnings about pictures and texture coordinates."""
        found = []
        problems = list(dict.fromkeys(self._pictures.problems.values()))
        if problems:
            more = f", and {len(problems) - SHOWN_NAMES} more pictures" if len(problems) > SHOWN_NAMES else ""
            found.append(f"its colours are missing: {'; '.join(problems[:SHOWN_NAMES])}{more}: taken as grey")
        if self._num_unplaced:
            found.append(f"{self._num_unplaced} faces have a picture but no texture coordinates: taken as grey")
        return found

    def color_vertices(self) -> tuple[Bytes, npt.NDArray[np.bool_]]:
        """Return the colours of the vertices, and which of them are known; the others are grey."""
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
        vertices = faces[flat].reshape(-1)[::-1]  # assigned backwards: the first face decides
        fresh = ~known[vertices]
        vertices, colors = vertices[fresh], self._flat_rgb[np.repeat(self._needed[flat], 3)[::-1][fresh]]
        self._rgb[vertices] = colors
        known[vertices] = True
        return self._rgb, known

    def paint(self, face: Rows, weights: npt.NDArray[np.float32]) -> Bytes:
        """Return the colours of places on triangles; see `Surface.paint`."""
        mixed = np.einsum("nk,nkc->nc", weights, self._rgb[self._model.faces[face]].astype(np.float32))
        colors: Bytes = np.round(mixed).astype(np.uint8)
        flat = self._is_flat[self._needed[face]]
        colors[flat] = self._flat_rgb[self._needed[face[flat]]]
        for material, pixels, rows in self._textured(face):
            colors[rows] = self._sample(material, pixels, face[rows], weights[rows].astype(np.float64))
        return colors

    def _textured(self, face: Rows) -> Iterator[tuple[Material, Bytes, Rows]]:
        """Go through the materials with pictures, and give the rows of `face` that have each."""
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
        """Return the pixels at places on textured triangles."""
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
    """Return the pixel of each place along one axis of a picture; 1 is the end of its last pixel."""
    if wrap == "clamp":
        inside = np.clip(place, 0, 1)
    elif wrap == "mirror":
        inside = 1 - np.abs(place - 2 * np.floor(place / 2) - 1)
    else:
        inside = place - np.floor(place)
        inside = np.where((inside == 0) & (place >= 1), 1.0, inside)
    return np.minimum((np.nan_to_num(inside) * count).astype(np.int64), count - 1)
