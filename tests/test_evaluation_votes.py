"""Votes: symmetries of the grid, undone exactly."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lg3d_core.evaluation.predictor import Predictor
from lg3d_core.evaluation.votes import SYMMETRIES, Vote, draw_votes
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.settings import AskSettings, EvalSettings, PredictSettings
from lg3d_core.sparse import SparseTensor


def test_the_first_vote_is_the_grid_itself() -> None:
    cells = np.array([[0, 1, 2], [-3, 4, -5]], dtype=np.int32)
    (first,) = draw_votes(1)
    np.testing.assert_array_equal(first.move(cells), cells)
    assert torch.equal(first.restore(torch.ones(2, 3)), torch.ones(2, 3))


def test_eight_votes_are_eight_symmetries_and_more_only_add() -> None:
    eight = draw_votes(8)
    assert len({(vote.swaps, vote.signs) for vote in eight}) == SYMMETRIES
    assert draw_votes(11)[:8] == eight
    assert draw_votes(3) == eight[:3]
    assert all(vote.signs[2] == 1 for vote in eight)  # never upside down


def test_a_mirrored_cell_contains_the_mirrored_points() -> None:
    # The cell 2 spans 2 to 3; mirrored it spans -3 to -2, which is cell -3; shifted by 5 it is cell 2.
    vote = Vote(False, (-1, 1, 1), (5, 0, 7))
    np.testing.assert_array_equal(vote.move(np.array([[2, 2, 2]], dtype=np.int32)), [[2, 2, 9]])
    turn = Vote(True, (-1, 1, 1), (0, 0, 0))
    np.testing.assert_array_equal(turn.move(np.array([[3, 8, 1]], dtype=np.int32)), [[-9, 3, 1]])


@pytest.mark.parametrize("vote", draw_votes(8))
def test_differences_of_moved_cells_are_restored(vote: Vote) -> None:
    cells = np.random.default_rng(0).integers(-50, 50, size=(20, 3)).astype(np.int32)
    moved = vote.move(cells)
    restored = vote.restore(torch.from_numpy((moved[1:] - moved[:-1]).astype(np.float32)))
    np.testing.assert_array_equal(restored.numpy(), cells[1:] - cells[:-1])


class Compass:
    """Features are the cells' coordinates and a constant; offsets point along +x of the grid that is seen."""

    num_classes = 3
    num_features = 3
    training = False

    def __call__(self, x: SparseTensor) -> Tensor:
        return x.restore(x.features)

    def modules(self) -> list[Any]:
        return []

    def eval(self) -> None:
        pass

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def classify(self, features: Tensor) -> Tensor:
        return features

    @staticmethod
    def offset_head(features: Tensor) -> Tensor:
        return torch.tensor([[1.0, 0.0, 0.5]]).expand(len(features), 3)


def test_offsets_are_averaged_in_the_axes_of_the_scan() -> None:
    cells = np.array([[0, 0, 0], [1, 0, 0], [4, 2, 1]], dtype=np.int32)
    rgb = np.full((3, 3), 100, dtype=np.uint8)
    predictor = Predictor(network=Compass(), voxel_size=0.05, votes=8)  # type: ignore[arg-type]
    found = predictor.label_voxels(cells, rgb, name="a")
    # The eight symmetries turn +x into each of +x, -x, +y and -y twice.
    np.testing.assert_allclose(found.offsets, np.tile([0, 0, 0.5], (3, 1)), atol=1e-6)


def test_a_network_without_voting_sees_one_grid_and_with_votes_the_mean_of_all() -> None:
    torch.manual_seed(0)
    network = MinkUNet("14A", num_classes=4)
    rng = np.random.default_rng(1)
    cells = np.unique(rng.integers(0, 12, size=(400, 3)), axis=0).astype(np.int32)
    rgb = rng.integers(0, 255, size=(len(cells), 3)).astype(np.uint8)

    def features_of(cells: np.ndarray, votes: int) -> Tensor:
        predictor = Predictor(network=network, voxel_size=0.05, votes=votes)
        out = torch.empty(len(cells), network.num_features)
        for rows, part in predictor.features(cells, rgb, name="a"):
            out[torch.from_numpy(rows)] = part
        return out

    single = [features_of(vote.move(cells), 1) for vote in draw_votes(3)]
    assert not torch.allclose(single[0], single[1], atol=1e-3)
    torch.testing.assert_close(features_of(cells, 3), torch.stack(single).mean(dim=0), rtol=1e-4, atol=1e-5)


def test_the_three_commands_have_the_option() -> None:
    assert EvalSettings(votes=4).votes == PredictSettings(votes=4, scans=("a.ply",)).votes == 4
    assert AskSettings(votes=4, scan="a.ply").votes == 4
