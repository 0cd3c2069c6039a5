"""Scores against confusion matrices and arithmetic done by hand, and against the paper's own numbers."""

import json
import math

import numpy as np
import pytest

from lg3d_core.errors import ShapeError
from lg3d_core.evaluation.confusion import ConfusionMatrix
from lg3d_core.evaluation.scores import Means, Scores, score_confusion
from lg3d_core.vocabulary import Vocabulary, load_vocabulary
from tests.fake_store import make_vocabulary

LETTERS = make_vocabulary("head", "head", "common", "tail", "tail")

# Rows are truth; the last column is a prediction outside the vocabulary.
COUNTS = [
    [6, 2, 0, 0, 1, 1],  # a, head: 10 points
    [1, 4, 0, 0, 0, 0],  # b, head: 5 points
    [0, 2, 2, 0, 0, 0],  # c, common: 4 points
    [1, 0, 0, 0, 0, 1],  # d, tail: 2 points, never predicted
    [0, 0, 0, 0, 0, 0],  # e, tail: absent, predicted once
]


def score(counts: list[list[int]], vocabulary: Vocabulary) -> Scores:
    matrix = ConfusionMatrix(len(vocabulary))
    matrix.counts[:] = counts
    return score_confusion(matrix, vocabulary)


def test_scores_of_each_class_equal_hand_arithmetic() -> None:
    scores = score(COUNTS, LETTERS)
    assert scores.support.tolist() == [10, 5, 4, 2, 0]
    assert scores.predicted.tolist() == [8, 8, 2, 0, 1]  # columns; the two outside count for none
    # tp / (support + predicted - tp): 6/12, 4/9, 2/4, 0/2, 0/1
    np.testing.assert_allclose(scores.iou, [0.5, 4 / 9, 0.5, 0, 0])
    # tp / predicted: 6/8, 4/8, 2/2, 0/0, 0/1
    np.testing.assert_allclose(scores.precision, [0.75, 0.5, 1, np.nan, 0])
    # tp / support: 6/10, 4/5, 2/4, 0/2, 0/0
    np.testing.assert_allclose(scores.recall, [0.6, 0.8, 0.5, 0, np.nan])
    # Within the own group's rows: a 6/(6+1), b 4/(2+4), c 2/2. d is there and never predicted: 0. e has its one false
    # positive in head's rows, so neither tp, fp nor fn in its own: left out.
    np.testing.assert_allclose(scores.precision_paper, [6 / 7, 2 / 3, 1, 0, np.nan])
    np.testing.assert_allclose(scores.recall_paper, [0.6, 0.8, 0.5, 0, np.nan])
    assert scores.accuracy == pytest.approx(12 / 21)
    assert (scores.num_present, scores.num_evaluated) == (4, 21)


def test_means_over_the_vocabulary_count_absent_and_undefined_as_zero() -> None:
    means = score(COUNTS, LETTERS).means
    paper_head = (6 / 7 + 2 / 3) / 2
    expected = {
        "head": Means((0.5 + 4 / 9) / 2, 0.625, 0.7, paper_head, 0.7),
        "common": Means(0.5, 1, 0.5, 1, 0.5),
        "tail": Means(0, 0, 0, 0, 0),
        "all": Means((1 + 4 / 9) / 5, 2.25 / 5, 1.9 / 5, (paper_head + 1 + 0) / 3, (0.7 + 0.5 + 0) / 3),
    }
    assert list(means) == list(expected)
    for group, values in expected.items():
        assert means[group] == pytest.approx(values)


def test_means_over_present_classes_divide_by_four_here() -> None:
    scores = score(COUNTS, LETTERS)
    means = scores.means_present
    paper_head = (6 / 7 + 2 / 3) / 2
    # d is present but never predicted: its precision 0/0 counts 0, it is not left out
    assert means["tail"] == pytest.approx(Means(0, 0, 0, 0, 0))
    assert means["all"] == pytest.approx(
        Means((1 + 4 / 9) / 4, 2.25 / 4, 1.9 / 4, (paper_head + 1 + 0) / 3, (0.7 + 0.5 + 0) / 3)
    )
    assert scores.miou_200 == pytest.approx((1 + 4 / 9) / 5)
    assert scores.miou_present == pytest.approx((1 + 4 / 9) / 4)


def test_a_prediction_outside_the_vocabulary_lowers_recall_and_iou_but_no_precision() -> None:
    vocabulary = make_vocabulary("", "")
    inside = score([[3, 0, 0], [0, 3, 0]], vocabulary)
    outside = score([[3, 0, 1], [0, 3, 0]], vocabulary)
    assert inside.means["all"].precision == outside.means["all"].precision == 1
    np.testing.assert_allclose(outside.recall, [0.75, 1])
    np.testing.assert_allclose(outside.iou, [0.75, 1])


def test_a_perfect_prediction_scores_one_on_present_classes() -> None:
    scores = score([[5, 0, 0, 0], [0, 7, 0, 0], [0, 0, 0, 0]], make_vocabulary("head", "common", "tail"))
    assert scores.miou_present == 1
    assert scores.miou_200 == pytest.approx(2 / 3)
    assert math.isnan(scores.iou[2])  # neither truth nor prediction
    assert scores.means_present["head"] == Means(1, 1, 1, 1, 1)
    assert all(math.isnan(value) for value in scores.means_present["tail"])  # no class of it is present
    assert scores.means["tail"][:3] == (0, 0, 0)
    assert all(math.isnan(value) for value in scores.means["tail"][3:])  # the paper's leave an absent class out
    assert scores.means["all"].precision_paper == scores.means_present["all"].precision_paper == 1  # over two groups


def test_false_positives_of_an_absent_class_affect_only_that_class() -> None:
    scores = score([[8, 2, 0], [0, 0, 0]], make_vocabulary("", ""))
    assert scores.iou.tolist() == [0.8, 0]
    assert scores.miou_present == 0.8
    assert scores.miou_200 == 0.4


def test_scores_without_points_are_undefined_and_valid_json() -> None:
    scores = score([[0] * 6] * 5, LETTERS)
    assert scores.miou_200 == 0
    assert math.isnan(scores.miou_present)
    assert math.isnan(scores.accuracy)
    values = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert values["miou_present"] is None
    assert values["means_present"]["all"]["iou"] is None
    assert values["means"]["all"]["iou"] == values["means"]["all"]["precision"] == 0
    assert values["means"]["all"]["precision_paper"] is None
    assert values["per_class"][3] == {
        "index": 3,
        "id": 40,
        "name": "d",
        "group": "tail",
        "support": 0,
        "predicted": 0,
        "iou": None,
        "precision": None,
        "recall": None,
        "precision_paper": None,
        "recall_paper": None,
    }


# Five tail classes in their own rows: p 3 of 4 right; q there, never predicted; r absent; s absent, but taken for p's
# fourth point; t absent, and predicted only where the truth is head.
PAPER = make_vocabulary("head", *["tail"] * 5)
PAPER_COUNTS = [[8, 0, 0, 0, 0, 2, 0], [0, 3, 0, 0, 1, 0, 0], [0, 2, 0, 0, 0, 0, 0], *[[0] * 7] * 3]


def test_the_papers_precision_and_recall_leave_out_classes_without_tp_fp_and_fn() -> None:
    """As torchmetrics 0.9.2 gives them for the tail's six points with average="none": 0.6, 0, nan, 0, nan and .75, 0,
    nan, 0, nan; then the mean of what is not nan."""
    scores = score(PAPER_COUNTS, PAPER)
    np.testing.assert_allclose(scores.precision_paper, [1, 0.6, 0, np.nan, 0, np.nan])  # p: 3 right of 3 + 2
    np.testing.assert_allclose(scores.recall_paper, [0.8, 0.75, 0, np.nan, 0, np.nan])
    tail = scores.means["tail"]
    assert tail.precision_paper == pytest.approx((0.6 + 0 + 0) / 3)
    assert tail.recall_paper == pytest.approx((0.75 + 0 + 0) / 3)
    assert (tail.precision, tail.recall) == pytest.approx((0.6 / 5, 0.75 / 5))  # the true ones: absent counts 0
    present = scores.means_present["tail"]
    assert (present.precision_paper, present.recall_paper) == pytest.approx((0.6 / 2, 0.75 / 2))
    assert scores.means["all"].recall_paper == pytest.approx((0.8 + 0.25) / 2)


def by_loops(truth: np.ndarray, guess: np.ndarray, members: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean IoU, precision and recall of some classes, and the paper's two, by sets of points."""
    plain, paper = [], []
    own = {i for i in range(len(truth)) if truth[i] in members}
    for category in members.tolist():
        is_true = {i for i in range(len(truth)) if truth[i] == category}
        said = {i for i in range(len(truth)) if guess[i] == category and truth[i] >= 0}
        right = is_true & said
        plain.append([len(right) / max(1, len(part)) for part in (is_true | said, said, is_true)])
        if is_true | (said & own):
            paper.append([len(right) / max(1, len(part)) for part in (said & own, is_true)])
    return np.mean(plain, axis=0).tolist(), np.mean(paper, axis=0).tolist() if paper else [math.nan] * 2


@pytest.mark.parametrize("seed", range(12))
def test_all_means_equal_loops_over_points(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vocabulary = make_vocabulary(*["head"] * 3, *["common"] * 4, *["tail"] * 5)
    number = int(rng.integers(1, 80))
    truth = rng.choice(rng.permutation(12)[: rng.integers(1, 12)], number)
    guess = np.where(rng.random(number) < 0.5, truth, rng.integers(-1, 14, number))  # some outside the vocabulary
    truth[rng.random(number) < 0.2] = -1
    matrix = ConfusionMatrix(12)
    matrix.update(truth, guess)
    scores = score_confusion(matrix, vocabulary)
    papers = []
    for group, members in vocabulary.groups.items():
        plain, paper = by_loops(truth, guess, np.asarray(members))
        np.testing.assert_allclose(scores.means[group], [*plain, *paper])
        papers.append(paper)
    plain, _ = by_loops(truth, guess, np.arange(12))
    defined = [paper for paper in papers if not math.isnan(paper[0])]
    expected = np.mean(defined, axis=0).tolist() if defined else [math.nan] * 2
    np.testing.assert_allclose(scores.means["all"], [*plain, *expected])


def test_without_groups_only_all_has_means_and_its_precision_is_the_papers() -> None:
    vocabulary = load_vocabulary("scannet20")
    counts = np.zeros((20, 21), dtype=np.int64)
    counts[0, 0], counts[1, 0], counts[1, 1] = 6, 2, 2
    scores = score(counts.tolist(), vocabulary)
    assert list(scores.means) == list(scores.means_present) == ["all"]
    assert scores.means["all"].iou == pytest.approx((6 / 8 + 2 / 4) / 20)
    assert scores.means_present["all"] == pytest.approx(Means(0.625, 0.875, 0.75, 0.875, 0.75))
    assert scores.to_dict()["per_class"][0]["group"] is None


def test_a_matrix_of_another_vocabulary_is_rejected() -> None:
    with pytest.raises(ShapeError, match="matrix of 5 classes, got 3"):
        score_confusion(ConfusionMatrix(3), LETTERS)


# IoU of each category in percent, in vocabulary order: Table 5 of the paper, columns "Scratch" and "Ours".
SCRATCH = """
    77.25 75.06 95.41 64.21 62.57 80.96 31.73 44.79 57.34 1.12 79.04 49.36 63.43 29.53 54.05 88.24 53.84 80.2 70.93
    37.53 47.67 66.09 22.25 67.48 65.61 67.25 34.45 13.33 80.26 65.93 23.56 37.64 36.03 0 68.54 91.5 81.3 21.13 3.91
    25.37 16.12 53.09 30.46 37.01 62.72 42.6 0.46 60.8 57.87 10.25 55.36 33.5 59.17 46.3 46.53 2.34 0 40.04 39.98 7.83
    79.11 28.55 75.21 0 21.73 37.87 24.39 33.13 16.71 4.3 9.98 41.18 1.42 0.44 0 0 48.93 38.68 46.43 0.3 50.56 30.4 0
    12.12 61.76 18.38 20.12 4.88 0.04 1.91 1.42 3.52 14.32 0 0 0 0 25.8 0 40.67 43.9 52.94 10.28 11.18 3.46 52.84 5.05
    24.18 0 6.42 14.68 10.21 1.91 7.95 1.13 40.93 18.11 50.11 34.18 40.43 18.85 3.45 18.74 0 33.53 4.73 18.6 0 13.86 0
    1.83 3.13 0 42.78 0 21.51 0 20.62 5.13 0 0 0 31.19 7.07 2.13 13.78 27.05 0 24.08 0 0 52.57 1.07 0 74.72 0.54 0 0
    4.91 0 0 55.41 0 32.32 0 0.11 0 0 2.81 40.84 23.42 10.11 3.51 35.99 11 10.45 59.08 42.51 33.77 21.47 18.04 3.23
    21.93 0 25.83 0.33 0 0 0 0 0 0 0 0 0 0 0 24.2 0 0.02
"""
FULL = """
    78.66 76.54 95.42 64.92 62.78 83.23 34.24 38.8 58.9 1.16 79.78 51.93 64.62 33.63 59.4 92.26 52.04 85.81 69.9 26.01
    52.31 65.04 23.88 65.83 69.02 61.39 43.77 17.2 87.15 69.17 26.59 39.46 56.44 0 70.8 91.49 80.35 16.48 0 36.64
    12.77 57.91 40.65 29.48 67.01 48.66 1.22 65.64 61.34 11.18 65.48 40.17 65.11 47.49 52.33 7.14 0 50.21 52.76 11.03
    80.11 35.78 88.15 2.84 36.05 32.88 31.02 43.09 32.82 5.84 24.42 41.58 0.21 3.09 0 0 53.02 24.04 57.84 1.15 54.24
    39.05 0 24.51 70.48 22.54 22.04 26.48 0 7.67 0.2 1.98 52.12 1.78 4.69 0 0 0.68 0 46.14 43.56 47.9 14.53 14.45 1.04
    78.46 28.03 23.16 0 10.29 21.92 13.26 0 27.59 2.02 68.43 29.71 42.21 40.01 44.52 17.3 41.51 49.23 0 34.8 0 21.58 0
    23.26 0 6.86 7.25 3.18 58.95 0 23.22 0 24.43 9.26 0 0 0 8.42 0.05 18.45 13.27 51.9 0 26.17 0 5.5 68.41 2.76 0 66.4
    1.78 18.91 0 4.11 0 15.94 73.29 0 42.72 0 1.91 0 0 0 53.51 1.13 33.43 5.11 41.94 10.74 23.61 58.87 36.99 36.98
    6.59 21.16 4.54 33.12 0 19.81 35.6 0 27.8 0.01 0 0 0 0 0 0 0 0 75.46 0 0
"""


def matrix_of(ious: str) -> tuple[list[list[int]], Vocabulary]:
    """A matrix whose IoUs are the given ones: of 10,000 points, so many right, the others outside the vocabulary."""
    vocabulary = load_vocabulary()
    counts = np.zeros((200, 201), dtype=np.int64)
    for category, iou in zip(vocabulary.categories, ious.split(), strict=True):
        if category.in_validation:
            counts[category.index, category.index] = round(100 * float(iou))
            counts[category.index, 200] = 10_000 - round(100 * float(iou))
    return counts.tolist(), vocabulary


def test_the_papers_table_5_averages_to_26_27_and_30_46_over_the_189_present_classes() -> None:
    scratch, full = score(*matrix_of(SCRATCH)), score(*matrix_of(FULL))
    assert scratch.num_present == full.num_present == 189
    assert round(100 * scratch.miou_present, 2) == 26.27
    assert round(100 * full.miou_present, 2) == 30.46


def test_the_papers_table_5_averages_to_almost_its_table_1_with_absent_as_zero() -> None:
    scratch, full = score(*matrix_of(SCRATCH)), score(*matrix_of(FULL))
    # Table 1 has 25.02 and 28.87; Table 5, as printed, sums to 4964.72 and 5757.46
    assert 100 * scratch.miou_200 == pytest.approx(4964.72 / 200)
    assert 100 * full.miou_200 == pytest.approx(5757.46 / 200)
    assert 100 * scratch.means["head"].iou == pytest.approx(48.29, abs=0.25)
    assert 100 * scratch.means["tail"].iou == pytest.approx(7.86, abs=0.1)


def test_the_papers_all_precision_and_recall_are_the_means_of_its_groups() -> None:
    # Table 1, "Ins. samp.": precision 70.04, 62.98, 49.41, all 60.81; over 66, 68 and 66 classes it would be 60.83.
    # Pairs of classes of one group, each taken for its partner just so often, have such a precision, and recall.
    vocabulary = load_vocabulary()
    counts = np.zeros((200, 201), dtype=np.int64)
    for group, right in (("head", 7004), ("common", 6298), ("tail", 4941)):
        for one, other in vocabulary.groups[group].reshape(-1, 2):
            counts[[one, other], [one, other]] = right
            counts[[one, other], [other, one]] = 10_000 - right
    means = score(counts.tolist(), vocabulary).means
    assert [round(100 * means[group].precision_paper, 2) for group in means] == [70.04, 62.98, 49.41, 60.81]
    assert round(100 * means["all"].recall_paper, 2) == 60.81
    assert round(100 * means["all"].precision, 2) == 60.83


def test_false_positives_from_other_groups_do_not_touch_the_papers_precision() -> None:
    vocabulary = make_vocabulary("head", "tail")
    scores = score([[90, 10, 0], [0, 10, 0]], vocabulary)  # ten wall points taken for the tail class
    assert scores.precision[1] == 0.5
    assert scores.precision_paper[1] == 1
