"""Text tables of scores."""

import math
from typing import TYPE_CHECKING, NamedTuple

from lg3d_core.evaluation.instances import InstanceScores
from lg3d_core.evaluation.scores import Means, Scores

if TYPE_CHECKING:
    from lg3d_core.evaluation.evaluate import Evaluation

METRICS = ("mIoU", "Precision", "Recall")
INSTANCE_METRICS = {"ap": "AP", "ap50": "AP50", "ap25": "AP25"}


class Table(NamedTuple):
    """Column names and rows of cells."""

    header: list[str]
    rows: list[list[str]]


def group_table(evaluation: "Evaluation") -> Table:
    """Return mIoU, precision and recall of head, common, tail and all classes in percent, like the paper's Table 1.

    The rows are vertices and voxels, each over the whole vocabulary and over the present classes, and a row that is
    comparable with the paper's tables: voxels, the whole vocabulary, the paper's precision and recall.
    """
    header = ["", *(f"{metric} {group.capitalize()}" for metric in METRICS for group in evaluation.vertex.means)]
    return Table(header, [[label, *map(percent, values)] for label, values in group_values(evaluation)])


def group_values(evaluation: "Evaluation") -> list[tuple[str, list[float]]]:
    """Return the rows of `group_table` as label and values in 0..1, NaN where undefined."""
    rows = []
    for level, scores in (("vertices", evaluation.vertex), ("voxels", evaluation.voxel)):
        rows.append((f"{level}, {scores.miou_name}", _values(scores.means, ("iou", "precision", "recall"))))
        rows.append((f"{level}, miou_present", _values(scores.means_present, ("iou", "precision", "recall"))))
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
        for k, metric in enumerate(METRICS)
    ]
    return Table(["", *(group.capitalize() for group in groups)], rows)


def per_class_table(evaluation: "Evaluation") -> Table:
    """Return IoU, precision and recall at vertices of each class that occurs or was predicted, in percent."""
    return class_rows(evaluation.vertex)


def class_rows(scores: Scores, *, absent: bool = False) -> Table:
    """Return one row per class in index order. A class without ground truth has no scores.

    Args:
        scores: Scores at vertices or at voxels.
        absent: Whether to include classes that neither occur nor were predicted.
    """
    header = ["Category", "Group", "Points", "Predicted", "IoU", "Precision", "Recall"]
    rows = [
        [
            category.name,
            category.group or "-",
            str(support),
            str(predicted),
            *(
                percent(float(values[category.index]) if support else math.nan)
                for values in (scores.iou, scores.precision, scores.recall)
            ),
        ]
        for category, support, predicted in zip(
            scores.vocabulary.categories, scores.support.tolist(), scores.predicted.tolist(), strict=True
        )
        if absent or support or predicted
    ]
    return Table(header, rows)


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
    header = ["Category", "Group", "Objects", "Predicted", *INSTANCE_METRICS.values()]
    rows = [
        [
            category.name,
            category.group or "-",
            str(objects),
            str(predicted),
            *(percent(float(getattr(scores, metric)[category.index])) for metric in INSTANCE_METRICS),
        ]
        for category, objects, predicted in zip(
            scores.vocabulary.categories, scores.num_objects.tolist(), scores.num_predictions.tolist(), strict=True
        )
        if objects or predicted
    ]
    return Table(header, rows)


def percent(share: float) -> str:
    """Return a fraction in percent with two decimals; "-" if undefined."""
    return "-" if math.isnan(share) else f"{100 * share:.2f}"


def _values(means: dict[str, Means], names: tuple[str, ...]) -> list[float]:
    return [getattr(group, name) for name in names for group in means.values()]
