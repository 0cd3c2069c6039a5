"""The written files, read by a parser of this test's own."""

import csv
import json
import struct
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from lg3d_core.errors import DataError, SettingsError
from lg3d_core.progress import Progress
from lg3d_core.settings import RoomsSettings
from lg3d_core.synthetic import write_rooms
from lg3d_core.vocabulary import load_scene_splits, load_vocabulary

VERTICES = 5_000


class Room(NamedTuple):
    scene_id: str
    xyz: np.ndarray
    rgba: np.ndarray
    faces: np.ndarray
    segment: np.ndarray
    groups: list[dict[str, Any]]
    info: dict[str, str]


def read_room(folder: Path) -> Room:
    name = folder.name
    data = (folder / f"{name}_vh_clean_2.ply").read_bytes()
    header, body = data.split(b"end_header\n", 1)
    lines = header.decode().splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    wanted = ["float x", "float y", "float z", *(f"uchar {c}" for c in ("red", "green", "blue", "alpha"))]
    assert [line.removeprefix("property ") for line in lines if line.startswith("property")] == [
        *wanted,
        "list uchar int vertex_indices",
    ]
    num_vertices, num_faces = (int(line.split()[-1]) for line in lines if line.startswith("element"))
    assert len(body) == 16 * num_vertices + 13 * num_faces
    rows = [struct.unpack_from("<fff4B", body, 16 * k) for k in range(num_vertices)]
    corners = [struct.unpack_from("<B3i", body, 16 * num_vertices + 13 * k) for k in range(num_faces)]
    assert all(corner[0] == 3 for corner in corners)
    segments = json.loads((folder / f"{name}_vh_clean_2.0.010000.segs.json").read_text())
    groups = json.loads((folder / f"{name}.aggregation.json").read_text())["segGroups"]
    info = dict(line.split(" = ", 1) for line in (folder / f"{name}.txt").read_text().splitlines())
    table = np.array(rows)
    return Room(
        name,
        table[:, :3],
        table[:, 3:].astype(int),
        np.array(corners)[:, 1:],
        np.array(segments["segIndices"]),
        groups,
        info,
    )


def read_label_ids(raw: Path) -> dict[str, int]:
    with (raw / "scannetv2-labels.combined.tsv").open(newline="") as file:
        return {row["raw_category"]: int(row["id"]) for row in csv.DictReader(file, delimiter="\t")}


def aligned(room: Room) -> np.ndarray:
    if "axisAlignment" not in room.info:
        return room.xyz
    matrix = np.array([float(x) for x in room.info["axisAlignment"].split()]).reshape(4, 4)
    return (matrix @ np.concatenate([room.xyz, np.ones((len(room.xyz), 1))], axis=1).T).T[:, :3]


def owner_of(room: Room) -> np.ndarray:
    """Row of the group of each vertex, -1 for none."""
    owner = {segment: row for row, group in enumerate(room.groups) for segment in group["segments"]}
    return np.array([owner.get(int(segment), -1) for segment in room.segment])


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rooms") / "raw"
    assert write_rooms(RoomsSettings(out=out, scenes=24, vertices=VERTICES, jobs=1), Progress()) == out
    return out


@pytest.fixture(scope="module")
def rooms(raw: Path) -> list[Room]:
    return [read_room(folder) for folder in sorted((raw / "scans").iterdir())]


def test_a_quarter_of_the_rooms_is_for_validation_and_no_id_is_the_benchmarks(raw: Path, rooms: list[Room]) -> None:
    train, val = ((raw / f"scannetv2_{split}.txt").read_text().split() for split in ("train", "val"))
    assert (len(train), len(val)) == (18, 6)
    assert sorted(train + val) == [room.scene_id for room in rooms]
    assert not set(train + val) & set(load_scene_splits())


def test_every_label_is_in_the_table_and_some_are_synonyms_or_outside_the_vocabulary(
    raw: Path, rooms: list[Room]
) -> None:
    ids = read_label_ids(raw)
    vocabulary = load_vocabulary()
    labels = {group["label"] for room in rooms for group in room.groups}
    assert labels <= set(ids)
    known = {label for label in labels if ids[label] in vocabulary.index_by_id}
    assert labels - known  # outside the 200
    assert known - set(vocabulary.names)  # synonyms
    for name in vocabulary.names:
        assert ids[name] == vocabulary.categories[vocabulary.index_by_name[name]].id


def test_at_least_forty_categories_from_all_three_groups_with_a_long_tail(raw: Path, rooms: list[Room]) -> None:
    ids, vocabulary = read_label_ids(raw), load_vocabulary()
    points: Counter[int] = Counter()
    for room in rooms:
        owner = owner_of(room)
        for row, group in enumerate(room.groups):
            points[vocabulary.index_by_id.get(ids[group["label"]], -1)] += int((owner == row).sum())
    present = {group: [k for k in rows if points[int(k)]] for group, rows in vocabulary.groups.items()}
    assert sum(len(found) for found in present.values()) >= 100
    assert all(len(found) >= 25 for found in present.values())
    head, common, tail = (sum(points[int(k)] for k in present[group]) for group in ("head", "common", "tail"))
    assert head > 5 * common > 5 * tail > 0


def test_validation_holds_nothing_that_training_has_not(raw: Path, rooms: list[Room]) -> None:
    ids = read_label_ids(raw)
    train = set((raw / "scannetv2_train.txt").read_text().split())
    found: dict[bool, set[int]] = defaultdict(set)
    for room in rooms:
        found[room.scene_id in train] |= {ids[group["label"]] for group in room.groups}
    assert found[False] <= found[True]
    assert len(found[False]) >= 40


def test_vertices_are_finite_coloured_and_about_as_many_as_asked(rooms: list[Room]) -> None:
    for room in rooms:
        assert len(room.xyz) == pytest.approx(VERTICES, rel=0.25)
        assert np.isfinite(room.xyz).all()
        assert (room.rgba[:, 3] == 255).all()
        assert room.rgba[:, :3].std(axis=0).min() > 10


def test_faces_name_existing_distinct_corners_and_leave_no_vertex_out(rooms: list[Room]) -> None:
    for room in rooms:
        assert set(room.faces.reshape(-1).tolist()) == set(range(len(room.xyz)))
        assert (np.diff(np.sort(room.faces, axis=1), axis=1) > 0).all()
        assert 1.5 < len(room.faces) / len(room.xyz) < 2.5


def test_most_of_a_mesh_hangs_together(rooms: list[Room]) -> None:
    for room in rooms[:6]:
        parent = list(range(len(room.xyz)))

        def find(k: int, parent: list[int] = parent) -> int:
            while parent[k] != k:
                parent[k] = parent[parent[k]]
                k = parent[k]
            return k

        for a, b, c in room.faces.tolist():
            parent[find(b)] = find(a)
            parent[find(c)] = find(a)
        sizes = Counter(find(k) for k in range(len(parent)))
        assert sizes.most_common(1)[0][1] > 0.4 * len(parent)  # walls, floor and what touches them
        assert sum(size for size in sizes.values() if size >= 20) > 0.9 * len(parent)


def test_segments_are_small_lie_within_one_object_and_are_all_named_once(rooms: list[Room]) -> None:
    for room in rooms:
        sizes = Counter(room.segment.tolist())
        assert len(sizes) > 40
        assert np.median(list(sizes.values())) < 200
        named = [segment for group in room.groups for segment in group["segments"]]
        assert len(named) == len(set(named))
        assert set(named) <= set(sizes)
        assert all(group["segments"] for group in room.groups)
        assert [group["id"] for group in room.groups] == [group["objectId"] for group in room.groups]
        assert [group["id"] for group in room.groups] == list(range(len(room.groups)))


def test_a_few_vertices_are_unannotated(rooms: list[Room]) -> None:
    share = np.mean(np.concatenate([owner_of(room) for room in rooms]) < 0)
    assert 0.005 < share < 0.15


def test_alignment_rights_the_turned_rooms_and_others_have_none(rooms: list[Room]) -> None:
    turned = [room for room in rooms if "axisAlignment" in room.info]
    assert 0 < len(turned) < len(rooms)
    for room in rooms:
        labels = [group["label"] for group in room.groups]
        ground = aligned(room)[owner_of(room) == labels.index("floor")]
        assert abs(np.median(ground[:, 2])) < 0.02
        assert (aligned(room).min(axis=0) > -0.15).all()  # rooms start at the origin, door leaves lie a little behind
        for wall in (row for row, label in enumerate(labels) if label == "wall"):
            spread = np.std(aligned(room)[owner_of(room) == wall][:, :2], axis=0)
            assert spread.min() < 0.05  # upright and square to an axis


def test_nothing_floats(rooms: list[Room]) -> None:
    for room in rooms:
        xyz, owner = aligned(room), owner_of(room)
        for row in range(len(room.groups)):
            mine, rest = xyz[owner == row], xyz[owner != row]
            if len(mine) < 10:
                continue
            distances = [np.linalg.norm(rest - point, axis=1).min() for point in mine]
            # Vertices lie about 10 cm apart here, and what is directly below a thing is hidden by it.
            assert min(distances) < 0.3, (room.scene_id, room.groups[row]["label"])


def tree_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_equal_seeds_give_equal_bytes_whatever_the_number_of_jobs(tmp_path: Path) -> None:
    for name, jobs in (("one", 1), ("two", 2)):
        settings = RoomsSettings(out=tmp_path / name, scenes=4, vertices=2_500, seed=3, jobs=jobs)
        write_rooms(settings, Progress())
    write_rooms(RoomsSettings(out=tmp_path / "other", scenes=4, vertices=2_500, seed=4, jobs=1), Progress())
    one, two, other = (tree_bytes(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert one != other


def test_a_second_run_changes_nothing_and_an_interrupted_one_continues(tmp_path: Path) -> None:
    settings = RoomsSettings(out=tmp_path / "raw", scenes=3, vertices=2_000, jobs=1)
    write_rooms(settings, Progress())
    before = tree_bytes(settings.out)
    times = {path: path.stat().st_mtime_ns for path in (settings.out / "scans").rglob("*")}
    write_rooms(settings, Progress())
    assert {path: path.stat().st_mtime_ns for path in (settings.out / "scans").rglob("*")} == times
    # Killed while writing the second room: half a room in the workshop, none in its place.
    scene = settings.out / "scans" / "scene9001_00"
    scene.rename(settings.out / ".unfinished" / "scene9001_00")
    (settings.out / ".unfinished" / "scene9001_00" / "scene9001_00.txt").unlink()
    write_rooms(settings, Progress())
    assert tree_bytes(settings.out) == before


def test_folders_of_others_are_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SettingsError, match="not empty and was not written by lg3d rooms"):
        write_rooms(RoomsSettings(out=tmp_path, scenes=1), Progress())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(SettingsError, match="is a file"):
        write_rooms(RoomsSettings(out=tmp_path / "thesis.txt", scenes=1), Progress())


def test_rooms_of_other_settings_are_refused_with_the_difference(tmp_path: Path) -> None:
    out = tmp_path / "raw"
    write_rooms(RoomsSettings(out=out, scenes=1, vertices=2_000, jobs=1), Progress())
    with pytest.raises(SettingsError, match="seed 0, not 1"):
        write_rooms(RoomsSettings(out=out, scenes=1, vertices=2_000, seed=1, jobs=1), Progress())
    marker = json.loads((out / "rooms.json").read_text())
    (out / "rooms.json").write_text(json.dumps(marker | {"spacing": 0.03}))  # as with --mesh-spacing
    with pytest.raises(SettingsError, match=r"other settings \(spacing 0\.03, not none\): pass another folder"):
        write_rooms(RoomsSettings(out=out, scenes=1, vertices=2_000, jobs=1), Progress())
    (out / "rooms.json").write_text("{")
    with pytest.raises(SettingsError, match="cannot be read"):
        write_rooms(RoomsSettings(out=out, scenes=1, vertices=2_000, jobs=1), Progress())


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write rooms"):
        write_rooms(RoomsSettings(out=tmp_path / "file" / "raw", scenes=1, jobs=1), Progress())


def test_a_failing_disk_leaves_no_half_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lg3d_core.synthetic.scene_files.write_ply", full)
    with pytest.raises(DataError, match="No space left on device"):
        write_rooms(RoomsSettings(out=tmp_path / "raw", scenes=1, vertices=2_000, jobs=1), Progress())
    assert not list(tmp_path.rglob("scene9000_00*"))
