"""The supervised contrastive loss: a voxel's feature towards others of its category in its scene, off the rest."""

from typing import NamedTuple

import torch
from torch import Tensor

from lg3d_core.errors import ShapeError
from lg3d_core.objectives.validation import full_precision, require_labels

SHORTEST_FEATURE = 1e-12
"""A feature shorter than this has no direction: its cosine with everything is 0."""


class ContrastDraw(NamedTuple):
    """Which voxels are compared.

    Attributes:
        sources: Rows whose features are placed, shape `(sources,)`, int64.
        positives: Rows of the same category, another voxel than the source, shape `(sources, positives)`, int64.
        negatives: Rows of other categories, shape `(sources, negatives)`, int64.
    """

    sources: Tensor
    positives: Tensor
    negatives: Tensor


class _Sorted(NamedTuple):
    """The labelled voxels of a scene by category, and which of them can be sources.

    Attributes:
        rows: Labelled voxels, category after category, int64.
        places: Places in `rows` with another voxel of their category and one of another category, int64.
        category: Of each of `places`.
        counts: Labelled voxels of each category.
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
    """How many sources `draw_contrasts` finds in a scene with these labels, at most `num_sources`."""
    return min(num_sources, len(_sort_by_category(labels).places))


def draw_contrasts(
    labels: Tensor,
    *,
    num_sources: int,
    num_positives: int,
    num_negatives: int,
    generator: torch.Generator | None = None,
) -> ContrastDraw:
    """Draw source voxels of one scene, and for each a few of its own and of other categories.

    Sources are drawn without replacement among the labelled voxels that have a partner of either kind; their positives
    and negatives uniformly and with replacement, so that a category of two voxels is no special case.

    Args:
        labels: Category of each voxel of the scene, shape `(voxels,)`, integer; -1 is left out.
        num_sources: At most so many sources.
        num_positives: Per source.
        num_negatives: Per source.
        generator: Source of randomness, on the device of `labels`.

    Raises:
        ShapeError: No sources, positives or negatives asked for.
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
    """Whole numbers from 0 to below each of `bounds` `(n, 1)`, shape `(n, number)`, int64."""
    shares = torch.rand(len(bounds), number, generator=generator, device=bounds.device, dtype=torch.float64)
    return (shares * bounds).long().minimum(bounds - 1)


def supervised_contrastive_loss(features: Tensor, draw: ContrastDraw, *, temperature: float) -> Tensor:
    """Mean over sources i and their positives p of -log of p's share among all voxels that i is compared with.

        loss = mean_i mean_{p in P(i)} -log( exp(s_ip / tau) / sum_{a in P(i) + N(i)} exp(s_ia / tau) )

    with s_ia the cosine of the features of i and a, and positives P(i) and negatives N(i) as they were drawn.
    Computed in float32 also under autocast; float64 features stay float64.

    Args:
        features: Shape `(voxels, D)`, floating point.
        draw: Rows of `features`.
        temperature: tau, above 0.

    Returns:
        A scalar; 0 with a graph where there are no sources.

    Raises:
        ShapeError: Features that are not `(voxels, D)` of floating point, or a temperature that is not positive.

    Not the reference implementation's loss, which is a margin loss under the name SupCon: with detached partners,
    max(0, mean_p d(f_i, f_p) - t_pos) + lambda max(0, t_neg - mean_n d(f_i, f_n)), for every labelled voxel of a batch.

    Source: the paper's section 5 (SupCon), after P. Khosla et al., "Supervised Contrastive Learning", with the average
        over positives outside the logarithm.
    """
    if features.ndim != 2:
        raise ShapeError(f"expected features (voxels, D), got shape {tuple(features.shape)}")
    require_labels(features, features.new_zeros(len(features), dtype=torch.int64), num_classes=1)
    if temperature <= 0:
        raise ShapeError(f"the temperature must be above 0, got {temperature}")
    with full_precision(features):
        features = features if features.dtype == torch.float64 else features.float()
        if len(draw.sources) == 0:
            return features[draw.sources].sum()
        others = torch.cat([draw.positives, draw.negatives], dim=1)
        lengths = torch.linalg.vector_norm(features, dim=1)
        lengths = lengths.masked_fill(lengths < SHORTEST_FEATURE, torch.inf)
        # Rows by index_select: its backward pass adds in a fixed order on the CPU.
        compared = features.index_select(0, others.flatten()).view(*others.shape, -1)
        products = torch.einsum("sd,scd->sc", features.index_select(0, draw.sources), compared)
        scale = lengths.index_select(0, draw.sources)[:, None] * lengths.index_select(0, others.flatten()).view_as(
            products
        )
        logits = products / scale / temperature
        positives = logits[:, : draw.positives.shape[1]].mean(dim=1)
        loss: Tensor = (logits.logsumexp(dim=1) - positives).mean()
        return loss
