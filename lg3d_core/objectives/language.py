"""The language contrastive loss: every voxel towards the text anchor of its category, away from a few others."""

from typing import NamedTuple

import torch
from torch import Tensor

from lg3d_core.errors import ShapeError
from lg3d_core.objectives.boundary import full_precision, require_labels

# Up to here drawing one negative after the other is cheaper than ordering a random number for every category.
MOST_SEQUENTIAL_DRAWS = 8
# A feature shorter than this has no direction: it is at distance 1 from every anchor, and gets no gradient.
SHORTEST_FEATURE = 1e-12


class ContrastiveLoss(NamedTuple):
    """The loss and its two parts, scalars with a graph, float32 (float64 for float64 features).

    Attributes:
        total: `positive + negative_weight * negative`.
        positive: Mean distance to the own anchor beyond the positive margin.
        negative: Mean over voxels and their negatives of what is missing to the negative margin.
    """

    total: Tensor
    positive: Tensor
    negative: Tensor


def language_contrastive_loss(
    features: Tensor,
    labels: Tensor,
    anchors: Tensor,
    *,
    num_negatives: int = 3,
    positive_margin: float = 0.0,
    negative_margin: float = 0.6,
    negative_weight: float = 1.0,
    generator: torch.Generator | None = None,
) -> ContrastiveLoss:
    """Pull each labelled voxel's feature to the anchor of its category, and push it off the anchors of a few others.

    With the cosine distance d = 1 - cos, M negatives drawn for each voxel, and means over labelled voxels i alone:

        positive = mean_i max(0, d(f_i, t_h(i)) - positive_margin)
        negative = mean_i mean_{j in M} max(0, negative_margin - d(f_i, t_j))

    The paper prints a similarity where this distance is meant. Neither features nor anchors need unit length.
    Computed in float32 also under autocast; a float64 input stays float64.

    Args:
        features: What the network gives each voxel, shape `(voxels, D)`, floating point.
        labels: Category of each voxel, shape `(voxels,)`, integer; -1 is left out.
        anchors: Text feature of each category, shape `(classes, D)`.
        num_negatives: Other categories per voxel, uniform over the vocabulary without replacement; all of them where
            the vocabulary has fewer.
        positive_margin: Distance to the own anchor that costs nothing.
        negative_margin: Distance from another anchor from which on nothing is paid.
        negative_weight: Factor of the negative part in the total.
        generator: Source of the negatives; they are drawn on its own device. None is PyTorch's global one.

    Returns:
        All three are 0, with a graph, where no voxel is labelled.

    Raises:
        ShapeError: Shapes that do not match, features that are not floating point, labels that are not integer or lie
            outside `[-1, classes)`, or no negatives asked for.

    Source: equations 1 and 2.
    """
    if features.ndim != 2 or anchors.ndim != 2 or features.shape[1] != anchors.shape[1]:
        raise ShapeError(
            f"features (voxels, D) and anchors (classes, D) must have one width: got {tuple(features.shape)} and "
            f"{tuple(anchors.shape)}; make anchors of the network's width with `lg3d anchors --dim`"
        )
    if num_negatives < 1:
        raise ShapeError(f"num_negatives must be at least 1, got {num_negatives}")
    require_labels(features, labels, num_classes=len(anchors))

    with full_precision(features):
        rows = (labels >= 0).nonzero().squeeze(1)
        if len(rows) == 0:
            zero = _at_least_float32(features[rows]).sum()
            return ContrastiveLoss(zero, zero, zero)
        own = labels[rows].long()
        negatives = draw_negatives(own, len(anchors), num_negatives=num_negatives, generator=generator)
        distances = 1.0 - _cosines(features, rows, anchors, torch.cat([own[:, None], negatives], dim=1))

        positive = (distances[:, 0] - positive_margin).clamp_min(0.0).mean()
        if negatives.shape[1] == 0:
            negative = distances[:, 1:].sum()
        else:
            negative = (negative_margin - distances[:, 1:]).clamp_min(0.0).mean()
        return ContrastiveLoss(positive + negative_weight * negative, positive, negative)


def _cosines(features: Tensor, rows: Tensor, anchors: Tensor, candidates: Tensor) -> Tensor:
    """Cosines of `features[rows]` with the anchors `candidates`, shape `(rows, candidates)`.

    One product with all anchors, divided by the lengths afterwards: neither a second `(voxels, D)` array of normalised
    features nor a `(rows, candidates, D)` one of gathered anchors is made. Where most voxels are labelled it is cheaper
    to take the product of all of them than to copy the labelled ones.
    """
    if 2 * len(rows) <= len(features):
        features, rows = features[rows], torch.arange(len(rows), device=rows.device)
    features = _at_least_float32(features)
    directions = torch.nn.functional.normalize(anchors.to(features), dim=1, eps=SHORTEST_FEATURE)
    lengths = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    lengths = lengths.masked_fill(lengths < SHORTEST_FEATURE, torch.inf)
    columns = candidates.new_zeros(len(features), candidates.shape[1]).index_copy(0, rows, candidates)
    cosines: Tensor = (features @ directions.T).gather(1, columns) / lengths
    return cosines[rows]


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def draw_negatives(
    labels: Tensor, num_classes: int, *, num_negatives: int, generator: torch.Generator | None = None
) -> Tensor:
    """Draw for each voxel other categories than its own, uniformly and without replacement.

    Args:
        labels: Category of each voxel, shape `(voxels,)`, int64, within `[0, num_classes)`.
        num_classes: Size of the vocabulary.
        num_negatives: How many; capped at `num_classes - 1`.
        generator: Source of randomness; the draw happens on its device, or on that of `labels` for None.

    Returns:
        Categories on the device of `labels`, shape `(voxels, min(num_negatives, num_classes - 1))`, int64.
    """
    num_voxels, num_others = len(labels), num_classes - 1
    device = labels.device if generator is None else generator.device
    own = labels.to(device)[:, None]
    if num_negatives >= num_others:
        others = torch.arange(num_others, device=device).expand(num_voxels, num_others)
        return (others + (others >= own).long()).to(labels.device)
    if num_negatives > MOST_SEQUENTIAL_DRAWS:
        order = torch.rand(num_voxels, num_others, generator=generator, device=device)
        others = order.topk(num_negatives, dim=1).indices
        return (others + (others >= own).long()).to(labels.device)
    # The k-th draw is a rank among the categories not yet taken; walking up the taken ones turns it into a category.
    taken = own
    for k in range(num_negatives):
        drawn = torch.randint(num_others - k, (num_voxels,), generator=generator, device=device)
        for barrier in taken.sort(dim=1).values.unbind(1):
            drawn = drawn + (drawn >= barrier).long()
        taken = torch.cat([taken, drawn[:, None]], dim=1)
    return taken[:, 1:].to(labels.device)
