"""The first look, and what it cuts away, on a room whose walls are known."""

import numpy as np
import pytest

from lg3d_core.viewing.camera import ASPECT, FIELD_OF_VIEW, Camera, first_camera
from lg3d_core.viewing.cutaway import find_outward, hidden_from
from lg3d_core.viewing.layers import build_view
from tests.viewing_rooms import (
    CEILING,
    DOOR,
    FLOOR,
    ROOM,
    SIZE,
    TABLE,
    VOCABULARY,
    WARDROBE,
    cuboid,
    make_room,
)

FROM_X_LOW = np.array([-6.0, 1.5, 7.0])  # outside the wall at x = 0, above
FROM_X_HIGH = np.array([10.0, 1.5, 7.0])


def share_hidden(eye: np.ndarray, *, flipped: bool = False) -> dict[int, float]:
    """Share of each instance that is hidden from a place; flipped: furniture and walls wound the wrong way."""
    room = make_room()
    normal = np.where((room.instance > 2)[:, None], -room.normal, room.normal) if flipped else room.normal
    outward = find_outward(room.xyz, normal, room.instance)
    hidden = hidden_from(eye, room.xyz, outward)
    return {int(k): float(hidden[room.instance == k].mean()) for k in np.unique(room.instance)}


@pytest.mark.parametrize("flipped", [False, True])
def test_the_near_wall_and_the_ceiling_are_cut_and_the_others_stay(flipped: bool) -> None:
    hidden = share_hidden(FROM_X_LOW, flipped=flipped)
    assert hidden[5] > 0.9  # the wall at x = 0; its rims may count to the walls they meet
    assert hidden[2] > 0.9  # the ceiling
    assert hidden[6] == 0  # the wall at x = 4
    assert hidden[1] == 0  # the floor


@pytest.mark.parametrize("flipped", [False, True])
def test_a_door_goes_with_its_wall_and_a_wardrobe_stays(flipped: bool) -> None:
    from_behind_the_door, from_behind_the_wardrobe = (
        share_hidden(FROM_X_LOW, flipped=flipped),
        share_hidden(FROM_X_HIGH, flipped=flipped),
    )
    assert from_behind_the_door[DOOR + 4] > 0.8
    assert from_behind_the_wardrobe[DOOR + 4] < 0.5
    if flipped:  # otherwise the winding is not trusted, and nothing but the shell is cut
        assert from_behind_the_wardrobe[WARDROBE + 4] == 0


def test_nothing_is_cut_from_inside() -> None:
    room = make_room()
    normal = np.where((room.instance > 2)[:, None], -room.normal, room.normal)  # so that the winding is not trusted
    outward = find_outward(room.xyz, normal, room.instance)
    assert not hidden_from(np.array([2.0, 1.5, 1.6]), room.xyz, outward).any()


def test_sound_winding_cuts_what_is_seen_from_behind() -> None:
    screen = [(TABLE, 7, (1.0, 1.0, 0.0), (1.0, 0, 0), (0, 0, 1.0), (0, 1, 0))]  # scanned from +y alone
    room = make_room(surfaces=[*ROOM[:6], *screen])
    outward = find_outward(room.xyz, room.normal, room.instance)
    screen_rows = room.instance == 7
    assert hidden_from(np.array([1.5, -5.0, 5.0]), room.xyz, outward)[screen_rows].all()
    assert not hidden_from(np.array([1.5, 8.0, 5.0]), room.xyz, outward)[screen_rows].any()


def test_points_without_normals_are_never_cut() -> None:
    room = make_room()
    assert not find_outward(room.xyz, np.zeros_like(room.normal), room.instance).any()


def test_two_points_have_no_shell() -> None:
    xyz = np.array([[0, 0, 0], [1, 1, 1]], dtype=np.float32)
    assert not find_outward(xyz, xyz, np.zeros(2, dtype=np.int32)).any()


def test_a_camera_looks_down_its_axes() -> None:
    camera = Camera((1.0, 2.0, 3.0), azimuth=0.0, elevation=0.0, distance=5.0)
    assert camera.eye == pytest.approx([6.0, 2.0, 3.0])
    assert camera.axes == pytest.approx(np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]]))  # right +y, up +z, backward +x
    view = camera.to_view(np.array([[1.0, 2.0, 3.0], [1.0, 3.0, 4.0]]))
    assert view == pytest.approx(np.array([[0, 0, -5.0], [1, 1, -5.0]]))


def test_the_first_look_holds_the_whole_room_and_little_more() -> None:
    view = build_view(make_room(), VOCABULARY)
    corners = np.array([[x, y, z] for x in (0, SIZE[0]) for y in (0, SIZE[1]) for z in (0, SIZE[2])])
    x, y, z = view.camera.to_view(corners).T
    half = np.tan(np.deg2rad(FIELD_OF_VIEW / 2))
    across, along = x / -z / half / ASPECT, y / -z / half
    assert np.abs(across).max() < 1
    assert np.abs(along).max() < 1
    assert max(np.abs(across).max(), np.abs(along).max()) > 0.9
    assert view.camera.eye[2] > SIZE[2]  # from above


def test_the_first_look_avoids_the_side_that_hides_things() -> None:
    # Vases stand behind a tall screen as seen from -y.
    vases = [cuboid(TABLE, 10 + k, (0.6 + 0.6 * k, 2.0, 0.0), (0.15, 0.15, 0.3)) for k in range(5)]
    screen = cuboid(WARDROBE, 9, (0.4, 1.6, 0.0), (3.2, 0.1, 1.9))
    room = make_room(surfaces=[ROOM[0], *screen, *(surface for vase in vases for surface in vase)])
    outward = np.zeros_like(room.xyz)
    assert first_camera(room.xyz, outward, room.instance).eye[1] > 2.0


def test_a_single_point_can_be_looked_at() -> None:
    point = np.array([[1.0, 2.0, 3.0]], dtype=np.float32)
    camera = first_camera(point, np.zeros_like(point), np.zeros(1, dtype=np.int32))
    assert camera.target == pytest.approx((1, 2, 3))
    assert camera.distance > 0


def test_the_ceiling_category_is_not_what_decides() -> None:
    room = make_room()
    unlabelled = room._replace(label=np.full_like(room.label, -1))
    outward = find_outward(unlabelled.xyz, unlabelled.normal, np.zeros_like(room.instance))
    hidden = hidden_from(np.array([2.0, 1.5, 9.0]), room.xyz, outward)
    assert hidden[room.label == CEILING].mean() > 0.9
    assert not hidden[room.label == FLOOR].any()


def test_a_few_outliers_do_not_make_the_room_a_dot() -> None:
    room = make_room()
    strayed = room.xyz.copy()
    strayed[:3] = [[1e3, 0, 0], [0, -1e3, 5], [0, 0, 1e4]]
    usual = build_view(room, VOCABULARY).camera.distance
    assert build_view(room._replace(xyz=strayed), VOCABULARY).camera.distance == pytest.approx(usual, rel=0.1)


@pytest.mark.parametrize("turn", range(0, 180, 20))
def test_a_scan_of_a_single_wall_is_not_cut(turn: int) -> None:
    along, up = np.meshgrid(np.linspace(0, 4, 41), np.linspace(0, 2.5, 26))
    c, s = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    xyz = np.stack([along * c, along * s, up], axis=-1).reshape(-1, 3).astype(np.float32)
    normal = np.tile(np.array([-s, c, 0], dtype=np.float32), (len(xyz), 1))
    assert not find_outward(xyz, normal, np.zeros(len(xyz), dtype=np.int32)).any()
