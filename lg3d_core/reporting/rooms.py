"""Pictures of rooms: colours, ground truth and predictions side by side. Source: figure 6."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError
from lg3d_core.evaluation.predictor import Prediction
from lg3d_core.progress import Progress
from lg3d_core.reporting.measure import ScenePrediction
from lg3d_core.reporting.style import PAGE, new_figure, shorten
from lg3d_core.reporting.subject import ReportedRun
from lg3d_core.store.scene_store import SceneStore
from lg3d_core.viewing.layers import ERROR_COLORS, NEUTRAL, SceneView, build_view
from lg3d_core.viewing.picture import render_layers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL = 640
"""Width of a drawn room in pixels."""
MAX_LEGEND = 24
Image = npt.NDArray[np.uint8]


class RoomRow(NamedTuple):
    """Pictures of one room.

    Attributes:
        scene: Id of the scene.
        panels: Title, note and picture of every column, all of the same size.
        marks_errors: Whether a column shows the errors of a run.
        legend: Colour and name of the annotated or predicted classes, largest first.
    """

    scene: str
    panels: tuple[tuple[str, str, Image], ...]
    marks_errors: bool
    legend: tuple[tuple[tuple[int, int, int], str], ...]


def choose_scenes(store: SceneStore, split: str, asked: Sequence[str], count: int) -> list[str]:
    """Return the ids of the requested scenes, or of those of the split with the most annotated classes.

    Raises:
        DataError: A requested scene is not in the store or not in the split.
    """
    for scene in asked:
        if store.split_of(scene) != split:
            raise DataError(f"--scene {scene} is in the split {store.split_of(scene)}, the report covers {split}")
    if asked:
        return list(dict.fromkeys(asked))
    ranked = sorted(store.scene_ids(split), key=lambda scene: (-len(store.entry(scene).class_counts), scene))
    return sorted(ranked[:count])


def draw_rooms(
    runs: Sequence[ReportedRun], store: SceneStore, scenes: Sequence[str], progress: Progress
) -> list[RoomRow]:
    """Draw rooms from one camera each: colours, ground truth, and the prediction of every run with scores.

    For a single run, its errors are drawn too.

    Raises:
        DataError: A scene cannot be read.
        MissingDependencyError: open3d or OpenGL is missing.
    """
    naming = [(run, run.measurement) for run in runs if run.evaluation is not None and run.measurement is not None]
    rows = []
    with progress.task("draw", total=len(scenes), unit="room") as task:
        for scene in scenes:
            guesses = [(run.name, m.predictions[scene]) for run, m in naming if scene in m.predictions]
            rows.append(_draw_room(store, scene, guesses))
            task.advance(status=scene)
    return rows


def _draw_room(store: SceneStore, scene: str, guesses: Sequence[tuple[str, ScenePrediction]]) -> RoomRow:
    data = store.read(scene)
    size = {"width": PANEL, "height": PANEL * 3 // 4}
    empty = np.zeros(0, dtype=np.int16)
    views = [
        (name, build_view(data, store.vocabulary, Prediction(guess.label, guess.confidence, empty, empty)))
        for name, guess in guesses
    ]
    plain = views[0][1] if views else build_view(data, store.vocabulary)
    shown = tuple(name for name in ("colours", "truth") if name in plain.layers)
    first = shown if not views else (*shown, "prediction", *(("errors",) if len(views) == 1 else ()))
    layers = tuple(layer for layer in first if layer in plain.layers)
    panels = []
    for layer, picture in zip(layers, render_layers(plain, layers, **size), strict=True):
        is_run = bool(views) and layer == "prediction"
        panels.append((views[0][0], _score(plain), picture) if is_run else (plain.title(layer), "", picture))
    for name, view in views[1:]:
        panels.append((name, _score(view), render_layers(view, ("prediction",), **size)[0]))
    return RoomRow(scene, tuple(panels), "errors" in layers, _legend([view for _, view in views] or [plain]))


def _score(view: SceneView) -> str:
    return "" if view.scores is None else f"mIoU {100 * view.scores.miou:.1f}"


def _legend(views: Sequence[SceneView]) -> tuple[tuple[tuple[int, int, int], str], ...]:
    share: dict[tuple[tuple[int, int, int], str], float] = {}
    for view in views:
        for entry in view.legend:
            seen = entry.share + (entry.predicted_share or 0.0) / len(views)
            share[entry.color, entry.name] = max(share.get((entry.color, entry.name), 0.0), seen)
    return tuple(sorted(share, key=lambda key: -share[key])[:MAX_LEGEND])


def plot_rooms(rows: Sequence[RoomRow]) -> "Figure | None":
    """Draw one row per room and one column per layer, with the legend of the visible classes below.

    Returns:
        The figure, or None without rooms.
    """
    if not rows:
        return None
    columns = max(len(row.panels) for row in rows)
    # Further columns continue on the next line, so that rooms stay large enough to recognise.
    per_line = min(columns, 4 if columns != 5 else 3)
    lines = -(-columns // per_line)
    width = PAGE / per_line
    heights = [
        width * row.panels[0][2].shape[0] / row.panels[0][2].shape[1] + 0.33 for row in rows for _ in range(lines)
    ]
    legend = list(dict.fromkeys(entry for row in rows for entry in row.legend))[: MAX_LEGEND + 8]
    legend_height = 0.13 * -(-(len(legend) + 3) // 5) + 0.1
    figure = new_figure(PAGE, sum(heights) + legend_height)
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.set(h_pad=0.03, w_pad=0.01, hspace=0.0, wspace=0.0, rect=(0, 0, 1, 0.97))  # titles need space
    grid = figure.subplots(len(rows) * lines, per_line, squeeze=False, height_ratios=heights)
    for axis in grid.flat:
        axis.set_axis_off()
    for number, row in enumerate(rows):
        axes = grid[number * lines : (number + 1) * lines].flat
        for k, (axis, (title, note, picture)) in enumerate(zip(axes, row.panels, strict=False)):
            axis.imshow(picture, interpolation="lanczos")
            name = shorten(title, 28)
            first, second = (shorten(row.scene, 28), name.lower()) if k == 0 else (name, note or "\N{NO-BREAK SPACE}")
            axis.set_title(f"{first}\n{second}", fontsize=7, fontweight="normal", linespacing=1.15)
    from matplotlib.patches import Patch

    entries = [*((color, name) for color, name in legend), (NEUTRAL, "unannotated")]
    if any(row.marks_errors for row in rows):
        entries += [(ERROR_COLORS["right"], "right"), (ERROR_COLORS["wrong"], "wrong")]
    handles = [Patch(facecolor=[c / 255 for c in color], edgecolor="#8a919d", linewidth=0.3) for color, _ in entries]
    figure.legend(
        handles,
        [shorten(name, 20) for _, name in entries],
        loc="outside lower left",
        ncols=5,
        fontsize=6.5,
        handlelength=1.0,
        handleheight=1.0,
        columnspacing=1.2,
        labelspacing=0.35,
    )
    return figure
