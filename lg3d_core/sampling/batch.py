"""Batches: several samples as the input of one forward pass."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lg3d_core.errors import ShapeError
from lg3d_core.sampling.dataset import Sample

MAX_SHIFT = 100
"""Upper limit (exclusive) of the random shift of a training batch along each axis, in voxels."""


class Batch(NamedTuple):
    """Voxels of several scenes, concatenated in order.

    Attributes:
        scene_ids: Id of each scene.
        coordinates: Rows `batch, x, y, z`, shape `(voxels, 4)`, int32.
        features: Colour / 255 - 0.5, shape `(voxels, 3)`, float32.
        labels: Class index in the vocabulary, -1 for unlabelled, shape `(voxels,)`, int64.
        instances: Instance id within the scene, 0 for none, shape `(voxels,)`, int64; None if not requested.
        scene_sizes: Number of voxels of each scene.
        placed: Number of objects of other scenes that were placed in these scenes.
        skipped: Number of objects for which no free place was found.
        cut: Ids of scenes that exceeded the voxel limit of one pass and are included as several parts.
    """

    scene_ids: tuple[str, ...]
    coordinates: Tensor
    features: Tensor
    labels: Tensor
    instances: Tensor | None
    scene_sizes: tuple[int, ...]
    placed: int = 0
    skipped: int = 0
    cut: tuple[str, ...] = ()

    def select(self, first: int, last: int) -> "Batch":
        """Return scenes `first` to `last - 1` as a new batch. The counts stay with the part that has scene 0."""
        rows = slice(sum(self.scene_sizes[:first]), sum(self.scene_sizes[:last]))
        return Batch(
            scene_ids=self.scene_ids[first:last],
            coordinates=renumber(self.coordinates[rows], first),
            features=self.features[rows],
            labels=self.labels[rows],
            instances=None if self.instances is None else self.instances[rows],
            scene_sizes=self.scene_sizes[first:last],
            placed=0 if first else self.placed,
            skipped=0 if first else self.skipped,
            cut=() if first else self.cut,
        )

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch on a device. Copies from pinned memory are asynchronous."""
        return self._replace(
            coordinates=self.coordinates.to(device, non_blocking=True),
            features=self.features.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            instances=None if self.instances is None else self.instances.to(device, non_blocking=True),
        )


def renumber(coordinates: Tensor, first: int) -> Tensor:
    """Return the coordinates `(batch, x, y, z)` with `first` subtracted from the batch index."""
    return torch.cat([coordinates[:, :1] - first, coordinates[:, 1:]], dim=1)


def collate(
    samples: Sequence[Sample],
    *,
    rng: np.random.Generator | None = None,
    with_instances: bool = False,
) -> Batch:
    """Concatenate samples and add batch indices.

    Args:
        samples: At least one sample.
        rng: Random generator of one translation of the whole batch's coordinates, so that strided layers see all grid
            offsets during training. None disables the translation.
        with_instances: Whether the batch has instance ids.

    Raises:
        ShapeError: `samples` is empty.
    """
    if not samples:
        raise ShapeError("expected at least one sample per batch, got none")
    sizes = tuple(len(sample.cells) for sample in samples)
    coordinates = torch.empty((sum(sizes), 4), dtype=torch.int32)
    coordinates[:, 0] = torch.repeat_interleave(torch.arange(len(sizes), dtype=torch.int32), torch.tensor(sizes))
    torch.cat([sample.cells for sample in samples], out=coordinates[:, 1:])
    if rng is not None:
        coordinates[:, 1:] += torch.from_numpy(rng.integers(0, MAX_SHIFT, size=3, dtype=np.int32))
    return Batch(
        scene_ids=tuple(sample.scene_id for sample in samples),
        coordinates=coordinates,
        features=torch.cat([sample.features for sample in samples]),
        labels=torch.cat([sample.labels for sample in samples]),
        instances=torch.cat([sample.instances for sample in samples]) if with_instances else None,
        scene_sizes=sizes,
        placed=sum(sample.placed for sample in samples),
        skipped=sum(sample.skipped for sample in samples),
    )
