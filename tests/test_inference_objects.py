"""Objects of a scan: grouping, boxes, names and files, with predictions that the test makes."""

import csv
import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from lg3d_core.evaluation.boxes import Box
from lg3d_core.evaluation.interpolation import Candidates
from lg3d_core.evaluation.predictor import VoxelLabels
from lg3d_core.inference import scan_voxels
from lg3d_core.inference.input import Input
from lg3d_core.inference.objects import ScanObjects, find_scan_objects, object_rows, yaw_in_file
from lg3d_core.inference.predict import predict as predict_scans
from lg3d_core.inference.scan_voxels import ScanVoxels, VertexRows, vertex_rows, voxelize_scan
from lg3d_core.progress import Progress
from lg3d_core.scans.frame import Frame, plain_frame, turn_back
from lg3d_core.scans.open_scan import open_scan
from lg3d_core.scans.ply import Mesh, write_ply
from lg3d_core.scans.surface import surface_in_memory
from lg3d_core.settings import PredictSettings
from lg3d_core.vocabulary import Vocabulary, load_vocabulary
from lg3d_core.vocabulary.categories import Category
from tests.box_rooms import box
from tests.notes import Notes
from tests.random_checkpoint import save_random
from tests.scan_files import furnished_room, points_ply
from tests.test_cli import lg3d

NAMES = ("wall", "floor", "table", "chair", "lamp")
VOCABULARY = Vocabulary(
    name="five",
    id_column="id",
    categories=tuple(Category(k, 10 * k + 5, NAMES[k], "", True, (k, k, k)) for k in range(len(NAMES))),
)
WALL, FLOOR, TABLE, CHAIR, LAMP = range(5)
LOGITS = {TABLE: math.log(6), CHAIR: math.log(3), LAMP: math.log(1)}
"""Logits whose softmax is table 0.6, chair 0.3 and lamp 0.1."""
SPACING = 0.05


def patch(low: tuple[float, float, float], size: tuple[float, float]) -> np.ndarray:
    """A level grid of points at the middle of voxels of 5 cm."""
    x, y = (np.arange(round(side / SPACING)) * SPACING for side in size)
    xy = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)
    return np.column_stack([xy, np.zeros(len(xy))]) + low + SPACING / 2


def scan_of(xyz: np.ndarray, frame: Frame | None = None) -> tuple[Input, ScanVoxels]:
    surface = surface_in_memory(
        Path("a"), xyz.astype(np.float32), np.full((len(xyz), 3), 9, np.uint8), np.zeros((0, 3))
    )
    scan = Input("a", "a", surface, frame or plain_frame())
    return scan, voxelize_scan(surface, scan.frame, SPACING)


@pytest.mark.parametrize(("kept_rows", "num_reads"), [(1 << 25, 1), (0, 3)])
def test_the_voxels_of_vertices_are_found_once_if_they_fit_into_memory(
    monkeypatch: pytest.MonkeyPatch, kept_rows: int, num_reads: int
) -> None:
    monkeypatch.setattr(scan_voxels, "KEPT_ROWS", kept_rows)
    scan, voxels = scan_of(patch((0, 0, 0), (1, 1)))
    expected = [rows for _, _, rows in vertex_rows(scan.surface, scan.frame, voxels)]
    reads: list[int] = []

    def read(start: int, stop: int) -> np.ndarray:
        reads.append(start)
        return scan.surface.positions(start, stop)

    rows_of = VertexRows(replace(scan.surface, positions=read), scan.frame, voxels)
    for _ in range(3):
        np.testing.assert_array_equal([rows for _, _, rows in rows_of()], expected)
    assert len(reads) == num_reads


def group(
    patches: list[tuple[int, np.ndarray]],
    *,
    min_points: int = 1,
    logits: torch.Tensor | None = None,
    probabilities: np.ndarray | None = None,
) -> tuple[ScanObjects, np.ndarray]:
    """Objects of patches with a class each, and the object of every point.

    `probabilities` of the classes, one row per patch, replace the class of the patches.
    """
    xyz = np.concatenate([points for _, points in patches])
    scan, voxels = scan_of(xyz)
    rows = np.concatenate([rows for _, _, rows in vertex_rows(scan.surface, scan.frame, voxels)])
    label = np.zeros(len(voxels.keys), dtype=np.int16)
    label[rows] = np.concatenate([np.full(len(points), category) for category, points in patches])
    confidence = np.full(len(label), 0.6, dtype=np.float32)
    labels = VoxelLabels(label, confidence)
    if probabilities is not None:
        shares = np.empty((len(label), len(NAMES)), dtype=np.float32)
        shares[rows] = np.repeat(probabilities, [len(points) for _, points in patches], axis=0)
        ranked = np.argsort(-shares, axis=1, kind="stable").astype(np.int16)
        best = Candidates(ranked, np.take_along_axis(shares, ranked.astype(np.int64), axis=1), len(NAMES))
        labels = VoxelLabels(best.classes[:, 0], best.probabilities[:, 0], None, best)
    if logits is None:
        logits = torch.zeros(len(label), len(NAMES))
    found = find_scan_objects(
        scan,
        voxels,
        labels,
        [(np.arange(len(label)), logits)],
        rows=partial(vertex_rows, scan.surface, scan.frame, voxels),
        score=lambda features: features,
        vocabulary=VOCABULARY,
        min_points=min_points,
    )
    return found, np.concatenate(
        [own for _, _, own in object_rows(partial(vertex_rows, scan.surface, scan.frame, voxels), found.number)]
    )


def test_walls_and_floors_are_no_objects_and_two_tables_are_two() -> None:
    found, own = group(
        [
            (FLOOR, patch((0, 0, 0), (4, 3))),
            (WALL, patch((0, 0, 2), (4, 1))),
            (TABLE, patch((0.5, 0.5, 0.7), (1.0, 0.5))),
            (TABLE, patch((2.5, 0.5, 0.7), (0.6, 0.4))),
        ]
    )
    assert [(one.name, one.label, one.category, one.points) for one in found.objects] == [
        ("table", 25, TABLE, 200),
        ("table", 25, TABLE, 96),
    ]
    assert [one.id for one in found.objects] == [0, 1]
    assert own.tolist() == [-1] * (80 * 60 + 80 * 20) + [0] * 200 + [1] * 96
    sizes = [one.box.size for one in found.objects]
    np.testing.assert_allclose(sizes, [[0.95, 0.45, 0], [0.55, 0.35, 0]], atol=1e-6)
    np.testing.assert_allclose(found.objects[0].box.centre, [1.0, 0.75, 0.725], atol=1e-6)


def test_an_object_of_two_predicted_classes_is_one_object_of_the_more_probable_one() -> None:
    left, right = patch((0, 0, 0), (0.5, 0.5)), patch((0.5, 0, 0), (0.3, 0.5))
    # Over all 160 points the table has (100 * 0.6 + 60 * 0.3) / 160, the chair (100 * 0.1 + 60 * 0.5) / 160.
    shares = np.array([[0.3, 0, 0.6, 0.1, 0], [0.2, 0, 0.3, 0.5, 0]])
    found, own = group([(TABLE, left), (CHAIR, right)], probabilities=shares)
    assert [(one.name, one.points) for one in found.objects] == [("table", 160)]
    assert found.objects[0].confidence == pytest.approx(0.4875)
    assert own.tolist() == [0] * 160


def test_a_group_gets_its_free_voxels_if_they_are_at_least_half_of_it() -> None:
    left, right = patch((0, 0, 0), (0.5, 0.5)), patch((0.5, 0, 0), (0.5, 0.5))
    # The table has 100 points. The chair has all 200, of which 100 are left: half.
    shares = np.array([[0, 0, 0.6, 0.4, 0], [0.4, 0.1, 0, 0.5, 0]])
    found, own = group([(TABLE, left), (CHAIR, right)], probabilities=shares)
    assert [(one.name, one.points) for one in found.objects] == [("table", 100), ("chair", 100)]
    assert own.tolist() == [0] * 100 + [1] * 100
    found, own = group([(TABLE, left), (CHAIR, right[:90])], probabilities=shares)
    assert [(one.name, one.points) for one in found.objects] == [("table", 100)]
    assert own.tolist() == [0] * 100 + [-1] * 90


def test_a_group_over_which_the_wall_is_more_probable_is_no_object() -> None:
    left, right = patch((0, 0, 0), (0.5, 0.5)), patch((0.5, 0, 0), (0.5, 0.5))
    # Over all points: lamp (0.3 + 0.8) / 2 and wall (0.6 + 0.1) / 2, or lamp (0.3 + 0.4) / 2 and wall (0.6 + 0.35) / 2.
    for last, names in (([0.1, 0.1, 0, 0, 0.8], ["lamp"]), ([0.35, 0.25, 0, 0, 0.4], [])):
        shares = np.array([[0.6, 0.1, 0, 0, 0.3], last])
        found, own = group([(WALL, left), (LAMP, right)], probabilities=shares)
        assert [one.name for one in found.objects] == names
        assert own.tolist() == [len(names) - 1] * 200


def test_objects_with_fewer_points_are_left_out() -> None:
    found, own = group([(TABLE, patch((0, 0, 0), (1.0, 0.5))), (CHAIR, patch((3, 0, 0), (0.5, 0.5)))], min_points=101)
    assert [one.name for one in found.objects] == ["table"]
    assert own.tolist() == [0] * 200 + [-1] * 100


def test_names_are_ranked_by_mean_probability_over_the_voxels() -> None:
    logits = torch.full((200, len(NAMES)), -torch.inf)
    for category, value in LOGITS.items():
        logits[:, category] = value
    logits[:100] = torch.tensor([-torch.inf, -torch.inf, 0.0, -torch.inf, -torch.inf])  # table for certain
    (one,) = group([(TABLE, patch((0, 0, 0), (1.0, 0.5)))], logits=logits)[0].objects
    assert [name for name, _ in one.names] == ["table", "chair", "lamp"]
    np.testing.assert_allclose([share for _, share in one.names], [0.8, 0.15, 0.05], atol=1e-6)
    assert one.confidence == pytest.approx(0.6)  # mean probability of its own class, from the prediction


def test_stray_points_do_not_enlarge_the_box() -> None:
    """A strip of voxels of one class leads away from the table: it is in the object, not in the box."""
    table = patch((0, 0, 0), (2.0, 2.0))
    strip = patch((2.0, 1.0, 0), (0.75, 0.05))
    (one,) = group([(TABLE, np.concatenate([table, strip]))])[0].objects
    assert one.points == 1600 + 15  # less than 1 % more
    assert one.box.size[0] < 2.55  # a quarter more than the table, not 2.75


def test_a_scan_without_objects_has_an_empty_list() -> None:
    found, own = group([(FLOOR, patch((0, 0, 0), (1, 1)))])
    assert found.objects == ()
    assert (own == -1).all()


@pytest.mark.parametrize(
    ("up", "length_along"), [("z", (0, 1, 0)), ("y", (1, 0, 0)), ("x", (0, 0, 1)), ("-z", (0, 1, 0)), ("-y", (1, 0, 0))]
)
def test_the_yaw_is_an_angle_in_the_axes_of_the_file(up: str, length_along: tuple[int, ...]) -> None:
    """The length points along the second horizontal axis of the file, a quarter turn from the first."""
    frame = plain_frame()._replace(up=up, scale=0.001)
    start, end = frame.to_metres(np.array([(0.0, 0.0, 0.0), length_along]))
    way = end - start
    yaw = math.atan2(way[1], way[0])
    assert abs(math.sin(yaw_in_file(Box(np.zeros(3), np.ones(3), yaw), frame))) == pytest.approx(1)


def test_the_yaw_undoes_the_alignment_of_a_scannet_mesh() -> None:
    turn = np.eye(4)
    turn[:2, :2] = [[math.cos(0.3), -math.sin(0.3)], [math.sin(0.3), math.cos(0.3)]]
    assert yaw_in_file(Box(np.zeros(3), np.ones(3), 0.5), plain_frame(turn)) == pytest.approx(0.2)


# Whole scans, through a network that has learnt nothing: its labels are arbitrary, but everything must agree.

SCANNET200 = load_vocabulary("scannet200")
XYZ, RGB, FACES = furnished_room()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(tmp_path_factory.mktemp("checkpoint") / "random.safetensors")


@pytest.fixture(scope="module")
def headed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with an offset head."""
    return save_random(tmp_path_factory.mktemp("checkpoint") / "headed.safetensors", offset_head=True)


def settings_of(checkpoint: Path, out: Path, *scans: Path, **options: object) -> PredictSettings:
    words = tuple(str(scan) for scan in scans)
    return PredictSettings(scans=words, checkpoint=checkpoint, out=out, device="cpu", **options)  # type: ignore[arg-type]


def test_all_files_agree_about_the_objects(checkpoint: Path, tmp_path: Path) -> None:
    scan = tmp_path / "room.ply"
    write_ply(scan, Mesh(XYZ.astype(np.float32), RGB, FACES.astype(np.int32)))
    forms = ("ply", "npz", "txt")
    settings = settings_of(checkpoint, tmp_path / "o", scan, formats=forms, objects=True, min_points=5)
    (labels,) = predict_scans(settings, Progress()).labelled
    suffixes = ["ply", "npz", "txt", "instances.txt", "objects.json", "objects.csv"]
    assert [path.name for path in labels.files] == [f"room.labelled.{suffix}" for suffix in suffixes]
    ply, npz, txt, instances, listed, table = labels.files
    described = json.loads(listed.read_text())
    assert described["scan"] == str(scan)
    assert (described["scale"], described["up"]) == (1.0, "z")
    assert described["objects"] == labels.to_dict()["objects"]
    objects = described["objects"]
    assert len(objects) > 1
    assert [one["id"] for one in objects] == list(range(len(objects)))
    assert [one["confidence"] for one in objects] == sorted((one["confidence"] for one in objects), reverse=True)
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["name"] for row in rows] == [one["name"] for one in objects]
    assert [float(row["centre_y"]) for row in rows] == [one["centre"][1] for one in objects]
    assert [float(row["height"]) for row in rows] == [one["size"][2] for one in objects]
    assert [row["name_3"] for row in rows] == [one["names"][2]["name"] for one in objects]

    own = np.loadtxt(instances, dtype=int)
    label = np.loadtxt(txt, dtype=int)
    assert np.bincount(own[own >= 0]).tolist() == [one["points"] for one in objects]
    assert min(one["points"] for one in objects) >= 5
    for one in objects:
        assert set(label[own == one["id"]].tolist()) == {one["label"]}
    np.testing.assert_array_equal(np.load(npz)["instance"], own)
    written = ply.read_bytes()
    head = written[: written.index(b"end_header")].decode()
    assert "comment instance -1 none\n" in head
    assert f"comment instance 1 {objects[1]['name']}\n" in head
    fields = [("xyz", "<3f4"), ("shown", "3u1"), ("label", "<i4"), ("confidence", "<f4"), ("instance", "<i4")]
    fields += [("own", "3u1")]
    body = np.frombuffer(written, dtype=fields, count=len(XYZ), offset=written.index(b"end_header\n") + 11)
    np.testing.assert_array_equal(body["instance"], own)
    np.testing.assert_array_equal(open_scan(ply).faces, FACES)


def test_without_objects_files_are_as_before(checkpoint: Path, tmp_path: Path) -> None:
    scan = points_ply(tmp_path / "room.ply", XYZ, RGB)
    (labels,) = predict_scans(settings_of(checkpoint, tmp_path / "o", scan), Progress()).labelled
    assert [path.name for path in labels.files] == ["room.labelled.ply"]
    assert labels.to_dict()["objects"] is None
    assert b"instance" not in labels.files[0].read_bytes()


def test_an_offset_head_is_the_default_and_its_absence_is_reported_once(
    checkpoint: Path, headed: Path, tmp_path: Path
) -> None:
    scans = [points_ply(tmp_path / f"{name}.ply", XYZ, RGB) for name in "ab"]
    notes = Notes()
    reports = predict_scans(settings_of(headed, tmp_path / "h", *scans), notes).labelled
    assert all(labels.objects is not None for labels in reports)
    assert not any("offset head" in note for note in notes.notes)
    (chosen,) = predict_scans(settings_of(headed, tmp_path / "n", scans[0], objects=False), Progress()).labelled
    assert chosen.objects is None
    predict_scans(settings_of(checkpoint, tmp_path / "c", *scans, objects=True), notes)
    told = [note for note in notes.notes if "offset head" in note]
    assert told == [
        f"{checkpoint} has no offset head: objects are the connected regions of each predicted class",
    ]


def test_boxes_are_in_the_units_and_axes_of_the_file(checkpoint: Path, tmp_path: Path) -> None:
    # Half a millimetre off the grid, so that rounding of the file's float32 puts no vertex into another voxel.
    off = XYZ + 0.0005
    metres = points_ply(tmp_path / "m.ply", off, RGB)
    turned = points_ply(tmp_path / "mm.ply", turn_back(off, "y") * 1000, RGB)
    settings = settings_of(checkpoint, tmp_path, metres, turned, formats=("txt",), objects=True, min_points=20)
    first, second = (labels.to_dict()["objects"] for labels in predict_scans(settings, Progress()).labelled)
    assert len(first) == len(second) > 0
    xyz = turn_back(off, "y") * 1000
    own = np.loadtxt(tmp_path / "mm.labelled.instances.txt", dtype=int)
    for one, other in zip(first, second, strict=True):
        assert (one["name"], one["points"]) == (other["name"], other["points"])
        np.testing.assert_allclose(other["size"], one["size"], atol=2e-4)  # metres in both
        moved = turn_back(np.array([one["centre"]]), "y")[0] * 1000
        np.testing.assert_allclose(other["centre"], moved, atol=0.2)
        corners = np.array(other["corners"])
        middle = xyz[own == other["id"]].mean(axis=0)
        assert (corners.min(axis=0) - 1e-3 <= middle).all()
        assert (middle <= corners.max(axis=0) + 1e-3).all()


def test_vertices_added_on_large_triangles_have_instances_too(checkpoint: Path, tmp_path: Path) -> None:
    xyz, faces = box(np.array([0.0, 0.0, 0.0]), np.array([2.0, 2.0, 2.0]), 1.0)
    scan = tmp_path / "coarse.ply"
    write_ply(scan, Mesh(xyz.astype(np.float32), np.full((len(xyz), 3), 90, np.uint8), faces.astype(np.int32)))
    settings = settings_of(checkpoint, tmp_path / "o", scan, formats=("npz", "txt"), objects=True, min_points=1)
    (labels,) = predict_scans(settings, Progress()).labelled
    instance = np.load(labels.files[0])["instance"]
    assert len(instance) == labels.num_vertices + labels.num_added > labels.num_vertices
    assert np.loadtxt(labels.files[2], dtype=int).tolist() == instance[: labels.num_vertices].tolist()


def test_the_command_reports_objects_as_json_and_counts_them_by_name(checkpoint: Path, tmp_path: Path) -> None:
    points_ply(tmp_path / "room.ply", XYZ, RGB)
    options = ("--checkpoint", checkpoint, "--objects", "--min-points", "5")
    done = lg3d("predict", "room.ply", *options, "--json", cwd=tmp_path)
    (scan,) = json.loads(done.stdout)["scans"]
    assert [Path(path).name for path in scan["files"]] == [
        "room.labelled.ply",
        "room.labelled.objects.json",
        "room.labelled.objects.csv",
    ]
    assert scan["objects"] == json.loads((tmp_path / "room.labelled.objects.json").read_text())["objects"]
    assert f"room.ply: {len(scan['objects'])} objects" in done.stderr
    name = scan["objects"][0]["name"]
    count = sum(one["name"] == name for one in scan["objects"])
    assert f"{name}\t{count}\n" in done.stderr


def test_objects_of_another_program_are_kept(checkpoint: Path, tmp_path: Path) -> None:
    scan = points_ply(tmp_path / "room.ply", XYZ, RGB)
    (tmp_path / "room.labelled.objects.json").write_text("mine\n")
    (labels,) = predict_scans(settings_of(checkpoint, tmp_path, scan, objects=True), Notes()).labelled
    assert labels.files[0].name == "room.labelled-2.ply"
    assert (tmp_path / "room.labelled.objects.json").read_text() == "mine\n"
