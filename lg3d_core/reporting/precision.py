"""Average precision of a run's objects: over class frequency, and as precision-recall curves."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.evaluation.instances import (
    AT_25,
    AT_50,
    OVERLAPS,
    InstanceScores,
    SceneMatches,
    decide,
    precision_recall,
    rank_classes,
)
from lg3d_core.reporting.frequency import Frequency, plot_scatter
from lg3d_core.reporting.style import NO_GROUP, PAGE, grid, group_marks, new_figure, shorten
from lg3d_core.vocabulary import Vocabulary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECALLS: npt.NDArray[np.float64] = np.linspace(0, 1, 101)
"""Recalls at which the curves are averaged."""


class ScoredObjects(NamedTuple):
    """Objects of one run.

    Attributes:
        name: Name of the run.
        scores: Average precision.
        matches: Matched objects of each scene.
    """

    name: str
    scores: InstanceScores
    matches: Sequence[SceneMatches]


def plot_precision_over_frequency(runs: Sequence[ScoredObjects], frequency: Frequency) -> "Figure | None":
    """Draw the AP50 of every class over its training objects, one panel per run. Return None without runs."""
    if not runs:
        return None
    columns = min(2, len(runs))
    lines = -(-len(runs) // columns)
    figure = new_figure(PAGE if columns == 2 else 0.72 * PAGE, 2.75 * lines + 0.25)
    axes = list(figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat)
    for unused in axes[len(runs) :]:
        unused.set_axis_off()
    for axis, run in zip(axes, runs, strict=False):
        present = np.flatnonzero(run.scores.num_objects > 0)
        plot_scatter(
            axis,
            run.scores.ap50,
            frequency.instances,
            present,
            run.scores.vocabulary,
            absent="no training object",
        )
        axis.set_title(shorten(run.name, 40))
        axis.set_xlabel("annotated training objects")
        axis.tick_params(labelbottom=True)
    for axis in axes[: len(runs)][::columns]:
        axis.set_ylabel("AP50 (%)")
    handles, labels = axes[0].get_legend_handles_labels()
    if any(labels):
        figure.legend(handles, labels, loc="outside upper right", ncols=3)
    return figure


def mean_curves(
    matches: Sequence[SceneMatches], vocabulary: Vocabulary, *, overlap: float
) -> dict[str, npt.NDArray[np.float64]]:
    """Return the precision at `RECALLS`, averaged over the classes of each group that have objects.

    The precision at a recall is the highest one at this or a higher recall, and 0 beyond the highest recall.

    Args:
        matches: Matched objects of each scene.
        vocabulary: The classes.
        overlap: IoU threshold.

    Returns:
        Precision by group, shape `(101,)`; only of groups that have objects.
    """
    size = len(vocabulary)
    objects = np.bincount(np.concatenate([np.zeros(0, np.int64), *(m.object_class for m in matches)]), minlength=size)
    curves = np.zeros((size, len(RECALLS)))
    for class_, ranking in enumerate(rank_classes(decide(matches, overlap=overlap), objects)):
        if ranking.num_objects == 0:
            continue
        precision, recall = precision_recall(ranking)
        recall, highest = recall[:-1][::-1], np.maximum.accumulate(precision[:-1])[::-1]
        at = np.searchsorted(recall, RECALLS - 1e-9)  # recall is ascending; rounding must not skip its last point
        reached = at < len(recall)
        curves[class_, reached] = highest[at[reached]]
    groups = {**vocabulary.groups, "all": np.arange(size)}
    present = {group: members[objects[members] > 0] for group, members in groups.items()}
    return {group: curves[members].mean(axis=0) for group, members in present.items() if len(members)}


def plot_precision_recall(runs: Sequence[ScoredObjects]) -> "Figure | None":
    """Draw the mean precision-recall curves of each group at IoU 0.50 and 0.25. Return None without runs."""
    if not runs:
        return None
    figure = new_figure(PAGE, 2.6 * len(runs) + 0.25)
    axes = figure.subplots(len(runs), 2, squeeze=False, sharex=True, sharey=True)
    for run, (left, right) in zip(runs, axes, strict=True):
        for axis, at in ((left, AT_50), (right, AT_25)):
            overlap, marks = float(OVERLAPS[at]), group_marks(run.scores.vocabulary.groups)
            for group, curve in mean_curves(run.matches, run.scores.vocabulary, overlap=overlap).items():
                mark = marks.get(group, NO_GROUP)
                axis.plot(100 * RECALLS, 100 * curve, color=mark.color, linestyle=mark.line, label=shorten(group))
            axis.set_title(f"{shorten(run.name, 30)}, IoU {overlap:.2f}")
            axis.set_xlim(0, 100)
            axis.set_ylim(0, 103)
            grid(axis)
        left.set_ylabel("precision (%)")
    for axis in axes[-1]:
        axis.set_xlabel("recall (%)")
    handles, labels = axes[0][0].get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside upper right", ncols=len(labels))
    return figure
