"""Upright oriented boxes around points."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull, QhullError

from lg3d_core.errors import ShapeError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int32]

STRAY_SHARE = 0.01
"""Share of the points at each end of a direction that may be stray."""
STRAY_MARGIN = 0.25
"""Distance beyond the other points, relative to their extent, from which a point is stray."""
STRAY_DIRECTIONS = 8
"""Number of horizontal directions in which stray points are searched."""


class Box(NamedTuple):
    """Box with vertical sides.

    Attributes:
        centre: Centre in metres, shape `(3,)`.
        size: Length, width and height in metres, shape `(3,)`; the length is at least the width.
        yaw: Angle from +x to the length in radians, counter-clockwise seen from above, -pi/2 <= yaw < pi/2.
    """

    centre: FloatArray
    size: FloatArray
    yaw: float

    @property
    def corners(self) -> FloatArray:
        """Corners in metres, shape `(8, 3)`: the bottom counter-clockwise seen from above, then the top."""
        ahead = np.array([math.cos(self.yaw), math.sin(self.yaw), 0.0])
        aside = np.array([-ahead[1], ahead[0], 0.0])
        length, width, height = self.size / 2
        around = [-length * ahead - width * aside, length * ahead - width * aside]
        around += [length * ahead + width * aside, -length * ahead + width * aside]
        return np.array([self.centre + step + np.array([0, 0, z]) for z in (-height, height) for step in around])


def fit_box(points: npt.NDArray[np.floating]) -> Box:
    """Return the smallest upright box around points: the rectangle of least area around their xy, and their z range.

    Args:
        points: Positions in metres with +z up, shape `(points, 3)`, at least one, finite.

    Raises:
        ShapeError: There are no points, or they are not finite.
    """
    if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0 or not np.isfinite(points).all():
        raise ShapeError(f"expected finite points of shape (points, 3), got {points.shape}")
    places = points.astype(np.float64)
    low, high = places[:, 2].min(), places[:, 2].max()
    middle, length, width, yaw = _smallest_rectangle(find_outline(places[:, :2]))
    return Box(centre=np.array([*middle, (low + high) / 2]), size=np.array([length, width, high - low]), yaw=_wrap(yaw))


def find_outline(xy: FloatArray) -> FloatArray:
    """Return the corners of the convex hull of points `(points, 2)`, counter-clockwise; its ends if it is a line."""
    origin = xy[0]
    steps = xy - origin
    reach = float(np.abs(steps).max())
    if len(xy) > 2 and reach > 0:
        try:
            hull: IntArray = ConvexHull(steps / reach).vertices
            return xy[hull]
        except QhullError:
            pass
    along = steps[np.argmax((steps**2).sum(axis=1))]
    order = steps @ along
    return xy[[int(np.argmin(order)), int(np.argmax(order))]]


def find_strays(points: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """Return which points are far outside of the others, shape `(points,)`.

    In each of several directions, the extent of the points is measured without the share `STRAY_SHARE` at each end. A
    point further out than `STRAY_MARGIN` times this extent is stray.

    Args:
        points: Positions in metres with +z up, shape `(points, 3)`.
    """
    stray = np.zeros(len(points), dtype=np.bool_)
    if len(points) < 1 / STRAY_SHARE:
        return stray
    angles = np.arange(STRAY_DIRECTIONS) * np.pi / STRAY_DIRECTIONS
    directions = [*zip(np.cos(angles), np.sin(angles), np.zeros(STRAY_DIRECTIONS), strict=True), (0.0, 0.0, 1.0)]
    places = points.astype(np.float64)
    for direction in directions:
        along = places @ np.array(direction)
        low, high = np.quantile(along, [STRAY_SHARE, 1 - STRAY_SHARE])
        margin = STRAY_MARGIN * (high - low)
        stray |= (along < low - margin) | (along > high + margin)
    return stray


def _smallest_rectangle(outline: FloatArray) -> tuple[FloatArray, float, float, float]:
    """Return centre, length, width and angle of the smallest rectangle; one of its sides lies on a side of the hull."""
    edges = np.roll(outline, -1, axis=0) - outline
    angles = np.unique(np.arctan2(edges[:, 1], edges[:, 0]) % (np.pi / 2)) if edges.any() else np.zeros(1)
    ahead = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    aside = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1)
    x, y = ahead @ outline.T, aside @ outline.T
    lengths, widths = np.ptp(x, axis=1), np.ptp(y, axis=1)
    # Among rectangles of equal area, such as those around a line, the one of least circumference.
    best = int(np.lexsort((lengths + widths, np.round(lengths * widths, 12)))[0])
    middle = (x[best].min() + x[best].max()) / 2 * ahead[best] + (y[best].min() + y[best].max()) / 2 * aside[best]
    length, width, yaw = float(lengths[best]), float(widths[best]), float(angles[best])
    return (middle, length, width, yaw) if length >= width else (middle, width, length, yaw + np.pi / 2)


def _wrap(yaw: float) -> float:
    return float((yaw + np.pi / 2) % np.pi - np.pi / 2)
