"""Simple simulation of a scan: visible surfaces only, welded, with noise, holes and over-segmentation."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.synthetic.layout import Room
from lg3d_core.synthetic.shapes import Array, IntArray, Part, triangulate, yaw_matrix
from lg3d_core.synthetic.textures import TEXTURE_NAMES, paint_vertices

WELD = 0.6
"""Share of the spacing: vertices within a cell of this size are merged."""
PANORAMA = (288, 144)
POSITION_NOISE = 0.003
"""Standard deviation of the noise along each axis in metres."""
COLOR_NOISE = 4.0
SEGMENT_SIZE = 0.34
"""Edge in metres of the cells that split surfaces into segments."""
FEW = 9
"""Minimum number of vertices of a segment; smaller ones are merged with others of their thing."""


class Surfaces(NamedTuple):
    """All surfaces of a room, before visibility is computed."""

    xyz: Array
    normal: Array
    local: Array
    rgb: Array
    faces: IntArray
    thing: IntArray
    part: IntArray


class ScannedRoom(NamedTuple):
    """Scanned room.

    Attributes:
        xyz: Positions in room coordinates in metres, shape `(vertices, 3)`, float32.
        rgb: Colours, shape `(vertices, 3)`, uint8.
        faces: Triangles, shape `(faces, 3)`, int32.
        thing: Row of `Room.things` of each vertex, shape `(vertices,)`.
        segment: Segment id of each vertex, not contiguous, shape `(vertices,)`. Each segment belongs to one thing.
        spacing: Approximate distance of neighbouring vertices in metres.
    """

    xyz: npt.NDArray[np.float32]
    rgb: npt.NDArray[np.uint8]
    faces: npt.NDArray[np.int32]
    thing: IntArray
    segment: IntArray
    spacing: float


def scan_room(
    room: Room, *, vertices: int, rng: np.random.Generator, fixed_spacing: float | None = None
) -> ScannedRoom:
    """Scan a room with about `vertices` vertices, or with vertices about `fixed_spacing` metres apart."""
    stations = _stations(room, rng)
    holes = _hole_seeds(room, rng)
    spacing = fixed_spacing or 1.9 * float(np.sqrt(_area(room) * 0.5 / vertices))
    seen = _seen_mesh(room, spacing, stations, holes)
    for _ in range(0 if fixed_spacing else 4):
        spacing *= float(np.clip((len(seen.xyz) / vertices) ** 0.5, 0.3, 3.0))
        seen = _seen_mesh(room, spacing, stations, holes)
        if abs(len(seen.xyz) / vertices - 1) < 0.1:
            break
    rgb = _color(room, seen, rng)
    segment = _segments(seen, rng)
    xyz = seen.xyz + rng.normal(0.0, POSITION_NOISE, size=seen.xyz.shape)
    return ScannedRoom(xyz.astype(np.float32), rgb, seen.faces.astype(np.int32), seen.thing, segment, spacing)


def _area(room: Room) -> float:
    half = np.concatenate([thing.model.bounds()[1] for thing in room.things])
    return float(8 * (half[:, 0] * half[:, 1] + half[:, 1] * half[:, 2] + half[:, 2] * half[:, 0]).sum())


def sample_surfaces(room: Room, spacing: float) -> Surfaces:
    """Return all surfaces of a room with vertices about `spacing` metres apart."""
    xyz, normal, local, rgb, faces, thing, part = [], [], [], [], [], [], []
    vertices, parts = 0, 0
    for row, placed in enumerate(room.things):
        turn = yaw_matrix(placed.yaw).T
        pieces = [triangulate(piece, spacing) for piece in placed.model.parts]
        xyz.append(np.concatenate([piece.xyz for piece in pieces]) @ turn + placed.origin)
        normal.append(np.concatenate([piece.normal for piece in pieces]) @ turn)
        for piece, source in zip(pieces, placed.model.parts, strict=True):
            local.append(piece.local)
            rgb.append(np.broadcast_to(source.colors(), piece.local.shape))
            faces.append(piece.faces + vertices)
            part.append(np.full(len(piece.xyz), parts))
            vertices += len(piece.xyz)
            parts += 1
        thing.append(np.full(len(xyz[-1]), row))
    return Surfaces(*(np.concatenate(pieces) for pieces in (xyz, normal, local, rgb, faces, thing, part)))


def _stations(room: Room, rng: np.random.Generator) -> Array:
    """Return camera positions: free places at eye height and below, spread over the room, shape `(stations, 3)`."""
    width, depth, _ = room.size
    low, high = (np.concatenate(corners) for corners in zip(*(t.boxes() for t in room.things), strict=True))
    wanted, found = 14, []
    for _ in range(400):
        spot = rng.uniform(0.15, 0.85, size=2) * (width, depth)
        eye = np.array([*spot, rng.uniform(1.1, 1.9)])
        if ((low - 0.12 < eye) & (high + 0.12 > eye)).all(axis=1).any():
            continue
        found.append(eye)
        if len(found) == wanted:
            break
    return np.stack(found) if found else np.array([[width / 2, depth / 2, 1.6]])


def _hole_seeds(room: Room, rng: np.random.Generator) -> Array:
    """Return centres and radii of missing patches, shape `(holes, 4)`."""
    count = int(rng.integers(10, 24))
    centers = rng.uniform(0, 1, size=(count, 3)) * room.size
    # Half of them are on walls and the floor, where real scans have most gaps.
    snap = rng.integers(0, 5, size=count)
    centers[snap == 0, 2] = 0.0
    centers[snap == 1, 0] = 0.0
    centers[snap == 2, 1] = 0.0
    return np.concatenate([centers, rng.uniform(0.05, 0.22, size=(count, 1))], axis=1)


def _seen_mesh(room: Room, spacing: float, stations: Array, holes: Array) -> Surfaces:
    surfaces = sample_surfaces(room, spacing)
    keep = _visible(surfaces, spacing, stations)
    for *center, radius in holes:
        near = np.abs(surfaces.xyz - center).max(axis=1) < radius
        rows = np.flatnonzero(near)
        keep[rows[np.linalg.norm(surfaces.xyz[rows] - center, axis=1) < radius]] = False
    return _weld(surfaces, keep, spacing)


def _visible(surfaces: Surfaces, spacing: float, stations: Array) -> npt.NDArray[np.bool_]:
    """Return which vertices are visible from a station: facing it, and nearest in its panorama within a tolerance."""
    columns, rows = PANORAMA
    pixel = max(2 * np.pi / columns, spacing / 1.6)
    columns, rows = int(2 * np.pi / pixel), int(np.pi / pixel)
    seen = np.zeros(len(surfaces.xyz), dtype=bool)
    for eye in stations:
        ray = surfaces.xyz - eye
        flat = ray[:, 0] ** 2 + ray[:, 1] ** 2
        distance = np.sqrt(flat + ray[:, 2] ** 2) + 1e-9
        facing = -(ray * surfaces.normal).sum(axis=1) / distance
        u = ((np.arctan2(ray[:, 1], ray[:, 0]) / (2 * np.pi) + 0.5) * columns).astype(np.int64) % columns
        v = np.minimum((np.arctan2(np.sqrt(flat), ray[:, 2]) / np.pi * rows).astype(np.int64), rows - 1)
        depth = np.full((rows + 2, columns + 2), np.inf)
        np.minimum.at(depth, (v + 1, u + 1), distance)
        near = np.flatnonzero(distance < 1.8 * spacing / pixel)
        for dv, du in ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (1, 1), (-1, 1), (1, -1)):
            np.minimum.at(depth, (v[near] + 1 + dv, u[near] + 1 + du), distance[near])
        slack = 0.05 + spacing + 1.3 * pixel * distance / np.clip(facing, 0.25, 1.0)
        seen |= (facing > -0.12) & (distance < depth[v + 1, u + 1] + slack)
    return seen


def _weld(surfaces: Surfaces, keep: npt.NDArray[np.bool_], spacing: float) -> Surfaces:
    """Merge kept vertices within a small cell, and remove degenerate faces and unused vertices.

    The last vertex of a cell is kept: supporting parts and things come before those on top of them.
    """
    cell = np.floor(surfaces.xyz / (WELD * spacing) + 0.25).astype(np.int64)
    cell -= cell.min(axis=0)
    span = cell.max(axis=0) + 1
    key = (cell[:, 0] * span[1] + cell[:, 1]) * span[2] + cell[:, 2]
    rows = np.flatnonzero(keep)[::-1]
    _, first, inverse = np.unique(key[rows], return_index=True, return_inverse=True)
    merged = np.full(len(keep), -1, dtype=np.int64)
    merged[rows] = inverse
    faces = merged[surfaces.faces]
    faces = faces[(faces >= 0).all(axis=1)]
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    ordered = np.sort(faces, axis=1)
    total = len(first)
    _, distinct = np.unique((ordered[:, 0] * total + ordered[:, 1]) * total + ordered[:, 2], return_index=True)
    faces = faces[np.sort(distinct)]
    used = np.zeros(total, dtype=bool)
    used[faces.reshape(-1)] = True
    renumber = np.cumsum(used) - 1
    chosen = rows[first[used]]
    return Surfaces(
        surfaces.xyz[chosen],
        surfaces.normal[chosen],
        surfaces.local[chosen],
        surfaces.rgb[chosen],
        renumber[faces],
        surfaces.thing[chosen],
        surfaces.part[chosen],
    )


def base_colors(room: Room, surfaces: Surfaces) -> Array:
    """Return colours of vertices in 0..255 without lighting, shape `(vertices, 3)`."""
    parts: list[Part] = [part for thing in room.things for part in thing.model.parts]
    texture = np.array([TEXTURE_NAMES.index(part.paint.texture) for part in parts])[surfaces.part]
    seed = np.array([part.paint.seed for part in parts])[surfaces.part]
    # Grain follows a board: its longest axis comes first.
    order = np.argsort([-part.half for part in parts], axis=1, kind="stable")[surfaces.part]
    grained = (texture == TEXTURE_NAMES.index("wood"))[:, None]
    local = np.where(grained, np.take_along_axis(surfaces.local, order, axis=1), surfaces.local)
    return paint_vertices(surfaces.rgb, texture, local, seed)


def _color(room: Room, seen: Surfaces, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Return textures with light from above and one side, dark corners, white balance and noise."""
    colors = base_colors(room, seen)
    angle = rng.uniform(0, 2 * np.pi)
    sun = np.array([np.cos(angle) * 0.6, np.sin(angle) * 0.6, 0.55])
    light = 0.86 + 0.11 * seen.normal[:, 2] + 0.09 * (seen.normal @ sun)
    low = np.clip(1.0 - seen.xyz[:, 2] / 0.35, 0.0, 1.0) * (np.abs(seen.normal[:, 2]) < 0.5)
    edge = np.minimum(seen.xyz[:, :2], np.array(room.size[:2]) - seen.xyz[:, :2]).min(axis=1)
    corner = np.clip(1.0 - edge / 0.3, 0.0, 1.0) * (seen.normal[:, 2] > 0.5)
    light *= 1.0 - 0.12 * low - 0.1 * corner
    balance = rng.uniform(0.84, 1.06) * (1.0 + rng.normal(0.0, 0.025, size=3))
    noisy = colors * light[:, None] * balance + rng.normal(0.0, COLOR_NOISE, size=colors.shape)
    rgb: npt.NDArray[np.uint8] = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    return rgb


def _segments(seen: Surfaces, rng: np.random.Generator) -> IntArray:
    """Split every thing into small segments by part, direction and position, and merge the smallest."""
    axis = np.abs(seen.normal).argmax(axis=1)
    facing = 2 * axis + (np.take_along_axis(seen.normal, axis[:, None], axis=1)[:, 0] > 0)
    place = np.floor((seen.xyz + rng.uniform(0, 1, size=3)) / SEGMENT_SIZE).astype(np.int64)
    coarse = np.floor(place / 2).astype(np.int64)
    fine = _group(np.stack([seen.part, facing, *place.T], axis=1))
    for columns in (
        [seen.part, *place.T],
        [seen.thing, *coarse.T],
        [seen.thing],
    ):
        few = np.bincount(fine)[fine] < FEW
        fine = _group(
            np.stack([few, *(np.where(few, column, 0) for column in columns), np.where(few, 0, fine)], axis=1)
        )
    # Real ids are scattered; each is the row of one of the segment's vertices.
    _, first = np.unique(fine, return_index=True)
    return first[fine]


def _group(rows: IntArray) -> IntArray:
    """Number groups of equal rows, from 0."""
    rows = rows - rows.min(axis=0)
    key = np.zeros(len(rows), dtype=np.int64)
    for column in rows.T:
        _, column_key = np.unique(column, return_inverse=True)
        _, key = np.unique(key * (int(column_key.max()) + 1) + column_key, return_inverse=True)
    return key
