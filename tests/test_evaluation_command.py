"""Scoring a checkpoint on disk against a real store of box rooms."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lg3d_core.comparing.check import check
from lg3d_core.comparing.score import score
from lg3d_core.errors import CheckpointError, DataError, SettingsError
from lg3d_core.evaluation.eval import evaluate as evaluate_checkpoint
from lg3d_core.evaluation.predictor import Prediction, Predictor, VoxelLabels
from lg3d_core.networks.checkpoint import CheckpointInfo, save_checkpoint
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.progress import Progress
from lg3d_core.settings import EvalSettings, ScoreSettings
from lg3d_core.store import SceneStore
from lg3d_core.store.scene_file import Scene
from lg3d_core.vocabulary import load_vocabulary

VOCABULARY = load_vocabulary("scannet200")
CHAIR = VOCABULARY.index_by_name["chair"]
INFO = CheckpointInfo(
    kind="finetune",
    network="14A",
    num_classes=200,
    voxel_size=0.2,
    vocabulary=VOCABULARY.name,
    vocabulary_digest=VOCABULARY.digest,
)


@pytest.fixture(scope="module")
def always_floor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose classifier names everything floor: no weights, and the floor's bias."""
    network = MinkUNet("14A", num_classes=200)
    assert network.final is not None
    assert network.final.bias is not None
    with torch.no_grad():
        network.final.kernel.zero_()
        network.final.bias.zero_()
        network.final.bias.view(-1)[VOCABULARY.index_by_name["floor"]] = 5.0
    path = tmp_path_factory.mktemp("checkpoint") / "floor.safetensors"
    save_checkpoint(path, network, INFO)
    return path


def test_a_network_that_predicts_floor_everywhere_scores_the_share_of_floor(
    always_floor: Path, store_path: Path, tmp_path: Path
) -> None:
    settings = EvalSettings(store=store_path, checkpoint=always_floor, device="cpu", export=tmp_path)
    evaluation = evaluate_checkpoint(settings, Progress())
    store = SceneStore(store_path)
    labels = np.concatenate([store.read(scene_id).label for scene_id in store.scene_ids("val")])
    floor = VOCABULARY.index_by_name["floor"]
    share = (labels == floor).sum() / (labels >= 0).sum()
    present = len(np.unique(labels[labels >= 0]))
    assert evaluation.vertex.iou[floor] == pytest.approx(share)
    assert evaluation.vertex.miou_200 == pytest.approx(share / 200)
    assert evaluation.vertex.miou_present == pytest.approx(share / present)
    assert evaluation.vertex.recall[floor] == 1
    for scene_id in store.scene_ids("val"):
        lines = (tmp_path / f"{scene_id}.txt").read_text().split()
        assert lines == ["3"] * len(store.read(scene_id).xyz)  # floor's raw id is 3


def test_an_unannotated_split_is_exported(always_floor: Path, store_path: Path, tmp_path: Path) -> None:
    settings = EvalSettings(store=store_path, checkpoint=always_floor, split="test", device="cpu", export=tmp_path)
    evaluation = evaluate_checkpoint(settings, Progress())
    assert (evaluation.num_scenes, evaluation.num_labelled_scenes) == (1, 0)
    assert len(list(tmp_path.iterdir())) == 1


def test_without_any_run_the_error_names_the_command_to_run(store_path: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="run lg3d finetune, or pass --checkpoint FILE"):
        evaluate_checkpoint(EvalSettings(store=store_path, runs=tmp_path, device="cpu"), Progress())


def test_an_unknown_split_and_a_missing_checkpoint_raise(always_floor: Path, store_path: Path) -> None:
    with pytest.raises(DataError, match="nosuch"):
        evaluate_checkpoint(
            EvalSettings(store=store_path, checkpoint=always_floor, split="nosuch", device="cpu"), Progress()
        )
    with pytest.raises(CheckpointError, match=r"missing\.safetensors"):
        evaluate_checkpoint(EvalSettings(store=store_path, checkpoint=Path("missing.safetensors")), Progress())


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (replace(INFO, vocabulary="other", vocabulary_digest="0" * 16), "use a store of the checkpoint's vocabulary"),
        (replace(INFO, kind="pretrain", num_classes=None), "run lg3d finetune --from"),
    ],
)
def test_a_checkpoint_for_other_classes_is_rejected(
    info: CheckpointInfo, message: str, store_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / "other.safetensors"
    save_checkpoint(path, MinkUNet("14A", num_classes=info.num_classes), info)
    with pytest.raises(CheckpointError, match=message):
        evaluate_checkpoint(EvalSettings(store=store_path, checkpoint=path, device="cpu"), Progress())


@pytest.fixture
def mostly_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the classes of voxels by the annotated ones, with some errors, and offsets by zeros."""
    predict = Predictor.predict

    def predict_with_truth(self: Predictor, scene: Scene, **options: object) -> Prediction:
        found = predict(self, scene, **options)
        assert found.voxels is not None
        rng = np.random.default_rng(len(scene.xyz))
        label = np.where(rng.random(len(found.voxel_truth)) < 0.1, CHAIR, found.voxel_truth)
        confidence = rng.random(len(label)).astype(np.float32)
        labels = VoxelLabels(label, confidence, np.zeros((len(label), 3), dtype=np.float32))
        voxels = found.voxels._replace(labels=labels)
        return found._replace(label=label[voxels.point_to_voxel], voxel_label=label, voxels=voxels)

    monkeypatch.setattr(Predictor, "predict", predict_with_truth)


@pytest.mark.usefixtures("mostly_right")
@pytest.mark.parametrize("task", ["semantic", "instance"])
def test_a_submission_has_exactly_the_scores_of_the_evaluation(
    always_floor: Path, store_path: Path, tmp_path: Path, task: str
) -> None:
    path = tmp_path / "mine.zip"
    settings = EvalSettings(store=store_path, checkpoint=always_floor, device="cpu", task=task, submission=path)
    expected = evaluate_checkpoint(settings, Progress()).to_dict()
    scored = score(ScoreSettings(predictions=(path,), store=store_path, jobs=1, resamples=100), Progress()).to_dict()
    assert scored["task"] == task
    part = "instances" if task == "instance" else "vertex"
    assert scored["predictions"][0][part] == expected[part]
    means = expected["instances"]["means"]["all"]["ap25"] if task == "instance" else expected["vertex"]["miou_present"]
    assert 0.3 < means < 1
    check_settings = ScoreSettings(predictions=(path,), store=store_path, jobs=1, check=True)
    problems = check(check_settings, Progress()).lines
    assert all("class ids that the benchmark does not have: 0" in problem for problem in problems)


@pytest.mark.parametrize("task", ["semantic", "instance"])
def test_a_split_without_labels_is_submitted(always_floor: Path, store_path: Path, tmp_path: Path, task: str) -> None:
    path = tmp_path / "test.zip"
    settings = EvalSettings(
        store=store_path, checkpoint=always_floor, device="cpu", split="test", task=task, submission=path
    )
    evaluate_checkpoint(settings, Progress())
    settings = ScoreSettings(predictions=(path,), store=store_path, split="test", jobs=1, check=True)
    report = check(settings, Progress())
    assert (report.lines, report.num_scenes, report.predictions[0].task) == ([], 1, task)


def test_a_failed_evaluation_leaves_the_submission_that_was_there(
    always_floor: Path, store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.zip"
    path.write_text("earlier")
    read = SceneStore.read

    def read_first(self: SceneStore, scene_id: str, **options: object) -> Scene:
        if scene_id == self.scene_ids("val")[1]:
            raise DataError("damaged")
        return read(self, scene_id, **options)

    monkeypatch.setattr(SceneStore, "read", read_first)
    with pytest.raises(DataError, match="damaged"):
        evaluate_checkpoint(
            EvalSettings(store=store_path, checkpoint=always_floor, device="cpu", submission=path), Progress()
        )
    assert [file.name for file in tmp_path.iterdir()] == ["mine.zip"]
    assert path.read_text() == "earlier"


def test_a_submission_that_is_no_zip_file_is_a_wrong_value() -> None:
    with pytest.raises(SettingsError, match=r"--submission must be a file name that ends in \.zip, got .mine"):
        EvalSettings(submission=Path("mine"))
