"""Text tables of scores."""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.evaluation.instances import InstanceScores
from lg3d_core.evaluation.scores import Means, Scores
from lg3d_core.vocabulary import Vocabulary

if TYPE_CHECKING:
    from lg3d_core.evaluation.evaluate import Evaluation

METRICS = {"iou": "mIoU", "precision": "Precision", "recall": "Recall"}
INSTANCE_METRICS = {"ap": "AP", "ap50": "AP50", "ap25": "AP25"}
TITLES = METRICS | INSTANCE_METRICS
"""Titles of the columns and rows of all metrics."""


class Table(NamedTuple):
    """Column names and rows of cells."""

    header: list[str]
    rows: list[list[str]]


def group_table(evaluation: "Evaluation") -> Table:
    """Return mIoU, precision and recall of head, common, tail and all classes in percent, like the paper's Table 1.

    The rows are vertices and voxels, each over the whole vocabulary and over the present classes, and a row that is
    comparable with the paper's tables: voxels, the whole vocabulary, the paper's precision and recall.
    """
    groups = list(evaluation.vertex.means)
    header = ["", *(f"{metric} {group.capitalize()}" for metric in METRICS.values() for group in groups)]
    return Table(header, [[label, *map(percent, values)] for label, values in group_values(evaluation)])


def group_values(evaluation: "Evaluation") -> list[tuple[str, list[float]]]:
    """Return the rows of `group_table` as label and values in 0..1, NaN where undefined."""
    rows = []
    for level, scores in (("vertices", evaluation.vertex), ("voxels", evaluation.voxel)):
        rows.append((f"{level}, {scores.miou_name}", _values(scores.means, METRICS)))
        rows.append((f"{level}, miou_present", _values(scores.means_present, METRICS)))
    paper = _values(evaluation.voxel.means, ("iou", "precision_paper", "recall_paper"))
    return [*rows, ("voxels, as the paper", paper)]


def narrow_group_table(evaluation: "Evaluation") -> Table:
    """Return the values of `group_table` with one metric per row, for narrow terminals."""
    wide = group_table(evaluation)
    groups = list(evaluation.vertex.means)
    size = len(groups)
    rows = [
        [f"{label}: {metric}", *cells[k * size : (k + 1) * size]]
        for label, *cells in wide.rows
        for k, metric in enumerate(METRICS.values())
    ]
    return Table(["", *(group.capitalize() for group in groups)], rows)


def per_class_table(evaluation: "Evaluation") -> Table:
    """Return IoU, precision and recall at vertices of each class that occurs or was predicted, in percent."""
    return class_rows(evaluation.vertex)


def class_rows(scores: Scores) -> Table:
    """Return IoU, precision and recall of each class that occurs or was predicted, in percent."""
    values = {METRICS[metric]: getattr(scores, metric) for metric in METRICS}
    return _class_table(scores.vocabulary, {"Points": scores.support, "Predicted": scores.predicted}, values)


def instance_table(scores: InstanceScores) -> Table:
    """Return AP, AP50 and AP25 of head, common, tail and all classes in percent, over the classes with objects."""
    groups = (*scores.vocabulary.groups, "all")
    rows = [
        [title, *(percent(scores.mean(metric, group)) for group in groups)]
        for metric, title in INSTANCE_METRICS.items()
    ]
    return Table(["", *(group.capitalize() for group in groups)], rows)


def instance_rows(scores: InstanceScores) -> Table:
    """Return AP, AP50 and AP25 of each class that has objects or predictions, in percent."""
    values = {INSTANCE_METRICS[metric]: getattr(scores, metric) for metric in INSTANCE_METRICS}
    return _class_table(scores.vocabulary, {"Objects": scores.num_objects, "Predicted": scores.num_predictions}, values)


def percent(share: float) -> str:
    """Return a fraction in percent with two decimals; "-" if undefined."""
    return "-" if math.isnan(share) else f"{100 * share:.2f}"


def _values(means: dict[str, Means], names: Iterable[str]) -> list[float]:
    return [getattr(group, name) for name in names for group in means.values()]


def _class_table(
    vocabulary: Vocabulary,
    counts: Mapping[str, npt.NDArray[np.integer]],
    values: Mapping[str, npt.NDArray[np.floating]],
) -> Table:
    """Return one row per class with a count. A class without ground truth, the first count, has no values."""
    rows = []
    for category in vocabulary.categories:
        numbers = [int(own[category.index]) for own in counts.values()]
        if any(numbers):
            scores = (float(own[category.index]) if numbers[0] else math.nan for own in values.values())
            rows.append([category.name, category.group or "-", *map(str, numbers), *map(percent, scores)])
    return Table(["Class", "Group", *counts, *values], rows)
