"""One scan of two triangles, written by hand, with every trap that is known of ScanNet's files."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lg3d_core.errors import DataError
from lg3d_core.scans import Mesh, Scan, ScanFiles, find_scans, read_scan, write_ply
from lg3d_core.scans.formats.scannet import open_scannet
from lg3d_core.scans.scannet import parse_mesh
from lg3d_core.vocabulary import LabelTable, load_vocabulary

ID = "scene0001_00"
# Three vertices on segment 7, two on segment 3, one on segment 9: ids in no order, none of them a row.
SEGMENTS = [7, 7, 3, 9, 7, 3]
XYZ = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 2), (1, 1, 0), (0.5, 0.5, 0.25)]
TABLE = LabelTable({"chair": 1, "table": 2, "toy": -1}, "digest")


def group(object_id: Any, label: Any, *segments: Any) -> dict[str, Any]:
    return {"id": 99, "objectId": object_id, "segments": list(segments), "label": label}


def write_scan(
    raw: Path,
    *groups: Any,
    scene_id: str = ID,
    folder: str = "scans",
    segments: Any = SEGMENTS,
    info: str | None = "numDepthFrames = 3\n",
    aggregation: dict[str, Any] | None = None,
    xyz: Any = XYZ,
) -> ScanFiles:
    room = raw / folder / scene_id
    room.mkdir(parents=True, exist_ok=True)
    mesh = Mesh(np.array(xyz, "f4"), np.arange(18, dtype="u1").reshape(6, 3), np.array([(0, 1, 2), (1, 4, 2)], "i4"))
    write_ply(room / f"{scene_id}_vh_clean_2.ply", mesh)
    (room / f"{scene_id}_vh_clean_2.0.010000.segs.json").write_text(json.dumps({"segIndices": segments}))
    text = json.dumps({"sceneId": f"scannet.{scene_id}", "segGroups": groups} | (aggregation or {}))
    (room / f"{scene_id}.aggregation.json").write_text(text)
    if info is not None:
        (room / f"{scene_id}.txt").write_text(info)
    return next(files for files in find_scans(raw) if files.folder == room)


def read(tmp_path: Path, *groups: Any, **options: Any) -> Scan:
    return read_scan(write_scan(tmp_path, *groups, **options), TABLE)


def test_labels_and_instances_follow_the_segments(tmp_path: Path) -> None:
    scan = read(tmp_path, group(0, "chair", 7), group(4, "table", 3))
    assert scan.label.tolist() == [1, 1, 2, -1, 1, 2]
    assert scan.instance.tolist() == [1, 1, 5, 0, 1, 5]  # objectId + 1, so that object 0 is not "none"
    assert scan.segment.tolist() == SEGMENTS
    assert scan.rgb.tolist() == np.arange(18).reshape(6, 3).tolist()
    assert scan.faces.tolist() == [[0, 1, 2], [1, 4, 2]]
    assert scan.normal.tolist() == [[0, 0, 1]] * 3 + [[0, 0, 0]] + [[0, 0, 1]] + [[0, 0, 0]]
    assert (scan.label.dtype, scan.instance.dtype, scan.segment.dtype) == (np.int16, np.int32, np.int32)
    assert (scan.annotated, scan.unmapped, scan.warnings) == (True, {}, ())


def test_a_vertex_in_several_groups_takes_the_last(tmp_path: Path) -> None:
    scan = read(tmp_path, group(0, "chair", 7, 3), group(1, "table", 3, 9), group(2, "toy", 9))
    assert scan.label.tolist() == [1, 1, 2, -1, 1, 2]
    assert scan.instance.tolist() == [1, 1, 2, 3, 1, 2]


def test_a_category_outside_the_vocabulary_keeps_its_instance(tmp_path: Path) -> None:
    scan = read(tmp_path, group(0, "toy", 7))
    assert scan.label.tolist() == [-1] * 6
    assert scan.instance.tolist() == [1, 1, 0, 0, 1, 0]
    assert scan.unmapped == {}  # the table knows it


def test_raw_labels_match_exactly_and_the_others_are_counted_by_object(tmp_path: Path) -> None:
    scan = read(tmp_path, group(0, "Chair", 7), group(1, "chair ", 3), group(2, "Chair", 9), group(3, "", 7))
    assert scan.label.tolist() == [-1] * 6
    assert scan.unmapped == {"Chair": 2, "": 1, "chair ": 1}


@pytest.mark.parametrize("label", ["chär\t</script>", '"quoted"', "كرسي", "🪑"])
def test_odd_raw_labels_pass_through(tmp_path: Path, label: str) -> None:
    assert read(tmp_path, group(0, label, 7)).unmapped == {label: 1}


def test_of_repeated_groups_the_last_counts(tmp_path: Path) -> None:
    scan = read(tmp_path, group(0, "chair", 7, 3), group(1, "table", 9), group(31, "chair", 3, 7))
    assert scan.instance.tolist() == [32, 32, 32, 2, 32, 32]
    assert scan.warnings[0].endswith("1 groups are repeated by a later one, which is used (objectId 0)")


@pytest.mark.parametrize(
    ("sequence", "label", "instance"),
    [
        ("A B A", 1, 3),  # chair, table, chair on the same segment: the second chair
        ("A B A B", 2, 4),
        ("A A B", 2, 3),
        ("A B B A", 1, 4),
    ],
)
def test_a_repeated_group_paints_over_what_lies_between_its_copies(
    tmp_path: Path, sequence: str, label: int, instance: int
) -> None:
    names = {"A": "chair", "B": "table"}
    scan = read(tmp_path, *(group(k, names[letter], 7) for k, letter in enumerate(sequence.split())))
    assert scan.label.tolist() == [label, label, -1, -1, label, -1]
    assert scan.instance.tolist() == [instance, instance, 0, 0, instance, 0]
    assert scan.unmapped == {}


def test_a_group_on_the_same_segments_with_another_label_is_no_repeat(tmp_path: Path) -> None:
    scan = read(tmp_path, group(0, "chair", 7), group(1, "table", 7))
    assert scan.label.tolist() == [2, 2, -1, -1, 2, -1]
    assert scan.warnings == ()


def test_empty_groups_strange_segments_and_repeated_ids_are_told(tmp_path: Path) -> None:
    scan = read(tmp_path, group(0, "chair"), group(0, "chair", 7), group(0, "table", 3, 1000), group(5, "toy"))
    assert scan.label.tolist() == [1, 1, 2, -1, 1, 2]
    assert [warning.partition("json: ")[2] for warning in scan.warnings] == [
        "2 groups have no segments (objectId 0, 5)",
        "1 groups refer to segments that do not exist (objectId 0)",
        "1 objectIds occur in several groups (objectId 0)",
    ]


def test_a_long_list_of_groups_is_cut_in_a_warning(tmp_path: Path) -> None:
    scan = read(tmp_path, *(group(k, "chair") for k in range(9)))
    assert scan.warnings[0].endswith("9 groups have no segments (objectId 0, 1, 2, 3, 4, ...)")


def test_the_axis_alignment_is_row_major_and_applied_to_columns(tmp_path: Path) -> None:
    # A quarter turn about z, then a shift by (10, 20, 30): (x, y, z) -> (10 - y, 20 + x, 30 + z).
    info = "sceneType = Living room / Lounge\naxisAlignment = 0 -1 0 10 1 0 0 20 0 0 1 30 0 0 0 1 \nx=y=z\nno value\n"
    scan = read(tmp_path, info=info)
    assert scan.xyz.tolist() == [[10 - y, 20 + x, 30 + z] for x, y, z in XYZ]
    assert scan.normal[0].tolist() == [0, 0, 1]
    assert scan.axis_alignment[0].tolist() == [0, -1, 0, 10]


@pytest.mark.parametrize("info", ["", "colorHeight = 968\n", "axisAlignmentOther = 1\n", "\xff\xfe = \x00\n"])
def test_without_an_alignment_the_coordinates_stay(tmp_path: Path, info: str) -> None:
    scan = read(tmp_path, info=info)
    assert scan.xyz.tolist() == [list(map(float, p)) for p in XYZ]
    assert scan.axis_alignment.tolist() == np.eye(4).tolist()
    assert scan.warnings == ()


def test_a_missing_txt_is_a_warning(tmp_path: Path) -> None:
    scan = read(tmp_path, info=None)
    assert scan.axis_alignment.tolist() == np.eye(4).tolist()
    assert f"{ID}.txt: missing" in scan.warnings[0]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ("1 0 0 0 0 1 0 0 0 0 1 0 0 0 0", "needs 16 finite numbers, found 15"),
        ("nan 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1", "needs 16 finite numbers"),
        ("a 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1", "invalid number"),
        ("2 0 0 0 0 2 0 0 0 0 2 0 0 0 0 1", "not a rotation with a translation"),
        ("-1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1", "not a rotation with a translation"),  # a mirror
        ("1 0 0 0 0 1 0 0 0 0 1 0 0 0 1 1", "not a rotation with a translation"),
        ("1 0 0 1e9 0 1 0 0 0 0 1 0 0 0 0 1", "not a rotation with a translation"),
    ],
)
def test_an_alignment_that_is_none_is_refused(tmp_path: Path, values: str, reason: str) -> None:
    with pytest.raises(DataError, match=rf"{ID}\.txt: axisAlignment .*{reason}"):
        read(tmp_path, info=f"axisAlignment = {values}\n")


@pytest.mark.parametrize(
    ("segments", "reason"),
    [
        (SEGMENTS[:-1], "segIndices has 5 entries, expected 6, one per vertex"),
        ([*SEGMENTS, 1], "segIndices has 7 entries, expected 6"),
        ([], "segIndices has 0 entries, expected 6"),
        ([-1, *SEGMENTS[1:]], "must be integers"),
        ([0.5, *SEGMENTS[1:]], "must be integers"),
        ([2**31, *SEGMENTS[1:]], "must be integers"),
        ([2**80, *SEGMENTS[1:]], "must be integers"),
        (["7", *SEGMENTS[1:]], "must be integers"),
        ([None, *SEGMENTS[1:]], "must be integers"),
        ([[7], *SEGMENTS[1:]], "must be integers"),
        ([math.nan, *SEGMENTS[1:]], "must be integers"),
        ({"a": 1}, "expected segIndices as a list, found dict"),
    ],
)
def test_segments_that_do_not_fit_are_refused(tmp_path: Path, segments: Any, reason: str) -> None:
    with pytest.raises(DataError, match=rf"segs\.json: .*{reason}"):
        read(tmp_path, segments=segments)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (5, "expected group 1 as an object, found int"),
        ({"label": "chair", "segments": [7]}, "group 1 has objectId None"),
        (group(-1, "chair", 7), "group 1 has objectId -1"),
        (group(True, "chair", 7), "group 1 has objectId True"),
        (group(2**31, "chair", 7), "group 1 has objectId 2147483648"),
        (group("0", "chair", 7), "group 1 has objectId '0'"),
        (group(0, None, 7), r"group 1 \(objectId 0\) has no label"),
        (group(0, "chair", "7"), "segments of group 1 must be integers"),
        ({"objectId": 0, "label": "chair"}, "expected segments of group 1 as a list, found NoneType"),
    ],
)
def test_groups_of_another_form_are_refused(tmp_path: Path, entry: Any, reason: str) -> None:
    with pytest.raises(DataError, match=rf"aggregation\.json: .*{reason}"):
        read(tmp_path, group(0, "chair", 7), entry)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"segGroups": {}}, "expected a list segGroups, found dict"),
        ({"sceneId": "scannet.scene0002_00"}, "belongs to scene 'scannet.scene0002_00', expected scene0001_00"),
        ({"segmentsFile": f"scannet.{ID}_vh_clean.segs.json"}, "annotation of another mesh"),
        ({"segGroups": [group(0, "chair", 500, 501)]}, "none of its 2 segments exists in the mesh"),
    ],
)
def test_an_annotation_of_something_else_is_refused(tmp_path: Path, fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=rf"aggregation\.json: .*{reason}"):
        read(tmp_path, aggregation=fields)


def test_the_right_segments_file_and_odd_titles_are_accepted(tmp_path: Path) -> None:
    name = f"scannet.{ID}_vh_clean_2.0.010000.segs.json"
    assert read(tmp_path, group(0, "chair", 7), aggregation={"segmentsFile": name, "sceneId": "../out/mesh"}).annotated


JSON = {
    "cut": (b'{"segIndices": [1, 2', "not JSON .* 20 bytes"),
    "cut in a text": (b'{"sceneId": "sce', r"not JSON \(Unterminated string at line 1, column 13 of 16 bytes\)"),
    "empty": (b"", "not JSON"),
    "list": (b"[1]", "expected a JSON object, found a list"),
    "deep": (b"[" * 200_000, "JSON nested too deeply"),
    "not text": (b'{"a": "\xff\xfe"}', "not UTF-8 text"),
    "long number": (b'{"a": ' + b"1" * 5000 + b"}", "invalid JSON"),
}


@pytest.mark.parametrize("name", JSON)
def test_damaged_json_is_refused(tmp_path: Path, name: str) -> None:
    data, reason = JSON[name]
    files = write_scan(tmp_path)
    assert files.segments is not None
    files.segments.write_bytes(data)
    with pytest.raises(DataError, match=rf"segs\.json: {reason}"):
        read_scan(files, TABLE)


@pytest.mark.parametrize(
    ("point", "reason"),
    [
        ((math.nan, 0, 0), r"1 of 6 vertices have coordinates that are not finite, the first is vertex 5: \[nan"),
        ((0, math.inf, 0), "not finite"),
        ((0, 0, 1e30), "a coordinate of 1e.30 m, expected at most 1000 m"),
    ],
)
def test_impossible_coordinates_are_refused(tmp_path: Path, point: tuple[float, ...], reason: str) -> None:
    with pytest.raises(DataError, match=rf"clean_2\.ply: .*{reason}"):
        read(tmp_path, xyz=[*XYZ[:5], point])


def test_a_mesh_without_vertices_is_refused(tmp_path: Path) -> None:
    files = write_scan(tmp_path)
    write_ply(files.mesh, Mesh(np.empty((0, 3), "f4"), np.empty((0, 3), "u1"), np.empty((0, 3), "i4")))
    with pytest.raises(DataError, match="no vertices"):
        read_scan(files, TABLE)


def test_all_vertices_in_one_place_are_read(tmp_path: Path) -> None:
    scan = read(tmp_path, group(0, "chair", 7), xyz=[(1, 1, 1)] * 6)
    assert not scan.normal.any()


def test_the_denser_mesh_is_refused_by_name(tmp_path: Path) -> None:
    files = write_scan(tmp_path)
    dense = files.mesh.with_name(f"{ID}_vh_clean.ply")
    files.mesh.rename(dense)
    with pytest.raises(
        DataError, match=r"clean_2\.ply: the mesh is missing; .*_vh_clean\.ply is a different, denser mesh"
    ):
        read_scan(find_scans(tmp_path)[0], TABLE)
    by_hand = ScanFiles(ID, files.folder, dense, files.segments, files.aggregation, files.info)
    with pytest.raises(DataError, match="the denser mesh"):
        parse_mesh(by_hand, dense.read_bytes())


@pytest.mark.parametrize("suffix", ["_vh_clean_2.ply", "_vh_clean_2.0.010000.segs.json", ".aggregation.json"])
def test_a_missing_file_is_named(tmp_path: Path, suffix: str) -> None:
    files = write_scan(tmp_path)
    (files.folder / (ID + suffix)).unlink()
    with pytest.raises(DataError, match=f"{ID}{suffix}: .*missing"):
        read_scan(find_scans(tmp_path)[0], TABLE)


def test_test_scans_give_geometry_alone_whatever_else_lies_there(tmp_path: Path) -> None:
    scan = read(tmp_path, group(0, "chair", 7), folder="scans_test")
    assert not scan.annotated
    assert scan.label.tolist() == [-1] * 6
    assert scan.instance.tolist() == [0] * 6
    assert scan.segment.tolist() == [-1] * 6
    assert scan.normal.any()


def test_the_digest_is_of_all_bytes_and_can_be_had_without_reading(tmp_path: Path) -> None:
    first = read(tmp_path / "a", group(0, "chair", 7))
    assert read(tmp_path / "b", group(0, "chair", 7)).digest == first.digest
    assert read(tmp_path / "c", group(0, "chair", 3)).digest != first.digest
    assert read(tmp_path / "d", group(0, "chair", 7), info="a = b").digest != first.digest
    scenes = open_scannet(tmp_path / "a", (load_vocabulary(),)).scenes
    assert [scene.digest() for scene in scenes] == [first.digest]


def test_scans_are_found_in_both_folders_and_sorted(tmp_path: Path) -> None:
    write_scan(tmp_path, scene_id="scene0002_00")
    write_scan(tmp_path, scene_id="scene0001_01", folder="scans_test")
    write_scan(tmp_path, scene_id="my [room] 1")
    (tmp_path / "scans" / ".cache").mkdir()
    (tmp_path / "scans" / "notes.txt").write_text("no folder")
    found = find_scans(tmp_path)
    assert [files.scene_id for files in found] == ["my [room] 1", "scene0001_01", "scene0002_00"]
    assert [files.is_test for files in found] == [False, True, False]
    assert (found[1].segments, found[1].aggregation) == (None, None)


@pytest.mark.parametrize("name", ["my [room] 1", "-rf", "سـ", "x" * 101, "a\nb"])
def test_a_name_that_cannot_be_a_scenes_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="is not a scene id"):
        read(tmp_path, scene_id=name)


def test_a_wrong_folder_gets_a_hint(tmp_path: Path) -> None:
    files = write_scan(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        find_scans(tmp_path / "none")
    with pytest.raises(DataError, match=rf"contains no scans.*pass its parent, {tmp_path}$"):
        find_scans(tmp_path / "scans")
    with pytest.raises(DataError, match=rf"this is a single scan, pass {tmp_path}$"):
        find_scans(files.folder)
    (tmp_path / "empty" / "scans").mkdir(parents=True)
    with pytest.raises(DataError, match="contains no scans"):
        find_scans(tmp_path / "empty")
