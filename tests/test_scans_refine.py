"""Meshes of few large triangles: vertices on them, colours from their texture, and labels for what was there before."""

from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from lg3d_core.inference.input import open_input
from lg3d_core.scans.frame import find_frame, plain_frame
from lg3d_core.scans.open_scan import open_scan
from lg3d_core.scans.refine import refine_surface
from lg3d_core.scans.surface import Surface, surface_in_memory
from lg3d_core.scans.triangles import areas, cut_triangles, longest_sides, scatter_on_triangles
from tests.notes import Notes

WALL = np.array([[0, 0, 0], [4, 0, 0], [4, 0, 3], [0, 0, 3]], dtype=np.float64)
TWO = np.array([[0, 1, 2], [0, 2, 3]])


def surface_of(xyz: np.ndarray, faces: np.ndarray, rgb: np.ndarray | None = None) -> Surface:
    return surface_in_memory(Path("wall.obj"), xyz, rgb, faces)


def test_cut_triangles_cover_the_same_surface_with_short_sides() -> None:
    cut = cut_triangles(WALL, TWO, np.ones(2, dtype=bool), edge=0.1)
    points = np.concatenate([WALL, cut.xyz])
    assert longest_sides(points, cut.faces).max() <= 0.1
    assert areas(points, cut.faces).sum() == pytest.approx(12)
    assert areas(points, cut.faces).min() > 0
    assert len(np.unique(points, axis=0)) == len(points)  # neighbours share what they are cut at
    corners = WALL[TWO[cut.face]]
    np.testing.assert_allclose(np.einsum("nk,nkc->nc", cut.weights, corners), cut.xyz, atol=1e-5)


def test_triangles_keep_the_side_that_they_face() -> None:
    cut = cut_triangles(WALL, TWO, np.ones(2, dtype=bool), edge=0.5)
    points = np.concatenate([WALL, cut.xyz])
    a, b, c = (points[cut.faces[:, k]] for k in range(3))
    assert (np.cross(b - a, c - a)[:, 1] < 0).all()


def test_a_wall_of_two_triangles_gets_a_vertex_in_nearly_every_voxel() -> None:
    refined = refine_surface(surface_of(WALL, TWO), plain_frame(), 0.05)
    assert refined is not None
    assert refined.longest == pytest.approx(5)  # its diagonal
    xyz = refined.surface.positions(0, refined.surface.num_vertices)
    np.testing.assert_array_equal(xyz[:4], WALL)
    inner = xyz[(xyz[:, 0] < 4) & (xyz[:, 2] < 3)]
    cells = np.unique(np.floor(inner[:, [0, 2]] / 0.05 + 1e-9), axis=0)
    assert len(cells) > 0.95 * 80 * 60
    assert len(xyz) < 4 * 80 * 60


def test_a_mesh_as_fine_as_its_voxels_stays_as_it_is() -> None:
    cut = cut_triangles(WALL, TWO, np.ones(2, dtype=bool), edge=0.1)
    fine = surface_of(np.concatenate([WALL, cut.xyz]), cut.faces)
    assert refine_surface(fine, plain_frame(), 0.05) is None
    assert refine_surface(surface_of(WALL, np.zeros((0, 3), dtype=int)), plain_frame(), 0.05) is None


def test_one_large_triangle_in_a_fine_mesh_is_a_hole_that_was_closed_and_stays() -> None:
    cut = cut_triangles(WALL, TWO, np.ones(2, dtype=bool), edge=0.1)
    xyz = np.concatenate([WALL, cut.xyz, [[0, 1, 0], [1, 1, 0], [0, 1, 1]]])
    faces = np.concatenate([cut.faces, [[len(xyz) - 3, len(xyz) - 2, len(xyz) - 1]]])
    assert refine_surface(surface_of(xyz, faces), plain_frame(), 0.05) is None


def test_corners_that_are_no_places_are_left_alone() -> None:
    xyz = np.concatenate([WALL, [[np.nan, 0, 0], [1e300, 0, 0]]])
    faces = np.concatenate([TWO, [[0, 1, 4], [0, 1, 5]]])
    frame = plain_frame()._replace(low=np.full(3, -10.0), high=np.full(3, 10.0))
    refined = refine_surface(surface_of(xyz, faces), frame, 0.1)
    assert refined is not None
    assert np.isfinite(refined.surface.positions(6, refined.surface.num_vertices)).all()
    assert [0, 1, 4] in refined.surface.faces.tolist()


def test_colours_run_from_corner_to_corner() -> None:
    rgb = np.array([[0, 0, 0], [200, 0, 0], [200, 0, 0], [0, 0, 0]], dtype=np.uint8)
    refined = refine_surface(surface_of(WALL, TWO, rgb), plain_frame(), 0.1)
    assert refined is not None
    surface = refined.surface
    assert surface.colors is not None
    xyz, colors = surface.positions(0, surface.num_vertices), surface.colors(0, surface.num_vertices)
    np.testing.assert_allclose(colors[:, 0], 50 * xyz[:, 0], atol=0.51)


def test_a_texture_colours_the_middle_of_a_wall(tmp_path: Path) -> None:
    """The picture is red to the left of the middle and blue to the right: no mixture of corners is."""
    picture = Image.new("RGB", (64, 64), (200, 0, 0))
    picture.paste((0, 0, 200), (32, 0, 64, 64))
    uv = WALL[:, [0, 2]] / [4, 3]
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=picture)
    visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    wall = trimesh.Trimesh(WALL, TWO, visual=visual, process=False)
    plain = trimesh.Trimesh(WALL + np.array([0, 3, 0]), TWO, vertex_colors=[[10, 20, 30, 255]] * 4, process=False)
    trimesh.Scene([wall, plain]).export(tmp_path / "wall.glb")
    surface = open_scan(tmp_path / "wall.glb")
    refined = refine_surface(surface, find_frame(surface), 0.1)
    assert refined is not None
    assert refined.surface.colors is not None
    count = refined.surface.num_vertices
    xyz, colors = refined.surface.positions(0, count), refined.surface.colors(0, count)
    textured = xyz[:, 1] < 1.5
    left, right = textured & (xyz[:, 0] < 1.9), textured & (xyz[:, 0] > 2.1) & (xyz[:, 0] < 3.99)
    assert (colors[left & (xyz[:, 0] > 0.01)][:, 0] > 150).all()
    assert (colors[right][:, 2] > 150).all()
    assert (colors[~textured] == [10, 20, 30]).all()


def test_huge_meshes_get_vertices_farther_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lg3d_core.scans.refine.MOST_VERTICES", 1000)
    refined = refine_surface(surface_of(WALL * 1000, TWO), plain_frame(), 0.02)
    assert refined is not None
    assert refined.surface.num_vertices < 2500
    assert refined.edge > 50
    sliver = np.array([[0, 0, 0], [1e6, 0, 0], [0, 1e-6, 0]])
    refined = refine_surface(surface_of(sliver, np.array([[0, 1, 2]])), plain_frame(), 0.02)
    assert refined is not None
    assert refined.surface.num_vertices < 4000
    assert refine_surface(surface_of(WALL * 1e300, TWO), plain_frame(), 0.02) is None


def test_points_are_scattered_evenly_over_triangles() -> None:
    points = scatter_on_triangles(WALL, TWO, 20_000)
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 2], bins=4, range=[[0, 4], [0, 3]])
    assert np.abs(counts / 1250 - 1).max() < 0.15
    assert len(scatter_on_triangles(WALL * 0, TWO, 10)) == 0


def box_room(up: int) -> tuple[np.ndarray, np.ndarray]:
    """Floor and walls of 5 x 4 x 2.5 m, a table and a bed of large triangles; `up` is the axis up."""
    boxes = [((5, 4, 2.5), (2.5, 2, 1.25)), ((1.2, 0.8, 0.7), (2, 2, 0.35)), ((2, 1.6, 0.5), (3.5, 1.5, 0.25))]
    meshes = [trimesh.creation.box(extents=size).apply_translation(at) for size, at in boxes]
    room = trimesh.util.concatenate(meshes)
    top = room.triangles_center[:, 2] > 2.49
    faces = np.asarray(room.faces)[~top]
    order = {2: [0, 1, 2], 1: [1, 2, 0], 0: [2, 0, 1]}[up]
    return np.asarray(room.vertices)[:, order], faces


@pytest.mark.parametrize("unit", [1, 1000])
@pytest.mark.parametrize("up", [1, 2])
def test_units_and_the_axis_up_are_found_on_large_triangles(unit: int, up: int) -> None:
    xyz, faces = box_room(up)
    frame = find_frame(surface_in_memory(Path("room.ply"), xyz * unit, None, faces))
    assert frame.scale * unit == pytest.approx(1)
    assert frame.up == "xyz"[up]


def test_it_is_told_and_predicted_labels_of_the_scans_own_vertices_come_first(tmp_path: Path) -> None:
    from lg3d_core.inference.input import refine_input

    xyz, faces = box_room(2)
    trimesh.Trimesh(xyz, faces, process=False).export(tmp_path / "my room é.ply")
    notes = Notes()
    scan = open_input(str(tmp_path / "my room é.ply"), tmp_path, scale="auto", up="auto", progress=notes)
    refined = refine_input(scan, 0.05, notes)
    assert refined.num_own == len(xyz)
    np.testing.assert_allclose(refined.surface.positions(0, len(xyz)), xyz, atol=1e-6)
    assert any("vertices on them, at most 7.5 cm apart" in note for note in notes.notes)
    assert any(f"the first {len(xyz)} rows of the output" in note for note in notes.notes)
    notes.warnings.clear()
    huge = scan._replace(frame=scan.frame._replace(scale=1000.0))
    refine_input(huge, 0.05, notes)
    assert any("check its units (--scale)" in warning for warning in notes.warnings)
