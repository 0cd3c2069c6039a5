"""Training for instance segmentation: the offset loss by itself, in accumulated steps, and in whole runs."""

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lg3d_core.errors import DataError, Interrupted
from lg3d_core.evaluation.eval import evaluate as evaluate_checkpoint
from lg3d_core.evaluation.instances import InstanceScores, SceneMatches, scored_classes
from lg3d_core.evaluation.packed_matches import NO_MATCHES, pack_matches, unpack_matches
from lg3d_core.networks.checkpoint import read_info
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.progress import Progress
from lg3d_core.sampling.batch import Batch
from lg3d_core.settings import EvalSettings, FinetuneSettings, PrepareSettings
from lg3d_core.sparse import SparseTensor
from lg3d_core.store.prepare import prepare as prepare_store
from lg3d_core.store.scene_file import read_scene_header, write_scene_file
from lg3d_core.store.scene_store import SceneStore
from lg3d_core.training.batches import SceneBatches, load_batches, plan_batches
from lg3d_core.training.distributed import World, join
from lg3d_core.training.finetune import finetune
from lg3d_core.training.learners import Classification, InstanceSegmentation
from lg3d_core.training.scenes import TrainingData, open_training_data
from lg3d_core.training.step import accumulate_gradients
from lg3d_core.training.validation import Validation, gather_matches
from tests import box_rooms, ranks
from tests.notes import Notes
from tests.test_evaluation_table import EVALUATION, LETTERS
from tests.test_training_methods import Stopper

WALL, CHAIR, TABLE = 0, 1, 2
WITH_INSTANCES = torch.tensor([False, True, True])
EDGE = 0.1


class Network:
    """Logits are the features, and so are offsets."""

    offset_head = staticmethod(lambda features: features)

    def classify(self, features: Tensor) -> Tensor:
        return features


def learner(offset_weight: float = 1.0) -> InstanceSegmentation:
    semantic = Classification(Network(), loss="cross-entropy", gamma=2.0, alpha=None)  # type: ignore[arg-type]
    return InstanceSegmentation(semantic, with_instances=WITH_INSTANCES, voxel_size=EDGE, offset_weight=offset_weight)


def batch_of(cells: list[list[int]], labels: list[int], instances: list[int], scenes: list[int]) -> Batch:
    coordinates = torch.cat([torch.tensor(scenes)[:, None], torch.tensor(cells)], dim=1).int()
    sizes = tuple(scenes.count(scene) for scene in range(max(scenes) + 1))
    ids = tuple(f"scene{scene}" for scene in range(len(sizes)))
    return Batch(ids, coordinates, torch.zeros(len(cells), 3), torch.tensor(labels), torch.tensor(instances), sizes)


# A chair of two voxels 0.2 m apart, with id 5 in two scenes; then voxels that belong to no object: of a wall with an
# id, of a table without one, and unlabelled with an id.
BATCH = batch_of(
    [[10, 3, 3], [12, 3, 3], [50, 3, 3], [0, 0, 0], [1, 0, 0], [2, 0, 0]],
    [CHAIR, CHAIR, CHAIR, WALL, TABLE, -1],
    [5, 5, 5, 6, 0, 5],
    [0, 0, 1, 1, 1, 1],
)
TRUE_OFFSETS = torch.tensor([[0.1, 0, 0], [-0.1, 0, 0], [0, 0, 0]])


def test_terms_count_labelled_voxels_and_voxels_of_objects() -> None:
    assert learner().weights(BATCH) == (5, 3)


def test_true_offsets_cost_nothing_whatever_is_predicted_elsewhere() -> None:
    features = torch.cat([TRUE_OFFSETS, torch.full((3, 3), 7.0)])
    semantic, offsets = learner().loss(features, BATCH, seeds=[0, 0])
    assert offsets.total.item() == pytest.approx(0, abs=1e-6)
    expected = torch.nn.functional.cross_entropy(features[:5], BATCH.labels[:5])
    assert semantic.total.item() == pytest.approx(expected.item())
    assert semantic.parts == {"semantic": semantic.total}


def test_offsets_cost_their_distance_and_direction_in_the_mean_over_objects() -> None:
    features = torch.cat([torch.tensor([[0.0, 0.1, 0], [0.1, 0, 0], [0, 0, 0.3]]), torch.full((3, 3), 7.0)])
    _, offsets = learner(offset_weight=2.0).loss(features, BATCH, seeds=[0, 0])
    # distances 0.1 + 0.1, 0.2 and 0.3; cosines 0 and -1, and no direction at a centre
    assert offsets.parts["distance"].item() == pytest.approx(0.7 / 3)
    assert offsets.parts["direction"].item() == pytest.approx((1 + 2) / 3)
    assert offsets.total.item() == pytest.approx(2 * (0.7 / 3 + 1))


def test_a_translation_of_the_coordinates_changes_nothing() -> None:
    features = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    moved = BATCH._replace(coordinates=BATCH.coordinates + torch.tensor([0, 99, 1, 57], dtype=torch.int32))
    for one, other in zip(
        learner().loss(features, BATCH, seeds=[0, 0]), learner().loss(features, moved, seeds=[0, 0]), strict=True
    ):
        assert one.total.item() == pytest.approx(other.total.item(), rel=1e-6)


def test_without_objects_only_the_classes_are_learnt() -> None:
    features = torch.randn(6, 3, requires_grad=True)
    without = BATCH._replace(instances=torch.zeros(6, dtype=torch.int64))
    assert learner().weights(without) == (5, 0)
    _, offsets = learner().loss(features, without, seeds=[0, 0])
    offsets.total.backward()
    assert offsets.total.item() == 0
    assert features.grad is not None
    assert (features.grad == 0).all()


SMALL: dict[str, Any] = {
    "network": "14A",
    "voxel_size": 0.2,
    "batch_size": 3,
    "jobs": 0,
    "device": "cpu",
    "precision": "fp32",
    "start": "scratch",
    "instances": 0,
    "task": "instance",
    "learning_rate": 0.02,
}


def settings(store: Path, runs: Path, name: str, **changes: Any) -> FinetuneSettings:
    return FinetuneSettings(**{**SMALL, "store": store, "runs": runs, "name": name, "epochs": 1, **changes})


def read_metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def real_learner(data: TrainingData) -> InstanceSegmentation:
    """Return a learner with frozen batch normalisation."""
    torch.manual_seed(0)
    vocabulary = data.store.vocabulary
    network = MinkUNet("14A", num_classes=len(vocabulary), offset_head=True).eval()
    semantic = Classification(network, loss="focal", gamma=2.0, alpha=None)
    return InstanceSegmentation(
        semantic, with_instances=torch.from_numpy(scored_classes(vocabulary)), voxel_size=data.dataset.voxel_size
    )


def hide_objects(batch: Batch, *scenes: str) -> Batch:
    """Return a batch without the instances of some scenes."""
    assert batch.instances is not None
    hidden = [scene in scenes for scene in batch.scene_ids]
    rows = torch.repeat_interleave(torch.tensor(hidden), torch.tensor(batch.scene_sizes))
    return batch._replace(instances=torch.where(rows, 0, batch.instances))


@pytest.mark.parametrize("max_voxels", [None, 1500])
def test_accumulated_gradients_are_those_of_the_whole_batch(
    max_voxels: int | None, furnished_store_path: Path, tmp_path: Path
) -> None:
    """The scenes have different numbers of labelled voxels and of voxels of objects, and one has no objects."""
    data = open_training_data(settings(furnished_store_path, tmp_path, "x"), Progress())
    learner = real_learner(data)
    gradients, losses = [], []
    for micro in (3, 1):
        plans = list(plan_batches(3, batch_size=3, micro_batch=micro, seed=0, epochs=1))
        parts = list(
            load_batches(
                SceneBatches(data.dataset, max_voxels=max_voxels, with_instances=True),
                plans,
                jobs=0,
                seed=0,
                shift=True,
            )
        )
        if max_voxels is None:
            assert len(parts) == 3 // micro
        parts = [(plan, hide_objects(batch, data.dataset.scene_ids[0])) for plan, batch in parts]
        assert len({learner.weights(batch) for _, batch in parts}) == len(parts)
        learner.network.zero_grad()
        world = World(torch.device("cpu"))
        losses.append(accumulate_gradients(learner, parts, seed=0, world=world, precision="fp32"))
        gradients.append(torch.cat([p.grad.flatten() for p in learner.network.parameters() if p.grad is not None]))
    assert set(losses[0]) == {"loss", "semantic", "distance", "direction"}
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0]["loss"] == pytest.approx(sum(value for name, value in losses[0].items() if name != "loss"))
    # fp32 sums in another order
    assert torch.linalg.vector_norm(gradients[0] - gradients[1]) < 1e-4 * torch.linalg.vector_norm(gradients[0])


def test_each_term_is_the_mean_over_its_elements_in_the_effective_batch(
    furnished_store_path: Path, tmp_path: Path
) -> None:
    data = open_training_data(settings(furnished_store_path, tmp_path, "x"), Progress())
    learner = real_learner(data)
    source = SceneBatches(data.dataset, with_instances=True)
    whole = source.load([0, 1, 2], epoch=0, rng=None)
    with torch.no_grad():
        features = learner.network(SparseTensor(whole.features, whole.coordinates))
        semantic, offsets = learner.loss(features, whole, seeds=[0, 0, 0])
    plans = plan_batches(3, batch_size=3, micro_batch=1, seed=0, epochs=1)
    parts = list(load_batches(source, plans, jobs=0, seed=0, shift=False))
    losses = accumulate_gradients(learner, parts, seed=0, world=World(torch.device("cpu")), precision="fp32")
    assert losses["semantic"] == pytest.approx(semantic.total.item(), rel=1e-5)
    assert losses["distance"] == pytest.approx(offsets.parts["distance"].item(), rel=1e-5)
    assert losses["loss"] == pytest.approx(semantic.total.item() + offsets.total.item(), rel=1e-5)


def test_placed_objects_have_centres_too(furnished_store_path: Path, tmp_path: Path) -> None:
    data = open_training_data(settings(furnished_store_path, tmp_path, "x", instances=5), Progress())
    with_instances = torch.from_numpy(scored_classes(data.store.vocabulary))
    for row in range(3):
        batch = SceneBatches(data.dataset, with_instances=True).load([row], epoch=0, rng=None)
        assert batch.instances is not None
        highest = int(data.store.read(data.dataset.scene_ids[row]).instance.max())
        placed = batch.instances > highest
        assert len(torch.unique(batch.instances[placed])) >= 1
        assert len(torch.unique(batch.instances[placed])) <= batch.placed
        assert with_instances[batch.labels[placed].clamp_min(0)].all()


def test_batches_of_other_tasks_have_no_instances(furnished_store_path: Path, tmp_path: Path) -> None:
    data = open_training_data(settings(furnished_store_path, tmp_path, "x"), Progress())
    assert SceneBatches(data.dataset).load([0], epoch=0, rng=None).instances is None


@pytest.fixture(scope="module")
def trained(furnished_store_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of a run of three epochs."""
    runs = tmp_path_factory.mktemp("runs")
    return finetune(settings(furnished_store_path, runs, "whole", epochs=3), Progress())


def test_a_run_learns_offsets_and_records_its_head(trained: Path) -> None:
    info = read_info(trained)
    assert info.offset_head
    assert json.loads(info.settings)["task"] == "instance"
    assert json.loads((trained.parent / "card.json").read_text())["task"] == "instance"
    steps = [record for record in read_metrics(trained.parent) if "loss" in record]
    assert all({"semantic", "distance", "direction"} <= record.keys() for record in steps)
    assert steps[-1]["distance"] < steps[0]["distance"]
    assert steps[-1]["direction"] < steps[0]["direction"]


def test_validation_reports_average_precision_beside_miou(trained: Path) -> None:
    validated = [record for record in read_metrics(trained.parent) if "loss" not in record]
    assert len(validated) == 3
    for record in validated:
        assert {"val_miou_present", "val_ap", "val_ap50", "val_ap25"} <= record.keys()
        assert 0 <= record["val_ap"] <= record["val_ap50"] <= record["val_ap25"] <= 1


def test_a_stopped_run_resumes_with_equal_results(trained: Path, furnished_store_path: Path, tmp_path: Path) -> None:
    stopped = settings(furnished_store_path, tmp_path, "stopped", epochs=3)
    with pytest.raises(Interrupted):
        finetune(stopped, Stopper(2))
    resumed = finetune(dataclasses.replace(stopped, resume=tmp_path / "stopped"), Progress())
    left, right = load_file(trained), load_file(resumed)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    times = {"seconds", "data_wait", "voxels_per_second"}
    metrics = [
        [{name: value for name, value in record.items() if name not in times} for record in read_metrics(run.parent)]
        for run in (trained, resumed)
    ]
    assert metrics[0] == metrics[1]


def test_eval_scores_objects_of_a_checkpoint_with_an_offset_head(trained: Path, furnished_store_path: Path) -> None:
    options: dict[str, Any] = {"store": furnished_store_path, "checkpoint": trained, "device": "cpu"}
    evaluation = evaluate_checkpoint(EvalSettings(**options), Progress())
    assert evaluation.instances is not None
    last = read_metrics(trained.parent)[-1]
    assert evaluation.instances.mean("ap50") == pytest.approx(last["val_ap50"])
    assert evaluation.instances.num_objects.sum() > 5
    means = evaluation.to_dict()["instances"]["means"]
    assert means["all"] == {name: pytest.approx(last[f"val_{name}"]) for name in ("ap", "ap50", "ap25")}
    semantic = evaluate_checkpoint(EvalSettings(**options, task="semantic"), Progress())
    assert semantic.instances is None
    assert "instances" not in semantic.to_dict()
    assert semantic.vertex.miou_present == evaluation.vertex.miou_present


def test_a_run_starts_from_a_checkpoint_with_or_without_an_offset_head(
    trained: Path, furnished_store_path: Path, tmp_path: Path
) -> None:
    semantic = finetune(
        settings(furnished_store_path, tmp_path, "semantic", task="semantic", start=str(trained)), Progress()
    )
    assert not read_info(semantic).offset_head
    assert not any(name.startswith("offset_head.") for name in load_file(semantic))
    instance = finetune(settings(furnished_store_path, tmp_path, "instance", start=str(semantic)), Progress())
    assert read_info(instance).offset_head


def test_the_classifier_may_start_as_the_text_anchors(
    furnished_store_path: Path, anchors_path: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"classifier": "anchors", "anchors": anchors_path, "validate_every": 0}
    checkpoint = finetune(settings(furnished_store_path, tmp_path, "anchors", **options), Progress())
    info = read_info(checkpoint)
    assert info.offset_head
    assert info.anchors_digest is not None


def test_eval_without_an_offset_head_groups_connected_components(furnished_store_path: Path, tmp_path: Path) -> None:
    semantic = finetune(settings(furnished_store_path, tmp_path, "semantic", task="semantic"), Progress())
    options: dict[str, Any] = {"store": furnished_store_path, "checkpoint": semantic, "device": "cpu"}
    assert evaluate_checkpoint(EvalSettings(**options), Progress()).instances is None
    notes = Notes()
    evaluation = evaluate_checkpoint(EvalSettings(**options, task="instance"), notes)
    assert evaluation.instances is not None
    assert evaluation.instances.num_objects.sum() > 5
    assert any("no offset head: objects are connected components of each class" in note for note in notes.notes)


def random_matches(seed: int) -> SceneMatches:
    """Return matches of random sizes, one of which may be 0."""
    rng = np.random.default_rng(seed)
    objects, predictions, pairs = (int(count) for count in rng.integers(0, 5, 3))
    return SceneMatches(
        rng.integers(0, 200, objects),
        rng.integers(0, 200, predictions),
        rng.random(predictions),
        rng.random(predictions),
        rng.integers(0, 2**40, pairs),
        rng.integers(0, 9, pairs),
        rng.random(pairs),
    )


def assert_equal_matches(one: SceneMatches, other: SceneMatches) -> None:
    for own, expected in zip(one, other, strict=True):
        np.testing.assert_array_equal(own, expected)
        assert own.dtype == expected.dtype


def test_packed_matches_come_back_and_truncated_ones_are_rejected() -> None:
    scenes = [random_matches(seed) for seed in range(20)]
    packed = pack_matches(scenes)
    for one, other in zip(unpack_matches(np.append(packed, 0.0), 20), scenes, strict=True):
        assert_equal_matches(one, other)
    for length in (len(packed) - 1, 3):
        with pytest.raises(ValueError, match="truncated"):
            unpack_matches(packed[:length], 20)
    assert len(pack_matches([])) == 0


NUM_SCENES = 7


def write_gathered(out: Path) -> None:
    """Write the matches that each process has after exchanging those of its own scenes."""
    settings = FinetuneSettings(device="cpu", rank_timeout=60)
    with join(settings, Progress()) as world:
        own = [NO_MATCHES] * NUM_SCENES
        for row in range(world.rank, NUM_SCENES, world.size):
            own[row] = random_matches(row)
        torch.save([tuple(scene) for scene in gather_matches(tuple(own), world)], out / f"{world.size}.{world.rank}")


@pytest.mark.parametrize("size", [1, 2, 3])
def test_all_processes_have_the_matches_of_all_scenes(size: int, tmp_path: Path) -> None:
    processes = ranks.start(size, write_gathered, tmp_path, log=tmp_path / "log")
    assert ranks.finish(processes) == [0] * size
    for rank in range(size):
        gathered = torch.load(tmp_path / f"{size}.{rank}", weights_only=False)
        for row, scene in enumerate(gathered):
            assert_equal_matches(SceneMatches(*scene), random_matches(row))


def test_two_processes_train_and_validate_as_one_does(furnished_store_path: Path, tmp_path: Path) -> None:
    words = ["finetune", "--task", "instance", "--from", "scratch", "--store", str(furnished_store_path)]
    words += ["--runs", str(tmp_path), "--recipe", "demo", "--network", "14A", "--voxel-size", "0.25", "--jobs", "0"]
    words += ["--batch-size", "2", "--epochs", "1", "--device", "cpu", "--precision", "fp32", "--optimiser", "sgd"]
    words += ["--learning-rate", "0.001"]
    for size in (1, 2):
        processes = ranks.start(size, ranks.run_command, [*words, "--name", str(size)], log=tmp_path / f"log{size}")
        assert ranks.finish(processes) == [0] * size
    one, two = (read_metrics(tmp_path / name) for name in ("1", "2"))
    for name in ("loss", "semantic", "distance", "direction"):
        assert two[0][name] == pytest.approx(one[0][name], rel=1e-5)
    for name in ("val_ap", "val_ap50", "val_ap25"):
        assert two[-1][name] == pytest.approx(one[-1][name], abs=0.01)
    evaluation = evaluate_checkpoint(
        EvalSettings(store=furnished_store_path, checkpoint=tmp_path / "2", device="cpu", precision="fp32"), Progress()
    )
    assert evaluation.instances is not None
    assert two[-1]["val_ap25"] == pytest.approx(evaluation.instances.mean("ap25"), abs=0.01)


def test_the_best_checkpoint_is_that_with_the_highest_ap50() -> None:
    assert Validation(EVALUATION).score == EVALUATION.vertex.miou_present
    by_overlap = np.full((3, 10), np.nan)
    without = InstanceScores(LETTERS, by_overlap, np.zeros(3, np.int64), np.zeros(3, np.int64))
    unannotated = Validation(dataclasses.replace(EVALUATION, instances=without))
    assert unannotated.score == EVALUATION.vertex.miou_present
    assert not any(name.startswith("ap") for name in unannotated.logged)
    by_overlap = by_overlap.copy()
    by_overlap[0] = [0.9, 0, 0, 0, 0, 0, 0, 0, 0, 1.0]
    by_overlap[2] = [0.7, 0.2, 0, 0, 0, 0, 0, 0, 0, 1.0]
    found = InstanceScores(LETTERS, by_overlap, np.array([1, 0, 2]), np.zeros(3, np.int64))
    validation = Validation(dataclasses.replace(EVALUATION, instances=found))
    assert validation.score == pytest.approx(0.8)
    assert {"ap", "ap50", "ap25"} <= validation.logged.keys()
    assert validation.describe(epoch=1, epochs=2).endswith(", AP 0.1000, AP50 0.8000, AP25 1.0000")


def copy_without_objects(source: Path, target: Path) -> Path:
    """Copy a store with the instance ids of all scenes set to 0."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("instances", "budgets"))
    store = SceneStore(target)
    for scene_id in store.scene_ids():
        path = store.scene_path(scene_id)
        scene = store.read(scene_id)
        write_scene_file(path, scene._replace(instance=np.zeros_like(scene.instance)), read_scene_header(path))
    return target


def test_a_store_whose_objects_are_all_walls_and_floors_is_rejected_with_their_names(tmp_path: Path) -> None:
    box_rooms.write_dataset(tmp_path / "raw", train=1, val=0, objects=())
    prepare_store(PrepareSettings(raw=tmp_path / "raw", store=tmp_path / "data", jobs=1), Progress())
    with pytest.raises(DataError, match=r"are all of classes without instances \((floor|wall|wall, floor)\)"):
        finetune(settings(tmp_path / "data", tmp_path / "runs", "x"), Progress())
    assert not (tmp_path / "runs").exists()


def test_a_store_without_objects_is_rejected_before_anything_is_written(
    furnished_store_path: Path, tmp_path: Path
) -> None:
    store = copy_without_objects(furnished_store_path, tmp_path / "data")
    with pytest.raises(DataError, match=r"the training scenes of .* have no objects: --task instance"):
        finetune(settings(store, tmp_path / "runs", "x"), Progress())
    assert not (tmp_path / "runs").exists()
    checkpoint = finetune(settings(store, tmp_path / "runs", "semantic", task="semantic"), Progress())
    notes = Notes()
    evaluation = evaluate_checkpoint(
        EvalSettings(store=store, checkpoint=checkpoint, device="cpu", task="instance"), notes
    )
    assert evaluation.instances is not None
    assert math.isnan(evaluation.instances.mean("ap"))
    assert any("AP is undefined" in warning for warning in notes.warnings)
