"""Over-segmentation of a mesh by its normals, as in ScanNet's segment files."""

import numpy as np

from lg3d_core.synthetic.shapes import Array, IntArray

THRESHOLD = 0.01
SMALLEST = 20
"""Minimum number of vertices of a segment; smaller ones are merged with a neighbour."""
SMALLEST_PIECE = 8
"""Minimum number of vertices of a piece of a segment; smaller pieces get the thing of most of the segment."""
CHUNK = 40_000
"""Number of edges after which those that join nothing are removed from the rest."""


def segment_mesh(xyz: Array, faces: IntArray, *, threshold: float = THRESHOLD, smallest: int = SMALLEST) -> IntArray:
    """Return a segment of each vertex: Felzenszwalb and Huttenlocher's graph-based segmentation.

    The weight of an edge is 1 - the cosine between the normals of its ends, squared where the surface is convex. Two
    segments are joined by an edge whose weight is at most `threshold` / size above the largest weight inside either.

    Args:
        xyz: Positions in metres, shape `(vertices, 3)`.
        faces: Triangles, shape `(faces, 3)`.
        threshold: Larger values give larger segments.
        smallest: Segments with fewer vertices are merged with a neighbour.

    Returns:
        Row of one vertex of the segment, shape `(vertices,)`.
    """
    normal = vertex_normals(xyz, faces)
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    edges = np.unique(edges[:, 0] * np.int64(len(xyz)) + edges[:, 1])
    first, second = edges // len(xyz), edges % len(xyz)
    weight = 1 - (normal[first] * normal[second]).sum(axis=1)
    convex = (normal[second] * (xyz[second] - xyz[first])).sum(axis=1) > 0
    weight = np.where(convex, weight**2, weight)
    order = np.argsort(weight, kind="stable")
    parent = list(range(len(xyz)))
    size = [1] * len(xyz)
    limit = [threshold] * len(xyz)
    first, second, weight = first[order], second[order], weight[order]
    for start in range(0, len(order), CHUNK):
        chunk = slice(start, start + CHUNK)
        a_ends, b_ends, weights = first[chunk], second[chunk], weight[chunk]
        if start:
            # Edges inside a segment, and edges of segments whose limit is exceeded, never join anything.
            roots = _roots(parent)
            a_ends, b_ends, limits = roots[a_ends], roots[b_ends], np.array(limit)
            parent = roots.tolist()
            left = (a_ends != b_ends) & (np.minimum(limits[a_ends], limits[b_ends]) >= weights[0])
            a_ends, b_ends, weights = a_ends[left], b_ends[left], weights[left]
        for a, b, w in zip(a_ends.tolist(), b_ends.tolist(), weights.tolist(), strict=True):
            while parent[a] != a:
                parent[a] = a = parent[parent[a]]
            while parent[b] != b:
                parent[b] = b = parent[parent[b]]
            if a != b and w <= limit[a] and w <= limit[b]:
                parent[b] = a
                size[a] += size[b]
                limit[a] = w + threshold / size[a]
    roots = _roots(parent)
    sizes = np.bincount(roots, minlength=len(xyz))[roots]
    # Sizes only grow: edges inside a segment, or between two large ones, never join anything.
    left = (roots[first] != roots[second]) & (np.minimum(sizes[first], sizes[second]) < smallest)
    for a, b in zip(first[left].tolist(), second[left].tolist(), strict=True):
        while parent[a] != a:
            a = parent[a]
        while parent[b] != b:
            b = parent[b]
        if a != b and (size[a] < smallest or size[b] < smallest):
            parent[b] = a
            size[a] += size[b]
    return _roots(parent)


def _roots(parent: list[int]) -> IntArray:
    """Return the root of each entry of a forest."""
    roots = np.array(parent)
    while True:
        above = roots[roots]
        if (above == roots).all():
            return roots
        roots = above


def split_by_thing(segment: IntArray, thing: IntArray) -> tuple[IntArray, IntArray]:
    """Split segments at the borders of things, so that each segment belongs to one thing.

    Returns:
        segment: Row of one vertex of the segment, shape `(vertices,)`.
        thing: Thing of each vertex; small pieces get the thing of most of their segment.
    """
    key = segment * np.int64(thing.max() + 2) + thing + 1
    _, first, piece, counts = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
    owner = segment[first]
    order = np.lexsort((-counts, owner))
    leader_of = dict(zip(owner[order][::-1].tolist(), order[::-1].tolist(), strict=True))
    leader = np.array([leader_of[int(o)] for o in owner])
    merged = np.where(counts < SMALLEST_PIECE, leader, np.arange(len(first)))[piece]
    return first[merged], thing[first[merged]]


def vertex_normals(xyz: Array, faces: IntArray) -> Array:
    """Return unit normals of vertices, weighted by the area of the faces, shape `(vertices, 3)`."""
    face = np.cross(xyz[faces[:, 1]] - xyz[faces[:, 0]], xyz[faces[:, 2]] - xyz[faces[:, 0]])
    summed = np.stack(
        [np.bincount(faces.reshape(-1), np.repeat(face[:, c], 3), minlength=len(xyz)) for c in range(3)], axis=1
    )
    length: Array = np.linalg.norm(summed, axis=1, keepdims=True).clip(1e-12)
    return summed / length
