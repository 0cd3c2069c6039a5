"""Counting, against a loop and by hand."""

import numpy as np
import pytest
import torch

from lg3d_core.errors import ShapeError
from lg3d_core.evaluation.confusion import ConfusionMatrix


def test_points_are_counted_by_truth_and_prediction() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 0]))
    assert matrix.counts.tolist() == [[1, 1, 0], [1, 2, 0]]


def test_truth_outside_the_vocabulary_is_skipped_whatever_was_predicted() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([-1, -1, -1, 1]), np.array([0, 1, -1, 1]))
    assert matrix.counts.tolist() == [[0, 0, 0], [0, 1, 0]]


def test_predictions_outside_the_vocabulary_go_to_the_last_column() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([0, 0, 1, 1]), np.array([-1, 2, 200, 1]))
    assert matrix.counts.tolist() == [[0, 0, 2], [0, 1, 1]]


def test_many_points_equal_a_slow_count_in_any_dtype_and_in_parts() -> None:
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(-1, 7, size=4000), rng.integers(-2, 9, size=4000)
    expected = np.zeros((7, 8), dtype=np.int64)
    for label, prediction in zip(labels, predictions, strict=True):
        if label >= 0:
            expected[label, prediction if 0 <= prediction < 7 else 7] += 1
    whole, parts, tensors = ConfusionMatrix(7), ConfusionMatrix(7), ConfusionMatrix(7)
    whole.update(labels.astype(np.int16), predictions.astype(np.int16))
    tensors.update(torch.from_numpy(labels), torch.from_numpy(predictions).to(torch.int32))
    for rows in np.array_split(np.arange(4000), 3):
        part = ConfusionMatrix(7)
        part.update(labels[rows], predictions[rows])
        parts.merge(part)
    for matrix in (whole, parts, tensors):
        np.testing.assert_array_equal(matrix.counts, expected)


def test_small_dtypes_do_not_overflow_at_200_classes() -> None:
    matrix = ConfusionMatrix(200)
    matrix.update(np.array([199], dtype=np.int16), np.array([198], dtype=np.int16))  # 199 * 201 is beyond int16
    assert matrix.counts[199, 198] == 1


def test_counting_no_points_changes_nothing() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(np.zeros(0, dtype=np.int16), np.zeros(0, dtype=np.int16))
    assert matrix.counts.sum() == 0


def test_the_inputs_are_not_changed() -> None:
    labels, predictions = np.array([0, -1, 1]), np.array([5, -1, -3])
    ConfusionMatrix(2).update(labels, predictions)
    assert labels.tolist() == [0, -1, 1]
    assert predictions.tolist() == [5, -1, -3]


def test_inputs_that_do_not_match_are_rejected() -> None:
    matrix = ConfusionMatrix(2)
    with pytest.raises(ShapeError, match="as many predictions as labels"):
        matrix.update(np.zeros(3, dtype=int), np.zeros(1, dtype=int))
    with pytest.raises(ShapeError, match="integer predictions, got float64"):
        matrix.update(np.zeros(1, dtype=int), np.zeros(1))
    with pytest.raises(ShapeError, match="check that the vocabulary is the same"):
        matrix.update(np.array([2]), np.array([0]))
    with pytest.raises(ShapeError, match="matrix of 2 classes, got 3"):
        matrix.merge(ConfusionMatrix(3))
    with pytest.raises(ShapeError, match="at least one class"):
        ConfusionMatrix(0)
    assert matrix.counts.sum() == 0
