"""The scene contexts loss: match one place in two views of a scene, contrasted with the places around it."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lg3d_core.errors import ShapeError
from lg3d_core.objectives.directions import feature_directions
from lg3d_core.objectives.validation import full_precision, require_floating_point
from lg3d_core.settings import Partition

NUM_PARTITIONS: dict[Partition, int] = {"directions": 8, "fast": 4}
ROWS_AT_ONCE = 1024
"""Number of places whose similarities with all places are in memory at once."""
NO_PARTITION = -1


def partition_places(
    sources: Tensor, places: Tensor, *, inner: float, outer: float, partition: Partition = "directions"
) -> Tensor:
    """Return, for each source, the spatial partition that every place is in.

    With r = place - source, `directions` follows the publication: partitions 0 to 3 are near, `inner <= |r| < outer`,
    and 4 to 7 far, `|r| >= outer`. Each range has four directions: +2 if r_y < 0, and +1 if r_z < 0 (below the source).
    The publication's two angles, about z and about x, in two bins each give the same four directions.

    `fast` follows the published scripts (`fast_partition=True`): 1 is near, `inner < |r| <= outer`, and 3 far,
    `|r| > outer`, both only where r_z > inner. Partitions 0 and 2 were meant for places below, but the scripts test the
    same condition for them, so they stay empty.

    Args:
        sources: Positions in metres, shape `(sources, 3)`.
        places: Positions in metres, shape `(places, 3)`.
        inner: Radius in metres; closer places are in no partition.
        outer: Radius in metres that separates near and far.
        partition: Partition scheme, a key of `NUM_PARTITIONS`.

    Returns:
        Partition index, or -1 for none, shape `(sources, places)`, int8.
    """
    x, y, z = (places[None, :, axis] - sources[:, None, axis] for axis in range(3))
    squared = x * x + y * y + z * z
    if partition == "fast":
        part = 1 + 2 * (squared > outer * outer).to(torch.int8)
        return part.masked_fill_(z <= inner, NO_PARTITION)
    part = 4 * (squared >= outer * outer).to(torch.int8) + 2 * (y < 0).to(torch.int8) + (z < 0).to(torch.int8)
    return part.masked_fill_(squared < inner * inner, NO_PARTITION)


def scene_contexts_loss(
    first: Tensor,
    second: Tensor,
    places: Tensor,
    *,
    temperature: float,
    inner: float,
    outer: float,
    partition: Partition = "directions",
) -> Tensor:
    """Return the mean InfoNCE loss over places i and the spatial partitions p around them.

        loss = mean_i 1/P sum_p -log( exp(s_ii / tau) / (exp(s_ii / tau) + sum_{k in p(i)} exp(s_ik / tau)) )

    where s_ik is the cosine of place i's feature in the first view and place k's in the second, and P is the number of
    partitions. A partition without other places contributes 0. The loss is computed in float32 also under autocast;
    float64 features stay float64.

    Args:
        first: Features of the places in the first view, shape `(places, D)`, floating point.
        second: Features of the same places in the second view, shape `(places, D)`.
        places: Positions in the original scene in metres, shape `(places, 3)`.
        temperature: tau, at least 0.05; below, exp would overflow float32.
        inner: Radius in metres within which other places are ignored.
        outer: Radius in metres that separates near and far.
        partition: Partition scheme, as in `partition_places`.

    Returns:
        A scalar; 0 with a graph if there are no places.

    Raises:
        ShapeError: Shapes do not match, features are not floating point, or the temperature is below 0.05.

    Source: J. Hou et al., "Exploring Data-Efficient 3D Scene Understanding with Contrastive Scene Contexts".
    """
    if first.shape != second.shape or first.ndim != 2 or places.shape != (len(first), 3):
        raise ShapeError(
            f"expected features (places, D) of two views and places (places, 3), got {tuple(first.shape)}, "
            f"{tuple(second.shape)} and {tuple(places.shape)}"
        )
    require_floating_point(first)
    require_floating_point(second)
    if temperature < 0.05:
        raise ShapeError(f"the temperature must be at least 0.05, got {temperature}")
    with full_precision(first):
        kind = torch.float64 if torch.float64 in (first.dtype, second.dtype) else torch.float32
        if len(first) == 0:
            return first.to(kind).sum() + second.to(kind).sum()
        num_partitions = NUM_PARTITIONS[partition]
        one, two = feature_directions(first.to(kind)), feature_directions(second.to(kind))

        def sum_rows(one: Tensor, two: Tensor, part: Tensor, start: int) -> Tensor:
            similar = one[start : start + len(part)] @ two.T / temperature
            own = similar.diagonal(start).unsqueeze(1)
            # Sum of each partition relative to the match. The first column, for no partition, is dropped.
            sums = similar.new_zeros(len(part), num_partitions + 1)
            sums = sums.scatter_add(1, part.long() - NO_PARTITION, (similar - own).exp())
            return torch.log1p(sums[:, 1:]).sum()

        # Slices are recomputed in the backward pass, so that the array of all pairs is never stored.
        total = one.new_zeros(())
        for start in range(0, len(one), ROWS_AT_ONCE):
            rows = places[start : start + ROWS_AT_ONCE]
            part = partition_places(rows, places, inner=inner, outer=outer, partition=partition)
            part.diagonal(start).fill_(NO_PARTITION)
            total = total + checkpoint(sum_rows, one, two, part, start, use_reentrant=False, preserve_rng_state=False)
        return total / (len(one) * num_partitions)
