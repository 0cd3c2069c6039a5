"""How well a text fits each voxel, against the vocabulary as its background.

A feature f, the text's vector q and the anchors t_1..t_n, all of unit length, and the anchors' spread s give

    b(f) = s log mean_k e^(f.t_k / s)
    heat = 1 / (1 + e^((max(b(f), b0) - f.q) / s))

which is the softmax between the text and the vocabulary's average name. 0.5 says that the text fits the place as well
as the names do on (soft) average, so a text that fits nothing here stays cold everywhere, which a ranking of the places
could not say. b0 is the mean of b at the anchors themselves: a place of which the network does not know what it is, far
from all names, is no easier won. The spread s, the standard deviation of the anchors' cosines (0.11 for the bundled
ones), lets encoders whose cosines lie close together tell texts apart as finely as others.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lg3d_core.evaluation.grouping import connect_cells

REGION_CELL = 0.05
"""Metres; edge of the cells in which places hang together, at least."""
MIN_CELLS = 4
"""Smaller regions are specks."""


class Region(NamedTuple):
    """A connected place where a text fits.

    Attributes:
        low: Lowest corner in metres, +z up, shape `(3,)`.
        high: Highest corner.
        centre: Middle of its voxels, weighted by their heat.
        heat: Mean of the hotter half of its voxels, 0..1.
        voxels: How many.
        rows: Which.
    """

    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    centre: npt.NDArray[np.float64]
    heat: float
    voxels: int
    rows: npt.NDArray[np.int64]


def spread_of(anchors: Tensor) -> float:
    """Standard deviation of the cosines between different anchors: the scale of the softmax."""
    unit = torch.nn.functional.normalize(anchors.double(), dim=1)
    cosines = unit @ unit.T
    others = cosines[~torch.eye(len(unit), dtype=torch.bool)]
    spread = float(others.std(correction=0)) if len(others) else 0.0
    return max(spread, 0.01)


def background_of(features: Tensor, anchors: Tensor, *, scale: float) -> Tensor:
    """Soft average b of the cosines of each feature with the anchors, shape `(voxels,)`."""
    normalize = torch.nn.functional.normalize
    cosines = normalize(features.float(), dim=1) @ normalize(anchors.float(), dim=1).T
    return scale * (torch.logsumexp(cosines / scale, dim=1) - math.log(len(anchors)))


def text_heat(features: Tensor, anchors: Tensor, texts: Tensor, *, scale: float) -> Tensor:
    """Heat of texts at features, shape `(voxels, texts)`, 0..1.

    Args:
        features: Shape `(voxels, D)`.
        anchors: Shape `(classes, D)`.
        texts: Shape `(texts, D)`.
        scale: As `spread_of` gives it.
    """
    normalize = torch.nn.functional.normalize
    least = background_of(anchors, anchors, scale=scale).mean()
    background = background_of(features, anchors, scale=scale).clamp_min(float(least))
    cosines = normalize(features.float(), dim=1) @ normalize(texts.float(), dim=1).T
    return torch.sigmoid((cosines - background[:, None]) / scale)


def find_regions(
    cells: npt.NDArray[np.int32], heat: npt.NDArray[np.float32], *, voxel_size: float, threshold: float, count: int
) -> list[Region]:
    """The best connected places above a heat, the hottest first.

    Voxels hang together where their cells of 5 cm (a voxel, where voxels are larger) touch, by a corner at least.

    Args:
        cells: Shape `(voxels, 3)`.
        heat: Shape `(voxels,)`.
        voxel_size: Edge of a cell in metres.
        threshold: Heat from which a voxel counts.
        count: At most so many.
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
