"""IoU, precision and recall per class, and their means over head, common, tail and all classes.

`docs/design/0005-scores.md` explains the two conventions for the means and the paper's definitions of precision and
recall.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import ShapeError
from lg3d_core.evaluation.confusion import ConfusionMatrix
from lg3d_core.vocabulary import Vocabulary

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class Means(NamedTuple):
    """Means over the classes of one group, in 0..1; nan for a mean over no class.

    Attributes:
        iou: Mean of tp / (tp + fp + fn).
        precision: Mean of tp / (tp + fp).
        recall: Mean of tp / (tp + fn).
        precision_paper: Mean of tp / (tp + fp), where fp counts only points whose truth is in the class's own group,
            over the classes with a tp, fp or fn there. For all classes: the mean of the groups' values.
        recall_paper: Mean recall over the same classes. For all classes: the mean of the groups' values.
    """

    iou: float
    precision: float
    recall: float
    precision_paper: float
    recall_paper: float


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of each class, and means over head, common, tail and all classes.

    Per class, 0/0 is nan: IoU without truth and prediction, precision without prediction, recall without truth. Means
    of IoU, precision and recall count nan as 0, so a class that is never predicted lowers the precision. The paper's
    precision and recall are those of torchmetrics 0.9.2, computed for each group from the points whose truth is in the
    group. They are nan for a class without tp, fp and fn there, which is excluded from their means; any other 0/0 is 0.

    Attributes:
        vocabulary: The classes.
        support: Number of evaluated points of each true class, shape `(classes,)`, int64.
        predicted: Number of evaluated points of each predicted class, shape `(classes,)`, int64.
        iou: IoU of each class, 0..1 or nan, shape `(classes,)`, float64. The following arrays have the same form.
        precision: Precision over all evaluated points.
        recall: Recall over all evaluated points.
        precision_paper: Precision over the evaluated points whose truth is in the class's own group.
        recall_paper: Recall over the same points.
        means: Means over all classes of each group ("head", "common", "tail" if the vocabulary has them, and "all").
        means_present: Means over the classes of each group that have ground truth.
        accuracy: Fraction of correct evaluated points; nan without points.
    """

    vocabulary: Vocabulary
    support: IntArray
    predicted: IntArray
    iou: FloatArray
    precision: FloatArray
    recall: FloatArray
    precision_paper: FloatArray
    recall_paper: FloatArray
    means: dict[str, Means]
    means_present: dict[str, Means]
    accuracy: float

    @property
    def miou_200(self) -> float:
        """Mean IoU over the whole vocabulary, where absent classes count as 0, as in the paper and most others."""
        return self.means["all"].iou

    @property
    def miou_name(self) -> str:
        """Name of that mean, with the number of classes, such as `miou_20`."""
        return f"miou_{len(self.vocabulary)}"

    @property
    def miou_present(self) -> float:
        """Mean IoU over the classes with ground truth in the evaluated scenes; nan if there are none."""
        return self.means_present["all"].iou

    @property
    def num_present(self) -> int:
        """Number of classes with ground truth."""
        return int((self.support > 0).sum())

    @property
    def num_evaluated(self) -> int:
        """Number of points with ground truth."""
        return int(self.support.sum())

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as plain values for JSON, 0..1; None if undefined or without ground truth."""

        def scored(share: float, support: int) -> float | None:
            return none_if_undefined(share) if support else None

        per_class = zip(
            self.vocabulary.categories,
            self.support.tolist(),
            self.predicted.tolist(),
            self.iou.tolist(),
            self.precision.tolist(),
            self.recall.tolist(),
            self.precision_paper.tolist(),
            self.recall_paper.tolist(),
            strict=True,
        )
        return {
            self.miou_name: none_if_undefined(self.miou_200),
            "miou_present": none_if_undefined(self.miou_present),
            "accuracy": none_if_undefined(self.accuracy),
            "num_evaluated": self.num_evaluated,
            "num_present": self.num_present,
            "num_classes": len(self.vocabulary),
            "means": {group: _plain_means(means) for group, means in self.means.items()},
            "means_present": {group: _plain_means(means) for group, means in self.means_present.items()},
            "per_class": [
                {
                    "index": category.index,
                    "id": category.id,
                    "name": category.name,
                    "group": category.group or None,
                    "support": support,
                    "predicted": predicted,
                    "iou": scored(iou, support),
                    "precision": scored(precision, support),
                    "recall": scored(recall, support),
                    "precision_paper": scored(precision_paper, support),
                    "recall_paper": scored(recall_paper, support),
                }
                for category, support, predicted, iou, precision, recall, precision_paper, recall_paper in per_class
            ],
        }


def score_confusion(confusion: ConfusionMatrix, vocabulary: Vocabulary) -> Scores:
    """Compute the scores of a confusion matrix.

    Args:
        confusion: Confusion matrix over all evaluated points.
        vocabulary: Classes of the rows.

    Raises:
        ShapeError: The matrix has another number of classes than the vocabulary.

    Source: section 4 "Evaluation metrics"; the reference implementation for the paper's precision and recall.
    """
    if confusion.num_classes != len(vocabulary):
        raise ShapeError(f"expected a matrix of {len(vocabulary)} classes, got {confusion.num_classes}")
    correct, support, predicted = confusion.class_counts()
    predicted_in_group = predicted.copy()
    for members in vocabulary.groups.values():
        predicted_in_group[members] = confusion.counts[np.ix_(members, members)].sum(axis=0)
    iou = _divide(correct, support + predicted - correct)
    precision, recall = _divide(correct, predicted), _divide(correct, support)
    precision_paper = _divide_as_torchmetrics(correct, predicted_in_group, counted=support + predicted_in_group > 0)
    recall_paper = _divide_as_torchmetrics(correct, support, counted=support + predicted_in_group > 0)
    per_class = np.stack([iou, precision, recall, precision_paper, recall_paper])
    everything = np.ones(len(vocabulary), dtype=np.bool_)
    return Scores(
        vocabulary=vocabulary,
        support=support,
        predicted=predicted,
        iou=iou,
        precision=precision,
        recall=recall,
        precision_paper=precision_paper,
        recall_paper=recall_paper,
        means=_average(per_class, vocabulary, counted=everything),
        means_present=_average(per_class, vocabulary, counted=support > 0),
        accuracy=float(_divide(correct.sum(), support.sum())),
    )


def none_if_undefined(value: float) -> float | None:
    """Return None for nan, which JSON does not have."""
    return None if math.isnan(value) else value


def _average(per_class: FloatArray, vocabulary: Vocabulary, *, counted: npt.NDArray[np.bool_]) -> dict[str, Means]:
    """Return the means over the counted classes of each group, and over all groups.

    Args:
        per_class: IoU, precision, recall, and the paper's precision and recall, shape `(5, classes)`.
        vocabulary: Vocabulary with the groups.
        counted: Whether each class enters the means, shape `(classes,)`.
    """
    means = {group: _mean(per_class[:, members[counted[members]]]) for group, members in vocabulary.groups.items()}
    overall = _mean(per_class[:, counted])
    if means:
        papers = np.array([group[3:] for group in means.values()])
        overall = overall._replace(
            precision_paper=_mean_of_defined(papers[:, 0]), recall_paper=_mean_of_defined(papers[:, 1])
        )
    return means | {"all": overall}


def _mean(per_class: FloatArray) -> Means:
    """Average over the columns. nan counts as 0 in IoU, precision and recall, and is skipped in the paper's two."""
    if per_class.shape[1] == 0:
        return Means(*[math.nan] * len(per_class))
    plain = np.nan_to_num(per_class[:3], nan=0.0).mean(axis=1)
    return Means(*plain.tolist(), *map(_mean_of_defined, per_class[3:]))


def _mean_of_defined(values: FloatArray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan


def _divide(part: npt.ArrayLike, whole: npt.ArrayLike) -> FloatArray:
    """Return the quotients, nan for 0/0."""
    whole = np.asarray(whole, dtype=np.float64)
    shares: FloatArray = np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    return shares


def _divide_as_torchmetrics(part: IntArray, whole: IntArray, *, counted: npt.NDArray[np.bool_]) -> FloatArray:
    """Return the quotients, 0 for 0/0, and nan for classes that are not counted."""
    return np.where(counted, np.nan_to_num(_divide(part, whole), nan=0.0), np.nan)


def _plain_means(means: Means) -> dict[str, float | None]:
    return {name: none_if_undefined(value) for name, value in means._asdict().items()}
