"""Figure of a finished comparison: mIoU per row with learning curves, or over the fraction of labels if it varies."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from lg3d_core.comparing.statistics import Spread
from lg3d_core.comparing.table import ComparedRow, Comparison
from lg3d_core.reporting.curves import draw_scores
from lg3d_core.reporting.style import (
    FAINT,
    INK,
    PAGE,
    drawing,
    grid,
    new_figure,
    run_mark,
    shorten,
    write_figure_as,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

LABEL = "mIoU, %"
CURVES = 2.6
"""Height of the learning curves in inches."""


def write_comparison_figure(comparison: Comparison, path: Path) -> Path:
    """Write the figure of a comparison atomically as a PNG, PDF or SVG file, by its suffix.

    Raises:
        DataError: The file cannot be written.
        MissingDependencyError: matplotlib is not installed.
    """
    with drawing():
        return write_figure_as(plot_comparison(comparison), path)


def plot_comparison(comparison: Comparison) -> "Figure":
    """Draw one panel per group: curves over the fraction of labels, or one line per row if all fractions are equal.

    Error bars are standard deviations over seeds. With equal fractions, the learning curves of rows with several
    validations are drawn above: their validation mIoU over all optimizer steps, those of pre-training included.
    """
    shares = sorted({row.share for row in comparison.rows})
    if len(shares) == 1:
        return _plot_rows(comparison)
    methods: dict[str, list[ComparedRow]] = {}
    for row in sorted(comparison.rows, key=lambda row: row.share):
        methods.setdefault(row.method, []).append(row)
    figure = new_figure(PAGE, 2.5)
    panels = figure.subplots(1, len(comparison.groups), squeeze=False)[0]
    for axes, group in zip(panels, comparison.groups, strict=True):
        for number, (method, rows) in enumerate(methods.items()):
            own, mark = [row.scores["iou"][group] for row in rows], run_mark(number)
            axes.errorbar(
                [100 * row.share for row in rows],
                [100 * spread.mean for spread in own],
                [_deviation(spread) for spread in own],
                color=mark.color,
                marker=mark.marker,
                markersize=3.5,
                linestyle=mark.line,
                elinewidth=0.8,
                label=shorten(method, 40),
            )
        axes.set_xscale("log")
        axes.set_xticks([100 * share for share in shares], [f"{100 * share:g}" for share in shares])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_xlabel("labels, %")
        _head(axes, group)
    panels[0].set_ylabel(LABEL)
    bars, names = panels[0].get_legend_handles_labels()
    figure.legend(bars, names, loc="outside upper left", ncols=min(4, len(methods)))
    return figure


def _plot_rows(comparison: Comparison) -> "Figure":
    height = 0.7 + 0.21 * len(comparison.rows)
    has_curves = any(len(curve.step) > 1 for row in comparison.rows for curve in row.curves)
    figure = new_figure(PAGE, height + CURVES * has_curves)
    if not has_curves:
        _plot_scores(figure, comparison)
        return figure
    above, below = figure.subfigures(2, 1, height_ratios=(CURVES, height))
    _plot_curves(above.subplots(), comparison)
    _plot_scores(below, comparison)
    return figure


def _plot_curves(axes: "Axes", comparison: Comparison) -> None:
    for number, row in enumerate(comparison.rows):
        for seed, curve in enumerate(row.curves):
            draw_scores(axes, curve, run_mark(number), label=None if seed else shorten(row.label, 40))
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set(title="Validation", xlabel="optimizer steps, pre-training included", ylabel=LABEL)
    grid(axes)
    axes.figure.legend(loc="outside right upper")


def _plot_scores(figure: "Figure | SubFigure", comparison: Comparison) -> None:
    rows = comparison.rows
    panels = figure.subplots(1, len(comparison.groups), sharey=True, squeeze=False)[0]
    for axes, group in zip(panels, comparison.groups, strict=True):
        first = 100 * rows[0].scores["iou"][group].mean
        if not math.isnan(first):
            axes.axvline(first, color=FAINT, linewidth=0.8)
        for place, row in enumerate(rows):
            own = row.scores["iou"][group]
            if math.isnan(own.mean):
                continue
            seeds = [100 * value for value in row.by_seed["iou"][group]]
            axes.plot(seeds, [place] * len(seeds), "|", color=INK, markersize=5, alpha=0.5)
            mark = run_mark(place)
            axes.errorbar(100 * own.mean, place, xerr=_deviation(own), fmt=mark.marker, color=mark.color, markersize=4)
            axes.annotate(
                f"{100 * own.mean:.1f}",
                (1.0, place),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="center",
                fontsize=6.5,
            )
        _, high = axes.get_xlim()
        axes.set_xlim(0, 1.35 * high)  # room for the numbers to the right of the bars
        axes.set_xlabel(LABEL)
        _head(axes, group)
    panels[0].set_yticks(range(len(rows)), [shorten(row.label, 32) for row in rows])
    panels[0].set_ylim(len(rows) - 0.4, -0.6)


def _head(axes: "Axes", group: str) -> None:
    axes.set_title(group.capitalize())
    grid(axes)


def _deviation(spread: Spread) -> float:
    """Return the standard deviation in percentage points, 0 for a single seed."""
    return 0.0 if math.isnan(spread.deviation) else 100 * spread.deviation
