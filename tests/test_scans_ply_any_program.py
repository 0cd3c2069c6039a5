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
        (lambda data: data.replace(b"format binary_little_endian", b"format binary_middle_endian"), "understood"),
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
    with pytest.raises(DataError, match="name vertices 0 to 9, the file has 5"):
        open_ply(polygons_ply(tmp_path / "b.ply", XYZ, [[0, 1, 9]]))
    text = polygons_ply(tmp_path / "c.ply", XYZ, [[0, 1, 2]], ascii=True)
    content = text.read_text()
    text.write_text(content[:-6])
    with pytest.raises(DataError, match="truncated"):
        open_ply(text)
    text.write_text(content.replace("1.0 0.0 0.0", "1.0 zero 0.0"))
    with pytest.raises(DataError, match="not all numbers"):
        open_ply(text)


@pytest.mark.parametrize("corner", ["1e50", "nan", "1.5"])
def test_faces_of_an_ascii_file_name_whole_vertices(tmp_path: Path, corner: str) -> None:
    path = tmp_path / "a.ply"
    lines = ["ply", "format ascii 1.0", "element vertex 3", "property float x", "property float y", "property float z"]
    lines += ["element face 1", "property list uchar int vertex_indices", "end_header"]
    path.write_text("\n".join([*lines, "0 0 0", "1 0 0", "0 1 0", f"3 0 {corner} 2"]))
    with pytest.raises(DataError, match="expected faces of whole numbers"):
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
