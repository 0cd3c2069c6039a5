"""Learning curves: loss, learning rate and validation over the optimizer steps."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lg3d_core.models.models import VALIDATION
from lg3d_core.reporting.runs import Curve
from lg3d_core.reporting.style import PAGE, Mark, grid, new_figure, run_mark, shorten
from lg3d_core.reporting.subject import ReportedRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def smooth(value: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the mean in a window around each step, a twentieth of all steps wide, truncated at the ends."""
    half = max(1, len(value) // 40)
    total = np.concatenate([[0.0], np.cumsum(value)])
    centre = np.arange(len(value))
    low, high = np.maximum(centre - half, 0), np.minimum(centre + half + 1, len(value))
    mean: npt.NDArray[np.float64] = (total[high] - total[low]) / (high - low)
    return mean


def plot_curves(runs: Sequence[ReportedRun]) -> "Figure | None":
    """Draw the curves of all runs that logged any; different losses have separate panels.

    Returns:
        The figure, or None if no run logged anything.
    """
    logged = [(index, run) for index, run in enumerate(runs) if "loss" in run.record.curves]
    kinds = list(dict.fromkeys(_loss_name(run) for _, run in logged))
    validated = [(index, run) for index, run in enumerate(runs) if VALIDATION in run.record.curves]
    panels = len(kinds) + bool(logged) + bool(validated)
    if panels == 0:
        return None
    columns = 2 if panels == 4 else min(3, panels)
    rows = -(-panels // columns)
    figure = new_figure(PAGE, 2.15 * rows + 0.3)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[panels:]:
        unused.set_axis_off()
    for kind in kinds:
        _plot_loss(axes.pop(0), [(i, run) for i, run in logged if _loss_name(run) == kind], kind)
    if validated:
        _plot_validation(axes.pop(0), validated)
    if logged:
        _plot_rate(axes.pop(0), logged)
    handles = {
        text: handle for axis in figure.axes for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    if len(runs) > 1:
        figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=4)
    return figure


def _plot_loss(axes: "Axes", runs: Sequence[tuple[int, ReportedRun]], title: str) -> None:
    lowest, highest = [], []
    for index, run in runs:
        mark, curve = run_mark(index), run.record.curves["loss"]
        mean = smooth(curve.value)
        axes.plot(curve.step, curve.value, color=mark.color, alpha=0.25, linewidth=0.6)
        axes.plot(curve.step, mean, color=mark.color, linestyle=mark.line, label=shorten(run.name, 30))
        lowest.append(curve.value.min())
        highest.append(max(float(np.percentile(curve.value, 99)), float(mean.max())))
    # A single outlier must not flatten the rest.
    room = 0.05 * (max(highest) - min(lowest)) or 0.05
    axes.set_ylim(min(0.0, min(lowest) - room), max(highest) + room)
    axes.set(title=title, xlabel="step", ylabel="loss")
    grid(axes)


def _plot_validation(axes: "Axes", runs: Sequence[tuple[int, ReportedRun]]) -> None:
    for index, run in runs:
        mark, curve = run_mark(index), run.record.curves[VALIDATION]
        draw_scores(axes, curve, mark, label=shorten(run.name, 30))
        best = int(np.argmax(curve.value))
        axes.annotate(
            f"{100 * curve.value[best]:.1f}",
            (curve.step[best], 100 * curve.value[best]),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            color=mark.color,
            fontsize=7,
        )
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.set_ylim(0, max(100 * float(run.record.curves[VALIDATION].value.max()) for _, run in runs) * 1.2 or 1.0)
    axes.set(title="Validation", xlabel="step", ylabel="mIoU, present (%)")
    grid(axes)


def draw_scores(axes: "Axes", curve: Curve, mark: Mark, *, label: str | None) -> None:
    """Draw scores in percent over optimizer steps, with a mark at each validation."""
    axes.plot(
        curve.step,
        100 * curve.value,
        color=mark.color,
        linestyle=mark.line,
        marker=mark.marker,
        markersize=4,
        label=label,
    )


def _plot_rate(axes: "Axes", runs: Sequence[tuple[int, ReportedRun]]) -> None:
    for index, run in runs:
        mark = run_mark(index)
        curve = run.record.curves.get("lr", Curve(np.zeros(0, dtype=np.int64), np.zeros(0)))
        axes.plot(curve.step, curve.value, color=mark.color, linestyle=mark.line)
    axes.set_ylim(bottom=0)
    axes.set(title="Learning rate", xlabel="step")
    grid(axes)


def _loss_name(run: ReportedRun) -> str:
    """Return the name of the loss; runs with the same name share a panel."""
    settings = run.record.settings
    if run.record.kind == "pretrain":
        return {"language": "Loss: language", "supcon": "Loss: SupCon", "csc": "Loss: CSC"}.get(
            run.record.method, f"Loss: {run.record.method}"
        )
    return f"Loss: {settings.get('loss', 'fine-tuning')}"
