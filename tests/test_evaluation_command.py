"""Scoring a checkpoint on disk against a real store of box rooms."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lg3d_core.errors import CheckpointError, DataError
from lg3d_core.evaluation.eval import evaluate as evaluate_checkpoint
from lg3d_core.networks.checkpoint import CheckpointInfo, save_checkpoint
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.progress import Progress
from lg3d_core.settings import EvalSettings
from lg3d_core.store import SceneStore
from lg3d_core.vocabulary import load_vocabulary

VOCABULARY = load_vocabulary("scannet200")
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
