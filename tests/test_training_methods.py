"""Every way of pre-training and every loss in whole runs: they learn, repeat, go on after a stop, feed fine-tuning."""

import dataclasses
import json
import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from lg3d_core.errors import Interrupted, SettingsError
from lg3d_core.networks.checkpoint import read_info
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.progress import Progress, Task
from lg3d_core.sampling.augment import Augmentation
from lg3d_core.sampling.batch import Batch
from lg3d_core.sampling.views import ViewDataset
from lg3d_core.settings import FinetuneSettings, PretrainSettings
from lg3d_core.sparse import SparseTensor
from lg3d_core.training.batches import SceneBatches, ViewBatches, load_batches, plan_batches
from lg3d_core.training.distributed import World
from lg3d_core.training.finetune import finetune
from lg3d_core.training.learners import Classification, SceneContexts, SupervisedContrast
from lg3d_core.training.pretrain import pretrain
from lg3d_core.training.scenes import open_training_data
from lg3d_core.training.step import accumulate_gradients
from tests.finished_runs import equal_weights, read_losses, read_metrics

SMALL: dict[str, Any] = {
    "network": "14A",
    "voxel_size": 0.2,
    "batch_size": 2,
    "jobs": 0,
    "device": "cpu",
    "learning_rate": 0.05,
    "validate_every": 0,
}


def settings(store: Path, runs: Path, name: str, **changes: Any) -> PretrainSettings:
    options = {"store": store, "anchors": Path("nowhere.safetensors"), "runs": runs, "name": name, "epochs": 2}
    return PretrainSettings(**(SMALL | options | changes))


class Stopper(Progress):
    """Asks the run to stop after so many steps, as Ctrl-C does, and keeps what it is told."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    @contextmanager
    def task(self, description: str, *, total: int | None = None, unit: str = "") -> Iterator[Task]:
        del description, total
        yield _Counter(self) if unit == "step" else Task()


class _Counter(Task):
    def __init__(self, owner: Stopper) -> None:
        self.owner = owner
        self.done = 0

    def advance(self, steps: int = 1, *, status: str = "") -> None:
        del status
        self.done += steps
        if steps and self.done == self.owner.steps:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("method", ["supcon", "csc"])
def test_a_baseline_resumes_and_can_be_fine_tuned(method: str, store_path: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"method": method, "contrast_points": 100, "epochs": 3, "micro_batch": 1}
    whole = pretrain(settings(store_path, tmp_path, "whole", **options), Progress())
    losses = read_losses(whole.parent)
    assert len(losses) == 6

    stopped = settings(store_path, tmp_path, "stopped", **options)
    progress = Stopper(3)  # in the second epoch
    with pytest.raises(Interrupted, match=r"lg3d pretrain --resume"):
        pretrain(stopped, progress)
    resumed = pretrain(dataclasses.replace(stopped, resume=tmp_path / "stopped"), Progress())
    assert equal_weights(whole, resumed)
    assert read_losses(resumed.parent) == losses

    info = read_info(whole)
    assert (info.kind, info.num_classes, info.anchors_digest) == ("pretrain", None, None)
    assert PretrainSettings.from_json(info.settings).method == method
    assert json.loads((whole.parent / "card.json").read_text())["method"] == method
    assert "this method does not predict classes: training without validation" in progress.notes
    assert not (whole.parent / "best.safetensors").exists()
    tuned = finetune(
        FinetuneSettings(**SMALL, store=store_path, runs=tmp_path, name="f", start=str(whole), epochs=1), Progress()
    )
    assert json.loads((tuned.parent / "card.json").read_text())["from"] == str(whole)


@pytest.mark.parametrize("method", ["supcon", "csc"])
def test_seeds_fix_a_baseline_and_worker_processes_change_nothing(
    method: str, store_path: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"method": method, "contrast_points": 100, "epochs": 1}
    one = pretrain(settings(store_path, tmp_path, "one", **options), Progress())
    two = pretrain(settings(store_path, tmp_path, "two", jobs=2, **options), Progress())
    other = pretrain(settings(store_path, tmp_path, "other", seed=1, **options), Progress())
    assert equal_weights(one, two)
    assert not equal_weights(one, other)


def test_scene_contexts_use_no_labels_and_report_it(store_path: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"method": "csc", "contrast_points": 100, "epochs": 1}
    full = pretrain(settings(store_path, tmp_path, "full", **options), Progress())
    progress = Stopper(-1)
    limited = pretrain(settings(store_path, tmp_path, "limited", limited=0.05, **options), progress)
    assert equal_weights(full, limited)
    assert "csc does not use labels: --limited has no effect" in progress.notes
    assert {record["matches"] for record in read_metrics(full.parent)} == {200, 100}  # batches of 2 scenes and of 1


@pytest.fixture
def views(store_path: Path, tmp_path: Path) -> ViewBatches:
    scenes = open_training_data(settings(store_path, tmp_path, "x"), Progress()).dataset
    return ViewBatches(
        ViewDataset(
            scenes.store, scenes.scene_ids, voxel_size=0.2, augmentation=Augmentation(), share=0.5, max_matches=500
        )
    )


def test_accumulated_contrast_is_that_of_the_whole_batch(views: ViewBatches) -> None:
    """With the statistics of batch normalisation apart, two passes of one scene add up to one pass of two."""
    torch.manual_seed(0)
    learner = SceneContexts(MinkUNet("14A").eval(), temperature=0.4, inner=0.05, outer=0.5)
    gradients = []
    for micro in (2, 1):
        plans = list(plan_batches(3, batch_size=2, micro_batch=micro, seed=0, epochs=1))[: 2 // micro]
        parts = list(load_batches(views, plans, jobs=0, seed=0, shift=False))
        learner.network.zero_grad()
        accumulate_gradients(learner, parts, seed=0, world=World(torch.device("cpu")), precision="fp32")
        gradients.append(torch.cat([p.grad.flatten() for p in learner.network.parameters() if p.grad is not None]))
    # fp32 sums in another order
    assert torch.linalg.vector_norm(gradients[0] - gradients[1]) < 1e-4 * torch.linalg.vector_norm(gradients[0])


def learn_one_batch(learner: Any, batch: Any, *, steps: int) -> tuple[float, float]:
    """The loss before and after some steps on one batch alone."""
    optimiser = torch.optim.SGD(learner.network.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(steps + 1):
        optimiser.zero_grad()
        loss = learner.loss(
            learner.network(SparseTensor(batch.features, batch.coordinates)), batch, seeds=range(len(batch.scene_ids))
        )[0].total
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses[0], losses[-1]


def test_scene_contexts_learn_to_match_two_views(views: ViewBatches) -> None:
    torch.manual_seed(0)
    learner = SceneContexts(MinkUNet("14A"), temperature=0.4, inner=0.05, outer=0.5)
    before, after = learn_one_batch(learner, views.load([0], epoch=0, rng=None), steps=20)
    assert before > 1.5  # measured 1.84
    assert after < 1.0  # measured 0.70


def test_supervised_contrast_groups_voxels_of_one_class(store_path: Path, tmp_path: Path) -> None:
    data = open_training_data(settings(store_path, tmp_path, "x"), Progress())
    torch.manual_seed(0)
    learner = SupervisedContrast(MinkUNet("14A"), sources=300, positives=5, negatives=5, temperature=0.1)
    before, after = learn_one_batch(learner, SceneBatches(data.dataset).load([0, 1], epoch=0, rng=None), steps=20)
    assert before > math.log(10)  # all features alike; measured 2.76
    assert after < 1.75  # measured 1.62; five equal positives of ten leave at least log 5 = 1.61


@pytest.mark.parametrize(
    "options",
    [{"distance": "l1"}, {"distance": "l2", "hinge": "mean-first", "replacement": True}, {"contrast": "softmax"}],
    ids=["l1", "l2 mean-first", "softmax"],
)
def test_language_grounding_in_its_other_forms(
    options: dict[str, Any], store_path: Path, anchors_path: Path, tmp_path: Path
) -> None:
    checkpoint = pretrain(settings(store_path, tmp_path, "p", anchors=anchors_path, **options), Progress())
    losses = read_losses(checkpoint.parent)
    assert losses[-1] < losses[0]
    assert "val_miou_present" in read_metrics(checkpoint.parent)[-1]
    assert json.loads((checkpoint.parent / "card.json").read_text())["method"] == "language"


@pytest.mark.parametrize("loss", ["weighted-cross-entropy", "focal"])
def test_the_other_losses_of_fine_tuning_fall(loss: str, store_path: Path, tmp_path: Path) -> None:
    run = FinetuneSettings(
        **SMALL, store=store_path, runs=tmp_path, name="f", start="scratch", epochs=2, instances=0, loss=loss
    )
    losses = read_losses(finetune(run, Progress()).parent)
    assert losses[-1] < 0.9 * losses[0]


def test_class_weights_go_with_the_losses_that_use_them() -> None:
    torch.manual_seed(0)
    network = MinkUNet("14A", num_classes=2)
    features = torch.randn(3, 96)
    labels = torch.tensor([0, 1, -1])
    empty = torch.zeros(3, 3)
    batch = Batch(("a",), empty.int(), empty, labels, None, (3,))
    probability = torch.softmax(network.classify(features), dim=1)[[0, 1], [0, 1]].double()
    alpha = torch.tensor([3.0, 0.5])
    surprise, doubt = -probability.log(), 1 - probability
    expected = {
        "cross-entropy": surprise.mean(),
        "weighted-cross-entropy": (alpha * surprise).mean(),
        "focal": (doubt**2 * surprise).mean(),
        "class-balanced-focal": (alpha * doubt**2 * surprise).mean(),
    }
    for kind, value in expected.items():
        weights = alpha if kind in ("weighted-cross-entropy", "class-balanced-focal") else None
        learner = Classification(network, loss=kind, gamma=2.0, alpha=weights)  # type: ignore[arg-type]
        assert learner.weights(batch) == (2,)
        (term,) = learner.loss(features, batch, seeds=range(len(batch.scene_ids)))
        assert term.total.item() == pytest.approx(value.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "needle"),
    [
        ({"method": "moco"}, "--method must be one of language, supcon, csc"),
        ({"distance": "l3"}, "--distance must be one of cosine, l1, l2"),
        ({"contrast": "softmax", "distance": "l2"}, "--distance must be cosine with --contrast softmax"),
        ({"hinge": "x"}, "--hinge must be one of per-negative, mean-first"),
        ({"temperature": 0.001}, "--temperature must be at least 0.01"),
        ({"contrast_points": 1}, "--contrast-points must be at least 2"),
        ({"supcon_positives": 0}, "--supcon-positives must be at least 1"),
        ({"supcon_negatives": 0}, "--supcon-negatives must be at least 1"),
        ({"view_share": 0.0}, "--view-share must be above 0 and at most 1"),
        ({"partition_radii": (0.5, 0.1)}, "--partition-radii must be two rising lengths"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], needle: str) -> None:
    with pytest.raises(SettingsError, match=needle):
        PretrainSettings.resolve(**options)
