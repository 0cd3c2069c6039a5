"""Fusion of frames into a mesh, and assignment of its vertices to things."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lg3d_core.synthetic.camera.frames import Frame, intrinsic_matrix
from lg3d_core.synthetic.camera.profile import CameraProfile
from lg3d_core.synthetic.camera.raycasting import build_scene, import_open3d
from lg3d_core.synthetic.shapes import Array, IntArray

BLOCK = 8
"""Voxels along an edge of a block of the volume: small blocks waste less memory."""
MOST_BLOCKS = 60_000
CLOSE = 0.1
"""Distance in metres from every surface beyond which a vertex belongs to no thing."""


class FusedMesh(NamedTuple):
    """Mesh with `xyz` in metres `(vertices, 3)`, `rgb` in 0..1 `(vertices, 3)`, `faces` `(faces, 3)`."""

    xyz: Array
    rgb: Array
    faces: IntArray


def fuse(frames: Iterable[Frame], profile: CameraProfile, num_faces: int) -> tuple[FusedMesh, IntArray]:
    """Integrate frames into a truncated signed distance volume.

    Args:
        frames: Depth, colours and poses.
        profile: Camera of the frames.
        num_faces: Number of faces of the observed scene.

    Returns:
        mesh: Fused mesh without small components.
        seen: Rows of the scene's faces that at least one frame measured.
    """
    open3d = import_open3d()
    core = open3d.core
    volume = open3d.t.geometry.VoxelBlockGrid(
        ("tsdf", "weight", "color"),
        (core.float32, core.float32, core.float32),
        ((1), (1), (3)),
        profile.voxel_size,
        BLOCK,
        MOST_BLOCKS,
        core.Device("CPU:0"),
    )
    intrinsic = core.Tensor(intrinsic_matrix(profile))
    seen = np.zeros(num_faces, dtype=bool)
    far = float(profile.far * 1.1)
    for frame in frames:
        depth, rgb = open3d.t.geometry.Image(frame.depth), open3d.t.geometry.Image(frame.rgb)
        extrinsic = core.Tensor(frame.extrinsic)
        blocks = volume.compute_unique_block_coordinates(depth, intrinsic, extrinsic, 1.0, far, profile.truncation)
        volume.integrate(blocks, depth, rgb, intrinsic, intrinsic, extrinsic, 1.0, far, profile.truncation)
        seen[frame.faces] = True
    mesh = volume.extract_triangle_mesh(weight_threshold=profile.min_weight).to_legacy()
    xyz, rgb = np.asarray(mesh.vertices).astype(np.float64), np.clip(np.asarray(mesh.vertex_colors), 0, 1)
    faces = np.asarray(mesh.triangles).astype(np.int64)
    if not len(faces):
        return FusedMesh(xyz, rgb.reshape(-1, 3), faces.reshape(-1, 3)), np.flatnonzero(seen)
    fused = simplify(sort_mesh(FusedMesh(xyz, rgb, faces)), profile.spacing)
    return remove_small_components(fused, profile.smallest_component), np.flatnonzero(seen)


def sort_mesh(mesh: FusedMesh) -> FusedMesh:
    """Sort vertices by position and faces by their corners; open3d's threads return both in any order."""
    order = np.lexsort(mesh.xyz.T[::-1])
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    faces = rank[mesh.faces]
    first = faces.argmin(axis=1)[:, None]
    faces = np.take_along_axis(faces, (first + np.arange(3)) % 3, axis=1)  # rotated, so that the orientation stays
    key = faces[:, 0] * np.int64(len(order)) + faces[:, 1]
    return FusedMesh(mesh.xyz[order], mesh.rgb[order], faces[np.lexsort((faces[:, 2], key))])


def remove_small_components(mesh: FusedMesh, smallest: int) -> FusedMesh:
    """Remove connected components of fewer than `smallest` vertices."""
    cluster = _connected_faces(mesh.faces)
    owner = np.full(len(mesh.xyz), -1, dtype=np.int64)
    owner[mesh.faces.reshape(-1)] = np.repeat(cluster, 3)
    sizes = np.bincount(owner[owner >= 0], minlength=int(cluster.max(initial=0)) + 1)
    faces = mesh.faces[sizes[cluster] >= smallest]
    used, corners = np.unique(faces, return_inverse=True)
    return FusedMesh(mesh.xyz[used], mesh.rgb[used], corners.reshape(-1, 3))


def _connected_faces(faces: IntArray) -> IntArray:
    """Return the component of each face; faces that share an edge are in one component."""
    edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    key = edges[:, 0] * (int(faces.max(initial=0)) + 1) + edges[:, 1]
    order = np.argsort(key, kind="stable")
    shared = np.flatnonzero(key[order[1:]] == key[order[:-1]])
    one, other = order[shared] // 3, order[shared + 1] // 3
    links = coo_array((np.ones(len(one), dtype=bool), (one, other)), shape=(len(faces), len(faces)))
    component: IntArray = connected_components(links, directed=False)[1].astype(np.int64)
    return component


def simplify(mesh: FusedMesh, spacing: float) -> FusedMesh:
    """Merge the vertices within each cell of `spacing` metres into their mean."""
    cell = np.floor(mesh.xyz / spacing).astype(np.int64)
    cell -= cell.min(axis=0)
    span = cell.max(axis=0) + 1
    _, merged, counts = np.unique(
        (cell[:, 0] * span[1] + cell[:, 1]) * span[2] + cell[:, 2], return_inverse=True, return_counts=True
    )
    values = np.concatenate([mesh.xyz, mesh.rgb], axis=1)
    mean = np.stack([np.bincount(merged, values[:, c]) for c in range(6)], axis=1) / counts[:, None]
    faces = merged[mesh.faces]
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]
    ordered = np.sort(faces, axis=1)
    total = len(mean)
    _, distinct = np.unique((ordered[:, 0] * total + ordered[:, 1]) * total + ordered[:, 2], return_index=True)
    used, corners = np.unique(faces[np.sort(distinct)], return_inverse=True)
    return FusedMesh(mean[used, :3], mean[used, 3:], corners.reshape(-1, 3))


def nearest_things(xyz: Array, source_xyz: Array, source_faces: IntArray, face_thing: IntArray) -> IntArray:
    """Return the thing of the face nearest to each vertex, -1 if none is close, shape `(vertices,)`."""
    core = import_open3d().core
    scene = build_scene(source_xyz, source_faces)
    answer = scene.compute_closest_points(core.Tensor(xyz.astype(np.float32)))
    distance = np.linalg.norm(answer["points"].numpy() - xyz, axis=1)
    face = answer["primitive_ids"].numpy().astype(np.int64)
    return np.where(distance < CLOSE, face_thing[face], -1)
