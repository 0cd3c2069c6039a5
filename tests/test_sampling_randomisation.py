"""Randomisation of training scenes, step by step, against arithmetic."""

import math
from dataclasses import replace

import numpy as np
import pytest

from lg3d_core.errors import SettingsError
from lg3d_core.sampling.augment import Augmentation
from lg3d_core.sampling.dataset import sample_scene
from lg3d_core.sampling.randomisation import GREY, ScanRandomisation, below_height, expose, inside_border
from lg3d_core.settings import FinetuneSettings
from lg3d_core.training.scenes import _choose_augmentation
from tests.fake_store import make_scene

STILL = ScanRandomisation(
    spacing_probability=0,
    ceiling_probability=0,
    hole_probability=0,
    border_probability=0,
    colorless_probability=0,
    greyscale_probability=0,
    exposure_probability=0,
)


def plane(edge: float = 2.0, step: float = 0.01) -> np.ndarray:
    ticks = np.arange(0, edge, step, dtype=np.float32) + np.float32(step / 2)
    x, y = np.meshgrid(ticks, ticks, indexing="ij")
    return np.stack([x.ravel(), y.ravel(), np.zeros(x.size, np.float32)], axis=1)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_without_any_step_all_points_and_colours_stay() -> None:
    xyz, colors = plane(), rng().uniform(0, 255, size=(7, 3)).astype(np.float32)
    np.testing.assert_array_equal(STILL.keep(xyz, rng()), np.arange(len(xyz)))
    np.testing.assert_array_equal(STILL.recolor(colors, rng()), colors)


def test_a_spacing_leaves_one_point_per_square_of_a_plane() -> None:
    sparse = replace(STILL, spacing_probability=1, spacing=(0.05, 0.05))
    kept = sparse.keep(plane(), rng())
    assert len(kept) == 40 * 40  # 2 m / 5 cm
    assert (np.diff(kept) > 0).all()
    cells = np.floor(plane()[kept, :2] / 0.05)
    assert len(np.unique(cells, axis=0)) == len(kept)


def test_a_ceiling_is_cut_above_the_floor_not_above_zero() -> None:
    z = np.linspace(5, 8, 301, dtype=np.float32)
    below = below_height(np.stack([z, z, z], axis=1), 2.0)
    assert z[below].max() == pytest.approx(5.03 + 2.0, abs=0.011)  # the first percentile of z is 5.03


def test_a_hole_removes_a_disc_of_a_plane() -> None:
    holed = replace(STILL, hole_probability=1, holes=(1, 1), hole_radius=(0.3, 0.3))
    xyz = plane(edge=4)
    missing = np.setdiff1d(np.arange(len(xyz)), holed.keep(xyz, rng(1)))
    extent = np.ptp(xyz[missing], axis=0)
    assert extent[0] == pytest.approx(0.6, abs=0.03)
    assert extent[1] == pytest.approx(0.6, abs=0.03)
    assert len(missing) == pytest.approx(math.pi * 0.3**2 / 0.01**2, rel=0.03)


def test_a_straight_border_keeps_the_requested_share_on_one_side() -> None:
    xyz = plane()
    inside = inside_border(xyz, rng(3), share=0.7, raggedness=0)
    assert inside.mean() == pytest.approx(0.7, abs=0.01)
    middles = xyz[inside].mean(axis=0), xyz[~inside].mean(axis=0)
    assert np.linalg.norm(middles[0] - middles[1]) > 0.8  # halves of a square of 2 m are about 1 m apart


def test_a_ragged_border_deviates_from_the_straight_one_by_its_raggedness() -> None:
    xyz = plane(edge=20, step=0.1)
    straight, ragged = (inside_border(xyz, rng(3), share=0.7, raggedness=width) for width in (0, 0.15))
    moved = (straight != ragged).sum() * 0.1**2 / 20  # mean absolute shift of a border of about 20 m
    # Mean of |N(0, 0.15)| is 0.12, and 2/3 to 1 of it between the nodes; a slanted border is longer.
    assert 0.05 < moved < 0.18


def test_a_step_that_leaves_too_few_points_is_skipped() -> None:
    low = replace(STILL, ceiling_probability=1, ceiling=(0.1, 0.1))
    z = np.concatenate([np.zeros(10), np.full(90, 2.0)]).astype(np.float32)
    assert len(low.keep(np.stack([z, z, z], axis=1), rng())) == 100


def test_no_points_stay_no_points() -> None:
    assert len(ScanRandomisation().keep(np.zeros((0, 3), np.float32), rng())) == 0
    assert ScanRandomisation().recolor(np.zeros((0, 3), np.float32), rng()).shape == (0, 3)


def test_exposure_is_gamma_then_contrast_then_gain() -> None:
    colors = np.array([[0.25, 0.25, 0.25], [1, 1, 1]], dtype=np.float32) * 255
    out = expose(colors, gamma=0.5, contrast=0.5, gains=np.array([1.0, 1.2, 0.8]))
    # Gamma: 0.5 and 1; mean 0.75; contrast: 0.625 and 0.875; gains.
    expected = np.array([[0.625, 0.75, 0.5], [0.875, 1.0, 0.7]]) * 255  # 0.875 * 1.2 = 1.05 is clipped
    np.testing.assert_allclose(out, expected, rtol=1e-5)


def test_grey_scans_and_scans_without_colour_have_equal_channels() -> None:
    colors = np.array([[30, 60, 90], [0, 0, 255]], dtype=np.float32)
    grey = replace(STILL, greyscale_probability=1).recolor(colors, rng())
    np.testing.assert_allclose(grey, [[60] * 3, [85] * 3])
    np.testing.assert_array_equal(replace(STILL, colorless_probability=1).recolor(colors, rng()), np.full((2, 3), GREY))


def test_the_shares_of_scans_without_colour_are_the_probability() -> None:
    colors = rng().uniform(0, 255, size=(5, 3)).astype(np.float32)
    draws = rng(5)
    found = sum((ScanRandomisation().recolor(colors, draws) == GREY).all() for _ in range(2000))
    assert found / 2000 == pytest.approx(0.15, abs=0.025)  # three standard deviations


def test_a_randomised_sample_repeats_with_its_seed_and_has_fewer_voxels() -> None:
    scene = make_scene("scene0000_00", seed=0)
    augmentation = Augmentation.for_any_scan()
    one, two = (sample_scene(scene, voxel_size=0.05, augmentation=augmentation, rng=rng(4)) for _ in range(2))
    assert (one.cells == two.cells).all()
    assert (one.features == two.features).all()


def test_the_setting_selects_the_randomised_augmentation() -> None:
    assert _choose_augmentation(FinetuneSettings()) == Augmentation()
    assert _choose_augmentation(FinetuneSettings(randomise=True)) == Augmentation.for_any_scan()
    assert _choose_augmentation(FinetuneSettings(augment=False)) is None
    with pytest.raises(SettingsError, match="--randomise must be left out with --no-augment"):
        FinetuneSettings(augment=False, randomise=True)
