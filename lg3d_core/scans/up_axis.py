"""Estimation of a scan's up axis, with its probability.

The evidence uses common properties of rooms: the floor is the largest bounding plane, objects stand on it, few hang
from the ceiling, a room is one storey high, and a scanned floor is seen from above.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.scans.triangles import doubled_normals

Array = npt.NDArray[np.float64]

UP_AXES: dict[str, tuple[int, int]] = {
    "x": (0, 1),
    "-x": (0, -1),
    "y": (1, 1),
    "-y": (1, -1),
    "z": (2, 1),
    "-z": (2, -1),
}
CELL = 0.1
"""Edge in metres of the cells in which a floor is searched."""
MAX_CELLS = 500
"""Maximum number of cells along the longest side."""
STOREY = (1.8, 4.0)
"""Range of the height of a storey in metres."""
WALL = 0.3
"""Distance from the sides in metres that counts as walls."""
CONTACT = (0.2, 0.5)
"""Height range in metres above the floor of legs and bases of furniture."""
STANDING = (0.2, 1.2)
"""Height range in metres above the floor of furniture."""
VISIBLE_FLOOR = 0.8
"""Minimum visible share of the floor relative to the largest plane; furniture hides the rest."""
MIN_STANDING = 50
"""Cells per metre of height below which evidence from furniture is weaker."""
LEVEL = 0.9
"""Minimum cosine to the axis of a level triangle."""
FEWEST_POINTS = 100
FULL_SIZE = 3.5
"""Size in metres; evidence from a smaller scan, which may be a corner of a room, counts less."""
WEIGHTS = {"floor": 6.0, "contact": 3.0, "furniture": 3.0, "normals": 5.0, "low": 1.0, "height": 1.0}
"""Log-odds of one unit of each kind of evidence: a rounded logistic fit to 26 synthetic rooms and 20 partial, noisy
and tilted versions of each (docs/design/0027-up-axis.md)."""
REASONS = {
    "floor": "the largest bounding plane is below",
    "contact": "objects touch it",
    "furniture": "objects stand above it",
    "normals": "its level triangles are seen from above",
    "low": "most of it is low",
    "height": "it is a storey high",
}
SURE = 0.99
"""Probability from which the axis counts as certain."""
Z_UP = {"z": 0.0, "y": -1.0, "x": -2.5, "-x": -2.5, "-y": -2.5, "-z": -2.5}
"""Prior log-odds for formats that do not define the axis; most files have +z up."""
Z_UP_BY_FORMAT = dict.fromkeys(UP_AXES, -4.0) | {"z": 0.0}
Y_UP_BY_FORMAT = dict.fromkeys(UP_AXES, -4.0) | {"y": 0.0, "z": -2.5}
Y_OR_Z_UP = dict.fromkeys(UP_AXES, -2.5) | {"y": 0.0, "z": -0.2}
EXPECTED: dict[str, Mapping[str, float]] = {
    ".obj": Y_OR_Z_UP,
    ".glb": Y_UP_BY_FORMAT,
    ".gltf": Y_UP_BY_FORMAT,
    ".las": Z_UP_BY_FORMAT,
    ".laz": Z_UP_BY_FORMAT,
    ".e57": Z_UP_BY_FORMAT,
}
"""Prior log-odds by suffix; `Z_UP` for the others."""


class UpGuess(NamedTuple):
    """Estimated up axis.

    Attributes:
        axis: Most probable axis, a key of `UP_AXES`.
        probability: Probability of `axis`, 0..1.
        rival: Second most probable axis.
        rival_probability: Probability of `rival`, 0..1.
        reasons: Phrases that describe the evidence for the axis; may be empty.
    """

    axis: str
    probability: float
    rival: str
    rival_probability: float
    reasons: tuple[str, ...]

    @property
    def is_sure(self) -> bool:
        """Return whether the axis needs no warning."""
        return self.probability >= SURE and bool(self.reasons)


def guess_up(xyz: Array, corners: Array | None = None, *, expected: Mapping[str, float] = Z_UP) -> UpGuess:
    """Estimate the up axis of a scan.

    Args:
        xyz: Positions in metres, shape `(points, 3)`.
        corners: Corners of its triangles in metres, counter-clockwise seen from inside the room, shape
            `(triangles, 3, 3)`; None for points.
        expected: Prior log-odds of each axis.
    """
    evidence = {up: dict.fromkeys(WEIGHTS, 0.0) for up in UP_AXES}
    share = 0.0
    if len(xyz) >= FEWEST_POINTS:
        evidence = gather_evidence(xyz, corners)
        share = min(1.0, float(np.ptp(xyz, axis=0).max()) / FULL_SIZE)
    weighted = {up: {kind: share * WEIGHTS[kind] * found[kind] for kind in WEIGHTS} for up, found in evidence.items()}
    scores = np.array([expected[up] + sum(weighted[up].values()) for up in UP_AXES])
    odds = np.exp(scores - scores.max())
    order = sorted(UP_AXES, key=lambda up: -scores[list(UP_AXES).index(up)])
    probability = dict(zip(UP_AXES, (odds / odds.sum()).tolist(), strict=True))
    best, rival = order[0], order[1]
    mean = {kind: sum(weighted[up][kind] for up in UP_AXES) / len(UP_AXES) for kind in WEIGHTS}
    reasons = tuple(text for kind, text in REASONS.items() if weighted[best][kind] > mean[kind] + 0.5)
    return UpGuess(best, probability[best], rival, probability[rival], reasons)


def gather_evidence(xyz: Array, corners: Array | None) -> dict[str, dict[str, float]]:
    """Measure the evidence that each axis points up.

    Returns:
        For each axis: `floor`, cells of the level at which most columns begin, relative to `VISIBLE_FLOOR` of those of
        the axis with most, 0..1;
        `contact` and `furniture`, cells off the walls `CONTACT` and `STANDING` above that level less those as far below
        the top, as a share of both, -1..1;
        `normals`, area of level triangles that face up less that of those that face down, as a share of all, -1..1;
        `low`, half less the mean height of the cells off the walls, relative to the scan's, -0.5..0.5; `height`, 0 for
        a storey, less for others, -1 at least.
    """
    extent = np.ptp(xyz, axis=0)
    cell = max(CELL, float(extent.max()) / MAX_CELLS)
    index = ((xyz - xyz.min(axis=0)) / cell).astype(np.int64)
    keys = np.unique((index[:, 0] * 1024 + index[:, 1]) * 1024 + index[:, 2])
    cells = np.stack([keys >> 20, keys >> 10 & 1023, keys & 1023], axis=1)
    found, floors = {}, {}
    for up, (axis, sign) in UP_AXES.items():
        turned = cells[:, [(axis + 1) % 3, (axis + 2) % 3, axis]]
        if sign < 0:
            turned = turned * [1, 1, -1] + [0, 0, int(turned[:, 2].max())]
        floors[up], found[up] = _stand(turned, cell)
    facing = _facing(corners)
    for up, (axis, sign) in UP_AXES.items():
        found[up] |= {
            "floor": min(1.0, floors[up] / (VISIBLE_FLOOR * max(floors.values()))),
            "normals": sign * float(facing[axis]),
        }
    return found


def _stand(cells: npt.NDArray[np.int64], cell: float) -> tuple[int, dict[str, float]]:
    """Return the cells of the floor, and the evidence from objects near it, for +z up."""
    across, deep, level = cells.T
    column = across * (int(deep.max()) + 1) + deep
    lowest = np.full(int(column.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(lowest, column, level)
    begins = np.bincount(lowest[lowest < np.iinfo(np.int64).max], minlength=int(level.max()) + 2)
    floor, top = int((begins[:-1] + begins[1:]).argmax()), int(level.max())
    size = len(np.unique(column[(level == floor) | (level == floor + 1)]))
    wall = max(1, round(WALL / cell))
    inside = (across >= wall) & (across <= across.max() - wall) & (deep >= wall) & (deep <= deep.max() - wall)
    above, below = level[inside] - floor, top - level[inside]
    off_floor = above[above >= max(2, round(CONTACT[0] / cell))]
    height = math.log(max(top + 1, 1) * cell)
    misfit = max(0.0, math.log(STOREY[0]) - height, height - math.log(STOREY[1]))
    return size, {
        "contact": _excess(above, below, CONTACT, cell),
        "furniture": _excess(above, below, STANDING, cell),
        "low": 0.5 - float(off_floor.mean()) / max(top - floor, 1) if len(off_floor) else 0.0,
        "height": -min(misfit, 1.0),
    }


def _excess(
    above: npt.NDArray[np.int64], below: npt.NDArray[np.int64], heights: tuple[float, float], cell: float
) -> float:
    """Return the difference of the cells above the floor and below the top, as a share of both."""
    near, far = max(2, round(heights[0] / cell)), max(3, round(heights[1] / cell))
    standing = int(((above >= near) & (above <= far)).sum())
    hanging = int(((below >= near) & (below <= far)).sum())
    return (standing - hanging) / max(standing + hanging, MIN_STANDING * (heights[1] - heights[0]))


def _facing(corners: Array | None) -> Array:
    """Return, for each axis, the signed area of level triangles that face along it, as a share of all."""
    if corners is None or not len(corners):
        return np.zeros(3)
    normals = doubled_normals(corners)
    area = np.linalg.norm(normals, axis=1)
    total = float(area.sum())
    if not (math.isfinite(total) and total > 0):
        return np.zeros(3)
    return np.asarray(np.where(np.abs(normals) > LEVEL * area[:, None], normals, 0).sum(axis=0) / total)
