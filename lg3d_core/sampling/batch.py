"""Several samples as one forward pass's input."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lg3d_core.errors import ShapeError
from lg3d_core.sampling.dataset import Sample

MAX_SHIFT = 100
"""A training batch is moved by fewer voxels than this along each axis."""


class Batch(NamedTuple):
    """The voxels of several scenes, scene after scene.

    Attributes:
        scene_ids: One per scene.
        coordinates: Rows `batch, x, y, z`, shape `(voxels, 4)`, int32.
        features: Colour / 255 - 0.5, shape `(voxels, 3)`, float32.
        labels: Vocabulary index, -1 none, shape `(voxels,)`, int64.
        instances: 0 none, counted per scene, shape `(voxels,)`, int64.
        positions: Metres, in each scene's own frame, shape `(voxels, 3)`, float32.
        scene_sizes: Voxels of each scene.
        placed: Objects of other scenes that were put into these.
        skipped: Objects that found no place.
        cut: Scenes that were too large for one pass, and are here as several.
    """

    scene_ids: tuple[str, ...]
    coordinates: Tensor
    features: Tensor
    labels: Tensor
    instances: Tensor
    positions: Tensor
    scene_sizes: tuple[int, ...]
    placed: int = 0
    skipped: int = 0
    cut: tuple[str, ...] = ()

    def select(self, first: int, last: int) -> "Batch":
        """Scenes `first` to `last - 1` as a batch of their own; what was counted stays with scene 0."""
        rows = slice(sum(self.scene_sizes[:first]), sum(self.scene_sizes[:last]))
        return Batch(
            scene_ids=self.scene_ids[first:last],
            coordinates=renumber(self.coordinates[rows], first),
            features=self.features[rows],
            labels=self.labels[rows],
            instances=self.instances[rows],
            positions=self.positions[rows],
            scene_sizes=self.scene_sizes[first:last],
            placed=0 if first else self.placed,
            skipped=0 if first else self.skipped,
            cut=() if first else self.cut,
        )

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on a device, copied without waiting where memory is pinned."""
        return self._replace(
            coordinates=self.coordinates.to(device, non_blocking=True),
            features=self.features.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            instances=self.instances.to(device, non_blocking=True),
            positions=self.positions.to(device, non_blocking=True),
        )


def renumber(coordinates: Tensor, first: int) -> Tensor:
    """The same coordinates, rows `batch, x, y, z`, with batch indices that start at 0 where they started at `first`."""
    return torch.cat([coordinates[:, :1] - first, coordinates[:, 1:]], dim=1)


def collate(samples: Sequence[Sample], *, rng: np.random.Generator | None = None, max_shift: int = MAX_SHIFT) -> Batch:
    """Put samples one after another, and number them.

    Args:
        samples: One or more.
        rng: Draws one translation of the whole batch's coordinates, so that the strided layers' grids fall anywhere
            while training; positions in metres stay. None does not translate.
        max_shift: The translation is 0 to `max_shift - 1` voxels along each axis.

    Raises:
        ShapeError: No samples.
    """
    if not samples:
        raise ShapeError("expected at least one sample to batch, got none")
    sizes = tuple(len(sample.cells) for sample in samples)
    coordinates = torch.empty((sum(sizes), 4), dtype=torch.int32)
    coordinates[:, 0] = torch.repeat_interleave(torch.arange(len(sizes), dtype=torch.int32), torch.tensor(sizes))
    torch.cat([sample.cells for sample in samples], out=coordinates[:, 1:])
    if rng is not None:
        coordinates[:, 1:] += torch.from_numpy(rng.integers(0, max_shift, size=3, dtype=np.int32))
    return Batch(
        scene_ids=tuple(sample.scene_id for sample in samples),
        coordinates=coordinates,
        features=torch.cat([sample.features for sample in samples]),
        labels=torch.cat([sample.labels for sample in samples]),
        instances=torch.cat([sample.instances for sample in samples]),
        positions=torch.cat([sample.positions for sample in samples]),
        scene_sizes=sizes,
        placed=sum(sample.placed for sample in samples),
        skipped=sum(sample.skipped for sample in samples),
    )
