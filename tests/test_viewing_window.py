"""The window: whether there is a display, and what its keys do, off screen and on a virtual display."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from lg3d_core.errors import MissingDependencyError
from lg3d_core.progress import Progress
from lg3d_core.viewing.camera import Camera
from lg3d_core.viewing.layers import build_view
from lg3d_core.viewing.open3d_buffers import import_open3d, place_camera
from lg3d_core.viewing.window import HEIGHT, WIDTH, SceneWindow, has_display, open_window
from tests.notes import Notes
from tests.viewing_rooms import COLORS, DOOR, VOCABULARY, make_room, predict

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
def test_a_display_that_does_not_answer_does_not_count(no_display: pytest.MonkeyPatch, display: str) -> None:
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
    with pytest.raises(MissingDependencyError, match=r"no display is available.*--html FILE or --png FILE"):
        open_window(build_view(make_room(spacing=0.3), VOCABULARY))


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
    assert notes.messages == ["Colours", "Ground truth", "Errors", "Confidence", "Instances"]


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
    assert notes.messages == [f"saved {name}" for name in names]
    monkeypatch.setattr(type(window._window), "capture_screen_image", lambda *_, **__: None)
    window.actions()["S"]()
    assert notes.warnings[-1].startswith("could not write")


def spot(window: SceneWindow, name: str) -> tuple[int, int]:
    """A pixel of the window, which shows classes, with no other class around it."""
    hue = picture(window)
    hue = hue / hue.max(axis=2, keepdims=True).clip(0.01)
    own = np.array(COLORS[window.view.names.index(name)])
    matches = np.abs(hue - own / own.max()).max(axis=2) < 0.03
    for step in (1, 2, 4, 8):  # erode: what is left is 15 pixels from anything else
        matches[step:-step, step:-step] &= matches[2 * step :, step:-step] & matches[: -2 * step, step:-step]
        matches[step:-step, step:-step] &= matches[step:-step, 2 * step :] & matches[step:-step, : -2 * step]
    rows, columns = np.nonzero(matches)
    assert len(rows), f"no {name} in sight"
    return int(columns[len(columns) // 2]), int(rows[len(rows) // 2])


def class_at(window: SceneWindow, x: float, y: float) -> str | None:
    row = window.find(x, y)
    return None if row is None else window.view.describe(row)[0]


def test_what_is_found_is_what_the_picture_shows(window: SceneWindow) -> None:
    window.actions()["2"]()
    for name in ("floor", "table", "wardrobe"):
        assert class_at(window, *spot(window, name)) == name
    for place in ((3, 3), (-1, 5), (5, HEIGHT)):
        assert window.find(*place) is None


def test_hover_describes_vertices_except_during_a_drag(window: SceneWindow) -> None:
    told: list[str] = []
    window._tell = told.append
    window.actions()["2"]()
    x, y = spot(window, "table")
    window._on_frame()  # the pointer is nowhere yet
    window._on_move(x, y)
    window._on_frame()
    assert told == ["", "table, predicted door, confidence 0.30, instance 7, head class"]
    window._on_button(0, 1, 0)
    window._on_frame()
    window._on_button(0, 0, 1)
    window._on_frame()
    window._on_move(3, 3)
    window._on_frame()
    assert told[2:] == ["", told[1], ""]


def test_a_wall_that_is_cut_is_not_found(window: SceneWindow) -> None:
    window.actions()["2"]()
    x, y = spot(window, "table")
    window.actions()["C"]()  # the near wall is back
    assert class_at(window, x, y) != "table"


def test_drags_turn_and_move_as_open3d_does_itself(window: SceneWindow) -> None:
    control = window._window.get_view_control()

    def pose_after(act: Callable[[], object]) -> np.ndarray:
        window.actions()["R"]()
        act()
        return control.convert_to_pinhole_camera_parameters().extrinsic.copy()

    def drag(button: int, modifiers: int) -> None:
        window._on_move(600, 400)
        window._on_button(button, 1, modifiers)
        for x in (610, 640):
            window._on_move(x, 420)
        window._on_button(button, 0, modifiers)
        window._on_move(0, 0)  # released: nothing turns

    still = pose_after(lambda: None)
    turned, moved = pose_after(lambda: drag(0, 0)), pose_after(lambda: drag(0, 1))
    np.testing.assert_allclose(turned, pose_after(lambda: (control.rotate(10, 20), control.rotate(30, 0))))
    np.testing.assert_allclose(moved, pose_after(lambda: control.translate(40, 20)), atol=1e-9)
    np.testing.assert_allclose(pose_after(lambda: drag(2, 0)), moved)
    assert np.abs(turned[:3, :3] - still[:3, :3]).max() > 0.05
    np.testing.assert_allclose(moved[:3, :3], still[:3, :3], atol=1e-12)


def test_without_perspective_nothing_is_described(window: SceneWindow) -> None:
    window._window.get_view_control().change_field_of_view(-1000)
    assert window.find(WIDTH // 2, HEIGHT // 2) is None
    window._on_move(WIDTH // 2, HEIGHT // 2)
    assert not window._on_frame()
    window.actions()["R"]()
    window._on_frame()
    assert window.described


def test_help_names_every_key(window: SceneWindow, notes: Notes) -> None:
    window.actions()["H"]()
    mouse, text = notes.messages
    assert "point at a surface for its class" in mouse
    assert "1 colours, 2 ground truth, 3 prediction, 4 errors, 5 confidence, 6 instances" in text
    for key in "CRSHQ":
        assert f"{key} " in text


def test_a_cloud_opens_too(window: SceneWindow) -> None:
    del window  # skips where open3d is missing
    room = make_room(spacing=0.15)
    cloud = SceneWindow(build_view(room._replace(faces=room.faces[:0]), VOCABULARY), Progress(), visible=False)
    assert (picture(cloud) < 0.98).any(axis=2).mean() > 0.05
    assert class_at(cloud, *spot(cloud, "floor")) == "floor"
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
    assert [said.partition(":")[0] for said in notes.messages] == ["mouse", "keys"]


def test_a_display_without_opengl_is_one_line(window: SceneWindow, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type(window._window)
    monkeypatch.setattr(kind, "get_render_option", lambda _: None)
    with pytest.raises(MissingDependencyError, match=r"no OpenGL 3\.3 on this display: pass --html FILE"):
        SceneWindow(window.view, Progress(), visible=False)


def on_virtual_display(script: str) -> str:
    """What a script prints that runs on a display of its own."""
    environ = {name: value for name, value in os.environ.items() if name != "WAYLAND_DISPLAY"}
    done = subprocess.run(
        ["xvfb-run", "-a", "-s", "-screen 0 1400x1100x24", sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environ | {"PYTHONPATH": "."},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


needs_virtual_display = pytest.mark.skipif(
    shutil.which("xvfb-run") is None, reason="no virtual display here: apt-get install xvfb xauth"
)


@needs_virtual_display
def test_a_window_opens_on_a_virtual_display(window: SceneWindow) -> None:
    del window
    printed = on_virtual_display("""
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
    assert printed == "closed\n"


@needs_virtual_display
@pytest.mark.skipif(shutil.which("xdotool") is None, reason="nothing moves the pointer here: apt-get install xdotool")
def test_the_mouse_describes_rotates_moves_and_zooms(window: SceneWindow) -> None:
    del window
    printed = on_virtual_display("""
        import subprocess
        import numpy as np
        from lg3d_core.progress import Progress
        from lg3d_core.viewing import build_view, window as module
        from lg3d_core.viewing.window import SceneWindow
        from tests.test_viewing_window import spot
        from tests.viewing_rooms import VOCABULARY, make_room

        module.WIDTH, module.HEIGHT = 640, 480
        window = SceneWindow(build_view(make_room(spacing=0.2), VOCABULARY), Progress())
        (x, y), done, failures = spot(window, "table"), [], []

        def xdotool(command):
            subprocess.run(["xdotool", *command.split()], check=True)

        def until(reached):
            for _ in range(300):
                if reached():
                    return
                yield
            raise AssertionError(f"described {window.described!r}")

        def look():
            pose = window._camera().extrinsic
            return pose[:3, :3].copy(), -pose[:3, :3].T @ pose[:3, 3]

        def scenario():
            number = subprocess.run(["xdotool", "search", "--name", "lg3d"], capture_output=True, text=True, check=True)
            place = f"mousemove --window {number.stdout.split()[0]}"
            xdotool(f"{place} {x} {y}")
            yield from until(lambda: window.described.startswith("table, instance 7"))
            done.append("told")
            rotation, eye = look()
            xdotool(f"mousedown 1 {place} {x + 30} {y}")
            xdotool(f"{place} {x + 60} {y + 10} mouseup 1")
            yield from until(lambda: np.abs(look()[0] - rotation).max() > 0.1 and not window._drag)
            done.append("turned")
            rotation, eye = look()
            xdotool(f"keydown shift mousedown 1 {place} {x} {y}")
            xdotool(f"{place} {x - 30} {y} mouseup 1 keyup shift")
            yield from until(lambda: np.abs(look()[1] - eye).max() > 0.1 and not window._drag)
            assert np.allclose(look()[0], rotation)
            done.append("moved")
            rotation, eye = look()
            xdotool("click 4")
            yield from until(lambda: abs((look()[1] - eye) @ rotation[2]) > 0.1)
            done.append("zoomed")
            yield from until(lambda: window.described)
            xdotool(f"{place} 3 3")
            yield from until(lambda: not window.described)
            done.append("nothing")

        steps = scenario()

        def on_frame():
            changed = SceneWindow._on_frame(window)
            try:
                next(steps)
            except (StopIteration, AssertionError, OSError, subprocess.SubprocessError) as end:
                failures.extend([end] if not isinstance(end, StopIteration) else [])
                window._window.close()
            return changed

        window._on_frame = on_frame
        window.run()
        print(", ".join([*done, *map(repr, failures)]))
    """)
    assert printed == "told, turned, moved, zoomed, nothing\n"
