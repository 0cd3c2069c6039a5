"""Folders of numpy arrays as Pointcept writes them."""

from pathlib import Path

import numpy as np
import pytest

from lg3d_core.errors import DataError, UsageError
from lg3d_core.progress import Progress
from lg3d_core.scans.audit import audit_folder
from lg3d_core.scans.formats.open_folder import open_folder
from lg3d_core.settings import PrepareSettings
from lg3d_core.store import PrepareReport, SceneStore, prepare_store
from lg3d_core.vocabulary import load_vocabulary
from tests.labelled_scans import NAMES, Room, labelled_room, write_names, write_pointcept_scene
from tests.notes import Notes


@pytest.fixture
def room() -> Room:
    return labelled_room(spacing=0.2)


@pytest.fixture
def raw(tmp_path: Path, room: Room) -> Path:
    folder = tmp_path / "raw"
    write_names(folder)
    for split, name in (("train", "kitchen"), ("train", "office"), ("val", "hall")):
        write_pointcept_scene(folder / split / name, room)
    return folder


def prepare(raw: Path, progress: Progress | None = None, **options: object) -> PrepareReport:
    settings = PrepareSettings(**({"raw": raw, "store": raw.parent / "data", "jobs": 1} | options))
    return prepare_store(settings, progress or Progress())


def test_a_folder_of_arrays_is_recognised_and_becomes_a_store(raw: Path, room: Room) -> None:
    listener = Notes()
    report = prepare(raw, listener)
    assert (report.prepared, report.failed, report.unmapped) == (["hall", "kitchen", "office"], {}, {})
    assert listener.notes[0] == (
        f"{raw} is read as pointcept: it has train/kitchen/coord.npy (lg3d prepare --format overrides)"
    )
    store = SceneStore(report.store)
    assert (store.scene_ids("train"), store.scene_ids("val")) == (["kitchen", "office"], ["hall"])
    assert store.vocabulary.names == NAMES
    scene = store.read("hall")
    np.testing.assert_array_equal(scene.xyz, room.xyz)
    np.testing.assert_array_equal(scene.rgb, room.rgb)
    np.testing.assert_array_equal(scene.label, room.label)
    np.testing.assert_array_equal(scene.instance, room.instance)  # numbered from 0 in the files, from 1 in the store
    np.testing.assert_array_equal(scene.normal, np.tile([0, 0, 1], (len(room.xyz), 1)))
    assert (len(scene.faces), scene.segment.max()) == (0, -1)


def test_a_second_run_skips_everything_and_a_changed_array_is_read_again(raw: Path, room: Room) -> None:
    prepare(raw)
    assert prepare(raw).prepared == []
    np.save(raw / "val/hall/segment.npy", np.roll(room.label, 1))
    assert prepare(raw).prepared == ["hall"]
    assert prepare(raw, object_ids="none").prepared == ["hall", "kitchen", "office"]
    assert (SceneStore(raw.parent / "data").read("hall").instance == 0).all()


def test_arrays_of_scannet200_are_indices_in_the_order_of_the_ids(tmp_path: Path, room: Room) -> None:
    raw = tmp_path / "raw"
    label = np.arange(len(room.xyz)) % 201 - 1
    write_pointcept_scene(raw / "train/scene0000_00", room._replace(label=label), array="segment200")
    np.save(raw / "train/scene0000_00/segment20.npy", label % 20)
    prepare(raw)
    store = SceneStore(tmp_path / "data")
    assert store.vocabulary == load_vocabulary("scannet200")
    np.testing.assert_array_equal(store.read("scene0000_00").label, label)
    with pytest.raises(DataError, match="contains scenes of the vocabulary scannet200"):
        prepare(raw, vocabulary=("scannet20",))


def test_the_label_array_can_be_chosen(raw: Path, room: Room) -> None:
    for split, name in (("train", "kitchen"), ("train", "office"), ("val", "hall")):
        np.save(raw / split / name / "segment_coarse.npy", np.minimum(room.label, 2)[:, None])  # some have (N, 1)
    prepare(raw, labels=("segment_coarse",))
    np.testing.assert_array_equal(SceneStore(raw.parent / "data").read("hall").label, np.minimum(room.label, 2))


def test_the_first_of_several_labels_per_point_is_the_main_one(raw: Path, room: Room) -> None:
    several = np.stack([room.label, np.full_like(room.label, -1), np.full_like(room.label, -1)], axis=1)
    np.save(raw / "val/hall/segment.npy", several)
    np.save(raw / "val/hall/instance.npy", np.stack([room.instance, room.instance], axis=1))
    prepare(raw)
    scene = SceneStore(raw.parent / "data").read("hall")
    np.testing.assert_array_equal(scene.label, room.label)
    np.testing.assert_array_equal(scene.instance, room.instance + 1)


def test_scenes_without_colours_normals_or_objects_are_prepared(raw: Path) -> None:
    for name in ("color", "normal", "instance"):
        (raw / f"val/hall/{name}.npy").unlink()
    listener = Notes()
    prepare(raw, listener)
    scene = SceneStore(raw.parent / "data").read("hall")
    assert (set(scene.rgb.ravel()), scene.normal.any(), scene.instance.any()) == ({128}, False, False)
    assert listener.warnings == [f"{raw}/val/hall: no color.npy: using grey, which reduces accuracy"]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [([-5, -1, 0, 2**40], [-1, -1, 0, 1]), ([np.nan, 3, 3, 0], [-1, 3, 3, 0])],
    ids=["negative and large", "not a number"],
)
def test_superpoints_of_any_numbers_are_stored(
    raw: Path, room: Room, numbers: list[float], expected: list[int]
) -> None:
    np.save(raw / "val/hall/superpoint.npy", np.resize(np.array(numbers), len(room.xyz)))
    prepare(raw)
    segment = SceneStore(raw.parent / "data").read("hall").segment
    np.testing.assert_array_equal(segment, np.resize(expected, len(room.xyz)))


BAD = {
    "labels of another length": (
        lambda hall, room: np.save(hall / "segment.npy", room.label[:-3]),
        r"segment\.npy: expected (\d+) values, one per point, found an array",
    ),
    "no positions": (lambda hall, _: (hall / "coord.npy").unlink(), r"hall/coord\.npy: missing$"),
    "no labels": (lambda hall, _: (hall / "segment.npy").unlink(), r"segment\.npy: missing; the folder has no labels"),
    "a truncated file": (
        lambda hall, _: (hall / "coord.npy").write_bytes((hall / "coord.npy").read_bytes()[:200]),
        r"coord\.npy: cannot be read as a numpy array",
    ),
    "pickled objects": (
        lambda hall, _: np.save(hall / "segment.npy", np.array([{}], dtype=object)),
        r"segment\.npy: cannot be read as a numpy array",
    ),
    "labels that are no whole numbers": (
        lambda hall, room: np.save(hall / "segment.npy", room.label + 0.5),
        r"segment\.npy: expected whole numbers, found 0\.5 at point 0",
    ),
    "objects that are text": (
        lambda hall, room: np.save(hall / "instance.npy", room.instance.astype(str)),
        r"instance\.npy: expected numbers, found <U",
    ),
    "objects that are no whole numbers": (
        lambda hall, room: np.save(hall / "instance.npy", room.instance + 0.5),
        r"instance\.npy: expected whole numbers, found",
    ),
    "superpoints that are text": (
        lambda hall, room: np.save(hall / "superpoint.npy", room.instance.astype(str)),
        r"superpoint\.npy: expected numbers, found <U",
    ),
    "an object id beyond 64 bits": (
        lambda hall, room: np.save(hall / "instance.npy", np.full(len(room.xyz), 2**63 + 5, np.uint64)),
        r"instance\.npy: a value of 9223372036854775813 is too large",
    ),
    "other units": (
        lambda hall, room: np.save(hall / "coord.npy", room.xyz * 100),
        r"400 x 300 x 200 units: expected metres, but cm fit a room better: pass --scale cm, or --scale m",
    ),
    "positions of another shape": (
        lambda hall, room: np.save(hall / "coord.npy", room.xyz[:, :2]),
        r"coord\.npy: expected an array \(points, 3\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_scene_is_one_line_and_the_others_are_prepared(raw: Path, room: Room, name: str) -> None:
    change, reason = BAD[name]
    change(raw / "val/hall", room)
    report = prepare(raw)
    assert (report.prepared, list(report.failed)) == (["kitchen", "office"], ["hall"])
    with pytest.raises(DataError, match=reason):
        raise DataError(report.failed["hall"])
    assert "\n" not in report.failed["hall"]
    audit = audit_folder(open_folder(PrepareSettings(raw=raw)), jobs=1, progress=Progress())
    assert [(problem.scene, problem.reason, problem.fatal) for problem in audit.problems] == [
        ("hall", report.failed["hall"], True)
    ]


def test_labels_outside_the_vocabulary_are_counted_and_listed(raw: Path, room: Room) -> None:
    label = room.label.copy()
    label[:10], label[10:13] = 250, 99
    np.save(raw / "val/hall/segment.npy", label)
    listener = Notes()
    report = prepare(raw, listener)
    assert report.unmapped == {"250": 10, "99": 3}
    assert listener.warnings == [
        "13 points have no label, because the vocabulary lacks their raw labels ('250' 10, '99' 3)"
    ]
    assert (SceneStore(report.store).read("hall").label[:13] == -1).all()


def test_the_same_name_in_two_splits_is_prepared_from_neither(raw: Path, room: Room) -> None:
    write_pointcept_scene(raw / "train/hall", room)
    report = prepare(raw)
    assert report.prepared == ["kitchen", "office"]
    assert report.failed["hall"].startswith("hall occurs 2 times (")


def test_the_unit_can_be_passed(raw: Path, room: Room) -> None:
    for folder in (raw / "train/kitchen", raw / "train/office", raw / "val/hall"):
        np.save(folder / "coord.npy", room.xyz * 100)
    report = prepare(raw, scale="cm")
    np.testing.assert_allclose(SceneStore(report.store).read("hall").xyz, room.xyz, atol=1e-5)


def test_areas_of_s3dis_are_split_by_the_usual_convention(tmp_path: Path, room: Room) -> None:
    raw = tmp_path / "raw"
    write_names(raw)
    for name in ("Area_1/office_1", "Area_5/office_1"):
        write_pointcept_scene(raw / name, room)
    prepare(raw)
    store = SceneStore(tmp_path / "data")
    assert (store.scene_ids("train"), store.scene_ids("val")) == (["Area_1_office_1"], ["Area_5_office_1"])


def test_split_files_win_over_folders(raw: Path) -> None:
    (raw / "val.txt").write_text("office\n")
    (raw / "test.txt").write_text("hall\n")
    prepare(raw)
    store = SceneStore(raw.parent / "data")
    assert [store.split_of(scene) for scene in ("hall", "kitchen", "office")] == ["test", "train", "val"]
    (raw / "train.txt").write_text("office\n")
    with pytest.raises(DataError, match=r"val.txt lists office, which train.txt lists too"):
        prepare(raw)


def test_a_folder_without_class_names_says_how_to_pass_them(raw: Path) -> None:
    (raw / "classes.tsv").unlink()
    with pytest.raises(DataError, match=r"has no class names: put them there as classes\.tsv"):
        prepare(raw)
    assert not (raw.parent / "data").exists()


def test_there_is_one_label_array_per_vocabulary(raw: Path) -> None:
    with pytest.raises(UsageError, match="2 --labels for 1 vocabularies: pass --labels once per --vocabulary"):
        prepare(raw, labels=("segment", "segment20"))


def test_shards_of_another_format_merge(raw: Path) -> None:
    from lg3d_core.settings import StoreCheckSettings
    from lg3d_core.store import merge_shards

    prepare(raw, shard="1/2")
    prepare(raw, shard="2/2")
    merged = merge_shards(StoreCheckSettings(store=raw.parent / "data", jobs=1), Progress())
    assert merged.scenes == ["hall", "kitchen", "office"]


def test_scenes_without_faces_objects_and_segments_train(tmp_path: Path, room: Room) -> None:
    from lg3d_core.evaluation.eval import evaluate
    from lg3d_core.settings import EvalSettings, FinetuneSettings
    from lg3d_core.training.finetune import finetune

    raw = tmp_path / "raw"
    for split, name in (("train", "scene0000_00"), ("train", "scene0001_00"), ("val", "scene0011_00")):
        folder = write_pointcept_scene(raw / split / name, room, array="segment200")
        for array in ("instance", "normal"):
            (folder / f"{array}.npy").unlink()
    prepare(raw)
    settings = FinetuneSettings(
        store=tmp_path / "data",
        runs=tmp_path / "runs",
        start="scratch",
        network="14A",
        voxel_size=0.2,
        epochs=1,
        batch_size=2,
        limited=0.2,
        instances=2,
        jobs=0,
        device="cpu",
    )
    checkpoint = finetune(settings, Progress())
    found = evaluate(EvalSettings(store=tmp_path / "data", checkpoint=checkpoint, device="cpu"), Progress())
    assert found.vertex.support.sum() == len(room.xyz)
