"""OBJ and glTF: colours from vertices, pictures and materials, one for each vertex of the file."""

import json
import random
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lg3d_core.errors import DataError
from lg3d_core.scans.open_scan import open_scan
from lg3d_core.scans.surface import Surface
from tests import model_files

QUAD = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"
CORNERS = "vt 0.25 0.25\nvt 0.75 0.25\nvt 0.75 0.75\nvt 0.25 0.75\n"
FACES = "f 1/1 2/2 3/3\nf 1/1 3/3 4/4\n"
PIXELS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [9, 8, 7]]], dtype=np.uint8)
PAINTED = [[0, 0, 255], [9, 8, 7], [0, 255, 0], [255, 0, 0]]
"""Colours of the corners; v counts from the lower edge of a picture."""
GREY = [128, 128, 128]


def colors(surface: Surface) -> list[list[int]]:
    assert surface.colors is not None
    found: list[list[int]] = surface.colors(0, surface.num_vertices).tolist()
    return found


def write_obj(folder: Path, text: str, mtl: str | None = "newmtl m\nmap_Kd a.png\n") -> Path:
    if mtl is not None:
        (folder / "a.mtl").write_text(mtl)
    Image.fromarray(PIXELS).save(folder / "a.png")
    (folder / "a.obj").write_text(text)
    return folder / "a.obj"


@pytest.mark.parametrize("kind", ["obj", "glb"])
def test_scans_of_many_forms_get_the_colours_that_they_were_made_of(tmp_path: Path, kind: str) -> None:
    for seed in range(40):
        rng = random.Random(f"{kind} {seed}")
        folder = tmp_path / str(seed)
        folder.mkdir()
        mesh = model_files.random_mesh(rng)
        if kind == "obj":
            path, rgb = model_files.write_obj(rng, folder, mesh)
        else:
            path, _, rgb = model_files.write_glb(rng, folder, mesh)
        np.testing.assert_allclose(np.array(colors(open_scan(path)), dtype=int), rgb, atol=1, err_msg=str(path))


def test_a_vertex_without_a_face_leaves_the_picture_to_the_others_and_is_reported(tmp_path: Path) -> None:
    text = f"mtllib a.mtl\nv 9 9 9\n{QUAD}v 5 5 5\n{CORNERS}usemtl m\nf 2/1 3/2 4/3\nf 2/1 4/3 5/4\n"
    surface = open_scan(write_obj(tmp_path, text))
    assert colors(surface) == [GREY, *PAINTED, GREY]
    assert surface.doubts == ("2 of 6 vertices have no colour: grey is used",)


def test_a_vertex_on_a_seam_takes_the_colour_of_one_of_its_corners(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[250, 0, 0], [1, 2, 3], [0, 0, 250]]], dtype=np.uint8)).save(tmp_path / "s.png")
    left, right = "vt 0.1 0.5\n", "vt 0.9 0.5\n"
    text = f"mtllib a.mtl\n{QUAD}{left}{right}usemtl m\nf 1/1 2/1 3/1\nf 1/2 3/2 4/2\n"
    surface = open_scan(write_obj(tmp_path, text, "newmtl m\nmap_Kd s.png\n"))
    assert colors(surface) == [[250, 0, 0], [250, 0, 0], [250, 0, 0], [0, 0, 250]]


def test_vertices_that_several_materials_use_stay_one(tmp_path: Path) -> None:
    text = f"mtllib a.mtl\n{QUAD}usemtl red\nf 1 2 3\nusemtl blue\nf 1 3 4\n"
    surface = open_scan(write_obj(tmp_path, text, "newmtl red\nKd 1 0 0\nnewmtl blue\nKd 0 0 1\n"))
    assert colors(surface) == [[255, 0, 0], [255, 0, 0], [255, 0, 0], [0, 0, 255]]
    assert surface.paint is not None
    third = np.full((2, 3), 1 / 3, dtype=np.float32)
    assert surface.paint(np.array([0, 1]), third).tolist() == [[255, 0, 0], [0, 0, 255]]


def test_vertex_colours_win_over_pictures_unless_they_are_all_equal(tmp_path: Path) -> None:
    lines = QUAD.splitlines()
    own = [[255, 0, 255], [0, 0, 0], [51, 102, 153], [1, 2, 3]]
    words = [
        "\n".join(f"{v} {' '.join(map(str, c))}" for v, c in zip(lines, own, strict=True)),
        " 1 1 1\n".join(lines) + " 1 1 1",
    ]
    for text, expected in zip(words, (own, PAINTED), strict=True):
        surface = open_scan(write_obj(tmp_path, f"mtllib a.mtl\n{text}\n{CORNERS}usemtl m\n{FACES}"))
        assert colors(surface) == expected
        assert surface.doubts == ()


@pytest.mark.parametrize(
    "name",
    ["a.png", "A.PNG", '"a.png"', "C:\\Users\\me\\a.png", "/home/me/a.png", "../a.png", "-o 0 0 0 a.png",
     "-mm 0 1 -bm 0.3 a.png", "-clamp on a.png", "a.png # as scanned", "textures/a.png", "%61.png"],
)  # fmt: skip
def test_pictures_are_found_by_their_base_names(tmp_path: Path, name: str) -> None:
    text = f"mtllib C:\\x\\a.mtl\n{QUAD}{CORNERS}usemtl m\n{FACES}"
    surface = open_scan(write_obj(tmp_path, text, f"newmtl m\nKd 0 0 0\nmap_Kd {name}\n"))
    assert colors(surface) == PAINTED
    assert "a.mtl for C:\\x\\a.mtl" in surface.doubts[0]


def test_options_scale_and_move_a_picture(tmp_path: Path) -> None:
    half = CORNERS.replace("0.25", "0.5").replace("0.75", "1.5")
    text = f"mtllib a.mtl\n{QUAD}{half}usemtl m\n{FACES}"
    surface = open_scan(write_obj(tmp_path, text, "newmtl m\nmap_Kd -s 0.5 0.5 -o 1 -3 a.png\n"))
    assert colors(surface) == PAINTED


@pytest.mark.parametrize(
    ("mtl", "expected"),
    [
        (None, "the folder has no file a.mtl"),
        ("newmtl m\nmap_Kd gone.png\n", "the picture gone.png is missing"),
        ("newmtl m\nmap_Kd /x/gone.png\n", "the picture gone.png is missing"),
        ("newmtl m\nmap_Kd a.obj\n", "picture a.obj cannot be decoded"),
        ("newmtl m\nmap_Kd k.ktx2\n", "picture k.ktx2 has the format KTX2"),
        ("newmtl other\nKd 1 0 0\n", "no colour for the materials m"),
    ],
)
def test_what_is_missing_is_reported(tmp_path: Path, mtl: str | None, expected: str) -> None:
    (tmp_path / "k.ktx2").write_bytes(b"\xabKTX 20\xbb\r\n\x1a\n" + bytes(100))
    surface = open_scan(write_obj(tmp_path, f"mtllib a.mtl\n{QUAD}{CORNERS}usemtl m\n{FACES}", mtl))
    assert surface.colors is None
    assert expected in surface.doubts[0]


def test_a_part_without_its_picture_is_grey_and_the_others_are_not(tmp_path: Path) -> None:
    text = f"mtllib a.mtl\n{QUAD}v 9 9 9\n{CORNERS}usemtl m\n{FACES}usemtl n\nf 1/1 2/2 5/3\n"
    surface = open_scan(write_obj(tmp_path, text, "newmtl m\nmap_Kd a.png\nnewmtl n\nKd 1 0 0\nmap_Kd gone.png\n"))
    assert colors(surface) == [*PAINTED, GREY]
    assert len(surface.doubts) == 2


def test_obj_lines_that_are_no_numbers_are_quoted(tmp_path: Path) -> None:
    for line in ("v 1 2", "v 1 2 x", "v 0x1 2 3", "v 1_0 2 3", "vt a", "f 1 b 3", "f 1/2/3/ 1 1 x"):
        with pytest.raises(DataError, match=r"a\.obj: expected numbers after (v|vt|f), .*copy or export it again"):
            open_scan(write_obj(tmp_path, f"{QUAD}{line}\n"))


def test_indices_of_a_face_may_count_back_from_its_line(tmp_path: Path) -> None:
    surface = open_scan(write_obj(tmp_path, "v 0 0 0\nv 1 0 0\nv 1 1 0\nf -3 -2 -1\nv 0 1 0\nf -4 -2 -1\nf 1 2 3 4\n"))
    assert surface.faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 2], [0, 2, 3]]


def test_blocks_of_lines_give_what_the_whole_file_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(20):
        folder = tmp_path / str(seed)
        folder.mkdir()
        rng = random.Random(seed)
        path, _ = model_files.write_obj(rng, folder, model_files.random_mesh(rng))
        whole = open_scan(path)
        with monkeypatch.context() as patch:
            patch.setattr("lg3d_core.scans.obj.BLOCK_BYTES", 100)
            pieces = open_scan(path)
        assert colors(whole) == colors(pieces)
        np.testing.assert_array_equal(whole.faces, pieces.faces)
        count = whole.num_vertices
        np.testing.assert_array_equal(whole.positions(0, count), pieces.positions(0, count))


def test_twenty_thousand_materials_take_seconds_and_one_picture_is_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 20_000
    decoded = []
    plain = Image.open
    monkeypatch.setattr(Image, "open", lambda *words, **more: decoded.append(1) or plain(*words, **more))
    mtl = "".join(f"newmtl m{k}\nmap_Kd a.png\n" for k in range(count))
    faces = "".join(f"g g{k}\nusemtl m{k}\n{FACES}" for k in range(count))
    path = write_obj(tmp_path, f"mtllib a.mtl\n{QUAD}{CORNERS}{faces}", mtl)
    start = time.process_time()
    surface = open_scan(path)
    assert time.process_time() - start < 15  # measured: 3 s
    assert colors(surface) == PAINTED
    assert len(decoded) == 1


def test_pictures_beyond_the_limit_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"mtllib a.mtl\n{QUAD}{CORNERS}usemtl m\n{FACES}"
    monkeypatch.setattr("lg3d_core.scans.pictures.MAX_PICTURE_PIXELS", 3)
    assert "2 x 2 pixels, expected at most 3" in open_scan(write_obj(tmp_path, text)).doubts[0]
    monkeypatch.undo()
    monkeypatch.setattr("lg3d_core.scans.pictures.MAX_PIXELS", 3)
    assert "exceeds the limit of 3 pixels" in open_scan(tmp_path / "a.obj").doubts[0]


def test_dropped_pictures_are_decoded_again_when_triangles_are_painted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lg3d_core.scans.pictures.KEPT_PIXELS", 0)
    Image.fromarray(PIXELS[::-1]).save(tmp_path / "b.png")
    text = f"mtllib a.mtl\n{QUAD}{CORNERS}usemtl m\nf 1/1 2/2 3/3\nusemtl n\nf 1/1 3/3 4/4\n"
    surface = open_scan(write_obj(tmp_path, text, "newmtl m\nmap_Kd a.png\nnewmtl n\nmap_Kd b.png\n"))
    assert surface.paint is not None
    at_corner = np.array([[0, 0, 1], [0, 0, 1]], dtype=np.float32)
    assert surface.paint(np.array([1, 0]), at_corner).tolist() == [PIXELS[1, 0].tolist(), PIXELS[0, 1].tolist()]


# glTF.


def simple_glb(folder: Path, **changes: object) -> Path:
    """One triangle, with parts of its JSON replaced."""
    glb = model_files.Glb(random.Random(0))
    position = glb.accessor(np.eye(3, dtype="<f4"))
    glb.tree |= {"meshes": [{"primitives": [{"attributes": {"POSITION": position}}]}]} | changes
    glb.write(folder / "a.glb")
    return folder / "a.glb"


@pytest.mark.parametrize(
    ("extension", "name"),
    [
        ("KHR_draco_mesh_compression", "Draco"),
        ("EXT_meshopt_compression", "meshopt"),
        ("KHR_meshopt_compression", "meshopt"),
        ("VENDOR_voxels", "VENDOR_voxels"),
        ("EXT_mesh_gpu_instancing", "EXT_mesh_gpu_instancing"),
        ("KHR_texture_basisu", "KHR_texture_basisu"),
    ],
)
def test_required_extensions_that_are_not_supported_are_named(tmp_path: Path, extension: str, name: str) -> None:
    with pytest.raises(DataError, match=rf"a\.glb: .*{name}.* not supported: export it again") as caught:
        open_scan(simple_glb(tmp_path, extensionsRequired=[extension]))
    assert "damaged" not in str(caught.value)


def test_compression_that_is_only_used_is_named_where_positions_are_missing(tmp_path: Path) -> None:
    primitive = {"attributes": {"POSITION": 1}, "extensions": {"KHR_draco_mesh_compression": {"bufferView": 0}}}
    accessors = [{}, {"componentType": 5126, "count": 9, "type": "VEC3"}]
    with pytest.raises(DataError, match="compressed with Draco"):
        open_scan(simple_glb(tmp_path, meshes=[{"primitives": [primitive]}], accessors=accessors))


def test_extensions_of_the_looks_alone_are_read(tmp_path: Path) -> None:
    surface = open_scan(simple_glb(tmp_path, extensionsRequired=["KHR_materials_unlit", "KHR_texture_transform"]))
    assert surface.num_vertices == 3


def test_parts_that_share_positions_share_vertices_under_one_transformation(tmp_path: Path) -> None:
    primitive = {"attributes": {"POSITION": 0}}
    nodes = [{"mesh": 0}, {"mesh": 1}, {"mesh": 1, "translation": [5, 0, 0]}]
    path = simple_glb(
        tmp_path, meshes=[{"primitives": [primitive, primitive]}, {"primitives": [primitive]}], nodes=nodes
    )
    surface = open_scan(path)
    assert surface.num_vertices == 6
    assert surface.faces.tolist() == [[0, 1, 2]] * 3 + [[3, 4, 5]]


def test_meshes_outside_of_the_scene_are_reported(tmp_path: Path) -> None:
    mesh = {"primitives": [{"attributes": {"POSITION": 0}}]}
    path = simple_glb(tmp_path, meshes=[mesh, mesh], nodes=[{"mesh": 0}, {"mesh": 1}], scenes=[{"nodes": [1]}])
    assert open_scan(path).doubts == ("1 meshes are skipped: they are not part of the default scene",)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"nodes": [{"children": [0], "mesh": 0}], "scenes": [{"nodes": [0]}]}, "in the scene twice"),
        ({"nodes": [{"mesh": 0, "translation": [{}] * 3} for _ in range(9)]}, "expected 3 numbers"),
        ({"nodes": [{"mesh": 0} for _ in range(70_000)]}, "more than 65536 primitives"),
        ({"meshes": [{"primitives": [{"attributes": {"POSITION": 7}}]}]}, r"no accessors\[7\]"),
        ({"meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "mode": 9}]}]}, "unknown mode 9"),
        ({"meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 0}]}]}, "indices are not integers"),
        ({"accessors": [{"componentType": 5126, "count": 9**9, "type": "VEC3", "bufferView": 0}]}, "nodes instantiate"),
    ],
)
def test_a_glb_that_contradicts_itself_is_refused(tmp_path: Path, changes: dict[str, object], expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        open_scan(simple_glb(tmp_path, **changes))


def test_fans_and_strips_become_triangles(tmp_path: Path) -> None:
    glb = model_files.Glb(random.Random(0))
    position = glb.accessor(np.arange(15, dtype="<f4").reshape(5, 3))
    parts = [{"attributes": {"POSITION": position}, "mode": mode} for mode in (5, 6)]
    glb.tree["meshes"] = [{"primitives": parts}]
    glb.write(tmp_path / "a.glb")
    strip, fan = [[0, 1, 2], [2, 1, 3], [2, 3, 4]], [[0, 1, 2], [0, 2, 3], [0, 3, 4]]
    assert open_scan(tmp_path / "a.glb").faces.tolist() == strip + fan


def test_a_factor_multiplies_the_picture(tmp_path: Path) -> None:
    glb = model_files.Glb(random.Random(0))
    attributes = {"POSITION": glb.accessor(np.eye(3, dtype="<f4"))}
    attributes["TEXCOORD_0"] = glb.accessor(np.array([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75]], dtype="<f4"))
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    view = glb.view((tmp_path / "a.png").read_bytes())
    material = {"baseColorTexture": {"index": 0}, "baseColorFactor": [1, 0.2, 0.6, 1]}
    glb.tree |= {
        "images": [{"bufferView": view}], "textures": [{"source": 0}], "materials": [{"pbrMetallicRoughness": material}]
    }  # fmt: skip
    glb.tree["meshes"] = [{"primitives": [{"attributes": attributes, "material": 0}]}]
    glb.write(tmp_path / "a.glb")
    assert colors(open_scan(tmp_path / "a.glb")) == [[255, 0, 0], [0, 51, 0], [0, 0, 153]]


def test_gltf_takes_its_buffers_from_its_own_folder_alone(tmp_path: Path) -> None:
    folder = tmp_path / "scan"
    folder.mkdir()
    glb = model_files.Glb(random.Random(0))
    glb.tree["meshes"] = [{"primitives": [{"attributes": {"POSITION": glb.accessor(np.eye(3, dtype="<f4"))}}]}]
    glb.write(folder / "a.gltf")
    assert open_scan(folder / "a.gltf").num_vertices == 3
    (folder / "a.bin").rename(tmp_path / "a.bin")
    tree = json.loads((folder / "a.gltf").read_text())
    for uri in ("a.bin", "../a.bin", str(tmp_path / "a.bin")):
        tree["buffers"][0]["uri"] = uri
        (folder / "a.gltf").write_text(json.dumps(tree))
        with pytest.raises(DataError, match=r"the buffer .* is missing"):
            open_scan(folder / "a.gltf")


def test_positions_far_from_the_origin_keep_their_digits(tmp_path: Path) -> None:
    near, far = (open_scan(write_obj(tmp_path, QUAD.replace(" 1", f" {x}"))) for x in ("1.123456789", "500001.125"))
    assert (near.is_double, far.is_double) == (False, False)
    lines = "".join(f"v {500_000 + x} {4_000_000 + y} 0.25\n" for x, y in ((0.001, 0), (2, 0), (0, 3.002)))
    surface = open_scan(write_obj(tmp_path, lines))
    assert surface.is_double
    assert surface.positions(0, 1).tolist() == [[500_000.001, 4_000_000, 0.25]]
