"""Objects of a view with their boxes: predicted ones, and annotated ones."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import ShapeError
from lg3d_core.evaluation.boxes import Box, find_strays, fit_box
from lg3d_core.evaluation.instances import UNSCORED_NAMES

CUT = 0.5
"""Mean length of an object's outward directions from which it belongs to a wall that may be cut away."""

if TYPE_CHECKING:
    from lg3d_core.inference.objects import FoundObject
    from lg3d_core.viewing.layers import SceneView


class PredictedObjects(NamedTuple):
    """Predicted objects of a scene.

    Attributes:
        objects: The objects.
        owner: Index of each vertex's object, -1 for none, shape `(points,)`.
    """

    objects: "Sequence[FoundObject]"
    owner: npt.NDArray[np.integer]


class ShownObject(NamedTuple):
    """Object with its box.

    Attributes:
        number: Number in `SceneView.object_number` or `SceneView.instance`, from 1.
        title: Number as in the files of `predict`, or as annotated.
        category: Vocabulary index.
        name: Class name.
        confidence: Confidence of a predicted object, 0..1; None for an annotated one.
        points: Number of vertices.
        box: Box in metres.
        names: Most probable classes of a predicted object, with their probabilities.
        truth: Class of the annotated object with the highest IoU; None without one.
        iou: IoU with this object, 0..1; None without one.
    """

    number: int
    title: int
    category: int
    name: str
    confidence: float | None
    points: int
    box: Box
    names: tuple[tuple[str, float], ...] = ()
    truth: str | None = None
    iou: float | None = None


def show_predicted(
    predicted: PredictedObjects,
    label: npt.NDArray[np.int16],
    instance: npt.NDArray[np.int32],
    names: Sequence[str],
) -> tuple[tuple[ShownObject, ...], npt.NDArray[np.int32]]:
    """Return the predicted objects, and the number of each vertex's object, 0 for none.

    Args:
        predicted: Predicted objects.
        label: Annotated class of each vertex, -1 for none.
        instance: Annotated object of each vertex, 0 for none.
        names: Class names.

    Raises:
        ShapeError: There is not one owner per vertex, or an object does not exist.
    """
    count = len(predicted.objects)
    owner = np.asarray(predicted.owner, dtype=np.int32)
    if owner.shape != label.shape or (len(owner) and not -1 <= owner.min() <= owner.max() < count):
        raise ShapeError(
            f"expected the object of each of {len(label)} vertices, -1 to {count - 1}, got shape {owner.shape}"
        )
    points = np.bincount(owner[owner >= 0], minlength=count)
    matches = _best_matches(owner, points, label, instance, names)
    shown = tuple(
        ShownObject(
            number=k + 1,
            title=found.id,
            category=found.category,
            name=found.name,
            confidence=found.confidence,
            points=int(points[k]),
            box=found.box,
            names=found.names,
            truth=matches.get(k, (None, None))[0],
            iou=matches.get(k, (None, None))[1],
        )
        for k, found in enumerate(predicted.objects)
    )
    return shown, owner + 1


def _best_matches(
    owner: npt.NDArray[np.int32],
    points: npt.NDArray[np.int64],
    label: npt.NDArray[np.int16],
    instance: npt.NDArray[np.int32],
    names: Sequence[str],
) -> dict[int, tuple[str | None, float]]:
    """Return the class of the annotated object with the highest IoU, and this IoU, by predicted object."""
    both = np.flatnonzero((owner >= 0) & (instance > 0))
    if len(both) == 0:
        return {}
    sizes = np.bincount(instance[instance > 0])
    category = _categories(label, instance, len(sizes))
    pairs, shared = np.unique(owner[both].astype(np.int64) * len(sizes) + instance[both], return_counts=True)
    objects, others = np.divmod(pairs, len(sizes))
    iou = shared / (points[objects] + sizes[others] - shared)
    matches: dict[int, tuple[str | None, float]] = {}
    for k in np.argsort(iou, kind="stable").tolist():  # the best one is the last one
        known = int(category[others[k]])
        matches[int(objects[k])] = (names[known] if known >= 0 else None, float(iou[k]))
    return matches


def _categories(label: npt.NDArray[np.int16], instance: npt.NDArray[np.int32], count: int) -> npt.NDArray[np.int64]:
    """Return the most frequent class of each annotated object, -1 for none, shape `(count,)`."""
    known = (instance > 0) & (label >= 0)
    pairs, votes = np.unique(
        np.column_stack([instance[known], label[known]]).astype(np.int64), axis=0, return_counts=True
    )
    order = np.argsort(votes, kind="stable")
    category = np.full(count, -1, dtype=np.int64)
    category[pairs[order, 0]] = pairs[order, 1]
    return category


class Placed(NamedTuple):
    """Appearance of an object in a layer.

    Attributes:
        color: Colour of its vertices, 0..255.
        outward: Mean of `SceneView.outward` over its vertices, shape `(3,)`.
    """

    color: tuple[int, int, int]
    outward: npt.NDArray[np.float64]

    def is_cut(self, box: Box, eye: npt.NDArray[np.float64]) -> bool:
        """Return whether the object belongs to a wall that is cut away in front of an eye."""
        return bool(np.linalg.norm(self.outward) > CUT and self.outward @ (eye - box.centre) > 0)


def place_objects(view: "SceneView", layer: str) -> dict[int, Placed]:
    """Return the appearance of each object in the layer `objects` or `instances`, by number."""
    numbers = view.object_number if layer == "objects" else view.instance
    if numbers is None or layer not in view.layers:
        return {}
    distinct, first, row = np.unique(numbers, return_index=True, return_inverse=True)
    counts = np.bincount(row)
    outward = np.stack([np.bincount(row, weights=view.outward[:, k]) / counts for k in range(3)], axis=1)
    colors = view.layers[layer][first].tolist()
    return {
        int(number): Placed((color[0], color[1], color[2]), mean)
        for number, color, mean in zip(distinct, colors, outward, strict=True)
    }


def find_annotated(view: "SceneView") -> tuple[ShownObject, ...]:
    """Return the annotated objects of a view in ascending order of number; walls and floors are no objects."""
    shown = []
    order = np.argsort(view.instance, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(view.instance[order])) + 1):
        number = int(view.instance[rows[0]])
        categories = view.label[rows][view.label[rows] >= 0]
        if number <= 0 or len(categories) == 0:
            continue
        category = int(np.bincount(categories).argmax())
        name = view.names[category]
        if name not in UNSCORED_NAMES:
            xyz = view.xyz[rows]
            box = fit_box(xyz[~find_strays(xyz)])
            shown.append(ShownObject(number, number, category, name, None, len(rows), box))
    return tuple(shown)
