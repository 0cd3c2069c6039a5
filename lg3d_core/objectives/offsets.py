"""Loss of the offset head, which predicts the vector from every voxel to the centre of its object."""

from typing import NamedTuple

import torch
from torch import Tensor

from lg3d_core.errors import ShapeError
from lg3d_core.objectives.validation import at_least_float32, full_precision

SHORTEST = 1e-4
"""Length in metres below which an offset has no direction."""


class OffsetLoss(NamedTuple):
    """Both terms of the offset loss, scalars.

    Attributes:
        distance: Mean L1 distance between predicted and true offset over the voxels of objects, in metres.
        direction: Mean of 1 - cosine between predicted and true offset over the voxels of objects, 0..2.
    """

    distance: Tensor
    direction: Tensor


def number_objects(instances: Tensor, scenes: Tensor, counted: Tensor) -> Tensor:
    """Number the objects of a batch contiguously.

    Args:
        instances: Instance id of each voxel within its scene, shape `(voxels,)`, int64.
        scenes: Scene of each voxel, shape `(voxels,)`.
        counted: Voxels that belong to an object, shape `(voxels,)`, bool.

    Returns:
        Object of each voxel, contiguous from 0, -1 where `counted` is False, shape `(voxels,)`, int64.
    """
    objects = torch.full_like(instances, -1)
    keys = scenes[counted].long() * (instances.max() + 1 if len(instances) else 1) + instances[counted]
    objects[counted] = torch.unique(keys, return_inverse=True)[1]
    return objects


def true_offsets(positions: Tensor, objects: Tensor) -> Tensor:
    """Return the vector from each voxel to the mean position of its object's voxels.

    Args:
        positions: Positions in metres, shape `(voxels, 3)`.
        objects: Object of each voxel, as `number_objects` returns it, shape `(voxels,)`.

    Returns:
        Offsets in metres, 0 for voxels without an object, shape `(voxels, 3)`, of the dtype of `positions`.
    """
    own = objects >= 0
    rows = objects[own]
    number = int(rows.max()) + 1 if len(rows) else 0
    inside = positions[own].double()
    sums = inside.new_zeros((number, 3)).index_add_(0, rows, inside)
    counts = torch.bincount(rows, minlength=number).clamp_min(1)
    offsets = torch.zeros_like(positions)
    offsets[own] = ((sums / counts[:, None])[rows] - inside).to(positions.dtype)
    return offsets


def offset_loss(predicted: Tensor, positions: Tensor, objects: Tensor) -> OffsetLoss:
    """Compare predicted offsets with the vectors to the centres of the objects.

    Args:
        predicted: Offsets in metres, shape `(voxels, 3)`, floating point. Computed in float32 or float64, also under
            autocast.
        positions: Positions in metres, shape `(voxels, 3)`.
        objects: Object of each voxel, as `number_objects` returns it, shape `(voxels,)`; -1 is ignored.

    Returns:
        Both terms; 0 with a graph if no voxel has an object.

    Raises:
        ShapeError: Shapes do not match.

    Source: the offset losses of PointGroup (Jiang et al., CVPR 2020), equations 2 and 3.
    """
    if predicted.shape != positions.shape or positions.shape[1:] != (3,) or objects.shape != positions.shape[:1]:
        raise ShapeError(
            f"expected offsets and positions of shape (voxels, 3) and one object each, got {tuple(predicted.shape)}, "
            f"{tuple(positions.shape)} and {tuple(objects.shape)}"
        )
    with full_precision(predicted):
        own = objects >= 0
        found = at_least_float32(predicted[own])
        if len(found) == 0:
            nothing = found.sum()
            return OffsetLoss(nothing, nothing)
        truth = true_offsets(positions, objects)[own].to(found.dtype)
        distance = (found - truth).abs().sum(dim=1).mean()
        directed = truth.norm(dim=1) > SHORTEST
        cosines = torch.nn.functional.cosine_similarity(found[directed], truth[directed], dim=1, eps=SHORTEST)
        direction = (1 - cosines).sum() / len(found)
    return OffsetLoss(distance, direction)
