"""Off-screen rendering with open3d: the triangle or point of each pixel, and its depth."""

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import MissingDependencyError, ShapeError, first_line
from lg3d_core.viewing.camera import FIELD_OF_VIEW, Camera

BY_PAGE = "or pass --html FILE, which does not need it"
"""End of messages: advice for the command `view`."""
MAX_PRIMITIVES = (1 << 24) - 1
"""Maximum number of triangles or points: a colour of three bytes identifies each one."""


class Buffers(NamedTuple):
    """Buffers of a rendered view.

    Attributes:
        primitive: Row of the triangle or point visible in each pixel, -1 for none, int32 `(height, width)`.
        depth: Distance in front of the camera in metres, infinite for none, float32 `(height, width)`.
        blends: Interpolated per-vertex quantities in 0..1, float32 `(height, width, 3)` each.
    """

    primitive: npt.NDArray[np.int32]
    depth: npt.NDArray[np.float32]
    blends: list[npt.NDArray[np.float32]]


def import_open3d() -> Any:
    """Import open3d without its output.

    Triton is imported first: Mesa's software renderer and Triton both contain LLVM, and to load Triton after the first
    picture, as the optimizers of torch do, crashes the process.

    Raises:
        MissingDependencyError: open3d is not installed, or a system library is missing.
    """
    with contextlib.suppress(ImportError):
        importlib.import_module("triton")
    try:
        with quiet_output():
            import open3d
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"pictures and windows need open3d, and {error.name} is not installed: pip install 'lg3d[view-cpu]' "
            f"(or 'lg3d[view]' where there is no open3d-cpu), {BY_PAGE}"
        ) from None
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"open3d cannot load ({first_line(error)}): apt-get install libusb-1.0-0 libgl1 libegl1, {BY_PAGE}"
        ) from None
    open3d.utility.set_verbosity_level(open3d.utility.VerbosityLevel.Error)
    return open3d


def without_advice(error: Exception) -> str:
    """Return the message of an error without the advice for the command `view`."""
    return str(error).removesuffix(f", {BY_PAGE}")


@contextlib.contextmanager
def quiet_output(*, stderr: bool = True) -> Iterator[None]:
    """Discard what libraries write to stdout and stderr below Python, as stdout is reserved for results."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
    saved: list[tuple[int, int]] = []
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        for descriptor in (1, 2) if stderr else (1,):
            with contextlib.suppress(OSError):  # a closed descriptor needs no redirection
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
    """Render a mesh, or points if there are no faces, in an off-screen window.

    Colours encode row numbers: each triangle is drawn without lighting, and its colour is read back exactly.

    Args:
        xyz: Positions in metres, shape `(points, 3)`.
        faces: Triangles, shape `(faces, 3)`.
        camera: Camera of the view.
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
        point_size: Diameter of a point in pixels.
        blends: Per-vertex quantities in 0..1 to interpolate, shape `(points, 3)` each.

    Raises:
        ShapeError: There are more than `MAX_PRIMITIVES` triangles or points.
        MissingDependencyError: open3d is missing, or cannot render off screen.
    """
    number = len(faces) or len(xyz)
    if number > MAX_PRIMITIVES:
        what = "triangles" if len(faces) else "points"
        raise ShapeError(f"a picture shows at most {MAX_PRIMITIVES} {what}, got {number}, {BY_PAGE}")
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
            if option is None:  # create_window reports success even if it failed
                raise MissingDependencyError(
                    f"open3d finds no OpenGL: apt-get install libegl1 libgl1-mesa-dri, {BY_PAGE}"
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


def place_camera(o3d: Any, window: Any, camera: Camera, width: int, height: int) -> None:
    """Set the pose, field of view and clipping planes of an open3d window."""
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
    control.set_constant_z_near(max(0.02, camera.distance * 0.02))
    control.set_constant_z_far(camera.distance * 4 + 10)
    control.convert_from_pinhole_camera_parameters(parameters, allow_arbitrary=True)
