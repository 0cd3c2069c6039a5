"""Labels for any scan, from reading to the written file."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lg3d_core.errors import CheckpointError, DataError
from lg3d_core.evaluation.predictor import Predictor
from lg3d_core.inference.files import file_names
from lg3d_core.inference.predict import predict as predict_scans
from lg3d_core.networks.checkpoint import load_network
from lg3d_core.progress import Progress
from lg3d_core.scans.frame import plain_frame, turn_back
from lg3d_core.scans.open_scan import open_scan
from lg3d_core.scans.ply import Mesh, parse_ply, write_ply
from lg3d_core.settings import PredictSettings, PrepareSettings
from lg3d_core.store import SceneStore
from lg3d_core.store.prepare import prepare as prepare_store
from tests.notes import Notes
from tests.random_checkpoint import VOCABULARY, save_random
from tests.scan_files import furnished_room, points_ply
from tests.test_cli import lg3d

XYZ, RGB, FACES = furnished_room()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(tmp_path_factory.mktemp("checkpoint") / "random.safetensors")


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> np.ndarray:
    """Raw ids of the room, by the evaluation's own prediction."""
    from tests.fake_store import FakeScene

    zeros = np.zeros(len(XYZ), dtype=np.int32)
    scene = FakeScene("a", XYZ.astype(np.float32), RGB, zeros, zeros)
    network, _ = load_network(checkpoint)
    label = Predictor(network=network, voxel_size=0.1).predict(scene).label  # type: ignore[arg-type]
    return VOCABULARY.ids[label]


def settings_of(checkpoint: Path, out: Path, *scans: object, **options: object) -> PredictSettings:
    words = tuple(str(scan) for scan in scans)
    return PredictSettings(scans=words, checkpoint=checkpoint, out=out, device="cpu", **options)  # type: ignore[arg-type]


def test_a_mesh_is_labelled_as_the_evaluation_would(checkpoint: Path, expected: np.ndarray, tmp_path: Path) -> None:
    scan = tmp_path / "mein Zimmer ä.ply"
    write_ply(scan, Mesh(XYZ.astype(np.float32), RGB, FACES.astype(np.int32)))
    report = predict_scans(settings_of(checkpoint, tmp_path / "o", scan, formats=("ply", "npz", "txt")), Progress())
    assert report.failed == {}
    (labels,) = report.labelled
    assert [path.name for path in labels.files] == [f"mein Zimmer ä.labelled.{form}" for form in ("ply", "npz", "txt")]
    assert np.loadtxt(labels.files[2], dtype=int).tolist() == expected.tolist()
    arrays = np.load(labels.files[1])
    np.testing.assert_array_equal(arrays["label"], expected)
    np.testing.assert_array_equal(arrays["xyz"], XYZ.astype(np.float32))
    assert arrays["names"][list(arrays["ids"]).index(expected[0])] in [found.name for found in labels.found]
    assert sum(found.vertices for found in labels.found) == len(XYZ)
    assert sum(found.share for found in labels.found) == pytest.approx(1)
    written = labels.files[0].read_bytes()
    head = written[: written.index(b"end_header")].decode()
    names = dict(zip(VOCABULARY.ids.tolist(), VOCABULARY.names, strict=True))
    for number in np.unique(expected).tolist():
        assert f"comment label {number} {names[number]}\n" in head
    surface = open_scan(labels.files[0])
    np.testing.assert_array_equal(surface.positions(0, len(XYZ)), XYZ.astype(np.float32))
    np.testing.assert_array_equal(surface.faces, FACES)
    colors = dict(zip(VOCABULARY.ids.tolist(), VOCABULARY.colors.tolist(), strict=True))
    assert surface.colors is not None
    assert surface.colors(0, 3).tolist() == [colors[number] for number in expected[:3].tolist()]
    fields = [("xyz", "<3f4"), ("shown", "3u1"), ("label", "<i4"), ("confidence", "<f4"), ("own", "3u1")]
    body = np.frombuffer(written, dtype=fields, count=len(XYZ), offset=written.index(b"end_header\n") + 11)
    np.testing.assert_array_equal(body["own"], RGB)
    np.testing.assert_array_equal(body["label"], expected)
    np.testing.assert_array_equal(arrays["rgb"], RGB)
    assert "property uchar scan_red\nproperty uchar scan_green\nproperty uchar scan_blue\n" in head


def test_a_later_call_replaces_its_own_files_and_no_others(checkpoint: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "room.ply", tmp_path / "b" / "room.ply"
    for scan, count in ((first, 500), (second, 400)):
        scan.parent.mkdir()
        points_ply(scan, XYZ[:count], RGB[:count])
    forms = ("ply", "txt")

    def names_of(scan: Path, start: Path = checkpoint) -> list[str]:
        notes = Notes()
        (labels,) = predict_scans(settings_of(start, tmp_path / "o", scan, formats=forms), notes).labelled
        if labels.files[0].name != "room.labelled.ply":
            assert any("room.labelled belongs to another scan or checkpoint" in note for note in notes.notes)
        return [path.name for path in labels.files]

    assert names_of(first) == ["room.labelled.ply", "room.labelled.txt"]
    assert names_of(second) == ["room.labelled-2.ply", "room.labelled-2.txt"]
    assert names_of(first) == ["room.labelled.ply", "room.labelled.txt"]
    assert len((tmp_path / "o" / "room.labelled.txt").read_text().splitlines()) == 500
    other = tmp_path / "other.safetensors"
    other.write_bytes(checkpoint.read_bytes())
    assert names_of(first, other) == ["room.labelled-3.ply", "room.labelled-3.txt"]
    (tmp_path / "o" / "room.labelled.txt").unlink()
    (tmp_path / "o" / "room.labelled.txt").write_text("mine\n")  # of unknown origin
    assert names_of(first) == ["room.labelled-4.ply", "room.labelled-4.txt"]


def test_millimetres_with_y_up_get_the_labels_of_metres_with_z_up(
    checkpoint: Path, expected: np.ndarray, tmp_path: Path
) -> None:
    # Half a millimetre off the grid, so that rounding of the file's float32 puts no vertex into another voxel.
    off = XYZ + 0.0005
    write_ply(tmp_path / "m.ply", Mesh(off.astype(np.float32), RGB, FACES.astype(np.int32)))
    points_ply(tmp_path / "mm.ply", turn_back(off, "y") * 1000, RGB)
    notes = Notes()
    settings = settings_of(checkpoint, tmp_path, tmp_path / "m.ply", tmp_path / "mm.ply", formats=("txt",))
    first, second = predict_scans(settings, notes).labelled
    assert (second.scale, second.up) == (0.001, "y")
    assert first.files[0].read_bytes() == second.files[0].read_bytes()
    assert any("mm.ply: " in note and "assumed to be mm" in note for note in notes.notes)
    assert any("mm.ply: " in warning and "+y" in warning and "--up" in warning for warning in notes.warnings)
    assert len(expected) == len(off)


def test_without_colours_it_warns_and_takes_grey(checkpoint: Path, tmp_path: Path) -> None:
    grey = points_ply(tmp_path / "grey.ply", XYZ, np.full((len(XYZ), 3), 128, dtype=np.uint8))
    bare = points_ply(tmp_path / "bare.ply", XYZ)
    notes = Notes()
    first, second = predict_scans(settings_of(checkpoint, tmp_path, grey, bare, formats=("txt",)), notes).labelled
    assert first.files[0].read_bytes() == second.files[0].read_bytes()
    assert notes.warnings == [
        f"{grey}: all vertices have the same colour: the scan probably has no colours",
        f"{bare}: no colours: using grey, which reduces accuracy",
    ]


def test_strays_and_positions_that_are_not_finite_get_label_0_and_change_nothing_else(
    checkpoint: Path, expected: np.ndarray, tmp_path: Path
) -> None:
    far = np.random.default_rng(0).uniform(-900, 900, size=(20_000, 3))
    bad = np.array([[np.nan, 0, 0], [np.inf, 0, 0]])
    cloud = np.concatenate([XYZ, far, bad])
    scan = points_ply(tmp_path / "a.ply", cloud, np.concatenate([RGB, np.full((20_002, 3), 9, dtype=np.uint8)]))
    notes = Notes()
    (labels,) = predict_scans(settings_of(checkpoint, tmp_path, scan, formats=("txt", "ply")), notes).labelled
    written = np.loadtxt(labels.files[0], dtype=int)
    assert (written[: len(XYZ)] == expected).mean() > 0.99  # a stray may fall into the box of the room
    assert labels.num_unlabelled >= 20_002 - 10
    assert (written == 0).sum() == labels.num_unlabelled
    assert any("2 of" in warning and "not finite" in warning for warning in notes.warnings)


def test_one_point_is_a_scan(checkpoint: Path, tmp_path: Path) -> None:
    scan = points_ply(tmp_path / "a.ply", np.array([[1.0, 2, 3]]), np.array([[1, 2, 3]], dtype=np.uint8))
    (labels,) = predict_scans(settings_of(checkpoint, tmp_path, scan), Progress()).labelled
    assert (labels.num_vertices, labels.num_voxels, len(labels.found)) == (1, 1, 1)


def test_a_scene_of_the_store_is_labelled_as_in_the_evaluation(
    checkpoint: Path, store_path: Path, tmp_path: Path
) -> None:
    store = SceneStore(store_path)
    scene_id = store.scene_ids("val")[0]
    settings = settings_of(checkpoint, tmp_path, scene_id, store=store_path, formats=("txt",))
    (labels,) = predict_scans(settings, Progress()).labelled
    network, _ = load_network(checkpoint)
    label = Predictor(network=network, voxel_size=0.1).predict(store.read(scene_id)).label
    assert np.loadtxt(labels.files[0], dtype=int).tolist() == VOCABULARY.ids[label].tolist()


@pytest.mark.parametrize("suffix", ["_vh_clean_2.ply", "_vh_clean.ply"])
def test_a_raw_scannet_mesh_is_labelled_as_its_prepared_scene(
    checkpoint: Path, raw_rooms: Path, tmp_path: Path, suffix: str
) -> None:
    """The mesh is turned and shifted, its `.txt` holds the way back, which prepare applies: so must predict."""
    store = tmp_path / "data"
    raw = tmp_path / "raw"
    shutil.copytree(raw_rooms, raw)
    folder = sorted((raw / "scans").iterdir())[0]
    turn, shift = 0.4, np.array([3.0, -2.0, 0.5])
    cosine, sine = np.cos(turn), np.sin(turn)
    rotation = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    mesh_path = folder / f"{folder.name}_vh_clean_2.ply"
    mesh = parse_ply(mesh_path.read_bytes(), mesh_path)
    moved = (mesh.xyz.astype(np.float64) - shift) @ rotation  # R^T (x - t)
    write_ply(mesh_path, mesh._replace(xyz=moved.astype(np.float32)))
    matrix = np.block([[rotation, shift[:, None]], [np.zeros((1, 3)), np.ones((1, 1))]])
    values = " ".join(f"{value:.9f}" for value in matrix.ravel())
    (folder / f"{folder.name}.txt").write_text(f"sceneType = Living room / Lounge\naxisAlignment = {values}\n")
    prepare_store(PrepareSettings(raw=raw, store=store, jobs=1), Progress())
    network, _ = load_network(checkpoint)
    label = Predictor(network=network, voxel_size=0.1).predict(SceneStore(store).read(folder.name)).label
    expected = VOCABULARY.ids[label].tolist()

    scan = mesh_path if suffix == "_vh_clean_2.ply" else mesh_path.rename(folder / f"{folder.name}{suffix}")
    notes = Notes()
    (labels,) = predict_scans(settings_of(checkpoint, tmp_path / "o", scan, formats=("ply", "txt")), notes).labelled
    assert np.loadtxt(labels.files[1], dtype=int).tolist() == expected
    assert any(f"axisAlignment of {folder.name}.txt applied" in note for note in notes.notes)
    written = open_scan(labels.files[0])
    np.testing.assert_array_equal(written.positions(0, len(moved)), moved.astype(np.float32))  # where the file has them
    # Without the .txt, or where the user says what is up, nothing is turned: other voxels, other labels.
    settings = settings_of(checkpoint, tmp_path / "p", scan, formats=("txt",), up="z", scale="m")
    (other,) = predict_scans(settings, Progress()).labelled
    assert np.loadtxt(other.files[0], dtype=int).tolist() != expected


def test_a_damaged_alignment_beside_a_scannet_mesh_is_named(checkpoint: Path, tmp_path: Path) -> None:
    scan = points_ply(tmp_path / "scene0000_00_vh_clean_2.ply", XYZ, RGB)
    (tmp_path / "scene0000_00.txt").write_text("axisAlignment = 1 0 0\n")
    report = predict_scans(settings_of(checkpoint, tmp_path / "o", scan), Progress())
    ((_, reason),) = report.failed.items()
    assert "axisAlignment needs 16 finite numbers, found 3" in str(reason)


def test_a_frame_with_an_alignment_goes_there_and_back() -> None:
    cosine, sine = 0.6, 0.8
    alignment = np.array([[cosine, -sine, 0, 5], [sine, cosine, 0, -1], [0, 0, 1, 2], [0, 0, 0, 1]])
    frame = plain_frame(alignment)
    np.testing.assert_allclose(frame.to_metres(np.array([[1.0, 0, 0]])), [[5.6, -0.2, 2]], atol=1e-12)
    np.testing.assert_allclose(frame.from_metres(np.array([[5.6, -0.2, 2]])), [[1, 0, 0]], atol=1e-12)


def test_one_bad_scan_does_not_stop_the_others(checkpoint: Path, tmp_path: Path) -> None:
    good = points_ply(tmp_path / "good.ply", XYZ[:2000], RGB[:2000])
    bad = points_ply(tmp_path / "bad.ply", XYZ, RGB)
    bad.write_bytes(bad.read_bytes()[:-100])
    done = lg3d("predict", bad.name, "nosuch", good.name, "--checkpoint", checkpoint, "--json", cwd=tmp_path, code=1)
    report = json.loads(done.stdout)
    assert [scan["scan"] for scan in report["scans"]] == ["good.ply"]
    assert list(report["failed"]) == ["bad.ply", "nosuch"]
    assert "truncated" in report["failed"]["bad.ply"]
    errors = [line for line in done.stderr.splitlines() if line.startswith("lg3d: error: ")]
    assert [line.removeprefix("lg3d: error: ").split(": ")[0] for line in errors] == [
        "cannot predict bad.ply",
        "cannot predict nosuch",
    ]
    assert "found\tvertices\tshare\tconfidence" in done.stderr
    assert (tmp_path / "good.labelled.ply").is_file()
    assert "cannot predict nosuch: nosuch" not in done.stderr  # named once
    refused = lg3d("predict", good.name, "--out", good.name, cwd=tmp_path, code=1)
    assert refused.stderr == "lg3d: error: --out must be a folder, and good.ply is a file: pass another --out\n"


def test_scans_that_cannot_be_opened_are_reported_before_a_model_is_loaded(tmp_path: Path) -> None:
    """The checkpoint does not exist, so an attempt to load it would be the error."""
    (tmp_path / "a.stl").touch()
    (tmp_path / "folder.ply").mkdir()
    os.mkfifo(tmp_path / "pipe.ply")
    kinds = "PLY, PCD, OBJ, GLB, GLTF, LAS, LAZ, E57"
    for word, reason in {
        "": "SCAN is an empty text: expected a file, or a scene of the store",
        "gone.ply": "gone.ply: no such file",
        "gone": "gone: no such file, and no scene store at data with a scene of that name",
        "a.stl": f"a.stl: expected a scan in one of {kinds}, found the suffix '.stl': convert or rename it",
        "folder.ply": f"folder.ply: expected a file in one of {kinds}, found a folder: pass the scans in it",
        "pipe.ply": f"pipe.ply: expected a file in one of {kinds}, found a pipe or device: write it to a file",
    }.items():
        for command in (("predict", word), ("ask", word, "a chair")):
            done = lg3d(*command, "--checkpoint", "gone.safetensors", cwd=tmp_path, code=1)
            assert done.stderr == f"lg3d: error: {reason}\n"
    done = lg3d("predict", "a.stl", "gone.ply", cwd=tmp_path, code=1)
    assert done.stderr.startswith("lg3d: error: none of the 2 scans can be opened: a.stl: expected a scan")
    shown = lg3d("view", "gone.ply", "--checkpoint", "gone.safetensors", cwd=tmp_path, code=1)
    assert "SCENE must be a scene of the store, got the scan file gone.ply" in shown.stderr
    # A file that turns out to be damaged when it is opened.
    (tmp_path / "torn.ply").write_bytes(b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\n")
    for command in (("predict", "torn.ply"), ("ask", "torn.ply", "a chair")):
        done = lg3d(*command, "--checkpoint", "gone.safetensors", cwd=tmp_path, code=1)
        assert "gone" not in done.stderr
        assert "torn.ply: " in done.stderr


def test_a_missing_scan_among_others_is_reported_before_the_others_are_predicted(
    checkpoint: Path, tmp_path: Path
) -> None:
    good = points_ply(tmp_path / "good.ply", XYZ[:2000], RGB[:2000])
    notes = Notes()
    report = predict_scans(settings_of(checkpoint, tmp_path, good, tmp_path / "gone.ply"), notes)
    assert notes.messages[0] == f"cannot predict {tmp_path / 'gone.ply'}: no such file"
    assert [labels.scan for labels in report.labelled] == [str(good)]
    assert list(report.failed) == [str(tmp_path / "gone.ply")]


def test_paths_alone_are_printed_and_quiet_is_quiet(checkpoint: Path, tmp_path: Path) -> None:
    points_ply(tmp_path / "good.ply", XYZ, RGB)
    done = lg3d("predict", "good.ply", "--checkpoint", checkpoint, "--quiet", "--format", "npz", cwd=tmp_path)
    assert done.stdout == "good.labelled.npz\n"
    assert done.stderr == ""


def test_a_checkpoint_that_cannot_name_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    scan = points_ply(tmp_path / "a.ply", XYZ[:100])
    with pytest.raises(CheckpointError, match="no fine-tuned run in"):
        predict_scans(PredictSettings(scans=(str(scan),), runs=tmp_path), Progress())
    bare = save_random(tmp_path / "p.safetensors", kind="pretrain", num_classes=None)
    with pytest.raises(CheckpointError, match="without a classifier: run lg3d finetune"):
        predict_scans(settings_of(bare, tmp_path, scan), Progress())
    other = save_random(tmp_path / "o.safetensors", num_classes=3, vocabulary="mine", vocabulary_digest="1")
    with pytest.raises(CheckpointError, match=r"vocabulary mine, .* pass --vocabulary FILE"):
        predict_scans(settings_of(other, tmp_path, scan, store=tmp_path / "none"), Progress())
    with pytest.raises(DataError, match="no vocabulary 'nope'"):
        predict_scans(settings_of(checkpoint, tmp_path, scan, vocabulary="nope"), Progress())


def test_names_of_written_files_never_collide_nor_replace_a_scan(tmp_path: Path) -> None:
    taken = [tmp_path / "a.labelled.ply"]
    assert file_names(["a", "b", "a"], taken, tmp_path, ".labelled") == ["a.labelled-2", "b.labelled", "a.labelled-3"]


def test_a_binary_scan_is_never_wholly_in_memory(tmp_path: Path) -> None:
    """Opening 240 MB and reading its middle takes a few megabytes."""
    rows = 20_000_000
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {rows}\n"
    head += "".join(f"property float {axis}\n" for axis in "xyz") + "end_header\n"
    path = tmp_path / "large.ply"
    with path.open("wb") as file:
        file.write(head.encode())
        file.truncate(len(head) + 12 * rows)  # a hole: no disk is used
    code = (
        "import resource, sys; from pathlib import Path; from lg3d_core.scans.open_scan import open_scan\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "surface = open_scan(Path(sys.argv[1])); surface.positions(10_000_000, 10_100_000)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    root = str(Path(__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True, cwd=root)
    assert int(done.stdout) < 60_000  # kB; 12 MB seen
