"""Features of the voxels of a scan, kept between two uses."""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lg3d_core.evaluation.predictor import Predictor, VoxelLabels
from lg3d_core.inference.scan_voxels import ScanVoxels
from lg3d_core.progress import Progress

KEPT_FEATURES = 1 << 31
"""Maximum bytes of features that are kept between two uses; above it, the network runs again."""
FeaturePart = tuple[npt.NDArray[np.int64], Tensor]
"""Rows of voxels, and their features `(rows, num_features)`."""
FeatureParts = Iterable[FeaturePart]


class VoxelFeatures:
    """Features of the voxels of a scan in parts, kept for the next use if they fit into memory.

    Args:
        predictor: Network.
        voxels: Voxels of the scan.
        name: Name of the scan, for messages.
        progress: Progress display; receives tiles and notes.
    """

    def __init__(self, predictor: Predictor, voxels: ScanVoxels, *, name: str, progress: Progress) -> None:
        self._predictor, self._voxels = predictor, voxels
        self._name, self._progress = name, progress
        self._kept: list[FeaturePart] | None = None
        size = len(voxels.keys) * predictor.network.num_features * 4
        self._fits = size <= min(KEPT_FEATURES, predictor.memory or KEPT_FEATURES)

    def __iter__(self) -> Iterator[FeaturePart]:
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[FeaturePart] = []
        for part in self._predictor.features(
            self._voxels.cells, self._voxels.rgb, name=self._name, progress=self._progress
        ):
            if self._fits:
                kept.append(part)
            yield part
        if self._fits:
            self._kept = kept

    def label(self, *, keep: bool = True) -> VoxelLabels:
        """Return the prediction of each voxel, and keep the features if requested and if they fit."""
        kept: list[FeaturePart] = []
        labels = self._predictor.label_voxels(
            self._voxels.cells,
            self._voxels.rgb,
            name=self._name,
            observe=(lambda rows, features: kept.append((rows, features))) if keep and self._fits else None,
            progress=self._progress,
        )
        if keep and self._fits:
            self._kept = kept
        return labels
