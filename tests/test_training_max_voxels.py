"""`--max-voxels`: a batch in several passes, with the gradient that it has in one."""

import dataclasses
import itertools
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from lg3d_core.errors import Interrupted, SettingsError
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.progress import Progress
from lg3d_core.sampling.augment import Augmentation
from lg3d_core.sampling.views import ViewDataset
from lg3d_core.settings import FinetuneSettings, PretrainSettings
from lg3d_core.training.batches import BatchSource, SceneBatches, ViewBatches, load_batches, plan_batches, split_batch
from lg3d_core.training.distributed import World
from lg3d_core.training.finetune import finetune
from lg3d_core.training.learners import Classification, Learner, SceneContexts
from lg3d_core.training.pretrain import pretrain
from lg3d_core.training.scenes import open_training_data
from lg3d_core.training.step import accumulate_gradients
from tests.notes import Notes
from tests.test_training_runs import equal_weights, read_losses, read_metrics

CPU = torch.device("cpu")


def training(store_path: Path, runs: Path, name: str, **changes: Any) -> FinetuneSettings:
    values: dict[str, Any] = {
        "store": store_path,
        "runs": runs,
        "name": name,
        "start": "scratch",
        "network": "14A",
        "voxel_size": 0.1,
        "batch_size": 3,
        "jobs": 0,
        "device": "cpu",
        "validate_every": 0,
    }
    return FinetuneSettings(**(values | changes))


def gradient(learner: Learner[Any], source: BatchSource[Any], *, micro: int = 3) -> tuple[torch.Tensor, list[int]]:
    """Of the first step, and the voxels of its passes."""
    plans = plan_batches(3, batch_size=3, micro_batch=micro, seed=0, epochs=1)
    parts = list(load_batches(source, plans, jobs=0, seed=0, shift=True))
    assert [plan.last for plan, _ in parts] == [False] * (len(parts) - 1) + [True]
    assert all(len(torch.unique(batch.coordinates, dim=0)) == len(batch.coordinates) for _, batch in parts)
    learner.network.zero_grad()
    accumulate_gradients(learner, parts, seed=0, world=World(CPU), precision="fp32")
    flat = [p.grad.flatten() for p in learner.network.parameters() if p.grad is not None]
    return torch.cat(flat), [len(batch.features) for _, batch in parts]


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(a))


def test_a_split_batch_has_the_gradient_of_the_whole(store_path: Path, tmp_path: Path) -> None:
    """With the statistics of batch normalisation frozen; scenes have different numbers of labelled voxels."""
    data = open_training_data(training(store_path, tmp_path, "x"), Progress())
    torch.manual_seed(0)
    network = MinkUNet("14A", num_classes=200).eval()
    learner = Classification(network, loss="cross-entropy", gamma=2.0, alpha=None)
    whole, (voxels,) = gradient(learner, SceneBatches(data.dataset))
    per_scene = voxels // 3
    for max_voxels, passes in ((2 * per_scene + 500, 2), (per_scene + 500, 3)):
        split, sizes = gradient(learner, SceneBatches(data.dataset, max_voxels=max_voxels))
        assert sum(sizes) == voxels
        assert len(sizes) == passes
        assert max(sizes) <= max_voxels
        assert difference(whole, split) < 1e-4  # fp32 sums in another order: measured 4e-6


def test_passes_of_few_scenes_are_split_too(store_path: Path, tmp_path: Path) -> None:
    data = open_training_data(training(store_path, tmp_path, "x"), Progress())
    plans = plan_batches(3, batch_size=3, micro_batch=2, seed=0, epochs=1)
    largest = max(SceneBatches(data.dataset).load([0, 1, 2], epoch=0, rng=None).scene_sizes)
    source = SceneBatches(data.dataset, max_voxels=largest)
    passes = [plan for plan, _ in load_batches(source, plans, jobs=0, seed=0, shift=True)]
    assert [(plan.part, plan.piece, plan.last) for plan in passes] == [(0, 0, False), (0, 1, False), (1, 0, True)]


def test_a_split_batch_of_views_has_the_gradient_of_the_whole(store_path: Path, tmp_path: Path) -> None:
    scenes = open_training_data(training(store_path, tmp_path, "x"), Progress()).dataset
    views = ViewDataset(
        scenes.store, scenes.scene_ids, voxel_size=0.1, augmentation=Augmentation(), share=0.5, max_matches=500
    )
    torch.manual_seed(0)
    learner = SceneContexts(MinkUNet("14A").eval(), temperature=0.4, inner=0.05, outer=0.5)
    whole, (voxels,) = gradient(learner, ViewBatches(views))
    split, sizes = gradient(learner, ViewBatches(views, max_voxels=2 * voxels // 3 + 400))
    assert len(sizes) == 2
    assert difference(whole, split) < 1e-4


def test_a_scene_that_is_cut_keeps_all_its_labels(store_path: Path, tmp_path: Path) -> None:
    data = open_training_data(training(store_path, tmp_path, "x"), Progress())
    whole = SceneBatches(data.dataset).load([0], epoch=0, rng=None)
    source = SceneBatches(data.dataset, max_voxels=1000)
    batch = source.load([0], epoch=0, rng=None)
    parts = split_batch(batch, 1000)
    number = -(-len(whole.features) // 1000)
    assert batch.cut == ("scene9000_00",)
    assert len(parts) == number >= 2
    assert sum(int((part.labels >= 0).sum()) for part in parts) == int((whole.labels >= 0).sum())
    assert source.facts(parts[0]) == {"passes": 1, "scenes_cut": 1}
    assert source.facts(parts[1]) == {"passes": 1, "scenes_cut": 0}
    assert f"scene9000_00 has {len(whole.features)} voxels, more than --max-voxels 1000" in source.describe_cut(batch)


def test_a_voxel_limit_is_respected_reported_once_and_counted(store_path: Path, tmp_path: Path) -> None:
    notes = Notes()
    checkpoint = finetune(training(store_path, tmp_path, "cut", max_voxels=1000, epochs=2), notes)
    assert sum("more than --max-voxels 1000" in note for note in notes.notes) == 1
    records = [record for record in read_metrics(checkpoint.parent) if "loss" in record]
    assert all(record["scenes_cut"] == 3 and record["passes"] >= 6 for record in records)


def test_a_limit_that_nothing_reaches_changes_nothing(store_path: Path, tmp_path: Path) -> None:
    free = finetune(training(store_path, tmp_path, "free"), Progress())
    limited = finetune(training(store_path, tmp_path, "limited", max_voxels=10**6), Progress())
    assert equal_weights(free, limited)


class Stopper(Notes):
    """Asks to stop after some steps, as Ctrl-C does."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    @contextmanager
    def task(self, description: str, *, total: int | None = None, unit: str = "") -> Iterator[Any]:
        with super().task(description, total=total, unit=unit) as task:
            advance, done = task.advance, itertools.count(1)

            def count(steps: int = 1, *, status: str = "") -> None:
                advance(steps, status=status)
                if description in ("pretrain", "finetune") and next(done) == self.steps:
                    signal.raise_signal(signal.SIGINT)

            task.advance = count  # type: ignore[method-assign]
            yield task


@pytest.mark.parametrize("method", ["language", "csc"])
def test_a_split_run_resumes_with_the_same_steps(
    method: str, store_path: Path, anchors_path: Path, tmp_path: Path
) -> None:
    values = json.loads(training(store_path, tmp_path, "x", batch_size=2, epochs=2, max_voxels=1100).to_json())
    own = {key: value for key, value in values.items() if key in PretrainSettings.__dataclass_fields__}
    base = PretrainSettings.from_json(
        json.dumps(own | {"command": "pretrain", "method": method, "anchors": str(anchors_path)})
    )
    whole = pretrain(dataclasses.replace(base, name="whole"), Progress())
    stopped = dataclasses.replace(base, name="stopped", jobs=1)
    with pytest.raises(Interrupted):
        pretrain(stopped, Stopper(3))
    resumed = pretrain(dataclasses.replace(stopped, resume=tmp_path / "stopped"), Progress())
    assert equal_weights(whole, resumed)
    assert read_losses(whole.parent) == read_losses(resumed.parent)


def test_plans_are_made_as_they_are_needed() -> None:
    plans = plan_batches(10, batch_size=4, micro_batch=2, seed=0, epochs=10**12)
    assert next(plans).epoch == 0  # a list of them would fill the memory


def test_a_limit_that_no_network_can_learn_from_is_refused() -> None:
    with pytest.raises(SettingsError, match="--max-voxels must be at least 1000"):
        FinetuneSettings(max_voxels=999)
