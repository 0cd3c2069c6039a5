"""The language contrastive loss: every voxel towards the text anchor of its category, away from a few others."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lg3d_core.errors import SettingsError, ShapeError
from lg3d_core.objectives.validation import full_precision, require_labels
from lg3d_core.settings import Distance, Hinge

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
    """Pull each labelled voxel's feature to the anchor of its category, and push it off the anchors of a few others.

    With a distance d, M negatives drawn for each voxel, and means over labelled voxels i alone:

        positive = mean_i max(0, d(f_i, t_h(i)) - positive_margin)
        negative = mean_i mean_{j in M} max(0, negative_margin - d(f_i, t_j))

    The paper prints a similarity where a distance is meant. Computed in float32 also under autocast; a float64 input
    stays float64.

    Args:
        features: What the network gives each voxel, shape `(voxels, D)`, floating point.
        labels: Category of each voxel, shape `(voxels,)`, integer; -1 is left out.
        anchors: Text feature of each category, shape `(classes, D)`.
        distance: `cosine` is 1 - cos(f, t), for which neither needs unit length; `l1` is sum |f - t| over the D
            entries, `l2` the Euclidean length of f - t and `mse` the mean of (f - t)^2 over the D entries, all of the
            vectors as they are.
        hinge: `per-negative` is the equation above; `mean-first` is max(0, negative_margin - mean_{j in M} d(f_i, t_j))
            as in the reference implementation: one far negative then pays for a near one.
        num_negatives: Other categories per voxel, uniform over the vocabulary; all of them where the vocabulary has
            fewer.
        replacement: Whether one voxel's negatives may repeat, as in the reference implementation.
        positive_margin: Distance to the own anchor that costs nothing.
        negative_margin: Distance from another anchor from which on nothing is paid.
        negative_weight: Factor of the negative part in the total.
        negatives: What `draw_negatives` gave for the labelled voxels, shape `(labelled voxels, M)`; None draws them
            here.
        generator: Source of the negatives; they are drawn on its own device. None is PyTorch's global one.

    Returns:
        All three are 0, with a graph, where no voxel is labelled.

    Raises:
        ShapeError: Shapes that do not match, features that are not floating point, labels that are not integer or lie
            outside `[-1, classes)`, or no negatives asked for.
        SettingsError: No such distance or hinge.

    Source: equations 1 and 2; distances l1 and l2: table 4; mse: section 3.1.
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
            zero = _at_least_float32(features[rows]).sum()
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
    """Tell each labelled voxel's anchor from all others: the mean over labelled voxels i of

        -log(exp(cos(f_i, t_h(i)) / temperature) / sum_j exp(cos(f_i, t_j) / temperature))

    Not in the paper: its margin leaves anchors alone from which a feature is further than 0.6, which is most of them
    from the start. This is CLIP's own loss with the text side held fixed.

    Args:
        features: What the network gives each voxel, shape `(voxels, D)`, floating point; computed in float32 also under
            autocast (float64 stays).
        labels: Category of each voxel, shape `(voxels,)`, integer; -1 is left out.
        anchors: Text feature of each category, shape `(classes, D)`.
        temperature: Above 0.

    Returns:
        A scalar; 0 with a graph where no voxel is labelled.

    Raises:
        ShapeError: As for `language_contrastive_loss`.
    """
    _require_one_width(features, anchors)
    require_labels(features, labels, num_classes=len(anchors))
    with full_precision(features):
        rows = (labels >= 0).nonzero().squeeze(1)
        features = _at_least_float32(features[rows])
        if len(rows) == 0:
            return features.sum()
        normalize = torch.nn.functional.normalize
        directions = normalize(anchors.to(features), dim=1, eps=SHORTEST_FEATURE)
        cosines = normalize(features, dim=1, eps=SHORTEST_FEATURE) @ directions.T
        return torch.nn.functional.cross_entropy(cosines / temperature, labels[rows].long())


def _require_one_width(features: Tensor, anchors: Tensor) -> None:
    if features.ndim != 2 or anchors.ndim != 2 or features.shape[1] != anchors.shape[1]:
        raise ShapeError(
            f"features (voxels, D) and anchors (classes, D) must have one width: got {tuple(features.shape)} and "
            f"{tuple(anchors.shape)}; make anchors of the network's width with `lg3d anchors --dim`"
        )


def _cosine_distances(features: Tensor, rows: Tensor, anchors: Tensor, candidates: Tensor) -> Tensor:
    """1 - cosines of `features[rows]` with the anchors `candidates`, shape `(rows, candidates)`.

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
    """Reduce each row of `features[rows] - anchors[candidates]` to a number, shape `(rows, candidates)`.

    One candidate at a time, and again in the backward pass: a `(rows, candidates, D)` array of differences would take
    some gigabytes. The product |f|^2 - 2 f t + |t|^2 is cheaper, but loses the digits of small distances.
    """
    features = _at_least_float32(features if len(rows) == len(features) else features[rows])
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
    """How near every feature lies to every anchor, shape `(voxels, classes)`: the largest score names the voxel.

    Args:
        features: Shape `(voxels, D)`.
        anchors: Shape `(classes, D)`.
        distance: As in `language_contrastive_loss`; `cosine` gives cosines, the others the negative distance.
    """
    features, anchors = features.float(), anchors.float()
    if distance == "cosine":
        normalize = torch.nn.functional.normalize
        return normalize(features, dim=1) @ normalize(anchors, dim=1).T
    lengths = torch.cdist(features, anchors, p=1.0 if distance == "l1" else 2.0, compute_mode=EXACT)
    return -lengths.square() / features.shape[1] if distance == "mse" else -lengths


EXACT = "donot_use_mm_for_euclid_dist"
"""`torch.cdist` by differences: its way by products loses the digits of small distances."""


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def draw_negatives(
    labels: Tensor,
    num_classes: int,
    *,
    num_negatives: int,
    replacement: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw for each voxel other categories than its own, uniformly.

    Args:
        labels: Category of each voxel, shape `(voxels,)`, int64, within `[0, num_classes)`.
        num_classes: Size of the vocabulary.
        num_negatives: How many; without replacement capped at `num_classes - 1`.
        replacement: Whether one voxel's categories may repeat.
        generator: Source of randomness; the draw happens on its device, or on that of `labels` for None.

    Returns:
        Categories on the device of `labels`, shape `(voxels, min(num_negatives, num_classes - 1))`, int64; with
        replacement `(voxels, num_negatives)` where there is another category at all.
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
    # The k-th draw is a rank among the categories not yet taken; walking up the taken ones turns it into a category.
    taken = own
    for k in range(num_negatives):
        drawn = torch.randint(num_others - k, (num_voxels,), generator=generator, device=device)
        for barrier in taken.sort(dim=1).values.unbind(1):
            drawn = drawn + (drawn >= barrier).long()
        taken = torch.cat([taken, drawn[:, None]], dim=1)
    return taken[:, 1:].to(labels.device)
