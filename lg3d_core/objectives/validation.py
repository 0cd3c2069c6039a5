"""What every objective asks of its inputs, and the precision that it computes in."""

import torch
from torch import Tensor

from lg3d_core.errors import ShapeError


def require_labels(rows: Tensor, labels: Tensor, *, num_classes: int) -> None:
    """Check one label per row of features or logits.

    Args:
        rows: Features or logits, shape `(voxels, ...)`.
        labels: Expected of shape `(voxels,)`, integer, within `[-1, num_classes)`.

    Raises:
        ShapeError: Anything else, or `rows` that is not floating point.
    """
    if not rows.is_floating_point():
        raise ShapeError(f"features and logits must be floating point, got {rows.dtype}")
    if labels.ndim != 1 or len(labels) != len(rows):
        raise ShapeError(
            f"expected one label for each of {len(rows)} voxels, got labels of shape {tuple(labels.shape)}"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ShapeError(f"labels must be integers, got {labels.dtype}")
    if len(labels) > 0:
        lowest, highest = (int(value) for value in torch.stack(labels.aminmax()).tolist())
        if lowest < -1 or highest >= num_classes:
            raise ShapeError(f"labels must be -1 or below {num_classes} classes, got {lowest} to {highest}")


def full_precision(tensor: Tensor) -> torch.autocast:
    """A context in which autocast is off on the tensor's device: exponentials and means need float32."""
    return torch.autocast(tensor.device.type, enabled=False)
