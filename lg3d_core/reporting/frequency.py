"""IoU of every class over its frequency. Source: figure 4 and table 5."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.evaluation.scores import Scores
from lg3d_core.reporting.style import FAINT, INK, PAGE, QUIET, count_axis, grid, group_marks, halo, new_figure, shorten
from lg3d_core.reporting.subject import ReportedRun
from lg3d_core.vocabulary import Vocabulary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_NAMES = 90
"""Number of class names that fit under a figure of page width."""
NAMED_POINTS = 9
"""Number of classes that are named in a scatter plot."""
MIN_NAMED = 3.0
"""Score in percent below which points are unnamed: their names would overlap."""


class Frequency(NamedTuple):
    """Frequency of every class.

    Attributes:
        training: Number of vertices in the training scenes, int64 `(classes,)`.
        split: Number of vertices in the scored scenes, int64 `(classes,)`.
        instances: Number of objects in the training scenes, int64 `(classes,)`.
    """

    training: npt.NDArray[np.int64]
    split: npt.NDArray[np.int64]
    instances: npt.NDArray[np.int64]

    @property
    def order(self) -> npt.NDArray[np.int64]:
        """Return the classes that occur in either split, most training objects first, as in figure 4."""
        order = np.lexsort((-self.split, -self.training, -self.instances))
        rows: npt.NDArray[np.int64] = order[(self.training + self.split)[order] > 0]
        return rows


def plot_categories(scores: Scores, frequency: Frequency, title: str) -> "Figure":
    """Draw the classes by frequency: training objects and vertices as in figure 4, and their IoU below."""
    vocabulary, order = scores.vocabulary, frequency.order
    figure = new_figure(PAGE, 5.2)
    first, second, lower = figure.subplots(3, 1, sharex=True, height_ratios=[1, 1, 1.15])
    counted = ((first, frequency.instances), (second, frequency.training))
    place = np.arange(len(order))
    iou = 100 * scores.iou[order]
    for group, mark in group_marks(vocabulary.groups).items():
        rows = np.array([vocabulary.categories[index].group == group for index in order], dtype=bool)
        if not rows.any():
            continue
        for axes, counts in counted:
            axes.bar(
                place[rows],
                counts[order][rows],
                color=mark.color,
                width=0.85,
                label=shorten(group) or None,
                edgecolor="white",
                linewidth=0.2,
            )
        shown = rows & (scores.support[order] > 0)
        lower.vlines(place[shown], 0, np.nan_to_num(iou[shown]), color=mark.color, linewidth=1.2)
        lower.plot(place[shown], np.nan_to_num(iou[shown]), mark.marker, color=mark.color, markersize=3.2)
    absent = scores.support[order] == 0
    lower.plot(place[absent], np.zeros(int(absent.sum())), "|", color=FAINT, markersize=5, label="not in these scenes")
    for axes, counts in counted:
        some = counts[counts > 0]
        if len(some):
            axes.set_yscale("log")
            axes.set_ylim(float(some.min()) / 2)
        else:  # such as a store without annotated objects
            axes.set_ylim(0, 1)
        count_axis(axes.yaxis)
        axes.tick_params(bottom=False)
        grid(axes, "y")
    first.set_ylabel("training objects")
    second.set_ylabel("training vertices")
    first.set_title(title)
    if vocabulary.groups:
        first.legend(ncols=3, loc="upper right")
    lower.set_ylabel("IoU (%)")
    lower.set_ylim(-3, 103)
    lower.set_xlim(-1, len(order))
    if absent.any():
        lower.legend(loc="upper right")
    if len(order) <= MAX_NAMES:
        names = [shorten(vocabulary.names[index], 20) for index in order]
        size = min(7.0, 0.9 * 72 * (PAGE - 0.7) / max(len(order), 1))
        lower.set_xticks(place, names, rotation=90, fontsize=size)
        lower.tick_params(axis="x", length=0, pad=1)
    else:
        lower.set_xlabel("classes, most training objects first")
    grid(lower, "y")
    return figure


def plot_frequency(runs: Sequence[ReportedRun], frequency: Frequency) -> "Figure | None":
    """Draw the IoU over the annotated training vertices, one panel per run, with the mean of each group.

    Returns:
        The figure, or None if no run has scores.
    """
    scored = [(run.name, run.evaluation.vertex) for run in runs if run.evaluation is not None]
    if not scored:
        return None
    columns = min(2, len(scored))
    rows = -(-len(scored) // columns)
    width = PAGE if columns == 2 else 0.72 * PAGE
    figure = new_figure(width, 2.75 * rows + 0.25)
    axes = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    for unused in axes[len(scored) :]:
        unused.set_axis_off()
    for axis, (name, scores) in zip(axes, scored, strict=False):
        present = np.flatnonzero(scores.support > 0)
        plot_scatter(axis, scores.iou, frequency.training, present, scores.vocabulary, absent="no training vertex")
        axis.set_title(shorten(name, 40))
    for axis in axes[: len(scored)][::columns]:
        axis.set_ylabel("IoU (%)")
    for axis in axes[max(0, len(scored) - columns) : len(scored)]:
        axis.set_xlabel("annotated training vertices")
        axis.tick_params(labelbottom=True)
    handles, labels = axes[0].get_legend_handles_labels()
    if any(labels):
        figure.legend(handles, labels, loc="outside upper right", ncols=3)
    return figure


def plot_scatter(
    axes: "Axes",
    values: npt.NDArray[np.float64],
    counts: npt.NDArray[np.int64],
    present: npt.NDArray[np.int64],
    vocabulary: Vocabulary,
    *,
    absent: str,
) -> None:
    """Draw a score of every class over its frequency, with the mean of each group.

    Args:
        axes: Axes to draw on.
        values: Score of each class, 0..1; nan counts as 0, shape `(classes,)`.
        counts: Frequency of each class in training, shape `(classes,)`.
        present: Indices of the classes to draw.
        vocabulary: The classes.
        absent: Note at the classes of frequency 0.
    """
    # Classes that were not trained have no place on a logarithmic axis: they are drawn left of the others.
    x, y = np.maximum(counts, 0.5).astype(float), 100 * np.nan_to_num(values)
    least = counts[present][counts[present] > 0]
    floor = float(least.min()) / 6 if len(least) else 1.0
    x = np.where(counts > 0, x, floor)
    for group, mark in group_marks(vocabulary.groups).items():
        members = [index for index in present.tolist() if vocabulary.categories[index].group == group]
        if not members:
            continue
        axes.scatter(
            x[members],
            y[members],
            s=16,
            marker=mark.marker,
            facecolor=mark.color,
            edgecolor="white",
            linewidth=0.4,
            alpha=0.9,
            label=f"{shorten(group)} ({len(members)})" if group else None,
            zorder=3,
        )
        low, high = np.quantile(x[members], [0, 1])
        mean = float(y[members].mean())
        axes.plot([low, high], [mean, mean], color=mark.color, linestyle=mark.line, linewidth=1.3, zorder=2)
    axes.set_xscale("log")
    axes.set_ylim(-4, 104)
    count_axis(axes.xaxis)
    grid(axes)
    best = present[np.argsort(-y[present], kind="stable")][:NAMED_POINTS]
    taken: list[tuple[float, float]] = []
    for index in best.tolist():
        if y[index] < MIN_NAMED:
            continue
        spot = (float(np.log10(x[index])), float(y[index]))
        if any(abs(spot[0] - other[0]) < 1.0 and abs(spot[1] - other[1]) < 5.5 for other in taken):
            continue
        taken.append(spot)
        right = spot[0] > np.log10(x[present]).mean()
        text = axes.annotate(
            shorten(vocabulary.names[index], 18),
            (x[index], y[index]),
            xytext=(-5 if right else 5, 0),
            textcoords="offset points",
            ha="right" if right else "left",
            va="center",
            fontsize=6.5,
            color=INK,
        )
        halo(text)
    if (counts[present] == 0).any():
        axes.axvline(floor * 2.2, color=QUIET, linewidth=0.6, linestyle=(0, (2, 2)))
        axes.set_xlim(left=floor / 2)
        axes.text(floor * 1.9, 102, absent, rotation=90, ha="right", va="top", fontsize=6.5, color=QUIET)
