"""Array jobs: each shard writes its own files alone, and the merge takes nothing that is missing, torn or doubled."""

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lg3d_core.errors import DataError
from lg3d_core.files import lock_file
from lg3d_core.progress import Progress
from lg3d_core.settings import StoreCheckSettings
from lg3d_core.store import MergeReport, SceneStore, merge_shards
from tests import box_rooms
from tests.notes import Notes
from tests.test_store_prepare import IDS, prepare


def merge(store: Path, progress: Progress | None = None) -> MergeReport:
    return merge_shards(StoreCheckSettings(store=store, jobs=1), progress or Progress())


def contents(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in [store / "store.json", *sorted((store / "scenes").iterdir())]}


@pytest.fixture(scope="module")
def raw_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    raw = tmp_path_factory.mktemp("shards") / "raw"
    box_rooms.write_dataset(raw, train=3, val=1, test=1, spacing=0.5)
    return raw


@pytest.fixture
def raw(raw_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(raw_once, tmp_path / "raw"))


@pytest.fixture
def sharded(raw: Path, tmp_path: Path) -> Path:
    for k in (2, 3, 1):
        prepare(raw, tmp_path / "data", shard=f"{k}/3")
    return tmp_path / "data"


def test_merged_shards_equal_a_single_prepare(raw: Path, tmp_path: Path) -> None:
    prepare(raw, tmp_path / "whole")
    done = [prepare(raw, tmp_path / "data", shard=f"{k}/3").prepared for k in (2, 3, 1)]
    assert done == [[IDS[1], IDS[4]], [IDS[2]], [IDS[0], IDS[3]]]
    with pytest.raises(
        DataError, match=r"unfinished scene store .* when all shards are done, run lg3d prepare --merge"
    ):
        SceneStore(tmp_path / "data")
    assert merge(tmp_path / "data") == (tmp_path / "data", 3, IDS, {}, {})
    assert contents(tmp_path / "data") == contents(tmp_path / "whole")
    assert merge(tmp_path / "data").scenes == IDS  # a second time is no harm
    assert prepare(raw, tmp_path / "data").skipped == IDS
    assert not list((tmp_path / "data/shards").iterdir())  # a plain prepare is the last word


def test_a_shard_that_ran_twice_counts_once(raw: Path, sharded: Path) -> None:
    assert prepare(raw, sharded, shard="2/3").skipped == [IDS[1], IDS[4]]
    assert merge(sharded).scenes == IDS


def test_shards_run_at_the_same_time_in_separate_processes(raw: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-m", "lg3d_cli", "prepare"]
    options = {"cwd": tmp_path, "env": environment, "text": True, "capture_output": True}
    running = [
        subprocess.Popen([*program, raw, "--jobs", "1", "--shard", f"{k}/2"], cwd=tmp_path, env=environment)
        for k in (1, 2)
    ]
    assert [process.wait(timeout=60) for process in running] == [0, 0]
    done = subprocess.run([*program, "--merge", "--json", "--jobs", "1"], check=True, timeout=60, **options)
    report = json.loads(done.stdout)
    assert (report["shards"], report["scenes"], report["failed"]) == (2, IDS, {})
    assert SceneStore(tmp_path / "data").scene_ids() == IDS


def test_bad_scenes_of_all_shards_are_named(raw: Path, tmp_path: Path) -> None:
    for scene_id in IDS[:2]:
        (raw / "scans" / scene_id / f"{scene_id}_vh_clean_2.ply").write_bytes(b"")
    for k in (1, 2):
        prepare(raw, tmp_path / "data", shard=f"{k}/2")
    report = merge(tmp_path / "data")
    assert (report.scenes, sorted(report.failed)) == (IDS[2:], IDS[:2])
    assert "begins with 'ply'" in report.failed[IDS[0]]
    assert SceneStore(tmp_path / "data").scene_ids() == IDS[2:]


def test_unmapped_labels_are_added_up(raw: Path, tmp_path: Path) -> None:
    for scene_id in IDS[:2]:
        path = raw / "scans" / scene_id / f"{scene_id}.aggregation.json"
        path.write_text(path.read_text().replace('"chair"', '"throne"'))
    for k in (1, 2):
        prepare(raw, tmp_path / "data", shard=f"{k}/2")
    assert merge(tmp_path / "data").unmapped == {"throne": 2}


def scene_file(store: Path, k: int) -> Path:
    return store / "scenes" / f"{IDS[k]}.h5"


def part(store: Path, k: int) -> Path:
    return store / "shards" / f"{k}-of-3.json"


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


WRONG: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "no shard": (lambda _, store: shutil.rmtree(store / "shards"), "contains no finished shards to merge"),
    "a shard that is not done": (
        lambda _, store: part(store, 2).unlink(),
        r"1 of 3 shards are not done: run --shard 2/3, then merge",
    ),
    "a missing scene": (lambda _, store: scene_file(store, 0).unlink(), r"run --shard 1/3 again.*missing"),
    "a torn scene": (
        lambda _, store: scene_file(store, 1).write_bytes(scene_file(store, 1).read_bytes()[:-200]),
        r"1 scenes differ from what their shards wrote \(run --shard 2/3 again\)",
    ),
    "a damaged scene": (
        lambda _, store: scene_file(store, 2).write_bytes(b"x" + scene_file(store, 2).read_bytes()[1:]),
        r"run --shard 3/3 again.*checksum mismatch",
    ),
    "another scene's file": (
        lambda _, store: shutil.copy(scene_file(store, 0), scene_file(store, 1)),
        r"run --shard 2/3 again.*was modified after its shard wrote it",
    ),
    "a scene in two shards": (
        lambda _, store: edit(part(store, 2), seals=json.loads(part(store, 1).read_text())["seals"]),
        f"{IDS[0]} is in shards 1 and 2: run both again",
    ),
    "other scans": (
        lambda _, store: edit(part(store, 3), plan="0" * 16),
        r"shard 3/3 of .* was made from other scans.*run the shards again on an unchanged raw folder",
    ),
    "a damaged part": (lambda _, store: part(store, 1).write_text("{}"), r"1-of-3\.json is damaged.*--shard 1/3 again"),
    "a part cut short": (lambda _, store: part(store, 1).write_text('{"for'), r"not JSON.*run --shard 1/3 again"),
    "a name that leaves the folder": (
        lambda _, store: edit(part(store, 1), seals={"../../x": "0" * 64}),
        r"1-of-3\.json is damaged",
    ),
    "a vocabulary that is none": (
        lambda _, store: edit(part(store, 1), vocabularies=[]),
        r"1-of-3\.json is damaged",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_missing_damaged_or_duplicate_shards_are_not_merged(raw: Path, sharded: Path, name: str) -> None:
    change, reason = WRONG[name]
    change(raw, sharded)
    with pytest.raises(DataError, match=reason):
        merge(sharded)
    assert not (sharded / "store.json").exists()


@pytest.mark.parametrize("name", ["a missing scene", "a torn scene", "a damaged scene", "another scene's file"])
def test_the_shard_that_is_named_mends_it(raw: Path, sharded: Path, name: str) -> None:
    WRONG[name][0](raw, sharded)
    with pytest.raises(DataError) as found:
        merge(sharded)
    shard = str(found.value).partition("run --shard ")[2].partition(" again")[0]
    assert len(prepare(raw, sharded, shard=shard).prepared) == 1
    assert merge(sharded).scenes == IDS


def test_a_shard_over_another_raw_folder_is_noticed(raw: Path, sharded: Path) -> None:
    box_rooms.write_room(raw, "scene9009_00", spacing=0.5)
    prepare(raw, sharded, shard="2/3")
    with pytest.raises(DataError, match="was made from other scans"):
        merge(sharded)


def test_parts_of_a_job_cut_another_way_are_forgotten(raw: Path, sharded: Path) -> None:
    prepare(raw, sharded, shard="1/2")
    with pytest.raises(DataError, match=r"1 of 2 shards are not done: run --shard 2/2"):
        merge(sharded)
    (sharded / "shards/1-of-3.json").write_text("{}")
    with pytest.raises(DataError, match="mixes jobs with 2 and 3 shards"):
        merge(sharded)


def test_merging_while_a_shard_runs_is_an_error(sharded: Path) -> None:
    with lock_file(sharded / ".lock", shared=True), pytest.raises(DataError, match="in use by a running shard"):
        merge(sharded)


def test_merging_without_shards_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no shards in .*: first run lg3d prepare RAW"):
        merge(tmp_path / "none")


def test_a_file_system_without_locks_only_gives_a_warning(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    listener = Notes()
    for k in (1, 2):
        prepare(raw, tmp_path / "data", listener, shard=f"{k}/2")
    assert merge(tmp_path / "data").scenes == IDS
    assert "has no locks: do not start a second lg3d prepare on it" in listener.warnings[0]
    young = tmp_path / "data/scenes/.other.h5.00000000.tmp"
    young.write_bytes(b"")  # perhaps another's, who is at work
    assert prepare(raw, tmp_path / "data", listener).skipped == IDS
    assert young.exists()
    with pytest.raises(DataError, match="mounted without locks"), lock_file(tmp_path / "lock"):
        pass
