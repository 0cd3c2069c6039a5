"""A store in Pointcept's layout, and back."""

from pathlib import Path

import numpy as np
import pytest

from lg3d_core.errors import SettingsError
from lg3d_core.progress import Progress
from lg3d_core.settings import ExportStoreSettings, PrepareSettings
from lg3d_core.store import SceneStore, prepare_store
from lg3d_core.store.export_store import ExportStoreReport, export_store
from tests import box_rooms
from tests.labelled_scans import labelled_room, write_names, write_room_ply

FIELDS = ("xyz", "rgb", "normal", "label", "instance", "segment", "faces")


def prepare(raw: Path, store: Path, **options: object) -> SceneStore:
    report = prepare_store(PrepareSettings(**({"raw": raw, "store": store, "jobs": 1} | options)), Progress())
    assert report.failed == {}
    return SceneStore(store)


def export(store: Path, out: Path, **options: object) -> ExportStoreReport:
    return export_store(ExportStoreSettings(**({"store": store, "out": out, "jobs": 1} | options)), Progress())


@pytest.fixture
def store(tmp_path: Path) -> Path:
    box_rooms.write_dataset(tmp_path / "raw", train=2, val=1, test=1, spacing=0.2)
    prepare(tmp_path / "raw", tmp_path / "data", vocabulary=("scannet200", "scannet20"))
    return tmp_path / "data"


def test_an_exported_store_is_read_back_as_the_same_scenes(store: Path, tmp_path: Path) -> None:
    export(store, tmp_path / "out")
    prepare(tmp_path / "out", tmp_path / "back", vocabulary=("scannet200", "scannet20"))
    for vocabulary in ("scannet200", "scannet20"):
        before, after = SceneStore(store, vocabulary), SceneStore(tmp_path / "back", vocabulary)
        assert after.vocabulary == before.vocabulary
        for split in ("train", "val", "test"):
            assert after.scene_ids(split) == before.scene_ids(split)
        for scene_id in before.scene_ids():
            old, new = before.read(scene_id), after.read(scene_id)
            for field in FIELDS:
                np.testing.assert_array_equal(getattr(new, field), getattr(old, field), err_msg=field)


def test_arrays_have_the_names_and_conventions_of_pointcept(store: Path, tmp_path: Path) -> None:
    report = export(store, tmp_path / "out")
    folder = tmp_path / "out/train/scene9000_00"
    scene = SceneStore(store).read("scene9000_00")
    names = sorted(path.stem for path in folder.glob("*.npy"))
    assert names == ["color", "coord", "face", "instance", "normal", "segment20", "segment200", "superpoint"]
    np.testing.assert_array_equal(np.load(folder / "segment200.npy"), scene.label)
    np.testing.assert_array_equal(np.load(folder / "instance.npy"), scene.instance - 1)
    assert not list((tmp_path / "out/test").glob("*/segment*.npy"))
    assert len(report.written) == 4


def test_a_store_of_own_classes_takes_their_names_along(tmp_path: Path) -> None:
    raw, room = tmp_path / "raw", labelled_room(spacing=0.2)
    write_names(raw)
    write_room_ply(raw / "train/kitchen.ply", room, with_faces=False, label=room.label)
    before = prepare(raw, tmp_path / "data", scale="m", up="z")
    export(tmp_path / "data", tmp_path / "out")
    after = prepare(tmp_path / "out", tmp_path / "back")
    assert after.vocabulary.digest == before.vocabulary.digest
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(after.read("kitchen"), field), getattr(before.read("kitchen"), field))


def test_a_second_export_skips_what_is_there_and_writes_what_changed(store: Path, tmp_path: Path) -> None:
    export(store, tmp_path / "out")
    assert export(store, tmp_path / "out").written == []
    assert len(export(store, tmp_path / "out", force=True).written) == 4
    groups = tmp_path / "raw/scans/scene9000_00/scene9000_00.aggregation.json"
    groups.write_text(groups.read_text().replace('"chair"', '"table"'))
    prepare(tmp_path / "raw", store, vocabulary=("scannet200", "scannet20"))
    report = export(store, tmp_path / "out", jobs=2)
    assert (report.written, len(report.skipped)) == (["scene9000_00"], 3)


def test_a_folder_that_cannot_be_written_is_an_error(store: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(SettingsError, match=r"OUT must be a folder.*pass another OUT"):
        export(store, tmp_path / "out")
