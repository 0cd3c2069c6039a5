"""Language losses: pull every voxel towards the text anchor of its class, and push it away from other anchors."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lg3d_core.errors import SettingsError, ShapeError
from lg3d_core.objectives.directions import feature_directions, feature_lengths
from lg3d_core.objectives.likelihood import log_likelihood, mean_over_labelled
from lg3d_core.objectives.validation import at_least_float32, full_precision, require_labels
from lg3d_core.settings import Distance, Hinge

# Up to this number, sequential draws are cheaper than sorting one random number per class.
MOST_SEQUENTIAL_DRAWS = 8


class ContrastiveLoss(NamedTuple):
    """The loss and its two terms, scalars with a graph, float32 (float64 for float64 features).

    Attributes:
        total: `positive + negative_weight * negative`.
        positive: Mean distance to the voxel's own anchor in excess of the positive margin.
        negative: Mean shortfall from the negative margin, over voxels and their negatives.
    """

    total: Tensor
    positive: Tensor
    negative: Tensor


def language_contrastive_loss(
    features: Tensor,
    labels: Tensor,
    anchors: Tensor,
    *,
    distance: Distance = "cosine",
    hinge: Hinge = "per-negative",
    num_negatives: int = 3,
    replacement: bool = False,
    positive_margin: float = 0.0,
    negative_margin: float = 0.6,
    negative_weight: float = 1.0,
    negatives: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> ContrastiveLoss:
    """Pull each labelled voxel's feature towards the anchor of its class and away from a few other anchors.

    For a distance d and M negatives per voxel, with means over the labelled voxels i:

        positive = mean_i max(0, d(f_i, t_h(i)) - positive_margin)
        negative = mean_i mean_{j in M} max(0, negative_margin - d(f_i, t_j))

    The paper prints a similarity in place of the distance. The loss is computed in float32 also under autocast; float64
    features stay float64.

    Args:
        features: Voxel features of the network, shape `(voxels, D)`, floating point.
        labels: Class of each voxel, shape `(voxels,)`, integer; -1 is ignored.
        anchors: Text feature of each class, shape `(classes, D)`.
        distance: `cosine` is 1 - cos(f, t), for vectors of any length; `l1` is sum |f - t| over the D entries, `l2` the
            Euclidean length of f - t and `mse` the mean of (f - t)^2 over the D entries, without normalisation.
        hinge: `per-negative` is the equation above; `mean-first` is max(0, negative_margin - mean_{j in M} d(f_i, t_j))
            as in the reference implementation, where a distant negative can compensate for a close one.
        num_negatives: Number of other classes per voxel, drawn uniformly; at most all other classes.
        replacement: Whether a voxel's negatives may repeat, as in the reference implementation.
        positive_margin: Distance to the own anchor up to which the positive term is 0.
        negative_margin: Distance to another anchor from which the negative term is 0.
        negative_weight: Weight of the negative term in the total.
        negatives: Result of `draw_negatives` for the labelled voxels, shape `(labelled voxels, M)`; None draws them.
        generator: Random generator of the negatives, which are drawn on its device; None is PyTorch's global generator.

    Returns:
        The loss and its terms; all are 0, with a graph, if no voxel is labelled.

    Raises:
        ShapeError: Shapes do not match, features are not floating point, labels are not integers in `[-1, classes)`, or
            `num_negatives` is below 1.
        SettingsError: Unknown distance or hinge.

    Source: equations 1 and 2; table 4 for the distances l1 and l2; section 3.1 for mse.
    """
    _require_one_width(features, anchors)
    if num_negatives < 1:
        raise ShapeError(f"num_negatives must be at least 1, got {num_negatives}")
    if distance not in DISTANCES:
        raise SettingsError(f"--distance must be one of {', '.join(DISTANCES)}, got {distance!r}")
    if hinge not in ("per-negative", "mean-first"):
        raise SettingsError(f"--hinge must be one of per-negative, mean-first, got {hinge!r}")
    require_labels(features, labels, num_classes=len(anchors))

    with full_precision(features):
        rows = (labels >= 0).nonzero().squeeze(1)
        if len(rows) == 0:
            zero = at_least_float32(features[rows]).sum()
            return ContrastiveLoss(zero, zero, zero)
        own = labels[rows].long()
        if negatives is None:
            negatives = draw_negatives(
                own, len(anchors), num_negatives=num_negatives, replacement=replacement, generator=generator
            )
        distances = DISTANCES[distance](features, rows, anchors, torch.cat([own[:, None], negatives], dim=1))

        positive = (distances[:, 0] - positive_margin).clamp_min(0.0).mean()
        if negatives.shape[1] == 0:
            negative = distances[:, 1:].sum()
        elif hinge == "mean-first":
            negative = (negative_margin - distances[:, 1:].mean(dim=1)).clamp_min(0.0).mean()
        else:
            negative = (negative_margin - distances[:, 1:]).clamp_min(0.0).mean()
        return ContrastiveLoss(positive + negative_weight * negative, positive, negative)


def language_softmax_loss(features: Tensor, labels: Tensor, anchors: Tensor, *, temperature: float) -> Tensor:
    """Return the cross entropy of each labelled voxel's anchor among all anchors, the mean over labelled voxels i of

        -log(exp(cos(f_i, t_h(i)) / temperature) / sum_j exp(cos(f_i, t_j) / temperature))

    This loss is not in the paper, whose margin ignores anchors at a distance above 0.6, which are most of them from the
    start. It is CLIP's loss with frozen text features.

    Args:
        features: Voxel features of the network, shape `(voxels, D)`, floating point. Computed in float32 also under
            autocast; float64 stays float64.
        labels: Class of each voxel, shape `(voxels,)`, integer; -1 is ignored.
        anchors: Text feature of each class, shape `(classes, D)`.
        temperature: Softmax temperature, above 0.

    Returns:
        A scalar; 0 with a graph if no voxel is labelled.

    Raises:
        ShapeError: Shapes do not match, features are not floating point, or labels are not integers in `[-1, classes)`.
    """
    _require_one_width(features, anchors)
    require_labels(features, labels, num_classes=len(anchors))
    with full_precision(features):
        rows = (labels >= 0).nonzero().squeeze(1)
        features, labels = at_least_float32(features[rows]), labels[rows].long()
        cosines = feature_directions(features) @ feature_directions(anchors.to(features)).T
        return mean_over_labelled(-log_likelihood(cosines / temperature, labels), labels)


def _require_one_width(features: Tensor, anchors: Tensor) -> None:
    if features.ndim != 2 or anchors.ndim != 2 or features.shape[1] != anchors.shape[1]:
        raise ShapeError(
            f"features (voxels, D) and anchors (classes, D) must have the same width, got {tuple(features.shape)} and "
            f"{tuple(anchors.shape)}; make anchors of the network's width with `lg3d anchors --dim`"
        )


def _cosine_distances(features: Tensor, rows: Tensor, anchors: Tensor, candidates: Tensor) -> Tensor:
    """Return 1 - cosine of `features[rows]` and the anchors `candidates`, shape `(rows, candidates)`.

    The product with all anchors is computed once and divided by the lengths afterwards, which avoids both a second
    `(voxels, D)` array of normalised features and a `(rows, candidates, D)` array of gathered anchors. If most voxels
    are labelled, multiplying all of them is cheaper than copying the labelled ones.
    """
    if 2 * len(rows) <= len(features):
        features, rows = features[rows], torch.arange(len(rows), device=rows.device)
    features = at_least_float32(features)
    directions = feature_directions(anchors.to(features))
    lengths = feature_lengths(features)
    columns = candidates.new_zeros(len(features), candidates.shape[1]).index_copy(0, rows, candidates)
    cosines: Tensor = (features @ directions.T).gather(1, columns) / lengths
    return 1.0 - cosines[rows]


def _l1_distances(features: Tensor, rows: Tensor, anchors: Tensor, candidates: Tensor) -> Tensor:
    return _norms(features, rows, anchors, candidates, 1.0)


def _l2_distances(features: Tensor, rows: Tensor, anchors: Tensor, candidates: Tensor) -> Tensor:
    return _norms(features, rows, anchors, candidates, 2.0)


def _mse_distances(features: Tensor, rows: Tensor, anchors: Tensor, candidates: Tensor) -> Tensor:
    def mean_square(difference: Tensor) -> Tensor:
        return difference.square().mean(dim=1)

    return _reduce_differences(features, rows, anchors, candidates, mean_square)


def _norms(features: Tensor, rows: Tensor, anchors: Tensor, candidates: Tensor, order: float) -> Tensor:
    def norm(difference: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(difference, ord=order, dim=1)
        return length

    return _reduce_differences(features, rows, anchors, candidates, norm)


def _reduce_differences(
    features: Tensor, rows: Tensor, anchors: Tensor, candidates: Tensor, reduce: Callable[[Tensor], Tensor]
) -> Tensor:
    """Reduce each row of `features[rows] - anchors[candidates]` to a scalar, shape `(rows, candidates)`.

    One candidate is processed at a time and recomputed in the backward pass, because a `(rows, candidates, D)` array of
    differences would take several gigabytes. The product form |f|^2 - 2 f t + |t|^2 is cheaper but inaccurate for small
    distances.
    """
    features = at_least_float32(features if len(rows) == len(features) else features[rows])
    anchors = anchors.to(features)

    def distance(features: Tensor, column: Tensor) -> Tensor:
        return reduce(features - anchors[column])

    columns = [
        checkpoint(distance, features, column, use_reentrant=False, preserve_rng_state=False)
        for column in candidates.unbind(1)
    ]
    return torch.stack(columns, dim=1)


DISTANCES = {"cosine": _cosine_distances, "l1": _l1_distances, "l2": _l2_distances, "mse": _mse_distances}


def anchor_scores(features: Tensor, anchors: Tensor, *, distance: Distance = "cosine") -> Tensor:
    """Return the score of every anchor for every feature, shape `(voxels, classes)`; the largest is the prediction.

    Args:
        features: Voxel features, shape `(voxels, D)`.
        anchors: Text features, shape `(classes, D)`.
        distance: As in `language_contrastive_loss`; `cosine` returns cosines, the others the negative distance.
    """
    features, anchors = features.float(), anchors.float()
    if distance == "cosine":
        normalize = torch.nn.functional.normalize
        return normalize(features, dim=1) @ normalize(anchors, dim=1).T
    lengths = torch.cdist(features, anchors, p=1.0 if distance == "l1" else 2.0, compute_mode=EXACT)
    return -lengths.square() / features.shape[1] if distance == "mse" else -lengths


EXACT = "donot_use_mm_for_euclid_dist"
"""Mode of `torch.cdist` that takes differences; its matrix product mode is inaccurate for small distances."""


def draw_negatives(
    labels: Tensor,
    num_classes: int,
    *,
    num_negatives: int,
    replacement: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw other classes than its own for each voxel, uniformly.

    Args:
        labels: Class of each voxel, shape `(voxels,)`, int64, in `[0, num_classes)`.
        num_classes: Size of the vocabulary.
        num_negatives: Number of classes per voxel; capped at `num_classes - 1` without replacement.
        replacement: Whether a voxel's classes may repeat.
        generator: Random generator; the draw happens on its device, or on the device of `labels` for None.

    Returns:
        Classes on the device of `labels`, shape `(voxels, min(num_negatives, num_classes - 1))`, int64; with
        replacement `(voxels, num_negatives)` if there is more than one class.
    """
    num_voxels, num_others = len(labels), num_classes - 1
    device = labels.device if generator is None else generator.device
    own = labels.to(device)[:, None]
    if replacement and num_others > 0:
        others = torch.randint(num_others, (num_voxels, num_negatives), generator=generator, device=device)
        return (others + (others >= own).long()).to(labels.device)
    if num_negatives >= num_others:
        others = torch.arange(num_others, device=device).expand(num_voxels, num_others)
        return (others + (others >= own).long()).to(labels.device)
    if num_negatives > MOST_SEQUENTIAL_DRAWS:
        order = torch.rand(num_voxels, num_others, generator=generator, device=device)
        others = order.topk(num_negatives, dim=1).indices
        return (others + (others >= own).long()).to(labels.device)
    # The k-th draw is a rank among the remaining classes; adding the taken classes below it turns it into a class.
    taken = own
    for k in range(num_negatives):
        drawn = torch.randint(num_others - k, (num_voxels,), generator=generator, device=device)
        for barrier in taken.sort(dim=1).values.unbind(1):
            drawn = drawn + (drawn >= barrier).long()
        taken = torch.cat([taken, drawn[:, None]], dim=1)
    return taken[:, 1:].to(labels.device)
