"""Heat of a text against the vocabulary, and the places that it makes."""

import numpy as np
import pytest
import torch

from lg3d_core.evaluation.grouping import connect_cells
from lg3d_core.inference.heat import background_of, find_regions, spread_of, text_heat

E = torch.eye(5)


def test_the_spread_is_the_deviation_of_the_cosines_between_anchors() -> None:
    anchors = torch.tensor([[1.0, 0, 0], [2.0, 0, 0], [0, 0, 3.0]])  # cosines 1, 0, 0
    assert spread_of(anchors) == pytest.approx(np.std([1, 0, 0]))
    assert spread_of(E) == 0.01  # no spread at all


def test_heat_is_the_softmax_of_the_text_against_the_average_name() -> None:
    scale = 0.5
    feature, text = torch.tensor([[3.0, 0, 0, 0, 0]]), torch.tensor([[0.6, 0.8, 0, 0, 0]])
    own, rest = np.exp(1 / scale), 4 * np.exp(0)  # the feature lies on the first of five orthogonal anchors
    average = (own + rest) / 5
    assert background_of(feature, E, scale=scale).item() == pytest.approx(scale * np.log(average))
    expected = np.exp(0.6 / scale) / (np.exp(0.6 / scale) + average)
    assert text_heat(feature, E, text, scale=scale).item() == pytest.approx(expected)


def test_a_place_far_from_all_names_is_no_easier_won() -> None:
    anchors, text = torch.eye(6)[:5], torch.eye(6)[5:] * 0.5 + torch.eye(6)[:1]
    unknown, known = torch.eye(6)[5:], torch.eye(6)[:1]
    at_unknown, at_known = text_heat(torch.cat([unknown, known]), anchors, text, scale=0.3)[:, 0]
    assert background_of(unknown, anchors, scale=0.3) < background_of(known, anchors, scale=0.3)
    assert at_unknown < at_known


def test_the_own_name_is_hot_and_another_is_cold() -> None:
    heat = text_heat(E, E, E, scale=0.2)
    assert (heat.diagonal() > 0.8).all()
    assert (heat[~torch.eye(5, dtype=torch.bool)] < 0.05).all()


def test_pieces_hang_together_by_corners() -> None:
    cells = np.array([[0, 0, 0], [5, 5, 5], [1, 1, 1], [9, 0, 0], [6, 4, 5], [2, 1, 1]])
    piece = connect_cells(cells)
    assert piece[0] == piece[2] == piece[5]
    assert piece[1] == piece[4]
    assert len(set(piece.tolist())) == 3


def test_pieces_agree_with_a_search_one_cell_at_a_time() -> None:
    rng = np.random.default_rng(0)
    cells = np.unique(rng.integers(0, 12, size=(250, 3)), axis=0)
    where = {tuple(cell): k for k, cell in enumerate(cells.tolist())}
    expected = np.full(len(cells), -1)
    for start in range(len(cells)):
        pending = [start] if expected[start] < 0 else []
        while pending:
            k = pending.pop()
            expected[k] = start
            x, y, z = cells[k].tolist()
            near = [(x + a, y + b, z + c) for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1)]
            pending += [where[cell] for cell in near if cell in where and expected[where[cell]] < 0]
    piece = connect_cells(rng.permutation(cells))
    assert len(set(piece.tolist())) == len(set(expected.tolist()))
    assert sorted(np.unique(piece, return_counts=True)[1]) == sorted(np.unique(expected, return_counts=True)[1])


def test_regions_come_hottest_first_with_their_boxes() -> None:
    grid = np.stack(np.meshgrid(range(3), range(2), range(2), indexing="ij"), axis=-1).reshape(-1, 3)
    cells = np.concatenate([grid, grid + np.array([20, 0, 0]), grid + np.array([40, 0, 0]), [[60, 0, 0]]]).astype(
        np.int32
    )
    heat = np.concatenate([np.full(12, 0.6), np.full(12, 0.9), np.full(12, 0.2), [0.99]]).astype(np.float32)
    padding = np.stack([np.arange(1000) + 100, np.zeros(1000), np.zeros(1000)], axis=1).astype(np.int32)
    cells, heat = np.concatenate([cells, padding]), np.concatenate([heat, np.zeros(1000, dtype=np.float32)])
    regions = find_regions(cells, heat, voxel_size=0.1, threshold=0.5, count=5)
    assert [region.voxels for region in regions] == [12, 12]  # a single hot voxel is a speck
    assert [round(region.heat, 3) for region in regions] == [0.9, 0.6]
    np.testing.assert_allclose(regions[0].low, [2.0, 0, 0])
    np.testing.assert_allclose(regions[0].high, [2.3, 0.2, 0.2])
    np.testing.assert_allclose(regions[0].centre, [2.15, 0.1, 0.1])
    assert len(find_regions(cells, heat, voxel_size=0.1, threshold=0.5, count=1)) == 1
    assert find_regions(cells, heat, voxel_size=0.1, threshold=0.999, count=5) == []
