"""The axis that points up."""

from pathlib import Path

import numpy as np
import pytest

from lg3d_core.scans.frame import find_frame, turn_back
from lg3d_core.scans.surface import surface_in_memory
from lg3d_core.scans.up_axis import EXPECTED, UP_AXES, Z_UP, guess_up
from tests.scan_files import furnished_room

XYZ, _, FACES = furnished_room(spacing=0.04)


def frame_of(xyz: np.ndarray, name: str, faces: np.ndarray | None = None, **more):  # type: ignore[no-untyped-def]
    return find_frame(surface_in_memory(Path(name), xyz, None, faces), scale="m", **more)


@pytest.mark.parametrize("name", ["a.ply", "a.pcd", "a.obj", "a.glb", "a.las", "a.e57"])
@pytest.mark.parametrize("up", UP_AXES)
def test_a_room_is_turned_or_the_axis_is_called_uncertain(name: str, up: str) -> None:
    frame = frame_of(turn_back(XYZ, up), name)
    usual = max(EXPECTED.get(Path(name).suffix, Z_UP).items(), key=lambda item: item[1])[0]
    if frame.up != usual or frame.up != up:
        assert any("--up" in doubt and "% likely" in doubt for doubt in frame.doubts)
    if "--up overrides" in " ".join(frame.notes):
        assert frame.up == up


@pytest.mark.parametrize("up", UP_AXES)
def test_without_expectation_a_furnished_room_is_stood_on_its_floor(up: str) -> None:
    guess = guess_up(turn_back(XYZ, up), expected=dict.fromkeys(UP_AXES, 0.0))
    assert guess.axis == up
    assert {"the largest bounding plane is below", "objects touch it"} <= set(guess.reasons)


def test_triangles_seen_from_above_are_evidence_and_from_below_against_it() -> None:
    plain = guess_up(XYZ, expected=Z_UP)
    corners = XYZ[FACES]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, 2]
    upward = np.where((normals < 0)[:, None, None], corners[:, ::-1], corners)
    assert guess_up(XYZ, upward).probability > plain.probability
    assert guess_up(XYZ, upward[:, ::-1]).probability < plain.probability


def test_a_shape_that_does_not_tell_is_never_stated_as_a_fact() -> None:
    ball = np.random.default_rng(0).normal(size=(5000, 3))
    for name, axis in (("a.ply", "z"), ("a.obj", "y"), ("a.glb", "y"), ("a.las", "z")):
        frame = frame_of(ball, name)
        assert frame.up == axis
        assert any("up axis uncertain" in doubt for doubt in frame.doubts)
    few = frame_of(XYZ[:20], "a.ply")
    assert few.up == "z"
    assert any("up axis uncertain" in doubt for doubt in few.doubts)


def test_the_user_decides_without_a_word_about_the_axis() -> None:
    frame = frame_of(turn_back(XYZ, "-x"), "a.glb", up="z")
    assert frame.up == "z"
    assert not any("up" in line for line in (*frame.notes, *frame.doubts))


def test_sureness_needs_evidence_as_well_as_probability() -> None:
    guess = guess_up(XYZ[:20], expected=dict.fromkeys(UP_AXES, -99.0) | {"z": 0.0})
    assert guess.probability > 0.99
    assert not guess.is_sure
