"""Scores of whole scenes, and the files written for them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lg3d_core.errors import CheckpointError, DataError
from lg3d_core.evaluation.evaluate import evaluate_scenes
from lg3d_core.evaluation.predictor import Predictor
from lg3d_core.evaluation.submissions import label_text
from lg3d_core.progress import Progress, Task
from lg3d_core.sparse import SparseTensor
from lg3d_core.vocabulary import load_vocabulary
from tests.fake_store import FakeScene, FakeStore, make_vocabulary


class Stripes(nn.Module):
    """Names a voxel by its red channel: 0, 100 or 200 are classes 0, 1, 2."""

    num_classes: int | None = 3
    num_features = 3
    offset_head = None

    def forward(self, x: SparseTensor) -> Tensor:
        return x.restore(x.features)

    def classify(self, features: Tensor) -> Tensor:
        steps = ((features[:, 0] + 0.5) * 2.55).round().long()
        return torch.nn.functional.one_hot(steps, 3).float()


def predictor_of(network: nn.Module, **options: Any) -> Predictor:
    return Predictor(network=network, voxel_size=0.5, **options)  # type: ignore[arg-type]


class Recorder(Progress):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.warnings: list[str] = []

    @contextmanager
    def task(self, description: str, *, total: int | None = None, unit: str = "") -> Iterator[Task]:
        recorder = self
        self.steps.append(f"{description} {total} {unit}")

        class Step(Task):
            def advance(self, steps: int = 1, *, status: str = "") -> None:
                recorder.steps.append(f"+{steps} {status}")

        yield Step()

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def scene(scene_id: str, seen: list[int], truth: list[int]) -> FakeScene:
    """Points in pairs that share a voxel and its mean colour; the pairs are 1 m apart."""
    num = len(seen)
    xyz = np.zeros((num, 3), dtype=np.float32)
    xyz[:, 0] = np.arange(num) // 2 + 0.1
    rgb = np.zeros((num, 3), dtype=np.uint8)
    rgb[:, 0] = 100 * np.array(seen)
    return FakeScene(scene_id, xyz, rgb, np.array(truth, dtype=np.int16), np.zeros(num, dtype=np.int32))


STORE = FakeStore(
    make_vocabulary("head", "common", "tail"),
    {
        # voxels (0 1) (2 3) (4 5): seen 0, 1, 2
        "one": scene("one", seen=[0, 0, 1, 1, 2, 2], truth=[0, 0, 1, 0, -1, 2]),
        "two": scene("two", seen=[1, 1], truth=[0, 1]),
        "bare": scene("bare", seen=[2, 2], truth=[-1, -1]),
    },
)


def test_scores_at_vertices_and_voxels_equal_hand_arithmetic() -> None:
    evaluation = evaluate_scenes(predictor_of(Stripes()), STORE, ["one", "two", "bare"])
    # vertices: truth 0 0 1 0 - 2 | 0 1 | - -, predicted 0 0 1 1 2 2 | 1 1 | 2 2
    assert evaluation.vertex.support.tolist() == [4, 2, 1]
    assert evaluation.vertex.predicted.tolist() == [2, 4, 1]
    np.testing.assert_allclose(evaluation.vertex.iou, [2 / 4, 2 / 4, 1])
    # voxels, by their first point: truth 0 1 - | 0 | -, predicted 0 1 2 | 1 | 2
    assert evaluation.voxel.support.tolist() == [2, 1, 0]
    np.testing.assert_allclose(evaluation.voxel.iou, [1 / 2, 1 / 2, np.nan])
    assert (evaluation.num_scenes, evaluation.num_labelled_scenes, evaluation.export) == (3, 2, None)
    assert evaluation.seconds > 0
    # vertices, scene by scene: right, by truth and by prediction
    assert evaluation.scenes.scene_ids == ("one", "two", "bare")
    assert evaluation.scenes.correct.tolist() == [[2, 1, 1], [0, 1, 0], [0, 0, 0]]
    assert evaluation.scenes.support.tolist() == [[3, 1, 1], [1, 1, 0], [0, 0, 0]]
    assert evaluation.scenes.predicted.tolist() == [[2, 2, 1], [0, 2, 0], [0, 0, 0]]


def test_exported_files_have_a_raw_id_per_vertex_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    evaluation = evaluate_scenes(predictor_of(Stripes()), STORE, ["one", "bare"], export=folder)
    assert evaluation.export == folder
    assert (folder / "one.txt").read_text() == "10\n10\n20\n20\n30\n30\n"
    assert (folder / "bare.txt").read_text() == "30\n30\n"
    assert sorted(path.name for path in folder.iterdir()) == ["bare.txt", "one.txt"]


def test_a_prediction_outside_the_vocabulary_is_exported_as_zero() -> None:
    vocabulary = load_vocabulary("scannet20")
    text = label_text(np.array([0, -1, 19, 20], dtype=np.int16), vocabulary)
    assert text == f"{vocabulary.ids[0]}\n0\n{vocabulary.ids[19]}\n0\n"


def test_an_export_that_cannot_be_written_raises_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match="cannot write"):
        evaluate_scenes(predictor_of(Stripes()), STORE, ["one"], export=tmp_path / "file")


def test_progress_receives_every_scene_and_a_warning_without_ground_truth() -> None:
    progress = Recorder()
    evaluation = evaluate_scenes(predictor_of(Stripes()), STORE, ["bare"], progress=progress)
    assert progress.steps == ["evaluate 1 scene", "+1 bare"]
    assert progress.warnings == ["none of the 1 scenes has ground truth: the scores are undefined"]
    assert np.isnan(evaluation.vertex.miou_present)


def test_json_is_valid_with_undefined_scores(tmp_path: Path) -> None:
    evaluation = evaluate_scenes(predictor_of(Stripes()), STORE, ["bare"], export=tmp_path)
    values = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert values["vertex"]["miou_present"] is None
    assert values["export"] == str(tmp_path)
    assert (values["num_scenes"], values["num_labelled_scenes"], values["vocabulary"]) == (1, 0, "letters")


def test_an_empty_split_raises_with_advice() -> None:
    with pytest.raises(DataError, match="no scenes to evaluate in fake: choose another --split"):
        evaluate_scenes(predictor_of(Stripes()), STORE, [])


@pytest.mark.parametrize(("num_classes", "words"), [(None, "no classifier"), (200, "a classifier of 200 classes")])
def test_a_classifier_of_another_width_is_rejected(num_classes: int | None, words: str) -> None:
    network = Stripes()
    network.num_classes = num_classes
    with pytest.raises(CheckpointError, match=f"expected a classifier of 3 classes .* has {words}"):
        evaluate_scenes(predictor_of(network), STORE, ["one"])


def test_a_network_without_classifier_uses_the_passed_class_scores() -> None:
    network = Stripes()
    network.num_classes = None
    evaluation = evaluate_scenes(
        predictor_of(network, score=lambda features: -network.classify(features)), STORE, ["one"]
    )
    # Class 0 is now named where another colour is seen, at 2 3 4 5, and truly there at 0 1 3: 1 / (3 + 3 - 1) without 4
    assert evaluation.vertex.iou[0] == 1 / 5
