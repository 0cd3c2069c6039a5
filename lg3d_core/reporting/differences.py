"""Comparison of runs: the classes that each run predicts better or worse than the first."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.evaluation.scores import Scores
from lg3d_core.reporting.style import INK, PAGE, QUIET, grid, new_figure, run_mark, shorten, signed
from lg3d_core.reporting.subject import ReportedRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CHANGED = 12
"""Number of classes on either side of a figure."""


class Difference(NamedTuple):
    """Difference of a run from the first one.

    Attributes:
        name: Name of the run.
        base: Name of the first run.
        number: Index of the run in the report.
        iou: Difference in IoU, -1..1, NaN for classes without annotated vertices, shape `(classes,)`. An undefined IoU
            counts as 0.
        better: Number of classes that improved.
        worse: Number of classes that got worse.
    """

    name: str
    base: str
    number: int
    iou: npt.NDArray[np.float64]
    better: int
    worse: int


def compare_runs(runs: Sequence[ReportedRun]) -> list[Difference]:
    """Return the differences in vertex IoU of all runs with scores from the first run with scores."""
    scored = [(index, run.name, run.evaluation.vertex) for index, run in enumerate(runs) if run.evaluation is not None]
    found = []
    for index, name, scores in scored[1:]:
        change = _iou(scores) - _iou(scored[0][2])
        found.append(Difference(name, scored[0][1], index, change, int((change > 0).sum()), int((change < 0).sum())))
    return found


def _iou(scores: Scores) -> npt.NDArray[np.float64]:
    return np.where(scores.support > 0, np.nan_to_num(scores.iou), np.nan)


def plot_differences(runs: Sequence[ReportedRun], differences: Sequence[Difference]) -> "Figure | None":
    """Draw the classes that improved and got worse most, for every run after the first.

    Returns:
        The figure, or None if there is nothing to compare.
    """
    if not differences:
        return None
    base = next(run.evaluation.vertex for run in runs if run.evaluation is not None)
    chosen = [_most_changed(difference) for difference in differences]
    columns = min(2, len(differences))
    rows = -(-len(differences) // columns)
    tallest = max(len(rows_) for rows_ in chosen)
    figure = new_figure(PAGE if columns == 2 else 0.75 * PAGE, (0.8 + 0.155 * max(tallest, 4)) * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[len(differences) :]:
        unused.set_axis_off()
    for axis, difference, members in zip(axes, differences, chosen, strict=False):
        _plot_bars(axis, difference, members, base)
    return figure


def _most_changed(difference: Difference) -> npt.NDArray[np.int64]:
    changed = np.flatnonzero(np.nan_to_num(difference.iou) != 0)
    order = changed[np.argsort(-difference.iou[changed], kind="stable")]
    gained = order[difference.iou[order] > 0][:MOST_CHANGED]
    lost = order[difference.iou[order] < 0][-MOST_CHANGED:]
    return np.concatenate([gained, lost])


def _plot_bars(axes: "Axes", difference: Difference, members: npt.NDArray[np.int64], base: Scores) -> None:
    change = 100 * difference.iou[members]
    place = np.arange(len(members))
    better, worse = run_mark(difference.number).color, QUIET
    axes.barh(place, change, color=[better if value > 0 else worse for value in change], height=0.78)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.invert_yaxis()
    axes.set_yticks(place, [shorten(base.vocabulary.names[index], 20) for index in members], fontsize=6.5)
    axes.tick_params(axis="y", length=0)
    for y, value in zip(place, change, strict=True):
        axes.annotate(
            signed(value),
            (value, y),
            xytext=(2 if value > 0 else -2, 0),
            textcoords="offset points",
            ha="left" if value > 0 else "right",
            va="center",
            fontsize=6,
            color=INK,
        )
    axes.margins(x=0.16)
    axes.set_xlabel(f"IoU minus IoU of {shorten(difference.base, 26)} (points)")
    axes.set_title(f"{shorten(difference.name, 26)}: {difference.better} better, {difference.worse} worse")
    grid(axes, "x")
