"""Fine-tuning losses: cross entropy and focal loss, with or without class weights, and the class weights."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lg3d_core.errors import ShapeError
from lg3d_core.objectives.likelihood import log_likelihood, mean_over_labelled
from lg3d_core.objectives.validation import at_least_float32, full_precision, require_labels

# Lower bound of 1 - p: at 0 the derivative of its power is infinite for gamma below 1.
SMALLEST_DOUBT = 1e-12


def cross_entropy_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean negative log likelihood of the labelled voxels.

    Args:
        logits: Shape `(voxels, classes)`, floating point. Computed in float32 or float64, also under autocast.
        labels: Class of each voxel, shape `(voxels,)`, integer; -1 is ignored.

    Returns:
        A scalar; 0 with a graph if no voxel is labelled.

    Raises:
        ShapeError: Shapes do not match, or labels are outside `[-1, classes)`.
    """
    logits, labels = _check(logits, labels)
    with full_precision(logits):
        return mean_over_labelled(-log_likelihood(logits, labels), labels)


def weighted_cross_entropy_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of -w_y log p_y over the labelled voxels.

    The mean divides by the number of labelled voxels, as in `focal_loss`, and not by the sum of their weights, so a
    voxel's contribution does not depend on the other voxels of the batch.

    Args:
        logits: Shape `(voxels, classes)`, floating point. Computed in float32 or float64, also under autocast.
        labels: Class of each voxel, shape `(voxels,)`, integer; -1 is ignored.
        weights: Weight of each class, shape `(classes,)`.

    Returns:
        A scalar; 0 with a graph if no voxel is labelled.

    Raises:
        ShapeError: Shapes do not match, or labels are outside `[-1, classes)`.
    """
    if weights.shape != logits.shape[1:]:
        raise ShapeError(
            f"expected one weight for each class of logits {tuple(logits.shape)}, got {tuple(weights.shape)}"
        )
    logits, labels = _check(logits, labels)
    with full_precision(logits):
        loss = -log_likelihood(logits, labels) * weights.to(logits)[labels.clamp_min(0)]
        return mean_over_labelled(loss, labels)


def focal_loss(logits: Tensor, labels: Tensor, *, gamma: float, alpha: Tensor | None = None) -> Tensor:
    """Return the mean of -alpha_y (1 - p_y)^gamma log p_y over the labelled voxels, the class-balanced focal loss.

    The mean divides by the number of labelled voxels, not by the sum of their alphas, so a batch of rare classes has
    more weight than one of frequent classes.

    Args:
        logits: Shape `(voxels, classes)`, floating point. Computed in float32 or float64, also under autocast.
        labels: Class of each voxel, shape `(voxels,)`, integer; -1 is ignored.
        gamma: Focusing exponent, 0 or more; larger values reduce the weight of confident voxels. With 0 and without
            `alpha` the loss is cross entropy.
        alpha: Weight of each class, shape `(classes,)`; None is 1 for all classes.

    Returns:
        A scalar; 0 with a graph if no voxel is labelled.

    Raises:
        ShapeError: Shapes do not match, labels are outside `[-1, classes)`, or `gamma` is negative.

    Source: section 3.4.
    """
    if gamma < 0:
        raise ShapeError(f"gamma must be 0 or more, got {gamma}")
    if alpha is not None and alpha.shape != logits.shape[1:]:
        raise ShapeError(f"expected one alpha for each class of logits {tuple(logits.shape)}, got {tuple(alpha.shape)}")
    logits, labels = _check(logits, labels)
    with full_precision(logits):
        log_probability = log_likelihood(logits, labels)
        doubt = -torch.expm1(log_probability)
        loss = -(doubt.clamp_min(SMALLEST_DOUBT) ** gamma) * log_probability
        if alpha is not None:
            loss = alpha.to(logits)[labels.clamp_min(0)] * loss
        return mean_over_labelled(loss, labels)


def inverse_log_alpha(counts: Tensor | npt.NDArray[np.integer]) -> Tensor:
    """Return class weights that decrease with the number of labelled points: 1 / log(1 + n_i), scaled to mean 1.

    Equation 5 prints log n_i, which favours the frequent classes and contradicts its text; this is the inverse. The 1
    in the logarithm keeps the weight of a class with one point finite. The mean is over classes with points. A class
    without points gets weight 1: no training voxel has it, so its weight only affects losses that are reported on
    other scenes.

    Args:
        counts: Number of labelled training points of each class, shape `(classes,)`, 0 or more.

    Returns:
        Class weights, shape `(classes,)`, float32.

    Raises:
        ShapeError: `counts` has another shape or negative entries.

    Source: equation 5, inverted.
    """
    numbers = _read_counts(counts)
    present = numbers > 0
    weights = 1.0 / torch.log1p(numbers[present])
    alpha = torch.ones_like(numbers)
    alpha[present] = weights / weights.mean()
    return alpha.float()


def printed_alpha(counts: Tensor | npt.NDArray[np.integer]) -> Tensor:
    """Return class weights as printed in the paper: log n_i / sum_j log n_j, which favour the frequent classes.

    They sum to 1 over the vocabulary, so losses are smaller than with `inverse_log_alpha` by about the number of
    classes. A class with no point or one point gets weight 0.

    Args:
        counts: Number of labelled training points of each class, shape `(classes,)`, 0 or more.

    Returns:
        Class weights, shape `(classes,)`, float32.

    Raises:
        ShapeError: `counts` has another shape or negative entries, or no class has two points (the formula is 0 / 0).

    Source: equation 5.
    """
    logarithms = torch.log(_read_counts(counts).clamp_min(1.0))
    total = logarithms.sum()
    if total <= 0:
        raise ShapeError("printed alpha needs a class with at least 2 labelled points; use --alpha inverse-log")
    return (logarithms / total).float()


def _check(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    if logits.ndim != 2:
        raise ShapeError(f"expected logits (voxels, classes), got shape {tuple(logits.shape)}")
    require_labels(logits, labels, num_classes=logits.shape[1])
    return at_least_float32(logits), labels.long()


def _read_counts(counts: Tensor | npt.NDArray[np.integer]) -> Tensor:
    numbers = torch.as_tensor(counts).to(torch.float64)
    if numbers.ndim != 1 or bool((numbers < 0).any()):
        raise ShapeError(f"expected counts (classes,) of 0 or more, got shape {tuple(numbers.shape)}")
    return numbers
