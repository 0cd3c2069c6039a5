"""Each step of the augmentation by itself, against arithmetic."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from lg3d_core.sampling.augment import (
    MAX_NODES,
    Augmentation,
    distort,
    interpolate,
    jitter_colors,
    mirror_cells,
    rotation_matrix,
    shift_colors,
    stretch_contrast,
)

STILL = Augmentation(
    elastic_probability=0,
    scale=(1, 1),
    rotation=(0, 0, 0),
    mirror_probability=0,
    contrast_probability=0,
    tint_probability=0,
    jitter_probability=0,
)


def cloud(points: int = 200, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 2, size=(points, 3)).astype(np.float32)


def slow_interpolate(field: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Weigh the eight nodes around one place."""
    low = np.minimum(np.floor(place).astype(int), np.array(field.shape[1:]) - 2)
    value = np.zeros(len(field))
    for corner in itertools.product((0, 1), repeat=3):
        weight = np.prod([(place[k] - low[k]) if corner[k] else 1 - (place[k] - low[k]) for k in range(3)])
        value += weight * field[(slice(None), *(low + corner))]
    return value


def slow_blur(noise: np.ndarray) -> np.ndarray:
    """Mean over each node's 3^3 neighbourhood, outside counting as zero."""
    padded = np.pad(noise, ((0, 0), (1, 1), (1, 1), (1, 1)))
    sizes = noise.shape[1:]
    windows = [
        padded[:, i : i + sizes[0], j : j + sizes[1], k : k + sizes[2]]
        for i, j, k in itertools.product(range(3), repeat=3)
    ]
    return np.sum(windows, axis=0) / 27


def test_interpolation_equals_the_eight_weighted_corners() -> None:
    rng = np.random.default_rng(0)
    field = rng.normal(size=(3, 4, 5, 6)).astype(np.float32)
    places = rng.uniform(0, [3, 4, 5], size=(50, 3)).astype(np.float32)
    expected = np.stack([slow_interpolate(field, place) for place in places])
    np.testing.assert_allclose(interpolate(field, places), expected, atol=1e-5)  # float32, values of size 1


def test_interpolation_is_exact_at_nodes_in_the_order_x_y_z() -> None:
    field = np.zeros((1, 3, 4, 5), dtype=np.float32)
    field[0, 2, 1, 3] = 7
    np.testing.assert_allclose(interpolate(field, np.array([[2, 1, 3]], dtype=np.float32)), [[7]], rtol=1e-5)


def test_distortion_is_twice_smoothed_noise_interpolated_trilinearly() -> None:
    xyz = cloud(40)
    low, high = xyz.min(axis=0), xyz.max(axis=0)
    nodes = np.floor((high - low) / 0.5).astype(int) + 3
    noise = np.random.default_rng(7).standard_normal((1, 3, *nodes), dtype=np.float32)[0]
    field = slow_blur(slow_blur(noise))
    expected = xyz + 0.8 * np.stack([slow_interpolate(field, (point - low) / 0.5 + 1) for point in xyz])
    moved = distort(xyz, np.random.default_rng(7), granularity=0.5, magnitude=0.8)
    np.testing.assert_allclose(moved, expected, atol=1e-5)
    assert moved.dtype == np.float32


def test_distortion_has_the_deviation_of_its_smoothing() -> None:
    # Two box means along an axis weigh nodes by (1 2 3 2 1) / 9: the sum of squares is 19 / 81, and over three axes its
    # cube. Between nodes the interpolation averages further, so the spread lies between that and about half of it.
    xyz = np.random.default_rng(0).uniform(0, 6, size=(20_000, 3)).astype(np.float32)
    spread = (distort(xyz, np.random.default_rng(1), granularity=0.2, magnitude=0.4) - xyz).std()
    at_nodes = 0.4 * math.sqrt((19 / 81) ** 3)
    assert 0.5 * at_nodes < spread < at_nodes


def test_the_noise_of_a_large_extent_is_mirrored_instead_of_filling_memory() -> None:
    granularity, length = 0.25, MAX_NODES - 1
    along = np.array([0, 3, 40.5, length - 1, 2 * length - 2 - 40.5, 2 * length - 2 - 3], dtype=np.float32)
    xyz = np.stack([along * granularity, np.zeros(6), np.zeros(6)], axis=1).astype(np.float32)
    shift = distort(xyz, np.random.default_rng(2), granularity=granularity, magnitude=1) - xyz
    np.testing.assert_allclose(shift[4:], shift[[2, 1]], atol=2e-5)  # float32 at 128 m
    assert np.abs(np.diff(shift[:4], axis=0)).max(axis=1).min() > 0.01
    stray = np.concatenate([xyz[:3], np.full((1, 3), 5000, dtype=np.float32)])  # 8e12 nodes without the limit
    assert np.isfinite(distort(stray, np.random.default_rng(2), granularity=granularity, magnitude=1)).all()


def test_a_single_point_can_be_distorted() -> None:
    assert np.isfinite(
        distort(np.ones((1, 3), dtype=np.float32), np.random.default_rng(0), granularity=0.2, magnitude=0.4)
    ).all()


QUARTER = math.pi / 2


@pytest.mark.parametrize(
    ("order", "angles", "expected"),
    [
        ((0, 1, 2), (QUARTER, 0, 0), (0, 0, 1)),  # about x: y goes to z
        ((0, 1, 2), (QUARTER, QUARTER, 0), (1, 0, 0)),  # then about y: z goes to x
        ((0, 1, 2), (QUARTER, QUARTER, QUARTER), (0, 1, 0)),  # then about z: x goes to y
        ((2, 1, 0), (QUARTER, QUARTER, QUARTER), (0, -1, 0)),  # about z: y to -x; about y: -x to z; about x: z to -y
        ((1, 0, 2), (QUARTER, QUARTER, QUARTER), (0, 0, 1)),  # about y it stays, about x to z, about z it stays
        ((1, 2, 0), (QUARTER, QUARTER, QUARTER), (-1, 0, 0)),  # about y it stays, about z to -x, about x it stays
    ],
)
def test_rotations_are_applied_in_the_given_order(
    order: tuple[int, ...], angles: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    turned = rotation_matrix(np.array(angles), order) @ np.array([0.0, 1.0, 0.0])
    np.testing.assert_allclose(turned, expected, atol=1e-12)


def test_each_order_of_the_three_rotations_is_equally_likely() -> None:
    quarters = Augmentation(elastic_probability=0, scale=(1, 1), rotation=(QUARTER, QUARTER, QUARTER))
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=np.float32)
    orders = list(itertools.permutations(range(3)))
    counts = dict.fromkeys(orders, 0)
    for seed in range(600):
        moved = quarters.move(corners, np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        rng.random(), rng.uniform(1, 1)  # whether to distort; the scale
        angles = rng.uniform(-1, 1, size=3) * QUARTER
        fitting = [
            order for order in orders if np.allclose(moved, corners @ rotation_matrix(angles, order).T, atol=1e-5)
        ]
        assert len(fitting) == 1  # angles of up to a quarter turn: every order gives another rotation
        counts[fitting[0]] += 1
    assert min(counts.values()) > 100 - 5 * (600 / 6 * 5 / 6) ** 0.5  # 100 expected, deviation 9.1


def test_moving_without_distortion_is_a_similarity_within_the_recipes_limits() -> None:
    xyz = cloud(300)
    middle = (xyz.min(axis=0) + xyz.max(axis=0)) / 2
    scales, tilts, turns = [], [], []
    for seed in range(200):
        moved = Augmentation(elastic_probability=0).move(xyz, np.random.default_rng(seed))
        matrix = np.linalg.lstsq(xyz - middle, moved - middle, rcond=None)[0].T
        scale = np.cbrt(np.linalg.det(matrix))
        np.testing.assert_allclose(matrix @ matrix.T, scale**2 * np.eye(3), atol=1e-5)
        scales.append(scale)
        tilts.append(math.acos(min(1.0, matrix[2, 2] / scale)))
        turns.append(math.atan2(matrix[1, 0], matrix[0, 0]))
    assert 0.9 <= min(scales) < 0.92
    assert 1.08 < max(scales) <= 1.1
    # With the turn about z between the two tilts, these can point the same way.
    assert 0 < max(tilts) <= 2 * math.pi / 64 + 1e-3
    assert min(turns) < -0.9 * math.pi
    assert max(turns) > 0.9 * math.pi


def test_moving_with_everything_off_changes_nothing() -> None:
    xyz = cloud()
    np.testing.assert_allclose(STILL.move(xyz, np.random.default_rng(0)), xyz, atol=1e-6)


def test_scenes_are_distorted_as_often_as_the_probability_says() -> None:
    rigid = Augmentation(scale=(1, 1), rotation=(0, 0, 0))
    xyz = cloud(20)
    rng = np.random.default_rng(0)
    distorted = sum(not np.allclose(rigid.move(xyz, rng), xyz, atol=1e-5) for _ in range(600))
    assert abs(distorted - 570) < 30  # 600 * .95, 5.6 standard deviations of sqrt(600 * .95 * .05) = 5.3


def test_mirroring_keeps_the_box_and_mirrors_the_positions() -> None:
    cells = np.array([[-2, 0, 1], [0, 4, 1], [3, 1, 2]], dtype=np.int32)
    xyz = ((cells + np.array([0.25, 0.5, 0.75])) * 0.1).astype(np.float32)
    mirrored = mirror_cells(cells, xyz, axes=[0], voxel_size=0.1)
    assert mirrored.cells.tolist() == [[3, 0, 1], [1, 4, 1], [-2, 1, 2]]  # -2..3 becomes 3..-2
    np.testing.assert_allclose(mirrored.xyz, (mirrored.cells + np.array([0.75, 0.5, 0.75])) * 0.1, atol=1e-6)
    again = mirror_cells(*mirrored, axes=[0], voxel_size=0.1)
    np.testing.assert_array_equal(again.cells, cells)
    np.testing.assert_allclose(again.xyz, xyz, atol=1e-6)


def test_each_horizontal_axis_is_mirrored_in_47_5_percent_of_scenes_and_never_the_vertical() -> None:
    cells = np.array([[0, 0, 0], [1, 2, 3]], dtype=np.int32)
    xyz = cells.astype(np.float32)
    rng = np.random.default_rng(0)
    flips = np.zeros(3)
    for _ in range(2000):
        flips += Augmentation().mirror(cells, xyz, rng, voxel_size=1.0).cells[0] != 0
    assert flips[2] == 0
    assert abs(flips[:2] - 950).max() < 130  # 5.8 standard deviations of sqrt(2000 * .475 * .525) = 22.3


def test_contrast_stretches_each_channel_and_leaves_a_constant_one() -> None:
    colors = np.array([[50, 100, 9], [100, 100, 10], [150, 100, 11]], dtype=np.float32)
    full = stretch_contrast(colors, share=1)
    np.testing.assert_allclose(full, [[0, 100, 0], [127.5, 100, 127.5], [255, 100, 255]], atol=1e-4)
    half = stretch_contrast(colors, share=0.5)
    np.testing.assert_allclose(half, (colors + full) / 2, atol=1e-4)
    assert half.dtype == np.float32


def test_added_colours_are_clipped() -> None:
    colors = np.array([[10, 128, 250]], dtype=np.float32)
    assert shift_colors(colors, np.array([-20.0, 5.0, 20.0])).tolist() == [[0, 133, 255]]


def test_jitter_has_the_given_deviation() -> None:
    colors = np.full((20_000, 3), 127.5, dtype=np.float32)
    noisy = jitter_colors(colors, np.random.default_rng(0), std=12.75)
    assert (noisy - colors).std() == pytest.approx(12.75, rel=0.02)  # 4.9 standard errors of 1 / sqrt(2 * 60000)
    assert jitter_colors(colors, np.random.default_rng(0), std=500).min() == 0
    assert jitter_colors(colors, np.random.default_rng(0), std=500).max() == 255


@pytest.mark.parametrize(
    ("name", "probability"), [("contrast_probability", 0.2), ("tint_probability", 0.95), ("jitter_probability", 0.95)]
)
def test_each_colour_step_happens_as_often_as_it_should(name: str, probability: float) -> None:
    alone = replace(STILL, **{name: probability})
    rgb = np.array([[40, 90, 120], [60, 190, 125]], dtype=np.uint8)
    rng = np.random.default_rng(0)
    changed = sum(not np.array_equal(alone.recolor(rgb, rng), rgb) for _ in range(1000))
    deviation = math.sqrt(1000 * probability * (1 - probability))
    assert abs(changed - 1000 * probability) < 6 * deviation


def test_the_tint_is_one_colour_within_ten_percent() -> None:
    rgb = np.random.default_rng(0).integers(60, 190, size=(50, 3)).astype(np.uint8)
    largest = 0.0
    for seed in range(100):
        change = replace(STILL, tint_probability=1.0).recolor(rgb, np.random.default_rng(seed)) - rgb
        np.testing.assert_allclose(change, np.broadcast_to(change[0], change.shape), atol=1e-4)
        largest = max(largest, float(abs(change).max()))
    assert 24 < largest <= 25.5


def test_colours_stay_colours_and_inputs_stay_untouched() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, size=(500, 3)).astype(np.uint8)
    xyz, before = cloud(), rgb.copy()
    xyz_before = xyz.copy()
    for seed in range(30):
        rng = np.random.default_rng(seed)
        colors = Augmentation().recolor(rgb, rng)
        Augmentation().move(xyz, rng)
        assert colors.dtype == np.float32
        assert colors.min() >= 0
        assert colors.max() <= 255
    np.testing.assert_array_equal(rgb, before)
    np.testing.assert_array_equal(xyz, xyz_before)


def test_empty_scenes_pass_through_every_step() -> None:
    none = np.zeros((0, 3), dtype=np.float32)
    rng = np.random.default_rng(0)
    everything = Augmentation(contrast_probability=1)
    assert everything.move(none, rng).shape == (0, 3)
    assert everything.mirror(none.astype(np.int32), none, rng, voxel_size=0.1).cells.shape == (0, 3)
    assert everything.recolor(none.astype(np.uint8), rng).shape == (0, 3)
