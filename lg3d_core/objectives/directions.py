"""Lengths and directions of features."""

import torch
from torch import Tensor

SHORTEST_FEATURE = 1e-12
"""Shorter features have no direction: their cosine with everything is 0, without a gradient."""


def feature_lengths(features: Tensor) -> Tensor:
    """Return the Euclidean length of each feature, shape `(voxels, 1)`; infinity for features without a direction."""
    lengths: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return lengths.masked_fill(lengths < SHORTEST_FEATURE, torch.inf)


def feature_directions(features: Tensor) -> Tensor:
    """Return features scaled to length 1; zeros for features without a direction.

    `torch.nn.functional.normalize` returns the same values, but multiplies the gradient of a zero feature by 10^12.
    """
    return features / feature_lengths(features)
