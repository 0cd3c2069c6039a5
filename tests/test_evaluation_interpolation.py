"""Labels of points between voxels, against trilinear arithmetic."""

import itertools

import numpy as np
import pytest
import torch

from lg3d_core.evaluation import interpolation as module
from lg3d_core.evaluation.interpolation import Candidates, choose_voxels
from lg3d_core.sampling.voxels import mean_colors, pack, unpack


def candidates_of(probabilities: np.ndarray) -> Candidates:
    rows, classes = probabilities.shape
    found = Candidates.empty(rows, classes)
    found.set_rows(np.arange(rows), torch.from_numpy(probabilities).log().float())
    return found


def keys_of(*cells: tuple[int, int, int]) -> np.ndarray:
    return pack(np.array(cells, dtype=np.int64))


def chosen(shares: list[list[float]], cells: list[tuple[int, int, int]], point: tuple[float, float, float]) -> int:
    rows = choose_voxels(candidates_of(np.array(shares)), keys_of(*cells), np.array([point]), voxel_size=0.1)
    return int(rows[0])


def test_a_point_on_a_centre_takes_its_voxel() -> None:
    cells = [(0, 0, 0), (1, 0, 0)]
    assert chosen([[0.45, 0.55], [0.99, 0.01]], cells, (0.05, 0.05, 0.05)) == 0
    assert chosen([[0.45, 0.55], [0.99, 0.01]], cells, (0.15, 0.05, 0.05)) == 1


def test_between_two_centres_the_higher_mixed_probability_wins() -> None:
    # In the first cell, 0.4 of the way to the second centre. Class 0: 0.6 * 0.3 + 0.4 * 0.9 = 0.54; class 1: 0.46.
    cells, point = [(0, 0, 0), (1, 0, 0)], (0.09, 0.05, 0.05)
    assert chosen([[0.3, 0.7], [0.9, 0.1]], cells, point) == 1
    # Class 0: 0.6 * 0.3 + 0.4 * 0.7 = 0.46; class 1: 0.54.
    assert chosen([[0.3, 0.7], [0.7, 0.3]], cells, point) == 0


def test_empty_cells_are_left_out() -> None:
    assert chosen([[0.2, 0.8]], [(-1, 2, 3)], (-0.01, 0.29, 0.31)) == 0


def test_a_class_that_is_second_everywhere_gives_no_label() -> None:
    # Class 2 has the highest mean (0.4), but no voxel has it as its label: of 0.35 and 0.25, class 0 wins.
    assert chosen([[0.6, 0.0, 0.4], [0.1, 0.5, 0.4]], [(0, 0, 0), (1, 0, 0)], (0.1, 0.05, 0.05)) == 0


def slow_choice(probabilities: dict[tuple[int, ...], np.ndarray], point: np.ndarray, size: float) -> tuple[int, ...]:
    place = point / size - 0.5
    total, weights = 0.0, {}
    for corner in itertools.product((0, 1), repeat=3):
        cell = tuple(int(np.floor(value)) + step for value, step in zip(place, corner, strict=True))
        if cell in probabilities:
            weights[cell] = np.prod([1 - abs(value - k) for value, k in zip(place, cell, strict=True)])
            total = total + weights[cell] * probabilities[cell]
    labels = {cell: int(probabilities[cell].argmax()) for cell in weights}
    best = max(labels.values(), key=lambda label: total[label])
    return max((cell for cell in weights if labels[cell] == best), key=lambda cell: weights[cell])


def test_random_clouds_equal_the_slow_reference_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 63)
    rng = np.random.default_rng(0)
    xyz = rng.uniform(-0.5, 0.5, size=(300, 3))
    cells = np.unique(np.floor(xyz / 0.1).astype(np.int64), axis=0)
    shares = rng.dirichlet(np.ones(5), size=len(cells))
    rows = choose_voxels(candidates_of(shares), pack(cells), xyz, voxel_size=0.1)
    known = {tuple(int(k) for k in cell): share for cell, share in zip(cells, shares, strict=True)}
    assert [tuple(int(k) for k in cells[row]) for row in rows] == [slow_choice(known, point, 0.1) for point in xyz]


def test_only_the_most_probable_classes_are_kept_with_their_true_probabilities() -> None:
    scores = torch.arange(20, dtype=torch.float32)[None] / 4
    found = Candidates.empty(1, 20)
    found.set_rows(np.array([0]), scores)
    assert found.classes.tolist() == [[19, 18, 17, 16, 15, 14, 13, 12]]
    np.testing.assert_allclose(found.probabilities[0], scores.softmax(dim=1)[0].flip(0)[:8], rtol=1e-5)


def test_packed_cells_keep_their_order() -> None:
    cells = np.array([[-2, 5, 1], [-1, -7, 3], [0, 0, 0], [0, 0, 1], [0, 1, -9], [4, -4, 4]], dtype=np.int64)
    keys = pack(cells)
    assert (np.diff(keys) > 0).all()
    np.testing.assert_array_equal(unpack(keys), cells)


def test_the_colour_of_a_voxel_is_the_rounded_mean_of_its_points() -> None:
    rgb = np.array([[0, 10, 255], [1, 20, 255], [7, 7, 7]], dtype=np.uint8)
    np.testing.assert_array_equal(mean_colors(rgb, np.array([1, 1, 0]), 2), [[7, 7, 7], [0, 15, 255]])
