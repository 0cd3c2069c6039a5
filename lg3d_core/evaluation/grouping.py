"""Grouping labelled points into instances.

`connect_points` joins points of one class within a radius of each other. `propose_instances` applies it twice: to the
original points, and to the points shifted by the predicted offsets to the centres of their objects.
`suppress_overlaps` keeps the best proposals of both. All steps are vectorised over points, voxels and their pairs.

Source: dual-set grouping of PointGroup (Jiang et al., CVPR 2020), which the paper uses for its Table 3.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from lg3d_core.errors import ShapeError
from lg3d_core.evaluation.instances import PredictedInstances

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

MAX_PRODUCTS = 1 << 20
"""Maximum number of point distances in memory at once."""
MAX_INSIDE = 0.5
"""Maximum fraction of a kept candidate's points that belong to a better one of its class. It removes small fragments of
an object, whose IoU with the whole object is low."""


class Proposals(NamedTuple):
    """Candidate instances, which may overlap.

    Attributes:
        rows: Rows of the points of all candidates, concatenated, int64.
        starts: First entry of each candidate in `rows`, then the length of `rows`, shape `(candidates + 1,)`, int64.
        classes: Class of each candidate, shape `(candidates,)`, int64.
        scores: Mean probability of its class over its points, shape `(candidates,)`, float64, 0..1.
    """

    rows: IntArray
    starts: IntArray
    classes: IntArray
    scores: FloatArray


def connect_points(xyz: npt.NDArray[np.floating], classes: npt.NDArray[np.integer], *, radius: float) -> IntArray:
    """Number the groups of points that are connected by steps up to a radius between points of one class.

    Args:
        xyz: Positions in metres, shape `(points, 3)`.
        classes: Class of each point, shape `(points,)`; points of a negative class are in no group.
        radius: Maximum step in metres, inclusive.

    Returns:
        Group of each point, contiguous from 0 in the order of first points, -1 for none, shape `(points,)`.

    Raises:
        ShapeError: The shapes differ, or positions are not finite.
    """
    if xyz.ndim != 2 or xyz.shape[1] != 3 or classes.shape != (len(xyz),):
        raise ShapeError(f"expected (points, 3) positions and one class each, got {xyz.shape} and {classes.shape}")
    if not np.isfinite(xyz).all():
        raise ShapeError("expected finite positions, got nan or infinity")
    groups = np.full(len(xyz), -1, dtype=np.int64)
    rows = np.flatnonzero(classes >= 0)
    if len(rows) == 0:
        return groups
    cells = _Cells.of(xyz[rows].astype(np.float64), classes[rows].astype(np.int64), edge=radius / math.sqrt(3))
    component = cells.components(radius)[cells.cell_of_point]
    _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    groups[rows] = rank[inverse]
    return groups


def connect_cells(cells: npt.NDArray[np.integer], classes: npt.NDArray[np.integer] | None = None) -> IntArray:
    """Number the connected components of cells; cells that share a corner are connected.

    Args:
        cells: Cell indices, distinct within a class, shape `(cells, 3)`.
        classes: Class of each cell, not negative, shape `(cells,)`; cells of different classes are not connected. None
            puts all cells in one class.

    Returns:
        Component of each cell, contiguous from 0, shape `(cells,)`.
    """
    if len(cells) == 0:
        return np.zeros(0, dtype=np.int64)
    shifted = cells.astype(np.int64) - cells.min(axis=0) + 1
    size = shifted.max(axis=0) + 2  # an empty margin, so that no step wraps around
    own = np.zeros(len(cells), dtype=np.int64) if classes is None else classes.astype(np.int64)
    keys = ((own * size[0] + shifted[:, 0]) * size[1] + shifted[:, 1]) * size[2] + shifted[:, 2]
    order = np.argsort(keys)
    ordered = keys[order]
    pairs = []
    for x, y, z in [(0, 0, 1), *((0, 1, z) for z in (-1, 0, 1)), *((1, y, z) for y in (-1, 0, 1) for z in (-1, 0, 1))]:
        near = ordered + (x * size[1] + y) * size[2] + z
        at = np.minimum(np.searchsorted(ordered, near), len(ordered) - 1)
        hit = np.flatnonzero(ordered[at] == near)
        pairs.append(np.stack([hit, at[hit]]))
    component = np.empty(len(cells), dtype=np.int64)
    component[order] = _join(len(cells), np.concatenate(pairs, axis=1))
    return component


def _join(count: int, pairs: IntArray) -> IntArray:
    """Return the connected component of each of `count` nodes. The edges are `pairs`, shape `(2, pairs)`."""
    graph = coo_matrix((np.ones(pairs.shape[1], dtype=np.bool_), (pairs[0], pairs[1])), shape=(count, count))
    component: IntArray = connected_components(graph, directed=False)[1].astype(np.int64)
    return component


def propose_instances(
    xyz: npt.NDArray[np.floating],
    offsets: npt.NDArray[np.floating] | None,
    classes: npt.NDArray[np.integer],
    confidence: npt.NDArray[np.floating],
    *,
    radius: float,
    min_points: int,
) -> Proposals:
    """Group points by class and distance, both at their positions and at their positions plus offsets.

    Args:
        xyz: Positions in metres, shape `(points, 3)`.
        offsets: Predicted vector from each point to the centre of its object in metres, shape `(points, 3)`; None
            uses only the original positions.
        classes: Predicted class of each point, -1 for classes without instances, shape `(points,)`.
        confidence: Probability of the predicted class, 0..1, shape `(points,)`.
        radius: Maximum distance in metres between neighbours in a group.
        min_points: Minimum number of points of a group.
    """
    places = [xyz] if offsets is None else [xyz, xyz + offsets]
    rows: list[IntArray] = []
    sizes: list[IntArray] = []
    for place in places:
        groups = connect_points(place, classes, radius=radius)
        grouped = np.flatnonzero(groups >= 0)
        counts = np.bincount(groups[grouped])
        kept = grouped[counts[groups[grouped]] >= min_points]
        rows.append(kept[np.argsort(groups[kept], kind="stable")])
        sizes.append(counts[counts >= min_points])
    joined = np.concatenate(rows)
    starts = np.append(0, np.cumsum(np.concatenate(sizes))).astype(np.int64)
    sums = np.append(0.0, np.cumsum(confidence[joined], dtype=np.float64))
    scores = (sums[starts[1:]] - sums[starts[:-1]]) / np.maximum(np.diff(starts), 1)
    return Proposals(joined, starts, classes[joined[starts[:-1]]].astype(np.int64), scores)


def suppress_overlaps(proposals: Proposals, *, num_points: int, max_iou: float = 0.3) -> PredictedInstances:
    """Keep the best-scored candidates that overlap little with every better kept one of their class.

    A candidate of which more than `MAX_INSIDE` belongs to a better one is dropped as well. Among equal scores, later
    candidates are preferred: `propose_instances` puts those at shifted positions last.

    Args:
        proposals: Candidates of one scene.
        num_points: Number of points of the scene.
        max_iou: Maximum IoU of two kept candidates of one class.
    """
    sizes = np.diff(proposals.starts)
    number = np.repeat(np.arange(len(sizes)), sizes)
    membership = coo_matrix(
        (np.ones(len(number), dtype=np.int64), (number, proposals.rows)), shape=(len(sizes), num_points)
    ).tocsr()
    shared = (membership @ membership.T).tocoo()
    iou = shared.data / (sizes[shared.row] + sizes[shared.col] - shared.data)
    # The candidate of the column is dropped if that of the row is kept and better.
    near = ((iou > max_iou) | (shared.data > MAX_INSIDE * sizes[shared.col])) & (shared.row != shared.col)
    near &= proposals.classes[shared.row] == proposals.classes[shared.col]
    rivals: dict[int, list[int]] = {}
    for first, second in zip(shared.row[near].tolist(), shared.col[near].tolist(), strict=True):
        rivals.setdefault(first, []).append(second)
    kept: list[int] = []
    dropped: set[int] = set()
    for candidate in np.lexsort((-np.arange(len(sizes)), -proposals.scores)).tolist():
        if candidate not in dropped:
            kept.append(candidate)
            dropped.update(rivals.get(candidate, ()))
    return PredictedInstances.from_rows(
        [np.sort(proposals.rows[proposals.starts[k] : proposals.starts[k + 1]]) for k in kept],
        proposals.classes[kept].tolist(),
        proposals.scores[kept].tolist(),
    )


class _Cells(NamedTuple):
    """Cubic cells with the points of one class, so small that points in a cell are within the radius of each other.

    Attributes:
        keys: Distinct packed (class, x, y, z) of the occupied cells, ascending, shape `(cells,)`.
        cell_of_point: Cell of each point, shape `(points,)`.
        order: Rows of the points, sorted by cell.
        starts: First entry of each cell in `order`, then the number of points, shape `(cells + 1,)`.
        xyz: Positions of the points in metres.
        strides: Increments of a key per step along x and y; along z it is 1.
    """

    keys: IntArray
    cell_of_point: IntArray
    order: IntArray
    starts: IntArray
    xyz: FloatArray
    strides: tuple[int, int]

    @classmethod
    def of(cls, xyz: FloatArray, classes: IntArray, *, edge: float) -> "_Cells":
        edge *= 1 - 1e-9  # rounding must not make the diagonal exceed the radius
        cells = np.floor((xyz - xyz.min(axis=0)) / edge).astype(np.int64) + 2  # a margin of two empty cells
        size = cells.max(axis=0) + 3
        _, dense = np.unique(classes, return_inverse=True)
        if float(size[0]) * float(size[1]) * float(size[2]) * (float(dense.max()) + 1) >= 2.0**62:
            raise ShapeError("the extent of the points is too large for the radius: expected a scene of building size")
        keys = ((dense * size[0] + cells[:, 0]) * size[1] + cells[:, 1]) * size[2] + cells[:, 2]
        distinct, cell_of_point, counts = np.unique(keys, return_inverse=True, return_counts=True)
        return cls(
            distinct,
            cell_of_point,
            np.argsort(cell_of_point, kind="stable"),
            np.append(0, np.cumsum(counts)),
            xyz,
            (int(size[1] * size[2]), int(size[2])),
        )

    def components(self, radius: float) -> IntArray:
        """Return the connected component of each cell."""
        representative = self._representatives()
        pairs = np.concatenate(list(self._neighbours()), axis=1)
        step = self.xyz[representative[pairs[0]]] - self.xyz[representative[pairs[1]]]
        close = np.einsum("ij,ij->i", step, step) <= radius * radius
        component = _join(len(self.keys), pairs[:, close])
        single = np.diff(self.starts) == 1
        open_ = ~close & ~(single[pairs[0]] & single[pairs[1]])
        left = pairs[:, open_ & (component[pairs[0]] != component[pairs[1]])]
        if left.shape[1]:
            component = _join(
                len(self.keys), np.concatenate([pairs[:, close], left[:, self._touch(left, radius)]], axis=1)
            )
        return component

    def _representatives(self) -> IntArray:
        """Return the point of each cell that is closest to the mean of its points."""
        counts = np.diff(self.starts)
        mean = np.add.reduceat(self.xyz[self.order], self.starts[:-1], axis=0) / counts[:, None]
        away = ((self.xyz - mean[self.cell_of_point]) ** 2).sum(axis=1)
        closest_first = np.lexsort((away, self.cell_of_point))
        return closest_first[self.starts[:-1]]

    def _neighbours(self) -> Iterator[IntArray]:
        """Yield pairs of occupied cells of one class that may contain points within the radius of each other."""
        for dx in range(3):
            for dy in range(-2, 3):
                for dz in range(-2, 3):
                    if (dx, dy, dz) <= (0, 0, 0):
                        continue
                    wanted = self.keys + dx * self.strides[0] + dy * self.strides[1] + dz
                    at = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
                    hit = np.flatnonzero(self.keys[at] == wanted)
                    yield np.stack([hit, at[hit]])

    def _touch(self, pairs: IntArray, radius: float) -> npt.NDArray[np.bool_]:
        """Return which pairs of cells contain two points within the radius, by comparing all pairs of their points."""
        counts = np.diff(self.starts)
        first, second = pairs
        products = counts[first] * counts[second]
        ends = np.cumsum(products)
        touch = np.zeros(len(products), dtype=np.bool_)
        for start in range(0, int(ends[-1]), MAX_PRODUCTS):
            flat = np.arange(start, min(start + MAX_PRODUCTS, int(ends[-1])))
            pair = np.searchsorted(ends, flat, side="right")
            i, j = np.divmod(flat - (ends - products)[pair], counts[second[pair]])
            step = (
                self.xyz[self.order[self.starts[first[pair]] + i]] - self.xyz[self.order[self.starts[second[pair]] + j]]
            )
            touch[pair[np.einsum("ij,ij->i", step, step) <= radius * radius]] = True
        return touch
