"""Libraries of modelled furniture: catalogues, names, OBJ and MTL text, and what is malformed in them."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from lg3d_core.errors import DataError
from lg3d_core.synthetic.modelled import library
from lg3d_core.synthetic.modelled.library import find_libraries, inside, parse_properties, read_library, read_member
from lg3d_core.synthetic.modelled.naming import category_of, read_names
from lg3d_core.synthetic.modelled.wavefront import Material, Triangles, parse_materials, parse_wavefront
from lg3d_core.vocabulary import load_vocabulary
from tests.sh3f_files import box_obj, write_library


def test_properties_have_comments_escapes_and_continued_lines() -> None:
    text = "# no\n! no\n\na=1\nb : two\\\n   words\nc\\:d=\\u20ac\\n\nempty=\ne f\n"
    assert parse_properties(text) == {"a": "1", "b": "twowords", "c:d": "€", "empty": "", "e": "f"}


@pytest.mark.parametrize(
    ("folder", "reference", "member"),
    [
        ("a/b", "x.png", "a/b/x.png"),
        ("a/b", "sub\\x.png", "a/b/sub/x.png"),
        ("a/b", "../b/x.png", "a/b/x.png"),
        ("a/b", "../x.png", None),
        ("a/b", "../bc/x.png", None),
        ("", "../x.png", None),
        ("", "x.obj", "x.obj"),
        ("a", "/etc/passwd", None),
        ("a", "C:/x.png", None),
        ("a", "x\0.png", None),
        ("a", "", None),
    ],
)
def test_a_reference_stays_in_its_folder(folder: str, reference: str, member: str | None) -> None:
    assert inside(folder, reference) == member


def test_a_library_lists_models_with_sizes_in_metres_and_licences(tmp_path: Path) -> None:
    path = write_library(
        tmp_path / "few.sh3f",
        [
            {"name": "Chair"},
            {"name": "Lamp", "elevation": "120", "license": "CC-BY", "modelRotation": "1 0 0 0 0 1 0 -1 0"},
        ],
    )
    few = read_library(path)
    chair, lamp = few.entries
    assert (chair.name, chair.section, chair.creator, chair.licence) == (
        "Chair",
        "Living room",
        "Somebody",
        "Public domain",
    )
    assert chair.size == pytest.approx((0.5, 0.4, 0.6))
    assert (lamp.licence, lamp.elevation) == ("CC-BY", pytest.approx(1.2))
    assert lamp.rotation == (1, 0, 0, 0, 0, 1, 0, -1, 0)
    assert (chair.key, few.name, few.problems, few.licence_text) == ("few-001", "few", (), "Do as you like.\n")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": "/../../etc/passwd"}, "not a plain path"),
        ({"model": "/lib/9/none.obj"}, "no member lib/9/none.obj"),
        ({"width": "wide"}, "width is 'wide', expected numbers"),
        ({"width": "1 2"}, "width is '1 2', expected a number"),
        ({"width": "0"}, "not between 0 and 100 m"),
        ({"width": "nan"}, "expected finite numbers"),
        ({"modelRotation": "1 0 0"}, "3 numbers, expected 9"),
    ],
)
def test_an_entry_that_cannot_be_used_is_named_and_left_out(
    values: dict[str, str], message: str, tmp_path: Path
) -> None:
    path = write_library(tmp_path / "a.sh3f", [{"name": "Broken", **values}, {"name": "Chair"}])
    found = read_library(path)
    assert [entry.name for entry in found.entries] == ["Chair"]
    assert len(found.problems) == 1
    assert found.problems[0].startswith("a.sh3f: model 1 (Broken): ")
    assert message in found.problems[0]


def test_a_number_of_thousands_of_digits_is_no_model(tmp_path: Path) -> None:
    path = write_library(tmp_path / "a.sh3f", [{"name": "Chair"}], header=f"name#{5000 * '9'}=Sofa\n")
    assert [entry.name for entry in read_library(path).entries] == ["Chair"]


def test_files_that_are_no_libraries_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \.sh3f library there"):
        find_libraries(tmp_path)
    (tmp_path / "a.sh3f").write_bytes(b"no zip")
    assert find_libraries(tmp_path) == find_libraries(tmp_path / "a.sh3f") == [tmp_path / "a.sh3f"]
    with pytest.raises(DataError, match="not a readable"):
        read_library(tmp_path / "a.sh3f")
    with zipfile.ZipFile(tmp_path / "b.sh3f", "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(DataError, match=r"no member PluginFurnitureCatalog\.properties"):
        read_library(tmp_path / "b.sh3f")


def test_a_member_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_library(tmp_path / "a.sh3f", [{"name": "Chair"}])
    monkeypatch.setattr(library, "LARGEST_MEMBER", 100)
    with zipfile.ZipFile(path) as archive, pytest.raises(DataError, match="expected at most 100"):
        read_member(archive, "lib/1/box.obj")


def parse(text: str) -> Triangles:
    return parse_wavefront(text, lambda _: {"red": Material((255.0, 0.0, 0.0))})


def test_a_box_becomes_twelve_triangles_that_face_outwards() -> None:
    box = parse(box_obj())
    assert box.xyz.shape == (12, 3, 3)
    assert [box.materials[row].rgb for row in set(box.material.tolist())] == [(255.0, 0.0, 0.0)]
    normal = np.cross(box.xyz[:, 1] - box.xyz[:, 0], box.xyz[:, 2] - box.xyz[:, 0])
    assert (((box.xyz.mean(axis=1) - 0.5) * normal).sum(axis=1) > 0).all()
    assert np.linalg.norm(normal, axis=1).sum() / 2 == pytest.approx(6.0)


def test_tabs_separate_words_too() -> None:
    tabs = parse("v\t0 0 0\n v\t1\t0\t0\nv 0 1 0\nmtllib\ta.mtl\nusemtl\tred\nf\t1\t2\t3\n")
    assert tabs.xyz.tolist() == [[[0, 0, 0], [1, 0, 0], [0, 1, 0]]]
    assert tabs.materials[tabs.material[0]].rgb == (255.0, 0.0, 0.0)
    assert parse_materials("newmtl\ta\n\tKd\t1 0 0\n") == {"a": Material((255.0, 0.0, 0.0))}


def test_negative_indices_count_back_and_weights_are_left_out() -> None:
    found = parse("v 0 0 0\nv 1 0 0 0.5 0.5 0.5\nv 0 1 0\nvt 0.25 0.75\nf -3/-1 -2/-1 -1/-1\n")
    assert found.xyz.tolist() == [[[0, 0, 0], [1, 0, 0], [0, 1, 0]]]
    assert found.uv[0].tolist() == [[0.25, 0.75]] * 3


@pytest.mark.parametrize(
    ("faces", "with_texture"),
    [
        ("f 1 2 3\nf 3 2 4\n", False),
        ("f 1//1 2//1 3//1\nf 3//1 2//1  4//1 \n", False),
        ("f 1/1 2/1 3/1\nf 3/1 2/1 4/1\n", True),
        ("f 1/1/1 2/1/1 3/1/1\nf 3/1/1 2/1/1 4/1/1\n", True),
        ("f 1/1/1 2/1/1 3/1/1\nf 3/1 2/1 4/1\n", True),
        ("f 1/1/1 2/1/1 3/1/1\nf -2/-1 -3/-1/1 -1/-1\n", True),
        ("f 1/1/ 2/1/ 3/1/\nf 3/1/ 2/1/ 4/1/\n", True),
    ],
)
def test_corners_may_have_any_of_the_forms(faces: str, with_texture: bool) -> None:
    found = parse(f"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 1 1 0\nvn 0 0 1\nvt 0.25 0.75\n{faces}")
    assert found.xyz[:, :, :2].tolist() == [[[0, 0], [1, 0], [0, 1]], [[0, 1], [1, 0], [1, 1]]]
    assert found.uv.tolist() == [[[0.25, 0.75] if with_texture else [0, 0]] * 3] * 2


def test_a_polygon_with_a_dent_keeps_its_area() -> None:
    # an L of 3 unit squares, whose fan from the first corner would cover the missing square
    corners = [(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)]
    for axes in ((0, 1, 2), (1, 2, 0), (2, 0, 1), (1, 0, 2)):
        for start in range(6):
            points = [np.array([*corners[(start + k) % 6], 0.0])[list(axes)] for k in range(6)]
            text = "".join(f"v {p[0]} {p[1]} {p[2]}\n" for p in points) + "f 1 2 3 4 5 6\n"
            found = parse(text)
            normal = np.cross(found.xyz[:, 1] - found.xyz[:, 0], found.xyz[:, 2] - found.xyz[:, 0]) / 2
            assert np.linalg.norm(normal, axis=1).sum() == pytest.approx(3.0)
            assert np.linalg.norm(normal.sum(axis=0)) == pytest.approx(3.0)  # none is turned over


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v 0 0 0\n", "no faces"),
        ("v 0 0 0\nf 1 2 3\n", "a vertex that does not exist"),
        ("v 0 0 0\nf 1 1 -5\n", "a vertex that does not exist"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1/7 2/7 3/7\n", "a vertex that does not exist"),
        ("v 0 0 zero\nf 1 1 1\n", "expected numbers"),
        ("v 0 0 inf\nf 1 1 1\n", "finite"),
        ("v 0 0 0\nv 0 0\nv 1 1 1\nf 1 2 3\n", "fewer than 3 numbers"),
        ("v 0 0 0\nf 1 one 1\n", "invalid face '1 one 1'"),
        (f"v 0 0 0\nf 1 {10**30} 1\n", "a face refers to a vertex of more than 64 bits"),
        ("v 0 0 0\nv 1 1 1\nf 1 2\n", "fewer than three corners"),
    ],
)
def test_a_malformed_model_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse(text)


def test_materials_have_colours_opacity_and_textures() -> None:
    found = parse_materials("newmtl a\nKd 1 0.5 0\nd 0.25\nmap_Kd some wood.jpg\nnewmtl b\nTr 0.25\nnewmtl c\nKd 0.2\n")
    assert found == {
        "a": Material((255.0, 127.5, 0.0), 0.25, "some wood.jpg"),
        "b": Material(opacity=0.75),
        "c": Material((51.0, 51.0, 51.0)),
    }
    with pytest.raises(DataError, match="expected numbers"):
        parse_materials("newmtl a\nd opaque\n")


def test_the_shipped_names_are_things_of_the_rooms() -> None:
    names = read_names(None)
    categories = {category_of(thing) for thing in names.by_model.values()}
    assert len(categories & set(load_vocabulary().names)) > 100
    assert category_of("wall cabinet") == category_of("base unit") == "kitchen cabinet"


def test_a_models_folder_beats_its_name_and_a_section_beats_any(tmp_path: Path) -> None:
    table = tmp_path / "names.tsv"
    table.write_text("# mine\nmodel\tsection\tthing\nChair\t\tchair\nchair\tOffice\toffice chair\nlib/3\t\tstool\n")
    names = read_names(table)
    path = write_library(
        tmp_path / "a.sh3f",
        [{"name": "CHAIR"}, {"name": "Chair", "category": "office"}, {"name": "Chair"}, {"name": "Fork"}],
    )
    assert [names.thing_of(entry) for entry in read_library(path).entries] == ["chair", "office chair", "stool", None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a header"),
        ("model\tthing\n", "expected a header"),
        ("model\tsection\tthing\nChair\tchair\n", "line 2: expected 3 columns, got 2"),
        ("model\tsection\tthing\n# a\nChair\t\tchiar\n", "line 3: 'chiar' is neither"),
    ],
)
def test_a_table_of_names_that_cannot_be_used_is_refused(text: str, message: str, tmp_path: Path) -> None:
    table = tmp_path / "names.tsv"
    table.write_text(text)
    with pytest.raises(DataError, match=message):
        read_names(table)
    with pytest.raises(DataError, match="cannot be read"):
        read_names(tmp_path / "none.tsv")
