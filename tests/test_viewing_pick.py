"""What a ray meets, on scenes of a few triangles and points whose distances can be read off."""

import numpy as np
import pytest

from lg3d_core.errors import MissingDependencyError
from lg3d_core.viewing.layers import build_view
from lg3d_core.viewing.open3d_buffers import import_open3d
from lg3d_core.viewing.pick import Picker, Pose, category_shown
from tests.viewing_rooms import DOOR, TABLE, VOCABULARY, make_room, predict

DOWN = np.array([0.0, 0.0, -1.0])
ABOVE = np.array([0.25, 0.25, 5.0])
HEIGHTS = (0.0, 2.0, 1.0)
"""Of three equal triangles above each other: rows 0 to 2, 3 to 5 and 6 to 8."""
CORNERS = np.array([[x, y, z] for z in HEIGHTS for x, y in ((0, 0), (1, 0), (0, 1))], dtype=np.float32)
FACES = np.arange(9, dtype=np.int32).reshape(3, 3)
NOTHING_HIDDEN = np.zeros(9, dtype=np.bool_)


@pytest.fixture
def triangles() -> Picker:
    try:
        import_open3d()
    except MissingDependencyError as error:
        pytest.skip(str(error))
    return Picker(CORNERS, FACES)


def test_the_nearest_triangle_wins_and_its_last_corner_speaks_for_it(triangles: Picker) -> None:
    assert triangles.pick(ABOVE, DOWN, hidden=NOTHING_HIDDEN) == pytest.approx((5, 3.0))
    assert triangles.pick(np.array([0.25, 0.25, -1.0]), -DOWN, hidden=NOTHING_HIDDEN) == pytest.approx((2, 1.0))


def test_what_is_hidden_is_looked_through(triangles: Picker) -> None:
    hidden = NOTHING_HIDDEN.copy()
    hidden[5] = True  # the last corner decides
    assert triangles.pick(ABOVE, DOWN, hidden=hidden) == pytest.approx((8, 4.0))
    hidden[5], hidden[3] = False, True  # another one does not
    assert triangles.pick(ABOVE, DOWN, hidden=hidden) == pytest.approx((5, 3.0))


def test_what_is_nearer_than_anything_drawn_is_looked_through(triangles: Picker) -> None:
    assert triangles.pick(ABOVE, DOWN, hidden=NOTHING_HIDDEN, nearest=3.5) == pytest.approx((8, 4.0))


@pytest.mark.parametrize("origin", [(0.6, 0.6, 5.0), (-0.01, 0.5, 5.0), (0.25, 0.25, -1.0)])
def test_a_miss_is_a_miss(triangles: Picker, origin: tuple[float, float, float]) -> None:
    """Beyond the slanted side, beside the straight one, and with everything behind the eye."""
    assert triangles.pick(np.array(origin), DOWN, hidden=NOTHING_HIDDEN) is None


POINTS = np.array([[0, 0, 0], [0.02, 0, 2], [0, 0, 8]], dtype=np.float32)
NO_FACES = np.empty((0, 3), dtype=np.int32)


def test_the_nearest_point_within_the_slack_wins() -> None:
    cloud, eye, seen = Picker(POINTS, NO_FACES), np.array([0.0, 0.0, 5.0]), np.zeros(3, dtype=np.bool_)
    # Row 1 lies 0.02 m aside at 3 m: a tangent of 0.0067. Row 2 is behind the eye.
    assert cloud.pick(eye, DOWN, hidden=seen, slack=0.01) == pytest.approx((1, 3.0))
    assert cloud.pick(eye, DOWN, hidden=seen, slack=0.005) == pytest.approx((0, 5.0))
    assert cloud.pick(eye, DOWN, hidden=np.array([False, True, False]), slack=0.01) == pytest.approx((0, 5.0))
    assert cloud.pick(np.array([1.0, 0.0, 5.0]), DOWN, hidden=seen, slack=0.01) is None


def test_places_in_the_window_and_points_in_the_world_answer_each_other() -> None:
    """From (1, 2, 3) straight down with the window's right along +x: 100 pixels are 45 degrees."""
    pose = Pose(200, 100, 100.0, np.diag([1.0, -1.0, -1.0]), np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(pose.direction(100, 50), DOWN)
    np.testing.assert_allclose(pose.direction(200, 50), np.array([1, 0, -1]) / np.sqrt(2))
    pixels = np.array([[100.0, 50.0], [200.0, 50.0], [100.0, 100.0]])
    expected = [[1, 2, 1], [3, 2, 1], [1, 1, 1]]  # 50 pixels down at 2 m are 1 m, towards -y
    np.testing.assert_allclose(pose.to_world(pixels, np.full(3, 2.0)), expected)


def test_a_click_takes_the_category_that_the_layer_is_about() -> None:
    room = make_room(spacing=0.3)
    view = build_view(room, VOCABULARY, predict(room, table=DOOR), heat={"a": np.zeros(len(room.xyz))})
    row = int(np.flatnonzero(view.label == TABLE)[0])
    for layer in ("prediction", "confidence", "heat-1"):
        assert category_shown(view, layer, row) == DOOR
    for layer in ("truth", "colours", "errors", "instances"):
        assert category_shown(view, layer, row) == TABLE
    bare = build_view(room._replace(label=np.full_like(room.label, -1)), VOCABULARY, predict(room, table=DOOR))
    assert category_shown(bare, "colours", row) == DOOR  # nothing is annotated: what was predicted
    assert category_shown(build_view(room, VOCABULARY), "prediction", row) == -1
