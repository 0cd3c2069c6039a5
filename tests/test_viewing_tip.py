"""The box beside the pointer: its place in the window, and what is before what."""

import numpy as np
import pytest

from lg3d_core.viewing.pick import Pose
from lg3d_core.viewing.tip import PADDING, Tip, draw_tip, place_tip

POSE = Pose(640, 480, 500.0, np.eye(3), np.zeros(3))


def to_pixels(points: np.ndarray) -> np.ndarray:
    return points[:, :2] / points[:, 2:] * POSE.focal + np.array([POSE.width, POSE.height]) / 2


def test_text_is_ink_on_paper() -> None:
    tip = draw_tip(("cabinet", "predicted desk, confidence 0.93"))
    ink, paper, border = (tip.corners[tip.behind == k].reshape(-1, 2) for k in range(3))
    assert (paper.min(axis=0) == 0).all()
    assert (paper.max(axis=0) == (tip.width, tip.height)).all()
    assert (border.min(axis=0) == -1).all()
    assert (border.max(axis=0) == (tip.width + 1, tip.height + 1)).all()
    # The longer line reaches from one padding to the other, but for the room that a letter keeps to its sides.
    assert ink[:, 0].min() - PADDING in range(3)
    assert tip.width - PADDING - ink[:, 0].max() in range(3)
    assert tip.colors[tip.behind == 0].min() < 0.3
    assert (tip.colors[tip.behind == 1] == 1).all()
    rows = np.unique(ink[:, 1])
    assert (np.diff(rows) > 1).sum() >= 1  # there is paper between the lines
    assert draw_tip(("cabinet",)).height < tip.height


@pytest.mark.parametrize(
    ("pointer", "corner"),
    [
        ((100, 100), (114, 116)),
        ((639, 100), (640 - 204, 116)),
        ((100, 479), (114, 480 - 54)),
        ((-50, -50), (4, 4)),
    ],
)
def test_the_box_lies_beside_the_pointer_and_within_the_window(
    pointer: tuple[float, float], corner: tuple[int, int]
) -> None:
    square = np.array([[[0, 0], [200, 0], [200, 50], [0, 50]]], dtype=np.float32)
    tip = Tip(square, np.ones((1, 3), dtype=np.float32), np.array([1]), 200, 50)
    placed = to_pixels(place_tip(tip, pointer, POSE, near=0.1))
    np.testing.assert_allclose(placed, square[0] + np.array(corner), atol=1e-9)


def test_ink_is_before_paper_before_border_and_all_before_the_scene() -> None:
    tip = draw_tip(("cabinet",))
    depth = place_tip(tip, (10, 10), POSE, near=0.1)[::4, 2]
    np.testing.assert_allclose(depth, np.choose(tip.behind, [0.102, 0.103, 0.104]))
