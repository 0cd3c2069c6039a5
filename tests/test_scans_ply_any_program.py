"""PLY as other programs write it."""

from pathlib import Path

import numpy as np
import pytest

from lg3d_core.errors import DataError
from lg3d_core.scans.ply import open_ply
from tests.scan_files import points_ply, polygons_ply

XYZ = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0.5, 0.5, 1]], dtype=float)
RGB = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9], [1, 2, 3]], dtype=np.uint8)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["f", "d"])
def test_points_with_colours_come_as_they_were_written(tmp_path: Path, order: str, kind: str) -> None:
    surface = open_ply(points_ply(tmp_path / "ä b.ply", XYZ, RGB, order=order, kind=kind))
    assert surface.num_vertices == 5
    np.testing.assert_array_equal(surface.positions(1, 4), XYZ[1:4])
    assert surface.colors is not None
    np.testing.assert_array_equal(surface.colors(3, 5), RGB[3:])
    assert len(surface.faces) == 0
    assert surface.is_double == (kind == "d")


def test_a_file_without_colours_says_so(tmp_path: Path) -> None:
    assert open_ply(points_ply(tmp_path / "a.ply", XYZ)).colors is None


@pytest.mark.parametrize("ascii", [False, True])
@pytest.mark.parametrize(
    ("polygons", "triangles"),
    [
        ([[0, 1, 2], [0, 2, 3]], {(0, 1, 2), (0, 2, 3)}),
        ([[0, 1, 2, 3], [3, 2, 1, 0]], {(0, 1, 2), (0, 2, 3), (3, 2, 1), (3, 1, 0)}),
        ([[0, 1, 4], [0, 1, 2, 3], [0, 1]], {(0, 1, 4), (0, 1, 2), (0, 2, 3)}),
        ([], set()),
    ],
    ids=["triangles", "quads", "mixed", "none"],
)
def test_polygons_become_fans_of_triangles(
    tmp_path: Path, ascii: bool, polygons: list[list[int]], triangles: set[tuple[int, ...]]
) -> None:
    surface = open_ply(polygons_ply(tmp_path / "a.ply", XYZ, polygons, ascii=ascii))
    assert {tuple(face) for face in surface.faces.tolist()} == triangles
    np.testing.assert_array_equal(surface.positions(0, 5), XYZ)


def test_ascii_colours_are_read_as_bytes_or_shares(tmp_path: Path) -> None:
    for kind, line in (("uchar", "0 0 0 255 128 0"), ("float", "0 0 0 1.0 0.5 0")):
        path = tmp_path / f"{kind}.ply"
        properties = "".join(f"property float {axis}\n" for axis in "xyz")
        properties += "".join(f"property {kind} {channel}\n" for channel in ("red", "green", "blue"))
        path.write_text(f"ply\nformat ascii 1.0\nelement vertex 1\n{properties}end_header\n{line}\n")
        surface = open_ply(path)
        assert surface.colors is not None
        assert surface.colors(0, 1).tolist() == [[255, 128, 0]]


def test_not_a_number_is_kept_for_the_caller(tmp_path: Path) -> None:
    surface = open_ply(points_ply(tmp_path / "a.ply", np.array([[0, np.nan, 1], [1, 2, 3]])))
    assert np.isnan(surface.positions(0, 2)[0, 1])


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda data: data[:-5], "truncated"),
        (lambda data: data[:20], "end_header"),
        (lambda data: data[:0], "begins with 'ply'"),
        (lambda data: data.replace(b"vertex 5", b"vertex 1000000000000"), "truncated"),
        (lambda data: data.replace(b"float x", b"float u"), "found no x"),
        (lambda data: data.replace(b"element vertex", b"element vertox"), "no element vertex"),
        (
            lambda data: data.replace(b"format binary_little_endian", b"format binary_middle_endian"),
            "invalid header line",
        ),
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(tmp_path: Path, damage, expected: str) -> None:  # type: ignore[no-untyped-def]
    path = points_ply(tmp_path / "bad one.ply", XYZ, RGB)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=expected) as caught:
        open_ply(path)
    assert "bad one.ply" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_faces_are_refused(tmp_path: Path) -> None:
    whole = polygons_ply(tmp_path / "a.ply", XYZ, [[0, 1, 2], [0, 1, 2, 3]])
    data = whole.read_bytes()
    whole.write_bytes(data[:-4])
    with pytest.raises(DataError, match="truncated or damaged in face 1 of 2"):
        open_ply(whole)
    with pytest.raises(DataError, match="use vertices 0 to 9, the file has 5"):
        open_ply(polygons_ply(tmp_path / "b.ply", XYZ, [[0, 1, 9]]))
    text = polygons_ply(tmp_path / "c.ply", XYZ, [[0, 1, 2]], ascii=True)
    content = text.read_text()
    text.write_text(content[:-6])
    with pytest.raises(DataError, match="truncated"):
        open_ply(text)
    text.write_text(content.replace("1.0 0.0 0.0", "1.0 zero 0.0"))
    with pytest.raises(DataError, match="text that is not a number"):
        open_ply(text)


@pytest.mark.parametrize("corner", ["1e50", "nan", "1.5"])
def test_faces_of_an_ascii_file_name_whole_vertices(tmp_path: Path, corner: str) -> None:
    path = tmp_path / "a.ply"
    lines = ["ply", "format ascii 1.0", "element vertex 3", "property float x", "property float y", "property float z"]
    lines += ["element face 1", "property list uchar int vertex_indices", "end_header"]
    path.write_text("\n".join([*lines, "0 0 0", "1 0 0", "0 1 0", f"3 0 {corner} 2"]))
    with pytest.raises(DataError, match="expected integers as corners of faces"):
        open_ply(path)


def test_an_element_without_properties_takes_no_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    lines = ["ply", "format binary_little_endian 1.0", "element nothing 7", "element vertex 1"]
    lines += [*(f"property float {axis}" for axis in "xyz"), "element face 9", "end_header", ""]
    path.write_bytes("\n".join(lines).encode() + np.array([1, 2, 3], dtype="<f4").tobytes())
    assert open_ply(path).num_vertices == 1


def test_elements_behind_and_before_the_vertices_are_stepped_over(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    head = (
        "ply\nformat binary_little_endian 1.0\nelement camera 2\nproperty uchar id\n"
        "element vertex 5\nproperty float x\nproperty float y\nproperty float z\n"
        "element edge 1\nproperty list uchar int ends\nend_header\n"
    )
    path.write_bytes(head.encode() + b"\x01\x02" + XYZ.astype("<f4").tobytes() + b"\x01\x00\x00\x00\x00")
    np.testing.assert_array_equal(open_ply(path).positions(0, 5), XYZ)


def write_text(path: Path, lines: list[str], *, end: str = "\n") -> Path:
    path.write_bytes(end.join([*lines, ""]).encode())
    return path


POSITIONS = ["property float x", "property float y", "property float z"]
HEAD = ["ply", "format ascii 1.0", "element vertex 4", *POSITIONS]
CORNERS = ["0 0 0", "1 0 0", "0 1 0", "1 1 0"]


def test_strips_become_triangles_of_alternating_corners(tmp_path: Path) -> None:
    lines = [*HEAD, "element tristrips 1", "property list int int vertex_indices", "end_header", *CORNERS]
    surface = open_ply(write_text(tmp_path / "a.ply", [*lines, "9 0 1 2 3 -1 1 2 3 -1"]))
    assert surface.faces.tolist() == [[0, 1, 2], [2, 1, 3], [1, 2, 3]]


def test_colours_of_faces_are_averaged_at_their_vertices(tmp_path: Path) -> None:
    face = ["element face 2", "property list uchar int vertex_indices", *(f"property uchar {c}" for c in ("red",))]
    face += ["property uchar green", "property uchar blue", "end_header"]
    lines = [*HEAD, *face, *CORNERS, "3 0 1 2 200 100 0", "3 1 2 0 100 0 51"]
    surface = open_ply(write_text(tmp_path / "a.ply", lines))
    assert surface.colors is not None
    assert surface.colors(0, 4).tolist() == [[150, 50, 26]] * 3 + [[128, 128, 128]]
    assert any("mean of its faces" in doubt for doubt in surface.doubts)
    assert any("1 of 4 vertices belong to no face" in doubt for doubt in surface.doubts)


def test_colours_of_splats_come_from_their_first_harmonics(tmp_path: Path) -> None:
    lines = [*HEAD, *(f"property float f_dc_{k}" for k in range(3)), "end_header"]
    surface = open_ply(write_text(tmp_path / "a.ply", [*lines, *(f"{xyz} 1.7724538509 0 -3" for xyz in CORNERS)]))
    assert surface.colors is not None
    assert surface.colors(0, 1).tolist() == [[255, 128, 0]]
    assert any("Gaussian splats" in doubt for doubt in surface.doubts)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("first", ["ply", "ply ", "PLY\t"])
def test_header_lines_end_as_programs_end_them(tmp_path: Path, end: str, first: str) -> None:
    path = tmp_path / "a.ply"
    lines = [first, "comment first", "format binary_little_endian 1.0", "obj_info a", "element vertex 5", "comment b"]
    path.write_bytes(end.join([*lines, *POSITIONS, "end_header", ""]).encode() + XYZ.astype("<f4").tobytes())
    np.testing.assert_array_equal(open_ply(path).positions(0, 5), XYZ)


def test_a_text_with_more_numbers_than_declared_is_refused(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.ply", [*HEAD, "end_header", *(f"{xyz} 7" for xyz in CORNERS)])
    with pytest.raises(DataError, match="longer than its header says"):
        open_ply(path)


def test_bytes_behind_the_last_element_are_reported(tmp_path: Path) -> None:
    path = points_ply(tmp_path / "a.ply", XYZ, RGB)
    path.write_bytes(path.read_bytes() + b"\r\n")
    assert open_ply(path).doubts == ()
    path.write_bytes(path.read_bytes() + bytes(30))
    assert "32 bytes after the last element" in open_ply(path).doubts[0]


def test_colours_in_a_picture_are_missed_in_a_warning(tmp_path: Path) -> None:
    surface = open_ply(
        write_text(tmp_path / "a.ply", ["ply", "comment TextureFile a b.png", *HEAD[1:], "end_header", *CORNERS])
    )
    assert surface.colors is None
    assert any("picture a b.png" in doubt for doubt in surface.doubts)


def test_compressed_splats_are_refused_by_name(tmp_path: Path) -> None:
    lines = [
        "ply",
        "format binary_little_endian 1.0",
        "element vertex 1",
        "property uint packed_position",
        "end_header",
    ]
    with pytest.raises(DataError, match="compressed Gaussian splats"):
        open_ply(write_text(tmp_path / "a.ply", lines))


def test_digits_of_a_text_far_out_are_kept(tmp_path: Path) -> None:
    rows = ["500000.125 5200000.25 3", "500001 5200000 3", "500000 5200001 3", "500000 5200000 4"]
    surface = open_ply(write_text(tmp_path / "a.ply", [*HEAD, "end_header", *rows]))
    assert surface.positions(0, 1).tolist() == [[500000.125, 5200000.25, 3]]
    assert surface.is_double
    assert not open_ply(write_text(tmp_path / "b.ply", [*HEAD, "end_header", *CORNERS])).is_double
