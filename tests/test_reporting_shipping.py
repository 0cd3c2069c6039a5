"""The model of the package: half precision, card, and its use without a run."""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lg3d_core import models
from lg3d_core.errors import CheckpointError
from lg3d_core.evaluation.eval import evaluate
from lg3d_core.evaluation.predictor import Predictor
from lg3d_core.evaluation.table import percent
from lg3d_core.inference.ask import Conversation, find_anchors, find_grounded
from lg3d_core.inference.heat import name_features
from lg3d_core.inference.predict import predict
from lg3d_core.language.anchors_file import Anchors, load_anchors
from lg3d_core.networks.checkpoint import is_grounded, read_info
from lg3d_core.progress import Progress
from lg3d_core.reporting.shipping import TrainingCost, measure_cost, ship_model
from lg3d_core.settings import AskSettings, EvalSettings, FinetuneSettings, PredictSettings
from lg3d_core.store.scene_store import SceneStore
from lg3d_core.training.finetune import finetune
from tests.notes import Notes
from tests.scan_files import furnished_room, points_ply

SMALL: dict[str, Any] = {"network": "14A", "voxel_size": 0.2, "batch_size": 2, "jobs": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def run(store_path: Path, anchors_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    settings = FinetuneSettings(
        store=store_path,
        anchors=anchors_path,
        runs=runs,
        name="f",
        start="scratch",
        classifier="fixed-anchors",
        norm_momentum=0.5,
        **SMALL,
    )
    return finetune(settings, Progress()).parent


@pytest.fixture(scope="module")
def shipped(run: Path, store_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shipped")
    tests = [("synthetic rooms", store_path, "val")]
    return ship_model(
        run, folder, tests=tests, data="Rooms.", attribution="Chairs by Ann.", votes=2, progress=Progress()
    )


def test_weights_are_halved_and_running_statistics_are_not(run: Path, shipped: Path) -> None:
    before, after = load_file(run / "checkpoint.safetensors"), load_file(shipped)
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        if "running" in name:
            assert torch.equal(tensor, before[name])
        elif tensor.is_floating_point():
            assert tensor.dtype == torch.float16
            torch.testing.assert_close(tensor.float(), before[name], rtol=2**-11, atol=2**-25)
    assert shipped.stat().st_size < 0.52 * (run / "checkpoint.safetensors").stat().st_size


def test_the_shipped_file_labels_like_the_run(run: Path, shipped: Path, store_path: Path) -> None:
    store = SceneStore(store_path)
    scene = store.read(store.scene_ids("val")[0])
    one, other = (Predictor.load(path)[0].predict(scene) for path in (run / "checkpoint.safetensors", shipped))
    assert (one.label == other.label).mean() > 0.98
    np.testing.assert_allclose(one.confidence, other.confidence, atol=0.02)


def test_the_file_names_no_path_of_the_training(shipped: Path) -> None:
    settings = json.loads(read_info(shipped).settings)
    assert settings["classifier"] == "fixed-anchors"
    assert not {"store", "runs", "anchors", "start"} & settings.keys()


def test_the_card_has_the_scores_of_the_file(shipped: Path, store_path: Path) -> None:
    card = (shipped.parent / models.CARD_NAME).read_text()
    for votes in (1, 2):
        scores = evaluate(EvalSettings(checkpoint=shipped, store=store_path, votes=votes), Progress()).vertex
        row = f"| {votes} | {100 * scores.miou_present:.2f} | "
        assert row in card
        assert f"| {100 * scores.accuracy:.2f} |" in card
    assert "Rooms." in card
    assert "Chairs by Ann." in card
    assert "| object offsets | no |" in card
    assert "| - | - |" in card  # without an offset head, objects are not scored


def test_the_card_of_a_model_with_offsets_has_the_precision_of_its_objects(
    run: Path, store_path: Path, anchors_path: Path, tmp_path: Path
) -> None:
    settings = FinetuneSettings(
        store=store_path,
        anchors=anchors_path,
        runs=tmp_path,
        name="o",
        start=str(run),
        task="instance",
        classifier="fixed-anchors",
        **SMALL,
    )
    folder = finetune(settings, Progress()).parent
    tests = [("rooms", store_path, "val")]
    out = ship_model(
        folder, tmp_path / "out", tests=tests, data="", attribution="", votes=1, adapt=0.25, progress=Progress()
    )
    assert read_info(out).offset_head
    assert read_info(out).adapt == 0.25
    found = evaluate(EvalSettings(checkpoint=out, store=store_path), Progress()).instances
    assert found is not None
    card = (out.parent / models.CARD_NAME).read_text()
    assert f"| {percent(found.mean('ap50'))} | {percent(found.mean('ap25'))} |" in card
    assert "| object offsets | yes |" in card
    assert "| adaptation | 25 % of a scan's own statistics (`--adapt 0.25`) |" in card


def test_the_cost_adds_up_the_runs_that_a_run_started_from(tmp_path: Path) -> None:
    for name, start, seconds in (("a", "scratch", 1800), ("b", str(tmp_path / "a" / "checkpoint.safetensors"), 3600)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.json").write_text(json.dumps({"from": start}))
        (tmp_path / name / "checkpoint.safetensors").touch()
        records = [{"loss": 1.0, "seconds": seconds}, {"val_miou_present": 0.1}, {"loss": 0.5, "seconds": seconds}]
        (tmp_path / name / "metrics.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    cost = measure_cost(tmp_path / "b")
    assert cost == TrainingCost(steps=4, hours=pytest.approx(3.0))


def test_a_run_without_text_alignment_is_not_shipped(store_path: Path, anchors_path: Path, tmp_path: Path) -> None:
    settings = FinetuneSettings(
        store=store_path, anchors=anchors_path, runs=tmp_path, name="f", start="scratch", **SMALL
    )
    folder = finetune(settings, Progress()).parent
    with pytest.raises(CheckpointError, match="not aligned with text: train it with finetune --classifier"):
        ship_model(folder, tmp_path / "out", tests=[], data="", attribution="", progress=Progress())
    assert not (tmp_path / "out").exists()


@pytest.fixture
def installed(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(models, "FOLDER", shipped.parent)
    return shipped


def test_without_a_run_predict_and_ask_use_the_shipped_model(installed: Path, run: Path, tmp_path: Path) -> None:
    xyz, rgb, _ = furnished_room(spacing=0.1)
    points_ply(tmp_path / "room.ply", xyz, rgb)
    notes = Notes()
    scan = PredictSettings(scans=(str(tmp_path / "room.ply"),), out=tmp_path / "out", runs=tmp_path / "none")
    report = predict(scan, notes)
    assert report.checkpoint == installed
    assert sum("using the model that comes with lg3d" in note for note in notes.notes) == 1
    assert report.labelled[0].files[0].is_file()
    assert find_grounded(None, tmp_path / "none", notes) == installed
    assert is_grounded(read_info(installed))
    assert find_anchors(installed, read_info(installed), None).dim == 96
    # A run and --checkpoint beat it.
    (tmp_path / "runs").mkdir()
    shutil.copytree(run, tmp_path / "runs" / "f")
    own = tmp_path / "runs" / "f" / "checkpoint.safetensors"
    again = PredictSettings(scans=scan.scans, out=tmp_path / "out", runs=tmp_path / "runs")
    assert predict(again, Progress()).checkpoint == own
    passed = PredictSettings(scans=scan.scans, out=tmp_path / "out", runs=tmp_path / "none", checkpoint=own)
    assert predict(passed, Progress()).checkpoint == own
    assert find_grounded(None, tmp_path / "runs", Progress()) == own


def test_a_copy_without_a_model_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "FOLDER", tmp_path)
    assert models.shipped_checkpoint() is None
    assert models.shipped_anchors() is None
    scan = points_ply(tmp_path / "a.ply", np.zeros((3, 3)))
    with pytest.raises(CheckpointError, match=r"no fine-tuned run in .*: run lg3d finetune, or pass --checkpoint"):
        predict(PredictSettings(scans=(str(scan),), runs=tmp_path), Progress())
    with pytest.raises(CheckpointError, match="no language-grounded run in"):
        find_grounded(None, tmp_path, Progress())


def test_features_of_a_fixed_classifier_are_the_mean_of_its_names() -> None:
    anchors = torch.eye(3)
    logits = torch.tensor([[math.log(3.0), 0.0, -math.inf], [50.0, 0.0, 0.0]])
    # Probabilities 3/4, 1/4, 0: the mean (0.75, 0.25, 0) has length sqrt(0.625).
    expected = torch.tensor([[0.75, 0.25, 0.0], [1.0, 0.0, 0.0]]) / torch.tensor([[0.625**0.5], [1.0]])
    torch.testing.assert_close(name_features(logits, anchors), expected)


def test_ask_compares_texts_with_the_names_that_the_classifier_predicts(shipped: Path, tmp_path: Path) -> None:
    xyz, rgb, _ = furnished_room(spacing=0.1)
    points_ply(tmp_path / "room.ply", xyz, rgb)
    names = load_anchors(shipped.parent / models.ANCHORS_NAME)
    settings = AskSettings(
        scan=str(tmp_path / "room.ply"),
        checkpoint=shipped,
        anchors=shipped.parent / models.ANCHORS_NAME,
        device="cpu",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lg3d_core.inference.ask.open_reader", lambda *_, **__: NamedTexts(names))
        (answer,) = Conversation(settings, Progress()).ask(["floor"])
    # The feature is a unit mean of the names: the heat of a name follows from its probabilities alone.
    assert 0 < answer.highest < 1
    assert answer.nearest[0][0] == "floor"


class NamedTexts:
    """Texts are class names; their vectors are the anchors."""

    def __init__(self, anchors: Anchors) -> None:
        self._rows = dict(zip(anchors.names, anchors.vectors, strict=True))

    def read(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([self._rows[text] for text in texts])
