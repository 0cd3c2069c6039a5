"""Desktop window of a scene: hovering shows details, clicking isolates a class, keys switch layers."""

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import MissingDependencyError
from lg3d_core.progress import Progress
from lg3d_core.viewing.camera import FIELD_OF_VIEW, Camera, part_camera
from lg3d_core.viewing.cutaway import hidden_from
from lg3d_core.viewing.layers import SceneView
from lg3d_core.viewing.open3d_buffers import import_open3d, place_camera, quiet_output
from lg3d_core.viewing.pick import Hit, Picker, Pose, category_shown
from lg3d_core.viewing.picture import shade_normals
from lg3d_core.viewing.pointer import Pointer
from lg3d_core.viewing.tip import draw_tip, place_tip

WIDTH, HEIGHT = 1280, 960
CONNECT_SECONDS = 1.0
FADED = 0.3
"""Share of its darkness that a faded vertex keeps."""
TURN_TO_RECUT = 0.02  # squared distance of unit view directions: about 8 degrees


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
        self.beside = ""
        self.only: int | None = None
        self.part = 0
        self.pointer = Pointer()
        self._tell: Callable[[str], None] = lambda _: None
        self._told = ""
        self._hovered: tuple[object, ...] = ()
        self._tip_shown = False
        self._hidden = np.zeros(len(view.xyz), dtype=np.bool_)
        self._picker = Picker(view.xyz, view.faces)
        self._shift = np.zeros(3)
        self._o3d = import_open3d()
        self._eye = view.camera.eye
        self._is_mesh = len(view.faces) > 0
        self._geometry = self._o3d.geometry.TriangleMesh() if self._is_mesh else self._o3d.geometry.PointCloud()
        self._tip = self._o3d.geometry.TriangleMesh()
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
        self._point_size = max(
            2.0, 1.5 * view.spacing * HEIGHT / (2 * view.camera.distance * np.tan(np.deg2rad(FIELD_OF_VIEW / 2)))
        )
        option.point_size = self._point_size
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
            "B": self.toggle_beside,
            "I": lambda: self.isolate(1),
            "U": lambda: self.isolate(-1),
            "N": lambda: self.jump(1),
            "P": lambda: self.jump(-1),
            "A": self.show_all,
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

    def toggle_beside(self) -> None:
        """Show ground truth and prediction side by side, or one layer again."""
        if self.beside or not {"truth", "prediction"} <= set(self.view.layers):
            self.beside = ""
        else:
            self.layer, self.beside = "truth", "prediction"
            self.progress.note("ground truth on the left, prediction on the right")
        span = float((self.view.xyz.max(axis=0) - self.view.xyz.min(axis=0))[:2].sum())
        self._shift = self.view.camera.axes[0] * 0.8 * span if self.beside else np.zeros(3)
        self.refill()
        self.reset_view()

    def isolate(self, step: int) -> None:
        """Fade all but the next class of the legend."""
        count = len(self.view.legend)
        if count:
            self._isolate((0 if step > 0 else count - 1) if self.only is None else (self.only + step) % count)

    def isolate_at(self, found: tuple[Hit, str] | None) -> None:
        """Fade all but the class shown at a place; unfade all if it is isolated already or there is none."""
        category = -1 if found is None else category_shown(self.view, found[1], found[0].row)
        entry = next((k for k, entry in enumerate(self.view.legend) if entry.category == category), None)
        if entry is None or entry == self.only:
            self.show_all()
        else:
            self._isolate(entry)

    def _isolate(self, entry: int) -> None:
        self.only, self.part = entry, 0
        self.refill()
        shown = self.view.legend[entry]
        guessed = shown.predicted_share is not None and bool((self.view.label >= 0).any())
        predicted = f", {100 * (shown.predicted_share or 0):.1f} % predicted" if guessed else ""
        self.progress.note(f"{shown.name}: {100 * shown.share:.1f} % of the vertices{predicted}")

    def jump(self, step: int) -> None:
        """Move to the next object of the gallery, tail classes first, and fade everything else."""
        parts = self.view.gallery.parts
        if parts:
            self.part = (
                (0 if step > 0 else len(parts) - 1) + 1 if not self.part else (self.part - 1 + step) % len(parts) + 1
            )
            self.only = None
            part = parts[self.part - 1]
            camera = part_camera(part.middle, part.radius, self.view.xyz)
            self._look(camera)
            self._eye = camera.eye  # the walls are cut for this view at once
            self.refill()
            taken = "" if part.predicted is None else f", most of it predicted {part.predicted}"
            self.progress.note(f"{self.part} of {len(parts)}: {part.name}{taken}")

    def show_all(self) -> None:
        """Unfade everything."""
        self.only, self.part = None, 0
        self.refill()

    def pose(self) -> Pose | None:
        """Return the pose of the window's camera; None while open3d uses an orthographic projection."""
        parameters = self._window.get_view_control().convert_to_pinhole_camera_parameters()
        lens = parameters.intrinsic
        if lens.width <= 0:
            return None
        rotation = parameters.extrinsic[:3, :3].copy()
        eye = -rotation.T @ parameters.extrinsic[:3, 3]
        return Pose(lens.width, lens.height, float(lens.intrinsic_matrix[1, 1]), rotation, eye)

    def find(self, x: float, y: float) -> tuple[Hit, str] | None:
        """Return what is visible at a place in the window, and its layer; None for the background.

        Args:
            x: Distance from the left edge in pixels.
            y: Distance from the top edge in pixels.
        """
        pose = self.pose()
        if pose is None:
            return None
        slack = (self._point_size / 2 + 1) / pose.focal
        direction = pose.direction(x, y)
        nearest = self._near / float(pose.rotation[2] @ direction)
        found: list[tuple[Hit, str]] = []
        for layer, shift in ((self.layer, 0.0), (self.beside, 1.0)):
            if layer:
                eye = pose.eye - shift * self._shift
                hit = self._picker.pick(eye, direction, hidden=self._hidden, nearest=nearest, slack=slack)
                found += [(hit, layer)] if hit else []
        return min(found, key=lambda each: each[0].distance, default=None)

    def hover(self) -> None:
        """Describe the vertex under the pointer, beside it and in the terminal, while no button is pressed."""
        pose = None if self.pointer.held is not None else self.pose()
        if pose is None or self.pointer.place is None:
            self._hovered, self._told = (), ""
            self._hide_tip()
        else:
            look = (*self.pointer.place, *pose[:3], pose.rotation.tobytes(), pose.eye.tobytes())
            if self._hovered != look:
                self._hovered = look
                self._point(pose, self.pointer.place)
        self._tell(self._told)

    def _point(self, pose: Pose, place: tuple[float, float]) -> None:
        found = self.find(*place)
        if found is None:
            self._told = ""
            self._hide_tip()
            return
        facts = self.view.describe(found[0].row)
        self._told = ", ".join(facts)
        tip = draw_tip(facts)
        self._tip.vertices = self._o3d.utility.Vector3dVector(place_tip(tip, place, pose, self._near))
        corners = np.arange(4 * len(tip.colors), dtype=np.int32).reshape(-1, 4)
        self._tip.triangles = self._o3d.utility.Vector3iVector(corners[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3))
        colors = np.repeat(tip.colors, 4, axis=0).astype(np.float64)
        self._tip.vertex_colors = self._o3d.utility.Vector3dVector(colors)
        if self._tip_shown:
            self._window.update_geometry(self._tip)
        else:
            self._window.add_geometry(self._tip, reset_bounding_box=False)
        self._tip_shown = True

    def _hide_tip(self) -> None:
        if self._tip_shown:
            self._window.remove_geometry(self._tip, reset_bounding_box=False)
        self._tip_shown = False

    def toggle_cut(self) -> None:
        """Show or hide the walls between the camera and the room."""
        self.cuts = not self.cuts
        self.refill()

    def reset_view(self) -> None:
        """Restore the initial view."""
        camera = self.view.camera
        if self.beside:  # both rooms visible
            x, y, z = np.array(camera.target) + self._shift / 2
            camera = camera._replace(target=(float(x), float(y), float(z)), distance=2.1 * camera.distance)
        self._look(camera)

    def _look(self, camera: Camera) -> None:
        pose = self.pose()
        width, height = (WIDTH, HEIGHT) if pose is None else (pose.width, pose.height)
        self._near = place_camera(self._o3d, self._window, camera, width, height)

    def save_picture(self) -> None:
        """Write the visible picture to a new PNG in the working directory."""
        stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in f"{self.view.scene_id}-{self.layer}")
        path = next(path for k in range(1, 10_000) if not (path := Path(f"{stem}-{k}.png")).exists())
        self._hide_tip()
        self._hovered = ()
        self._window.capture_screen_image(str(path), do_render=True)
        if path.exists():
            self.progress.note(f"saved {path}")
        else:
            self.progress.warn(f"could not write {path.absolute()}")

    def tell_keys(self) -> None:
        """Print the keys and mouse gestures."""
        view = self.view
        titles = [view.title(name) if view.heat_text(name) else view.title(name).lower() for name in view.layers]
        layers = ", ".join(f"{k} {title}" for k, title in enumerate(titles, start=1))
        self.progress.note(
            "mouse: hover for details, click to isolate a class, click again to show all; drag rotates, Shift-drag "
            "moves, the wheel zooms"
        )
        self.progress.note(
            f"keys: {layers}, B truth and prediction, I and U isolate the next and previous class, N and P next and "
            "previous object, A show all, C cut the near walls, R reset the view, S save a picture, H help, Q quit"
        )

    def follow_camera(self) -> bool:
        """Update the cut walls after the camera has moved, and return whether anything changed."""
        pose = self.pose()
        if pose is None:
            return False
        middle = np.array(self.view.camera.target)
        before, now = (
            (place - middle) / max(float(np.linalg.norm(place - middle)), 1e-9) for place in (self._eye, pose.eye)
        )
        if float(((now - before) ** 2).sum()) < TURN_TO_RECUT:
            return False
        self._eye = pose.eye
        self.refill()
        return True

    def refill(self) -> None:
        """Send the current layer and cut to the graphics card."""
        self._fill()
        self._window.update_geometry(self._geometry)

    def _on_key(self, action: Callable[[], None]) -> bool:
        action()
        return False  # the geometry was updated where needed

    def _on_frame(self) -> bool:
        changed = self.follow_camera()
        self.hover()
        return changed

    def _on_move(self, x: float, y: float) -> bool:
        drag = self.pointer.move(x, y)
        if drag is not None:
            control = self._window.get_view_control()
            (control.rotate if drag.turns else control.translate)(drag.dx, drag.dy, x - drag.dx, y - drag.dy)
        return False

    def _on_button(self, button: int, action: int, modifiers: int) -> bool:
        if self.pointer.button(button, action, modifiers) and self.pointer.place is not None:
            self.isolate_at(self.find(*self.pointer.place))
        return False

    def _lit(self) -> npt.NDArray[np.bool_]:
        """Return the vertices that are not faded."""
        lit = np.ones(len(self.view.xyz), dtype=np.bool_)
        if self.part:
            lit = np.equal(self.view.gallery.number, self.part)
        elif self.only is not None:
            category = self.view.legend[self.only].category
            lit = np.equal(self.view.label, category)
            if self.view.predicted is not None:
                lit |= np.equal(self.view.predicted, category)
        return lit

    def _fill(self) -> None:
        """Give triangles vertices of their own, so that each shows one class without interpolation."""
        view = self.view
        self._hovered = ()  # the pointer may be over another vertex now
        hidden = self._hidden = hidden_from(self._eye, view.xyz, view.outward) & self.cuts
        faces = view.faces[~hidden[view.faces[:, 2]]]
        corners = faces.reshape(-1) if self._is_mesh else np.flatnonzero(~hidden)
        owner = np.repeat(faces[:, 2], 3) if self._is_mesh and not view.is_smooth(self.layer) else corners
        shade = shade_normals(view.normal[corners], view.camera)
        lit = self._lit()
        places, painted = [], []
        for layer, shift in ((self.layer, 0.0), (self.beside, 1.0)):
            if layer:
                color = view.layers[layer][owner] / 255.0 * shade[:, None]
                faded = 1 - FADED * (1 - color.mean(axis=1, keepdims=True))
                painted.append(np.where(lit[owner][:, None], color, faded))
                places.append(view.xyz[corners].astype(np.float64) + shift * self._shift)
        points = self._o3d.utility.Vector3dVector(np.concatenate(places))
        colors_given = self._o3d.utility.Vector3dVector(np.clip(np.concatenate(painted), 0, 1).astype(np.float64))
        if self._is_mesh:
            rows = np.arange(len(painted) * len(corners), dtype=np.int32).reshape(-1, 3)
            self._geometry.vertices = points
            self._geometry.triangles = self._o3d.utility.Vector3iVector(rows)
            self._geometry.vertex_colors = colors_given
        else:
            self._geometry.points = points
            self._geometry.colors = colors_given
