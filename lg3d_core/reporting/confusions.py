"""Most frequent confusions between classes."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.reporting.style import INK, PAGE, new_figure, shorten
from lg3d_core.vocabulary import Vocabulary

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

MAX_CATEGORIES = 18
"""Number of classes in the matrix."""
MIN_SHARE = 5e-4
"""Minimum share of the scored vertices of a class, so that a handful of vertices cannot top the list."""
OTHER = "other classes"


class Confusion(NamedTuple):
    """Confusion of one class with another.

    Attributes:
        truth: Name of the annotated class.
        predicted: Name of the predicted class.
        vertices: Number of confused vertices.
        share: Share of the annotated class's vertices, 0..1.
    """

    truth: str
    predicted: str
    vertices: int
    share: float


def most_confused(counts: npt.NDArray[np.int64], vocabulary: Vocabulary, *, count: int = 20) -> list[Confusion]:
    """Return the confusions with the largest shares of the annotated class's vertices.

    Shares are used because every class counts equally in mIoU. Classes with less than `MIN_SHARE` of all scored
    vertices are skipped; equal shares are ordered by their number of vertices.

    Args:
        counts: Confusion matrix with truth in rows and predictions in columns, shape `(classes, classes + 1)`.
        vocabulary: Vocabulary of the rows.
        count: Maximum number of confusions.
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
    """Draw the confusion matrix of the most confused classes, in percent of each row's vertices.

    Rows and columns are sorted by their annotated vertices; the last column sums all other predictions.

    Returns:
        The figure, or None without confusions.
    """
    truths, guesses = _choose(counts)
    if len(truths) == 0:
        return None
    total = counts.sum(axis=1)[truths]
    inside = counts[np.ix_(truths, guesses)]
    shares = np.concatenate([inside, (total - inside.sum(axis=1))[:, None]], axis=1)
    shares = 100 * shares / total[:, None]
    height, width = shares.shape
    figure = new_figure(PAGE, 1.4 + 0.23 * height)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for row, column in zip(*np.nonzero(shares >= 0.5), strict=True):
        value = shares[row, column]
        color = "white" if value > 55 else INK
        axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=6.5, color=color)
    axes.set_xticks(np.arange(width + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(height + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    for row, column in zip(*np.nonzero(truths[:, None] == guesses[None, :]), strict=True):
        axes.add_patch(_frame(row, column))
    names = [shorten(vocabulary.names[index], 20) for index in guesses]
    axes.set_xticks(range(width), [*names, OTHER], rotation=50, ha="right", rotation_mode="anchor", fontsize=7)
    axes.set_yticks(range(height), [shorten(vocabulary.names[index], 20) for index in truths], fontsize=7)
    axes.tick_params(which="both", length=0)
    axes.axvline(width - 1.5, color=INK, linewidth=0.8)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set(xlabel="taken for", ylabel="annotated", title=title)
    bar = figure.colorbar(image, ax=axes, fraction=0.025, pad=0.01)
    bar.set_label("% of the annotated vertices")
    bar.outline.set_visible(False)
    return figure


def _choose(counts: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the rows and columns of the matrix: the classes of the top confusions that fit, most frequent first.

    Columns start with the rows' classes, so that correct predictions are on the diagonal.
    """
    truths: dict[int, None] = {}
    guesses: dict[int, None] = {}
    for row, column in zip(*(side.tolist() for side in _ranked(counts)), strict=True):
        if len(truths.keys() | guesses.keys() | {row, column}) <= MAX_CATEGORIES:
            truths[row] = guesses[column] = None
    total = counts.sum(axis=1)
    rows = sorted(truths, key=lambda index: (-int(total[index]), index))
    further = sorted(guesses.keys() - truths.keys(), key=lambda index: (-int(total[index]), index))
    return np.array(rows, dtype=np.int64), np.array([*rows, *further], dtype=np.int64)


def _frame(row: int, column: int) -> "Rectangle":
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=INK, linewidth=0.8)
