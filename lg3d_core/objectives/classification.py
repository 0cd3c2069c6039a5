"""Objectives of fine-tuning: cross entropy and focal loss, plain and with class weights, and those weights."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from lg3d_core.errors import ShapeError
from lg3d_core.objectives.validation import full_precision, require_labels

# 1 - p is kept this far from 0, where the derivative of its power is infinite for gamma below 1.
SMALLEST_DOUBT = 1e-12


def cross_entropy_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log likelihood of the labelled voxels.

    Args:
        logits: Shape `(voxels, classes)`, floating point; computed in float32 also under autocast (float64 stays).
        labels: Shape `(voxels,)`, integer; -1 is left out.

    Returns:
        A scalar; 0 with a graph where no voxel is labelled.

    Raises:
        ShapeError: Shapes that do not match, or labels outside `[-1, classes)`.
    """
    logits, labels = _labelled_rows(logits, labels)
    if len(labels) == 0:
        return logits.sum()
    with full_precision(logits):
        return cross_entropy(logits, labels)


def weighted_cross_entropy_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Mean over the labelled voxels of -w_y log p_y.

    The mean divides by the number of labelled voxels, as that of `focal_loss` does, and not by the sum of their
    weights: a voxel's part of the loss does not depend on which others are in its batch.

    Args:
        logits: Shape `(voxels, classes)`, floating point; computed in float32 also under autocast (float64 stays).
        labels: Shape `(voxels,)`, integer; -1 is left out.
        weights: Weight of each class, shape `(classes,)`.

    Returns:
        A scalar; 0 with a graph where no voxel is labelled.

    Raises:
        ShapeError: Shapes that do not match, or labels outside `[-1, classes)`.
    """
    if weights.shape != logits.shape[1:]:
        raise ShapeError(
            f"expected one weight for each class of logits {tuple(logits.shape)}, got {tuple(weights.shape)}"
        )
    logits, labels = _labelled_rows(logits, labels)
    if len(labels) == 0:
        return logits.sum()
    with full_precision(logits):
        return cross_entropy(logits, labels, weight=weights.to(logits), reduction="sum") / len(labels)


def focal_loss(logits: Tensor, labels: Tensor, *, gamma: float, alpha: Tensor | None = None) -> Tensor:
    """Mean over the labelled voxels of -alpha_y (1 - p_y)^gamma log p_y; with `alpha`, the class-balanced focal loss.

    The mean divides by the number of labelled voxels, not by the sum of their alphas: a batch of rare categories
    weighs more than one of frequent categories.

    Args:
        logits: Shape `(voxels, classes)`, floating point; computed in float32 also under autocast (float64 stays).
        labels: Shape `(voxels,)`, integer; -1 is left out.
        gamma: How much confident voxels are played down, 0 or more; 0 without `alpha` is cross entropy.
        alpha: Weight of each class, shape `(classes,)`; None is 1 for all.

    Returns:
        A scalar; 0 with a graph where no voxel is labelled.

    Raises:
        ShapeError: Shapes that do not match, labels outside `[-1, classes)`, or a negative `gamma`.

    Source: section 3.4.
    """
    if gamma < 0:
        raise ShapeError(f"gamma must be 0 or more, got {gamma}")
    if alpha is not None and alpha.shape != logits.shape[1:]:
        raise ShapeError(f"expected one alpha for each class of logits {tuple(logits.shape)}, got {tuple(alpha.shape)}")
    logits, labels = _labelled_rows(logits, labels)
    if len(labels) == 0:
        return logits.sum()
    with full_precision(logits):
        log_probability = log_softmax(logits, dim=1).gather(1, labels[:, None]).squeeze(1)
        doubt = -torch.expm1(log_probability)
        loss = -(doubt.clamp_min(SMALLEST_DOUBT) ** gamma) * log_probability
        return loss.mean() if alpha is None else (alpha.to(logits)[labels] * loss).mean()


def inverse_log_alpha(counts: Tensor | npt.NDArray[np.integer]) -> Tensor:
    """Class weights that fall with the number of labelled points: 1 / log(1 + n_i), scaled to mean 1 where n_i > 0.

    Equation 5 prints log n_i, which favours the frequent categories, against what its text wants; this is its inverse.
    The 1 inside the logarithm keeps a category of a single point finite. A category without any point gets 1, the
    mean: no training voxel carries it, so it matters only where a loss is reported on scenes that do have it.

    Args:
        counts: Labelled training points of each class, shape `(classes,)`, 0 or more.

    Returns:
        Shape `(classes,)`, float32.

    Raises:
        ShapeError: `counts` has another shape, or negative entries.

    Source: equation 5, inverted.
    """
    numbers = _read_counts(counts)
    present = numbers > 0
    weights = 1.0 / torch.log1p(numbers[present])
    alpha = torch.ones_like(numbers)
    alpha[present] = weights / weights.mean()
    return alpha.float()


def printed_alpha(counts: Tensor | npt.NDArray[np.integer]) -> Tensor:
    """Class weights as the paper prints them: log n_i / sum_j log n_j, which favour the frequent categories.

    They sum to 1 over the vocabulary, so that losses come out smaller by about the number of classes than with
    `inverse_log_alpha`. A category without any point gets 0, as does one with a single point.

    Args:
        counts: Labelled training points of each class, shape `(classes,)`, 0 or more.

    Returns:
        Shape `(classes,)`, float32.

    Raises:
        ShapeError: `counts` has another shape or negative entries, or no class has two points: the formula is 0 / 0.

    Source: equation 5.
    """
    logarithms = torch.log(_read_counts(counts).clamp_min(1.0))
    total = logarithms.sum()
    if total <= 0:
        raise ShapeError("the printed alpha needs a class with at least 2 labelled points; use --alpha inverse-log")
    return (logarithms / total).float()


def _labelled_rows(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    if logits.ndim != 2:
        raise ShapeError(f"expected logits (voxels, classes), got shape {tuple(logits.shape)}")
    require_labels(logits, labels, num_classes=logits.shape[1])
    rows = (labels >= 0).nonzero().squeeze(1)
    if len(rows) < len(labels):
        logits, labels = logits[rows], labels[rows]
    return logits if logits.dtype == torch.float64 else logits.float(), labels.long()


def _read_counts(counts: Tensor | npt.NDArray[np.integer]) -> Tensor:
    numbers = torch.as_tensor(counts).to(torch.float64)
    if numbers.ndim != 1 or bool((numbers < 0).any()):
        raise ShapeError(f"expected counts (classes,) of 0 or more, got shape {tuple(numbers.shape)}")
    return numbers
