"""Randomisation of training scenes: the spacing, gaps, borders and colours of other scanners.

A network that is trained on one kind of scan depends on its regularities. Each step changes one of them at random.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lg3d_core.sampling.voxels import voxelize

FloatArray = npt.NDArray[np.float32]

LEAST_SHARE = 0.2
"""Share of the points that a step must leave; otherwise it is skipped."""
GREY = 128
"""Colour of the points of a scan without colours."""
WAVE = 0.3
"""Distance in metres between the random values along a ragged border."""


@dataclass(frozen=True, kw_only=True)
class ScanRandomisation:
    """Random differences between scans. Ranges are sampled uniformly, the spacing log-uniformly."""

    spacing_probability: float = 0.5
    """Probability of thinning to one point per cube of random size."""
    spacing: tuple[float, float] = (0.02, 0.06)
    """Range of the edge of this cube in metres."""
    ceiling_probability: float = 0.5
    """Probability of removing everything above a height, like scans without a ceiling."""
    ceiling: tuple[float, float] = (1.7, 2.6)
    """Range of this height above the floor in metres."""
    hole_probability: float = 0.5
    """Probability of removing balls around random points."""
    holes: tuple[int, int] = (1, 12)
    """Range of the number of balls."""
    hole_radius: tuple[float, float] = (0.05, 0.4)
    """Range of their radius in metres."""
    border_probability: float = 0.3
    """Probability of removing one side of the scene along a ragged vertical border."""
    border: tuple[float, float] = (0.5, 0.95)
    """Range of the share of the points that is kept."""
    raggedness: float = 0.15
    """Standard deviation of the border in metres."""
    colorless_probability: float = 0.15
    """Probability of replacing all colours by grey, like scans without colours."""
    greyscale_probability: float = 0.1
    """Probability of replacing each colour by its mean over the channels."""
    exposure_probability: float = 0.8
    """Probability of changing gamma, contrast and colour cast."""
    gamma: tuple[float, float] = (0.6, 1.7)
    """Range of the exponent on colours in 0..1."""
    contrast: tuple[float, float] = (0.5, 1.2)
    """Range of the factor on the distance to the mean colour."""
    cast: float = 0.2
    """Largest relative change of each channel."""

    def keep(self, xyz: FloatArray, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Return the ascending rows of the points that are kept.

        Args:
            xyz: Positions in metres, +z up, shape `(points, 3)`.
            rng: Random generator.
        """
        kept = np.arange(len(xyz), dtype=np.int64)
        if len(xyz) == 0:
            return kept
        if rng.random() < self.ceiling_probability:
            kept = _select(kept, below_height(xyz, rng.uniform(*self.ceiling)))
        if rng.random() < self.border_probability:
            mask = inside_border(xyz[kept], rng, share=rng.uniform(*self.border), raggedness=self.raggedness)
            kept = _select(kept, mask)
        if rng.random() < self.spacing_probability:
            low, high = self.spacing
            edge = math.exp(rng.uniform(math.log(low), math.log(high)))
            kept = kept[np.sort(voxelize(xyz[kept], edge, rng=rng).point)]
        if rng.random() < self.hole_probability:
            for _ in range(rng.integers(*self.holes, endpoint=True)):
                middle = xyz[kept[rng.integers(len(kept))]]
                radius = rng.uniform(*self.hole_radius)
                kept = _select(kept, ((xyz[kept] - middle) ** 2).sum(axis=1) > radius**2)
        return kept

    def recolor(self, colors: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Change the exposure of all colours, or remove them.

        Args:
            colors: In 0..255, shape `(voxels, 3)`.
            rng: Random generator.
        """
        if rng.random() < self.colorless_probability:
            return np.full_like(colors, GREY)
        if rng.random() < self.greyscale_probability:
            colors = np.repeat(colors.mean(axis=1, keepdims=True), 3, axis=1)
        if rng.random() < self.exposure_probability:
            colors = expose(
                colors,
                gamma=rng.uniform(*self.gamma),
                contrast=rng.uniform(*self.contrast),
                gains=1 + rng.uniform(-self.cast, self.cast, size=3),
            )
        return colors


def below_height(xyz: FloatArray, height: float) -> npt.NDArray[np.bool_]:
    """Return which points are at most `height` metres above the floor, the first percentile of z."""
    below: npt.NDArray[np.bool_] = xyz[:, 2] <= np.percentile(xyz[:, 2], 1) + height
    return below


def inside_border(
    xyz: FloatArray, rng: np.random.Generator, *, share: float, raggedness: float
) -> npt.NDArray[np.bool_]:
    """Return which points are on one side of a vertical border in a random direction.

    Args:
        xyz: Positions in metres, shape `(points, 3)`.
        rng: Random generator of the direction and of the border.
        share: Share of the points inside a straight border.
        raggedness: Standard deviation of the border in metres.
    """
    angle = rng.uniform(0, 2 * math.pi)
    across = xyz[:, 0] * math.cos(angle) + xyz[:, 1] * math.sin(angle)
    along = xyz[:, 1] * math.cos(angle) - xyz[:, 0] * math.sin(angle)
    places = np.arange(along.min(), along.max() + 2 * WAVE, WAVE)
    border = np.quantile(across, share) + raggedness * rng.standard_normal(len(places))
    inside: npt.NDArray[np.bool_] = across <= np.interp(along, places, border)
    return inside


def expose(colors: FloatArray, *, gamma: float, contrast: float, gains: npt.NDArray[np.float64]) -> FloatArray:
    """Apply gamma, then contrast about the mean colour, then one gain per channel, and clip to 0..255."""
    if len(colors) == 0:
        return colors
    bent = np.clip(colors / np.float32(255), 0, 1) ** np.float32(gamma) * 255
    mean = bent.mean(axis=0)
    exposed: FloatArray = np.clip((mean + contrast * (bent - mean)) * gains, 0, 255).astype(np.float32)
    return exposed


def _select(kept: npt.NDArray[np.int64], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return the rows of the mask, or all rows if it leaves too few."""
    return kept[mask] if mask.mean() >= LEAST_SHARE else kept
