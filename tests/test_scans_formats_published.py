"""S3DIS, ScanNet++, Replica and ARKitScenes, in files made by hand after their published formats."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lg3d_core.errors import DataError
from lg3d_core.progress import Progress
from lg3d_core.scans.audit import audit_folder
from lg3d_core.scans.formats.open_folder import open_folder
from lg3d_core.settings import PrepareSettings
from lg3d_core.store import PrepareReport, SceneStore, prepare_store
from lg3d_core.vocabulary import load_vocabulary
from tests.labelled_scans import NAMES, Room, labelled_room, write_json, write_room_ply
from tests.notes import Notes


@pytest.fixture
def room() -> Room:
    return labelled_room(spacing=0.2)


def prepare(raw: Path, progress: Progress | None = None, **options: Any) -> PrepareReport:
    settings = PrepareSettings(**({"raw": raw, "store": raw.parent / "data", "jobs": 1} | options))
    return prepare_store(settings, progress or Progress())


def audit(raw: Path) -> list[str]:
    report = audit_folder(open_folder(PrepareSettings(raw=raw)), jobs=1, progress=Progress())
    return [problem.reason for problem in report.problems if problem.fatal]


# S3DIS

S3DIS_NAMES = ("floor", "wall", "chair", "table", "sofa", "clutter", "stairs")


def write_s3dis_room(folder: Path, room: Room) -> list[np.ndarray]:
    """Write one text file per object; returns the rows of each in the order of the file names."""
    folder = folder / "Annotations"
    folder.mkdir(parents=True)
    found = {}
    for k in np.unique(room.instance):
        rows = np.flatnonzero(room.instance == k)
        name = f"{S3DIS_NAMES[room.label[rows[0]]]}_{k}.txt"
        lines = [
            " ".join([f"{value:.3f}" for value in room.xyz[row]] + [str(int(value)) for value in room.rgb[row]])
            for row in rows
        ]
        (folder / name).write_text("\n".join(lines) + "\n")
        found[name] = rows
    return [found[name] for name in sorted(found)]


def test_a_room_of_s3dis_is_the_points_of_its_objects(tmp_path: Path, room: Room) -> None:
    raw = tmp_path / "raw"
    order = np.concatenate(write_s3dis_room(raw / "Area_1/office_1", room))
    write_s3dis_room(raw / "Area_5/hallway_6", room)
    listener = Notes()
    report = prepare(raw, listener)
    assert (report.failed, report.unmapped) == ({}, {})
    assert listener.notes[0].endswith("it has Area_1/office_1/Annotations (lg3d prepare --format overrides)")
    store = SceneStore(report.store)
    assert (store.scene_ids("train"), store.scene_ids("val")) == (["Area_1_office_1"], ["Area_5_hallway_6"])
    assert store.vocabulary == load_vocabulary("s3dis")
    scene = store.read("Area_1_office_1")
    np.testing.assert_allclose(scene.xyz, room.xyz[order], atol=6e-4)
    np.testing.assert_array_equal(scene.rgb, room.rgb[order])
    names = np.array(["clutter" if name == "stairs" else name for name in S3DIS_NAMES])[room.label[order]]
    np.testing.assert_array_equal(np.array(store.vocabulary.names)[scene.label], names)
    for k in np.unique(room.instance):  # objects keep their points
        assert len(np.unique(scene.instance[room.instance[order] == k])) == 1
    assert len(np.unique(scene.instance)) == len(np.unique(room.instance))
    assert (len(scene.faces), scene.segment.max()) == (0, -1)


def test_a_line_of_s3dis_with_a_control_character_is_dropped_with_a_warning(tmp_path: Path, room: Room) -> None:
    raw = tmp_path / "raw"
    write_s3dis_room(raw / "Area_5/hallway_6", room)
    path = next((raw / "Area_5/hallway_6/Annotations").glob("chair_*.txt"))
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b" ", b"\x10", 1)
    path.write_bytes(b"".join(lines))
    listener = Notes()
    report = prepare(raw, listener)
    assert listener.warnings == [f"{path}: 1 lines are not 6 numbers: they are dropped"]
    assert len(SceneStore(report.store).read("Area_5_hallway_6").xyz) == len(room.xyz) - 1


def test_lines_of_s3dis_of_five_and_seven_numbers_are_dropped(tmp_path: Path, room: Room) -> None:
    raw = tmp_path / "raw"
    write_s3dis_room(raw / "Area_5/hallway_6", room)
    path = next((raw / "Area_5/hallway_6/Annotations").glob("chair_*.txt"))
    lines = [line.split() for line in path.read_text().splitlines()]
    lines[4].append(lines[3].pop())  # as many numbers as before
    path.write_text("\n".join(map(" ".join, lines)))
    listener = Notes()
    report = prepare(raw, listener)
    assert listener.warnings == [f"{path}: 2 lines are not 6 numbers: they are dropped"]
    assert len(SceneStore(report.store).read("Area_5_hallway_6").xyz) == len(room.xyz) - 2


def test_an_unknown_class_of_s3dis_is_counted(tmp_path: Path, room: Room) -> None:
    raw = tmp_path / "raw"
    write_s3dis_room(raw / "Area_1/office_1", room)
    path = next((raw / "Area_1/office_1/Annotations").glob("chair_*.txt"))
    path.rename(path.with_name("throne_1.txt"))
    listener = Notes()
    assert prepare(raw, listener).unmapped == {"throne": 1}
    assert "1 objects have no label, because the vocabulary lacks their raw labels ('throne' 1)" in listener.warnings


def test_a_room_of_s3dis_without_points_fails_alone(tmp_path: Path, room: Room) -> None:
    raw = tmp_path / "raw"
    write_s3dis_room(raw / "Area_1/office_1", room)
    (raw / "Area_1/office_2/Annotations").mkdir(parents=True)
    report = prepare(raw)
    assert (report.prepared, list(report.failed)) == (["Area_1_office_1"], ["Area_1_office_2"])
    assert audit(raw) == [report.failed["Area_1_office_2"]]


# ScanNet++


def write_scannetpp_scene(raw: Path, name: str, room: Room) -> Path:
    folder = raw / "data" / name / "scans"
    write_room_ply(folder / "mesh_aligned_0.05.ply", room)
    write_json(folder / "segments.json", {"segIndices": (room.instance * 10).tolist()})
    groups = [
        {"id": int(k), "objectId": int(k), "label": NAMES[room.label[room.instance == k][0]], "segments": [int(k) * 10]}
        for k in np.unique(room.instance)
    ]
    everything = [int(k) * 10 for k in np.unique(room.instance)]
    groups.append({"id": 99, "objectId": 99, "label": "wall", "segments": everything})  # every vertex, and the largest
    write_json(folder / "segments_anno.json", {"segGroups": groups})
    return folder


@pytest.fixture
def scannetpp(tmp_path: Path, room: Room) -> Path:
    raw = tmp_path / "raw"
    for name in ("0a5c013435", "1b75758486", "2c00000000"):
        write_scannetpp_scene(raw, name, room)
    metadata = raw / "metadata/semantic_benchmark"
    metadata.mkdir(parents=True)
    (metadata / "top100.txt").write_text("\n".join(NAMES[:5]) + "\nbin\n")  # no rubber duck
    (metadata / "map_benchmark.csv").write_text("class,count,semantic_map_to\ntrash can,3,bin\nchair,9,\nduck,1,None\n")
    (raw / "splits").mkdir()
    for split, name in (("nvs_sem_train", "0a5c013435"), ("nvs_sem_val", "1b75758486"), ("sem_test", "2c00000000")):
        (raw / f"splits/{split}.txt").write_text(name + "\n")
    return raw


def test_scenes_of_scannetpp_have_the_smallest_object_at_each_vertex(scannetpp: Path, room: Room) -> None:
    for path in scannetpp.glob("data/2c00000000/scans/*.json"):
        path.unlink()  # test scenes have no annotation
    report = prepare(scannetpp)
    assert (report.failed, report.unmapped) == ({}, {"rubber duck": 2})
    store = SceneStore(report.store)
    assert [store.scene_ids(split) for split in ("train", "val", "test")] == [
        ["0a5c013435"],
        ["1b75758486"],
        ["2c00000000"],
    ]
    assert store.vocabulary.names == (*NAMES[:5], "bin")
    scene = store.read("0a5c013435")
    np.testing.assert_allclose(scene.xyz, room.xyz, atol=1e-6)
    np.testing.assert_array_equal(scene.faces, room.faces)
    expected = np.where(
        room.label == 6, NAMES.index("wall"), room.label
    )  # under the duck is the object of all vertices
    np.testing.assert_array_equal(scene.label, expected)
    assert len(np.unique(scene.instance)) == len(np.unique(room.instance))
    assert len(np.unique(scene.segment)) == len(np.unique(room.instance))
    assert (store.read("2c00000000").label == -1).all()


def test_bad_files_of_scannetpp_fail_their_scene_alone(scannetpp: Path, room: Room) -> None:
    folder = scannetpp / "data/0a5c013435/scans"
    write_json(folder / "segments.json", {"segIndices": room.instance[:-1].tolist()})
    (scannetpp / "data/1b75758486/scans/segments_anno.json").unlink()
    report = prepare(scannetpp)
    assert report.prepared == ["2c00000000"]
    assert f"segIndices has {len(room.xyz) - 1} entries, expected {len(room.xyz)}" in report.failed["0a5c013435"]
    assert report.failed["1b75758486"].endswith("segments_anno.json: missing")
    assert audit(scannetpp) == [report.failed["0a5c013435"], report.failed["1b75758486"]]


def test_scannetpp_without_its_metadata_needs_class_names(scannetpp: Path) -> None:
    (scannetpp / "metadata/semantic_benchmark/top100.txt").unlink()
    with pytest.raises(DataError, match="download the metadata of ScanNet\\+\\+, or pass --vocabulary FILE"):
        prepare(scannetpp)


# Replica


def write_replica_scene(folder: Path) -> None:
    """Three quads in a row, 1 m wide: two of object 4, and one of object 7; vertices 4 and 5 touch one of each."""
    xyz = [(x, y, 0.0) for x in range(4) for y in range(2)]
    quads = [(2 * k, 2 * k + 1, 2 * k + 3, 2 * k + 2) for k in range(3)]
    lines = ["ply", "format ascii 1.0", f"element vertex {len(xyz)}"]
    lines += [f"property float {axis}" for axis in "xyz"]
    lines += [f"property uchar {channel}" for channel in ("red", "green", "blue")]
    lines += [f"element face {len(quads)}", "property list uchar int vertex_indices", "property int object_id"]
    lines.append("end_header")
    lines += [f"{x} {y} {z} 10 200 30" for x, y, z in xyz]
    lines += [f"4 {' '.join(map(str, quad))} {number}" for quad, number in zip(quads, (4, 4, 7), strict=True)]
    (folder / "habitat").mkdir(parents=True)
    (folder / "habitat/mesh_semantic.ply").write_text("\n".join(lines) + "\n")
    info = {
        "classes": [{"id": 3, "name": "chair"}, {"id": 40, "name": "floor"}],
        "objects": [
            {"id": 4, "class_id": 40, "class_name": "floor"},
            {"id": 7, "class_id": 3, "class_name": "chair"},
            {"id": 9, "class_id": -1, "class_name": "undefined"},
        ],
    }
    write_json(folder / "habitat/info_semantic.json", info)


def test_a_vertex_of_replica_belongs_to_the_object_of_most_of_its_faces(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_replica_scene(raw / "room_0")
    (raw / "val.txt").write_text("room_0\n")
    report = prepare(raw, scale="m")
    store = SceneStore(report.store)
    assert (store.vocabulary.names, store.split_of("room_0")) == (("chair", "floor"), "val")
    scene = store.read("room_0")
    # Vertices 0 to 3 touch quads of object 4 alone, 6 and 7 of object 7; 4 and 5 touch one of each: the smaller id.
    np.testing.assert_array_equal(scene.instance, [5, 5, 5, 5, 5, 5, 8, 8])
    np.testing.assert_array_equal(scene.label, [1, 1, 1, 1, 1, 1, 0, 0])
    assert len(scene.faces) == 6  # quads as two triangles each
    np.testing.assert_array_equal(scene.rgb, np.tile([10, 200, 30], (8, 1)))


@pytest.mark.parametrize("numbers", [{}, {"class_name": "chair", "id": 2**31}, {"class_name": "chair", "id": -2}])
def test_a_damaged_description_of_replica_is_one_line(tmp_path: Path, numbers: dict[str, object]) -> None:
    raw = tmp_path / "raw"
    for name in ("room_0", "room_1"):
        write_replica_scene(raw / name)
    info = raw / "room_1/habitat/info_semantic.json"
    write_json(info, {"classes": [{"id": 3, "name": "chair"}], "objects": [{"id": 4} | numbers]})
    report = prepare(raw, scale="m")
    assert report.prepared == ["room_0"]
    expected = f"{info}: expected a list objects with id (up to 2000000000), class_id and class_name"
    assert report.failed == {"room_1": expected}


# ARKitScenes


def write_arkit_scene(folder: Path, room: Room, boxes: list[dict[str, Any]]) -> None:
    write_room_ply(folder / f"{folder.name}_3dod_mesh.ply", room)
    write_json(folder / f"{folder.name}_3dod_annotation.json", {"skipped": False, "data": boxes})


def box(label: str, center: list[float], lengths: list[float], degrees: float = 0) -> dict[str, Any]:
    """A box turned about the vertical; the rows of the matrix are its axes."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    axes = [c, s, 0, -s, c, 0, 0, 0, 1]
    shape = {"centroid": center, "axesLengths": lengths, "normalizedAxes": axes}
    return {"uid": "a", "label": label, "segments": {"obbAligned": shape}}


def test_vertices_of_arkitscenes_belong_to_the_smallest_box_around_them(tmp_path: Path, room: Room) -> None:
    raw = tmp_path / "raw"
    boxes = [
        box("tv_monitor", [2, 1.5, 0], [0.5, 2.0, 0.1], degrees=90),  # long along x after the turn
        box("table", [2, 1.5, 0], [3.0, 2.6, 0.1]),
        box("piano", [0, 0, 0], [1, 1, 1]),
    ]
    write_arkit_scene(raw / "Training/47333462", room, boxes)
    write_arkit_scene(raw / "Validation/47333463", room, [])
    report = prepare(raw)
    assert (report.failed, report.unmapped) == ({}, {"piano": 1})
    store = SceneStore(report.store)
    assert (store.scene_ids("train"), store.scene_ids("val")) == (["47333462"], ["47333463"])
    scene = store.read("47333462")
    near, x, y = np.abs(room.xyz[:, 2]) <= 0.05, np.abs(room.xyz[:, 0] - 2), np.abs(room.xyz[:, 1] - 1.5)
    screen = near & (x <= 1.0) & (y <= 0.25)
    table = near & (x <= 1.5) & (y <= 1.3) & ~screen
    names = store.vocabulary.index_by_name
    assert screen.sum() > 5
    assert (scene.label[screen] == names["tv monitor"]).all()
    assert (scene.label[table] == names["table"]).all()
    assert (scene.label[~(screen | table)] == -1).all()
    np.testing.assert_array_equal(scene.instance > 0, screen | table)


def test_a_box_without_its_shape_is_one_line(tmp_path: Path, room: Room) -> None:
    raw = tmp_path / "raw"
    write_arkit_scene(raw / "Training/1", room, [{"label": "table"}])
    write_arkit_scene(raw / "Training/2", room, [])
    report = prepare(raw)
    assert report.prepared == ["2"]
    assert "box 0 has no label, or no segments.obbAligned" in report.failed["1"]


@pytest.mark.parametrize("name", ["pointcept", "labelled", "s3dis", "scannetpp", "replica", "arkitscenes"])
def test_a_folder_that_does_not_exist_is_named_as_such(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"^no such folder: {tmp_path / 'gone'}$"):
        open_folder(PrepareSettings(raw=tmp_path / "gone", format=name))  # type: ignore[arg-type]
