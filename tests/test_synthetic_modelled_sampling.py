"""Models as a scanner would see them: even spacing, colours, no insides; what they fill, and where things can stand."""

from pathlib import Path

import numpy as np
import pytest

from lg3d_core.errors import DataError
from lg3d_core.synthetic.modelled.library import read_library
from lg3d_core.synthetic.modelled.resample import SampledModel, sample_model
from lg3d_core.synthetic.modelled.solid import fill_boxes, find_tops
from tests.sh3f_files import box_obj, png, write_library

SPACING = 0.03


def sample(tmp_path: Path, obj: str, *, members: dict[str, str | bytes] | None = None, **values: str) -> SampledModel:
    path = write_library(
        tmp_path / "one.sh3f", [{"name": "Thing", **values}], members={"lib/1/box.obj": obj, **(members or {})}
    )
    return sample_model(path, read_library(path).entries[0], spacing=SPACING)


def test_a_box_has_the_catalogues_size_stands_on_the_ground_and_faces_outwards(tmp_path: Path) -> None:
    mesh = sample(tmp_path, box_obj()).mesh
    # width 50 cm, depth 40, height 60; vertices are means over cells, so corners come in by less than a cell
    np.testing.assert_allclose(mesh.xyz.min(axis=0), [-0.25, -0.2, 0.0], atol=0.011)
    np.testing.assert_allclose(mesh.xyz.max(axis=0), [0.25, 0.2, 0.6], atol=0.011)
    middle = mesh.xyz[mesh.faces].mean(axis=1) - (0, 0, 0.3)
    a, b, c = (mesh.xyz[mesh.faces[:, k]] for k in range(3))
    outwards = (np.cross(b - a, c - a) * middle).sum(axis=1) > 0
    assert outwards.mean() > 0.99
    assert (mesh.normal * (mesh.xyz - (0, 0, 0.3))).sum(axis=1).min() > 0
    assert (mesh.rgb == (255, 0, 0)).all()


def test_edges_are_about_as_long_as_asked_for_however_large_or_small_the_triangles_were(tmp_path: Path) -> None:
    lines = ["v 0 0 0", "v 10 0 0", "v 0 10 0"]  # one huge triangle, and ten thousand tiny ones behind it
    grid = np.stack(np.meshgrid(np.linspace(0, 10, 72), np.linspace(0, 10, 72), indexing="ij"), axis=-1).reshape(-1, 2)
    lines += [f"v {x} {y} -0.3" for x, y in grid] + ["f 1 2 3"]
    for i in range(71):
        for j in range(71):
            a = 4 + 72 * i + j
            lines += [f"f {a} {a + 72} {a + 73}", f"f {a} {a + 73} {a + 1}"]
    mesh = sample(tmp_path, "\n".join(lines), width="100", depth="20", height="100").mesh
    ends = mesh.xyz[np.roll(mesh.faces, 1, axis=1)] - mesh.xyz[mesh.faces]
    edges = np.linalg.norm(ends, axis=2)
    assert edges.max() < 2 * SPACING
    assert 0.6 * SPACING < np.median(edges) < 1.2 * SPACING


def test_a_mesh_has_no_gap_where_triangles_of_different_size_meet(tmp_path: Path) -> None:
    mesh = sample(tmp_path, box_obj()).mesh
    # sides keep vertices of their own along the box's edges, at equal places: join them, then every edge has two faces
    _, place = np.unique(np.round(mesh.xyz, 9), axis=0, return_inverse=True)
    faces = place[mesh.faces]
    pairs = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    _, count = np.unique(pairs, axis=0, return_counts=True)
    assert (count >= 2).mean() > 0.995  # where several triangles shrank to one, its edges have lost their others
    a, b, c = (mesh.xyz[mesh.faces[:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2
    assert area == pytest.approx(2 * (0.5 * 0.4 + 0.5 * 0.6 + 0.4 * 0.6), rel=0.05)


def test_what_lies_inside_is_left_out(tmp_path: Path) -> None:
    inner = box_obj((0.3, 0.3, 0.3), (0.7, 0.7, 0.7), material="none")
    shifted = "\n".join(
        "f " + " ".join(f"{int(word.split('/')[0]) + 8}" for word in line.split()[1:]) if line.startswith("f") else line
        for line in inner.splitlines()
    )
    both = sample(tmp_path, box_obj() + shifted)
    alone = sample(tmp_path, box_obj())
    assert len(both.mesh.xyz) == len(alone.mesh.xyz)


def test_textures_are_averaged_over_what_a_vertex_stands_for(tmp_path: Path) -> None:
    board = np.zeros((256, 256, 3))
    board[::2] = 255  # stripes far finer than the spacing
    board[:, :128, 2] = 0  # and yellow instead of white at the left
    mesh = sample(tmp_path, box_obj(material="picture"), members={"lib/1/picture.png": png(board)}).mesh
    front = mesh.normal[:, 1] < -0.9
    assert np.abs(mesh.rgb[front, 0] - 127.5).max() < 20
    blue = mesh.rgb[front, 2]
    assert blue.min() < 5
    assert blue.max() > 100


def test_a_texture_lies_the_right_way_up(tmp_path: Path) -> None:
    picture = np.zeros((64, 64, 3))
    picture[:32] = (0, 255, 0)  # green above, black below
    plate = "mtllib box.mtl\nusemtl picture\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
    mesh = sample(tmp_path, plate + "f 1/1 2/2 3/3 4/4\n", members={"lib/1/picture.png": png(picture)}).mesh
    upper, lower = mesh.xyz[:, 2] > 0.35, mesh.xyz[:, 2] < 0.25
    assert mesh.rgb[upper, 1].min() > 250
    assert mesh.rgb[lower, 1].max() < 5


@pytest.mark.parametrize("content", [None, b"no picture", png(np.zeros((4, 4, 3)))[:40]])
def test_without_a_readable_texture_a_surface_keeps_its_colour(content: bytes | None, tmp_path: Path) -> None:
    members: dict[str, str | bytes] = {} if content is None else {"lib/1/picture.png": content}
    mesh = sample(tmp_path, box_obj(material="picture"), members=members).mesh
    assert (mesh.rgb == 255).all()


def test_a_texture_outside_the_models_folder_is_not_read_but_one_of_that_name_beside_it_is(tmp_path: Path) -> None:
    materials = "newmtl picture\nmap_Kd ../../secret.png\n"
    members: dict[str, str | bytes] = {"lib/1/box.mtl": materials, "secret.png": png(np.full((4, 4, 3), 9))}
    assert (sample(tmp_path, box_obj(material="picture"), members=members).mesh.rgb == 200).all()
    members["lib/1/secret.png"] = png(np.full((4, 4, 3), 60))
    assert (sample(tmp_path, box_obj(material="picture"), members=members).mesh.rgb == 60).all()


def test_glass_and_the_holes_of_a_texture_are_left_out_but_a_thing_all_of_glass_stays(tmp_path: Path) -> None:
    glass = box_obj(material="glass")
    assert len(sample(tmp_path, glass).mesh.faces) > 100
    faces = [line for line in glass.splitlines() if line.startswith("f")]
    one_red = glass.replace(faces[-1], f"usemtl red\n{faces[-1]}")
    assert (sample(tmp_path, one_red).mesh.rgb == (255, 0, 0)).all()
    pixels = np.full((64, 64, 4), 255)
    pixels[:32, :, 3] = 0  # the upper half of every side is a hole
    holes: dict[str, str | bytes] = {"lib/1/picture.png": png(pixels)}
    mesh = sample(tmp_path, box_obj(material="picture"), members=holes).mesh
    whole = sample(tmp_path, box_obj()).mesh
    assert 0.35 < len(mesh.faces) / len(whole.faces) < 0.65


def test_the_axes_follow_the_catalogues_rotation(tmp_path: Path) -> None:
    flat = box_obj((0, 0, 0), (1, 1, 1)).replace("usemtl red", "usemtl red")
    lifted = flat + "v 0.5 0.5 4\nf 9 5 7\n"  # a spike towards +z, the front
    upright = sample(tmp_path, lifted)
    assert upright.mesh.xyz[:, 1].min() == pytest.approx(-0.2, abs=0.02)
    tip = upright.mesh.xyz[upright.mesh.xyz[:, 1].argmin()]
    assert tip[2] == pytest.approx(0.3, abs=0.03)  # half way up
    turned = sample(tmp_path, lifted, modelRotation="1 0 0 0 0 1 0 -1 0")  # z becomes up
    tip = turned.mesh.xyz[turned.mesh.xyz[:, 2].argmax()]
    assert tip[2] == pytest.approx(0.6, abs=0.02)


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        ("v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "on one line"),
        ("v 0 0 0\nv 1 0 0\nv 1 1 1\nf 1 1 2\nf 1 3 1\n", "no visible surface"),
    ],
)
def test_a_model_without_a_surface_is_malformed(obj: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        sample(tmp_path, obj)


def test_a_model_of_too_many_pieces_is_malformed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lg3d_core.synthetic.modelled.resample.MOST_PIECES", 100)
    with pytest.raises(DataError, match="more than 100 triangles"):
        sample(tmp_path, box_obj())


def table_points() -> np.ndarray:
    """A table of 1 m x 0.6 m with a plate at 0.70 to 0.74 m and four legs, as points 1 cm apart."""
    x, y = np.meshgrid(np.arange(-0.5, 0.505, 0.01), np.arange(-0.3, 0.305, 0.01), indexing="ij")
    plates = [np.stack([x.ravel(), y.ravel(), np.full(x.size, z)], axis=1) for z in (0.70, 0.74)]
    z = np.arange(0, 0.7, 0.01)
    legs = [
        np.stack([np.full(len(z), sx * 0.48), np.full(len(z), sy * 0.28), z], axis=1)
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]
    return np.concatenate([*plates, *legs])


def test_the_boxes_of_a_table_leave_the_space_below_it_free() -> None:
    points = table_points()
    low, high = fill_boxes(points)
    inside = ((points[:, None] >= low - 1e-6) & (points[:, None] <= high + 1e-6)).all(axis=2).any(axis=1)
    assert inside.all()
    knee, cup = np.array([0.1, 0.05, 0.4]), np.array([0.1, 0.05, 0.75])
    for free in (knee, cup):
        assert not ((free > low) & (free < high)).all(axis=1).any()
    assert high[:, 2].max() == pytest.approx(0.74)
    assert len(low) < 30


def test_a_tables_top_is_found_with_the_room_above_it() -> None:
    points = table_points()
    normal = np.zeros_like(points)
    normal[:, 2] = np.where(points[:, 2] > 0.72, 1.0, -1.0)
    (top,) = find_tops(points, normal)
    np.testing.assert_allclose(top[:4], [-0.5, -0.3, 0.5, 0.3], atol=0.045)
    assert top[4:].tolist() == pytest.approx([0.74, 1.0])


def test_the_boards_of_a_shelf_have_the_room_up_to_the_next_one() -> None:
    x, y = np.meshgrid(np.arange(0, 0.8, 0.02), np.arange(0, 0.3, 0.02), indexing="ij")
    boards = np.concatenate([np.stack([x.ravel(), y.ravel(), np.full(x.size, z)], axis=1) for z in (0.1, 0.4, 0.9)])
    tops = find_tops(boards, np.tile([0.0, 0.0, 1.0], (len(boards), 1)))
    found = sorted((round(float(top[4]), 3), round(float(top[5]), 3)) for top in tops)
    assert found == [(0.1, 0.3), (0.4, 0.5), (0.9, 1.0)]


def test_nothing_stands_on_a_slope_or_a_needle() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 1, size=(500, 3))
    assert len(find_tops(points, np.tile([0.6, 0.0, 0.8], (500, 1)))) == 0
    assert len(find_tops(points * 0.01, np.tile([0.0, 0.0, 1.0], (500, 1)))) == 0
