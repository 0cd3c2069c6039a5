"""Geometry of triangles: sides, areas, sampled points, and subdivision."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Cut(NamedTuple):
    """Result of a subdivision.

    Attributes:
        faces: All triangles, the uncut ones first, shape `(faces, 3)`.
        xyz: New vertices, shape `(new, 3)`.
        face: Original triangle of each new vertex, shape `(new,)`.
        weights: Barycentric weights of the new vertices, shape `(new, 3)`.
    """

    faces: npt.NDArray[np.int64]
    xyz: npt.NDArray[np.float64]
    face: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]


def longest_sides(xyz: npt.NDArray[np.float64], faces: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the longest side of each triangle, shape `(faces,)`."""
    return _sides(xyz, faces).max(axis=1) if len(faces) else np.zeros(0)


def areas(xyz: npt.NDArray[np.float64], faces: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the area of each triangle, shape `(faces,)`."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.linalg.norm(doubled_normals(xyz[faces]), axis=1) / 2)


def doubled_normals(corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the normals of triangles `(triangles, 3, 3)`, twice as long as their areas, shape `(triangles, 3)`."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def _sides(xyz: npt.NDArray[np.float64], faces: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    with np.errstate(over="ignore", invalid="ignore"):
        ends = [xyz[faces[:, k]] - xyz[faces[:, (k + 1) % 3]] for k in range(3)]
        return np.stack([np.linalg.norm(end, axis=1) for end in ends], axis=1)


def cut_triangles(
    xyz: npt.NDArray[np.float64], faces: npt.NDArray[np.int64], chosen: npt.NDArray[np.bool_], *, edge: float
) -> Cut:
    """Halve triangles at the middle of their longest side, until no side is longer than `edge`.

    Neighbours that are cut at the same side share the new vertex.

    Args:
        xyz: Vertices, shape `(vertices, 3)`.
        faces: Triangles, shape `(faces, 3)`.
        chosen: Mask of triangles to subdivide, shape `(faces,)`.
        edge: Maximum side length in the units of `xyz`.
    """
    points = xyz
    done = [faces[~chosen]]
    corners, owner = faces[chosen], np.flatnonzero(chosen)
    weights = np.tile(np.eye(3, dtype=np.float32), (len(corners), 1, 1))
    new_face, new_weights = [], []
    while len(corners):
        sides = _sides(points, corners)
        small = sides.max(axis=1) <= edge
        done.append(corners[small])
        corners, owner, weights, sides = corners[~small], owner[~small], weights[~small], sides[~small]
        rows, first = np.arange(len(corners)), sides.argmax(axis=1)
        a, b, c = ((first + k) % 3 for k in range(3))
        ends = np.sort(np.stack([corners[rows, a], corners[rows, b]], axis=1), axis=1)
        _, chooser, which = np.unique(ends[:, 0] * len(points) + ends[:, 1], return_index=True, return_inverse=True)
        middle = len(points) + which.reshape(-1)
        between = (weights[rows, a] + weights[rows, b]) / 2
        points = np.concatenate([points, points[ends[chooser]].mean(axis=1)])
        new_face.append(owner[chooser])
        new_weights.append(between[chooser])
        halves = [(corners[rows, a], middle, corners[rows, c]), (middle, corners[rows, b], corners[rows, c])]
        corners = np.concatenate([np.stack(half, axis=1) for half in halves])
        parts = [(weights[rows, a], between, weights[rows, c]), (between, weights[rows, b], weights[rows, c])]
        weights = np.concatenate([np.stack(part, axis=1) for part in parts])
        owner = np.concatenate([owner, owner])
    return Cut(
        np.concatenate(done),
        points[len(xyz) :],
        np.concatenate([np.zeros(0, dtype=np.int64), *new_face]),
        np.concatenate([np.zeros((0, 3), dtype=np.float32), *new_weights]),
    )


def scatter_on_triangles(
    xyz: npt.NDArray[np.float64], faces: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.float64]:
    """Draw points uniformly from the surface of triangles, shape `(count, 3)`; empty if they have no area."""
    area = areas(xyz, faces)
    total = float(area.sum())
    if not (math.isfinite(total) and total > 0):
        return np.zeros((0, 3))
    rng = np.random.default_rng(0)
    rows = rng.choice(len(faces), size=count, p=area / total)
    u, v = rng.random((2, count))
    swap = u + v > 1
    u[swap], v[swap] = 1 - u[swap], 1 - v[swap]
    a, b, c = (xyz[faces[rows, k]] for k in range(3))
    return np.asarray(a + u[:, None] * (b - a) + v[:, None] * (c - a))
