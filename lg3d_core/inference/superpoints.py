"""Superpoint voting: all vertices of a superpoint get the class with the highest mean probability over them."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from lg3d_core.errors import DataError
from lg3d_core.evaluation.interpolation import Candidates
from lg3d_core.evaluation.predictor import VoxelLabels
from lg3d_core.inference.input import Input
from lg3d_core.inference.scan_voxels import RowPiece, ScanVoxels, vertex_rows
from lg3d_core.inference.voxel_features import FeatureParts
from lg3d_core.scans.normals import vertex_normals
from lg3d_core.scans.superpoints import segment_points

MAX_VERTICES = 2_000_000
"""Maximum number of vertices, which take about one minute of CPU time and 4 GB of memory."""

VOXELS_AT_ONCE = 16_384


class Superpoints(NamedTuple):
    """Superpoints of a scan with their predictions.

    Attributes:
        of_vertex: Superpoint of each vertex, -1 for none, shape `(vertices,)`, int64.
        label: Class index of each superpoint, shape `(superpoints,)`, int16.
        confidence: Probability of this class, 0..1, shape `(superpoints,)`, float32.
        probabilities: Mean class probabilities over the vertices of each superpoint, `(superpoints, classes)`.
        places: Mean position of the vertices in metres, shape `(superpoints, 3)`.
        shared: Number of vertices of each superpoint in each voxel, sparse, shape `(superpoints, voxels)`.
        pieces: First and end row of each piece of the scan.
    """

    of_vertex: npt.NDArray[np.int64]
    label: npt.NDArray[np.int16]
    confidence: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float64]
    places: npt.NDArray[np.float64]
    shared: csr_matrix
    pieces: tuple[tuple[int, int], ...]

    def rows(self) -> Iterator[RowPiece]:
        """Yield for each piece its first row, its end row, and the superpoint of each vertex, -1 for none."""
        for start, stop in self.pieces:
            yield start, stop, self.of_vertex[start:stop]

    def at_voxels(self) -> VoxelLabels:
        """Return the prediction of each voxel: the mean of the probabilities of its vertices' superpoints."""
        vertices = np.asarray(self.shared.sum(axis=0)).reshape(-1)
        weights = (self.shared / np.maximum(vertices, 1)).T.tocsr()
        candidates = Candidates.empty(len(vertices), self.probabilities.shape[1])
        for start in range(0, len(vertices), VOXELS_AT_ONCE):
            rows = np.arange(start, min(start + VOXELS_AT_ONCE, len(vertices)))
            candidates.set_rows(rows, torch.from_numpy(weights[rows] @ self.probabilities).log())
        return VoxelLabels(candidates.classes[:, 0].copy(), candidates.probabilities[:, 0].copy(), None, candidates)

    def vote(self, number: npt.NDArray[np.int32], count: int) -> npt.NDArray[np.int32]:
        """Return the object of each superpoint, the one that has more than half of its vertices, or -1.

        Args:
            number: Object of each voxel, -1 for none, shape `(voxels,)`.
            count: Number of objects.
        """
        if count == 0:
            return np.full(len(self.label), -1, dtype=np.int32)
        owned = np.flatnonzero(number >= 0)
        member = csr_matrix((np.ones(len(owned)), (owned, number[owned])), shape=(len(number), count))
        votes = self.shared @ member
        best = np.asarray(votes.argmax(axis=1)).reshape(-1)
        most = votes.max(axis=1).toarray().reshape(-1)
        size = np.asarray(self.shared.sum(axis=1)).reshape(-1)
        return np.where(most > 0.5 * size, best, -1).astype(np.int32)


def find_superpoints(
    scan: Input, voxels: ScanVoxels, features: FeatureParts, *, score: Callable[[Tensor], Tensor], num_classes: int
) -> Superpoints:
    """Find the superpoints of a scan, and average the class probabilities over each.

    Vertices are segmented by normals and colours; no mesh is needed. The segments of a store's scene are not used: on
    the demo's rooms, they gain less.

    Args:
        scan: Scan.
        voxels: Its voxels.
        features: Rows of voxels and their features, each voxel once.
        score: Returns class scores `(voxels, classes)` for features.
        num_classes: Number of classes.

    Raises:
        DataError: The scan has too many vertices.
    """
    count = scan.surface.num_vertices
    if count > MAX_VERTICES:
        raise DataError(
            f"{scan.name}: {count} vertices, expected at most {MAX_VERTICES} with --superpoints: pass --no-superpoints"
        )
    parts = list(vertex_rows(scan.surface, scan.frame, voxels))
    voxel = np.concatenate([rows for _, _, rows in parts])
    inside = np.flatnonzero(voxel >= 0)
    xyz = scan.frame.to_metres(
        np.concatenate([scan.surface.positions(start, stop) for start, stop, _ in parts])[inside]
    )
    own = _segment(scan, inside, xyz)
    of_vertex = np.full(count, -1, dtype=np.int64)
    of_vertex[inside] = own
    size = int(own.max()) + 1
    shared = csr_matrix((np.ones(len(inside)), (own, voxel[inside])), shape=(size, len(voxels.keys)))
    members = np.bincount(own, minlength=size)
    total = np.zeros((size, num_classes))
    columns = shared.tocsc()
    for rows, part in features:
        with torch.inference_mode():
            total += columns[:, rows] @ torch.softmax(score(part).float(), dim=1).cpu().numpy()
    probabilities = total / members[:, None]
    return Superpoints(
        of_vertex=of_vertex,
        label=probabilities.argmax(axis=1).astype(np.int16),
        confidence=probabilities.max(axis=1).astype(np.float32),
        probabilities=probabilities,
        places=np.stack([np.bincount(own, weights=xyz[:, k], minlength=size) for k in range(3)], axis=1)
        / members[:, None],
        shared=shared,
        pieces=tuple((start, stop) for start, stop, _ in parts),
    )


def _segment(scan: Input, inside: npt.NDArray[np.int64], xyz: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the superpoint of each usable vertex, contiguous from 0."""
    colors = scan.surface.colors
    rgb = None if colors is None else colors(0, scan.surface.num_vertices)[inside]
    normals = None
    if len(scan.surface.faces):
        place = np.full(scan.surface.num_vertices, -1, dtype=np.int64)
        place[inside] = np.arange(len(inside))
        faces = place[np.asarray(scan.surface.faces, dtype=np.int64)]
        normals = vertex_normals(xyz.astype(np.float32), faces[(faces >= 0).all(axis=1)].astype(np.int32))
        normals = normals if np.abs(normals).sum(axis=1).all() else None
    return segment_points(xyz, rgb, normals)
