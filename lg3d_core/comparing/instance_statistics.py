"""Average precision of bootstrap samples of the scenes.

A sample that draws a scene twice has its objects and predictions twice, so AP is computed from weighted counts: each
prediction and each object counts as often as its scene is drawn.
"""

from collections.abc import Sequence

import numpy as np

from lg3d_core.comparing.statistics import FloatArray, Samples, group_members
from lg3d_core.evaluation.instances import (
    AT_25,
    AT_50,
    OVERLAPS,
    Decisions,
    SceneMatches,
    decide,
)
from lg3d_core.vocabulary import Vocabulary

MAX_VALUES = 1 << 22
"""Maximum number of weighted predictions in memory at once."""


def resampled_precisions(matches: Sequence[SceneMatches], vocabulary: Vocabulary, weights: FloatArray) -> Samples:
    """Return mean AP, AP50 and AP25 of every bootstrap sample, by metric and group.

    The means are over the classes that have objects in the sample.

    Args:
        matches: Matches of the scenes.
        vocabulary: The classes.
        weights: How often each sample draws each scene, shape `(samples, scenes)`.

    Returns:
        Arrays of shape `(samples,)`; nan for samples without objects in the group.
    """
    size = len(vocabulary)
    objects = np.stack([np.bincount(scene.object_class, minlength=size) for scene in matches]).astype(np.float64)
    num_objects = weights @ objects
    by_overlap = [
        _class_precisions(decide(matches, overlap=overlap), num_objects, weights.astype(np.float32))
        for overlap in OVERLAPS.tolist()
    ]
    by_metric = {
        "ap": np.mean(by_overlap[:AT_25], axis=0),
        "ap50": by_overlap[AT_50],
        "ap25": by_overlap[AT_25],
    }
    counted = num_objects > 0
    return {
        metric: {
            group: _mean_of_counted(by_metric[metric][:, members], counted[:, members])
            for group, members in group_members(vocabulary).items()
        }
        for metric in by_metric
    }


def _class_precisions(decisions: Decisions, num_objects: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the AP of every sample and class, shape `(samples, classes)`; 0 for classes without objects."""
    precisions = np.zeros_like(num_objects)
    order = np.lexsort((decisions.confidence, decisions.class_))
    ends = np.cumsum(np.bincount(decisions.class_, minlength=num_objects.shape[1]))
    for class_, own in enumerate(np.split(order, ends[:-1])):
        correct, confidence = decisions.correct[own], decisions.confidence[own]
        if not correct.any():
            continue
        # Predictions below the least confident right one do not change the area.
        counted = slice(int(np.searchsorted(confidence, confidence[correct.argmax()])), None)
        own, correct, confidence = own[counted], correct[counted], confidence[counted]
        _, first = np.unique(confidence, return_index=True)
        # Recall changes only at confidences with right predictions; their precision and the next one are needed.
        rises = np.logical_or.reduceat(correct, first)
        first = first[rises | np.append(False, rises[:-1])]
        chunk = max(1, MAX_VALUES // len(own))
        for start in range(0, len(weights), chunk):
            rows = slice(start, start + chunk)
            drawn = weights[rows][:, decisions.scene[own]]
            precisions[rows, class_] = _areas(drawn, correct, first, num_objects[rows, class_])
    return precisions


def _areas(drawn: FloatArray, correct: np.ndarray, first: np.ndarray, num_objects: FloatArray) -> FloatArray:
    """Return the area under the precision-recall curve of each sample.

    The area between two neighbouring confidences is their mean precision times the step in recall.

    Args:
        drawn: How often each sample draws each prediction, by ascending confidence, shape `(samples, predictions)`.
        correct: Whether each prediction is a true positive, shape `(predictions,)`.
        first: First prediction of each distinct confidence with a true positive, and of the next one, shape
            `(thresholds,)`.
        num_objects: Number of objects in each sample, shape `(samples,)`.
    """
    accepted = np.add.reduceat(drawn, first, axis=1)
    right = np.add.reduceat(drawn * correct, first, axis=1)
    step = right / np.maximum(num_objects, 1).astype(right.dtype)[:, None]
    accepted = np.cumsum(accepted[:, ::-1], axis=1)[:, ::-1]
    right = np.cumsum(right[:, ::-1], axis=1)[:, ::-1]
    precision = np.divide(right, accepted, out=np.ones_like(right), where=accepted > 0)
    following = np.concatenate([precision[:, 1:], np.ones_like(precision[:, :1])], axis=1)
    areas: FloatArray = (step * (precision + following) / 2).sum(axis=1)
    return areas


def _mean_of_counted(values: FloatArray, counted: np.ndarray) -> FloatArray:
    number = counted.sum(axis=1)
    sums = np.where(counted, values, 0).sum(axis=1)
    means: FloatArray = np.divide(sums, number, out=np.full(len(sums), np.nan), where=number > 0)
    return means
