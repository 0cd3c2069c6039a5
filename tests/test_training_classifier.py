"""What a classifier starts as."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lg3d_core.errors import CheckpointError, SettingsError
from lg3d_core.inference.ask import find_anchors, find_grounded
from lg3d_core.language import load_anchors
from lg3d_core.language.anchors import anchors as make_anchors
from lg3d_core.networks.checkpoint import is_grounded, read_info
from lg3d_core.progress import Progress
from lg3d_core.settings import AnchorsSettings, FinetuneSettings, PretrainSettings
from lg3d_core.training.finetune import finetune
from lg3d_core.training.pretrain import pretrain

SMALL: dict[str, Any] = {
    "network": "14A",
    "voxel_size": 0.2,
    "batch_size": 2,
    "jobs": 0,
    "device": "cpu",
    "validate_every": 0,
}


@pytest.fixture(scope="module")
def grounded(store_path: Path, anchors_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("grounded")
    return pretrain(PretrainSettings(store=store_path, anchors=anchors_path, runs=runs, name="p", **SMALL), Progress())


def fine_tuning(store: Path, start: Path, anchors: Path, runs: Path, **changes: Any) -> FinetuneSettings:
    options: dict[str, Any] = {"classifier": "anchors", "learning_rate": 1e-9, "weight_decay": 0.0, "name": "f"}
    return FinetuneSettings(store=store, start=str(start), anchors=anchors, runs=runs, **(SMALL | options | changes))


def test_a_classifier_that_starts_as_the_anchors_names_a_voxel_by_the_nearest(
    grounded: Path, store_path: Path, anchors_path: Path, tmp_path: Path
) -> None:
    weights = load_file(finetune(fine_tuning(store_path, grounded, anchors_path, tmp_path), Progress()))
    anchors = torch.from_numpy(load_anchors(anchors_path).vectors)
    torch.testing.assert_close(weights["final.kernel"].reshape(96, 200), anchors.T, rtol=0, atol=1e-6)
    torch.testing.assert_close(weights["final.bias"].flatten(), torch.zeros(200), rtol=0, atol=1e-6)
    feature = torch.randn(5, 96, generator=torch.manual_seed(0))
    logits = feature @ weights["final.kernel"].reshape(96, 200)
    cosines = torch.nn.functional.cosine_similarity(feature[:, None], anchors[None], dim=2)
    torch.testing.assert_close(logits, cosines * feature.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-4)


def test_anchors_of_another_pre_training_are_refused(grounded: Path, store_path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    make_anchors(AnchorsSettings(anchors=other, encoder="bundled", dim=96, centred=True), Progress())
    with pytest.raises(CheckpointError, match=r"other\.safetensors holds anchors .* was pre-trained with"):
        finetune(fine_tuning(store_path, grounded, other, tmp_path), Progress())


@pytest.mark.parametrize("start", ["scratch", "supcon"])
def test_without_anchors_before_the_classifier_may_start_as_any_that_fit(
    start: str, store_path: Path, anchors_path: Path, tmp_path: Path
) -> None:
    before = Path(start)
    if start == "supcon":
        contrast = PretrainSettings(
            store=store_path, runs=tmp_path, name="p", method=start, contrast_points=50, **SMALL
        )
        before = pretrain(contrast, Progress())
    settings = fine_tuning(store_path, before, anchors_path, tmp_path)
    checkpoint = finetune(settings, Progress())
    weights, anchors = load_file(checkpoint), load_anchors(anchors_path)
    torch.testing.assert_close(
        weights["final.kernel"].reshape(96, 200), torch.from_numpy(anchors.vectors).T, rtol=0, atol=1e-6
    )
    assert read_info(checkpoint).anchors_digest == anchors.digest
    wide = tmp_path / "wide.safetensors"
    make_anchors(AnchorsSettings(anchors=wide, encoder="bundled", dim=32), Progress())
    line = r"wide\.safetensors have 32 dimensions, but features of network 14A have 96: .* --dim 96"
    with pytest.raises(SettingsError, match=line):
        finetune(replace(settings, anchors=wide, name="w"), Progress())


def test_all_but_the_classifier_starts_as_it_does_with_a_fresh_one(
    store_path: Path, anchors_path: Path, tmp_path: Path
) -> None:
    anchored = fine_tuning(store_path, Path("scratch"), anchors_path, tmp_path)
    fresh = replace(anchored, classifier="fresh", name="fresh")
    ours, other = (load_file(finetune(settings, Progress())) for settings in (anchored, fresh))
    assert not torch.equal(ours.pop("final.kernel"), other.pop("final.kernel"))
    for name in ours:
        if "kernel" in name:
            torch.testing.assert_close(ours[name], other[name], rtol=0, atol=1e-6)


def test_a_fixed_classifier_stays_equal_to_the_anchors_while_the_features_learn(
    store_path: Path, anchors_path: Path, tmp_path: Path
) -> None:
    settings = fine_tuning(
        store_path,
        Path("scratch"),
        anchors_path,
        tmp_path,
        classifier="fixed-anchors",
        learning_rate=0.01,
        weight_decay=0.05,
        optimiser="adamw",
        norm_momentum=0.1,
    )
    checkpoint = finetune(settings, Progress())
    weights, anchors = load_file(checkpoint), load_anchors(anchors_path)
    assert torch.equal(weights["final.kernel"].reshape(96, 200), torch.from_numpy(anchors.vectors).T)
    assert not weights["final.bias"].any()
    assert any(tensor.any() for name, tensor in weights.items() if name.endswith("running_mean"))
    assert is_grounded(read_info(checkpoint))
    assert find_anchors(checkpoint, read_info(checkpoint), None).digest == anchors.digest
    # The newest run that answers texts is found among fine-tuned runs as well.
    assert find_grounded(None, tmp_path, Progress()) == checkpoint


def test_a_classifier_that_is_trained_is_not_grounded(
    grounded: Path, store_path: Path, anchors_path: Path, tmp_path: Path
) -> None:
    assert is_grounded(read_info(grounded))
    assert not is_grounded(read_info(finetune(fine_tuning(store_path, grounded, anchors_path, tmp_path), Progress())))


@pytest.mark.parametrize(("optimiser", "rate"), [("sgd", 0.2), ("adamw", 0.01)])
def test_a_linear_probe_changes_the_classifier_and_nothing_else(
    optimiser: str, rate: float, grounded: Path, store_path: Path, anchors_path: Path, tmp_path: Path
) -> None:
    settings = fine_tuning(
        store_path,
        grounded,
        anchors_path,
        tmp_path,
        classifier="fresh",
        linear_probe=True,
        optimiser=optimiser,
        learning_rate=rate,
        weight_decay=0.05,
        norm_momentum=0.5,
        epochs=3,
        validate_every=1,
    )
    checkpoint = finetune(settings, Progress())
    before, after = load_file(grounded), load_file(checkpoint)
    assert set(after) == set(before) | {"final.kernel", "final.bias"}
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert after["final.bias"].any()
    log = [json.loads(line) for line in (checkpoint.parent / "metrics.jsonl").read_text().splitlines()]
    first, last = ([line["loss"] for line in log if "loss" in line and line["epoch"] == epoch] for epoch in (0, 2))
    assert sum(last) < sum(first)


def test_a_linear_probe_needs_a_classifier_that_can_be_trained() -> None:
    for conflict in ({"classifier": "fixed-anchors"}, {"task": "instance"}):
        with pytest.raises(SettingsError, match="--linear-probe must be left out with"):
            FinetuneSettings(linear_probe=True, **conflict)  # type: ignore[arg-type]
