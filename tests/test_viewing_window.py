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
    assert notes.said == ["ground truth on the left, prediction on the right"]


def test_categories_are_isolated_in_turn_and_come_back(window: SceneWindow, notes: Notes) -> None:
    whole = picture(window)
    window.actions()["I"]()
    first = window.view.legend[0]
    share, predicted = 100 * first.share, 100 * first.predicted_share
    assert notes.said[-1] == f"{first.name}: {share:.1f} % of the vertices, {predicted:.1f} % predicted"
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
    facts = ("table", "predicted door, confidence 0.30", "instance 7", "head class")
    assert told_at(window, WIDTH // 2, HEIGHT // 2) == facts
    window.actions()["A"]()
    window.actions()["R"]()
    window.follow_camera()
    assert (picture(window) == whole).all()


def told_at(window: SceneWindow, x: float, y: float) -> tuple[str, ...] | None:
    """What the window finds at a place, in words."""
    found = window.find(x, y)
    return None if found is None else window.view.describe(found[0].row)


def spot(window: SceneWindow, name: str, *, left: int = 0) -> tuple[int, int]:
    """A place in the window, read off the picture, all around which nothing but one category is seen.

    Args:
        window: Showing categories, and no box beside the pointer.
        name: Of the category.
        left: Pixels from which on to look.
    """
    hue = picture(window)
    hue = hue / hue.max(axis=2, keepdims=True).clip(0.01)
    own = np.array(COLORS[window.view.names.index(name)])
    matches = np.abs(hue - own / own.max()).max(axis=2) < 0.03
    for step in (1, 2, 4, 8):  # erode: what is left is 15 pixels from anything else
        matches[step:-step, step:-step] &= matches[2 * step :, step:-step] & matches[: -2 * step, step:-step]
        matches[step:-step, step:-step] &= matches[step:-step, 2 * step :] & matches[step:-step, : -2 * step]
    rows, columns = np.nonzero(matches[:, left:])
    assert len(rows), f"no {name} in sight"
    return left + int(columns[len(columns) // 2]), int(rows[len(rows) // 2])


def test_what_is_found_is_what_the_picture_shows(window: SceneWindow) -> None:
    window.actions()["2"]()
    for name in ("floor", "table", "wardrobe"):
        facts = told_at(window, *spot(window, name))
        assert facts is not None
        assert facts[0] == name
    assert told_at(window, 3, 3) is None


def test_what_is_found_is_what_the_picture_shows_side_by_side(window: SceneWindow) -> None:
    window.actions()["B"]()
    on_the_left = window.find(*spot(window, "table"))
    on_the_right = window.find(*spot(window, "door", left=WIDTH // 2))  # the same table, taken for a door
    assert on_the_left is not None
    assert on_the_right is not None
    assert (on_the_left[1], on_the_right[1]) == ("truth", "prediction")
    window.isolate_at(on_the_left)
    assert window.view.legend[window.only].name == "table"
    window.isolate_at(on_the_right)
    assert window.view.legend[window.only].name == "door"


def test_hover_describes_vertices_except_during_a_drag(window: SceneWindow) -> None:
    told: list[str] = []
    window._tell = told.append
    window.actions()["2"]()
    bare = picture(window)
    x, y = spot(window, "table")
    window._on_frame()  # the pointer is nowhere yet
    window._on_move(x, y)
    window._on_frame()
    assert told == ["", "table, predicted door, confidence 0.30, instance 7, head class"]
    beside = (picture(window) != bare).any(axis=2)
    rows, columns = np.nonzero(beside)
    # The box begins 14 pixels to the right and 16 below, and its border lies a pixel around it.
    assert (columns.min(), rows.min()) == (x + 13, y + 15)
    window._on_move(x - 3, y)
    window._on_frame()
    rows, columns = np.nonzero((picture(window) != bare).any(axis=2))
    assert (columns.min(), rows.min()) == (x + 10, y + 15)  # it follows, and leaves nothing behind
    window._on_button(0, 1, 0)
    window._on_frame()
    assert told[-1] == ""
    assert (picture(window) == bare).all()
    window._on_button(0, 0, 1)
    window._on_move(3, 3)
    window._on_frame()
    assert told[-1] == ""


def test_a_saved_picture_is_without_the_box(
    window: SceneWindow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bare = picture(window)
    window._on_move(WIDTH // 2, HEIGHT // 2)
    window._on_frame()
    assert (picture(window) != bare).any()
    window.actions()["S"]()
    assert (picture(window) == bare).all()
    window._on_frame()  # and then it is back
    assert (picture(window) != bare).any()


def click(window: SceneWindow, x: float, y: float) -> None:
    window._on_move(x, y)
    window._on_button(0, 1, 0)
    window._on_button(0, 0, 0)


def test_a_click_isolates_and_a_second_one_takes_it_back(window: SceneWindow, notes: Notes) -> None:
    window.actions()["2"]()
    whole = picture(window)
    table, floor = spot(window, "table"), spot(window, "floor")
    click(window, *table)
    assert window.only is not None
    assert window.view.legend[window.only].name == "table"
    assert notes.said[-1].startswith("table: ")
    alone = picture(window)
    lit = alone.max(axis=2) - alone.min(axis=2) > 0.1
    assert 0 < lit.sum() < 0.2 * lit.size  # everything but the table is grey
    click(window, *floor)
    assert window.view.legend[window.only].name == "floor"
    click(window, *floor)
    assert window.only is None
    assert (picture(window) == whole).all()
    window.actions()["N"]()
    window.actions()["R"]()
    click(window, *table)  # a category after an object
    assert (window.part, window.view.legend[window.only].name) == (0, "table")
    click(window, 3, 3)
    assert window.only is None


def test_drags_turn_and_move_as_open3d_does_itself(window: SceneWindow) -> None:
    control = window._window.get_view_control()

    def pose_after(act: object) -> np.ndarray:
        window.actions()["R"]()
        act()
        return control.convert_to_pinhole_camera_parameters().extrinsic.copy()

    def drag(button: int, modifiers: int) -> None:
        window._on_move(600, 400)
        window._on_button(button, 1, modifiers)
        for x in (603, 610, 640):  # the first step is within a click's reach
            window._on_move(x, 420)
        window._on_button(button, 0, modifiers)

    still = pose_after(lambda: None)
    turned, moved = pose_after(lambda: drag(0, 0)), pose_after(lambda: drag(0, 1))
    np.testing.assert_allclose(
        turned, pose_after(lambda: (control.rotate(3, 20), control.rotate(7, 0), control.rotate(30, 0)))
    )
    np.testing.assert_allclose(moved, pose_after(lambda: control.translate(40, 20)), atol=1e-9)
    np.testing.assert_allclose(pose_after(lambda: drag(2, 0)), moved)
    assert np.abs(turned[:3, :3] - still[:3, :3]).max() > 0.05
    np.testing.assert_allclose(moved[:3, :3], still[:3, :3], atol=1e-12)
    assert window.only is None  # a drag is no click


def test_without_perspective_nothing_is_described(window: SceneWindow) -> None:
    window._window.get_view_control().change_field_of_view(-1000)
    assert window.pose() is None
    assert window.find(WIDTH // 2, HEIGHT // 2) is None
    window._on_move(WIDTH // 2, HEIGHT // 2)
    assert not window._on_frame()
    window.actions()["R"]()
    window._on_frame()
    assert window._told


def test_help_names_every_key(window: SceneWindow, notes: Notes) -> None:
    window.actions()["H"]()
    mouse, text = notes.said
    assert "click to isolate a class" in mouse
    assert "1 colours, 2 ground truth, 3 prediction, 4 errors, 5 confidence, 6 instances" in text
    for key in "BIUNPACRSHQ":
        assert f"{key} " in text


def test_a_cloud_opens_too(window: SceneWindow) -> None:
    del window  # skips where open3d is missing
    room = make_room(spacing=0.15)
    cloud = SceneWindow(build_view(room._replace(faces=room.faces[:0]), VOCABULARY), Progress(), visible=False)
    assert (picture(cloud) < 0.98).any(axis=2).mean() > 0.05
    facts = told_at(cloud, *spot(cloud, "floor"))
    assert facts is not None
    assert facts[0] == "floor"
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
    assert [said.partition(":")[0] for said in notes.said] == ["mouse", "keys"]


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
def test_the_mouse_describes_isolates_rotates_moves_and_zooms(window: SceneWindow) -> None:
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
            raise AssertionError(f"told {window._told!r}, alone {window.only}")

        def look():
            return window.pose().rotation, window.pose().eye

        def scenario():
            number = subprocess.run(["xdotool", "search", "--name", "lg3d"], capture_output=True, text=True, check=True)
            place = f"mousemove --window {number.stdout.split()[0]}"
            xdotool(f"{place} {x} {y}")
            yield from until(lambda: window._told.startswith("table, instance 7"))
            done.append("told")
            xdotool("click 1")
            yield from until(lambda: window.only is not None and window.view.legend[window.only].name == "table")
            done.append("isolated")
            xdotool("click 1")
            yield from until(lambda: window.only is None)
            done.append("all again")

            rotation, eye = look()
            xdotool(f"mousedown 1 {place} {x + 30} {y}")
            xdotool(f"{place} {x + 60} {y + 10} mouseup 1")
            yield from until(lambda: np.abs(look()[0] - rotation).max() > 0.1 and window.pointer.held is None)
            done.append("turned")
            rotation, eye = look()
            xdotool(f"keydown shift mousedown 1 {place} {x} {y}")
            xdotool(f"{place} {x - 30} {y} mouseup 1 keyup shift")
            yield from until(lambda: np.abs(look()[1] - eye).max() > 0.1 and window.pointer.held is None)
            assert np.allclose(look()[0], rotation)
            done.append("moved")
            rotation, eye = look()
            xdotool("click 4")
            yield from until(lambda: abs((look()[1] - eye) @ rotation[2]) > 0.1)
            done.append("zoomed")
            assert window.only is None
            yield from until(lambda: window._told)
            xdotool(f"{place} 3 3")
            yield from until(lambda: not window._told)
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
    assert printed == "told, isolated, all again, turned, moved, zoomed, nothing\n"
