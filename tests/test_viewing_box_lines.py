"""Lines and names of boxes in a picture."""

import math

import numpy as np
import pytest

from lg3d_core.evaluation.boxes import Box
from lg3d_core.viewing.box_lines import HIDDEN, boxes_in_sight, draw_lines, project, write_names
from lg3d_core.viewing.camera import FIELD_OF_VIEW, Camera
from lg3d_core.viewing.objects import ShownObject, place_objects
from tests.test_viewing_objects import view_objects

CAMERA = Camera((0.0, 0.0, 0.0), 0.0, 0.0, 5.0)
"""At x = 5 m, looking along -x: y to the right, z up."""
COLOR = (200, 100, 50)
CUBE = ShownObject(1, 0, 0, "cube", 0.9, 10, Box(np.zeros(3), np.array([1.0, 1.0, 1.0]), 0.0))


def test_a_point_is_projected_by_the_pinhole_formula() -> None:
    x, y, away = project(np.array([[1.0, 0.5, 0.25]]), CAMERA, width=200, height=100)[0]
    scale = 50 / math.tan(math.radians(FIELD_OF_VIEW / 2)) / 4
    assert (x, y, away) == pytest.approx((100 + 0.5 * scale, 50 - 0.25 * scale, 4))


@pytest.mark.parametrize(("surface", "strength"), [(np.inf, 1.0), (3.0, HIDDEN)])
def test_edges_are_faint_behind_a_surface(surface: float, strength: float) -> None:
    depth = np.full((300, 400), surface, dtype=np.float32)
    lines = draw_lines([(CUBE, COLOR)], CAMERA, depth, thickness=2)
    x, y, _ = project(np.array([[0.5, 0.0, 0.5]]), CAMERA, width=400, height=300)[0]  # middle of the near upper edge
    assert lines.strength[round(y), round(x)] == pytest.approx(strength)
    assert lines.ink[round(y), round(x)] == pytest.approx(0.72 / 255 * np.array(COLOR), abs=1e-5)
    assert lines.strength[150, 200] == 0  # the middle of a side
    assert lines.names[0][0] == "cube"


def test_a_box_behind_the_camera_is_left_out() -> None:
    behind = CUBE._replace(box=Box(np.array([6.0, 0, 0]), np.ones(3), 0.0))
    lines = draw_lines([(behind, COLOR)], CAMERA, np.full((30, 40), np.inf, dtype=np.float32), thickness=2)
    assert not lines.strength.any()
    assert lines.names == []


def test_the_nearer_of_two_names_at_one_place_is_written() -> None:
    white = np.full((100, 300, 3), 255, dtype=np.uint8)
    one = write_names(white, [("near", (0, 0, 255), 150.0, 60.0)])
    both = write_names(white, [("near", (0, 0, 255), 150.0, 60.0), ("a far one", (255, 0, 0), 155.0, 62.0)])
    assert (one != white).any()
    np.testing.assert_array_equal(one, both)
    assert (write_names(white, [("outside", (0, 0, 255), 2.0, 60.0)]) == white).all()


def test_what_is_cut_away_has_no_box() -> None:
    view = view_objects()
    names = [one.name for one, _ in boxes_in_sight(view, "instances", view.camera)]
    assert "ceiling" not in names
    assert "table" in names
    below = view.camera._replace(elevation=-60.0)
    assert "ceiling" in [one.name for one, _ in boxes_in_sight(view, "instances", below)]
    assert boxes_in_sight(view, "truth", view.camera) == []
    assert len(place_objects(view, "objects")) == 4  # three objects, and the vertices without one
