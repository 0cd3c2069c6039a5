"""With a label budget, no label outside it reaches anything that is trained.

Two stores are equal but for the training labels outside one budget of 5 %: in the second every such label and instance
is another, and so are the class counts that its files state. Everything derived from labels must come out the same, bit
for bit.
"""

import json
import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lg3d_core.objectives.classification import inverse_log_alpha, printed_alpha
from lg3d_core.progress import Progress
from lg3d_core.sampling.batch import Batch
from lg3d_core.sampling.instance_bank import ensure_bank
from lg3d_core.settings import FinetuneSettings, Method, PretrainSettings, Task, TrainSettings
from lg3d_core.store.budgets import Budget, ensure_budget
from lg3d_core.store.scene_file import read_scene_header, write_scene_file
from lg3d_core.store.scene_store import SceneStore, write_index
from lg3d_core.training.batches import SceneBatches, load_batches, plan_batches
from lg3d_core.training.finetune import finetune
from lg3d_core.training.pretrain import pretrain
from lg3d_core.training.scenes import open_training_data

RATIO = 0.05
SHARED: dict[str, Any] = {
    "network": "14A",
    "voxel_size": 0.15,
    "batch_size": 1,
    "epochs": 1,
    "jobs": 0,
    "device": "cpu",
    "limited": RATIO,
    "validate_every": 0,
}


def open_store(path: Path) -> tuple[SceneStore, Budget]:
    store = SceneStore(path)
    return store, ensure_budget(store, RATIO, seed=0, progress=Progress())


def falsify_labels(path: Path) -> float:
    """Change every training label and instance outside the budget, and the counts in files and index with them.

    Returns:
        Share of the training points whose label is another one now.
    """
    store, budget = open_store(path)
    rng = np.random.default_rng(0)
    headers, changed, total = [], 0, 0
    for scene_id in store.scene_ids():
        header = read_scene_header(store.scene_path(scene_id))
        if store.split_of(scene_id) == "train":
            scene = store.read(scene_id)
            outside = np.ones(len(scene.label), dtype=bool)
            outside[budget.rows(scene_id)] = False
            label, instance = scene.label.copy(), scene.instance.copy()
            label[outside] = (label[outside] + 1 + rng.integers(0, 199, outside.sum()) + 1) % 201 - 1
            instance[outside] = rng.integers(0, 500, outside.sum())
            changed, total = changed + int((label != scene.label).sum()), total + len(label)
            known, numbers = np.unique(label[label >= 0], return_counts=True)
            counts = dict(zip(known.tolist(), numbers.tolist(), strict=True))
            header = header._replace(class_counts=counts)
            write_scene_file(store.scene_path(scene_id), scene._replace(label=label, instance=instance), header)
        headers.append(header)
    write_index(path, [store.vocabulary], headers, {})
    return changed / total


@pytest.fixture(scope="module")
def stores(furnished_store_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The rooms as they are, and with other labels outside the budget."""
    folder = tmp_path_factory.mktemp("labels")
    true, false = folder / "true", folder / "false"
    shutil.copytree(furnished_store_path, true, ignore=shutil.ignore_patterns("instances", "budgets"))
    open_store(true)
    shutil.copytree(true, false)
    assert falsify_labels(false) > 0.9
    return true, false


def test_the_two_stores_have_one_budget_and_different_labels(stores: tuple[Path, Path]) -> None:
    (true, budget), (false, other) = (open_store(path) for path in stores)
    assert budget.digest == other.digest
    assert not np.array_equal(true.class_counts("train"), false.class_counts("train"))
    for scene_id in true.scene_ids():
        assert np.array_equal(true.read(scene_id).label, false.read(scene_id).label) == (
            true.split_of(scene_id) == "val"
        )


def test_class_counts_and_loss_weights_are_those_of_the_budget(stores: tuple[Path, Path]) -> None:
    true, false = (store.class_counts("train", budget=budget) for store, budget in map(open_store, stores))
    np.testing.assert_array_equal(true, false)
    assert 0 < true.sum() < 10_000  # of 56,782 points
    for weights in (inverse_log_alpha, printed_alpha):
        assert torch.equal(weights(torch.from_numpy(true)), weights(torch.from_numpy(false)))


def test_the_instance_bank_is_cut_from_the_budget(stores: tuple[Path, Path]) -> None:
    banks = [ensure_bank(store, budget=budget, progress=Progress()) for store, budget in map(open_store, stores)]
    assert len(banks[0]) >= 3
    assert banks[0].path.read_bytes() == banks[1].path.read_bytes()
    unlimited = [ensure_bank(store, budget=None, progress=Progress()) for store, _ in map(open_store, stores)]
    assert unlimited[0].path.read_bytes() != unlimited[1].path.read_bytes()  # the labels do differ


def read_batches(settings: TrainSettings) -> list[Batch]:
    data = open_training_data(settings, Progress())
    plans = list(plan_batches(len(data.dataset), batch_size=2, micro_batch=2, seed=0, epochs=2))
    source = SceneBatches(data.dataset, with_instances=True)
    return [batch for _, batch in load_batches(source, plans, jobs=0, seed=0, shift=True)]


@pytest.mark.parametrize("limited", [RATIO, None])
@pytest.mark.parametrize("command", [PretrainSettings, FinetuneSettings])
def test_batches_are_equal_under_the_budget_and_differ_without(
    stores: tuple[Path, Path], command: type[TrainSettings], limited: float | None
) -> None:
    own: dict[str, Any] = {"instances": 5} if command is FinetuneSettings else {}
    pair = [read_batches(command(store=path, **(SHARED | own | {"limited": limited}))) for path in stores]
    assert len(pair[0]) == 4
    if command is FinetuneSettings:
        assert sum(batch.placed for batch in pair[0]) >= 10
    equal = all(
        all(a.equal(b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(one, other, strict=True))
        for one, other in zip(*pair, strict=True)
    )
    assert equal == (limited is not None)


def read_run(checkpoint: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]], dict[str, Any]]:
    """Weights, metrics without times, and what the card says of the data."""
    times = {"seconds", "data_wait", "voxels_per_second"}
    lines = (checkpoint.parent / "metrics.jsonl").read_text().splitlines()
    metrics = [{key: value for key, value in json.loads(line).items() if key not in times} for line in lines]
    card = json.loads((checkpoint.parent / "card.json").read_text())
    of_data = {key: card[key] for key in ("labelled_points", "categories_with_labels", "label_budget") if key in card}
    return load_file(checkpoint), metrics, of_data


def assert_equal_runs(one: Path, other: Path) -> None:
    (left, left_metrics, left_card), (right, right_metrics, right_card) = read_run(one), read_run(other)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert left_metrics == right_metrics
    assert left_card == right_card


@pytest.mark.parametrize("method", get_args(Method))
def test_pretraining_ends_at_the_same_weights(
    stores: tuple[Path, Path], anchors_path: Path, tmp_path: Path, method: Method
) -> None:
    true, false = (
        pretrain(
            PretrainSettings(store=path, anchors=anchors_path, runs=tmp_path, name=path.name, method=method, **SHARED),
            Progress(),
        )
        for path in stores
    )
    assert_equal_runs(true, false)


@pytest.mark.parametrize("task", get_args(Task))
def test_finetuning_with_rare_objects_ends_at_the_same_weights(
    stores: tuple[Path, Path], tmp_path: Path, task: Task
) -> None:
    true, false = (
        finetune(
            FinetuneSettings(
                store=path, start="scratch", runs=tmp_path, name=path.name, instances=5, task=task, **SHARED
            ),
            Progress(),
        )
        for path in stores
    )
    assert_equal_runs(true, false)
    metrics = read_run(true)[1]
    assert sum(record.get("instances_placed", 0) for record in metrics) >= 8
    assert all("instances_skipped" in record for record in metrics if "loss" in record)
    assert any(record.get("distance", 0) > 0 for record in metrics) == (task == "instance")
