"""Confusion matrices of true and predicted classes."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import ShapeError

if TYPE_CHECKING:
    from torch import Tensor


class ConfusionMatrix:
    """Counts of evaluated points by ground truth and prediction.

    Attributes:
        counts: Rows are ground truth, columns are predictions, shape `(classes, classes + 1)`, int64. The last column
            counts predictions outside the vocabulary, which are misses but no false positives of any class.
    """

    def __init__(self, num_classes: int) -> None:
        if num_classes < 1:
            raise ShapeError(f"expected at least one class, got {num_classes}")
        self.counts: npt.NDArray[np.int64] = np.zeros((num_classes, num_classes + 1), dtype=np.int64)

    @property
    def num_classes(self) -> int:
        """Number of classes of the vocabulary."""
        return len(self.counts)

    def update(
        self, labels: "npt.NDArray[np.integer] | Tensor", predictions: "npt.NDArray[np.integer] | Tensor"
    ) -> None:
        """Add points to the counts.

        Args:
            labels: Ground truth, any shape, integer; negative labels are outside the vocabulary and skipped.
            predictions: Predicted class, same shape; values outside `[0, classes)` are outside the vocabulary.

        Raises:
            ShapeError: The shapes differ, the values are not integers, or a label is not below the number of classes.
        """
        truth, guess = _to_integers(labels, "labels"), _to_integers(predictions, "predictions")
        if truth.shape != guess.shape:
            raise ShapeError(f"expected as many predictions as labels, got {guess.shape} for {truth.shape}")
        evaluated = truth >= 0
        truth, guess = truth[evaluated].astype(np.int64), guess[evaluated].astype(np.int64)
        size = self.num_classes
        if len(truth) and truth.max() >= size:
            raise ShapeError(f"expected labels below {size}, got {truth.max()}: check that the vocabulary is the same")
        guess[(guess < 0) | (guess >= size)] = size
        self.counts += np.bincount(truth * (size + 1) + guess, minlength=self.counts.size).reshape(self.counts.shape)

    def class_counts(self) -> npt.NDArray[np.int64]:
        """Return correct points, points by truth and points by prediction of each class, shape `(3, classes)`.

        A prediction outside the vocabulary counts by truth alone.
        """
        inside = self.counts[:, : self.num_classes]
        return np.stack([np.diagonal(inside), self.counts.sum(axis=1), inside.sum(axis=0)])

    def merge(self, other: "ConfusionMatrix") -> None:
        """Add the counts of another matrix.

        Raises:
            ShapeError: The other matrix has another number of classes.
        """
        if other.num_classes != self.num_classes:
            raise ShapeError(f"expected a matrix of {self.num_classes} classes, got {other.num_classes}")
        self.counts += other.counts


class SceneCounts(NamedTuple):
    """Counts per scene for the IoU, precision and recall of every class.

    Attributes:
        scene_ids: Ids of the evaluated scenes.
        correct: Correctly predicted points of each class, shape `(scenes, classes)`, int64.
        support: Points of each true class, shape `(scenes, classes)`, int64.
        predicted: Points with ground truth of each predicted class, shape `(scenes, classes)`, int64.
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
