"""Voxelisation against a slow reference: `numpy.unique` over rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lg3d_core.errors import DataError, ShapeError
from lg3d_core.sampling import voxels as module
from lg3d_core.sampling.voxels import MAX_CELL, voxelize

WAYS = {"grid": 10**9, "sorting": 0}  # cells per point up to which the dense grid is taken


@pytest.fixture(params=sorted(WAYS))
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(module, "DENSE_CELLS_PER_POINT", WAYS[request.param])
    return str(request.param)


def slow_voxelize(xyz: np.ndarray, voxel_size: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    cells = np.floor(xyz.astype(np.float64) / voxel_size).astype(np.int64)
    unique, first, inverse = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    return unique, first, inverse.reshape(-1)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("points", [1, 2, 63, 130, 5000])
@pytest.mark.parametrize("voxel_size", [0.02, 0.05, 0.7])
def test_cells_kept_points_and_inverse_equal_the_slow_reference(points: int, voxel_size: float) -> None:
    xyz = np.random.default_rng(points).normal(size=(points, 3)).astype(np.float32)
    cells, first, inverse = slow_voxelize(xyz, voxel_size)
    voxels = voxelize(xyz, voxel_size)
    np.testing.assert_array_equal(voxels.cells, cells)
    np.testing.assert_array_equal(voxels.point, first)
    np.testing.assert_array_equal(voxels.point_to_voxel, inverse)
    assert (voxels.cells.dtype, voxels.point.dtype, voxels.point_to_voxel.dtype) == (np.int32, np.int64, np.int64)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(-6, 6)] * 3), min_size=1, max_size=40),
    st.one_of(st.none(), st.integers(0, 1000)),
)
def test_grid_and_sorting_agree_to_the_last_row(cells: list[tuple[int, int, int]], seed: int | None) -> None:
    xyz = (np.array(cells) + 0.5) * 0.1
    found = []
    for cells_per_point in WAYS.values():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "DENSE_CELLS_PER_POINT", cells_per_point)
            rng = None if seed is None else np.random.default_rng(seed)
            found.append(voxelize(xyz, 0.1, rng=rng))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("way")
def test_a_cell_reaches_from_its_index_up_to_the_next_and_indices_may_be_negative() -> None:
    xyz = np.array([[-0.01, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0199, 0.0, 0.0], [0.02, 0.0, -0.0201]])
    voxels = voxelize(xyz, 0.02)
    assert voxels.cells.tolist() == [[-1, 0, 0], [0, 0, 0], [1, 0, -2]]
    assert voxels.point.tolist() == [0, 1, 3]
    assert voxels.point_to_voxel.tolist() == [0, 1, 1, 2]


@pytest.mark.usefixtures("way")
def test_with_a_generator_every_point_of_a_voxel_is_kept_equally_often() -> None:
    xyz = np.array([[0.1, 0.1, 0.1], [5.5, 0.1, 0.1], [0.2, 0.1, 0.1], [0.3, 0.1, 0.1]])
    rng = np.random.default_rng(0)
    kept = np.zeros(4, dtype=int)
    for _ in range(3000):
        voxels = voxelize(xyz, 1.0, rng=rng)
        assert voxels.point_to_voxel.tolist() == [0, 1, 0, 0]
        kept[voxels.point] += 1
    assert kept[1] == 3000
    assert abs(kept[[0, 2, 3]] - 1000).max() < 150  # 5.8 standard deviations of sqrt(3000 * 1/3 * 2/3) = 25.8


def test_points_too_far_apart_to_pack_with_their_row_are_sorted() -> None:
    rng = np.random.default_rng(0)
    cells = rng.integers(-MAX_CELL, MAX_CELL, size=(900, 3))
    cells[600:] = cells[:300]
    cells[:2] = [[-MAX_CELL] * 3, [MAX_CELL] * 3]  # the box has 2^54 cells, and 900 rows take 10 bits more
    xyz = cells + 0.5
    expected, first, inverse = slow_voxelize(xyz, 1.0)
    voxels = voxelize(xyz, 1.0)
    np.testing.assert_array_equal(voxels.cells, expected)
    np.testing.assert_array_equal(voxels.point, first)
    np.testing.assert_array_equal(voxels.point_to_voxel, inverse)


def test_a_flat_sparse_box_takes_the_sort_and_a_room_takes_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    for name in ("_group_in_grid", "_group_by_sorting"):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, name=name, run=original: (taken.append(name), run(*args))[1])
    xyz = np.random.default_rng(0).uniform(0, 1, size=(1000, 3))
    voxelize(xyz, 0.05)  # 20^3 cells, 8 a point
    voxelize(xyz, 0.01)  # 100^3 cells, 1000 a point
    assert taken == ["_group_in_grid", "_group_by_sorting"]


def test_no_points_give_no_voxels() -> None:
    voxels = voxelize(np.zeros((0, 3), dtype=np.float32), 0.02)
    assert [array.shape for array in voxels] == [(0, 3), (0,), (0,)]


@pytest.mark.parametrize("bad", [np.zeros((4, 2)), np.zeros(3), np.zeros((4, 3), dtype=np.int64)])
def test_positions_that_are_not_float_are_rejected(bad: np.ndarray) -> None:
    with pytest.raises(ShapeError, match=r"\(points, 3\)"):
        voxelize(bad, 0.02)


@pytest.mark.parametrize("voxel_size", [0.0, -0.02, float("nan"), float("inf")])
def test_an_invalid_voxel_size_is_rejected(voxel_size: float) -> None:
    with pytest.raises(ShapeError, match="voxel size"):
        voxelize(np.zeros((1, 3)), voxel_size)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_positions_that_are_not_finite_are_reported_by_row(value: float) -> None:
    xyz = np.zeros((5, 3), dtype=np.float32)
    xyz[3, 1] = value
    with pytest.raises(DataError, match="1 points are not finite; the first is row 3"):
        voxelize(xyz, 0.02)


def test_positions_in_millimetres_are_rejected_with_advice() -> None:
    xyz = np.array([[0.0, 0.0, 0.0], [5000.0, 0.0, 0.0]])
    with pytest.raises(DataError, match="check that the coordinates are in metres"):
        voxelize(xyz, 0.02)
