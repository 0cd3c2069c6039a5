"""Means, spreads and differences against hand arithmetic, the evaluation and slow references."""

import math
import statistics

import numpy as np
import pytest

from lg3d_core.comparing.statistics import group_members, mean_scores, paired_differences, spread
from lg3d_core.errors import DataError
from lg3d_core.evaluation.confusion import ConfusionMatrix, SceneCounts
from lg3d_core.evaluation.scores import score_confusion
from lg3d_core.vocabulary import Vocabulary
from tests.fake_store import make_vocabulary

LETTERS = make_vocabulary("head", "common", "tail")
HALVES = make_vocabulary("head", "tail")


def counts_of(matrices: list[ConfusionMatrix]) -> SceneCounts:
    scene_ids = tuple(f"scene{k}" for k in range(len(matrices)))
    return SceneCounts(scene_ids, *np.stack([matrix.class_counts() for matrix in matrices], axis=1))


def random_matrices(vocabulary: Vocabulary, scenes: int, rng: np.random.Generator) -> list[ConfusionMatrix]:
    found = []
    for _ in range(scenes):
        matrix = ConfusionMatrix(len(vocabulary))
        truth = rng.integers(-1, len(vocabulary), size=200)
        guess = np.where(rng.random(200) < 0.5, truth, rng.integers(0, len(vocabulary) + 1, size=200))
        matrix.update(truth, guess)
        found.append(matrix)
    return found


def test_mean_and_sample_deviation_are_those_of_the_standard_library() -> None:
    values = [0.31, 0.29, 0.36, 0.30]
    assert spread(values) == pytest.approx((statistics.mean(values), statistics.stdev(values)))
    mean, deviation = spread([0.5])
    assert mean == 0.5
    assert math.isnan(deviation)


def test_means_equal_hand_arithmetic() -> None:
    # category 0: 3 of 4 right, predicted 5 times; 1: never right, 2 points, predicted once; 2: does not occur
    correct, support, predicted = [3, 0, 0], [4, 2, 0], [5, 1, 0]
    everything = np.arange(3)
    over_all = mean_scores(correct, support, predicted, everything, present=False)
    np.testing.assert_allclose(over_all, [(3 / 6 + 0 + 0) / 3, (3 / 5 + 0 + 0) / 3, (3 / 4 + 0 + 0) / 3])
    over_present = mean_scores(correct, support, predicted, everything, present=True)
    np.testing.assert_allclose(over_present, [3 / 6 / 2, 3 / 5 / 2, 3 / 4 / 2])
    assert np.isnan(mean_scores(correct, support, predicted, np.array([2]), present=True)).all()


@pytest.mark.parametrize("present", [False, True])
def test_means_equal_those_of_the_evaluation(present: bool) -> None:
    matrices = random_matrices(LETTERS, 5, np.random.default_rng(0))
    total = ConfusionMatrix(3)
    for matrix in matrices:
        total.merge(matrix)
    scores = score_confusion(total, LETTERS)
    expected = scores.means_present if present else scores.means
    counts = counts_of(matrices)
    for group, members in group_members(LETTERS).items():
        found = mean_scores(*(part.sum(axis=0) for part in counts[1:]), members, present=present)  # type: ignore[misc]
        np.testing.assert_allclose(found, expected[group][:3])


def shifted(rights: list[int]) -> SceneCounts:
    """Scenes of two categories with 10 points each: so many of category 0 are right, the others are taken for 1."""
    matrices = []
    for right in rights:
        matrix = ConfusionMatrix(2)
        matrix.counts[:] = [[right, 10 - right, 0], [0, 10, 0]]
        matrices.append(matrix)
    return counts_of(matrices)


def test_a_difference_equals_hand_arithmetic() -> None:
    first, row = shifted([4, 6]), shifted([8, 10])
    found = paired_differences([row], [first], HALVES, present=True, resamples=500)
    # category 0: 18 of 20 right against 10 of 20, never accused; category 1: 20 / (20 + 2) against 20 / (20 + 10)
    assert found["head"].value == pytest.approx(18 / 20 - 10 / 20)
    assert found["tail"].value == pytest.approx(20 / 22 - 20 / 30)
    assert found["all"].value == pytest.approx((8 / 20 + 20 / 22 - 20 / 30) / 2)
    assert found["head"].relative == pytest.approx(0.8)
    # two scenes: a sample holds the first twice, each once, or the second twice; the difference is 8/20 in all of them
    assert found["head"].over_scenes == pytest.approx((0.4, 0.4))
    low, high = 20 / 20 - 20 / 28, 20 / 24 - 20 / 32  # of the second scene twice, and of the first
    assert found["tail"].over_scenes == pytest.approx((high, low))


def test_seeds_are_averaged_and_listed() -> None:
    first = [shifted([5, 5]), shifted([5, 5])]
    row = [shifted([6, 6]), shifted([9, 9])]
    found = paired_differences(row, first, HALVES, present=True, resamples=100)["head"]
    assert found.by_seed == pytest.approx((0.1, 0.4))
    assert found.value == pytest.approx(0.25)


def test_one_seed_has_the_same_interval_over_scenes_and_over_both() -> None:
    found = paired_differences([shifted([8, 10])], [shifted([4, 9])], HALVES, present=True, resamples=500)["all"]
    assert found.over_both == found.over_scenes


def test_the_interval_over_seeds_of_a_single_scene_equals_hand_arithmetic() -> None:
    # a sample has the first seed twice, both, or the second twice, with probabilities 1/4, 1/2 and 1/4
    found = paired_differences(
        [shifted([6]), shifted([9])], [shifted([5]), shifted([5])], HALVES, present=True, resamples=500
    )["head"]
    assert found.over_scenes == pytest.approx((0.25, 0.25))
    assert found.over_both == pytest.approx((0.1, 0.4))


def test_all_seeds_of_a_sample_are_scored_on_the_same_scenes() -> None:
    # differences: seed 0 has 0 and 0.2 in the two scenes, seed 1 0.4 and 0.6
    first, row = [shifted([4, 4])] * 2, [shifted([4, 6]), shifted([8, 10])]
    found = paired_differences(row, first, HALVES, present=True, resamples=4000)["head"]
    assert found.over_scenes == pytest.approx((0.2, 0.4))  # means over seeds: 0.2 and 0.4
    # One seed and one scene twice: 1 in 16 samples each, more than 2.5 %. With other scenes for each seed, 1 in 64.
    assert found.over_both == pytest.approx((0.0, 0.6))


def test_a_sample_draws_the_same_seeds_for_both_rows() -> None:
    first, row = [shifted([1]), shifted([8])], [shifted([2]), shifted([9])]
    found = paired_differences(row, first, HALVES, present=True, resamples=500)["head"]
    assert found.over_both == pytest.approx((0.1, 0.1))


def test_the_interval_over_scenes_and_seeds_equals_a_slow_bootstrap() -> None:
    """Seeds and scenes drawn one by one, matrices added, scored by the evaluation."""
    rng = np.random.default_rng(4)
    mine, theirs = ([random_matrices(LETTERS, 6, rng) for _ in range(4)] for _ in range(2))
    found = paired_differences(
        [counts_of(own) for own in mine], [counts_of(own) for own in theirs], LETTERS, present=True, resamples=4000
    )["all"]

    def miou(matrices: list[ConfusionMatrix], drawn: list[int]) -> float:
        total = ConfusionMatrix(3)
        total.counts[:] = sum(matrices[k].counts for k in drawn)
        return score_confusion(total, LETTERS).miou_present

    samples = []
    for _ in range(1000):
        scenes = rng.integers(0, 6, size=6).tolist()
        differences = [miou(mine[seed], scenes) - miou(theirs[seed], scenes) for seed in rng.integers(0, 4, size=4)]
        samples.append(statistics.mean(differences))
    deviation = float(np.std(samples))
    assert found.over_both.low == pytest.approx(np.quantile(samples, 0.025), abs=0.3 * deviation)
    assert found.over_both.high == pytest.approx(np.quantile(samples, 0.975), abs=0.3 * deviation)
    assert found.over_both.high - found.over_both.low > found.over_scenes.high - found.over_scenes.low


def test_equal_rows_have_no_difference_in_any_sample() -> None:
    counts = counts_of(random_matrices(LETTERS, 6, np.random.default_rng(1)))
    for own in paired_differences([counts], [counts], LETTERS, present=False, resamples=200).values():
        assert (own.value, *own.over_scenes, *own.over_both) == (0, 0, 0, 0, 0)


def test_the_interval_equals_a_slow_bootstrap() -> None:
    """Scenes drawn one by one, matrices added, scored by the evaluation."""
    rng = np.random.default_rng(2)
    mine, theirs = random_matrices(LETTERS, 8, rng), random_matrices(LETTERS, 8, rng)
    found = paired_differences([counts_of(mine)], [counts_of(theirs)], LETTERS, present=True, resamples=4000)["all"]
    samples = []
    for _ in range(1000):
        drawn = rng.integers(0, 8, size=8)
        values = []
        for matrices in (mine, theirs):
            total = ConfusionMatrix(3)
            total.counts[:] = sum(matrices[k].counts for k in drawn)
            values.append(score_confusion(total, LETTERS).miou_present)
        samples.append(values[0] - values[1])
    deviation = float(np.std(samples))
    # a quantile of 1000 samples is known to about sqrt(0.025 * 0.975 / 1000) / 0.058 = 0.085 deviations
    assert found.over_scenes.low == pytest.approx(np.quantile(samples, 0.025), abs=0.3 * deviation)
    assert found.over_scenes.high == pytest.approx(np.quantile(samples, 0.975), abs=0.3 * deviation)


def test_for_many_scenes_the_interval_is_that_of_the_normal_distribution() -> None:
    """With one category that is never accused, mIoU is a share: its difference is a mean over scenes of equal size."""
    rng = np.random.default_rng(3)
    shares = rng.integers(0, 11, size=(2, 400))
    row, first = (shifted([int(right) for right in rights]) for rights in shares)
    found = paired_differences([row], [first], HALVES, present=True, resamples=4000)["head"]
    per_scene = (shares[0] - shares[1]) / 10
    error = per_scene.std(ddof=1) / math.sqrt(400)
    assert found.value == pytest.approx(per_scene.mean())
    assert found.over_scenes.high - found.value == pytest.approx(1.96 * error, rel=0.08)
    assert found.value - found.over_scenes.low == pytest.approx(1.96 * error, rel=0.08)


def test_a_group_without_ground_truth_has_no_difference() -> None:
    counts = counts_of([ConfusionMatrix(3)])
    found = paired_differences([counts], [counts], LETTERS, present=True, resamples=100)["tail"]
    assert math.isnan(found.value)
    assert math.isnan(found.over_scenes.low)
    assert math.isnan(found.relative)


def test_rows_of_different_scenes_are_rejected() -> None:
    one, two = shifted([1, 2]), shifted([1, 2, 3])
    with pytest.raises(DataError, match="different scenes"):
        paired_differences([one], [two], HALVES, present=True, resamples=100)
