"""Map of the features and text anchors by t-SNE. Source: figure 7."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import MissingDependencyError
from lg3d_core.reporting.measure import Measurement
from lg3d_core.reporting.style import (
    BLACK,
    BLUE,
    FAINT,
    GREEN,
    INK,
    INSTALL,
    ORANGE,
    PAGE,
    PURPLE,
    SKY,
    VERMILION,
    halo,
    new_figure,
    shorten,
)
from lg3d_core.reporting.subject import ReportedRun
from lg3d_core.vocabulary import Vocabulary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
MARKERS = ("o", "^", "s")
MAX_NAMED = 21
"""Number of classes with a colour and a marker of their own: more are not distinguishable."""
MIN_POINTS = 20
"""Minimum number of features for a map."""
PERPLEXITY = 30.0


class Cohesion(NamedTuple):
    """Similarity of features and anchors, independent of any map.

    Attributes:
        own: Mean cosine of a feature and its class's anchor.
        other: Mean cosine of a feature and the anchors of the other classes in the sample.
        nearest: Share of features whose nearest anchor in the sample is that of their class, 0..1.
    """

    own: float
    other: float
    nearest: float


def anchor_rows(measurement: Measurement) -> npt.NDArray[np.int64]:
    """Return the classes of the sample whose anchors are in the map; empty without anchors."""
    if measurement.anchors is None:
        return np.zeros(0, dtype=np.int64)
    return np.unique(measurement.sample.label).astype(np.int64)


def measure_cohesion(measurement: Measurement) -> Cohesion | None:
    """Measure the cosines of features to anchors; None without anchors, or with fewer than two classes."""
    rows = anchor_rows(measurement)
    if measurement.anchors is None or len(rows) < 2:
        return None
    cosines = _unit(measurement.sample.features) @ _unit(measurement.anchors.vectors[rows]).T
    own = rows[None, :] == measurement.sample.label[:, None]
    return Cohesion(
        float(cosines[own].mean()),
        float(cosines[~own].mean()),
        float(own[np.arange(len(own)), cosines.argmax(1)].mean()),
    )


def can_embed(measurement: Measurement) -> bool:
    """Return whether there are enough features for a map, finite and of different directions."""
    features = measurement.sample.features
    if len(features) < MIN_POINTS or features.shape[1] < 2 or not np.isfinite(features).all():
        return False
    return float(np.ptp(_unit(features), axis=0).max()) > 1e-5  # above the rounding error


def embedding_key(measurement: Measurement, *, seed: int) -> str:
    """Return a digest of all inputs of a map."""
    return json.dumps({"method": "t-SNE", "perplexity": PERPLEXITY, "seed": seed, "of": measurement.key})


def embed(measurement: Measurement, *, seed: int) -> npt.NDArray[np.float32]:
    """Compute positions of features and of their classes' anchors in the plane, by t-SNE on their directions.

    Args:
        measurement: Measurement for which `can_embed` is true.
        seed: Random seed.

    Returns:
        Positions, shape `(voxels + anchors, 2)`.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise MissingDependencyError(INSTALL) from None
    directions = _unit(measurement.sample.features)
    if measurement.anchors is not None:
        directions = np.concatenate([directions, _unit(measurement.anchors.vectors[anchor_rows(measurement)])])
    perplexity = min(PERPLEXITY, (len(directions) - 1) / 4)
    place: npt.NDArray[np.float32] = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(
        directions
    )
    return place.astype(np.float32)


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = vectors / np.maximum(length, 1e-12)
    return unit


def plot_embeddings(runs: Sequence[ReportedRun], vocabulary: Vocabulary) -> "Figure | None":
    """Draw the maps of all runs that have one; each class looks the same in all of them.

    Returns:
        The figure, or None if no run has a map.
    """
    shown = [(run.name, m) for run in runs if (m := run.measurement) is not None and m.embedding is not None]
    if not shown:
        return None
    named = _named([measurement for _, measurement in shown])
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    side = PAGE / columns if columns == 2 else 0.8 * PAGE
    figure = new_figure(PAGE if columns == 2 else 0.8 * PAGE, side * rows + 0.2 + 0.16 * -(-len(named) // 4))
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.set_axis_off()
    for axis, (name, measurement) in zip(axes, shown, strict=False):
        _plot_map(axis, measurement, vocabulary, named)
        axis.set_title(shorten(name, 40))
    handles = {text: handle for axis in axes for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=4 if columns == 2 else 3,
        handletextpad=0.2,
        columnspacing=1.0,
        markerscale=1.4,
    )
    return figure


def _named(measurements: Sequence[Measurement]) -> dict[int, tuple[str, str]]:
    """Return the colour and marker of the named classes: those that are in most maps and have most voxels."""
    counts: dict[int, int] = {}
    for measurement in measurements:
        for label, count in zip(*np.unique(measurement.sample.label, return_counts=True), strict=True):
            counts[int(label)] = counts.get(int(label), 0) + int(count)
    # Vocabularies are sorted by frequency, so ties go to the more frequent class.
    chosen = sorted(sorted(counts, key=lambda label: (-counts[label], label))[:MAX_NAMED])
    return {
        label: (COLORS[k % len(COLORS)], MARKERS[k // len(COLORS) % len(MARKERS)]) for k, label in enumerate(chosen)
    }


def _plot_map(
    axes: "Axes", measurement: Measurement, vocabulary: Vocabulary, named: dict[int, tuple[str, str]]
) -> None:
    assert measurement.embedding is not None
    label, place = measurement.sample.label, measurement.embedding
    voxels, anchors = place[: len(label)], place[len(label) :]
    rest = ~np.isin(label, list(named))
    axes.scatter(*voxels[rest].T, s=4, color=FAINT, linewidth=0, label="other classes" if rest.any() else None)
    for category, (color, marker) in named.items():
        own = voxels[label == category]
        if len(own):
            axes.scatter(
                *own.T,
                s=7,
                color=color,
                marker=marker,
                linewidth=0,
                alpha=0.85,
                label=shorten(vocabulary.names[category], 20),
            )
    axes.margins(0.02)
    if len(anchors) == 0:
        return
    rows = anchor_rows(measurement)
    axes.scatter(
        *anchors.T, s=34, marker="*", facecolor="white", edgecolor=INK, linewidth=0.6, zorder=4, label="text anchors"
    )
    extent = np.ptp(place, axis=0).max()
    letter, line = 0.0125 * extent, 0.026 * extent  # approximate size of a label
    taken: list[tuple[float, float, float]] = []
    for category, spot in sorted(zip(rows.tolist(), anchors, strict=True), key=lambda pair: pair[0] not in named):
        name = shorten(vocabulary.names[category], 16)
        left, right, height = float(spot[0]), float(spot[0]) + (len(name) + 2) * letter, float(spot[1])
        if any(left < other[1] and other[0] < right and abs(height - other[2]) < line for other in taken):
            continue
        taken.append((left, right, height))
        text = axes.annotate(
            name,
            spot,
            xytext=(3.5, 2),
            fontsize=6,
            textcoords="offset points",
            color=INK,
            zorder=5,
        )
        halo(text)
