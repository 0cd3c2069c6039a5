"""Boxes around points, compared with the boxes that the points were made from."""

import math

import numpy as np
import pytest

from lg3d_core.errors import ShapeError
from lg3d_core.evaluation.boxes import Box, find_outline, find_strays, fit_box

RNG = np.random.default_rng(0)


def turned(points: np.ndarray, degrees: float) -> np.ndarray:
    a = math.radians(degrees)
    return points @ np.array([[math.cos(a), math.sin(a), 0], [-math.sin(a), math.cos(a), 0], [0, 0, 1]])


def block(length: float, width: float, height: float, *, count: int = 500) -> np.ndarray:
    """Points in a block around the origin, with its eight corners."""
    inside = RNG.uniform(-0.5, 0.5, size=(count, 3))
    corners = np.array([(x, y, z) for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    return np.concatenate([inside, corners]) * (length, width, height)


@pytest.mark.parametrize(
    ("degrees", "yaw"), [(0, 0), (30, 30), (89, 89), (90, -90), (100, -80), (-45, -45), (180, 0), (250, 70)]
)
def test_a_turned_block_gets_its_own_box(degrees: float, yaw: float) -> None:
    box = fit_box(turned(block(2.0, 0.5, 0.8), degrees) + np.array([10, -3, 1.4]))
    np.testing.assert_allclose(box.centre, [10, -3, 1.4], atol=1e-9)
    np.testing.assert_allclose(box.size, [2.0, 0.5, 0.8], atol=1e-9)
    assert abs(math.sin(box.yaw - math.radians(yaw))) < 1e-9
    assert -math.pi / 2 <= box.yaw < math.pi / 2


def test_the_length_is_the_longer_side() -> None:
    box = fit_box(block(0.5, 2.0, 3.0))
    np.testing.assert_allclose(box.size, [2.0, 0.5, 3.0], atol=1e-9)
    assert abs(box.yaw) == pytest.approx(math.pi / 2)


def test_the_rectangle_is_at_most_as_large_as_one_at_any_other_angle() -> None:
    for _ in range(20):
        points = RNG.normal(size=(40, 3)) * RNG.uniform(0.1, 3, size=3)
        box = fit_box(points)
        areas = [np.prod(np.ptp(turned(points, angle)[:, :2], axis=0)) for angle in np.arange(0, 90, 0.25)]
        assert box.size[0] * box.size[1] <= min(areas) + 1e-9


def test_the_corners_lie_where_the_block_has_them() -> None:
    box = Box(np.array([1.0, 2.0, 3.0]), np.array([4.0, 2.0, 6.0]), math.pi / 2)
    np.testing.assert_allclose(
        box.corners,
        [[2, 0, 0], [2, 4, 0], [0, 4, 0], [0, 0, 0], [2, 0, 6], [2, 4, 6], [0, 4, 6], [0, 0, 6]],
        atol=1e-12,
    )
    again = fit_box(box.corners)
    np.testing.assert_allclose(again.corners[:, 2], box.corners[:, 2])
    np.testing.assert_allclose(again.size, box.size)


def test_every_point_is_inside_its_box() -> None:
    points = RNG.normal(size=(300, 3)).astype(np.float32)
    box = fit_box(points)
    local = turned(points - box.centre, -math.degrees(box.yaw))
    assert (np.abs(local) <= box.size / 2 + 1e-6).all()


@pytest.mark.parametrize(
    ("points", "size"),
    [
        ([[1, 2, 3]], [0, 0, 0]),
        ([[1, 2, 3], [1, 2, 3], [1, 2, 3]], [0, 0, 0]),
        ([[0, 0, 0], [3, 4, 1]], [5, 0, 1]),
        ([[0, 0, 0], [3, 4, 1], [6, 8, 2], [1.5, 2, 9]], [10, 0, 9]),
        ([[0, 0, 0], [0, 0, 2]], [0, 0, 2]),
    ],
)
def test_points_lines_and_posts_have_flat_boxes(points: list[list[float]], size: list[float]) -> None:
    box = fit_box(np.array(points, dtype=np.float64))
    np.testing.assert_allclose(box.size, size, atol=1e-9)
    np.testing.assert_allclose(box.centre, (np.min(points, axis=0) + np.max(points, axis=0)) / 2, atol=1e-9)


def test_points_far_from_the_origin_lose_no_precision() -> None:
    box = fit_box(turned(block(2.0, 0.5, 0.8), 30) + np.array([5e5, 4e6, 100]))
    np.testing.assert_allclose(box.size, [2.0, 0.5, 0.8], atol=1e-6)


def test_the_outline_of_a_grid_has_its_four_corners() -> None:
    grid = np.stack(np.meshgrid(np.arange(5.0), np.arange(4.0)), axis=-1).reshape(-1, 2)
    assert {tuple(corner) for corner in find_outline(grid).tolist()} == {(0, 0), (4, 0), (4, 3), (0, 3)}


@pytest.mark.parametrize("points", [np.zeros((0, 3)), np.zeros((4, 2)), np.array([[0.0, 0.0, np.nan]])])
def test_other_shapes_and_positions_that_are_not_finite_are_refused(points: np.ndarray) -> None:
    with pytest.raises(ShapeError, match="expected finite points"):
        fit_box(points)


@pytest.mark.parametrize("degrees", [0, 20, 45, 70])
def test_a_few_strays_on_each_side_are_found_and_none_else(degrees: float) -> None:
    points = turned(block(2.0, 0.5, 0.8, count=4000), degrees)
    far = np.array([(4, 0, 0), (-4, 1, 0), (0, 5, 0), (1, -3, 0), (0, 0, 3), (0, 0, -3)] * 5, dtype=np.float64)
    stray = find_strays(np.concatenate([points, far]))
    assert stray.tolist() == [False] * len(points) + [True] * len(far)
    np.testing.assert_allclose(fit_box(np.concatenate([points, far])[~stray]).size, [2.0, 0.5, 0.8], atol=1e-9)


def test_a_large_part_is_not_stray() -> None:
    """A lamp: a shade of 0.4 m on a pole that holds 5 % of the points."""
    shade = block(0.4, 0.4, 0.3, count=1900) + np.array([0, 0, 1.5])
    pole = block(0.03, 0.03, 1.4, count=100) + np.array([0, 0, 0.7])
    assert not find_strays(np.concatenate([shade, pole])).any()


def test_few_points_have_no_strays() -> None:
    assert not find_strays(np.array([[0.0, 0, 0]] * 50 + [[9.0, 9, 9]])).any()
