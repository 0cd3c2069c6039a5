"""The voxel whose label a point takes, by interpolation between the class probabilities around it."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lg3d_core.sampling.voxels import pack

NUM_CANDIDATES = 8
"""Number of classes per voxel that are interpolated: their probabilities sum to nearly 1, and 200 would need much more
memory."""
CHUNK = 16_384
"""Number of points whose class probabilities are in memory at once (13 MB for 200 classes)."""
CORNERS = np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=np.int64)


class Candidates(NamedTuple):
    """Most probable classes of each voxel.

    Attributes:
        classes: Class indices, most probable first, shape `(voxels, candidates)`, int16.
        probabilities: Probabilities, 0..1, shape `(voxels, candidates)`, float32.
        num_classes: Number of classes.
    """

    classes: npt.NDArray[np.int16]
    probabilities: npt.NDArray[np.float32]
    num_classes: int

    @classmethod
    def empty(cls, num_voxels: int, num_classes: int) -> "Candidates":
        """Return uninitialised candidates."""
        shape = (num_voxels, min(NUM_CANDIDATES, num_classes))
        return cls(np.empty(shape, dtype=np.int16), np.empty(shape, dtype=np.float32), num_classes)

    def set_rows(self, rows: npt.NDArray[np.int64], scores: Tensor) -> None:
        """Set the candidates of some voxels from class scores, shape `(rows, classes)`, float32."""
        best, index = scores.topk(self.classes.shape[1], dim=1)
        total = scores.logsumexp(dim=1, keepdim=True)
        self.probabilities[rows] = (best - total).exp().cpu().numpy()
        self.classes[rows] = index.to(torch.int16).cpu().numpy()


def choose_voxels(
    candidates: Candidates, keys: npt.NDArray[np.int64], xyz: npt.NDArray[np.floating], *, voxel_size: float
) -> npt.NDArray[np.int64]:
    """Return the voxel whose label each point takes, shape `(points,)`, int64.

    Class probabilities are interpolated trilinearly between the centres of the eight cells around a point; cells
    without a voxel are left out. Among the labels of these voxels, the most probable one wins, and the point takes the
    nearest voxel with that label. So labels, instances and confidences of a point are those of one voxel.

    Args:
        candidates: Candidates of each voxel.
        keys: Packed cells of the voxels (`sampling.voxels.pack`), ascending, shape `(voxels,)`.
        xyz: Positions in metres, shape `(points, 3)`. The cell of every point has a voxel.
        voxel_size: Edge of a voxel in metres.
    """
    chosen = np.empty(len(xyz), dtype=np.int64)
    for start in range(0, len(xyz), CHUNK):
        rows, weights = _corner_weights(keys, xyz[start : start + CHUNK], voxel_size)
        num_points = len(rows)
        shares = weights[:, :, None] * candidates.probabilities[rows]
        classes = candidates.classes[rows].astype(np.int64)
        total = torch.zeros((num_points, candidates.num_classes))
        total.scatter_add_(
            1, torch.from_numpy(classes.reshape(num_points, -1)), torch.from_numpy(shares.reshape(num_points, -1))
        )
        of_labels = np.where(weights > 0, total.gather(1, torch.from_numpy(classes[:, :, 0])).numpy(), -1)
        wins = of_labels == of_labels.max(axis=1, keepdims=True)
        nearest = np.where(wins, weights, -1).argmax(axis=1)
        chosen[start : start + CHUNK] = rows[np.arange(num_points), nearest]
    return chosen


def _corner_weights(
    keys: npt.NDArray[np.int64], xyz: npt.NDArray[np.floating], voxel_size: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the voxels around each point and their weights, 0 for cells without a voxel, both `(points, 8)`."""
    places = xyz.astype(np.float64) / voxel_size - 0.5
    lowest = np.floor(places).astype(np.int64)
    beyond = places - lowest
    rows = np.empty((len(xyz), len(CORNERS)), dtype=np.int64)
    weights = np.empty((len(xyz), len(CORNERS)))
    for k, corner in enumerate(CORNERS):
        wanted = pack(lowest + corner)
        found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        share = np.where(corner, beyond, 1 - beyond).prod(axis=1)
        rows[:, k] = found
        weights[:, k] = np.where(keys[found] == wanted, share, 0)
    return rows, weights.astype(np.float32)
