"""Over-segmentation of points into superpoints: small connected patches of one orientation and colour."""

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

NEIGHBOURS = 10
"""Number of nearest points that each point is connected to."""
THRESHOLD = 0.02
"""Scale of observation k: larger values give larger superpoints."""
MIN_POINTS = 20
"""Minimum number of points; smaller superpoints are merged with a neighbour."""
COLOR_WEIGHT = 1.0
"""Weight of a colour difference (0..1) relative to 1 - cosine of the normals (0..2)."""


def segment_points(
    xyz: npt.NDArray[np.floating],
    rgb: npt.NDArray[np.uint8] | None = None,
    normals: npt.NDArray[np.floating] | None = None,
    *,
    min_points: int = MIN_POINTS,
) -> IntArray:
    """Segment points by the similarity of neighbouring normals and colours; no mesh is needed.

    Args:
        xyz: Positions in metres, shape `(points, 3)`.
        rgb: Colours, shape `(points, 3)`; None uses normals only.
        normals: Unit normals, shape `(points, 3)`; None fits a plane to each point's neighbours.
        min_points: Minimum size; smaller superpoints are merged with their most similar neighbour, if any.

    Returns:
        Superpoint of each point, contiguous from 0 in order of first appearance, shape `(points,)`.

    Source: Felzenszwalb and Huttenlocher, "Efficient Graph-Based Image Segmentation", IJCV 2004, applied to the graph
    of nearest neighbours; ScanNet applies it to the graph of a mesh.
    """
    count = len(xyz)
    if count < 2:
        return np.zeros(count, dtype=np.int64)
    places = xyz.astype(np.float64)
    _, near = cKDTree(places).query(places, k=min(NEIGHBOURS, count - 1) + 1)
    if normals is None:
        normals = _fit_normals(places, near)
    first = np.repeat(np.arange(count), near.shape[1] - 1)
    edges = np.sort(np.stack([first, near[:, 1:].reshape(-1)], axis=1), axis=1)
    edges = np.unique(edges[edges[:, 0] != edges[:, 1]], axis=0)
    weights = 1 - np.abs(np.einsum("ij,ij->i", normals[edges[:, 0]], normals[edges[:, 1]]))
    if rgb is not None:
        step = np.abs(rgb[edges[:, 0]].astype(np.float64) - rgb[edges[:, 1]]).mean(axis=1) / 255
        weights = weights + COLOR_WEIGHT * step
    return _merge(count, edges, weights, min_points=min_points)


def _fit_normals(xyz: FloatArray, near: IntArray) -> FloatArray:
    """Return the direction of least variance of each point's neighbours, with arbitrary sign."""
    around = xyz[near]
    around -= around.mean(axis=1, keepdims=True)
    _, vectors = np.linalg.eigh(np.einsum("nki,nkj->nij", around, around))
    normals: FloatArray = vectors[:, :, 0]
    return normals


def _merge(count: int, edges: IntArray, weights: FloatArray, *, min_points: int) -> IntArray:
    """Join the ends of edges in ascending order of weight while the weight is within both components' tolerance."""
    order = np.argsort(weights, kind="stable")
    parent = list(range(count))
    size = [1] * count
    tolerance = [THRESHOLD] * count
    left: list[tuple[int, int]] = []
    for (a, b), weight in zip(edges[order].tolist(), weights[order].tolist(), strict=True):
        while parent[a] != a:
            parent[a] = a = parent[parent[a]]
        while parent[b] != b:
            parent[b] = b = parent[parent[b]]
        if a == b:
            continue
        if weight <= tolerance[a] and weight <= tolerance[b]:
            if size[a] < size[b]:
                a, b = b, a
            parent[b] = a
            size[a] += size[b]
            tolerance[a] = weight + THRESHOLD / size[a]
        else:
            left.append((a, b))
    for a, b in left:
        while parent[a] != a:
            parent[a] = a = parent[parent[a]]
        while parent[b] != b:
            parent[b] = b = parent[parent[b]]
        if a != b and (size[a] < min_points or size[b] < min_points):
            parent[b] = a
            size[a] += size[b]
    roots = np.array(parent, dtype=np.int64)
    while not np.array_equal(roots[roots], roots):
        roots = roots[roots]
    _, appearance, inverse = np.unique(roots, return_index=True, return_inverse=True)
    rank = np.empty(len(appearance), dtype=np.int64)
    rank[np.argsort(appearance)] = np.arange(len(appearance))
    numbers: IntArray = rank[inverse]
    return numbers
