"""The PLY reader on files made by hand, byte by byte."""

import struct
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lg3d_core.errors import DataError, ShapeError
from lg3d_core.scans import Mesh, read_ply, write_ply
from lg3d_core.scans.files import MAX_FILE_BYTES, read_file
from lg3d_core.scans.ply import parse_ply
from tests import box_rooms

XYZ = [(0.0, 0.5, -1.0), (1.0, 0.0, 0.25), (0.0, 2.0, 0.0), (1.5, 1.5, 1.5)]
RGB = [(255, 0, 1), (2, 3, 4), (5, 6, 7), (8, 9, 10)]
FACES = [(0, 1, 2), (3, 2, 1)]
VERTEX = "property float x\nproperty float y\nproperty float z\n"
COLOR = "property uchar red\nproperty uchar green\nproperty uchar blue\nproperty uchar alpha\n"
FACE = "property list uchar int vertex_indices\n"


def header(
    *,
    form: str = "binary_little_endian",
    vertices: object = 4,
    faces: object = 2,
    vertex: str = VERTEX + COLOR,
    face: str = FACE,
) -> bytes:
    text = f"ply\nformat {form} 1.0\ncomment by hand\nelement vertex {vertices}\n{vertex}"
    return (text + f"element face {faces}\n{face}end_header\n").encode()


def body(order: str = "<", number: str = "f") -> bytes:
    rows = b"".join(struct.pack(f"{order}3{number}4B", *p, *c, 255) for p, c in zip(XYZ, RGB, strict=True))
    return rows + b"".join(struct.pack(f"{order}B3i", 3, *f) for f in FACES)


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "mesh.ply"
    path.write_bytes(data)
    return path


def assert_is_the_mesh(mesh: Mesh) -> None:
    assert mesh.xyz.tolist() == [list(p) for p in XYZ]
    assert mesh.rgb.tolist() == [list(c) for c in RGB]
    assert mesh.faces.tolist() == [list(f) for f in FACES]
    assert (mesh.xyz.dtype, mesh.rgb.dtype, mesh.faces.dtype) == (np.float32, np.uint8, np.int32)
    assert all(array.flags.c_contiguous and array.flags.writeable for array in (mesh.xyz, mesh.rgb))


def test_scannets_form_is_read_to_the_last_bit(tmp_path: Path) -> None:
    assert_is_the_mesh(read_ply(write(tmp_path, header() + body())))


def test_big_endian_and_double_precision_are_read_too(tmp_path: Path) -> None:
    assert_is_the_mesh(read_ply(write(tmp_path, header(form="binary_big_endian") + body(">"))))
    double = VERTEX.replace("float", "double") + COLOR
    assert_is_the_mesh(read_ply(write(tmp_path, header(vertex=double) + body(number="d"))))


def test_ascii_is_read_too(tmp_path: Path) -> None:
    rows = [(*p, *c, 255) for p, c in zip(XYZ, RGB, strict=True)] + [(3, *f) for f in FACES]
    text = "\n".join(" ".join(map(str, row)) for row in rows)
    assert_is_the_mesh(read_ply(write(tmp_path, header(form="ascii") + text.encode())))


def test_a_header_with_windows_line_ends_is_read(tmp_path: Path) -> None:
    assert_is_the_mesh(read_ply(write(tmp_path, header().replace(b"\n", b"\r\n") + body())))


def test_further_properties_and_elements_are_passed_over(tmp_path: Path) -> None:
    vertex = "property float confidence\n" + VERTEX + "property float nx\n" + COLOR
    rows = b"".join(struct.pack("<5f4B", 9, *p, 7, *c, 255) for p, c in zip(XYZ, RGB, strict=True))
    rows += b"".join(struct.pack("<B3ih", 3, *f, -1) for f in FACES) + struct.pack("<2i", 0, 1)
    face = FACE + "property short material\nelement edge 1\nproperty int a\nproperty int b\n"
    assert_is_the_mesh(read_ply(write(tmp_path, header(vertex=vertex, face=face) + rows)))


def test_a_mesh_without_faces_has_none(tmp_path: Path) -> None:
    text = f"ply\nformat binary_little_endian 1.0\nelement vertex 4\n{VERTEX}{COLOR}end_header\n"
    mesh = read_ply(write(tmp_path, text.encode() + body()[: 4 * 16]))
    assert mesh.faces.shape == (0, 3)
    empty = read_ply(write(tmp_path, header(vertices=0, faces=0)))
    assert (empty.xyz.shape, empty.faces.shape) == ((0, 3), (0, 3))


def test_not_finite_coordinates_are_the_callers_business(tmp_path: Path) -> None:
    row = struct.pack("<3d3B", float("nan"), 1e300, 0, 1, 2, 3)
    vertex = VERTEX.replace("float", "double") + COLOR.replace("property uchar alpha\n", "")
    mesh = read_ply(write(tmp_path, header(vertices=1, faces=0, vertex=vertex) + row))
    assert np.isnan(mesh.xyz[0, 0])
    assert np.isinf(mesh.xyz[0, 1])


def test_writing_makes_the_same_bytes_as_a_writer_that_packs_by_hand(tmp_path: Path) -> None:
    mesh = Mesh(np.array(XYZ, np.float32), np.array(RGB, np.uint8), np.array(FACES, np.int32))
    box_rooms.write_binary_ply(tmp_path / "slow.ply", mesh.xyz, mesh.rgb, mesh.faces)
    write_ply(tmp_path / "fast.ply", mesh)
    assert (tmp_path / "fast.ply").read_bytes() == (tmp_path / "slow.ply").read_bytes()
    assert_is_the_mesh(read_ply(tmp_path / "fast.ply"))


def test_arrays_that_make_no_mesh_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=r"\(4, 2\)"):
        write_ply(tmp_path / "m.ply", Mesh(np.zeros((4, 2), "f4"), np.zeros((4, 3), "u1"), np.zeros((0, 3), "i4")))
    assert not (tmp_path / "m.ply").exists()


BAD = {
    "empty": (b"", "begins with 'ply', found"),
    "garbage": (b"\x89PNG\r\n" * 50, "begins with 'ply'"),
    "header only": (header(), r"truncated: 4 vertex rows and 2 face rows need 90 bytes after the header, found 0"),
    "header cut": (header()[:-5], "expected a line end_header"),
    "cut at the vertices' end": (header() + body()[:64], "need 90 bytes after the header, found 64"),
    "cut inside a vertex": (header() + body()[:50], "need 90 bytes after the header, found 50"),
    "cut inside a face": (header() + body()[:-1], "need 90 bytes after the header, found 89"),
    "trailing bytes": (header() + body() + b"x", "longer than its header says.*need 90 bytes.*found 91"),
    "a billion vertices": (header(vertices=10**9) + body(), "1000000000 vertex rows .*need 16000000026 bytes"),
    "more than any number": (header(vertices="9" * 30) + body(), "invalid header line"),
    "negative count": (header(vertices=-4) + body(), "invalid header line"),
    "arabic digits": (header(vertices="٤") + body(), "invalid header line"),
    "no format": (header().replace(b"format binary_little_endian 1.0\n", b"") + body(), "no format line"),
    "other version": (header().replace(b" 1.0", b" 2.0") + body(), "invalid header line"),
    "unknown type": (header(vertex=VERTEX.replace("float", "half") + COLOR), "invalid header line"),
    "property before element": (b"ply\nformat ascii 1.0\nproperty int x\nend_header\n", "invalid header line"),
    "element twice": (header(face=FACE + "element vertex 3\n") + body(), "element vertex twice"),
    "property twice": (header(vertex=VERTEX + "property float x\n" + COLOR) + body(), "property x of vertex twice"),
    "no vertices": (b"ply\nformat ascii 1.0\nend_header\n", "no element vertex"),
    "no colours": (header(vertex=VERTEX) + body(), "expected a vertex property red of type uchar, found none"),
    "no z": (header(vertex=VERTEX.replace("z", "w") + COLOR) + body(), "vertex property z of type float"),
    "float colours": (header(vertex=VERTEX + COLOR.replace("uchar", "float")), "red of type uchar, found one of anoth"),
    "vertices with a list": (header(vertex=VERTEX + COLOR + FACE) + body(), "element vertex has a list"),
    "faces without a list": (header(face="property int a\n") + body(), "one list vertex_indices"),
    "faces as floats": (header(face=FACE.replace("int", "float")) + body(), "one list vertex_indices"),
    "a square": (header() + body()[:-13] + struct.pack("<B4i", 4, 0, 1, 2, 3), "face 1 has 4 corners"),
    "corner beyond": (
        header() + body()[:-4] + struct.pack("<i", 4),
        r"corners \[3, 2, 4\], expected 0 to 3",
    ),
    "corner below": (header() + body()[:-4] + struct.pack("<i", -1), r"\[3, 2, -1\]"),
    "a long comment": (b"ply\ncomment " + b"x" * 10**6 + header()[4:] + body(), "within the first 65536 bytes"),
    "ascii words": (header(form="ascii") + b"one " * 50, "text that is not a number"),
    "ascii too short": (
        header(form="ascii") + b"1 " * 28 + b"3 0 1 2 3 0 1",
        "need 36 numbers after the header, found 35",
    ),
    "ascii hopeless": (header(form="ascii", vertices=10**12) + b"1 " * 35, "truncated"),
    "ascii colour": (header(form="ascii", faces=0) + b"1 2 3 256 0 0 0 " * 4, "expected red as a whole number from 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_with_its_name_and_the_reason(tmp_path: Path, name: str) -> None:
    data, reason = BAD[name]
    with pytest.raises(DataError, match=r"mesh\.ply: .*" + reason):
        read_ply(write(tmp_path, data))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found nothing"):
        read_ply(tmp_path / "none.ply")
    with pytest.raises(DataError, match="found something else"):
        read_ply(tmp_path)


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.ply"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # sparse: takes no room
    with pytest.raises(DataError, match="expected at most 1073741824 bytes, found 1073741825"):
        read_file(path)


@given(st.integers(0, 400), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4))
@settings(max_examples=300, deadline=None)
def test_whatever_is_damaged_the_answer_is_a_mesh_or_a_data_error(cut: int, changes: list[tuple[int, int]]) -> None:
    data = bytearray(header() + body())
    for where, value in changes:
        data[where % len(data)] = value
    try:
        mesh = parse_ply(bytes(data[: len(data) - cut]), Path("mesh.ply"))
    except DataError:
        return
    assert mesh.xyz.shape == mesh.rgb.shape
    assert not len(mesh.faces) or 0 <= mesh.faces.min() <= mesh.faces.max() < len(mesh.xyz)


def test_a_mesh_of_250000_vertices_takes_milliseconds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    faces = rng.integers(0, 250_000, (480_000, 3), dtype=np.int32)
    write_ply(
        tmp_path / "big.ply",
        Mesh(rng.random((250_000, 3), dtype=np.float32), rng.integers(0, 255, (250_000, 3), dtype=np.uint8), faces),
    )
    read_ply(tmp_path / "big.ply")
    start = time.process_time()
    mesh = read_ply(tmp_path / "big.ply")
    assert time.process_time() - start < 0.2  # 0.02 s measured on a loaded machine
    assert (mesh.faces == faces).all()
