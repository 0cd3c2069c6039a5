"""Means and standard deviations over seeds, and scores and differences with bootstrap intervals.

Each bootstrap sample draws as many scenes as there are, with replacement; counts are summed over the sample before any
division. Such an interval shows the effect of the choice of validation scenes. An interval over scenes and seeds also
draws as many seeds as there are, with replacement. Scenes and seeds are crossed: every seed is scored on the scenes of
the sample.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError
from lg3d_core.evaluation.confusion import SceneCounts
from lg3d_core.vocabulary import Vocabulary

FloatArray = npt.NDArray[np.float64]
METRICS = ("iou", "precision", "recall")
COVERAGE = 0.95
"""Coverage of the bootstrap intervals."""

Samples = dict[str, dict[str, FloatArray]]
"""Values by metric and group, shape `(1 + resamples,)`: over the scenes themselves, then of each bootstrap sample."""


class Spread(NamedTuple):
    """Mean over seeds and sample standard deviation (n - 1), which is nan for one seed."""

    mean: float
    deviation: float


class Interval(NamedTuple):
    """Percentile bootstrap interval; nan if it is undefined."""

    low: float
    high: float


class Difference(NamedTuple):
    """Difference between a score of a row and of the first row, averaged over the seeds.

    Attributes:
        value: Difference over the evaluated scenes.
        over_scenes: Interval over scenes, for these seeds; 2.5 % of the bootstrap samples are beyond each end.
        over_both: Interval over scenes and seeds; equal to `over_scenes` for one seed.
        relative: `value` as a fraction of the first row's score; nan if that is 0.
        by_seed: Difference of each seed.
    """

    value: float
    over_scenes: Interval
    over_both: Interval
    relative: float
    by_seed: tuple[float, ...]


def spread(values: Sequence[float]) -> Spread:
    """Return the mean and the sample standard deviation."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Spread(mean, math.nan)
    return Spread(mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)))


def group_members(vocabulary: Vocabulary) -> dict[str, npt.NDArray[np.int64]]:
    """Return the indices of the classes of each group, and of "all"."""
    return {**vocabulary.groups, "all": np.arange(len(vocabulary))}


def mean_scores(
    correct: npt.ArrayLike,
    support: npt.ArrayLike,
    predicted: npt.ArrayLike,
    members: npt.NDArray[np.int64],
    *,
    present: bool,
) -> FloatArray:
    """Return the mean IoU, precision and recall over some classes, where 0/0 counts as 0.

    Args:
        correct: Number of correct points, shape `(..., classes)`.
        support: Number of points by truth, same shape.
        predicted: Number of points by prediction, same shape.
        members: Indices of the classes.
        present: Whether to skip classes without ground truth.

    Returns:
        Means, shape `(3, ...)`; nan if no class remains.
    """
    right, truth, guess = (
        np.asarray(counts, dtype=np.float64)[..., members] for counts in (correct, support, predicted)
    )
    shares = np.stack([_divide(right, truth + guess - right), _divide(right, guess), _divide(right, truth)])
    counted = truth > 0 if present else np.ones_like(truth, dtype=bool)
    number = counted.sum(axis=-1)
    sums = np.where(counted, shares, 0.0).sum(axis=-1)
    means: FloatArray = np.divide(sums, number, out=np.full(sums.shape, np.nan), where=number > 0)
    return means


def paired_differences(
    row: Sequence[SceneCounts],
    first: Sequence[SceneCounts],
    vocabulary: Vocabulary,
    *,
    present: bool,
    resamples: int,
    seed: int = 0,
) -> dict[str, Difference]:
    """Return the differences of mean IoU by group, with percentile bootstrap intervals.

    Each bootstrap sample draws as many scenes as there are, with replacement, the same ones for both rows and all
    seeds. Counts are summed over the sample before any division.

    Args:
        row: Counts of the row for each seed.
        first: Counts of the reference row for the same seeds.
        vocabulary: The classes.
        present: Whether the means are over classes with ground truth in the (resampled) scenes, or over all classes.
        resamples: Number of bootstrap samples.
        seed: Random seed of the samples.

    Raises:
        DataError: The rows were scored on different scenes.
    """
    scenes = first[0].scene_ids
    if any(counts.scene_ids != scenes for counts in (*row, *first)):
        raise DataError("the rows were scored on different scenes: compare again with an empty output folder")
    weights = scene_weights(len(scenes), resamples=resamples, seed=seed)
    mine, theirs = (
        [resampled_means(counts, vocabulary, weights, present=present) for counts in counts_of_seeds]
        for counts_of_seeds in (row, first)
    )
    return differences_of(mine, theirs)["iou"]


def scene_weights(num_scenes: int, *, resamples: int, seed: int = 0) -> FloatArray:
    """Return how often each bootstrap sample draws each scene, shape `(1 + resamples, scenes)`.

    The first row is all ones: the scenes themselves.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(num_scenes, np.full(num_scenes, 1 / num_scenes), size=resamples)
    return np.concatenate([np.ones((1, num_scenes)), drawn])


def seed_weights(num_seeds: int, *, resamples: int, seed: int = 0) -> FloatArray:
    """Return how often each bootstrap sample draws each training seed, shape `(resamples, seeds)`.

    The draws do not depend on those of `scene_weights`.
    """
    rng = np.random.default_rng([seed, num_seeds])
    drawn = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=resamples)
    return drawn.astype(np.float64)


def resampled_means(counts: SceneCounts, vocabulary: Vocabulary, weights: FloatArray, *, present: bool) -> Samples:
    """Return the mean IoU, precision and recall of every bootstrap sample, by metric and group.

    Args:
        counts: Counts of the scenes.
        vocabulary: The classes.
        weights: Output of `scene_weights`.
        present: Whether the means are over classes with ground truth in the sample, or over all classes.

    Returns:
        Arrays of shape `(1 + resamples,)`; the first value is that of the scenes themselves.
    """
    correct, support, predicted = (weights @ part for part in (counts.correct, counts.support, counts.predicted))
    means = {
        group: mean_scores(correct, support, predicted, own, present=present)
        for group, own in group_members(vocabulary).items()
    }
    return {metric: {group: own[k] for group, own in means.items()} for k, metric in enumerate(METRICS)}


def interval_of(samples: FloatArray) -> Interval:
    """Return the interval of the values of bootstrap samples; undefined values are skipped."""
    samples = samples[~np.isnan(samples)]
    if len(samples) == 0:
        return Interval(math.nan, math.nan)
    low, high = np.quantile(samples, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Interval(float(low), float(high))


def differences_of(mine: Sequence[Samples], theirs: Sequence[Samples]) -> dict[str, dict[str, Difference]]:
    """Return the differences of two rows by metric and group.

    Args:
        mine: Values of the row for each seed.
        theirs: Values of the reference row for the same seeds, from the same bootstrap samples.
    """
    return {
        metric: {
            group: difference_of(
                np.stack([own[metric][group] for own in mine]), np.stack([own[metric][group] for own in theirs])
            )
            for group in groups
        }
        for metric, groups in mine[0].items()
    }


def difference_of(mine: FloatArray, theirs: FloatArray) -> Difference:
    """Return the difference of two rows with its intervals, from the same bootstrap samples.

    Rows are paired by seed: a sample that draws a seed draws it for both rows.

    Args:
        mine: Values of the row, shape `(seeds, 1 + resamples)`; the first column is over the scenes themselves.
        theirs: Values of the reference row, same shape.
    """
    by_seed = mine[:, 0] - theirs[:, 0]
    value, base = float(by_seed.mean()), float(theirs[:, 0].mean())
    samples = (mine - theirs)[:, 1:]
    over_scenes = over_both = interval_of(samples.mean(axis=0))
    if len(samples) > 1:
        drawn = seed_weights(len(samples), resamples=samples.shape[1])
        over_both = interval_of((drawn.T * samples).mean(axis=0))
    relative = value / base if base > 0 else math.nan
    return Difference(value, over_scenes, over_both, relative, tuple(float(one) for one in by_seed))


def _divide(part: FloatArray, whole: FloatArray) -> FloatArray:
    """Return the quotients, 0 for 0/0."""
    shares: FloatArray = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return shares
