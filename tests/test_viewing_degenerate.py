"""Scenes without extent, order or sense: a page of each, or one clear refusal."""

import numpy as np
import pytest

from lg3d_core.errors import ShapeError
from lg3d_core.evaluation.predictor import Prediction
from lg3d_core.store.scene_file import Scene
from lg3d_core.viewing.layers import build_view
from lg3d_core.viewing.page import build_page
from tests.viewing_rooms import VOCABULARY

UNIFORM = np.random.default_rng(0).uniform(0, 1, (60, 3))
RISING = np.arange(60.0)[:, None]
SCENES = {
    "one point": np.array([[1.0, 2.0, 3.0]]),
    "two points": np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]),
    "one place": np.ones((60, 3)),
    "a line": RISING * [1, 0, 0],
    "a vertical line": RISING * [0, 0, 1],
    "a plane": UNIFORM * [1, 1, 0],
    "far from the origin": UNIFORM + 1e6,
    "tiny": UNIFORM * 1e-20,
}


def make_scene(xyz: np.ndarray, *, faces: bool = False) -> Scene:
    count = len(xyz)
    corners = np.arange(count - count % 3, dtype=np.int32).reshape(-1, 3)
    return Scene(
        scene_id="scene0001_00",
        split="val",
        xyz=xyz.astype(np.float32),
        rgb=np.zeros((count, 3), dtype=np.uint8),
        normal=np.full((count, 3), np.nan, dtype=np.float32),
        label=np.zeros(count, dtype=np.int16),
        instance=np.ones(count, dtype=np.int32),
        segment=np.full(count, -1, dtype=np.int32),
        faces=corners * 0 if faces else np.zeros((0, 3), dtype=np.int32),
    )


@pytest.mark.parametrize("faces", [False, True])
@pytest.mark.parametrize("name", SCENES)
def test_a_degenerate_scene_has_a_page(name: str, faces: bool) -> None:
    scene = make_scene(SCENES[name], faces=faces)
    count, one = len(scene.xyz), np.zeros(1, dtype=np.int16)
    unsure = np.full(count, np.nan, dtype=np.float32)  # what a network says of a single voxel behind batch norm
    view = build_view(scene, VOCABULARY, Prediction(np.zeros(count, dtype=np.int16), unsure, one, one))
    assert build_page(view).startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("xyz", "match"),
    [
        (np.zeros((0, 3)), "no vertices"),
        (np.full((3, 3), np.nan), "not finite"),
        (UNIFORM * 1e30, r"reaches 9.*e\+29 m from the origin, expected at most 1e\+08 m"),
    ],
)
def test_a_scene_that_cannot_be_shown_is_refused(xyz: np.ndarray, match: str) -> None:
    with pytest.raises(ShapeError, match=match):
        build_view(make_scene(xyz), VOCABULARY)
