"""Objects of a view with their boxes: predicted ones, and annotated ones."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import ShapeError
from lg3d_core.evaluation.boxes import Box, find_strays, fit_box
from lg3d_core.evaluation.instances import UNSCORED_NAMES

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
    sizes = np.bincount(instance[instance > 0])
    shown = []
    for k, found in enumerate(predicted.objects):
        rows = np.flatnonzero(owner == k)
        truth, iou = _best_match(rows, label, instance, sizes, names)
        shown.append(
            ShownObject(
                number=k + 1,
                title=found.id,
                category=found.category,
                name=found.name,
                confidence=found.confidence,
                points=len(rows),
                box=found.box,
                names=found.names,
                truth=truth,
                iou=iou,
            )
        )
    return tuple(shown), owner + 1


def _best_match(
    rows: npt.NDArray[np.int64],
    label: npt.NDArray[np.int16],
    instance: npt.NDArray[np.int32],
    sizes: npt.NDArray[np.int64],
    names: Sequence[str],
) -> tuple[str | None, float | None]:
    inside = instance[rows]
    shared = np.bincount(inside[inside > 0], minlength=len(sizes))
    if not shared.any():
        return None, None
    iou = shared / np.maximum(sizes + len(rows) - shared, 1)
    best = int(np.argmax(iou))
    categories = label[instance == best]
    categories = categories[categories >= 0]
    return (names[int(np.bincount(categories).argmax())] if len(categories) else None), float(iou[best])


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
