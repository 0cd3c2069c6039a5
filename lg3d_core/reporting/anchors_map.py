"""Similarity map of the text anchors: the cosine of every pair of classes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError, MissingDependencyError, SettingsError
from lg3d_core.language.anchors_file import Anchors
from lg3d_core.reporting.style import (
    INSTALL,
    QUIET,
    drawing,
    group_marks,
    new_figure,
    shorten,
    write_figure_as,
)
from lg3d_core.vocabulary import load_vocabulary
from lg3d_core.vocabulary.categories import order_groups

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

Order = Literal["likeness", "groups"]


def write_anchors_map(anchors: Anchors, path: Path, *, vocabulary: str, order: Order = "likeness") -> Path:
    """Write the similarity map of anchors as a PNG, PDF or SVG file, according to its suffix.

    Args:
        anchors: Anchors of at least two classes.
        path: File to write, atomically: `.png`, `.pdf` or `.svg`.
        vocabulary: Vocabulary whose groups colour the names, if it has the classes of the anchors.
        order: Order by similarity (hierarchical clusters, drawn beside the map), or by groups.

    Raises:
        SettingsError: The order is by groups and the vocabulary has none.
        DataError: The vocabulary cannot be read, the file cannot be written, or there is only one anchor.
        MissingDependencyError: matplotlib or scikit-learn is missing.
    """
    groups = _groups_of(anchors, vocabulary)
    if order == "groups" and not any(groups):
        raise SettingsError(
            f"--order groups: the vocabulary {vocabulary} has no groups for the classes of these anchors: pass their "
            "vocabulary as --vocabulary, or omit the option",
            fields=("order",),
        )
    with drawing():
        return write_figure_as(plot_anchors(anchors, groups, order=order), path)


def _groups_of(anchors: Anchors, vocabulary: str) -> tuple[str, ...]:
    """Return the group of each anchor's class, "" if it is unknown."""
    for name in (vocabulary, "scannet200"):
        known = load_vocabulary(name)
        if known.names == anchors.names:
            return tuple(category.group for category in known.categories)
    return ("",) * len(anchors.names)


def cosines_of(anchors: Anchors) -> npt.NDArray[np.float64]:
    """Return the cosine of every pair of anchors, shape `(classes, classes)`."""
    unit = anchors.vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    return unit @ unit.T


def plot_anchors(anchors: Anchors, groups: tuple[str, ...], *, order: Order) -> "Figure":
    """Draw the map, its order, the group of each class, and the scale.

    Raises:
        DataError: There are fewer than two anchors.
        MissingDependencyError: scikit-learn (and its dependency SciPy) is missing.
    """
    size = len(anchors.names)
    if size < 2:
        raise DataError(f"a similarity map needs at least 2 anchors, got {size}")
    cosines = cosines_of(anchors)
    tree = _cluster(cosines)
    rows = np.array(tree["leaves"] if order == "likeness" else _by_group(groups), dtype=np.int64)
    # The figure grows with the number of anchors, so that names stay legible.
    letter = 6.5 if size > 60 else 8.0
    side = max(3.2, size * letter * 1.12 / 72)
    longest = max(len(shorten(name, 24)) for name in anchors.names) * letter * 0.6 / 72
    above = 0.06 * side + 0.35 if order == "likeness" else 0.3
    width, height = side + longest + 0.95, side + longest + above + 0.35
    figure = new_figure(width, height)
    figure.set_layout_engine("none")
    left, bottom = longest + 0.1, longest + 0.15

    def place(x: float, y: float, w: float, h: float) -> tuple[float, float, float, float]:
        return x / width, y / height, w / width, h / height

    axes = figure.add_axes(place(left, bottom, side, side))
    outside = cosines[~np.eye(size, dtype=bool)]
    # Half of the cells are near zero; they are pale, so that high similarity stands out in print.
    low, high = np.quantile(outside, [0.25, 0.9995])
    image = axes.imshow(
        cosines[np.ix_(rows, rows)], cmap="YlGnBu", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest"
    )
    names = [shorten(anchors.names[row], 24) for row in rows]
    axes.set_xticks(range(size), names, rotation=90, fontsize=letter)
    axes.set_yticks(range(size), names, fontsize=letter)
    axes.tick_params(length=0, pad=2)
    for spine in axes.spines.values():
        spine.set_visible(False)
    marks = group_marks(order_groups(groups))
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        for label, row in zip(labels, rows, strict=True):
            label.set_color(_dark(marks[groups[row]].color))
    if order == "likeness":
        _draw_tree(figure.add_axes(place(left, bottom + side + 0.03, side, 0.06 * side)), tree, size)
    _draw_scale(figure, place(left + side + 0.12, bottom, 0.14, min(side, max(3.0, side / 4))), image)
    _draw_heading(figure, anchors, groups, left=left / width, top=1 - 0.08 / height)
    return figure


def _dark(color: str) -> str:
    """Return a colour that is dark enough for text."""
    channels = [int(color[k : k + 2], 16) for k in (1, 3, 5)]
    bright = (0.3 * channels[0] + 0.59 * channels[1] + 0.11 * channels[2]) / 255
    scale = min(1.0, 0.42 / max(bright, 1e-6))
    return "#" + "".join(f"{round(channel * scale):02x}" for channel in channels)


def _cluster(cosines: npt.NDArray[np.float64]) -> dict[str, list[Any]]:
    """Return a hierarchy of clusters by mean cosine, with leaves ordered so that similar neighbours are adjacent."""
    try:
        from scipy.cluster.hierarchy import dendrogram, linkage
        from scipy.spatial.distance import squareform
    except ImportError:
        raise MissingDependencyError(INSTALL) from None
    distance = np.clip(1 - cosines, 0, None)
    np.fill_diagonal(distance, 0)
    links = linkage(squareform((distance + distance.T) / 2, checks=False), "average", optimal_ordering=True)
    tree: dict[str, list[Any]] = dendrogram(links, no_plot=True)
    return tree


def _by_group(groups: tuple[str, ...]) -> list[int]:
    ranks = [*order_groups(groups), ""]
    return sorted(range(len(groups)), key=lambda index: (ranks.index(groups[index]), index))


def _draw_tree(axes: "Axes", tree: dict[str, list[Any]], size: int) -> None:
    for x, y in zip(tree["icoord"], tree["dcoord"], strict=True):
        axes.plot(np.array(x) / 10 - 0.5, y, color=QUIET, linewidth=0.6)
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(0)
    axes.set_axis_off()


def _draw_scale(figure: "Figure", place: tuple[float, float, float, float], image: "AxesImage") -> None:
    bar = figure.colorbar(image, cax=figure.add_axes(place), extend="both")
    bar.set_label("cosine", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)


def _draw_heading(figure: "Figure", anchors: Anchors, groups: tuple[str, ...], *, left: float, top: float) -> None:
    """Draw the heading: the encoder of the anchors, and the legend of the groups' colours."""
    from matplotlib.patches import Patch

    encoder = f"{shorten(anchors.metadata['encoder'], 40 if len(groups) < 60 else 120)}, width {anchors.dim}"
    figure.text(left, top, encoder, fontsize=9, va="top", fontweight="bold")
    known = order_groups(groups)
    if known:
        marks = group_marks(known)
        handles = [Patch(color=_dark(marks[group].color), label=shorten(group)) for group in known]
        figure.legend(
            handles=handles, loc="upper right", ncols=len(known), fontsize=8, handlelength=1, borderaxespad=0.3
        )
