"""Preparing a raw folder: what is written, what is skipped, what is refused, and what survives a kill."""

import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from lg3d_core.errors import DataError
from lg3d_core.files import lock_file
from lg3d_core.progress import Progress
from lg3d_core.scans.formats import scannet as scannet_format
from lg3d_core.seal import SEAL_BYTES
from lg3d_core.settings import PrepareSettings
from lg3d_core.store import PrepareReport, SceneStore, prepare_store
from lg3d_core.store.scene_file import read_scene_file, read_scene_header
from tests import box_rooms
from tests.notes import Notes

IDS = [f"scene900{k}_00" for k in range(5)]


def prepare(raw: Path, store: Path, progress: Progress | None = None, **options: Any) -> PrepareReport:
    settings = PrepareSettings(**({"raw": raw, "store": store, "jobs": 1} | options))
    return prepare_store(settings, progress or Progress())


def contents(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(store.rglob("*")) if path.suffix in (".h5", ".json")}


def aggregation(raw: Path, scene_id: str) -> Path:
    return raw / "scans" / scene_id / f"{scene_id}.aggregation.json"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    box_rooms.write_dataset(tmp_path / "raw", train=3, val=1, test=1, spacing=0.5)
    return tmp_path / "raw"


def test_rooms_become_a_store_with_their_splits(raw: Path, tmp_path: Path) -> None:
    report = prepare(raw, tmp_path / "data")
    assert report == (tmp_path / "data", IDS, [], {}, {})
    store = SceneStore(tmp_path / "data")
    assert [store.scene_ids(split) for split in ("train", "val", "test")] == [IDS[:3], IDS[3:4], IDS[4:]]


def test_a_scene_in_the_store_is_the_room_that_was_written(raw: Path, tmp_path: Path) -> None:
    prepare(raw, tmp_path / "data")
    scene = SceneStore(tmp_path / "data").read("scene9000_00")
    names = SceneStore(tmp_path / "data").vocabulary.index_by_name
    # The order in which the room was written: floor, two walls, then the objects; instance = place + 1.
    expected = ["floor", "wall", "wall", "chair", "table", "couch", "trash can", None]
    for place, name in enumerate(expected):
        labels = scene.label[scene.instance == place + 1]
        assert len(labels) > 5
        assert (labels == (-1 if name is None else names[name])).all()
    assert (scene.instance > 0).all()
    floor = scene.label == names["floor"]
    np.testing.assert_array_equal(scene.normal[floor], np.tile([0, 0, 1], (floor.sum(), 1)))
    assert (scene.faces < len(scene.xyz)).all()


def test_two_processes_write_what_one_does(raw: Path, tmp_path: Path) -> None:
    prepare(raw, tmp_path / "one")
    assert prepare(raw, tmp_path / "two", jobs=2).prepared == IDS
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_a_second_run_skips_everything_and_force_repeats_it(raw: Path, tmp_path: Path) -> None:
    prepare(raw, tmp_path / "data")
    before = contents(tmp_path / "data")
    assert prepare(raw, tmp_path / "data").skipped == IDS
    assert contents(tmp_path / "data") == before
    assert prepare(raw, tmp_path / "data", force=True).prepared == IDS
    assert contents(tmp_path / "data") == before


def test_only_what_changed_is_prepared_again(raw: Path, tmp_path: Path) -> None:
    prepare(raw, tmp_path / "data")
    digest = SceneStore(tmp_path / "data").digest
    body = json.loads(aggregation(raw, IDS[1]).read_text())
    aggregation(raw, IDS[1]).write_text(json.dumps(body | {"segGroups": body["segGroups"][:1]}))
    report = prepare(raw, tmp_path / "data")
    assert (report.prepared, len(report.skipped)) == ([IDS[1]], 4)
    assert SceneStore(tmp_path / "data").digest != digest
    (raw / "scannetv2_train.txt").write_text(f"{IDS[0]}\n{IDS[1]}\n")
    (raw / "scannetv2_val.txt").write_text(f"{IDS[2]}\n{IDS[3]}\n")
    assert prepare(raw, tmp_path / "data").prepared == [IDS[2]]
    with (raw / "scannetv2-labels.combined.tsv").open("a") as file:
        file.write("2\tthrone\tchair\t1\t5\n")
    assert prepare(raw, tmp_path / "data").prepared == IDS[:4]  # the test scan has no labels to look up


def test_a_copied_raw_folder_has_other_times_but_the_same_bytes(raw: Path, tmp_path: Path) -> None:
    prepare(raw, tmp_path / "data")
    for path in raw.rglob("*"):
        os.utime(path, (1, 1))
    assert prepare(raw, tmp_path / "data").skipped == IDS


def test_a_damaged_scene_file_is_prepared_again(raw: Path, tmp_path: Path) -> None:
    prepare(raw, tmp_path / "data")
    before = contents(tmp_path / "data")
    (tmp_path / "data/scenes" / f"{IDS[0]}.h5").write_bytes(before[f"{IDS[0]}.h5"][:500])
    (tmp_path / "data/scenes" / f"{IDS[1]}.h5").unlink()
    assert prepare(raw, tmp_path / "data").prepared == IDS[:2]
    assert contents(tmp_path / "data") == before


def test_a_bad_scene_is_named_and_the_others_are_prepared(raw: Path, tmp_path: Path) -> None:
    mesh = raw / "scans" / IDS[0] / f"{IDS[0]}_vh_clean_2.ply"
    mesh.write_bytes(mesh.read_bytes()[:-1])
    aggregation(raw, IDS[1]).unlink()
    (raw / "scans" / "empty").mkdir()
    listener = Notes()
    report = prepare(raw, tmp_path / "data", listener)
    assert report.prepared == IDS[2:]
    assert sorted(report.failed) == ["empty", IDS[0], IDS[1]]
    assert "truncated" in report.failed[IDS[0]]
    assert f"{IDS[1]}.aggregation.json: missing" in report.failed[IDS[1]]
    assert any(message.startswith(f"{IDS[0]} could not be prepared: {mesh}") for message in listener.warnings)
    assert SceneStore(tmp_path / "data").scene_ids() == IDS[2:]


def test_when_no_scene_can_be_prepared_there_is_no_store(raw: Path, tmp_path: Path) -> None:
    for mesh in raw.rglob("*.ply"):
        mesh.write_bytes(b"")
    assert sorted(prepare(raw, tmp_path / "data").failed) == IDS
    with pytest.raises(DataError, match="unfinished"):
        SceneStore(tmp_path / "data")


def test_the_same_id_in_both_folders_is_prepared_from_neither(raw: Path, tmp_path: Path) -> None:
    shutil.copytree(raw / "scans" / IDS[0], raw / "scans_test" / IDS[0])
    report = prepare(raw, tmp_path / "data")
    assert "exists in both" in report.failed[IDS[0]]
    assert report.prepared == IDS[1:]


def test_unmapped_labels_are_counted_also_when_scenes_are_skipped(raw: Path, tmp_path: Path) -> None:
    for scene_id in IDS[:2]:
        path = aggregation(raw, scene_id)
        path.write_text(path.read_text().replace('"chair"', '"throne"'))
    assert prepare(raw, tmp_path / "data").unmapped == {"throne": 2}
    assert prepare(raw, tmp_path / "data").unmapped == {"throne": 2}


def test_a_scene_in_no_split_goes_to_train_with_a_warning(raw: Path, tmp_path: Path) -> None:
    (raw / "scannetv2_val.txt").unlink()
    listener = Notes()
    prepare(raw, tmp_path / "data", listener)
    assert f"scenes without a split, used for training: 1 ({IDS[3]})" in listener.warnings[0]
    assert SceneStore(tmp_path / "data").split_of(IDS[3]) == "train"


def test_listed_scenes_without_a_scan_are_counted(raw: Path, tmp_path: Path) -> None:
    lines = (raw / "scannetv2_val.txt").read_text().splitlines()
    (raw / "scannetv2_val.txt").write_bytes("\r\n\r\n".join(["", *lines, " scene9999_00 "]).encode())
    listener = Notes()
    prepare(raw, tmp_path / "data", listener)
    assert listener.warnings == [
        f"1 of {len(IDS) + 1} scenes in the split files have no scan in {raw}: left out (scene9999_00)"
    ]


def test_the_folders_split_files_win_over_the_benchmarks(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    box_rooms.write_label_table(raw)
    for scene_id in ("scene0011_00", "scene0000_00"):  # val and train in the benchmark
        box_rooms.write_room(raw, scene_id, spacing=0.5)
    (raw / "scannetv2_test.txt").write_text("scene0000_00\n")
    prepare(raw, tmp_path / "data")
    store = SceneStore(tmp_path / "data")
    assert (store.scene_ids("val"), store.scene_ids("test")) == (["scene0011_00"], ["scene0000_00"])
    assert (store.read("scene0000_00").label >= 0).any()  # annotated scans keep their labels in every split


def test_test_scans_have_geometry_alone_and_need_no_table(raw: Path, tmp_path: Path) -> None:
    shutil.rmtree(raw / "scans")
    (raw / "scannetv2-labels.combined.tsv").unlink()
    assert prepare(raw, tmp_path / "data").prepared == IDS[4:]
    scene = SceneStore(tmp_path / "data").read(IDS[4])
    assert (scene.split, scene.label.max(), scene.instance.max(), scene.segment.max()) == ("test", -1, 0, -1)


def test_a_store_without_seals_is_sealed_and_not_prepared_again(raw: Path, tmp_path: Path) -> None:
    prepare(raw, tmp_path / "data")
    before = contents(tmp_path / "data")
    for path in (tmp_path / "data/scenes").glob("*.h5"):
        path.write_bytes(path.read_bytes()[:-SEAL_BYTES])
    damaged = tmp_path / "data/scenes" / f"{IDS[1]}.h5"
    with h5py.File(damaged) as file:
        chunk = file["points/xyz"].id.get_chunk_info(0)
    data = bytearray(damaged.read_bytes())
    data[chunk.byte_offset + chunk.size // 2] ^= 1
    damaged.write_bytes(bytes(data))
    report = prepare(raw, tmp_path / "data")
    assert (report.prepared, report.skipped) == ([IDS[1]], [IDS[0], *IDS[2:]])
    assert contents(tmp_path / "data") == before


def test_another_prepare_and_a_shard_running_twice_are_kept_out(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with lock_file(tmp_path / "data" / ".lock"), pytest.raises(DataError, match="in use by another lg3d prepare"):
        prepare(raw, tmp_path / "data")
    with lock_file(tmp_path / "data" / ".lock", shared=True):
        assert prepare(raw, tmp_path / "data", shard="1/2").prepared == IDS[::2]
        with (
            lock_file(tmp_path / "data" / ".lock-2-of-2"),
            pytest.raises(DataError, match="another lg3d prepare of shard 2/2"),
        ):
            prepare(raw, tmp_path / "data", shard="2/2")


def test_a_store_of_another_vocabulary_is_kept_unless_forced(raw: Path, tmp_path: Path) -> None:
    prepare(raw, tmp_path / "data")
    before = contents(tmp_path / "data")
    with pytest.raises(DataError, match="contains scenes of the vocabulary scannet200, not scannet20: choose another"):
        prepare(raw, tmp_path / "data", vocabulary=("scannet20",))
    assert contents(tmp_path / "data") == before
    shutil.rmtree(raw / "scans" / IDS[0])
    listener = Notes()
    prepare(raw, tmp_path / "data", listener, vocabulary=("scannet20",), force=True)
    store = SceneStore(tmp_path / "data")
    assert (store.vocabulary.name, store.scene_ids()) == ("scannet20", IDS[1:])
    assert any("another vocabulary" in message for message in listener.warnings)


def test_a_damaged_file_of_a_scene_that_is_gone_is_not_listed_in_the_index(raw: Path, tmp_path: Path) -> None:
    prepare(raw, tmp_path / "data")
    (tmp_path / "data/scenes" / f"{IDS[0]}.h5").write_bytes(b"no")
    shutil.rmtree(raw / "scans" / IDS[0])
    listener = Notes()
    prepare(raw, tmp_path / "data", listener)
    assert SceneStore(tmp_path / "data").scene_ids() == IDS[1:]
    assert any(message.startswith("not listed in store.json") for message in listener.warnings)


def test_a_store_that_cannot_be_made_is_an_error(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot create the folder .*choose another --store"):
        prepare(raw, tmp_path / "file")


def test_a_missing_label_table_stops_before_anything_is_written(raw: Path, tmp_path: Path) -> None:
    (raw / "scannetv2-labels.combined.tsv").unlink()
    with pytest.raises(DataError, match="cannot read the label table"):
        prepare(raw, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_full_disk_stops_the_run_and_the_next_one_continues(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, calls = os.fsync, itertools.count()

    def full(descriptor: int) -> None:
        if next(calls) == 4:  # two scenes, each with its folder, went well
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"No space left on device.*then run again"):
        prepare(raw, tmp_path / "data")
    assert sorted(entry.name for entry in (tmp_path / "data/scenes").iterdir()) == [f"{s}.h5" for s in IDS[:2]]
    report = prepare(raw, tmp_path / "data")
    assert (report.skipped, report.prepared) == (IDS[:2], IDS[2:])


PROGRAM = """
    import resource, sys
    from pathlib import Path
    from lg3d_core.errors import DataError
    from lg3d_core.progress import Progress
    from lg3d_core.settings import PrepareSettings
    from lg3d_core.store import prepare_store

    if __name__ == "__main__":
        raw, store, jobs, limit = sys.argv[1:]
        if int(limit):
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
        try:
            prepare_store(PrepareSettings(raw=Path(raw), store=Path(store), jobs=int(jobs)), Progress())
        except DataError as error:
            sys.exit(str(error))
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(PROGRAM))
    return path


def start(program: Path, raw: Path, store: Path, *, jobs: int = 1, limit: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, str(program), str(raw), str(store), str(jobs), str(limit)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_file_system_that_takes_no_more_is_one_line_and_leaves_no_halves(
    raw: Path, tmp_path: Path, program: Path, jobs: int
) -> None:
    process = start(program, raw, tmp_path / "data", jobs=jobs, limit=10_000)  # less than any scene's file
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert len(errors.strip().splitlines()) == 1
    assert "cannot write" in errors
    assert "File too large" in errors
    assert list((tmp_path / "data/scenes").iterdir()) == []


def count_files(store: Path) -> int:
    return sum(1 for path in store.glob("scenes/*.h5") if not path.name.startswith("."))


def temporaries(store: Path) -> list[Path]:
    return list(store.glob("scenes/.*.tmp"))


def test_a_killed_prepare_leaves_whole_scenes_and_the_next_run_continues(tmp_path: Path, program: Path) -> None:
    raw, store = tmp_path / "raw", tmp_path / "data"
    box_rooms.write_dataset(raw, train=16, val=4, spacing=0.1)
    prepare(raw, tmp_path / "whole")
    kills = 0
    seen = 0
    # Killed as soon as the folder is there, while a file is being written, and after one, two, ... more scenes.
    moments = [
        (1, lambda: (store / "scenes").is_dir()),
        (1, lambda: bool(temporaries(store))),
        (1, lambda: count_files(store) > seen),
        (2, lambda: count_files(store) > seen + 1),
        (2, lambda: bool(temporaries(store)) and count_files(store) > seen),
        (1, lambda: count_files(store) > seen + 3),
    ]
    for jobs, reached in moments:
        seen = count_files(store)
        process = start(program, raw, store, jobs=jobs)
        while process.poll() is None and not reached():
            time.sleep(0.0002)
        if process.poll() is None:
            process.kill()
            kills += 1
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
        for path in store.glob("scenes/*.h5"):
            assert read_scene_file(path, num_classes=200).scene_id == path.stem
    assert kills >= 4
    assert 0 < count_files(store) < 20
    with pytest.raises(DataError, match="unfinished"):
        SceneStore(store)
    (store / "scenes" / ".left.h5.00000000.tmp").write_bytes(b"by a killed process")
    wait_for_lock(store)
    report = prepare(raw, store)
    assert len(report.skipped) >= 1
    assert len(report.skipped) + len(report.prepared) == 20
    assert contents(store) == contents(tmp_path / "whole")
    assert temporaries(store) == []


def wait_for_lock(store: Path) -> None:
    """The lock goes with the process, but its workers may outlive it for a moment and finish a file."""
    for _ in range(100):
        names = sorted(path.name for path in (store / "scenes").iterdir())
        time.sleep(0.1)
        if names == sorted(path.name for path in (store / "scenes").iterdir()):
            return


def test_workers_end_with_a_killed_parent(tmp_path: Path, program: Path) -> None:
    box_rooms.write_dataset(tmp_path / "raw", train=12, val=1, spacing=0.1)
    process = start(program, tmp_path / "raw", tmp_path / "data", jobs=2)
    while not count_files(tmp_path / "data"):
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.communicate(timeout=20)  # waits until every process that holds this end of stderr is gone
    for _ in range(100):
        if not group_exists(process.pid):
            return
        time.sleep(0.1)
    pytest.fail("a worker is still there after ten seconds")


def group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_scene_file_records_its_inputs(raw: Path, tmp_path: Path) -> None:
    prepare(raw, tmp_path / "data")
    header = read_scene_header(tmp_path / "data/scenes" / f"{IDS[0]}.h5")
    assert header.split == "train"
    assert [name for name, _, _ in json.loads(header.source_stamp)] == [
        f"{IDS[0]}_vh_clean_2.ply",
        f"{IDS[0]}_vh_clean_2.0.010000.segs.json",
        f"{IDS[0]}.aggregation.json",
        f"{IDS[0]}.txt",
    ]
    index = json.loads((tmp_path / "data/store.json").read_text())
    assert index["splits"]["val"] == [IDS[3]]
    assert index["provenance"]["label_table"] == header.label_table
    assert sum(header.class_counts.values()) == sum(index["scenes"][IDS[0]]["class_counts"].values())


def test_a_file_that_vanishes_while_it_is_looked_at_fails_its_scene_alone(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = scannet_format.require_files

    def vanish(files: Any) -> None:
        original(files)
        if files.scene_id == IDS[0]:
            files.info.unlink()

    monkeypatch.setattr(scannet_format, "require_files", vanish)
    report = prepare(raw, tmp_path / "data")
    assert report.prepared == IDS[1:]
    assert "cannot be read" in report.failed[IDS[0]]
