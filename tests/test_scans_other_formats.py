"""PCD, OBJ and GLB."""

import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from lg3d_core.errors import DataError
from lg3d_core.scans.open_scan import OPENERS, open_scan
from lg3d_core.scans.pcd import unpack_lzf

XYZ = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=float)
RGB = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 20, 30]], dtype=np.uint8)
HEAD = (
    "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F U\nCOUNT 1 1 1 1\n"
    "WIDTH 4\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 4\n"
)
PACKED = (RGB.astype(np.uint32) << [16, 8, 0]).sum(axis=1).astype("<u4")


def write_pcd(path: Path, kind: str) -> Path:
    if kind == "ascii":
        body = "".join(f"{x} {y} {z} {c}\n" for (x, y, z), c in zip(XYZ, PACKED, strict=True)).encode()
    elif kind == "binary":
        body = b"".join(struct.pack("<3fI", *row, int(c)) for row, c in zip(XYZ, PACKED, strict=True))
    else:
        plain = XYZ.T.astype("<f4").tobytes() + PACKED.tobytes()
        literal = b"".join(bytes([len(plain[k : k + 32]) - 1]) + plain[k : k + 32] for k in range(0, len(plain), 32))
        body = struct.pack("<2I", len(literal), len(plain)) + literal
    path.write_bytes(HEAD.encode() + f"DATA {kind}\n".encode() + body)
    return path


@pytest.mark.parametrize("kind", ["ascii", "binary", "binary_compressed"])
def test_pcd_gives_points_and_colours(tmp_path: Path, kind: str) -> None:
    surface = open_scan(write_pcd(tmp_path / "a.pcd", kind))
    np.testing.assert_array_equal(surface.positions(0, 4), XYZ)
    assert surface.colors is not None
    np.testing.assert_array_equal(surface.colors(0, 4), RGB)
    assert surface.scale is None


@pytest.mark.parametrize("kind", ["ascii", "binary", "binary_compressed"])
def test_a_truncated_pcd_is_refused(tmp_path: Path, kind: str) -> None:
    path = write_pcd(tmp_path / "a.pcd", kind)
    path.write_bytes(path.read_bytes()[:-14])
    with pytest.raises(DataError, match=r"a\.pcd: .*truncated"):
        open_scan(path)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("FIELDS x y z rgb", "FIELDS x y w rgb", "found no z"),
        ("SIZE 4 4 4 4", "SIZE 4 4 4", "are inconsistent"),
        ("POINTS 4", "POINTS -1", "are inconsistent"),
        ("VERSION 0.7", "NONSENSE 0.7", "invalid header line"),
        ("DATA binary", "DATA zipped", "expected ascii, binary or binary_compressed"),
        ("DATA binary\n", "", "invalid header line|line DATA"),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(tmp_path: Path, old: str, new: str, expected: str) -> None:
    path = write_pcd(tmp_path / "a.pcd", "binary")
    path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()).replace(b"\0", b"\1"))
    with pytest.raises(DataError, match=expected):
        open_scan(path)


def test_lzf_copies_may_reach_into_themselves(tmp_path: Path) -> None:
    # "a", then a copy of 5 bytes (3 + 2) from 1 byte back, then a long copy (7 + 4 + 2 = 13) from 1 byte back
    packed = bytes([0, ord("a"), 3 << 5, 0, 7 << 5, 4, 0])
    assert unpack_lzf(packed, 19, tmp_path) == b"a" * 19
    for wrong in (packed[:-1], bytes([1 << 5, 9]), packed + b"\0b"):
        with pytest.raises(DataError, match=r"damaged|expected 19 bytes"):
            unpack_lzf(wrong, 19, tmp_path)


def test_obj_with_colours_behind_its_positions_keeps_its_order(tmp_path: Path) -> None:
    lines = [f"v {x} {y} {z} {r / 255} {g / 255} {b / 255}" for (x, y, z), (r, g, b) in zip(XYZ, RGB, strict=True)]
    path = tmp_path / "ein Raum.obj"
    path.write_text("\n".join([*lines, "f 1 2 3", "f 1 3 4"]) + "\n")
    surface = open_scan(path)
    np.testing.assert_allclose(surface.positions(0, 4), XYZ)
    assert surface.colors is not None
    np.testing.assert_array_equal(surface.colors(0, 4), RGB)
    assert surface.faces.tolist() == [[0, 1, 2], [0, 2, 3]]


def write_textured_obj(folder: Path) -> Path:
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[:4, :4], pixels[:4, 4:], pixels[4:, :4], pixels[4:, 4:] = (255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9)
    Image.fromarray(pixels).save(folder / "paint.png")
    (folder / "paint.mtl").write_text("newmtl paint\nKd 1 1 1\nmap_Kd paint.png\n")
    corners = [(0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.1, 0.9)]  # v counts from the picture's lower edge
    lines = ["mtllib paint.mtl", *(f"v {x} {y} {z}" for x, y, z in XYZ), *(f"vt {u} {v}" for u, v in corners)]
    path = folder / "room.obj"
    path.write_text("\n".join([*lines, "usemtl paint", "f 1/1 2/2 3/3", "f 1/1 3/3 4/4"]) + "\n")
    return path


def test_textures_colour_the_vertices_of_obj_and_glb(tmp_path: Path) -> None:
    obj = write_textured_obj(tmp_path)
    trimesh.load_scene(obj, process=False).export(tmp_path / "room.glb")
    expected = {(0, 0): (0, 0, 255), (1, 0): (9, 9, 9), (1, 1): (0, 255, 0), (0, 1): (255, 0, 0)}
    for path in (obj, tmp_path / "room.glb"):
        surface = open_scan(path)
        assert surface.colors is not None
        count = surface.num_vertices
        for (x, y, _), color in zip(surface.positions(0, count), surface.colors(0, count), strict=True):
            assert tuple(color.tolist()) == expected[round(x), round(y)]
        assert surface.scale == (1.0 if path.suffix == ".glb" else None)


def test_parts_of_a_glb_lie_where_their_nodes_put_them(tmp_path: Path) -> None:
    part = trimesh.Trimesh(XYZ, [[0, 1, 2]], process=False)
    scene = trimesh.Scene()
    scene.add_geometry(part, node_name="a")
    scene.add_geometry(part, node_name="b", transform=trimesh.transformations.translation_matrix([5, 0, 0]))
    scene.export(tmp_path / "a.glb")
    surface = open_scan(tmp_path / "a.glb")
    count = surface.num_vertices
    assert surface.positions(0, count)[:, 0].max() == pytest.approx(6)
    assert surface.faces.tolist()[1] == [count // 2, count // 2 + 1, count // 2 + 2]
    assert surface.colors is None


@pytest.mark.parametrize(
    ("name", "data"), [("a.obj", b"hello\n"), ("a.obj", b""), ("a.glb", b""), ("a.glb", b"glTF1234")]
)
def test_what_is_no_model_is_refused(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=r"a\.(obj|glb): ") as caught:
        open_scan(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("face", ["f 1 2 2147483648", "f 1/1 2/2 3/00002147483648", "f 1 2 \\\n -2147483648"])
def test_a_face_far_beyond_the_file_takes_no_memory(tmp_path: Path, face: str) -> None:
    path = tmp_path / "a.obj"
    path.write_text(f"o part2147483648\nv 0 0 2147483648\nv 1 0 0\nv 0 1 0.2147483648\n{face}\n")
    with pytest.raises(DataError, match=r"a face refers to the missing (vertex|texture coordinate) 0*2147483648"):
        open_scan(path)


def test_other_suffixes_and_empty_scans_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.stl").write_bytes(b"solid")
    with pytest.raises(DataError, match="PLY, PCD, OBJ, GLB"):
        open_scan(tmp_path / "a.stl")
    with pytest.raises(DataError, match="no such file"):
        open_scan(tmp_path / "a.ply")
    (tmp_path / "b.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    )
    with pytest.raises(DataError, match="no vertices"):
        open_scan(tmp_path / "b.ply")


@pytest.mark.parametrize("suffix", sorted(OPENERS))
def test_an_empty_file_of_any_format_is_called_empty(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(b"")
    with pytest.raises(DataError, match="the file is empty: copy or export it again"):
        open_scan(tmp_path / f"a{suffix}")


def test_a_pcd_without_points_is_one_with_a_blank_rest(tmp_path: Path) -> None:
    head = "VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 0\nHEIGHT 1\nPOINTS 0\nDATA ascii\n"
    for rest in ("", "\n", " \n\n"):
        (tmp_path / "a.pcd").write_text(head + rest)
        with pytest.raises(DataError, match="the scan has no vertices"):
            open_scan(tmp_path / "a.pcd")


def test_a_folder_and_a_name_without_suffix_are_called_that(tmp_path: Path) -> None:
    (tmp_path / "scan").write_text("x")
    with pytest.raises(DataError, match=r"expected a scan in one of PLY, .*, found a name without suffix: convert or"):
        open_scan(tmp_path / "scan")
    with pytest.raises(DataError, match=r"expected a file in one of PLY, .*, found a folder: pass the scans in it$"):
        open_scan(tmp_path)
