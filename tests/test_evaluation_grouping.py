import numpy as np
import numpy.typing as npt
import pytest

from lg3d_core.errors import ShapeError
from lg3d_core.evaluation.grouping import Proposals, connect_points, propose_instances, suppress_overlaps
from tests.slow_grouping import connect_slowly

CHAIR, TABLE = 3, 7


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("radius", [0.03, 0.1, 0.25])
def test_groups_are_those_of_a_breadth_first_search(seed: int, radius: float) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 500))
    xyz = rng.random((count, 3)) * rng.choice([0.1, 0.5, 2.0]) - 3
    if seed % 3 == 0:
        xyz = np.round(xyz / 0.05) * 0.05  # voxel centres, with repeated points
    classes = rng.integers(-1, 3, count)
    assert connect_points(xyz, classes, radius=radius).tolist() == connect_slowly(xyz, classes, radius)


def test_a_step_of_exactly_the_radius_connects_and_a_longer_one_does_not() -> None:
    xyz = np.array([[0.0, 0, 0], [0.5, 0, 0], [1.0078125, 0, 0]])
    assert connect_points(xyz, np.array([0, 0, 0]), radius=0.5).tolist() == [0, 0, 1]


def test_points_of_another_class_neither_join_nor_bridge() -> None:
    xyz = np.array([[0.0, 0, 0], [0.1, 0, 0], [0.2, 0, 0]])
    assert connect_points(xyz, np.array([CHAIR, TABLE, CHAIR]), radius=0.1).tolist() == [0, 1, 2]


def test_dense_cells_connect_by_their_closest_points() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.random((3000, 3)) * 0.1, rng.random((3000, 3)) * 0.1 + [0.19, 0, 0]
    bridge = np.array([[0.1, 0.05, 0.05], [0.19, 0.05, 0.05]])
    classes = np.zeros(6002, dtype=np.int64)
    xyz = np.concatenate([left, right, bridge])
    assert connect_points(xyz, classes, radius=0.0901).max() == 0
    assert connect_points(xyz, classes, radius=0.0899).tolist() == connect_slowly(xyz, classes, 0.0899)


def test_no_points_and_no_classes_give_no_groups() -> None:
    assert connect_points(np.zeros((0, 3)), np.zeros(0, dtype=int), radius=0.1).tolist() == []
    assert connect_points(np.zeros((2, 3)), np.array([-1, -1]), radius=0.1).tolist() == [-1, -1]


@pytest.mark.parametrize("xyz", [np.zeros((2, 2)), np.zeros((3, 3)), np.full((2, 3), np.nan)])
def test_wrong_shapes_and_positions_are_rejected(xyz: npt.NDArray[np.float64]) -> None:
    with pytest.raises(ShapeError):
        connect_points(xyz, np.zeros(2, dtype=int), radius=0.1)


def two_touching_chairs() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return points along a line, and offsets to the centres of its two halves."""
    xyz = np.zeros((40, 3))
    xyz[:, 0] = np.arange(40) * 0.1
    centre = np.where(np.arange(40) < 20, 0.95, 2.95)
    offsets = np.zeros_like(xyz)
    offsets[:, 0] = centre - xyz[:, 0]
    return xyz, offsets


def test_offsets_separate_objects_of_one_class_that_touch() -> None:
    xyz, offsets = two_touching_chairs()
    classes, confidence = np.full(40, CHAIR), np.full(40, 0.5)
    proposals = propose_instances(xyz, offsets, classes, confidence, radius=0.11, min_points=5)
    assert np.diff(proposals.starts).tolist() == [40, 20, 20]  # all in place, then both halves at their centres
    confidence[:20] = 0.9
    proposals = propose_instances(xyz, offsets, classes, confidence, radius=0.11, min_points=5)
    assert proposals.scores.tolist() == pytest.approx([0.7, 0.9, 0.5])
    kept = suppress_overlaps(proposals, num_points=40)
    # the better half drops the whole (IoU 20 / 40 > 0.3), whose fall leaves the other half
    assert [rows.tolist() for rows in kept.mask_rows()] == [list(range(20)), list(range(20, 40))]
    assert kept.confidences.tolist() == pytest.approx([0.9, 0.5])


def test_small_groups_are_dropped() -> None:
    xyz, offsets = two_touching_chairs()
    proposals = propose_instances(xyz, offsets, np.full(40, CHAIR), np.ones(40), radius=0.11, min_points=21)
    assert np.diff(proposals.starts).tolist() == [40]
    nothing = propose_instances(xyz, None, np.full(40, CHAIR), np.ones(40), radius=0.11, min_points=41)
    assert len(nothing.scores) == 0
    assert len(suppress_overlaps(nothing, num_points=40)) == 0


def candidates(*rows: range, scores: tuple[float, ...]) -> Proposals:
    starts = np.cumsum([0, *map(len, rows)])
    return Proposals(
        np.concatenate([np.array(own) for own in rows]), starts, np.full(len(rows), CHAIR), np.array(scores)
    )


def test_fragments_of_a_better_candidate_are_dropped() -> None:
    # Of the second candidate, 2 of 4 points are inside the first, of the third 3 of 4; IoU 2 / 22 and 3 / 21.
    proposals = candidates(range(20), range(18, 22), range(17, 21), scores=(0.9, 0.8, 0.7))
    kept = suppress_overlaps(proposals, num_points=22)
    assert [rows.tolist() for rows in kept.mask_rows()] == [list(range(20)), [18, 19, 20, 21]]


def test_a_whole_is_not_dropped_for_a_better_fragment_of_it() -> None:
    kept = suppress_overlaps(candidates(range(20), range(4), scores=(0.7, 0.8)), num_points=20)
    assert [len(rows) for rows in kept.mask_rows()] == [4, 20]


def test_among_equal_scores_the_groups_at_shifted_positions_are_kept() -> None:
    xyz, offsets = two_touching_chairs()
    proposals = propose_instances(xyz, offsets, np.full(40, CHAIR), np.ones(40), radius=0.11, min_points=5)
    kept = suppress_overlaps(proposals, num_points=40)
    assert sorted(rows.tolist() for rows in kept.mask_rows()) == [list(range(20)), list(range(20, 40))]


def test_overlapping_candidates_of_different_classes_are_both_kept() -> None:
    rows = np.concatenate([np.arange(10), np.arange(10)])
    proposals = Proposals(rows, np.array([0, 10, 20]), np.array([CHAIR, TABLE]), np.array([0.4, 0.6]))
    assert suppress_overlaps(proposals, num_points=10).classes.tolist() == [TABLE, CHAIR]
