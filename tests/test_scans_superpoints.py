import numpy as np
import numpy.typing as npt
import pytest

from lg3d_core.scans.superpoints import segment_points


def plane(*, axis: int, shift: tuple[float, float, float] = (0, 0, 0), count: int = 30) -> npt.NDArray[np.float64]:
    """Return a square grid with 5 cm between points, orthogonal to an axis, with a corner at `shift`."""
    grid = np.stack(np.meshgrid(np.arange(count), np.arange(count), indexing="ij"), axis=-1).reshape(-1, 2) * 0.05
    return np.insert(grid, axis, 0.0, axis=1) + np.array(shift)


def test_floor_and_wall_are_two_superpoints() -> None:
    xyz = np.concatenate([plane(axis=2, shift=(0.05, 0, 0)), plane(axis=0, shift=(0, 0, 0.05))])
    segments = segment_points(xyz)
    floor, wall = np.bincount(segments[:900]).argmax(), np.bincount(segments[900:]).argmax()
    assert floor != wall
    assert (segments[:900] == floor).mean() > 0.9  # points at the edge see both planes
    assert (segments[900:] == wall).mean() > 0.9


def test_a_black_half_of_a_white_plane_is_a_superpoint_of_its_own() -> None:
    xyz = plane(axis=2)
    black = xyz[:, 0] < 0.725
    rgb = np.where(black[:, None], 0, 255).astype(np.uint8).repeat(3, axis=1)
    assert np.array_equal(segment_points(xyz, rgb), np.where(black, 0, 1))
    assert segment_points(xyz).max() == 0


def test_small_superpoints_join_a_neighbour() -> None:
    xyz = plane(axis=2)
    rgb = np.full((900, 3), 255, dtype=np.uint8)
    rgb[[400, 401, 430, 431]] = 0
    assert segment_points(xyz, rgb, min_points=1).max() == 1
    assert segment_points(xyz, rgb, min_points=5).max() == 0


def test_numbers_are_contiguous_in_order_of_appearance_and_the_same_every_time() -> None:
    rng = np.random.default_rng(0)
    xyz, rgb = rng.random((2000, 3)), rng.integers(0, 256, (2000, 3)).astype(np.uint8)
    segments = segment_points(xyz, rgb)
    numbers, first = np.unique(segments, return_index=True)
    assert numbers.tolist() == list(range(len(numbers)))
    assert (np.diff(first) > 0).all()
    assert np.array_equal(segments, segment_points(xyz, rgb))


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_few_points_are_one_superpoint_at_most(count: int) -> None:
    assert segment_points(np.zeros((count, 3))).tolist() == [0] * count
