"""Vertex normals of a mesh."""

import numpy as np
import numpy.typing as npt


def vertex_normals(xyz: npt.NDArray[np.floating], faces: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
    """Average the normals of the faces at each vertex, weighted by their area.

    Args:
        xyz: Vertices in metres, shape `(vertices, 3)`.
        faces: Corners of the triangles, counter-clockwise seen from outside, shape `(faces, 3)`.

    Returns:
        Unit normals, shape `(vertices, 3)`, float32; zero where a vertex has no face of positive area.
    """
    corners = [xyz[faces[:, k]].astype(np.float64) for k in range(3)]
    doubled_area = np.cross(corners[1] - corners[0], corners[2] - corners[0])
    total = np.zeros((len(xyz), 3))
    for axis in range(3):
        weights = np.ascontiguousarray(doubled_area[:, axis])
        for k in range(3):
            total[:, axis] += np.bincount(faces[:, k], weights=weights, minlength=len(xyz))
    length = np.linalg.norm(total, axis=1, keepdims=True)
    unit = np.zeros((len(xyz), 3), dtype=np.float32)
    np.divide(total, length, out=unit, where=length > 0, casting="same_kind")
    return unit
