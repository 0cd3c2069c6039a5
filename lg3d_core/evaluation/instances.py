"""Average precision of predicted instances, as the ScanNet and ScanNet200 benchmarks compute it.

A prediction is a set of vertices with a class and a confidence; predictions may overlap. `match_scene` matches each
scene separately and keeps a few integers per prediction; `score_instances` scores all scenes together.

The rules:

- Walls and floors are not scored. Vertices without a scored class or without an object are *void*.
- Ground truth objects and predictions of fewer than 100 vertices do not count.
- A prediction matches an object of its class if their IoU is strictly above the threshold. Objects are visited in
  ascending order of instance id. An object uses up the first unused prediction that matches it. Each further match is a
  duplicate: a false positive with the lower of the two confidences, and the object keeps the higher one.
- A prediction without a match is a false positive, unless the fraction of its vertices that are void, or that belong to
  an object of its class that is too small to count, is above the threshold.
- AP is the area under the precision-recall curve, with precision at the next lower confidence and recall steps taken
  around each point. It is nan for a class without ground truth, and 0 for a class with ground truth but no prediction.

Source: the evaluation script of the ScanNet benchmark, instance task, with the class list of ScanNet200.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import ShapeError
from lg3d_core.evaluation.scores import none_if_undefined
from lg3d_core.vocabulary import Vocabulary

MIN_VERTICES = 100
"""Minimum number of vertices of an object or a prediction that counts."""
UNSCORED_NAMES = ("wall", "floor")
"""Classes without instances."""
OVERLAPS: npt.NDArray[np.float64] = np.append(np.arange(0.5, 0.95, 0.05), 0.25)
"""IoU thresholds: nine from 0.50 to 0.90, whose mean is AP, and 0.25. Rounded steps of `arange`, such as
0.6000000000000001, are kept because they decide strict comparisons exactly as in the benchmark."""
AT_50, AT_25 = 0, len(OVERLAPS) - 1

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class PredictedInstances(NamedTuple):
    """Predicted objects of one scene. Their vertices may overlap.

    Attributes:
        rows: Vertices of all predictions, concatenated, without repetition within a prediction, int64.
        starts: First entry of each prediction in `rows`, then the length of `rows`, shape `(predictions + 1,)`, int64.
        classes: Class index of each prediction, shape `(predictions,)`, int64.
        confidences: Confidence of each prediction, higher is more certain, finite, shape `(predictions,)`, float64.
    """

    rows: IntArray
    starts: IntArray
    classes: IntArray
    confidences: FloatArray

    def __len__(self) -> int:
        return len(self.classes)

    def mask_rows(self) -> Iterator[IntArray]:
        """Yield the vertices of each prediction."""
        for start, end in zip(self.starts[:-1], self.starts[1:], strict=True):
            yield self.rows[start:end]

    @classmethod
    def from_rows(
        cls, rows: Sequence[npt.NDArray[np.integer]], classes: Sequence[int], confidences: Sequence[float]
    ) -> Self:
        """Collect lists of vertices, each without repetition.

        Raises:
            ShapeError: The numbers of predictions, classes and confidences differ.
        """
        if not len(rows) == len(classes) == len(confidences):
            raise ShapeError(
                f"expected one class and one confidence per prediction, got {len(rows)} predictions, "
                f"{len(classes)} classes and {len(confidences)} confidences"
            )
        sizes = np.array([0, *(len(own) for own in rows)], dtype=np.int64)
        joined = np.concatenate([np.zeros(0, dtype=np.int64), *rows]).astype(np.int64)
        return cls(
            joined, sizes.cumsum(), np.asarray(classes, dtype=np.int64), np.asarray(confidences, dtype=np.float64)
        )


class SceneMatches(NamedTuple):
    """Matches of one scene, from which average precision is computed.

    Attributes:
        object_class: Class of each object that counts, shape `(objects,)`, int64.
        class_: Class of each prediction that counts, shape `(predictions,)`, int64.
        confidence: Confidence of each prediction that counts, shape `(predictions,)`, float64.
        ignorable: Fraction of each prediction's vertices that are void or belong to a too small object of its class,
            0..1, shape `(predictions,)`, float64.
        pair_object: Object of each pair of one class with an IoU above the lowest threshold, ascending, shape
            `(pairs,)`, int64.
        pair_prediction: Prediction of each pair, ascending within an object, shape `(pairs,)`, int64.
        pair_iou: Intersection over union of each pair, 0..1, shape `(pairs,)`, float64.
    """

    object_class: IntArray
    class_: IntArray
    confidence: FloatArray
    ignorable: FloatArray
    pair_object: IntArray
    pair_prediction: IntArray
    pair_iou: FloatArray


def scored_classes(vocabulary: Vocabulary) -> npt.NDArray[np.bool_]:
    """Return which classes have instances, shape `(classes,)`."""
    return np.array([name not in UNSCORED_NAMES for name in vocabulary.names], dtype=np.bool_)


def match_scene(
    labels: npt.NDArray[np.integer],
    instances: npt.NDArray[np.integer],
    predicted: PredictedInstances,
    *,
    scored: npt.NDArray[np.bool_],
) -> SceneMatches:
    """Match the predictions of a scene with its objects.

    Args:
        labels: Class index of each vertex, -1 for unlabelled, shape `(vertices,)`.
        instances: Object of each vertex, 0 for none, shape `(vertices,)`.
        predicted: Predicted objects.
        scored: Which classes have instances, shape `(classes,)`.

    Raises:
        ShapeError: The lengths differ, a vertex or class is out of range, or a confidence is not finite.
    """
    _check(labels, instances, predicted, num_classes=len(scored))
    predictions = zip(predicted.mask_rows(), predicted.classes.tolist(), predicted.confidences.tolist(), strict=True)
    return match_masks(labels, instances, predictions, scored=scored)


def match_masks(
    labels: npt.NDArray[np.integer],
    instances: npt.NDArray[np.integer],
    predictions: Iterable[tuple[IntArray, int, float]],
    *,
    scored: npt.NDArray[np.bool_],
) -> SceneMatches:
    """Match predictions with the objects of a scene, one mask in memory at a time.

    Args:
        labels: Class index of each vertex, -1 for unlabelled, shape `(vertices,)`.
        instances: Object of each vertex, 0 for none, shape `(vertices,)`.
        predictions: Vertices without repetition, class index and finite confidence of each prediction.
        scored: Which classes have instances, shape `(classes,)`.
    """
    object_of_vertex, object_class, object_size = _find_objects(labels, instances, scored)
    counts = object_size >= MIN_VERTICES
    number = np.cumsum(counts) - 1  # index of each object among those that count

    classes: list[int] = []
    confidences: list[float] = []
    ignorable: list[float] = []
    pairs: list[tuple[IntArray, int, FloatArray]] = []
    for rows, class_, confidence in predictions:
        if len(rows) < MIN_VERTICES or not scored[class_]:
            continue
        shared = np.bincount(object_of_vertex[rows] + 1, minlength=len(object_class) + 1)
        void, shared = shared[0], shared[1:]
        same = (object_class == class_) & (shared > 0)
        near = np.flatnonzero(same & counts)
        iou = shared[near] / (object_size[near] + len(rows) - shared[near])
        decisive = iou > OVERLAPS[AT_25]  # at most three per prediction
        pairs.append((number[near[decisive]], len(classes), iou[decisive]))
        ignorable.append((void + shared[same & ~counts].sum()) / len(rows))
        classes.append(class_)
        confidences.append(confidence)

    pair_object = np.concatenate([np.zeros(0, np.int64), *(near for near, _, _ in pairs)])
    pair_prediction = np.concatenate([np.zeros(0, np.int64), *(np.full(len(near), k) for near, k, _ in pairs)])
    pair_iou = np.concatenate([np.zeros(0), *(iou for _, _, iou in pairs)])
    order = np.lexsort((pair_prediction, pair_object))
    return SceneMatches(
        object_class=object_class[counts],
        class_=np.array(classes, dtype=np.int64),
        confidence=np.array(confidences, dtype=np.float64),
        ignorable=np.array(ignorable, dtype=np.float64),
        pair_object=pair_object[order],
        pair_prediction=pair_prediction[order],
        pair_iou=pair_iou[order],
    )


class Decisions(NamedTuple):
    """Right and wrong predictions of all classes and scenes at one threshold, without ignored ones.

    Attributes:
        scene: Index of the scene of each prediction, shape `(decisions,)`, int64.
        class_: Class of each prediction, shape `(decisions,)`, int64.
        confidence: Confidence of each prediction, shape `(decisions,)`, float64.
        correct: Whether the prediction is a true positive, shape `(decisions,)`, bool.
    """

    scene: IntArray
    class_: IntArray
    confidence: FloatArray
    correct: npt.NDArray[np.bool_]


def decide(scenes: Sequence[SceneMatches], *, overlap: float) -> Decisions:
    """Decide which predictions are right, wrong or ignored at an IoU threshold."""
    parts = [_decide_scene(scene, overlap) for scene in scenes]
    return Decisions(
        scene=np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts]),
        class_=np.concatenate([np.zeros(0, dtype=np.int64), *(part[0] for part in parts)]),
        confidence=np.concatenate([np.zeros(0), *(part[1] for part in parts)]),
        correct=np.concatenate([np.zeros(0, dtype=np.bool_), *(part[2] for part in parts)]),
    )


def _decide_scene(scene: SceneMatches, overlap: float) -> tuple[IntArray, FloatArray, npt.NDArray[np.bool_]]:
    above = np.flatnonzero(scene.pair_iou > overlap)
    confidences, classes = scene.confidence.tolist(), scene.class_.tolist()
    best: dict[int, tuple[int, float]] = {}
    used: set[int] = set()
    duplicates: list[tuple[int, float]] = []
    for row, prediction in zip(scene.pair_object[above].tolist(), scene.pair_prediction[above].tolist(), strict=True):
        if prediction in used:
            continue
        class_, value = classes[prediction], confidences[prediction]
        if row in best:  # the less confident of the two is a duplicate, but may still match a later object
            duplicates.append((class_, min(best[row][1], value)))
            best[row] = (class_, max(best[row][1], value))
        else:
            best[row] = (class_, value)
            used.add(prediction)
    wrong = scene.ignorable <= overlap
    wrong[scene.pair_prediction[above]] = False
    matched = [*best.values(), *duplicates]
    return (
        np.concatenate([np.array([class_ for class_, _ in matched], dtype=np.int64), scene.class_[wrong]]),
        np.concatenate([np.array([value for _, value in matched]), scene.confidence[wrong]]),
        np.arange(len(matched) + int(wrong.sum())) < len(best),
    )


class Ranking(NamedTuple):
    """Right and wrong predictions of one class at one threshold, in all scenes.

    Attributes:
        confidence: Confidence of each prediction, shape `(ranked,)`, float64.
        correct: Whether the prediction is a true positive, shape `(ranked,)`, bool.
        num_objects: Number of objects of the class.
    """

    confidence: FloatArray
    correct: npt.NDArray[np.bool_]
    num_objects: int


class Curve(NamedTuple):
    """Precision over recall, from the lowest confidence threshold to the highest.

    Attributes:
        precision: Precision at each threshold, 0..1, shape `(points,)`; the last is 1.
        recall: Recall at each threshold, 0..1, descending, shape `(points,)`; the last is 0.
    """

    precision: FloatArray
    recall: FloatArray


def precision_recall(ranking: Ranking) -> Curve:
    """Return precision and recall at every distinct confidence; predictions at the threshold are accepted."""
    order = np.argsort(ranking.confidence, kind="stable")
    correct = ranking.correct[order]
    _, first = np.unique(ranking.confidence[order], return_index=True)
    below = np.append(0, np.cumsum(correct))[first]  # true positives below each threshold
    found = correct.sum() - below
    accepted = len(correct) - first
    return Curve(
        precision=np.append(found / accepted, 1.0),
        recall=np.append(found / ranking.num_objects if ranking.num_objects else np.zeros(len(first)), 0.0),
    )


def average_precision(ranking: Ranking) -> float:
    """Return the area under the precision-recall curve, 0..1; nan without objects, 0 without predictions."""
    if ranking.num_objects == 0:
        return float("nan")
    precision, recall = precision_recall(ranking)
    around = np.concatenate([recall[:1], recall, [0.0]])
    return float(precision @ (0.5 * (around[:-2] - around[2:])))


@dataclass(frozen=True, eq=False)
class InstanceScores:
    """Average precision of each class, and means over head, common, tail and all classes.

    Attributes:
        vocabulary: The classes.
        by_overlap: AP of each class at each threshold of `OVERLAPS`, shape `(classes, 10)`, 0..1; nan for classes
            without objects and for unscored classes.
        num_objects: Number of objects that count, shape `(classes,)`, int64.
        num_predictions: Number of predictions that count, shape `(classes,)`, int64.
    """

    vocabulary: Vocabulary
    by_overlap: FloatArray
    num_objects: IntArray
    num_predictions: IntArray

    @property
    def ap(self) -> FloatArray:
        """Mean AP over the thresholds 0.50 to 0.90 of each class, shape `(classes,)`."""
        means: FloatArray = self.by_overlap[:, :AT_25].mean(axis=1)
        return means

    @property
    def ap50(self) -> FloatArray:
        """AP at IoU 0.50 of each class, shape `(classes,)`."""
        return self.by_overlap[:, AT_50]

    @property
    def ap25(self) -> FloatArray:
        """AP at IoU 0.25 of each class, shape `(classes,)`."""
        return self.by_overlap[:, AT_25]

    def mean(self, metric: str = "ap", group: str = "all") -> float:
        """Return the mean over the classes of a group that have objects; nan if none has.

        Args:
            metric: Name of the metric: `ap`, `ap50` or `ap25`.
            group: Name of the group: `head`, `common`, `tail` or `all`.
        """
        values: FloatArray = getattr(self, metric)
        if group != "all":
            values = values[self.vocabulary.groups[group]]
        values = values[~np.isnan(values)]
        return float(values.mean()) if len(values) else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as plain values for JSON, 0..1; undefined scores are None."""
        metrics = ("ap", "ap50", "ap25")
        per_class = {metric: getattr(self, metric).tolist() for metric in metrics}
        return {
            "means": {
                group: {metric: none_if_undefined(self.mean(metric, group)) for metric in metrics}
                for group in (*self.vocabulary.groups, "all")
            },
            "num_classes": int((self.num_objects > 0).sum()),
            "per_class": [
                {
                    "index": category.index,
                    "id": category.id,
                    "name": category.name,
                    "group": category.group or None,
                    "objects": int(self.num_objects[category.index]),
                    "predictions": int(self.num_predictions[category.index]),
                    **{metric: none_if_undefined(per_class[metric][category.index]) for metric in metrics},
                }
                for category in self.vocabulary.categories
                if category.name not in UNSCORED_NAMES
            ],
        }


def score_instances(scenes: Sequence[SceneMatches], vocabulary: Vocabulary) -> InstanceScores:
    """Score the matches of all scenes together."""
    size = len(vocabulary)
    objects = np.bincount(np.concatenate([np.zeros(0, np.int64), *(s.object_class for s in scenes)]), minlength=size)
    predictions = np.bincount(np.concatenate([np.zeros(0, np.int64), *(s.class_ for s in scenes)]), minlength=size)
    by_overlap = np.full((size, len(OVERLAPS)), np.nan)
    for k, overlap in enumerate(OVERLAPS.tolist()):
        rankings = rank_classes(decide(scenes, overlap=overlap), objects)
        by_overlap[:, k] = [average_precision(ranking) for ranking in rankings]
    return InstanceScores(vocabulary, by_overlap, objects, predictions)


def rank_classes(decisions: Decisions, num_objects: IntArray) -> list[Ranking]:
    """Return the ranking of each class, given the number of its objects."""
    order = np.argsort(decisions.class_, kind="stable")
    ends = np.cumsum(np.bincount(decisions.class_, minlength=len(num_objects)))
    return [
        Ranking(decisions.confidence[own], decisions.correct[own], number)
        for own, number in zip(np.split(order, ends[:-1]), num_objects.tolist(), strict=True)
    ]


def _find_objects(
    labels: npt.NDArray[np.integer], instances: npt.NDArray[np.integer], scored: npt.NDArray[np.bool_]
) -> tuple[IntArray, IntArray, IntArray]:
    """Return the object of each vertex (-1 for void), and class and size of the objects, by class and instance id."""
    evaluated = (labels >= 0) & (instances > 0)
    evaluated &= scored[np.where(evaluated, labels, 0)]
    rows = np.flatnonzero(evaluated)
    numbers = instances[rows].astype(np.int64)
    if numbers.max(initial=0) > 1 << 40:  # the keys would overflow
        numbers = np.unique(numbers, return_inverse=True)[1]
    highest = int(numbers.max(initial=0)) + 1
    keys, inverse, sizes = np.unique(
        labels[rows].astype(np.int64) * highest + numbers, return_inverse=True, return_counts=True
    )
    object_of_vertex = np.full(len(labels), -1, dtype=np.int64)
    object_of_vertex[rows] = inverse
    return object_of_vertex, keys // highest, sizes.astype(np.int64)


def _check(
    labels: npt.NDArray[np.integer],
    instances: npt.NDArray[np.integer],
    predicted: PredictedInstances,
    *,
    num_classes: int,
) -> None:
    if labels.ndim != 1 or labels.shape != instances.shape:
        raise ShapeError(f"expected one label and one instance per vertex, got {labels.shape} and {instances.shape}")
    if len(predicted.rows) and not 0 <= predicted.rows.min() <= predicted.rows.max() < len(labels):
        raise ShapeError(
            f"expected predicted vertices within 0 to {len(labels) - 1}, "
            f"got {predicted.rows.min()} to {predicted.rows.max()}"
        )
    if len(predicted) and not 0 <= predicted.classes.min() <= predicted.classes.max() < num_classes:
        raise ShapeError(
            f"expected predicted classes below {num_classes}, got {predicted.classes.min()} to "
            f"{predicted.classes.max()}"
        )
    if not np.isfinite(predicted.confidences).all():
        raise ShapeError("expected finite confidences, got nan or infinity")
