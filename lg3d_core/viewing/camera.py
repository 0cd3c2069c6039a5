"""Initial camera of a room, shared by pictures, pages and windows."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.viewing.cutaway import hidden_from

FIELD_OF_VIEW = 30.0  # degrees, vertical
ELEVATION = 48.0  # degrees above the horizon
ASPECT = 4 / 3
TURNS = (25.0, 65.0, 115.0, 155.0, 205.0, 245.0, 295.0, 335.0)  # not perpendicular to a wall of an axis-aligned room


class Camera(NamedTuple):
    """Orbit camera that looks at `target`, with +z up.

    Attributes:
        target: Point in the centre of the picture in metres.
        azimuth: Direction from the target to the camera in the floor plane, degrees from +x towards +y.
        elevation: Angle of the camera above the horizon in degrees.
        distance: Distance of the camera from the target in metres.
    """

    target: tuple[float, float, float]
    azimuth: float
    elevation: float
    distance: float

    @property
    def eye(self) -> npt.NDArray[np.float64]:
        """Return the position of the camera, shape `(3,)`."""
        eye: npt.NDArray[np.float64] = np.array(self.target) + self.distance * self.axes[2]
        return eye

    @property
    def axes(self) -> npt.NDArray[np.float64]:
        """Return the right, up and backward directions in world coordinates, as rows of a rotation, shape `(3, 3)`."""
        a, e = np.deg2rad([self.azimuth, self.elevation])
        backward = np.array([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)])
        right = np.array([-np.sin(a), np.cos(a), 0.0])
        return np.stack([right, np.cross(backward, right), backward])

    def to_view(self, xyz: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Convert world to camera coordinates: x right, y up, z towards the viewer, shape `(points, 3)`."""
        view: npt.NDArray[np.float64] = (xyz - self.eye) @ self.axes.T
        return view


def first_camera(
    xyz: npt.NDArray[np.float32], outward: npt.NDArray[np.float32], instance: npt.NDArray[np.int32]
) -> Camera:
    """Return a camera that looks down at an angle, from the side with the least occlusion.

    Args:
        xyz: Positions in metres, shape `(points, 3)`.
        outward: Result of `find_outward`, shape `(points, 3)`.
        instance: Object number, 0 for none, shape `(points,)`. A visible small object counts more than its area.
    """
    if len(xyz) == 0:
        return Camera((0.0, 0.0, 0.0), TURNS[0], ELEVATION, 1.0)
    step = max(1, len(xyz) // 30_000)
    some, its_outward = xyz[::step], outward[::step]
    _, part = np.unique(instance[::step], return_inverse=True)
    worth = 1 / np.sqrt(np.bincount(part.reshape(-1)))[part.reshape(-1)]
    cameras = [_fit(some, turn) for turn in TURNS]
    scores = [_rate_view(camera, some, its_outward, worth) for camera in cameras]
    return cameras[int(np.argmax(scores))]


def _fit(xyz: npt.NDArray[np.float32], azimuth: float) -> Camera:
    """Return the camera from one side that shows all points except a few outliers, with a small margin."""
    low, high = np.percentile(xyz.astype(np.float64), [0.1, 99.9], axis=0)
    corners = np.array([[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])
    target = (low + high) / 2
    tangent = np.tan(np.deg2rad(FIELD_OF_VIEW / 2)) * 0.94
    camera = Camera((float(target[0]), float(target[1]), float(target[2])), azimuth, ELEVATION, 1.0)
    for _ in range(3):
        x, y, z = ((corners - np.array(camera.target)) @ camera.axes.T).T
        distance = float(max((np.abs(x) / (tangent * ASPECT) + z).max(), (np.abs(y) / tangent + z).max(), 0.1))
        # Perspective lifts the near edge: shift the target so that the picture is centred, then fit again.
        top, bottom = (y / (distance - z)).max(), (y / (distance - z)).min()
        left, right = (x / (distance - z)).min(), (x / (distance - z)).max()
        shift = distance * ((left + right) / 2 * camera.axes[0] + (top + bottom) / 2 * camera.axes[1])
        moved = np.array(camera.target) + shift
        camera = camera._replace(target=(float(moved[0]), float(moved[1]), float(moved[2])), distance=distance)
    return camera


def _rate_view(
    camera: Camera,
    xyz: npt.NDArray[np.float32],
    outward: npt.NDArray[np.float32],
    worth: npt.NDArray[np.float64],
) -> float:
    """Return the total weight of the visible points away from the floor and the hull, on a coarse raster."""
    keep = ~hidden_from(camera.eye, xyz, outward)
    view = camera.to_view(xyz[keep])
    scale = 60 / np.tan(np.deg2rad(FIELD_OF_VIEW / 2))
    depth = np.maximum(-view[:, 2], 1e-6)
    column = np.clip(np.round(view[:, 0] / depth * scale) + 80, 0, 160).astype(np.int64)
    row = np.clip(np.round(view[:, 1] / depth * scale) + 60, 0, 120).astype(np.int64)
    cell = row * 161 + column
    nearest = np.full(161 * 121, np.inf)
    np.minimum.at(nearest, cell, depth)
    visible = depth < nearest[cell] + 0.15
    low, high = np.percentile(xyz, [0.5, 99.5], axis=0)
    inside = np.all((xyz[keep] > low + 0.15)[:, :2] & (xyz[keep] < high - 0.15)[:, :2], axis=1)
    return float(worth[keep][visible & inside & (xyz[keep, 2] > low[2] + 0.1)].sum())
