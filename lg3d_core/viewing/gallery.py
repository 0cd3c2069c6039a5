"""Gallery of a scene's objects, classes of the rarest group first."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.evaluation.grouping import connect_cells

if TYPE_CHECKING:
    from lg3d_core.viewing.layers import SceneView

CELL = 0.08
"""Cell size in metres: predicted vertices of one class whose cells touch form one region."""
MIN_VERTICES = 20
"""Minimum number of vertices of a predicted region; smaller regions are noise."""
MAX_PARTS = 400
"""Maximum number of parts, the largest of the rarest groups: a poor network predicts thousands of small regions."""


class Part(NamedTuple):
    """Object, or region of a predicted class.

    Attributes:
        number: Number of the part in `Gallery.number`, from 1.
        category: Vocabulary index.
        name: Class name.
        group: Name of its group, or "".
        middle: Centre of the bounding box in metres.
        radius: Half the diagonal of the bounding box in metres.
        vertices: Number of vertices.
        right: Share of correctly predicted vertices, 0..1; None without annotation or prediction.
        predicted: Name of the most frequently predicted class; None without a prediction.
        confidence: Mean confidence of the prediction, 0..1; None without a prediction.
    """

    number: int
    category: int
    name: str
    group: str
    middle: tuple[float, float, float]
    radius: float
    vertices: int
    right: float | None
    predicted: str | None
    confidence: float | None


class Gallery(NamedTuple):
    """All parts of a scene.

    Attributes:
        parts: Parts, sorted by group (the last one first), then name, then size.
        number: Part number of each vertex, 0 for none, int32 `(points,)`.
        annotated: Whether the parts are annotated objects rather than predicted regions.
    """

    parts: tuple[Part, ...]
    number: npt.NDArray[np.int32]
    annotated: bool


def find_gallery(view: "SceneView") -> Gallery:
    """Return the annotated objects of a scene, or without annotation the predicted objects.

    Without predicted objects, the connected regions of each predicted class take their place.
    """
    annotated = bool(((view.instance > 0) & (view.label >= 0)).any())
    if annotated:
        category, number = view.label, np.where(view.label >= 0, view.instance, 0)
    elif view.predicted is not None and view.object_number is not None:
        category, number = view.predicted, np.where(view.predicted >= 0, view.object_number, 0)
    elif view.predicted is not None:
        category = view.predicted
        number = _connect(view.xyz, category)
        number[np.bincount(number)[number] < MIN_VERTICES] = 0
    else:
        return Gallery((), np.zeros(len(view.xyz), dtype=np.int32), annotated=False)
    groups = {entry.category: (entry.name, entry.group) for entry in view.legend}
    order = np.argsort(number, kind="stable")
    starts = np.flatnonzero(np.diff(number[order], prepend=-1))
    parts = []
    for rows in np.split(order, starts[1:]):
        if number[rows[0]] > 0:
            categories, counts = np.unique(category[rows], return_counts=True)
            own = int(categories[np.argmax(counts)])
            parts.append((rows, own, *groups[own]))
    ranks = {group: rank for rank, group in enumerate([*reversed(view.groups), ""])}
    parts.sort(key=lambda part: (ranks[part[3]], -len(part[0])))
    parts = sorted(parts[:MAX_PARTS], key=lambda part: (ranks[part[3]], part[2], -len(part[0])))
    renumbered = np.zeros(len(view.xyz), dtype=np.int32)
    described = []
    for index, (rows, own, name, group) in enumerate(parts, start=1):
        renumbered[rows] = index
        described.append(_describe(view, rows, index, own, name, group, annotated=annotated))
    return Gallery(tuple(described), renumbered, annotated)


def _describe(
    view: "SceneView", rows: npt.NDArray[np.int64], number: int, own: int, name: str, group: str, *, annotated: bool
) -> Part:
    # A few stray vertices must not move the camera away from the object.
    low, high = np.percentile(view.xyz[rows].astype(np.float64), [1, 99], axis=0)
    middle = (low + high) / 2
    right = predicted = confidence = None
    if view.predicted is not None and view.confidence is not None:
        guesses, counts = np.unique(view.predicted[rows], return_counts=True)
        guess = int(guesses[np.argmax(counts)])
        predicted = view.names[guess] if guess >= 0 else "nothing"
        confidence = float(view.confidence[rows].mean())
        if annotated:
            right = float((view.predicted[rows] == own).mean())
    return Part(
        number=number,
        category=own,
        name=name,
        group=group,
        middle=(float(middle[0]), float(middle[1]), float(middle[2])),
        radius=max(float(np.linalg.norm(high - low)) / 2, 0.02),
        vertices=len(rows),
        right=right,
        predicted=predicted,
        confidence=confidence,
    )


def _connect(xyz: npt.NDArray[np.float32], category: npt.NDArray[np.int16]) -> npt.NDArray[np.int32]:
    """Number the connected regions of equal class, from 1; class -1 is 0. Shape `(points,)`.

    Vertices are connected through cells of `CELL` metres that share at least a corner.
    """
    rows = np.flatnonzero(category >= 0)
    if len(rows) == 0:
        return np.zeros(len(xyz), dtype=np.int32)
    place = np.floor((xyz[rows] - xyz[rows].min(axis=0)) / CELL).astype(np.int64)
    cells, cell_of_row = np.unique(np.column_stack([category[rows], place]), axis=0, return_inverse=True)
    region = connect_cells(cells[:, 1:], cells[:, 0])
    number = np.zeros(len(xyz), dtype=np.int32)
    number[rows] = region[cell_of_row.reshape(-1)] + 1
    return number
