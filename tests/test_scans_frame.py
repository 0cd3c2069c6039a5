"""Units, the axis up, strays, and what is far from the origin."""

from pathlib import Path

import numpy as np
import pytest

from lg3d_core.errors import DataError
from lg3d_core.scans.frame import (
    UNITS,
    UP_AXES,
    Frame,
    find_bulk,
    find_frame,
    guess_unit,
    parse_scale,
    turn_back,
    turn_up,
)
from lg3d_core.scans.surface import Surface, surface_in_memory
from tests.scan_files import furnished_room

XYZ, _, _ = furnished_room(spacing=0.03)


def surface_of(xyz: np.ndarray, name: str = "a.ply") -> Surface:
    return surface_in_memory(Path(name), xyz, None, None)


@pytest.mark.parametrize("up", UP_AXES)
def test_turning_makes_the_axis_point_up_without_a_mirror_image(up: str) -> None:
    axis, sign = UP_AXES[up]
    basis = np.eye(3)
    turned = turn_up(basis, up)
    assert turned[axis].tolist() == [0, 0, sign]
    assert np.linalg.det(turned) == pytest.approx(1)
    np.testing.assert_array_equal(turn_back(turned, up), basis)


def test_a_frame_goes_there_and_back() -> None:
    frame = Frame(0.001, "-y", np.array([5.0, 6, 7]), np.full(3, -np.inf), np.full(3, np.inf))
    np.testing.assert_allclose(frame.from_metres(frame.to_metres(XYZ)), XYZ, atol=1e-12)


@pytest.mark.parametrize("unit", ["m", "cm", "mm"])
@pytest.mark.parametrize("up", ["z", "y"])
def test_units_and_the_axis_up_of_a_room_are_found(unit: str, up: str) -> None:
    frame = find_frame(surface_of(turn_back(XYZ, up) / UNITS[unit]))
    assert frame.scale == UNITS[unit]
    assert frame.up == up
    assert any(f"assumed to be {unit} (--scale" in note for note in frame.notes)
    assert bool(frame.doubts) == (up != "z")


def test_what_the_user_says_beats_every_guess() -> None:
    frame = find_frame(surface_of(XYZ), scale="ft", up="-x")
    assert (frame.scale, frame.up, frame.notes) == (0.3048, "-x", ())
    assert find_frame(surface_of(XYZ), scale="0.5", up="z").scale == 0.5


def test_a_size_that_no_room_has_is_doubted() -> None:
    assert (
        "the longest side is 0.004 m with a unit of 0.001 m, which is implausible: pass --scale"
        in find_frame(surface_of(XYZ), scale="mm", up="z").doubts[0]
    )


def test_sizes_between_units_stay_metres() -> None:
    assert guess_unit(np.array([30.0, 20, 3]), 0.02) == "m"
    assert guess_unit(np.array([400.0, 300, 250]), 1.5) == "cm"
    assert guess_unit(np.array([4000.0, 3000, 2500]), 15) == "mm"


@pytest.mark.parametrize("text", ["-1", "0", "nan", "inf", "yard"])
def test_a_scale_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=text):
        parse_scale(text)


def test_a_million_strays_do_not_move_the_guess() -> None:
    rng = np.random.default_rng(0)
    strays = rng.uniform(-500, 500, size=(1_000_000, 3))
    frame = find_frame(surface_of(np.concatenate([strays, XYZ])))
    assert (frame.scale, frame.up) == (1.0, "z")
    assert frame.holds(XYZ).all()
    assert frame.holds(strays).mean() < 1e-3


def test_a_few_strays_at_the_end_of_the_world_are_left_out() -> None:
    for far in (1e6, 1e30, 1e300):
        frame = find_frame(surface_of(np.concatenate([XYZ, np.full((3, 3), far)])))
        assert frame.holds(XYZ).all()
        assert not frame.holds(np.full((3, 3), far)).any()
        assert frame.scale == 1.0


def test_an_ordinary_scan_has_no_strays() -> None:
    for cloud in (XYZ, XYZ[::50], np.zeros((1, 3)), np.random.default_rng(0).random((50, 3))):
        low, high, core = find_bulk(cloud)
        assert len(core) == len(cloud)
        assert np.isinf([low, high]).all()


@pytest.mark.parametrize("num_points", [50, 100, 200, 500, 1000, 1900])
@pytest.mark.parametrize("size", [(4.0, 3.0), (10.0, 1.0), (30.0, 2.0)])
def test_sparse_floors_with_low_walls_keep_all_points(num_points: int, size: tuple[float, float]) -> None:
    rng = np.random.default_rng(num_points)
    floor = np.zeros((num_points, 3))
    floor[:, :2] = rng.random((num_points, 2)) * size
    walls = rng.random((max(1, num_points // 20), 3)) * [size[0], 0, 1]
    low, high, core = find_bulk(np.concatenate([floor, walls]))
    assert len(core) == num_points + len(walls)
    assert np.isinf([low, high]).all()
    far = rng.random((2, 3)) * 1e6
    low, high, core = find_bulk(np.concatenate([floor, walls, far]))
    assert len(core) == num_points + len(walls) + 2 * (num_points < 100)  # few points have no strays


@pytest.mark.parametrize("num_points", [2000, 3200, 5000, 10_000, 20_000, 50_000, 100_000])
@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
def test_a_floor_and_one_wall_of_any_share_keep_all_points(num_points: int, share: float) -> None:
    rng = np.random.default_rng(num_points)
    floor, wall = rng.random((int(num_points * share), 3)), rng.random((num_points - int(num_points * share), 3))
    floor[:, 2], wall[:, 0] = 0, 0
    _, _, core = find_bulk(4 * np.concatenate([floor, wall]))
    assert len(core) == num_points


def test_positions_that_are_not_finite_are_counted_and_none_at_all_is_an_error() -> None:
    broken = XYZ.copy()
    broken[:7, 1] = np.nan
    frame = find_frame(surface_of(broken))
    assert f"7 of {len(XYZ)} positions are not finite: they are dropped" in frame.doubts
    assert frame.holds(broken).sum() == len(XYZ) - 7
    with pytest.raises(DataError, match="none of the 2 positions is finite"):
        find_frame(surface_of(np.full((2, 3), np.nan)))


def test_a_scan_in_coordinates_of_a_map_is_moved_to_the_origin() -> None:
    mapped = XYZ + np.array([500_000.0, 5_200_000, 400])
    frame = find_frame(surface_of(mapped))
    assert "moved to the origin" in " ".join(frame.notes)
    np.testing.assert_allclose(frame.to_metres(mapped), XYZ, atol=1.0)


def test_one_point_has_a_frame() -> None:
    frame = find_frame(surface_of(np.array([[1.0, 2, 3]])))
    assert (frame.scale, frame.up) == (1.0, "z")
    assert frame.holds(np.array([[1.0, 2, 3]])).all()


@pytest.mark.parametrize(("name", "up"), [("a.obj", "y"), ("a.glb", "y"), ("a.gltf", "y"), ("a.ply", "z")])
def test_the_format_decides_the_up_axis_of_a_ball(name: str, up: str) -> None:
    ball = np.random.default_rng(0).normal(size=(5000, 3))
    assert find_frame(surface_of(ball, name), scale="m").up == up


FAR = np.array([500_000.0, 5_200_000, 300])


@pytest.mark.parametrize(
    "rounded",
    [(XYZ + FAR).astype(np.float32), (XYZ + FAR).astype(np.float32).astype(float), np.round(XYZ + FAR, 1)],
    ids=["float32", "float32 kept as float64", "one decimal"],
)
def test_positions_far_out_that_lost_their_digits_are_reported(rounded: np.ndarray) -> None:
    (doubt,) = [doubt for doubt in find_frame(surface_of(rounded), scale="m", up="z").doubts if "precision" in doubt]
    assert "positions are rounded to steps of" in doubt


@pytest.mark.parametrize("decimals", [2, 1, 0])
def test_the_step_of_rounded_positions_is_reported(decimals: int) -> None:
    rounded = surface_of(np.round(XYZ + FAR, decimals))
    (doubt,) = [doubt for doubt in find_frame(rounded, scale="m", up="z").doubts if "precision" in doubt]
    assert f"steps of {10**-decimals:g} units" in doubt


def test_positions_with_enough_digits_are_not_doubted() -> None:
    for xyz in (XYZ + FAR, XYZ.astype(np.float32), (XYZ + 300).astype(np.float32), np.round((XYZ + FAR) * 1000)):
        scale = "mm" if np.abs(xyz).max() > 1e8 else "m"
        assert find_frame(surface_of(xyz), scale=scale, up="z").doubts == ()
