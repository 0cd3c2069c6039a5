"""The window: whether there is a display, and what its keys do, off screen and on a virtual display."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lg3d_core.errors import MissingDependencyError
from lg3d_core.progress import Progress
from lg3d_core.viewing.camera import Camera
from lg3d_core.viewing.layers import build_view
from lg3d_core.viewing.open3d_buffers import import_open3d, place_camera
from lg3d_core.viewing.window import HEIGHT, WIDTH, SceneWindow, has_display, open_window
from tests.viewing_rooms import COLORS, DOOR, TABLE, VOCABULARY, make_room, predict

needs_socket_names = pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")


@pytest.fixture
def no_display(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    return monkeypatch


@contextlib.contextmanager
def listening(address: object, family: socket.AddressFamily = socket.AF_UNIX) -> Iterator[socket.socket]:
    with socket.socket(family, socket.SOCK_STREAM) as server:
        server.bind(address)
        server.listen()
        yield server


@pytest.mark.parametrize("display", ["", "nonsense", ":", ":x", ":8765", ":8765.0", "unix:8765", "localhost:59000"])
def test_a_display_that_does_not_answer_is_none(no_display: pytest.MonkeyPatch, display: str) -> None:
    no_display.setenv("DISPLAY", display)
    no_display.setenv("WAYLAND_DISPLAY", "wayland-none")
    assert not has_display()


@needs_socket_names
def test_an_x_server_that_answers_is_a_display(no_display: pytest.MonkeyPatch) -> None:
    no_display.setenv("DISPLAY", ":8764.0")
    with listening("\0/tmp/.X11-unix/X8764"):
        assert has_display()
    assert not has_display()


def test_a_wayland_server_that_answers_is_a_display(no_display: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_display.chdir(tmp_path)  # a socket's path is at most 107 bytes
    no_display.setenv("WAYLAND_DISPLAY", "wayland-7")
    no_display.setenv("XDG_RUNTIME_DIR", ".")
    with listening("wayland-7"):
        assert has_display()


def test_an_x_server_over_tcp_is_a_display_but_not_through_ssh(no_display: pytest.MonkeyPatch) -> None:
    with listening(("127.0.0.1", 0), socket.AF_INET) as server:
        number = server.getsockname()[1] - 6000
        no_display.setenv("DISPLAY", f"127.0.0.1:{number}.0")
        assert has_display()
        no_display.setenv("SSH_CONNECTION", "10.0.0.1 50000 10.0.0.2 22")
        assert not has_display()


def test_systems_with_a_desktop_of_their_own_have_a_display(no_display: pytest.MonkeyPatch) -> None:
    no_display.setattr(sys, "platform", "darwin")
    assert has_display()


def test_without_a_display_no_window_opens(no_display: pytest.MonkeyPatch) -> None:
    del no_display
    with pytest.raises(MissingDependencyError, match=r"no display answers.*--html FILE or --png FILE"):
        open_window(build_view(make_room(spacing=0.3), VOCABULARY))


class Notes(Progress):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)

    def warn(self, message: str) -> None:
        self.said.append(f"warning: {message}")


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def window(notes: Notes) -> Iterator[SceneWindow]:
    """A window on no screen."""
    try:
        import_open3d()
    except MissingDependencyError as error:
        pytest.skip(str(error))
    room = make_room(spacing=0.15, scene_id="a/b scene")
    opened = SceneWindow(build_view(room, VOCABULARY, predict(room, table=DOOR)), notes, visible=False)
    yield opened
    opened.close()


def picture(window: SceneWindow) -> np.ndarray:
    window._window.poll_events()
    window._window.update_renderer()
    return np.asarray(window._window.capture_screen_float_buffer(do_render=True)).copy()


def test_number_keys_show_each_layer(window: SceneWindow, notes: Notes) -> None:
    seen = [picture(window)]
    assert window.layer == "prediction"
    assert seen[0].shape[:2] == (HEIGHT, WIDTH)
    assert 0.1 < (seen[0] < 0.98).any(axis=2).mean() < 0.9
    for key in "12456":
        assert window._on_key(window.actions()[key]) is False
        seen.append(picture(window))
    assert len({image.tobytes() for image in seen}) == 6
    assert notes.said == ["Colours", "Ground truth", "Errors", "Confidence", "Instances"]


def test_the_cut_can_be_taken_back_and_follows_the_camera(window: SceneWindow) -> None:
    cut = picture(window)
    window.actions()["C"]()
    assert (picture(window) != cut).any()
    window.actions()["C"]()
    assert (picture(window) == cut).all()
    assert not window.follow_camera()  # it has not moved
    first = window.view.camera
    other = Camera(first.target, first.azimuth + 180, first.elevation, first.distance)
    place_camera(window._o3d, window._window, other, WIDTH, HEIGHT)
    before = picture(window)
    assert window.follow_camera()
    assert (picture(window) != before).any()  # now the other walls are cut
    window.actions()["R"]()
    assert window.follow_camera()
    assert (picture(window) == cut).all()


def test_pictures_are_saved_beside_each_other(
    window: SceneWindow, notes: Notes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    window.actions()["S"]()
    window.actions()["S"]()
    names = ["a_b_scene-prediction-1.png", "a_b_scene-prediction-2.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert notes.said == [f"saved {name}" for name in names]
    monkeypatch.setattr(type(window._window), "capture_screen_image", lambda *_, **__: None)
    window.actions()["S"]()
    assert notes.said[-1].startswith("warning: could not write")


def test_truth_and_prediction_stand_side_by_side(window: SceneWindow, notes: Notes) -> None:
    single = (picture(window) < 0.98).any(axis=2)
    window.actions()["B"]()
    assert (window.layer, window.beside) == ("truth", "prediction")
    both = picture(window)
    ink = (both < 0.98).any(axis=2)
    half = WIDTH // 2
    # Each half holds a room; one of them has no table's colour left.
    assert min(ink[:, :half].mean(), ink[:, half:].mean()) > 0.25 * single.mean()
    hue = both / both.max(axis=2, keepdims=True).clip(0.01)
    table = np.abs(hue - np.array(COLORS[TABLE]) / max(COLORS[TABLE])).max(axis=2) < 0.03
    assert table[:, :half].sum() > 20 * max(1, table[:, half:].sum())
    window.actions()["B"]()
    assert window.beside == ""
    assert notes.said == ["ground truth, and to its right the prediction"]


def test_categories_are_isolated_in_turn_and_come_back(window: SceneWindow, notes: Notes) -> None:
    whole = picture(window)
    window.actions()["I"]()
    first = window.view.legend[0]
    assert notes.said[-1] == f"{first.name}: {100 * first.share:.1f} % of the vertices"
    assert (picture(window) != whole).any()
    window.actions()["I"]()
    assert window.only == 1
    window.actions()["U"]()
    window.actions()["U"]()
    assert window.only == len(window.view.legend) - 1
    window.actions()["A"]()
    assert (picture(window) == whole).all()


def test_the_gallery_goes_from_object_to_object(window: SceneWindow, notes: Notes) -> None:
    whole = picture(window)
    names = [part.name for part in window.view.gallery.parts]
    window.actions()["N"]()
    window.actions()["N"]()
    assert notes.said[-1] == f"2 of {len(names)}: {names[1]}, most of it predicted {names[1]}"
    window.actions()["P"]()
    window.actions()["P"]()
    assert window.part == len(names)
    assert (picture(window) != whole).any()
    window.part = names.index("table")
    window.actions()["N"]()
    assert notes.said[-1].endswith("table, most of it predicted door")
    window.actions()["W"]()
    assert notes.said[-1] == "table, predicted door, confidence 0.30, instance 7, head category"
    window.actions()["A"]()
    window.actions()["R"]()
    window.follow_camera()
    assert (picture(window) == whole).all()


def test_a_look_past_the_room_tells_of_nothing(window: SceneWindow, notes: Notes) -> None:
    place_camera(window._o3d, window._window, Camera((50.0, 50.0, 50.0), 0.0, 0.0, 1.0), WIDTH, HEIGHT)
    window.actions()["W"]()
    assert notes.said == ["nothing in the middle of the window"]


def test_help_names_every_key(window: SceneWindow, notes: Notes) -> None:
    window.actions()["H"]()
    (text,) = notes.said
    assert "1 colours, 2 ground truth, 3 prediction, 4 errors, 5 confidence, 6 instances" in text
    for key in "BIUNPAWCRSHQ":
        assert f"{key} " in text


def test_a_cloud_opens_too(window: SceneWindow) -> None:
    del window  # skips where open3d is missing
    room = make_room(spacing=0.15)
    cloud = SceneWindow(build_view(room._replace(faces=room.faces[:0]), VOCABULARY), Progress(), visible=False)
    assert (picture(cloud) < 0.98).any(axis=2).mean() > 0.05
    cloud.close()


def test_a_window_runs_until_it_is_closed(window: SceneWindow, notes: Notes, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = []

    def follow_then_close() -> bool:
        frames.append(window.layer)
        if len(frames) == 3:
            window._window.close()
        return False

    monkeypatch.setattr(window, "follow_camera", follow_then_close)
    window.run()
    assert len(frames) >= 3
    assert notes.said[0].startswith("keys: ")


def test_a_display_without_opengl_is_one_line(window: SceneWindow, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type(window._window)
    monkeypatch.setattr(kind, "get_render_option", lambda _: None)
    with pytest.raises(MissingDependencyError, match=r"no OpenGL 3\.3 on this display: use --html FILE"):
        SceneWindow(window.view, Progress(), visible=False)


@pytest.mark.skipif(shutil.which("xvfb-run") is None, reason="no virtual display here: apt-get install xvfb xauth")
def test_a_window_opens_on_a_virtual_display(window: SceneWindow) -> None:
    del window
    script = textwrap.dedent("""
        from lg3d_core.viewing import build_view, has_display, open_window
        from lg3d_core.viewing.window import SceneWindow
        from tests.viewing_rooms import VOCABULARY, make_room

        frames = []
        def follow(self):
            frames.append(self.layer)
            if len(frames) == 3:
                self.actions()["2"]()
            if len(frames) == 6:
                self._window.close()
            return False

        SceneWindow.follow_camera = follow
        assert has_display()
        open_window(build_view(make_room(spacing=0.2), VOCABULARY))
        assert frames[0] == "truth" and len(frames) >= 6, frames
        print("closed")
    """)
    environ = {name: value for name, value in os.environ.items() if name != "WAYLAND_DISPLAY"}
    done = subprocess.run(
        ["xvfb-run", "-a", sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environ | {"PYTHONPATH": "."},
    )
    assert done.stdout == "closed\n", done.stderr
