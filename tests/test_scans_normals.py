"""Vertex normals against arithmetic and a loop."""

import numpy as np

from lg3d_core.scans.normals import vertex_normals


def test_a_triangle_on_the_floor_points_up_and_a_lone_vertex_nowhere() -> None:
    xyz = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (5, 5, 5)], np.float32)
    normals = vertex_normals(xyz, np.array([(0, 1, 2)]))
    assert normals.tolist() == [[0, 0, 1]] * 3 + [[0, 0, 0]]
    assert normals.dtype == np.float32


def test_the_larger_face_weighs_more() -> None:
    # At vertex 0 a floor triangle of area 2 (normal +z) and a wall triangle of area 1/2 (normal +x) meet: 4 to 1.
    xyz = np.array([(0, 0, 0), (2, 0, 0), (0, 2, 0), (0, 1, 0), (0, 0, 1)], np.float32)
    normals = vertex_normals(xyz, np.array([(0, 1, 2), (0, 3, 4)]))
    np.testing.assert_allclose(normals[0], np.array([1, 0, 4]) / np.sqrt(17), atol=1e-6)


def test_faces_without_area_and_faces_that_cancel_give_zero() -> None:
    xyz = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0)], np.float32)
    assert not vertex_normals(xyz, np.array([(0, 1, 1)])).any()
    assert not vertex_normals(xyz, np.array([(0, 1, 2), (0, 2, 1)])).any()
    assert not vertex_normals(xyz, np.empty((0, 3), np.int32)).any()


def test_many_faces_agree_with_a_loop() -> None:
    rng = np.random.default_rng(0)
    xyz = rng.random((50, 3)).astype(np.float32)
    faces = rng.integers(0, 50, (200, 3))
    total = np.zeros((50, 3))
    for a, b, c in faces:
        normal = np.cross(xyz[b].astype(float) - xyz[a], xyz[c].astype(float) - xyz[a])
        for corner in (a, b, c):
            total[corner] += normal
    expected = total / np.linalg.norm(total, axis=1, keepdims=True)
    np.testing.assert_allclose(vertex_normals(xyz, faces), expected, atol=1e-6)  # float32 rounding
