"""Similarity of each voxel to a text, relative to the vocabulary as background.

For a feature f, the text's vector q and the anchors t_1..t_n, all of unit length, and the spread s of the anchors:

    b(f) = s log mean_k e^(f.t_k / s)
    heat = 1 / (1 + e^((max(b(f), b0) - f.q) / s))

This is the softmax between the text and the average name of the vocabulary. A heat of 0.5 means that the text fits as
well as the names do on (soft) average, so a text that fits nothing stays cold everywhere, which a ranking of regions
could not express. b0 is the mean of b at the anchors themselves: a region far from all names does not get a high heat
for that reason alone. The spread s, the standard deviation of the anchors' cosines (0.11 for the bundled ones),
makes the heat comparable between encoders whose cosines have different ranges.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lg3d_core.evaluation.grouping import connect_cells

REGION_CELL = 0.05
"""Minimum edge length in metres of the cells that connect regions."""
MIN_CELLS = 4
"""Minimum number of voxels of a region."""


class Region(NamedTuple):
    """Connected region that matches a text.

    Attributes:
        low: Lowest corner in metres, +z up, shape `(3,)`.
        high: Highest corner in metres, shape `(3,)`.
        centre: Mean of its voxels in metres, weighted by their heat, shape `(3,)`.
        heat: Mean of the hotter half of its voxels, 0..1.
        voxels: Number of voxels.
        rows: Rows of the voxels.
    """

    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    centre: npt.NDArray[np.float64]
    heat: float
    voxels: int
    rows: npt.NDArray[np.int64]


def spread_of(anchors: Tensor) -> float:
    """Return the standard deviation of the cosines between different anchors, the scale of the softmax."""
    unit = torch.nn.functional.normalize(anchors.double(), dim=1)
    cosines = unit @ unit.T
    others = cosines[~torch.eye(len(unit), dtype=torch.bool)]
    spread = float(others.std(correction=0)) if len(others) else 0.0
    return max(spread, 0.01)


def background_of(features: Tensor, anchors: Tensor, *, scale: float) -> Tensor:
    """Return the soft average b of the cosines of each feature with the anchors, shape `(voxels,)`."""
    normalize = torch.nn.functional.normalize
    cosines = normalize(features.float(), dim=1) @ normalize(anchors.float(), dim=1).T
    return scale * (torch.logsumexp(cosines / scale, dim=1) - math.log(len(anchors)))


def name_features(logits: Tensor, anchors: Tensor) -> Tensor:
    """Return the unit mean of the anchors, weighted by the class probabilities, shape `(voxels, D)`.

    A classifier that is fixed to the anchors only compares dot products, so a feature of any direction and length may
    have the right class. The mean of the names is close to the anchor of a class of which the network is sure.

    Args:
        logits: Class scores, shape `(voxels, classes)`.
        anchors: Unit anchors, shape `(classes, D)`.
    """
    return torch.nn.functional.normalize(logits.float().softmax(dim=1) @ anchors.float(), dim=1)


def text_heat(features: Tensor, anchors: Tensor, texts: Tensor, *, scale: float) -> Tensor:
    """Return the heat of texts at features, shape `(voxels, texts)`, 0..1.

    Args:
        features: Unit features, shape `(voxels, D)`.
        anchors: Unit anchors, shape `(classes, D)`.
        texts: Unit text vectors, shape `(texts, D)`.
        scale: Result of `spread_of`.
    """
    normalize = torch.nn.functional.normalize
    least = background_of(anchors, anchors, scale=scale).mean()
    background = background_of(features, anchors, scale=scale).clamp_min(float(least))
    cosines = normalize(features.float(), dim=1) @ normalize(texts.float(), dim=1).T
    return torch.sigmoid((cosines - background[:, None]) / scale)


def find_regions(
    cells: npt.NDArray[np.int32], heat: npt.NDArray[np.float32], *, voxel_size: float, threshold: float, count: int
) -> list[Region]:
    """Return the best connected regions above a heat, hottest first.

    Voxels are connected if their cells of 5 cm (or one voxel, if larger) touch, at least at a corner.

    Args:
        cells: Voxel cells, shape `(voxels, 3)`, int32.
        heat: Heat of each voxel, shape `(voxels,)`, 0..1.
        voxel_size: Edge length of a voxel in metres.
        threshold: Minimum heat of a voxel.
        count: Maximum number of regions.
    """
    rows = np.flatnonzero(heat >= threshold)
    if len(rows) == 0:
        return []
    step = max(1, round(REGION_CELL / voxel_size))
    coarse, cell_of = np.unique(cells[rows].astype(np.int64) // step, axis=0, return_inverse=True)
    piece = connect_cells(coarse)[cell_of.reshape(-1)]
    regions = []
    for number in np.unique(piece):
        own = rows[piece == number]
        if len(own) < min(MIN_CELLS * step * step, max(1, len(cells) // 100)):
            continue
        centres = (cells[own].astype(np.float64) + 0.5) * voxel_size
        weights = heat[own].astype(np.float64)
        hottest = np.sort(weights)[len(weights) // 2 :]
        regions.append(
            Region(
                low=centres.min(axis=0) - voxel_size / 2,
                high=centres.max(axis=0) + voxel_size / 2,
                centre=(centres * weights[:, None]).sum(axis=0) / weights.sum(),
                heat=float(hottest.mean()),
                voxels=len(own),
                rows=own,
            )
        )
    return sorted(regions, key=lambda region: (-region.heat, -region.voxels))[:count]
