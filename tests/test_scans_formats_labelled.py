"""The user's own labelled scans, one file per scene."""

import json
from pathlib import Path

import laspy
import numpy as np
import pytest

from lg3d_core.arrays import read_npz
from lg3d_core.errors import DataError
from lg3d_core.progress import Progress
from lg3d_core.settings import PrepareSettings
from lg3d_core.store import PrepareReport, SceneStore, prepare_store
from tests.labelled_scans import NAMES, Room, labelled_room, write_names, write_room_ply
from tests.notes import Notes


@pytest.fixture
def room() -> Room:
    return labelled_room()


@pytest.fixture
def raw(tmp_path: Path, room: Room) -> Path:
    folder = tmp_path / "raw"
    write_names(folder)
    for split, name in (("train", "kitchen"), ("train", "office"), ("val", "hall")):
        write_room_ply(folder / split / f"{name}.ply", room, label=room.label, instance=room.instance)
    return folder


def prepare(raw: Path, progress: Progress | None = None, **options: object) -> PrepareReport:
    settings = PrepareSettings(**({"raw": raw, "store": raw.parent / "data", "jobs": 1} | options))
    return prepare_store(settings, progress or Progress())


def stored(raw: Path, scene_id: str = "hall"):  # type: ignore[no-untyped-def]
    return SceneStore(raw.parent / "data").read(scene_id)


def test_a_folder_of_ply_files_is_recognised_and_becomes_a_store(raw: Path, room: Room) -> None:
    listener = Notes()
    report = prepare(raw, listener)
    assert (report.prepared, report.failed, report.unmapped) == (["hall", "kitchen", "office"], {}, {})
    assert listener.notes[0] == f"{raw} is read as labelled: it has train/kitchen.ply (lg3d prepare --format overrides)"
    store = SceneStore(report.store)
    assert (store.scene_ids("train"), store.scene_ids("val")) == (["kitchen", "office"], ["hall"])
    assert store.vocabulary.names == NAMES
    scene = store.read("hall")
    np.testing.assert_allclose(scene.xyz, room.xyz, atol=1e-6)
    np.testing.assert_array_equal(scene.rgb, room.rgb)
    np.testing.assert_array_equal(scene.label, room.label)
    np.testing.assert_array_equal(scene.instance, room.instance)
    np.testing.assert_array_equal(scene.faces, room.faces)
    assert scene.normal[room.label == NAMES.index("floor")][:, 2].min() == pytest.approx(1)


@pytest.mark.parametrize("name", ["label", "Class", "scalar_Label", "semantic_id", "classification"])
def test_usual_names_of_the_label_are_found(raw: Path, room: Room, name: str) -> None:
    write_room_ply(raw / "val/hall.ply", room, **{name: room.label.astype(np.float32)})
    prepare(raw)
    np.testing.assert_array_equal(stored(raw).label, room.label)


def test_another_name_is_passed_and_a_wrong_one_lists_what_there_is(raw: Path, room: Room) -> None:
    write_room_ply(raw / "val/hall.ply", room, label=0 * room.label, material=room.label, piece=room.instance)
    report = prepare(raw, labels=("material",), object_ids="piece")
    assert report.prepared == ["hall"]
    np.testing.assert_array_equal(stored(raw).label, room.label)
    np.testing.assert_array_equal(stored(raw).instance, room.instance)
    assert report.failed["office"] == (
        f"{raw}/train/office.ply: no property material; it has x, y, z, red, green, blue, label, instance: pass "
        "--labels with one of them, or --labels color if the colours are the labels"
    )


def test_pcd_las_and_npz_give_the_same_scene_as_ply(raw: Path, room: Room) -> None:
    prepare(raw)
    expected = stored(raw)
    for path in raw.rglob("*.ply"):
        path.unlink()
    fields = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("r", "u1"), ("g", "u1"), ("b", "u1")]
    rows = np.zeros(len(room.xyz), dtype=[*fields, ("label", "<i4"), ("instance", "<u4")])
    for k, axis in enumerate("xyz"):
        rows[axis], rows["rgb"[k]] = room.xyz[:, k], room.rgb[:, k]
    rows["label"], rows["instance"] = room.label, room.instance
    head = (
        "VERSION 0.7\nFIELDS x y z r g b label instance\nSIZE 4 4 4 1 1 1 4 4\nTYPE F F F U U U I U\n"
        f"WIDTH {len(rows)}\nHEIGHT 1\nPOINTS {len(rows)}\nDATA binary\n"
    )
    (raw / "train/kitchen.pcd").write_bytes(head.encode() + rows.tobytes())
    las = laspy.create(point_format=2)
    las.header.scales, las.header.offsets = np.full(3, 1e-4), np.zeros(3)
    las.x, las.y, las.z = room.xyz.T.astype(float)
    las.red, las.green, las.blue = room.rgb.T.astype(np.uint16) * 256
    las.classification = room.label.astype(np.uint8)
    las.add_extra_dim(laspy.ExtraBytesParams(name="instance", type=np.int32))
    las.instance = room.instance
    las.write(raw / "train/office.laz")
    np.savez(
        raw / "val/hall.npz",
        coord=room.xyz,
        color=room.rgb,
        label=np.array(NAMES)[room.label],
        instance=room.instance,
        faces=room.faces,
    )
    assert prepare(raw).prepared == ["hall", "kitchen", "office"]
    for name in ("kitchen", "office", "hall"):
        scene = stored(raw, name)
        np.testing.assert_allclose(scene.xyz, expected.xyz, atol=1e-4)
        np.testing.assert_array_equal(scene.rgb, expected.rgb)
        np.testing.assert_array_equal(scene.label, expected.label)
        np.testing.assert_array_equal(scene.instance, expected.instance)
    np.testing.assert_array_equal(scene.faces, expected.faces)


def test_colours_of_the_classes_are_labels_of_their_own_or_of_a_second_file(tmp_path: Path, room: Room) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    colors = np.stack([np.arange(7) * 30 + 5, np.full(7, 10), np.full(7, 200)], axis=1).astype(np.uint8)
    rows = "".join(f"{k}\t{name}\t{colors[k][0]}\t10\t200\n" for k, name in enumerate(NAMES[:6]))  # no rubber duck
    (raw / "classes.tsv").write_text("id\tname\tred\tgreen\tblue\n" + rows)
    painted = room._replace(rgb=colors[room.label])
    painted.rgb[:4] = 0  # black: no label
    write_room_ply(raw / "train/kitchen.ply", painted)
    write_room_ply(raw / "val/hall.ply", room)
    write_room_ply(raw / "val/hall.labels.ply", painted)
    listener = Notes()
    report = prepare(raw, listener, labels=("color",))
    assert report.prepared == ["hall", "kitchen"]
    expected = np.where(room.label == 6, -1, room.label)
    expected[:4] = -1
    for name in ("kitchen", "hall"):
        np.testing.assert_array_equal(stored(raw, name).label, expected)
    np.testing.assert_array_equal(stored(raw, "hall").rgb, room.rgb)
    assert (stored(raw, "kitchen").rgb == 128).all()
    assert report.unmapped == {"rgb 185 10 200": 2 * int((room.label == 6).sum())}
    assert "its colours are the labels: using grey, which reduces accuracy" in listener.warnings[0]
    names = raw / "classes.tsv"
    names.write_text(names.read_text().replace("\t10\t200", "\t10\t201"))  # no colour of the files is a class now
    assert (prepare(raw, labels=("color",)).prepared, stored(raw).label.max()) == (["hall", "kitchen"], -1)


@pytest.mark.parametrize(
    "value",
    [
        list(NAMES),
        {str(k): name for k, name in enumerate(NAMES)},
        {name: k for k, name in enumerate(NAMES)},
        [{"id": k, "name": name, "color": [k, 0, 0]} for k, name in enumerate(NAMES)],
    ],
)
def test_class_names_may_be_json_in_the_usual_forms(raw: Path, room: Room, value: object) -> None:
    (raw / "classes.tsv").unlink()
    (raw / "classes.json").write_text(json.dumps(value))
    prepare(raw)
    assert SceneStore(raw.parent / "data").vocabulary.names == NAMES
    np.testing.assert_array_equal(stored(raw).label, room.label)


@pytest.mark.parametrize(
    "value",
    [
        *(3, [], {}, ["a", "a"], [{"id": 1}], {"a": "b"}, [{"id": 0, "name": ""}], [[1]]),
        *(
            {"9" * 20: "a"},
            [{"id": 1e30, "name": "a"}],
            [{"id": float("inf"), "name": "a"}],
            [{"id": 1.7, "name": "a"}],
        ),
    ],
)
def test_other_json_is_one_clear_line(raw: Path, value: object) -> None:
    (raw / "classes.json").write_text(json.dumps(value))
    with pytest.raises(DataError, match=r"class names .*classes\.json: expected a list of names"):
        prepare(raw, vocabulary=(str(raw / "classes.json"),))


def test_a_scan_in_centimetres_with_y_up_is_converted_and_told(raw: Path, room: Room) -> None:
    turned = room.xyz[:, [1, 2, 0]] * 100  # y up: x, y, z of the file are y, z, x of the room
    write_room_ply(raw / "val/hall.ply", room._replace(xyz=turned), label=room.label)
    listener = Notes()
    prepare(raw, listener)
    scene = stored(raw)
    np.testing.assert_allclose(np.sort(np.ptp(scene.xyz, axis=0)), [2, 3, 4], atol=0.01)
    assert np.ptp(scene.xyz[:, 2]) == pytest.approx(2, abs=0.01)
    mixed = [text for text in listener.warnings if text.startswith("mixed units")]
    assert mixed == [
        "mixed units: 1 scenes have a unit of 0.01 m (hall), the other scenes of 1 m; each uses its own unit: "
        "pass --scale if all have the same unit"
    ]


def test_points_that_are_not_finite_are_dropped_with_their_labels_and_faces(raw: Path, room: Room) -> None:
    xyz = room.xyz.copy()
    xyz[5] = np.nan
    write_room_ply(raw / "val/hall.ply", room._replace(xyz=xyz), label=room.label)
    listener = Notes()
    prepare(raw, listener, scale="m", up="z")
    scene = stored(raw)
    np.testing.assert_array_equal(scene.label, np.delete(room.label, 5))
    assert len(scene.faces) == int((~(room.faces == 5).any(axis=1)).sum())
    np.testing.assert_allclose(scene.xyz[scene.faces[-1]], room.xyz[room.faces[-1]], atol=1e-6)
    assert any("1 of" in text and "dropped" in text for text in listener.warnings)


def test_objects_of_points_below_zero_are_none(raw: Path, room: Room) -> None:
    write_room_ply(raw / "val/hall.ply", room, label=room.label, instance=room.instance - 2)
    prepare(raw)
    np.testing.assert_array_equal(stored(raw).instance, room.instance - 1)  # -1 is none, 0 is the first object


def test_a_test_scene_needs_no_labels(raw: Path, room: Room) -> None:
    write_room_ply(raw / "test/attic.ply", room)
    prepare(raw)
    assert (stored(raw, "attic").label == -1).all()


def test_scenes_in_no_split_go_to_train_with_a_warning(raw: Path, room: Room) -> None:
    write_room_ply(raw / "attic.ply", room, label=room.label)
    listener = Notes()
    prepare(raw, listener)
    assert SceneStore(raw.parent / "data").split_of("attic") == "train"
    assert listener.warnings[0].startswith(
        "scenes without a split, used for training: 1 (attic): put them into the folders"
    )


def test_listed_scenes_without_a_file_are_counted(raw: Path, room: Room) -> None:
    write_room_ply(raw / "attic.ply", room, label=room.label)
    (raw / "train.txt").write_text("attic\nbarn\ncellar\nloft\nshed\n")
    listener = Notes()
    prepare(raw, listener)
    assert listener.warnings[0] == (
        f"4 of 5 scenes in the split files have no scan in {raw}: left out (barn, cellar, loft, ...)"
    )


def test_options_of_other_formats_are_rejected(tmp_path: Path) -> None:
    from lg3d_core.errors import UsageError
    from tests import box_rooms

    box_rooms.write_dataset(tmp_path / "raw", train=1, val=0, spacing=0.5)
    with pytest.raises(UsageError, match="--labels does not apply to the format scannet: leave it out"):
        prepare(tmp_path / "raw", labels=("label",))


def test_a_folder_of_scannet_at_the_wrong_level_keeps_its_hint(tmp_path: Path) -> None:
    from tests import box_rooms

    box_rooms.write_dataset(tmp_path / "raw", train=1, val=0, spacing=0.5)
    with pytest.raises(DataError, match=r"contains no scans.*; pass its parent"):
        prepare(tmp_path / "raw/scans")
    with pytest.raises(DataError, match=r"contains no scans.*; this is a single scan"):
        prepare(tmp_path / "raw/scans/scene9000_00")


def test_a_unit_that_does_not_apply_is_ignored_with_a_warning(tmp_path: Path) -> None:
    from tests import box_rooms

    box_rooms.write_dataset(tmp_path / "raw", train=1, val=0, spacing=0.5)
    listener = Notes()
    prepare(tmp_path / "raw", listener, scale="cm")
    assert listener.warnings[0] == "--scale does not apply to the format scannet and is ignored"


def test_a_folder_scans_of_own_files_is_not_taken_for_scannets(tmp_path: Path, room: Room) -> None:
    raw = tmp_path / "raw"
    write_names(raw)
    write_room_ply(raw / "scans/kitchen.ply", room, label=room.label)
    assert prepare(raw).prepared == ["scans_kitchen"]


def test_thousands_of_labels_outside_the_vocabulary_are_summed_up(raw: Path, room: Room) -> None:
    label = 1000 + np.arange(len(room.xyz))
    label[:20] = 50
    write_room_ply(raw / "val/hall.ply", room, label=label)
    report = prepare(raw)
    assert report.failed == {}
    assert len(report.unmapped) == 101
    assert next(iter(report.unmapped)) == f"{len(room.xyz) - 20 + 1 - 100} other labels"
    assert report.unmapped["50"] == 20
    assert sum(report.unmapped.values()) == len(room.xyz)


@pytest.mark.parametrize("name", ["label", "instance"])
def test_arrays_of_another_length_fail_their_scene_alone(raw: Path, room: Room, name: str) -> None:
    (raw / "val/hall.ply").unlink()
    arrays = {"label": room.label, "instance": room.instance}
    np.savez(raw / "val/hall.npz", xyz=room.xyz, rgb=room.rgb, **(arrays | {name: arrays[name][:-5]}))
    report = prepare(raw)
    assert report.prepared == ["kitchen", "office"]
    assert report.failed["hall"] == (
        f"{raw}/val/hall.npz: {name}: expected {len(room.xyz)} values, one per point, found an array "
        f"({len(room.xyz) - 5},)"
    )


def test_a_damaged_compressed_npz_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "scan.npz"
    np.savez_compressed(path, xyz=np.random.default_rng(0).random((500, 3)))
    whole = path.read_bytes()
    for position in range(100, len(whole) - 200, 97):
        path.write_bytes(whole[:position] + bytes(16) + whole[position + 16 :])
        with pytest.raises(DataError, match=r"scan\.npz: cannot be read as npz"):
            read_npz(path)
