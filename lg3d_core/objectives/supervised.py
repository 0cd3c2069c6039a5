"""The supervised contrastive loss: pull a voxel's feature towards others of its class in its scene."""

from typing import NamedTuple

import torch
from torch import Tensor

from lg3d_core.errors import ShapeError
from lg3d_core.objectives.directions import feature_lengths
from lg3d_core.objectives.validation import at_least_float32, full_precision, require_floating_point


class ContrastDraw(NamedTuple):
    """Rows of the voxels that are compared.

    Attributes:
        sources: Rows of the source voxels, shape `(sources,)`, int64.
        positives: Rows of other voxels of the source's class, shape `(sources, positives)`, int64.
        negatives: Rows of voxels of other classes, shape `(sources, negatives)`, int64.
    """

    sources: Tensor
    positives: Tensor
    negatives: Tensor


class _Sorted(NamedTuple):
    """Labelled voxels of a scene sorted by class, and the candidates for sources.

    Attributes:
        rows: Rows of the labelled voxels, sorted by class, int64.
        places: Entries of `rows` with another voxel of their class and one of another class, int64.
        category: Class of each of `places`.
        counts: Number of labelled voxels of each class.
    """

    rows: Tensor
    places: Tensor
    category: Tensor
    counts: Tensor


def _sort_by_category(labels: Tensor) -> _Sorted:
    rows = (labels >= 0).nonzero().squeeze(1)
    categories, order = labels[rows].long().sort(stable=True)
    counts = torch.bincount(categories)
    size = counts[categories]
    places = ((size >= 2) & (size < len(rows))).nonzero().squeeze(1)
    return _Sorted(rows[order], places, categories[places], counts)


def count_sources(labels: Tensor, *, num_sources: int) -> int:
    """Return the number of sources that `draw_contrasts` finds for these labels, at most `num_sources`."""
    return min(num_sources, len(_sort_by_category(labels).places))


def draw_contrasts(
    labels: Tensor,
    *,
    num_sources: int,
    num_positives: int,
    num_negatives: int,
    generator: torch.Generator | None = None,
) -> ContrastDraw:
    """Draw source voxels of one scene, and for each a few voxels of its own class and of other classes.

    Sources are drawn without replacement from the labelled voxels that have at least one positive and one negative.
    Positives and negatives are drawn uniformly with replacement, so a class of two voxels needs no special case.

    Args:
        labels: Class of each voxel of the scene, shape `(voxels,)`, integer; -1 is ignored.
        num_sources: Maximum number of sources, at least 1.
        num_positives: Number of positives per source, at least 1.
        num_negatives: Number of negatives per source, at least 1.
        generator: Random generator, on the device of `labels`.

    Raises:
        ShapeError: A number is below 1.
    """
    if min(num_sources, num_positives, num_negatives) < 1:
        raise ShapeError(
            f"expected 1 or more sources, positives and negatives, got {num_sources}, {num_positives}, {num_negatives}"
        )
    rows, places, category, counts = _sort_by_category(labels)
    chosen = torch.randperm(len(places), generator=generator, device=labels.device)[:num_sources]
    places, category = places[chosen, None], category[chosen]
    size, start = counts[category][:, None], (counts.cumsum(0) - counts)[category][:, None]
    positives = start + _draw_below(size - 1, num_positives, generator)
    positives = positives + (positives >= places).long()
    negatives = _draw_below(len(rows) - size, num_negatives, generator)
    negatives = negatives + (negatives >= start).long() * size
    return ContrastDraw(rows[places[:, 0]], rows[positives], rows[negatives])


def _draw_below(bounds: Tensor, number: int, generator: torch.Generator | None) -> Tensor:
    """Draw integers in `[0, bound)` for each of `bounds` `(n, 1)`, shape `(n, number)`, int64."""
    shares = torch.rand(len(bounds), number, generator=generator, device=bounds.device, dtype=torch.float64)
    return (shares * bounds).long().minimum(bounds - 1)


def supervised_contrastive_loss(features: Tensor, draw: ContrastDraw, *, temperature: float) -> Tensor:
    """Return the mean over sources i and their positives p of -log of p's share among all voxels compared with i.

        loss = mean_i mean_{p in P(i)} -log( exp(s_ip / tau) / sum_{a in P(i) + N(i)} exp(s_ia / tau) )

    where s_ia is the cosine of the features of i and a, P(i) are the drawn positives and N(i) the drawn negatives. The
    loss is computed in float32 also under autocast; float64 features stay float64.

    Args:
        features: Voxel features, shape `(voxels, D)`, floating point.
        draw: Rows of `features` to compare.
        temperature: tau, above 0.

    Returns:
        A scalar; 0 with a graph if there are no sources.

    Raises:
        ShapeError: `features` is not a floating-point `(voxels, D)` tensor, or the temperature is not positive.

    This differs from the reference implementation, whose loss named SupCon is a margin loss with detached partners,
    max(0, mean_p d(f_i, f_p) - t_pos) + lambda max(0, t_neg - mean_n d(f_i, f_n)), for every labelled voxel of a batch.

    Source: section 5 of the paper (SupCon), after P. Khosla et al., "Supervised Contrastive Learning", with the average
        over positives outside the logarithm.
    """
    if features.ndim != 2:
        raise ShapeError(f"expected features (voxels, D), got shape {tuple(features.shape)}")
    require_floating_point(features)
    if temperature <= 0:
        raise ShapeError(f"the temperature must be above 0, got {temperature}")
    with full_precision(features):
        features = at_least_float32(features)
        if len(draw.sources) == 0:
            return features[draw.sources].sum()
        others = torch.cat([draw.positives, draw.negatives], dim=1)
        # index_select: its backward pass accumulates in a fixed order on the CPU.
        compared = features.index_select(0, others.flatten()).view(*others.shape, -1)
        products = torch.einsum("sd,scd->sc", features.index_select(0, draw.sources), compared)
        lengths = feature_lengths(features)
        scale = lengths.index_select(0, draw.sources) * lengths.index_select(0, others.flatten()).view_as(products)
        logits = products / scale / temperature
        positives = logits[:, : draw.positives.shape[1]].mean(dim=1)
        loss: Tensor = (logits.logsumexp(dim=1) - positives).mean()
        return loss
