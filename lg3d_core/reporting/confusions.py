"""What is taken for what."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.reporting.style import INK, PAGE, new_figure, shorten
from lg3d_core.vocabulary import Vocabulary

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

MAX_CATEGORIES = 18
"""In the matrix."""
MIN_SHARE = 5e-4
"""Of the scored vertices that a category must have, so that a handful of vertices leads no list."""
OTHER = "anything else"


class Confusion(NamedTuple):
    """One category taken for another.

    Attributes:
        truth: Name of the annotated category.
        predicted: Name of the category that it was taken for.
        vertices: How many were.
        share: Of the annotated category's vertices, 0..1.
    """

    truth: str
    predicted: str
    vertices: int
    share: float


def most_confused(counts: npt.NDArray[np.int64], vocabulary: Vocabulary, *, count: int = 20) -> list[Confusion]:
    """The pairs that cost most of a category: the largest shares of a category's vertices taken for one other.

    Shares, since every category counts the same in mIoU. Categories with less than `MIN_SHARE` of all scored vertices
    are left out; equal shares are in the order of the vertices they cost.

    Args:
        counts: Rows are truth, columns predictions, shape `(classes, classes + 1)`.
        vocabulary: What the rows stand for.
        count: How many, at most.
    """
    rows, columns = _ranked(counts)
    total = np.maximum(counts.sum(axis=1), 1)
    return [
        Confusion(
            vocabulary.names[row],
            vocabulary.names[column],
            int(counts[row, column]),
            float(counts[row, column] / total[row]),
        )
        for row, column in zip(rows[:count].tolist(), columns[:count].tolist(), strict=True)
    ]


def _ranked(counts: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    wrong = counts[:, : len(counts)].copy()
    np.fill_diagonal(wrong, 0)
    total = counts.sum(axis=1)
    wrong[total < max(1, MIN_SHARE * total.sum())] = 0
    share = wrong / np.maximum(total, 1)[:, None]
    order = np.lexsort((-wrong.ravel(), -share.ravel()))[: int((wrong > 0).sum())]
    rows, columns = np.unravel_index(order, wrong.shape)
    return rows, columns


def plot_confusions(counts: npt.NDArray[np.int64], vocabulary: Vocabulary, title: str) -> "Figure | None":
    """Draw the confusion matrix of the most confused categories, in percent of each row's vertices.

    Rows and columns are in the order of their annotated vertices; the last column is all else that a row was taken for.

    Returns:
        None where nothing was confused.
    """
    rows, columns = _ranked(counts)
    chosen: dict[int, None] = {}
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        if len(chosen.keys() | {row, column}) <= MAX_CATEGORIES:
            chosen |= {row: None, column: None}
    if not chosen:
        return None
    total = counts.sum(axis=1)
    members = np.array(sorted(chosen, key=lambda index: (-int(total[index]), index)))
    inside = counts[np.ix_(members, members)]
    shares = np.concatenate([inside, (total[members] - inside.sum(axis=1))[:, None]], axis=1)
    shares = 100 * shares / np.maximum(total[members], 1)[:, None]
    size = len(members)
    figure = new_figure(PAGE, 1.5 + 0.27 * size)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for row in range(size):
        for column in range(size + 1):
            value = shares[row, column]
            if value >= 0.5:
                axes.text(
                    column,
                    row,
                    f"{value:.0f}",
                    ha="center",
                    va="center",
                    fontsize=6.5,
                    color="white" if value > 55 else INK,
                )
        axes.add_patch(_frame(row))
    names = [shorten(vocabulary.names[index], 20) for index in members]
    axes.set_xticks(range(size + 1), [*names, OTHER], rotation=50, ha="right", rotation_mode="anchor", fontsize=7)
    axes.set_yticks(range(size), names, fontsize=7)
    axes.set_xticks(np.arange(size + 2) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="both", length=0)
    axes.axvline(size - 0.5, color=INK, linewidth=0.8)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set(xlabel="taken for", ylabel="annotated", title=title)
    bar = figure.colorbar(image, ax=axes, fraction=0.025, pad=0.01)
    bar.set_label("% of the annotated vertices")
    bar.outline.set_visible(False)  # type: ignore[operator]
    return figure


def _frame(row: int) -> "Rectangle":
    from matplotlib.patches import Rectangle

    return Rectangle((row - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=INK, linewidth=0.8)
