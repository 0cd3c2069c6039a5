"""The simulated hand-held camera, the fusion of its frames and the floor plans that it scans."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lg3d_core.errors import SettingsError
from lg3d_core.progress import Progress
from lg3d_core.settings import RoomsSettings
from lg3d_core.synthetic import write_rooms
from lg3d_core.synthetic.camera.frames import _interpolate, _smear
from lg3d_core.synthetic.camera.fusion import FusedMesh, remove_small_components, simplify, sort_mesh
from lg3d_core.synthetic.camera.path import camera_matrix
from lg3d_core.synthetic.camera.profile import CameraProfile, draw_profile
from lg3d_core.synthetic.camera.raycasting import build_scene
from lg3d_core.synthetic.camera.scan import scan_with_camera
from lg3d_core.synthetic.camera.segmentation import segment_mesh, split_by_thing, vertex_normals
from lg3d_core.synthetic.floor_plan import THICKNESS, arrange
from lg3d_core.synthetic.kinds import KINDS, furnish
from lg3d_core.synthetic.layout import Room
from lg3d_core.synthetic.scanner import ScannedRoom, sample_surfaces, scan_room
from lg3d_core.synthetic.varied_rooms import COMPOSITIONS, HELD_OUT, ZONES, furnish_varied

pytest.importorskip("open3d")


def plane(columns: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """A grid of vertices 2 cm apart at z = 0, and its triangles, facing up."""
    x, y = np.meshgrid(np.arange(columns), np.arange(rows), indexing="ij")
    xyz = np.stack([x, y, np.zeros_like(x)], axis=-1).reshape(-1, 3) * 0.02
    index = np.arange(columns * rows).reshape(columns, rows)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    return xyz, faces


def test_a_floor_and_a_wall_are_two_segments_and_a_plane_is_one() -> None:
    floor, faces = plane(30, 20)
    wall = np.stack([np.full(len(floor), 0.0), floor[:, 1], floor[:, 0]], axis=1)  # stands on the floor's edge x = 0
    xyz, inverse = np.unique(np.concatenate([floor, wall]).round(6), axis=0, return_inverse=True)
    corners = inverse.reshape(-1)[np.concatenate([faces, faces[:, ::-1] + len(floor)])]
    segment = segment_mesh(xyz, corners)
    inner_floor = segment[xyz[:, 0] > 0.05]
    inner_wall = segment[xyz[:, 2] > 0.05]
    assert len(set(inner_floor.tolist())) == len(set(inner_wall.tolist())) == 1
    assert inner_floor[0] != inner_wall[0]
    assert len(set(segment_mesh(floor, faces).tolist())) == 1


def segment_edge_by_edge(xyz: np.ndarray, faces: np.ndarray, threshold: float, smallest: int) -> list[int]:
    """Felzenszwalb and Huttenlocher's algorithm without shortcuts."""
    normal = vertex_normals(xyz, faces)
    weights = {}
    for a, b in {(min(a, b), max(a, b)) for x, y, z in faces.tolist() for a, b in ((x, y), (y, z), (z, x))}:
        weight = 1 - (normal[a] * normal[b]).sum()
        weights[a, b] = weight**2 if (normal[b] * (xyz[b] - xyz[a])).sum() > 0 else weight
    edges = sorted(weights, key=lambda edge: (weights[edge], edge))
    segment, limit = list(range(len(xyz))), dict.fromkeys(range(len(xyz)), threshold)

    def join(a: int, b: int) -> int:
        segment[:] = [a if root == b else root for root in segment]
        return segment.count(a)

    for edge in edges:
        a, b = (segment[end] for end in edge)
        if a != b and weights[edge] <= min(limit[a], limit[b]):
            limit[a] = weights[edge] + threshold / join(a, b)
    for edge in edges:
        a, b = (segment[end] for end in edge)
        if a != b and min(segment.count(a), segment.count(b)) < smallest:
            join(a, b)
    return segment


@pytest.mark.parametrize("chunk", [7, 100, 10_000])
def test_segments_are_those_of_the_algorithm_edge_by_edge(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lg3d_core.synthetic.camera.segmentation.CHUNK", chunk)
    xyz, faces = plane(16, 12)
    xyz[:, 2] = 0.02 * np.abs(np.sin(40 * xyz[:, 0])) + np.random.default_rng(0).normal(0, 0.002, len(xyz))
    expected = segment_edge_by_edge(xyz, faces, 0.03, 6)
    assert 4 < len(set(expected)) < 40
    assert segment_mesh(xyz, faces, threshold=0.03, smallest=6).tolist() == expected


def test_segments_are_cut_between_things_and_tiny_pieces_join_the_rest() -> None:
    segment = np.zeros(30, dtype=np.int64)
    thing = np.array([4] * 15 + [7] * 12 + [9] * 3)
    cut, owner = split_by_thing(segment, thing)
    assert owner.tolist() == [4] * 15 + [7] * 12 + [4] * 3
    assert len(set(cut[:15].tolist())) == 1
    assert cut[0] == cut[-1] != cut[20]


def test_vertices_of_a_cell_become_their_mean_and_small_components_vanish() -> None:
    xyz, faces = plane(20, 20)
    merged = simplify(FusedMesh(xyz + 0.001, np.full_like(xyz, 0.5), faces), 0.04)
    assert len(merged.xyz) == 100  # cells of 2 x 2 vertices
    assert merged.xyz[:, :2].min() == pytest.approx(0.011)  # mean of 0.001 and 0.021
    far = FusedMesh(
        np.concatenate([xyz, xyz[:4] + 5.0]),
        np.zeros((len(xyz) + 4, 3)),
        np.concatenate([faces, [[400, 401, 402], [401, 403, 402]]]),
    )
    assert len(remove_small_components(far, 5).xyz) == 400
    assert len(remove_small_components(far, 4).xyz) == 404


def test_faces_that_share_only_a_vertex_are_two_components() -> None:
    xyz = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [-1, 0, 0], [-1, -1, 0]], dtype=float)
    faces = np.array([[0, 1, 2], [1, 3, 2], [0, 4, 5]])  # the last one touches vertex 0
    left = remove_small_components(FusedMesh(xyz, np.zeros_like(xyz), faces), 3)
    assert left.faces.tolist() == [[0, 1, 2], [1, 3, 2], [0, 4, 5]]  # vertex 0 counts for the last face
    left = remove_small_components(FusedMesh(xyz, np.zeros_like(xyz), faces), 4)
    assert left.faces.tolist() == []


def test_a_pixel_has_the_colour_between_the_corners_of_its_face() -> None:
    corner_rgb = np.array([[0, 0, 0, 1, 0, 0, 0, 1, 0], [0.2, 0.2, 0.2] * 3], dtype=np.float32)
    weights = np.array([[[0.25, 0.5], [0.1, 0.2]]], dtype=np.float32)
    rgb = _interpolate(corner_rgb, np.array([[0, 1]]), weights)
    assert rgb[:, 0, 0] == pytest.approx([0.25, 0.5, 0.0])
    assert rgb[:, 0, 1] == pytest.approx([0.2, 0.2, 0.2])


def test_blur_averages_rolled_images() -> None:
    rgb = np.random.default_rng(0).random((3, 6, 20))
    smeared = _smear(rgb, np.array([0.1, 0, 0]), 100.0, 0.5)  # 0.1 * 100 * 0.5 = 5 pixels: from -2 to 2
    moved = sum(np.roll(rgb, step, axis=2) for step in (-2, -1, 0, 1, 2)) / 5
    assert smeared == pytest.approx((2 * moved + np.roll(moved, 1, axis=1) + np.roll(moved, 1, axis=2)) / 4)


@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (2.1, -0.7, 0.2), (-1.0, 0.4, -0.1)])
def test_the_camera_looks_along_yaw_and_pitch(angles: tuple[float, float, float]) -> None:
    eye, (yaw, pitch, _) = np.array([1.0, 2.0, 1.5]), angles
    ahead = eye + 3.0 * np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
    matrix = camera_matrix(eye, np.array(angles))
    assert matrix @ [*ahead, 1.0] == pytest.approx([0, 0, 3, 1], abs=1e-9)
    assert np.linalg.det(matrix[:3, :3]) == pytest.approx(1.0)
    assert (matrix[:3, :3] @ [0, 0, 1.0])[1] < 0  # up in the world is up in the picture


@pytest.mark.parametrize("seed", range(6))
def test_zones_keep_a_walls_thickness_apart_and_are_open_on_both_sides(seed: int) -> None:
    zones = arrange([("a", 3.0, 4.0), ("b", 2.5, 2.0), ("c", 4.0, 2.2)], np.random.default_rng(seed))
    assert len(zones) == 3
    assert np.min([zone.low for zone in zones], axis=0) == pytest.approx([0, 0])
    for n, zone in enumerate(zones):
        x0, y0, x1, y1 = zone.rectangle
        for other in zones[n + 1 :]:
            a0, b0, a1, b1 = other.rectangle
            assert max(a0 - x1, x0 - a1, b0 - y1, y0 - b1) >= THICKNESS - 1e-9
    opened = [end - start for zone in zones for spans in zone.openings.values() for start, end in spans]
    assert len(opened) == 2 * sum(len(zone.bridges) for zone in zones)
    assert min(opened) >= 0.6


@pytest.mark.parametrize("seed", range(4))
def test_varied_rooms_repeat_and_stand_on_their_floor(seed: int) -> None:
    first, again = (furnish_varied(np.random.default_rng(seed), furniture=None, held_out=False) for _ in range(2))
    assert [thing.label for thing in first.room.things] == [thing.label for thing in again.room.things]
    assert all((a.origin == b.origin).all() for a, b in zip(first.room.things, again.room.things, strict=True))
    inside = first.room.contains(
        np.array([thing.origin[:2] for thing in first.room.things if thing.label == "chair"]).reshape(-1, 2)
    )
    assert inside.all()


def test_validation_has_compositions_that_training_never_has() -> None:
    train, held_out = ({name for _, name in names} for names in (COMPOSITIONS, HELD_OUT))
    assert not train & held_out
    assert {zone for name in train | held_out for zone in name.split(" + ")} <= set(ZONES)


def perfect(rng: np.random.Generator) -> CameraProfile:
    profile = draw_profile(rng, held_out=False)
    return replace(
        profile,
        frame_size=(96, 72),
        voxel_size=0.04,
        spacing=0.04,
        noise=0.0,
        warp=0.0,
        quantization=0.0,
        smoothing=1,
        drift=0.0,
        tilt=0.0,
        far=4.0,
        min_weight=1.5,
        smallest_component=30,
    )


def small_scan(seed: int) -> tuple[Room, ScannedRoom]:
    rng = np.random.default_rng(seed)
    room = furnish(KINDS["bathroom"], rng=rng, turn=0)
    return room, scan_with_camera(room, rng, held_out=False, profile=perfect(rng))


def test_a_camera_without_errors_sees_the_room_as_it_is_and_equal_seeds_repeat() -> None:
    room, scanned = small_scan(2)
    surfaces = sample_surfaces(room, 0.03)
    core = pytest.importorskip("open3d").core
    distance = build_scene(surfaces.xyz, surfaces.faces).compute_distance(core.Tensor(scanned.xyz)).numpy()
    assert np.percentile(distance, 95) < 0.03  # below a voxel of 4 cm
    assert (scanned.thing >= 0).mean() > 0.97
    labels = np.array([thing.label for thing in room.things])[scanned.thing]
    assert np.abs(scanned.xyz[labels == "floor"][:, 2]).max() < 0.1
    assert {"wall", "floor", "toilet"} <= set(labels.tolist())
    for part in np.unique(scanned.segment):
        assert len(set(scanned.thing[scanned.segment == part].tolist())) == 1
    _, again = small_scan(2)
    for mine, other in zip(scanned, again, strict=True):
        assert np.array_equal(mine, other)


def test_scanned_rooms_can_be_extended_and_list_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quick(room: Room, rng: np.random.Generator, *, held_out: bool) -> ScannedRoom:
        del held_out
        return scan_room(room, vertices=2_500, rng=rng)

    monkeypatch.setattr("lg3d_core.synthetic.camera.scan.scan_with_camera", quick)
    out = tmp_path / "raw"
    write_rooms(RoomsSettings(out=out, scenes=2, scanned=True, validation=0.5, jobs=1), Progress())
    before = {path: path.read_bytes() for path in (out / "scans").rglob("*") if path.is_file()}
    write_rooms(RoomsSettings(out=out, scenes=4, scanned=True, validation=0.5, jobs=1), Progress())
    assert {path: path.read_bytes() for path in before} == before
    assert (out / "scannetv2_train.txt").read_text().split() == ["scene9000_00", "scene9002_00"]
    assert (out / "scannetv2_val.txt").read_text().split() == ["scene9001_00", "scene9003_00"]
    with pytest.raises(SettingsError, match="other settings"):
        write_rooms(RoomsSettings(out=out, scenes=4, seed=1, scanned=True, validation=0.5, jobs=1), Progress())
    with pytest.raises(SettingsError, match="spacing"):
        RoomsSettings(out=out, scanned=True, spacing=0.02)


def test_meshes_of_other_orders_are_sorted_to_the_same_one() -> None:
    rng = np.random.default_rng(0)
    xyz, rgb = rng.random((30, 3)), rng.random((30, 3))
    faces = np.array([rng.choice(30, 3, replace=False) for _ in range(40)])
    order, rank = rng.permutation(30), np.empty(30, dtype=np.int64)
    rank[order] = np.arange(30)
    turned = np.array([np.roll(face, rng.integers(3)) for face in rank[faces][rng.permutation(40)]])
    one, other = sort_mesh(FusedMesh(xyz, rgb, faces)), sort_mesh(FusedMesh(xyz[order], rgb[order], turned))
    for mine, theirs in zip(one, other, strict=True):
        assert np.array_equal(mine, theirs)
    assert (np.diff(one.xyz[:, 0]) >= 0).all()
    same = {tuple(np.roll(face, -face.argmin())) for face in np.argsort(np.lexsort(xyz.T[::-1]))[faces]}
    assert {tuple(face) for face in one.faces} == same  # the orientation of every face is kept
