"""Counting which category was taken for which."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import ShapeError

if TYPE_CHECKING:
    from torch import Tensor


class ConfusionMatrix:
    """Counts of evaluated points by ground truth and prediction.

    Attributes:
        counts: Rows are ground truth, columns predictions, shape `(classes, classes + 1)`, int64. The last column
            counts predictions outside the vocabulary: they miss their truth, and accuse no category.
    """

    def __init__(self, num_classes: int) -> None:
        if num_classes < 1:
            raise ShapeError(f"expected at least one class, got {num_classes}")
        self.counts: npt.NDArray[np.int64] = np.zeros((num_classes, num_classes + 1), dtype=np.int64)

    @property
    def num_classes(self) -> int:
        """Size of the vocabulary."""
        return len(self.counts)

    def update(
        self, labels: "npt.NDArray[np.integer] | Tensor", predictions: "npt.NDArray[np.integer] | Tensor"
    ) -> None:
        """Count points.

        Args:
            labels: Ground truth, any shape, integers; negative is outside the vocabulary, and skipped.
            predictions: The same shape; negative, or not below the number of classes, is outside the vocabulary.

        Raises:
            ShapeError: Shapes that differ, values that are no integers, or a label that is no class.
        """
        truth, guess = _to_integers(labels, "labels"), _to_integers(predictions, "predictions")
        if truth.shape != guess.shape:
            raise ShapeError(f"expected as many predictions as labels, got {guess.shape} for {truth.shape}")
        evaluated = truth >= 0
        truth, guess = truth[evaluated].astype(np.int64), guess[evaluated].astype(np.int64)
        size = self.num_classes
        if len(truth) and truth.max() >= size:
            raise ShapeError(f"expected labels below {size}, got {truth.max()}: are they of another vocabulary?")
        guess[(guess < 0) | (guess >= size)] = size
        self.counts += np.bincount(truth * (size + 1) + guess, minlength=self.counts.size).reshape(self.counts.shape)

    def class_counts(self) -> npt.NDArray[np.int64]:
        """Right points, points by truth and points by prediction of each category, shape `(3, classes)`."""
        inside = self.counts[:, : self.num_classes]
        return np.stack([np.diagonal(inside), self.counts.sum(axis=1), inside.sum(axis=0)])

    def merge(self, other: "ConfusionMatrix") -> None:
        """Add another matrix's counts.

        Raises:
            ShapeError: It has another number of classes.
        """
        if other.num_classes != self.num_classes:
            raise ShapeError(f"expected a matrix of {self.num_classes} classes, got {other.num_classes}")
        self.counts += other.counts


class SceneCounts(NamedTuple):
    """What IoU, precision and recall of every category need, scene by scene.

    Attributes:
        scene_ids: The evaluated scenes.
        correct: Points whose prediction is their truth, shape `(scenes, classes)`, int64, as are the following.
        support: Points whose truth is the category.
        predicted: Points with ground truth that were taken for it.
    """

    scene_ids: tuple[str, ...]
    correct: npt.NDArray[np.int64]
    support: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]


def _to_integers(values: "npt.NDArray[np.integer] | Tensor", name: str) -> npt.NDArray[np.integer]:
    array = values if isinstance(values, np.ndarray) else values.detach().cpu().numpy()
    if not np.issubdtype(array.dtype, np.integer):
        raise ShapeError(f"expected integer {name}, got {array.dtype}")
    return array
