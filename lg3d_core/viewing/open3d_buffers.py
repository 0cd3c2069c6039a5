"""What a graphics card is needed for: which triangle or point is seen in each pixel, and how far away it is."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import MissingDependencyError
from lg3d_core.viewing.camera import FIELD_OF_VIEW, Camera

BY_PAGE = "or use --html FILE, which needs neither"


class Buffers(NamedTuple):
    """One view of a scene.

    Attributes:
        primitive: Row of the triangle or point seen in each pixel, -1 for none, int32 `(height, width)`.
        depth: Metres in front of the camera, infinite for none, float32 `(height, width)`.
        blends: Per-vertex quantities interpolated over what is seen, in 0..1, float32 `(height, width, 3)` each.
    """

    primitive: npt.NDArray[np.int32]
    depth: npt.NDArray[np.float32]
    blends: list[npt.NDArray[np.float32]]


def import_open3d() -> Any:
    """Load open3d, silently.

    Raises:
        MissingDependencyError: It is not installed, or a library of the system is missing.
    """
    try:
        with quiet_output():
            import open3d
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"pictures and windows need open3d, and {error.name} is not installed: pip install 'lg3d[view-cpu]' "
            f"(or 'lg3d[view]' where there is no open3d-cpu), {BY_PAGE}"
        ) from None
    except (ImportError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise MissingDependencyError(
            f"open3d cannot load ({reason}): apt-get install libusb-1.0-0 libgl1 libegl1, {BY_PAGE}"
        ) from None
    open3d.utility.set_verbosity_level(open3d.utility.VerbosityLevel.Error)
    return open3d


@contextlib.contextmanager
def quiet_output(*, stderr: bool = True) -> Iterator[None]:
    """Drop what libraries write to stdout, and to stderr, below Python: stdout carries results alone."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
    saved: list[tuple[int, int]] = []
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        for descriptor in (1, 2) if stderr else (1,):
            with contextlib.suppress(OSError):  # a descriptor that is closed needs no silence
                saved.append((descriptor, os.dup(descriptor)))
                os.dup2(sink, descriptor)
        yield
    finally:
        for descriptor, copy in saved:
            os.dup2(copy, descriptor)
            os.close(copy)
        os.close(sink)


def render_buffers(
    xyz: npt.NDArray[np.float32],
    faces: npt.NDArray[np.int32],
    camera: Camera,
    *,
    width: int,
    height: int,
    point_size: float,
    blends: list[npt.NDArray[np.floating]],
) -> Buffers:
    """See a mesh, or points where there are no faces, through an off-screen window.

    Colours are numbers here: every triangle is drawn in its own, without light, and read back exactly.

    Args:
        xyz: Positions in metres, shape `(points, 3)`.
        faces: Triangles, shape `(faces, 3)`.
        camera: From where.
        width: Of the picture in pixels.
        height: Of the picture in pixels.
        point_size: Diameter of a point in pixels.
        blends: Per-vertex quantities in 0..1 to be interpolated, shape `(points, 3)` each.

    Raises:
        MissingDependencyError: open3d is missing, or finds no way to draw off screen.
    """
    o3d = import_open3d()
    corners = faces.reshape(-1) if len(faces) else np.arange(len(xyz))
    owner = np.repeat(np.arange(len(faces)), 3) if len(faces) else corners
    code = owner + 1
    code_colors = np.stack([code & 255, code >> 8 & 255, code >> 16 & 255], axis=1) / 255.0
    points = o3d.utility.Vector3dVector(xyz[corners].astype(np.float64))
    if len(faces):
        geometry = o3d.geometry.TriangleMesh(
            points, o3d.utility.Vector3iVector(np.arange(len(corners), dtype=np.int32).reshape(-1, 3))
        )
    else:
        geometry = o3d.geometry.PointCloud(points)

    def paint(colors: npt.NDArray[np.floating]) -> None:
        vector = o3d.utility.Vector3dVector(colors.astype(np.float64))
        if len(faces):
            geometry.vertex_colors = vector
        else:
            geometry.colors = vector

    with quiet_output():
        window = o3d.visualization.Visualizer()
        try:
            window.create_window("lg3d", width=width, height=height, visible=False)
            option = window.get_render_option()
            if option is None:  # create_window itself reports success even so
                raise MissingDependencyError(
                    f"open3d finds no OpenGL to draw with: apt-get install libegl1 libgl1-mesa-dri, {BY_PAGE}"
                )
            option.light_on = False
            option.background_color = np.zeros(3)
            option.mesh_show_back_face = True
            option.point_size = max(1.0, point_size)
            paint(code_colors)
            window.add_geometry(geometry)
            place_camera(o3d, window, camera, width, height)
            seen = _capture(window)
            depth = np.asarray(window.capture_depth_float_buffer(do_render=True), dtype=np.float32).copy()
            blended = []
            for blend in blends:
                paint(blend[corners])
                window.update_geometry(geometry)
                blended.append(_capture(window))
        finally:
            window.destroy_window()
    bytes_seen = np.round(seen * 255).astype(np.int32)
    primitive = bytes_seen[..., 0] + 256 * bytes_seen[..., 1] + 65536 * bytes_seen[..., 2] - 1
    return Buffers(primitive, np.where(primitive >= 0, depth, np.inf).astype(np.float32), blended)


def _capture(window: Any) -> npt.NDArray[np.float32]:
    window.poll_events()
    window.update_renderer()
    return np.asarray(window.capture_screen_float_buffer(do_render=True), dtype=np.float32).copy()


def place_camera(o3d: Any, window: Any, camera: Camera, width: int, height: int) -> float:
    """Give a window of open3d the pose and the field of view of a camera; returns from how many metres on it draws."""
    focal = height / 2 / np.tan(np.deg2rad(FIELD_OF_VIEW / 2))
    right, up, backward = camera.axes
    rotation = np.stack([right, -up, -backward])  # a pinhole camera looks along +z with y down
    extrinsic = np.eye(4)
    extrinsic[:3, :3] = rotation
    extrinsic[:3, 3] = -rotation @ camera.eye
    parameters = o3d.camera.PinholeCameraParameters()
    parameters.intrinsic = o3d.camera.PinholeCameraIntrinsic(
        width, height, focal, focal, width / 2 - 0.5, height / 2 - 0.5
    )
    parameters.extrinsic = extrinsic
    control = window.get_view_control()
    near = max(0.02, camera.distance * 0.02)
    control.set_constant_z_near(near)
    control.set_constant_z_far(camera.distance * 4 + 10)
    control.convert_from_pinhole_camera_parameters(parameters, allow_arbitrary=True)
    return near
