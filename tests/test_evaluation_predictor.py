"""Prediction with networks whose answer is known, and with a real one."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lg3d_core.errors import SettingsError
from lg3d_core.evaluation import predictor as module
from lg3d_core.evaluation.predictor import Prediction, Predictor
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.sparse import SparseTensor
from tests.fake_store import FakeScene, make_scene


def predict_scene(network: nn.Module, scene: FakeScene, *, voxel_size: float, **options: Any) -> Prediction:
    return Predictor(network=network, voxel_size=voxel_size, **options).predict(scene)  # type: ignore[arg-type]


class StrongestColor(nn.Module):
    """Names a voxel by its strongest channel; a dropout layer and a count tell how it was run."""

    num_classes = 3
    num_features = 3
    offset_head = None

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.9)
        self.frozen = nn.BatchNorm1d(3).eval()
        self.dtype_seen: list[torch.dtype] = []

    def forward(self, x: SparseTensor) -> Tensor:
        assert torch.is_inference_mode_enabled()
        self.dtype_seen.append((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
        return x.restore(self.dropout(x.features))

    def classify(self, features: Tensor) -> Tensor:
        assert features.dtype == torch.float32
        return 10 * features


def colored_scene(points: int = 2000) -> FakeScene:
    """Points whose one strong channel is their label."""
    scene = make_scene("colored", points=points)
    truth = np.arange(points) % 3
    return scene._replace(rgb=(200 * np.eye(3)[truth] + 20).astype(np.uint8), label=truth.astype(np.int16))


def voxels_of(scene: FakeScene, voxel_size: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return distinct cells, each one's first point, every point's cell, and the rounded mean colours."""
    cells = np.floor(scene.xyz.astype(np.float64) / voxel_size)
    distinct, first, inverse = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    inverse = inverse.reshape(-1)
    mean = np.stack([scene.rgb[inverse == k].mean(axis=0) for k in range(len(distinct))])
    return distinct, first, inverse, np.round(mean)


def test_every_vertex_has_the_label_of_a_voxel_around_it() -> None:
    scene = colored_scene()
    prediction = predict_scene(StrongestColor(), scene, voxel_size=0.2)
    cells, first, inverse, mean = voxels_of(scene, 0.2)
    np.testing.assert_array_equal(mean[np.arange(len(mean)), prediction.voxel_label], mean.max(axis=1))
    np.testing.assert_array_equal(prediction.voxel_truth, scene.label[first])
    assert prediction.voxels is not None
    rows = prediction.voxels.point_to_voxel
    np.testing.assert_array_equal(prediction.label, prediction.voxel_label[rows])
    assert np.abs(cells[rows] - cells[inverse]).max() == 1
    assert (rows == inverse).mean() > 0.5  # the nearest voxel has the largest weight
    assert [array.dtype for array in prediction[:4]] == [np.int16, np.float32, np.int16, np.int16]


def test_a_vertex_at_the_centre_of_its_voxel_has_its_label() -> None:
    scene = colored_scene()
    centred = scene._replace(xyz=((np.floor(scene.xyz / 0.2) + 0.5) * 0.2).astype(np.float32))
    prediction = predict_scene(StrongestColor(), centred, voxel_size=0.2)
    _, _, inverse, mean = voxels_of(scene, 0.2)
    ordered = np.sort(mean, axis=1)
    clear = (ordered[:, 2] > ordered[:, 1])[inverse]  # without two equally probable classes
    assert clear.mean() > 0.5
    np.testing.assert_array_equal(prediction.label[clear], prediction.voxel_label[inverse][clear])


def test_confidence_is_the_softmax_of_the_winner() -> None:
    scene = colored_scene()
    prediction = predict_scene(StrongestColor(), scene, voxel_size=0.2)
    assert prediction.voxels is not None
    _, _, _, mean = voxels_of(scene, 0.2)
    scores = np.exp(10 * (mean / 255 - 0.5))
    expected = scores.max(axis=1) / scores.sum(axis=1)
    np.testing.assert_allclose(prediction.voxels.labels.confidence, expected, rtol=1e-5)
    np.testing.assert_array_equal(prediction.confidence, prediction.voxels.labels.confidence[prediction.voxels[2]])


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = predict_scene(StrongestColor(), colored_scene(), voxel_size=0.2)
    monkeypatch.setattr(module, "CHUNK", 63)
    parts = predict_scene(StrongestColor(), colored_scene(), voxel_size=0.2)
    for one, other in zip(whole[:4], parts[:4], strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_network_runs_in_evaluation_mode_and_gets_its_modes_back() -> None:
    network = StrongestColor().train()
    network.frozen.eval()
    predict_scene(network, colored_scene(), voxel_size=0.2)
    assert network.training
    assert network.dropout.training
    assert not network.frozen.training
    network.eval()
    predict_scene(network, colored_scene(), voxel_size=0.2)
    assert not network.training


def test_features_are_bf16_but_class_scores_are_not() -> None:
    network = StrongestColor()
    predict_scene(network, colored_scene(), voxel_size=0.2, precision="bf16")
    predict_scene(network, colored_scene(), voxel_size=0.2, precision="fp32")
    assert network.dtype_seen == [torch.bfloat16, torch.float32]


def test_other_class_scores_may_replace_the_classifier() -> None:
    scene = colored_scene()
    weakest = predict_scene(StrongestColor(), scene, voxel_size=0.2, score=lambda features: -features[:, :2])
    assert set(np.unique(weakest.label)) == {0, 1}
    _, _, _, mean = voxels_of(scene, 0.2)
    np.testing.assert_array_equal(mean[np.arange(len(mean)), weakest.voxel_label], mean[:, :2].min(axis=1))


def test_a_scene_without_labels_or_without_points_is_predicted() -> None:
    unlabelled = colored_scene()._replace(label=np.full(2000, -1, dtype=np.int16))
    prediction = predict_scene(StrongestColor(), unlabelled, voxel_size=0.2)
    assert (prediction.voxel_truth == -1).all()
    assert (prediction.label >= 0).all()
    empty = predict_scene(StrongestColor(), make_scene("empty", points=0), voxel_size=0.2)
    assert [array.shape for array in empty[:4]] == [(0,)] * 4


def test_an_unknown_backend_is_rejected() -> None:
    with pytest.raises(SettingsError, match="--backend"):
        predict_scene(StrongestColor(), colored_scene(), voxel_size=0.2, backend="abacus")


@pytest.fixture(scope="module")
def unet() -> MinkUNet:
    torch.manual_seed(0)
    return MinkUNet("14A", num_classes=5)


def test_a_real_network_predicts_the_same_twice_and_on_reordered_vertices(unet: MinkUNet) -> None:
    scene = make_scene("room", points=400)
    state = {name: value.clone() for name, value in unet.state_dict().items()}
    one = predict_scene(unet, scene, voxel_size=0.05, backend="torch")
    # 400 points in 40^3 voxels: the few that share one keep their order, so every voxel keeps its vertex
    cells = np.floor(scene.xyz.astype(np.float64) / 0.05)
    order = np.lexsort(cells.T[::-1])
    moved = scene._replace(
        xyz=scene.xyz[order], rgb=scene.rgb[order], label=scene.label[order], instance=scene.instance[order]
    )
    other = predict_scene(unet, moved, voxel_size=0.05)
    np.testing.assert_array_equal(other.label, one.label[order])
    np.testing.assert_allclose(other.confidence, one.confidence[order], rtol=1e-5)
    for name, value in unet.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0)


def test_the_reference_backend_predicts_the_same(unet: MinkUNet) -> None:
    scene = make_scene("room", points=150)
    fast = predict_scene(unet, scene, voxel_size=0.1, backend="torch")
    slow = predict_scene(unet, scene, voxel_size=0.1, backend="reference")
    np.testing.assert_array_equal(fast.label, slow.label)
    np.testing.assert_allclose(fast.confidence, slow.confidence, rtol=1e-3)


def test_bf16_is_close_to_fp32_on_a_real_network(unet: MinkUNet) -> None:
    scene = make_scene("room", points=400)
    exact = predict_scene(unet, scene, voxel_size=0.05)
    rough = predict_scene(unet, scene, voxel_size=0.05, precision="bf16")
    assert abs(exact.confidence - rough.confidence).max() < 0.05
    assert (exact.label == rough.label).mean() > 0.9


def test_features_of_every_voxel_are_returned_on_request() -> None:
    scene = colored_scene()
    predictor = Predictor(network=StrongestColor(), voxel_size=0.2)
    assert predictor.predict(scene).features is None
    prediction = predictor.predict(scene, keep_features=True)
    assert prediction.features is not None
    assert prediction.features.argmax(dim=1).tolist() == prediction.voxel_label.tolist()


class OffsetByColor(StrongestColor):
    """Predicts a voxel's colour as its offset."""

    offset_head = staticmethod(lambda features: features)  # type: ignore[assignment]


def test_offsets_are_those_of_the_head_at_every_voxel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 63)
    scene = colored_scene()
    voxels = predict_scene(OffsetByColor(), scene, voxel_size=0.2).voxels
    assert voxels is not None
    distinct, _, _, mean = voxels_of(scene, 0.2)
    np.testing.assert_allclose(voxels.labels.offsets, mean / 255 - 0.5, atol=1e-6)
    np.testing.assert_allclose(voxels.centres, (distinct + 0.5) * 0.2)
    without = predict_scene(StrongestColor(), scene, voxel_size=0.2).voxels
    assert without is not None
    assert without.labels.offsets is None
