"""The Python API: the same labels and heat as the commands, from files and from arrays."""

import json
import logging
import pickle
import subprocess
import sys
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import lg3d_core as lg3d
from lg3d_core.errors import CheckpointError, DataError, SettingsError, ShapeError
from lg3d_core.inference.ask import Conversation
from lg3d_core.inference.predict import predict as predict_scans
from lg3d_core.language import questions
from lg3d_core.language.anchors_file import Anchors, save_anchors
from lg3d_core.models import names
from lg3d_core.progress import Progress
from lg3d_core.scans.ply import Mesh, write_ply
from lg3d_core.settings import AskSettings, PredictSettings
from tests.random_checkpoint import VOCABULARY, save_random
from tests.scan_files import furnished_room, points_ply

XYZ, RGB, FACES = furnished_room()
XYZ = XYZ.astype(np.float32)


class WordEncoder:
    """Each word has a random direction; a text is the sum of its words."""

    encoder, weights = "hf:words, mean pooling", "made up"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        words = [[np.random.default_rng(zlib.crc32(word.encode())) for word in text.lower().split()] for text in texts]
        vectors = np.array([sum(rng.normal(size=96) for rng in row) for row in words], dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(tmp_path_factory.mktemp("run") / "checkpoint.safetensors")


@pytest.fixture
def grounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(questions, "_load", lambda *_: WordEncoder())
    return write_grounded(tmp_path)


def write_grounded(folder: Path, *, anchors_name: str = "anchors.safetensors") -> Path:
    """Write a language-grounded checkpoint with random weights, and its anchors."""
    metadata = {
        "encoder": WordEncoder.encoder,
        "weights": WordEncoder.weights,
        "prompt": "{}",
        "vocabulary_digest": VOCABULARY.digest,
        "projection": "none",
    }
    anchors = Anchors(WordEncoder().encode(VOCABULARY.names), VOCABULARY.names, metadata, None)
    save_anchors(folder / anchors_name, anchors)
    return save_random(
        folder / "checkpoint.safetensors",
        kind="pretrain",
        num_classes=None,
        anchors_digest=anchors.digest,
        settings=json.dumps({"anchors": anchors_name}),
    )


def test_labels_are_those_of_the_command(classifier: Path, tmp_path: Path) -> None:
    scan = tmp_path / "room.ply"
    write_ply(scan, Mesh(XYZ, RGB, FACES.astype(np.int32)))
    settings = PredictSettings(scans=(str(scan),), checkpoint=classifier, out=tmp_path, formats=("npz",), device="cpu")
    (labelled,) = predict_scans(settings, Progress()).labelled
    written = np.load(labelled.files[0])
    model = lg3d.load_model(classifier.parent, device="cpu")
    result = model.predict(str(scan))
    np.testing.assert_array_equal(result.ids[result.labels], written["label"])
    np.testing.assert_array_equal(result.scores, written["confidence"])
    assert result.labels.dtype == np.int32
    assert result.scores.dtype == np.float32
    assert result.names == model.names == VOCABULARY.names
    assert (result.scale, result.up) == (labelled.scale, labelled.up)
    for arrays in ((XYZ, RGB, FACES), (XYZ.astype(np.float64), RGB / 255, FACES)):
        again = model.predict(arrays)
        np.testing.assert_array_equal(again.labels, result.labels)
        np.testing.assert_array_equal(again.scores, result.scores)


def test_vertices_added_on_large_triangles_are_left_out_of_the_result(classifier: Path) -> None:
    corners = np.array([[0, 0, 0], [4, 0, 0], [4, 3, 0], [0, 3, 0]], dtype=np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    result = lg3d.load_model(classifier, device="cpu").predict((corners, None, faces), scale="m", up="z")
    assert result.labels.shape == result.scores.shape == (4,)
    assert (result.scores > 0).all()


def test_vertices_without_a_usable_position_have_no_label(classifier: Path, caplog: pytest.LogCaptureFixture) -> None:
    xyz = XYZ.copy()
    xyz[7] = np.nan
    with caplog.at_level(logging.WARNING, logger="lg3d"):
        result = lg3d.load_model(classifier, device="cpu").predict((xyz, RGB))
    assert (result.labels[7], result.scores[7]) == (-1, 0)
    assert (np.delete(result.labels, 7) >= 0).all()
    assert any("1 of" in message and "no usable position" in message for message in caplog.messages)


def test_heat_is_that_of_the_command(grounded: Path, tmp_path: Path) -> None:
    scan = points_ply(tmp_path / "room.ply", XYZ, RGB)
    settings = AskSettings(scan=str(scan), texts=("door",), checkpoint=grounded, device="cpu", threshold=0.3)
    conversation = Conversation(settings, Progress())
    (expected,) = conversation.ask(["door"])
    model = lg3d.load_model(grounded, device="cpu")
    match = model.ask("door", scan, threshold=0.3)
    np.testing.assert_array_equal(match.heat, conversation.at_vertices(expected))
    assert match.heat.shape == (len(XYZ),)
    assert [vars(place) for place in match.places] == [vars(place) for place in expected.places]
    assert match.nearest == expected.nearest
    again = model.ask("door", threshold=0.9999)  # the same scan, without another pass
    np.testing.assert_array_equal(again.heat, match.heat)
    assert again.places == []
    with pytest.raises(CheckpointError, match="without a classifier: run lg3d finetune"):
        model.predict(scan)


def test_a_text_without_a_scan_is_an_error(grounded: Path) -> None:
    with pytest.raises(SettingsError, match=r"no scan to search: pass one, as in model.ask\(text, 'scan.ply'\)"):
        lg3d.load_model(grounded, device="cpu").ask("door")


def test_a_classifier_without_aligned_features_answers_no_text(classifier: Path) -> None:
    with pytest.raises(CheckpointError, match="no longer aligned with text"):
        lg3d.load_model(classifier, device="cpu").ask("door", (XYZ, RGB))


@pytest.mark.parametrize(
    ("scan", "message"),
    [
        ((XYZ[:, :2], RGB), r"positions of shape \(vertices, 3\), got"),
        ((XYZ.astype(int), RGB), "floating-point positions"),
        ((XYZ, RGB[:5]), r"colours of shape \(\d+, 3\), got \(5, 3\)"),
        ((XYZ, RGB.astype(int)), "colours as uint8, or as floats in 0..1, got int64"),
        ((XYZ, RGB.astype(float)), r"floats in 0\.\.1, got floats in"),
        ((XYZ, RGB / 255 * np.nan), "floats in 0..1"),
        ((XYZ, RGB, FACES.astype(float)), r"integer triangles of shape \(faces, 3\)"),
        ((XYZ, RGB, FACES + len(XYZ)), "triangles with corners in 0.."),
        ((), "expected a file, xyz, .* got 0 arrays"),
        ((XYZ, RGB, FACES, FACES), "got 4 arrays"),
        ((None, RGB), "expected a file, xyz"),
    ],
)
def test_invalid_arrays_are_described(classifier: Path, scan: object, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        lg3d.load_model(classifier, device="cpu").predict(scan)  # type: ignore[arg-type]


def test_an_empty_scan_is_an_error(classifier: Path) -> None:
    with pytest.raises(DataError, match="arrays: the scan has no vertices"):
        lg3d.load_model(classifier, device="cpu").predict((XYZ[:0], RGB[:0]))


def test_invalid_options_and_names_are_errors(classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        lg3d.load_model(tmp_path / "none.safetensors")
    with pytest.raises(SettingsError, match="--device must be one of"):
        lg3d.load_model(classifier, device="tpu")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="--up must be"):
        lg3d.load_model(classifier, device="cpu").predict((XYZ, RGB), up="w")  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="no attribute 'load_modle'"):
        lg3d.load_modle  # type: ignore[attr-defined]  # noqa: B018


def test_the_shipped_model_is_the_default(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "shipped_checkpoint", lambda: classifier)
    assert lg3d.load_model(device="cpu").checkpoint == classifier
    monkeypatch.setattr(names, "shipped_checkpoint", lambda: None)
    with pytest.raises(CheckpointError, match="no model ships with this version of lg3d: pass a checkpoint"):
        lg3d.load_model("shipped")


def test_importing_the_package_loads_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, lg3d_core\n"
        "assert not {'torch', 'numpy', 'h5py'} & set(sys.modules)\n"
        "assert 'load_model' in dir(lg3d_core)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_objects_cover_the_labelled_vertices_in_the_scans_own_units(classifier: Path) -> None:
    model = lg3d.load_model(classifier, device="cpu")
    assert model.predict((XYZ, RGB)).objects is None  # without an offset head
    metres = model.predict((XYZ, RGB), scale="m", up="z", objects=True, min_points=30)
    millimetres = model.predict((1000 * XYZ, RGB), scale="mm", up="z", objects=True, min_points=30)
    assert metres.objects
    assert millimetres.objects
    for one, other in zip(metres.objects, millimetres.objects, strict=True):
        assert {metres.names[k] for k in metres.labels[one.rows]} == {one.name}
        assert len(one.rows) >= 30
        assert 0 < one.score <= 1
        np.testing.assert_array_equal(one.rows, other.rows)
        np.testing.assert_allclose(1000 * one.centre, other.centre, atol=1)
        np.testing.assert_allclose(one.size, other.size, atol=1e-3)
        assert one.corners.shape == (8, 3)


def test_tensors_lists_and_read_only_views_give_the_labels_of_the_arrays(classifier: Path) -> None:
    model = lg3d.load_model(classifier, device="cpu")
    xyz, rgb, faces = XYZ[::9], RGB[::9], np.array([[0, 1, 2]])
    expected = model.predict((xyz, rgb, faces)).labels
    fixed = np.asfortranarray(xyz)
    fixed.flags.writeable = False
    scans = (
        (torch.from_numpy(xyz.copy()).requires_grad_(), torch.from_numpy(rgb.copy()), torch.from_numpy(faces)),
        (fixed, np.asfortranarray(rgb), faces.astype(">i4")),
        (xyz.astype(">f8"), rgb / 255, faces.astype(np.uint64)),
        (xyz.tolist(), (rgb / 255).tolist(), faces.tolist()),
        [list(xyz), rgb, faces],
    )
    for scan in scans:
        np.testing.assert_array_equal(model.predict(scan).labels, expected)
    grey = model.predict((xyz, None, [])).labels
    for positions in (xyz, xyz.tolist(), list(xyz), torch.from_numpy(xyz.copy())):
        np.testing.assert_array_equal(model.predict(positions).labels, grey)
    assert model.predict(torch.zeros(4, 3, dtype=torch.bfloat16)).labels.shape == (4,)
    assert model.predict([[0.0, 0, 0], [1, 0, 0]]).labels.shape == (2,)  # two positions, not positions and colours


@pytest.mark.parametrize(
    ("scan", "message"),
    [
        (None, "got NoneType"),
        ({"xyz": XYZ}, "got dict"),
        (b"room.ply", "got bytes"),
        ([[0.0, 1.0], [2.0, 3.0, 4.0]], "rows of different lengths"),
        (np.ma.masked_array(XYZ, mask=XYZ > 1), "expected arrays without a mask"),
        ((XYZ, np.full(XYZ.shape, np.inf)), "values that are not finite"),
        ((XYZ, RGB.tolist()), r"got int64: convert them, e\.g\. rgb\.astype"),
    ],
)
def test_other_objects_than_arrays_are_described(classifier: Path, scan: object, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        lg3d.load_model(classifier, device="cpu").predict(scan)  # type: ignore[arg-type]


def test_threads_that_share_a_model_get_the_labels_of_single_calls(tmp_path: Path) -> None:
    path = save_random(tmp_path / "checkpoint.safetensors", adapt=0.3)
    shared = [lg3d.load_model(path, device="cpu") for _ in range(2)]
    scans = [(XYZ[k::9], RGB[k::9]) for k in range(6)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda k: shared[k % 2].predict(scans[k]), range(6)))
    alone = lg3d.load_model(path, device="cpu")
    for k, scan in enumerate(scans):
        np.testing.assert_array_equal(found[k].scores, alone.predict(scan).scores)
        np.testing.assert_array_equal(shared[0].predict(scan).scores, alone.predict(scan).scores)


def test_a_model_is_pickled_without_its_last_scan(grounded: Path, classifier: Path) -> None:
    model = lg3d.load_model(classifier)
    labels = model.predict((XYZ, RGB, FACES)).labels
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict((XYZ, RGB, FACES)).labels, labels)
    model = lg3d.load_model(grounded)
    heat = model.ask("chair", (XYZ, RGB, FACES)).heat
    copied = pickle.loads(pickle.dumps(model))
    with pytest.raises(SettingsError, match="no scan to search"):
        copied.ask("chair")
    np.testing.assert_array_equal(copied.ask("chair", (XYZ, RGB, FACES)).heat, heat)


def test_changes_of_arrays_and_results_do_not_affect_later_calls(grounded: Path, classifier: Path) -> None:
    model = lg3d.load_model(grounded, device="cpu")
    xyz, rgb = XYZ.copy(), RGB.copy()
    heat = model.ask("door", (xyz, rgb)).heat
    xyz[:], rgb[:] = 0, 0
    np.testing.assert_array_equal(model.ask("door").heat, heat)
    labeller = lg3d.load_model(classifier, device="cpu")
    first = labeller.predict((XYZ[:50], RGB[:50]))
    colors = first.colors.copy()
    first.colors[:] = 0
    np.testing.assert_array_equal(labeller.predict((XYZ[:50], RGB[:50])).colors, colors)


def test_no_other_scan_is_searched_after_one_that_cannot_be_opened(grounded: Path) -> None:
    model = lg3d.load_model(grounded, device="cpu")
    model.ask("door", (XYZ, RGB))
    with pytest.raises(DataError, match=r"none\.ply: no such file"):
        model.ask("door", "none.ply")
    with pytest.raises(SettingsError, match="no scan to search"):
        model.ask("door")


def test_texts_scans_and_options_of_other_types_are_described(grounded: Path, classifier: Path) -> None:
    model = lg3d.load_model(grounded, device="cpu")
    for text in (None, 3, ["door"], b"door"):
        with pytest.raises(SettingsError, match="expected a text such as 'somewhere to sit', got"):
            model.ask(text, (XYZ, RGB))  # type: ignore[arg-type]
    for scan in ("", " "):
        with pytest.raises(DataError, match="SCAN is an empty text"):
            model.ask("door", scan)
    for value in (0, 2.5, "a"):
        with pytest.raises(SettingsError, match="--min-points must be"):
            lg3d.load_model(classifier, device="cpu").predict((XYZ, RGB), min_points=value)  # type: ignore[arg-type]


def test_a_vocabulary_that_does_not_exist_is_reported_on_loading(classifier: Path) -> None:
    with pytest.raises(SettingsError, match="no vocabulary 'nope'"):
        lg3d.load_model(classifier, device="cpu", vocabulary="nope")
    other = (
        r"--vocabulary scannet20: .* predicts 200 classes of the vocabulary scannet200, scannet20 has 20 other classes"
    )
    with pytest.raises(CheckpointError, match=other):
        lg3d.load_model(classifier, device="cpu", vocabulary="scannet20")


@pytest.mark.parametrize("factor", [1e12, 1e60, 1e300])
def test_positions_beyond_any_room_are_one_error_without_a_warning(
    classifier: Path, caplog: pytest.LogCaptureFixture, factor: float
) -> None:
    with caplog.at_level(logging.INFO, logger="lg3d"), pytest.raises(DataError, match=r"expected at most .*--scale"):
        lg3d.load_model(classifier, device="cpu").predict((XYZ.astype(np.float64) * factor, RGB))
    assert not any("moved to the origin by" in message and "-0" in message for message in caplog.messages)
