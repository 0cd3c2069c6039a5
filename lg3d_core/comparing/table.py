"""The finished comparison as text, Markdown and JSON."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lg3d_core.comparing.cells import difference_cell, spread_cell
from lg3d_core.comparing.instance_statistics import resampled_precisions
from lg3d_core.comparing.plan import Row
from lg3d_core.comparing.record import Record
from lg3d_core.comparing.statistics import (
    METRICS,
    Difference,
    Samples,
    Spread,
    differences_of,
    group_members,
    mean_scores,
    paired_differences,
    scene_weights,
    spread,
)
from lg3d_core.errors import printable
from lg3d_core.evaluation.scores import none_if_undefined
from lg3d_core.evaluation.table import INSTANCE_METRICS, TITLES, Table
from lg3d_core.progress import Progress
from lg3d_core.reporting.runs import Curve
from lg3d_core.vocabulary import Vocabulary

INSTANCE_TITLES = {"precision": "Precision", "iou": "mIoU", "ap50": "mAP@0.5", "ap": "mAP", "ap25": "mAP@0.25"}
"""Columns of the summary of instance segmentation; the first three are those of the paper's Table 3."""
SPECIAL = re.compile(r"([|<])")
"""Characters of a cell that Markdown would take for the end of the cell or an HTML tag."""


@dataclass(frozen=True)
class ComparedRow:
    """Scores of one row, in 0..1.

    Attributes:
        label: Name of the row.
        recipe: Recipe of the row.
        method: Name that rows of the same recipe with different shares of the labels have in common.
        runs: Name of the run folder of each seed.
        share: Fraction of the labels used for training, 0..1.
        scores: Mean and standard deviation over seeds, by metric and group.
        by_seed: Value of each seed, by metric and group.
        difference: Difference of mean IoU from the first row, by group; empty in the first row.
        instance_differences: Differences of AP, AP50 and AP25 from the first row, by metric and group, over the classes
            with objects; empty in the first row and if one of the two rows has no scores of objects.
        curves: Validation mIoU of each seed over optimizer steps, those of pre-training included; empty if a run has
            none.
    """

    label: str
    recipe: str
    method: str
    runs: tuple[str, ...]
    share: float
    scores: dict[str, dict[str, Spread]]
    by_seed: dict[str, dict[str, tuple[float, ...]]]
    difference: dict[str, Difference]
    instance_differences: dict[str, dict[str, Difference]] = field(default_factory=dict)
    curves: tuple[Curve, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """A finished comparison, with rows in the order of the recipes.

    Attributes:
        rows: Rows, at least one.
        groups: Group names: "head", "common", "tail" if the vocabulary has them, and "all".
        classes: Classes in the means, "present" or "all".
        num_seeds: Number of runs per row.
        num_scenes: Number of scored scenes.
        num_present: Number of classes with ground truth in these scenes.
        facts: Additional entries of the JSON file.
    """

    rows: tuple[ComparedRow, ...]
    groups: tuple[str, ...]
    classes: str
    num_seeds: int
    num_scenes: int
    num_present: int
    facts: dict[str, Any]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics of the rows; those of objects only if a row has them."""
        return tuple(self.rows[0].scores)

    @property
    def compared_metrics(self) -> tuple[str, ...]:
        """Metrics with differences from the first row; none for a single row."""
        if len(self.rows) == 1:
            return ()
        return ("iou", *(INSTANCE_METRICS if any(row.instance_differences for row in self.rows) else ()))

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain values for JSON, scores in 0..1; undefined values are None."""
        return {
            "classes": self.classes,
            "num_seeds": self.num_seeds,
            "num_scenes": self.num_scenes,
            "num_present": self.num_present,
            **self.facts,
            "rows": [
                {
                    "label": row.label,
                    "recipe": row.recipe,
                    "method": row.method,
                    "runs": list(row.runs),
                    "share": row.share,
                    "scores": {
                        metric: {
                            group: {
                                "mean": none_if_undefined(own.mean),
                                "deviation": none_if_undefined(own.deviation),
                                "by_seed": [none_if_undefined(value) for value in row.by_seed[metric][group]],
                            }
                            for group, own in groups.items()
                        }
                        for metric, groups in row.scores.items()
                    },
                    "difference": _plain_differences(row.difference),
                    "instance_differences": {
                        metric: _plain_differences(groups) for metric, groups in row.instance_differences.items()
                    },
                    "curves": [
                        {"step": curve.step.tolist(), "miou": curve.value.round(6).tolist()} for curve in row.curves
                    ],
                }
                for row in self.rows
            ],
        }


def compare_records(
    rows: Sequence[Row],
    records: Sequence[Sequence[Record]],
    vocabulary: Vocabulary,
    *,
    classes: str,
    resamples: int,
    facts: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compute the comparison from stored scores.

    Args:
        rows: Planned rows.
        records: Scores of each row and seed.
        vocabulary: The classes.
        classes: Classes in the means, "present" or "all".
        resamples: Number of bootstrap samples per interval.
        facts: Additional entries of the JSON file.
        progress: Progress of the intervals of AP, which take up to a minute per run.

    Raises:
        DataError: The rows were scored on different scenes.
    """
    present = classes == "present"
    groups = group_members(vocabulary)
    instance_differences = _compare_objects(records, vocabulary, resamples=resamples, progress=progress or Progress())
    has_objects = any("instances" in record.scores for own in records for record in own)
    counts = [[record.counts for record in own] for own in records]
    compared: list[ComparedRow] = []
    for number, (row, own) in enumerate(zip(rows, records, strict=True)):
        by_seed = _scores_by_seed(own, groups, present=present, has_objects=has_objects)
        curves = tuple(record.curve for record in own if record.curve is not None)
        compared.append(
            ComparedRow(
                label=row.label,
                recipe=row.recipe,
                method=row.method,
                runs=tuple(folder.name for folder in row.runs),
                share=row.share,
                scores={metric: {group: spread(each[group]) for group in each} for metric, each in by_seed.items()},
                by_seed=by_seed,
                difference=paired_differences(
                    counts[number], counts[0], vocabulary, present=present, resamples=resamples
                )
                if number
                else {},
                instance_differences=instance_differences[number],
                curves=curves if len(curves) == len(own) else (),
            )
        )
    first = records[0][0].counts
    return Comparison(
        rows=tuple(compared),
        groups=tuple(groups),
        classes=classes,
        num_seeds=len(records[0]),
        num_scenes=len(first.scene_ids),
        num_present=int((first.support.sum(axis=0) > 0).sum()),
        facts=facts or {},
    )


def _scores_by_seed(
    records: Sequence[Record], groups: dict[str, npt.NDArray[np.int64]], *, present: bool, has_objects: bool
) -> dict[str, dict[str, tuple[float, ...]]]:
    """Return the value of each seed, by metric and group."""
    by_seed: dict[str, dict[str, tuple[float, ...]]] = {metric: {} for metric in METRICS}
    for group, members in groups.items():
        values = [
            mean_scores(
                record.counts.correct.sum(axis=0),
                record.counts.support.sum(axis=0),
                record.counts.predicted.sum(axis=0),
                members,
                present=present,
            )
            for record in records
        ]
        for k, metric in enumerate(METRICS):
            by_seed[metric][group] = tuple(float(value[k]) for value in values)
    if has_objects:
        for metric in INSTANCE_METRICS:
            by_seed[metric] = {group: tuple(_instance_mean(one, group, metric) for one in records) for group in groups}
    return by_seed


def _compare_objects(
    records: Sequence[Sequence[Record]], vocabulary: Vocabulary, *, resamples: int, progress: Progress
) -> list[dict[str, dict[str, Difference]]]:
    """Return the differences in AP of each row from the first one; empty for the first row and rows without objects."""
    differences: list[dict[str, dict[str, Difference]]] = [{} for _ in records]
    by_row = [[record.matches for record in own if record.matches is not None] for own in records]
    scored = [
        number for number, (own, matches) in enumerate(zip(records, by_row, strict=True)) if len(own) == len(matches)
    ]
    if len(scored) < 2 or scored[0] != 0:
        return differences
    weights = scene_weights(len(records[0][0].counts.scene_ids), resamples=resamples)
    with progress.task("intervals", total=len(scored) * len(records[0]), unit="run") as shown:
        first: list[Samples] = []
        for number in scored:
            samples = []
            for matches in by_row[number]:
                samples.append(resampled_precisions(matches, vocabulary, weights))
                shown.advance()
            first = first or samples
            if number:
                differences[number] = differences_of(samples, first)
    return differences


def _instance_mean(record: Record, group: str, metric: str) -> float:
    """Return a mean over the classes of a group that have objects; nan if there are none."""
    try:
        value = record.scores["instances"]["means"][group][metric]
    except KeyError:
        return math.nan
    return math.nan if value is None else float(value)


def score_table(comparison: Comparison, metrics: Sequence[str] | None = None) -> Table:
    """Return one row per recipe, mean ± deviation in percent: head, common, tail and all for each metric."""
    metrics = comparison.metrics if metrics is None else metrics
    header = ["", *(f"{TITLES[metric]} {group.capitalize()}" for metric in metrics for group in comparison.groups)]
    rows = [
        [row.label, *(spread_cell(row.scores[metric][group]) for metric in metrics for group in comparison.groups)]
        for row in comparison.rows
    ]
    return Table(header, rows)


def instance_summary(comparison: Comparison) -> Table:
    """Return one row per recipe with the columns of the paper's Table 3, over all classes, in percent."""
    rows = [
        [row.label, *(spread_cell(row.scores[metric]["all"]) for metric in INSTANCE_TITLES)] for row in comparison.rows
    ]
    return Table(["", *INSTANCE_TITLES.values()], rows)


def difference_table(comparison: Comparison, metric: str = "iou") -> Table:
    """Return the difference of every other row from the first, in points, with interval and relative change."""
    header = ["", *(group.capitalize() for group in comparison.groups)]
    rows = []
    for row in comparison.rows[1:]:
        own = row.difference if metric == "iou" else row.instance_differences.get(metric, {})
        rows.append([row.label, *(difference_cell(own[group]) if own else "-" for group in comparison.groups)])
    return Table(header, rows)


def describe(comparison: Comparison) -> str:
    """Return a description of the values in the tables."""
    number = f"{comparison.num_seeds} seed{'s' if comparison.num_seeds > 1 else ''}"
    over = f"the {comparison.num_present} present" if comparison.classes == "present" else "all"
    return f"Percent at vertices of {comparison.num_scenes} scenes, over {over} classes; mean ± deviation over {number}"


def describe_differences(comparison: Comparison, metric: str = "iou") -> str:
    """Return a description of the differences in a metric."""
    over = ", over the classes with objects" if metric in INSTANCE_METRICS else ""
    drawn = "scenes and seeds" if comparison.num_seeds > 1 else "scenes"
    return (
        f"Difference in {TITLES[metric]} from {comparison.rows[0].label}{over}: points [95 % interval over {drawn}], "
        "relative"
    )


def to_markdown(comparison: Comparison) -> str:
    """Return all tables as Markdown, one table per metric so that each fits a page."""
    parts = [f"{describe(comparison)}.", ""]
    if "ap" in comparison.metrics:
        parts += [*_markdown(instance_summary(comparison)), ""]
    for metric in comparison.metrics:
        parts += [*_markdown(score_table(comparison, [metric])), ""]
    for metric in comparison.compared_metrics:
        parts += [f"{describe_differences(comparison, metric)}.", ""]
        parts += [*_markdown(difference_table(comparison, metric)), ""]
    return "\n".join(parts)


def _markdown(table: Table) -> list[str]:
    rule = ["---", *("---:" for _ in table.header[1:])]
    rows = [[SPECIAL.sub(r"\\\1", printable(cell)) for cell in row] for row in [table.header, rule, *table.rows]]
    return [f"| {' | '.join(row)} |" for row in rows]


def _plain_differences(by_group: dict[str, Difference]) -> dict[str, dict[str, Any]]:
    """Return differences as plain values for JSON."""
    return {
        group: {
            "value": none_if_undefined(own.value),
            "interval": [none_if_undefined(end) for end in own.over_scenes],
            "interval_scenes_and_seeds": [none_if_undefined(end) for end in own.over_both],
            "relative": none_if_undefined(own.relative),
            "by_seed": [none_if_undefined(value) for value in own.by_seed],
        }
        for group, own in by_group.items()
    }
