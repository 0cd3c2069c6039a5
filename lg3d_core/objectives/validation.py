"""Input validation and the computing precision that all losses share."""

import torch
from torch import Tensor

from lg3d_core.errors import ShapeError


def require_floating_point(rows: Tensor) -> None:
    """Check the dtype of features or logits.

    Raises:
        ShapeError: `rows` is not floating point.
    """
    if not rows.is_floating_point():
        raise ShapeError(f"features and logits must be floating point, got {rows.dtype}")


def require_labels(rows: Tensor, labels: Tensor, *, num_classes: int) -> None:
    """Check that each row of features or logits has one valid label.

    Args:
        rows: Features or logits, shape `(voxels, ...)`.
        labels: Labels, shape `(voxels,)`, integer, in `[-1, num_classes)`.

    Raises:
        ShapeError: `rows` is not floating point, or `labels` has another shape, dtype or range.
    """
    require_floating_point(rows)
    if labels.ndim != 1 or len(labels) != len(rows):
        raise ShapeError(
            f"expected one label for each of {len(rows)} voxels, got labels of shape {tuple(labels.shape)}"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ShapeError(f"labels must be integers, got {labels.dtype}")
    if len(labels) > 0:
        lowest, highest = (int(value) for value in torch.stack(labels.aminmax()).tolist())
        if lowest < -1 or highest >= num_classes:
            raise ShapeError(f"labels must be from -1 to {num_classes - 1}, got {lowest} to {highest}")


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return a floating-point tensor in float32, or unchanged if it is float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def full_precision(tensor: Tensor) -> torch.autocast:
    """Return a context without autocast on the tensor's device, because exponentials and means need float32."""
    return torch.autocast(tensor.device.type, enabled=False)
