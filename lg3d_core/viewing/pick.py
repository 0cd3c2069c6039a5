"""Picking: the nearest surface on the ray through a pixel."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.viewing.layers import HEAT, SceneView
from lg3d_core.viewing.open3d_buffers import import_open3d


class Pose(NamedTuple):
    """Pose of a window's camera, with square pixels and the optical axis in the centre.

    Attributes:
        width: Width of the window in pixels.
        height: Height of the window in pixels.
        focal: Focal length in pixels.
        rotation: World to camera (x right, y down, z forward), shape `(3, 3)`.
        eye: Position in world coordinates in metres, shape `(3,)`.
    """

    width: int
    height: int
    focal: float
    rotation: npt.NDArray[np.float64]
    eye: npt.NDArray[np.float64]

    def to_world(self, pixels: npt.NDArray[np.floating], depth: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Convert pixels and depths to world coordinates.

        Args:
            pixels: Pixel coordinates from the window's upper left corner, shape `(points, 2)`.
            depth: Distance in front of the eye in metres, shape `(points,)`.

        Returns:
            Positions in metres, shape `(points, 3)`.
        """
        across = (pixels - np.array([self.width, self.height]) / 2) / self.focal
        world: npt.NDArray[np.float64] = (
            self.eye + np.column_stack([across, np.ones(len(pixels))]) * depth[:, None] @ self.rotation
        )
        return world

    def direction(self, x: float, y: float) -> npt.NDArray[np.float64]:
        """Return the unit vector from the eye through a pixel, counted from the window's upper left corner."""
        ahead = self.to_world(np.array([[x, y]]), np.ones(1))[0] - self.eye
        unit: npt.NDArray[np.float64] = ahead / np.linalg.norm(ahead)
        return unit


class Hit(NamedTuple):
    """First intersection of a ray.

    Attributes:
        row: Row of the vertex; for a triangle its last corner, whose class the triangle shows.
        distance: Distance from the ray's origin in metres.
    """

    row: int
    distance: float


class Picker:
    """Ray caster for a scene.

    Args:
        xyz: Positions in metres, shape `(points, 3)`.
        faces: Triangles, shape `(faces, 3)`; if empty, rays intersect the points.
    """

    def __init__(self, xyz: npt.NDArray[np.float32], faces: npt.NDArray[np.int32]) -> None:
        self.xyz = xyz
        self.faces = faces
        self._o3d: Any = None
        self._caster: Any = None

    def pick(
        self,
        origin: npt.NDArray[np.floating],
        direction: npt.NDArray[np.floating],
        *,
        hidden: npt.NDArray[np.bool_],
        nearest: float = 0.0,
        slack: float = 0.0,
    ) -> Hit | None:
        """Return the nearest hit on a ray, or None.

        Args:
            origin: Origin of the ray in metres, shape `(3,)`.
            direction: Unit vector of the ray, shape `(3,)`.
            hidden: Mask of hidden vertices, shape `(points,)`; triangles with a hidden last corner are hidden too.
            nearest: Distance of the near plane in metres.
            slack: Tangent of the angular tolerance for points; triangles need an exact hit.

        Raises:
            MissingDependencyError: The scene has triangles, and open3d is missing.
        """
        if len(self.faces):
            rows, distance = self._triangles(origin, direction)
        else:
            rows, distance = self._points(origin, direction, slack)
        seen = np.flatnonzero(~hidden[rows] & (distance >= nearest))
        if len(seen) == 0:
            return None
        first = seen[np.argmin(distance[seen])]
        return Hit(int(rows[first]), float(distance[first]))

    def _triangles(
        self, origin: npt.NDArray[np.floating], direction: npt.NDArray[np.floating]
    ) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.float32]]:
        """Return every triangle on the ray; hidden ones are removed later, so that one tree serves all views."""
        if self._caster is None:
            self._o3d = o3d = import_open3d()
            self._caster = o3d.t.geometry.RaycastingScene()
            self._caster.add_triangles(o3d.core.Tensor(self.xyz), o3d.core.Tensor(self.faces.astype(np.uint32)))
        ray = np.concatenate([origin, direction]).astype(np.float32)[None]
        met = self._caster.list_intersections(self._o3d.core.Tensor(ray))
        return self.faces[met["primitive_ids"].numpy().astype(np.int64), 2], met["t_hit"].numpy()

    def _points(
        self, origin: npt.NDArray[np.floating], direction: npt.NDArray[np.floating], slack: float
    ) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.float32]]:
        away = self.xyz - origin.astype(np.float32)
        along = away @ direction.astype(np.float32)
        aside = np.einsum("ij,ij->i", away, away) - along**2
        rows = np.flatnonzero((along > 0) & (aside <= (slack * along) ** 2))
        return rows, along[rows]


def category_shown(view: SceneView, layer: str, row: int) -> int:
    """Return the class that a layer shows at a vertex, -1 for none.

    Layers of the prediction and of heat show the predicted class, others the annotated class if there is one.
    """
    predicted = -1 if view.predicted is None else int(view.predicted[row])
    of_prediction = layer in ("prediction", "confidence") or layer.startswith(HEAT)
    annotated = int(view.label[row])
    return predicted if of_prediction or annotated < 0 else annotated
