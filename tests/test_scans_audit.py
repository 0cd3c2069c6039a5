"""The audit finds what was broken on purpose, all of it, and writes nothing."""

import json
import shutil
from pathlib import Path

import pytest

from lg3d_core.errors import DataError
from lg3d_core.progress import Progress
from lg3d_core.scans import AuditReport, audit_folder
from lg3d_core.scans.formats.scannet import open_scannet
from lg3d_core.vocabulary import load_vocabulary
from tests import box_rooms


def audit(raw: Path, *, jobs: int = 1) -> AuditReport:
    return audit_folder(open_scannet(raw, (load_vocabulary(),)), jobs=jobs, progress=Progress())


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    box_rooms.write_dataset(tmp_path / "raw", train=2, val=1, test=1, spacing=0.5)
    return tmp_path / "raw"


def edit(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_clean_rooms_have_no_problems(rooms: Path) -> None:
    report = audit(rooms)
    assert (report.problems, report.unmapped, report.num_scenes) == ([], {}, 4)
    assert report.num_vertices > 100


def test_two_processes_find_what_one_does(rooms: Path) -> None:
    (rooms / "scans/scene9001_00/scene9001_00.txt").unlink()
    assert audit(rooms, jobs=2) == audit(rooms)


def test_everything_wrong_in_one_scene_is_found_at_once(rooms: Path) -> None:
    scene = rooms / "scans" / "scene9000_00"
    (scene / "scene9000_00.txt").write_text("axisAlignment = 1 2 3\n")
    edit(scene / "scene9000_00_vh_clean_2.0.010000.segs.json", segIndices=[7, 8])
    groups = [
        {"objectId": 0, "segments": [7], "label": "chair"},
        {"objectId": 0, "segments": [12345], "label": "throne"},
        {"objectId": 2, "segments": [], "label": "throne"},
    ]
    edit(scene / "scene9000_00.aggregation.json", segGroups=groups)
    report = audit(rooms)
    assert report.unmapped == {"throne": 2}
    assert {problem.scene for problem in report.problems} == {"scene9000_00"}
    reasons = [problem.reason for problem in report.problems if problem.fatal]
    assert any("needs 16 finite numbers, found 3" in reason for reason in reasons)
    assert any("segIndices has 2 entries" in reason for reason in reasons)
    assert len(reasons) == 2


def test_odd_groups_are_told_and_do_not_stop_prepare(rooms: Path) -> None:
    path = rooms / "scans" / "scene9000_00" / "scene9000_00.aggregation.json"
    groups = json.loads(path.read_text())["segGroups"]
    groups += [{"objectId": 0, "segments": [12345], "label": "chair"}, {"objectId": 50, "segments": [], "label": "x"}]
    edit(path, segGroups=groups)
    report = audit(rooms)
    assert [problem.reason.partition("json: ")[2] for problem in report.problems] == [
        "1 groups have no segments (objectId 50)",
        "1 groups refer to segments that do not exist (objectId 0)",
        "1 objectIds occur in several groups (objectId 0)",
    ]
    assert not any(problem.fatal for problem in report.problems)


def test_missing_files_are_named_one_by_one(rooms: Path) -> None:
    scene = rooms / "scans" / "scene9002_00"
    for path in list(scene.iterdir()):
        path.unlink()
    report = audit(rooms)
    assert [Path(problem.file).name.removeprefix("scene9002_00") for problem in report.problems] == [
        ".aggregation.json",
        ".txt",
        "_vh_clean_2.0.010000.segs.json",
        "_vh_clean_2.ply",
    ]
    assert [problem.fatal for problem in report.problems] == [True, False, True, True]


def test_a_colon_in_the_folders_name_does_not_cut_the_path_of_a_missing_file(rooms: Path) -> None:
    root = rooms.rename(rooms.parent / "disk: 2")
    mesh = root / "scans" / "scene9002_00" / "scene9002_00_vh_clean_2.ply"
    mesh.unlink()
    assert [problem.file for problem in audit(root).problems] == [str(mesh)]


def test_coordinates_that_are_not_finite_and_foreign_annotations_are_found(rooms: Path) -> None:
    mesh = rooms / "scans_test/scene9003_00/scene9003_00_vh_clean_2.ply"
    data = mesh.read_bytes()
    at = data.index(b"end_header\n") + 11
    mesh.write_bytes(data[:at] + b"\x00\x00\xc0\x7f" + data[at + 4 :])  # a quiet NaN as the first x
    edit(
        rooms / "scans/scene9000_00/scene9000_00.aggregation.json",
        segGroups=[{"objectId": 0, "segments": [10**6], "label": "chair"}],
    )
    reasons = [problem.reason for problem in audit(rooms).problems]
    assert "none of its 1 segments exists in the mesh" in reasons[0]
    assert "1 of " in reasons[1]
    assert "not finite" in reasons[1]


def test_one_id_in_both_folders_is_found(rooms: Path) -> None:
    shutil.copytree(rooms / "scans/scene9000_00", rooms / "scans_test/scene9000_00")
    assert "exists in both scans/ and scans_test/" in audit(rooms).problems[0].reason


def test_a_missing_table_a_leaking_split_and_a_bad_name_are_found(rooms: Path) -> None:
    (rooms / "scannetv2-labels.combined.tsv").unlink()
    (rooms / "scannetv2_val.txt").write_text("scene9000_00\n")
    (rooms / "scans" / "no good").mkdir()
    problems = audit(rooms).problems
    assert "cannot read the label table" in problems[1].reason
    assert "lists scene9000_00, which scannetv2_train.txt lists too" in problems[0].reason
    assert any("not a scene id" in problem.reason for problem in problems)


def test_test_scans_alone_need_no_label_table(rooms: Path) -> None:
    shutil.rmtree(rooms / "scans")
    (rooms / "scannetv2-labels.combined.tsv").unlink()
    assert audit(rooms).problems == []


def test_the_report_is_json_and_nothing_was_written(rooms: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in rooms.rglob("*"))
    (rooms / "scans/scene9001_00/scene9001_00.txt").touch()
    before = sorted((path, path.stat().st_mtime_ns) for path in rooms.rglob("*"))
    report = json.loads(json.dumps(audit(rooms).to_json()))
    assert report["scenes"] == 4
    assert sorted((path, path.stat().st_mtime_ns) for path in rooms.rglob("*")) == before


def test_a_folder_without_scans_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="contains no scans"):
        audit(tmp_path)
