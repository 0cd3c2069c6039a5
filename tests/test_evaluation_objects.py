"""Objects grouped from voxels of known classes and offsets."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from lg3d_core.evaluation.grouping import propose_instances, suppress_overlaps
from lg3d_core.evaluation.interpolation import Candidates
from lg3d_core.evaluation.objects import Grouping, find_objects
from lg3d_core.evaluation.predictor import VoxelLabels, voxel_centres
from tests.slow_grouping import connect_slowly

WALL, CHAIR, TABLE = 0, 1, 2
EDGE = 0.05
GROUPING = Grouping(radius=0.075, min_voxels=4, min_points=1)
FloatArray = npt.NDArray[np.float64]


def box(low: tuple[int, int, int], high: tuple[int, int, int]) -> npt.NDArray[np.int64]:
    """Return the cells of a solid box, both ends included."""
    axes = [np.arange(a, b + 1) for a, b in zip(low, high, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


WALL_CELLS = box((0, 0, 0), (30, 0, 9))
LEFT_CHAIR = box((2, 1, 0), (5, 4, 3))
RIGHT_CHAIR = box((6, 1, 0), (9, 4, 3))  # touches the left one
TABLE_CELLS = box((20, 3, 0), (25, 8, 1))
CELLS = np.concatenate([WALL_CELLS, LEFT_CHAIR, RIGHT_CHAIR, TABLE_CELLS])
OBJECT = np.repeat([0, 1, 2, 3], [len(WALL_CELLS), 64, 64, 72])
LABEL = np.array([WALL, CHAIR, CHAIR, TABLE])[OBJECT].astype(np.int16)
CENTRES = voxel_centres(CELLS, EDGE)
CONFIDENCE = np.array([0.9, 0.8, 0.75, 0.5], dtype=np.float32)[OBJECT]


def true_offsets() -> npt.NDArray[np.float32]:
    middles = np.stack([CENTRES[number == OBJECT].mean(axis=0) for number in range(4)])
    return (middles[OBJECT] - CENTRES).astype(np.float32)


def voxels_of(found: npt.NDArray[np.int64]) -> set[int]:
    return set(OBJECT[found].tolist())


def test_voxel_centres_are_in_the_middle_of_their_cells() -> None:
    assert voxel_centres(np.array([[0, -1, 2]]), 0.1).tolist() == [pytest.approx([0.05, -0.05, 0.25])]


def test_offsets_separate_touching_chairs_and_walls_form_no_object() -> None:
    found = VoxelLabels(LABEL, CONFIDENCE, true_offsets())
    objects = find_objects(found, CENTRES, np.arange(len(CELLS)), without_instances=[WALL], grouping=GROUPING)
    assert objects.classes.tolist() == [CHAIR, CHAIR, TABLE]
    assert objects.confidences.tolist() == pytest.approx([0.8, 0.75, 0.5])
    for rows, number in zip(objects.mask_rows(), (1, 2, 3), strict=True):
        assert rows.tolist() == np.flatnonzero(number == OBJECT).tolist()


def test_without_offsets_objects_are_connected_components_of_a_class() -> None:
    found = VoxelLabels(LABEL, CONFIDENCE)
    objects = find_objects(found, CENTRES, np.arange(len(CELLS)), without_instances=[WALL], grouping=GROUPING)
    assert [voxels_of(rows) for rows in objects.mask_rows()] == [{1, 2}, {3}]
    assert objects.confidences.tolist() == pytest.approx([0.775, 0.5])  # mean of 64 times 0.8 and 64 times 0.75


def test_objects_contain_all_points_of_their_voxels_in_ascending_order() -> None:
    rng = np.random.default_rng(0)
    point_to_voxel = rng.integers(-1, len(CELLS), size=3000)  # -1 for points outside the grid
    found = VoxelLabels(LABEL, CONFIDENCE, true_offsets())
    objects = find_objects(found, CENTRES, point_to_voxel, without_instances=[WALL], grouping=GROUPING)
    for rows, number in zip(objects.mask_rows(), (1, 2, 3), strict=True):
        inside = np.isin(point_to_voxel, np.flatnonzero(number == OBJECT))
        assert rows.tolist() == np.flatnonzero(inside).tolist()


def test_objects_with_too_few_voxels_or_points_are_dropped() -> None:
    found = VoxelLabels(LABEL, CONFIDENCE, true_offsets())
    everywhere = np.arange(len(CELLS))
    large = Grouping(radius=0.075, min_voxels=65, min_points=1)
    objects = find_objects(found, CENTRES, everywhere, without_instances=[WALL], grouping=large)
    assert [voxels_of(rows) for rows in objects.mask_rows()] == [{3}]
    many = Grouping(radius=0.075, min_voxels=4, min_points=65)
    objects = find_objects(found, CENTRES, everywhere, without_instances=[WALL], grouping=many)
    assert [voxels_of(rows) for rows in objects.mask_rows()] == [{3}]
    assert len(find_objects(found, CENTRES, everywhere[:0], without_instances=[WALL], grouping=many)) == 0


def test_with_both_sets_objects_are_also_grouped_at_their_original_places() -> None:
    found = VoxelLabels(LABEL, CONFIDENCE, true_offsets())
    dual = Grouping(radius=0.075, min_voxels=65, min_points=1, dual_set=True)
    # The chairs have 64 voxels each, but together they are a component of 128 at their original places.
    objects = find_objects(found, CENTRES, np.arange(len(CELLS)), without_instances=[WALL], grouping=dual)
    assert [voxels_of(rows) for rows in objects.mask_rows()] == [{1, 2}, {3}]


def candidates(classes: npt.NDArray[np.integer], probabilities: npt.NDArray[np.floating]) -> Candidates:
    return Candidates(classes.astype(np.int16), probabilities.astype(np.float32), num_classes=3)


def label(own: Candidates, offsets: npt.NDArray[np.float32] | None = None) -> VoxelLabels:
    return VoxelLabels(own.classes[:, 0], own.probabilities[:, 0], offsets, own)


def test_an_object_whose_voxels_are_assigned_to_two_classes_is_whole_in_both() -> None:
    cells = box((0, 0, 0), (3, 3, 3))
    first = np.arange(64)[:, None] < 32  # half of the voxels: chair 0.5, table 0.4; the others: table 0.6, chair 0.3
    own = candidates(np.where(first, [CHAIR, TABLE], [TABLE, CHAIR]), np.where(first, [0.5, 0.4], [0.6, 0.3]))
    objects = find_objects(
        label(own), voxel_centres(cells, EDGE), np.arange(64), without_instances=[WALL], grouping=GROUPING
    )
    assert [len(rows) for rows in objects.mask_rows()] == [64, 64]
    assert objects.classes.tolist() == [TABLE, CHAIR]
    assert objects.confidences.tolist() == pytest.approx([(0.4 + 0.6) / 2, (0.5 + 0.3) / 2])
    apart = replace(GROUPING, min_probability=None)
    objects = find_objects(
        label(own), voxel_centres(cells, EDGE), np.arange(64), without_instances=[WALL], grouping=apart
    )
    assert [len(rows) for rows in objects.mask_rows()] == [32, 32]
    assert objects.confidences.tolist() == pytest.approx([0.6, 0.5])


def test_a_voxel_of_the_wall_joins_the_other_classes_that_are_probable_enough() -> None:
    cells = box((0, 0, 0), (3, 3, 0))
    own = candidates(np.tile([WALL, CHAIR, TABLE], (16, 1)), np.tile([0.75, 0.1875, 0.0625], (16, 1)))
    for minimum, classes in ((0.0625, [CHAIR, TABLE]), (0.1, [CHAIR]), (0.2, [])):
        grouping = replace(GROUPING, min_probability=minimum)
        objects = find_objects(
            label(own), voxel_centres(cells, EDGE), np.arange(16), without_instances=[WALL], grouping=grouping
        )
        assert objects.classes.tolist() == classes


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("minimum", [0.0, 0.3, None])
def test_objects_equal_a_slow_reference(seed: int, minimum: float | None) -> None:
    """One class after the other: its voxels, their groups by breadth-first search, and the means over them."""
    rng = np.random.default_rng(seed)
    cells = np.unique(rng.integers(0, 9, size=(300, 3)), axis=0)
    centres, count = voxel_centres(cells, EDGE), len(cells)
    probabilities = -np.sort(-rng.dirichlet(np.ones(5), size=count).astype(np.float32), axis=1)
    classes = np.argsort(rng.random((count, 5)), axis=1)
    own = Candidates(classes.astype(np.int16), probabilities, num_classes=5)
    offsets = rng.normal(scale=0.1, size=(count, 3)).astype(np.float32)
    shifted = np.clip(centres + offsets, centres.min(axis=0), centres.max(axis=0))
    expected = []
    for class_ in range(1, 5):
        joins = np.tile(np.arange(5) == 0, (count, 1)) | (minimum is not None and probabilities >= minimum)
        voxel, rank = np.nonzero((classes == class_) & joins)
        groups = np.array(connect_slowly(shifted[voxel], np.zeros(len(voxel), dtype=np.int64), 0.075))
        for group in range(groups.max(initial=-1) + 1):
            members = groups == group
            if members.sum() >= 4:
                score = probabilities[voxel[members], rank[members]].mean()
                expected.append((class_, sorted(voxel[members].tolist()), pytest.approx(score)))
    grouping = replace(GROUPING, min_probability=minimum)
    objects = find_objects(label(own, offsets), centres, np.arange(count), without_instances=[0], grouping=grouping)
    found = zip(
        objects.classes.tolist(), (r.tolist() for r in objects.mask_rows()), objects.confidences.tolist(), strict=True
    )
    assert sorted(found) == sorted(expected, key=lambda one: one[:2])
    assert (np.diff(objects.confidences) <= 0).all()


@pytest.mark.parametrize("far", [1e3, 1e30])
def test_offsets_out_of_the_scene_are_clipped_to_it(far: float) -> None:
    offsets = true_offsets()
    offsets[OBJECT == 3] = far
    objects = find_objects(
        VoxelLabels(LABEL, CONFIDENCE, offsets),
        CENTRES,
        np.arange(len(CELLS)),
        without_instances=[WALL],
        grouping=GROUPING,
    )
    assert [voxels_of(rows) for rows in objects.mask_rows()] == [{1}, {2}, {3}]


def test_an_empty_scene_has_no_objects() -> None:
    nothing = VoxelLabels(np.zeros(0, np.int16), np.zeros(0, np.float32), np.zeros((0, 3), np.float32))
    objects = find_objects(
        nothing, np.zeros((0, 3)), np.zeros(0, np.int64), without_instances=[WALL], grouping=GROUPING
    )
    assert len(objects) == 0


@pytest.mark.parametrize(("edge", "radius", "min_voxels"), [(0.02, 0.03, 50), (0.05, 0.075, 8), (0.5, 0.75, 1)])
def test_default_rules_follow_the_voxel_size(edge: float, radius: float, min_voxels: int) -> None:
    grouping = Grouping.for_voxels(edge)
    assert grouping.radius == pytest.approx(radius)
    assert grouping.min_voxels == min_voxels
    assert grouping.min_points == 100


@pytest.mark.parametrize("dual_set", [False, True])
def test_voxels_that_are_points_give_the_groups_of_the_points(dual_set: bool) -> None:
    rng = np.random.default_rng(1)
    cells = np.unique(rng.integers(0, 12, size=(600, 3)), axis=0)
    label = rng.integers(0, 3, size=len(cells)).astype(np.int16)
    confidence = rng.random(len(cells)).astype(np.float32)
    centres = voxel_centres(cells, EDGE)
    offsets = rng.normal(scale=0.02, size=cells.shape).astype(np.float32)
    inside = np.clip(centres + offsets, centres.min(axis=0), centres.max(axis=0)) - centres
    places = (centres, inside) if dual_set else (centres + inside, None)
    expected = suppress_overlaps(
        propose_instances(*places, label, confidence, radius=0.06, min_points=4), num_points=len(cells)
    )
    grouping = Grouping(radius=0.06, min_voxels=4, min_points=1, dual_set=dual_set)
    objects = find_objects(
        VoxelLabels(label, confidence, offsets), centres, np.arange(len(cells)), without_instances=(), grouping=grouping
    )
    for one, other in zip(objects, expected, strict=True):
        np.testing.assert_array_equal(one, other)
