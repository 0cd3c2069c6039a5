"""Desktop window of a scene: keys switch layers, and the terminal describes the vertex under the pointer."""

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lg3d_core.errors import MissingDependencyError
from lg3d_core.progress import Progress
from lg3d_core.viewing.camera import FIELD_OF_VIEW
from lg3d_core.viewing.cutaway import hidden_from
from lg3d_core.viewing.layers import SceneView
from lg3d_core.viewing.open3d_buffers import import_open3d, place_camera, quiet_output
from lg3d_core.viewing.picture import shade_normals

WIDTH, HEIGHT = 1280, 960
CONNECT_SECONDS = 1.0
TURN_TO_RECUT = 0.02  # squared distance of unit view directions: about 8 degrees
LEFT, PRESSED, SHIFT_OR_CONTROL = 0, 1, 1 | 2  # numbers of GLFW


def has_display() -> bool:
    """Return whether a window can open: a display is set and accepts connections.

    A display forwarded over SSH does not count: it lacks the necessary OpenGL and would be slow.
    """
    if sys.platform in ("darwin", "win32"):
        return True
    wayland = os.environ.get("WAYLAND_DISPLAY", "")
    if wayland and _answers(Path(os.environ.get("XDG_RUNTIME_DIR", "/")) / wayland):
        return True
    host, colon, number = os.environ.get("DISPLAY", "").rpartition(":")
    number = number.partition(".")[0]
    if not colon or not (number.isascii() and number.isdecimal()):
        return False
    if host in ("", "unix"):
        path = f"/tmp/.X11-unix/X{number}"
        return _answers(path) or (sys.platform == "linux" and _answers("\0" + path))
    if "SSH_CONNECTION" in os.environ:
        return False
    try:
        with socket.create_connection((host, 6000 + int(number)), timeout=CONNECT_SECONDS):
            return True
    except (OSError, OverflowError):
        return False


def _answers(address: str | Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(CONNECT_SECONDS)
        try:
            connection.connect(str(address))
        except (OSError, ValueError):
            return False
        return True


def open_window(view: SceneView, progress: Progress | None = None) -> None:
    """Show a scene until its window is closed. Keys 1, 2, ... switch layers; H prints help.

    Raises:
        MissingDependencyError: There is no display, open3d is missing, or the display has no OpenGL.
    """
    if not has_display():
        raise MissingDependencyError("no display is available: pass --html FILE or --png FILE")
    SceneWindow(view, progress or Progress()).run()


class SceneWindow:
    """Window of one scene.

    Args:
        view: Scene to show.
        progress: Receives messages about keys and saved pictures.
        visible: Whether the window is on screen.
    """

    def __init__(self, view: SceneView, progress: Progress, *, visible: bool = True) -> None:
        self.view = view
        self.progress = progress
        self.layer: str = next(name for name in ("prediction", "truth", "colours") if name in view.layers)
        self.cuts = True
        self.described = ""
        """Description of the vertex under the pointer; empty for the background and during a drag."""
        self._pointer: tuple[float, float] | None = None
        self._drag = ""
        self._hovered: tuple[object, ...] = ()
        self._drawn = b""  # pose of the camera whose depths the graphics card has; empty if the scene has changed since
        self._tell: Callable[[str], None] = lambda _: None
        self._tree: Any = None
        self._o3d = import_open3d()
        self._eye = view.camera.eye
        self._is_mesh = len(view.faces) > 0
        self._geometry = self._o3d.geometry.TriangleMesh() if self._is_mesh else self._o3d.geometry.PointCloud()
        with quiet_output():
            self._window = self._o3d.visualization.VisualizerWithKeyCallback()
            self._window.create_window(f"{view.scene_id} · lg3d", width=WIDTH, height=HEIGHT, visible=visible)
        option = self._window.get_render_option()
        if option is None:  # create_window reports success even if it failed
            self._window.destroy_window()
            raise MissingDependencyError("open3d finds no OpenGL 3.3 on this display: pass --html FILE or --png FILE")
        option.light_on = False  # shading is part of the colours, so that class colours stay exact
        option.mesh_show_back_face = True
        option.background_color = np.ones(3)
        option.point_size = max(
            2.0, 1.5 * view.spacing * HEIGHT / (2 * view.camera.distance * np.tan(np.deg2rad(FIELD_OF_VIEW / 2)))
        )
        self._fill()
        self._window.add_geometry(self._geometry)
        self.reset_view()
        for name, action in self.actions().items():
            self._window.register_key_callback(ord(name), lambda _window, act=action: self._on_key(act))
        # open3d rotates and moves the scene itself only if no mouse callbacks are registered.
        self._window.register_mouse_move_callback(lambda _window, x, y: self._on_move(x, y))
        self._window.register_mouse_button_callback(lambda _window, *pressed: self._on_button(*pressed))

    def actions(self) -> dict[str, Callable[[], None]]:
        """Return the action of each key."""
        layers = {str(k + 1): lambda name=name: self.show_layer(name) for k, name in enumerate(self.view.layers)}
        return layers | {
            "C": self.toggle_cut,
            "R": self.reset_view,
            "S": self.save_picture,
            "H": self.tell_keys,
        }

    def run(self) -> None:
        """Process events until the window is closed."""
        self.tell_keys()
        self._window.register_animation_callback(lambda _window: self._on_frame())
        try:
            with quiet_output(stderr=False), self.progress.status() as self._tell:
                self._window.run()
        finally:
            self.close()

    def close(self) -> None:
        """Close the window."""
        self._window.close()
        self._window.destroy_window()

    def show_layer(self, layer: str) -> None:
        """Colour the scene by another layer."""
        self.layer = layer
        self.refill()
        self.progress.note(self.view.title(layer))

    def find(self, x: float, y: float) -> int | None:
        """Return the vertex nearest to the visible surface at a pixel; None for the background.

        Args:
            x: Distance from the left edge in pixels.
            y: Distance from the top edge in pixels.
        """
        camera = self._camera()
        if camera is None:
            return None
        pose, row, column = camera.extrinsic.tobytes(), int(y), int(x)
        depths = np.asarray(self._window.capture_depth_float_buffer(do_render=pose != self._drawn))
        self._drawn = pose
        if not (0 <= row < depths.shape[0] and 0 <= column < depths.shape[1]):
            return None
        depth = float(depths[row, column])
        if depth <= 0:
            return None
        lens = camera.intrinsic
        focal, middle = lens.intrinsic_matrix[1, 1], np.array([lens.width, lens.height]) / 2
        seen = np.append((np.array([x, y]) - middle) / focal, 1) * depth
        if self._tree is None:
            from scipy.spatial import cKDTree

            self._tree = cKDTree(self.view.xyz)
        return int(self._tree.query(camera.extrinsic[:3, :3].T @ (seen - camera.extrinsic[:3, 3]))[1])

    def hover(self) -> None:
        """Describe the vertex under the pointer in the terminal, while no button is pressed."""
        camera = self._camera()
        if camera is None or self._pointer is None or self._drag:
            self._hovered, self.described = (), ""
        elif self._hovered != (look := (self._pointer, camera.extrinsic.tobytes())):
            self._hovered, row = look, self.find(*self._pointer)
            self.described = "" if row is None else ", ".join(self.view.describe(row))
        self._tell(self.described)

    def toggle_cut(self) -> None:
        """Show or hide the walls between the camera and the room."""
        self.cuts = not self.cuts
        self.refill()

    def reset_view(self) -> None:
        """Restore the initial view."""
        seen = self._camera()
        width, height = (WIDTH, HEIGHT) if seen is None else (seen.intrinsic.width, seen.intrinsic.height)
        place_camera(self._o3d, self._window, self.view.camera, width, height)

    def save_picture(self) -> None:
        """Write the visible picture to a new PNG in the working directory."""
        stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in f"{self.view.scene_id}-{self.layer}")
        path = next(path for k in range(1, 10_000) if not (path := Path(f"{stem}-{k}.png")).exists())
        self._window.capture_screen_image(str(path), do_render=True)
        if path.exists():
            self.progress.note(f"saved {path}")
        else:
            self.progress.warn(f"could not write {path.absolute()}")

    def tell_keys(self) -> None:
        """Print the keys and mouse gestures."""
        view = self.view
        titles = [view.title(name) if name in view.heat_texts else view.title(name).lower() for name in view.layers]
        layers = ", ".join(f"{k} {title}" for k, title in enumerate(titles, start=1))
        self.progress.note(
            "mouse: point at a surface for its class; drag rotates, Shift-drag moves, the wheel zooms; the page of "
            "--html isolates and compares"
        )
        self.progress.note(f"keys: {layers}, C cut the near walls, R reset the view, S save a picture, H help, Q quit")

    def follow_camera(self) -> bool:
        """Update the cut walls after the camera has moved, and return whether anything changed."""
        camera = self._camera()
        if camera is None:
            return False
        eye = -camera.extrinsic[:3, :3].T @ camera.extrinsic[:3, 3]
        middle = np.array(self.view.camera.target)
        before, now = (
            (place - middle) / max(float(np.linalg.norm(place - middle)), 1e-9) for place in (self._eye, eye)
        )
        if float(((now - before) ** 2).sum()) < TURN_TO_RECUT:
            return False
        self._eye = eye
        self.refill()
        return True

    def refill(self) -> None:
        """Send the current layer and cut to the graphics card."""
        self._fill()
        self._window.update_geometry(self._geometry)

    def _camera(self) -> Any:
        """Return open3d's parameters of the camera; None while it uses an orthographic projection."""
        parameters = self._window.get_view_control().convert_to_pinhole_camera_parameters()
        return parameters if parameters.intrinsic.width > 0 else None

    def _on_key(self, action: Callable[[], None]) -> bool:
        action()
        return False  # the geometry was updated where needed

    def _on_frame(self) -> bool:
        changed = self.follow_camera()
        self.hover()
        return changed

    def _on_move(self, x: float, y: float) -> bool:
        if self._drag and self._pointer is not None:
            control = self._window.get_view_control()
            step = x - self._pointer[0], y - self._pointer[1]
            (control.rotate if self._drag == "rotate" else control.translate)(*step, *self._pointer)
        self._pointer = x, y
        return False

    def _on_button(self, button: int, action: int, modifiers: int) -> bool:
        turns = button == LEFT and not modifiers & SHIFT_OR_CONTROL
        self._drag = "" if action != PRESSED else "rotate" if turns else "move"
        return False

    def _fill(self) -> None:
        """Give triangles vertices of their own, so that each shows one class without interpolation."""
        view = self.view
        self._hovered, self._drawn = (), b""  # the pointer may be over another vertex now
        hidden = hidden_from(self._eye, view.xyz, view.outward) & self.cuts
        faces = view.faces[~hidden[view.faces[:, 2]]]
        corners = faces.reshape(-1) if self._is_mesh else np.flatnonzero(~hidden)
        owner = np.repeat(faces[:, 2], 3) if self._is_mesh and not view.is_smooth(self.layer) else corners
        colors = view.layers[self.layer][owner] / 255.0 * shade_normals(view.normal[corners], view.camera)[:, None]
        points = self._o3d.utility.Vector3dVector(view.xyz[corners].astype(np.float64))
        paint = self._o3d.utility.Vector3dVector(np.clip(colors, 0, 1).astype(np.float64))
        if self._is_mesh:
            rows = np.arange(len(corners), dtype=np.int32).reshape(-1, 3)
            self._geometry.vertices = points
            self._geometry.triangles = self._o3d.utility.Vector3iVector(rows)
            self._geometry.vertex_colors = paint
        else:
            self._geometry.points = points
            self._geometry.colors = paint
