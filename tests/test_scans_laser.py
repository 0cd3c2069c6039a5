"""LAS, LAZ and E57."""

import sys
from pathlib import Path

import laspy
import numpy as np
import pye57
import pytest

from lg3d_core.errors import DataError, MissingDependencyError
from lg3d_core.scans.open_scan import open_scan

XYZ = np.random.default_rng(0).integers(-5000, 5000, size=(300, 3)) / 1024
RGB = np.random.default_rng(1).integers(0, 256, size=(300, 3), dtype=np.uint8)
SHIFT = np.array([500_000.0, 5_200_000, 300])


def write_las(path: Path, *, form: int = 7, factor: int = 257, shift: np.ndarray = SHIFT) -> Path:
    header = laspy.LasHeader(point_format=form, version="1.4")
    header.scales, header.offsets = [1 / 1024] * 3, shift
    las = laspy.LasData(header)
    las.x, las.y, las.z = (XYZ + shift).T
    if form in (2, 7):
        las.red, las.green, las.blue = (RGB.astype(np.uint16) * factor).T
    las.write(str(path))
    return path


@pytest.mark.parametrize("suffix", [".las", ".laz"])
@pytest.mark.parametrize("form", [2, 7])
@pytest.mark.parametrize("factor", [1, 256, 257])
def test_las_gives_scaled_positions_and_colours_of_any_range(
    tmp_path: Path, suffix: str, form: int, factor: int
) -> None:
    surface = open_scan(write_las(tmp_path / f"a{suffix}", form=form, factor=factor))
    np.testing.assert_allclose(surface.positions(0, 300), XYZ + SHIFT, atol=1e-6)
    np.testing.assert_array_equal(surface.positions(100, 110), surface.positions(0, 300)[100:110])
    assert surface.colors is not None
    np.testing.assert_array_equal(surface.colors(20, 300), RGB[20:])
    assert surface.is_double
    assert surface.doubts == ()


def test_las_without_colours_or_with_zeros_has_none(tmp_path: Path) -> None:
    assert open_scan(write_las(tmp_path / "a.las", form=6)).colors is None
    black = open_scan(write_las(tmp_path / "b.las", factor=0))
    assert black.colors is None
    assert black.doubts == ("all colours are 0",)


def read_whole(path: Path) -> None:
    surface = open_scan(path)
    surface.positions(0, surface.num_vertices)


@pytest.mark.parametrize("suffix", [".las", ".laz"])
def test_a_damaged_las_is_one_line_that_names_it(tmp_path: Path, suffix: str) -> None:
    path = write_las(tmp_path / f"bad one{suffix}")
    data = path.read_bytes()
    for content in (data[:200], data[: len(data) // 2], b"LASF" + data[4:100] + b"\xff" * 8 + data[108:], b"x" * 400):
        path.write_bytes(content)
        with pytest.raises(DataError, match="bad one"):
            read_whole(path)


def test_a_las_without_a_whole_header_is_said_to_be_too_short(tmp_path: Path) -> None:
    path = write_las(tmp_path / "a.las")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"has at least \d+ bytes, found b'LASF.*\(100 bytes\)"):
        open_scan(path)


def write_e57(path: Path, **fields: np.ndarray) -> None:
    file = pye57.E57(str(path), mode="w")
    half_turn = np.array([np.sqrt(0.5), 0, 0, np.sqrt(0.5)])  # a quarter turn about z: x to y
    file.write_scan_raw(fields, rotation=half_turn, translation=np.array([1.0, 2, 3]))
    file.close()


def test_e57_applies_the_pose_and_keeps_the_rows_of_invalid_points(tmp_path: Path) -> None:
    invalid = np.zeros(300, dtype=np.int8)
    invalid[7], invalid[9] = 2, 1  # neither is a position; 1: only the direction is known
    path = tmp_path / "a.e57"
    fields = {f"cartesian{axis}": np.ascontiguousarray(XYZ[:, k]) for k, axis in enumerate("XYZ")}
    fields |= {f"color{name}": np.ascontiguousarray(RGB[:, k]) for k, name in enumerate(("Red", "Green", "Blue"))}
    write_e57(path, **fields, cartesianInvalidState=invalid)
    surface = open_scan(path)
    turned = np.stack([-XYZ[:, 1], XYZ[:, 0], XYZ[:, 2]], axis=1) + np.array([1, 2, 3])
    got = surface.positions(0, 300)
    assert np.isnan(got[[7, 9]]).all()
    np.testing.assert_allclose(np.delete(got, [7, 9], axis=0), np.delete(turned, [7, 9], axis=0), atol=1e-9)
    assert surface.colors is not None
    np.testing.assert_array_equal(surface.colors(0, 300), RGB)


def test_a_damaged_e57_is_one_line_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "bad.e57"
    path.write_bytes(b"ASTM-E57" + bytes(2000))
    with pytest.raises(DataError, match=r"bad\.e57: cannot be read as E57"):
        open_scan(path)


@pytest.mark.parametrize(("package", "suffix"), [("laspy", ".las"), ("lazrs", ".laz"), ("pye57", ".e57")])
def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, suffix: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"x")
    extra = "e57" if suffix == ".e57" else "las"
    with pytest.raises(MissingDependencyError, match=rf"pip install 'lg3d\[{extra}\]'"):
        open_scan(path)
