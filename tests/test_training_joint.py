"""Joint training over stores with different vocabularies: exact losses and gradients, draws, whole runs, and scores."""

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from lg3d_core.errors import DataError, SettingsError
from lg3d_core.evaluation.eval import evaluate
from lg3d_core.language.anchors import anchors as make_anchors
from lg3d_core.language.anchors_file import load_anchors
from lg3d_core.networks.checkpoint import load_network, read_info
from lg3d_core.progress import Progress
from lg3d_core.sampling.batch import Batch
from lg3d_core.sampling.dataset import SceneDataset
from lg3d_core.sampling.joint import JointScenes, divide_draws
from lg3d_core.settings import AnchorsSettings, EvalSettings, FinetuneSettings, PrepareSettings, PretrainSettings
from lg3d_core.store.prepare import prepare as prepare_store
from lg3d_core.store.scene_store import SceneStore
from lg3d_core.training.finetune import finetune
from lg3d_core.training.joint import JointLearner, JointValidation
from lg3d_core.training.learners import Classification, LanguageGrounding, LanguageSoftmax, Learner
from lg3d_core.training.pretrain import pretrain
from lg3d_core.training.scenes import open_training_data
from tests.fake_store import FakeStore, make_scene, make_vocabulary
from tests.finished_runs import read_metrics
from tests.notes import Notes

SIZES = (5, 2)
SEEDS = (11, 12, 13)


class FakeNetwork:
    """A classifier of all classes."""

    def __init__(self, width: int) -> None:
        self.weight = torch.randn(width, sum(SIZES), generator=torch.Generator().manual_seed(5)).requires_grad_()

    def classify(self, features: Tensor) -> Tensor:
        return features @ self.weight


def make_batch() -> Batch:
    """Three scenes: of the first vocabulary, the second one, and the first one again; a third is unlabelled."""
    rng = np.random.default_rng(0)
    sizes = (40, 30, 20)
    parts = [rng.integers(-1, 5, 40), rng.integers(4, 7, 30), rng.integers(-1, 5, 20)]
    parts[1][parts[1] == 4] = -1
    labels = torch.from_numpy(np.concatenate(parts))
    coordinates = torch.zeros(90, 4, dtype=torch.int32)
    return Batch(("a", "2:b", "c"), coordinates, torch.zeros(90, 3), labels, None, sizes)


def make_learners(kind: str, network: Any, width: int) -> list[Learner[Batch]]:
    anchors = [torch.randn(n, width, generator=torch.Generator().manual_seed(n)) for n in SIZES]
    if kind == "softmax":
        return [LanguageSoftmax(network, own, temperature=0.1) for own in anchors]
    if kind == "classifier":
        return [
            Classification(network, loss="focal", gamma=2.0, alpha=None, classes=slice(*ends))
            for ends in ((0, 5), (5, 7))
        ]
    margins = {"positive_margin": 0.1, "negative_margin": 0.6, "negative_weight": 0.5}
    return [LanguageGrounding(network, own, negatives=3, **margins) for own in anchors]


@pytest.mark.parametrize("kind", ["margin", "softmax", "classifier"])
def test_loss_and_gradients_are_those_of_separate_losses_summed_by_hand(kind: str) -> None:
    width = 8
    network: Any = FakeNetwork(width)
    batch, learners = make_batch(), make_learners(kind, network, width)
    features = torch.randn(90, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    if kind == "classifier":
        network.weight = network.weight.detach().double().requires_grad_()
    joint = JointLearner(learners, SIZES)
    (found,) = joint.loss(features, batch, seeds=SEEDS)
    (gradient,) = torch.autograd.grad(found.total, features)

    # By hand: only the scenes of a vocabulary, as a batch of their own with labels from 0.
    expected, counts = 0.0, []
    for learner, scenes, first in zip(learners, ((0, 2), (1,)), (0, 5), strict=True):
        rows = torch.cat([torch.arange(90).split(batch.scene_sizes)[scene] for scene in scenes])
        labels = batch.labels[rows]
        own = Batch(
            tuple(batch.scene_ids[scene] for scene in scenes),
            batch.coordinates[rows],
            batch.features[rows],
            torch.where(labels < 0, labels, labels - first),
            None,
            tuple(batch.scene_sizes[scene] for scene in scenes),
        )
        (loss,) = learner.loss(features[rows], own, seeds=[SEEDS[scene] for scene in scenes])
        counts.append(int((own.labels >= 0).sum()))
        expected = expected + counts[-1] * loss.total
    expected = expected / sum(counts)
    (by_hand,) = torch.autograd.grad(expected, features)
    assert joint.weights(batch) == (sum(counts),)
    torch.testing.assert_close(found.total, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, by_hand, rtol=1e-10, atol=1e-14)
    assert set(found.parts) == ({"positive", "negative"} if kind == "margin" else set())


def test_classes_of_another_vocabulary_do_not_change_the_loss() -> None:
    network: Any = FakeNetwork(8)
    batch, learners = make_batch(), make_learners("softmax", network, 8)
    features = torch.randn(40, 8, generator=torch.Generator().manual_seed(1))
    before = JointLearner(learners, SIZES).loss(features, batch.select(0, 1), seeds=SEEDS[:1])[0].total
    learners[1].anchors = -learners[1].anchors  # type: ignore[attr-defined]
    after = JointLearner(learners, SIZES).loss(features, batch.select(0, 1), seeds=SEEDS[:1])[0].total
    assert torch.equal(before, after)


def test_a_batch_without_labels_has_no_loss_and_a_gradient_of_zero() -> None:
    network: Any = FakeNetwork(8)
    batch = make_batch()._replace(labels=torch.full((90,), -1))
    features = torch.randn(90, 8).requires_grad_()
    for kind in ("margin", "softmax", "classifier"):
        (loss,) = JointLearner(make_learners(kind, network, 8), SIZES).loss(features, batch, seeds=SEEDS)
        (gradient,) = torch.autograd.grad(loss.total, features)
        assert loss.total.item() == 0
        assert not gradient.any()


def make_scenes(shares: tuple[float, ...] = ()) -> JointScenes:
    parts = []
    for count, groups in ((4, ("", "", "")), (2, ("", ""))):
        scenes = {
            f"scene{k:04d}_00": make_scene(f"scene{k:04d}_00", points=50, seed=k, classes=2) for k in range(count)
        }
        store: Any = FakeStore(make_vocabulary(*groups), scenes)
        parts.append(SceneDataset(store, sorted(scenes), voxel_size=0.5, augmentation=None))
    return JointScenes(parts, shares=shares, seed=3)


def test_labels_of_the_second_store_follow_those_of_the_first() -> None:
    joint = make_scenes()
    assert joint.first == (0, 3, 5)
    samples = [joint[k] for k in range(6)]
    assert sorted(sample.scene_id for sample in samples) == [
        *(f"2:scene000{k}_00" for k in range(2)),
        *(f"scene000{k}_00" for k in range(4)),
    ]
    for sample in samples:
        allowed = {-1, 3, 4} if sample.scene_id.startswith("2:") else {-1, 0, 1}
        assert set(sample.labels.tolist()) <= allowed


def test_shares_decide_how_often_a_store_is_drawn() -> None:
    assert divide_draws([90, 10], ()) == (90, 10)
    assert divide_draws([90, 10], (1, 1)) == (50, 50)
    assert divide_draws([90, 10], (3, 1)) == (75, 25)
    assert divide_draws([90, 10, 10], (1, 1, 1)) == (37, 36, 37)
    assert divide_draws([90, 10], (1000, 1)) == (100, 1)  # at least one


def test_scenes_of_a_store_are_drawn_equally_often_and_never_twice_in_the_same_pass() -> None:
    joint = make_scenes((1, 2))  # 2 of 4 scenes and 4 draws of 2 scenes in an epoch
    seen: dict[int, list[tuple[int, int]]] = {0: [], 1: []}
    for epoch in range(6):
        joint.set_epoch(epoch)
        for index in range(len(joint)):
            store, repeat, row = joint.locate(index)
            seen[store].append((repeat, row))
    assert [len(own) for own in seen.values()] == [12, 24]
    assert all(len(set(own)) == len(own) for own in seen.values())
    assert sorted(row for _, row in seen[0]) == [row for row in range(4) for _ in range(3)]


class Stores(NamedTuple):
    """Two stores of the same rooms, with 200 and with 5 classes, and their anchors."""

    first: Path
    second: Path
    anchors: Path
    second_anchors: Path


@pytest.fixture(scope="module")
def stores(raw_rooms: Path, store_path: Path, anchors_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Stores:
    folder = tmp_path_factory.mktemp("joint")
    names = {3: "floor", 2: "chair", 4: "table", 6: "couch", 56: "trash can"}
    classes = folder / "five.tsv"
    classes.write_text("id\tname\n" + "".join(f"{number}\t{name}\n" for number, name in names.items()))
    prepare_store(PrepareSettings(raw=raw_rooms, store=folder / "five", jobs=1, vocabulary=(str(classes),)), Progress())
    second = make_anchors(
        AnchorsSettings(anchors=folder / "five.safetensors", like=anchors_path, vocabulary=str(classes)), Progress()
    )
    return Stores(store_path, folder / "five", anchors_path, second)


def training(stores: Stores, runs: Path, **changes: Any) -> dict[str, Any]:
    own = {
        "store": stores.first,
        "anchors": stores.anchors,
        "also_store": (stores.second,),
        "also_anchors": (stores.second_anchors,),
        "runs": runs,
        "network": "14A",
        "voxel_size": 0.2,
        "epochs": 1,
        "batch_size": 3,
        "device": "cpu",
        "jobs": 0,
        "precision": "fp32",
    }
    return own | changes


def test_anchors_like_others_are_in_their_space(stores: Stores) -> None:
    first, second = load_anchors(stores.anchors), load_anchors(stores.second_anchors)
    rows = [first.names.index(name) for name in second.names]
    assert np.array_equal(second.vectors, first.vectors[rows])
    assert second.projection is not None
    assert second.metadata["vocabulary_digest"] == SceneStore(stores.second).vocabulary.digest


def test_a_joint_run_is_scored_on_each_store_and_classifies_each_vocabulary(stores: Stores, tmp_path: Path) -> None:
    first = pretrain(PretrainSettings(**training(stores, tmp_path, name="p")), Progress())
    info = read_info(first)
    digests = [SceneStore(path).vocabulary.digest for path in (stores.first, stores.second)]
    assert [(own.digest, own.num_classes) for own in info.vocabularies] == [(digests[0], 200), (digests[1], 5)]
    assert info.vocabulary_digest == digests[0]
    (record,) = [line for line in read_metrics(first.parent) if "val_miou_present" in line]
    assert {"val_miou_200", "val_store2/miou_5", "val_store2/miou_present"} <= set(record)
    card = json.loads((first.parent / "card.json").read_text())
    assert [other["store"]["path"] for other in card["other_stores"]] == [str(stores.second)]

    settings = FinetuneSettings(
        **training(stores, tmp_path, name="f", start=str(first), classifier="fixed-anchors", store_shares=(1.0, 2.0))
    )
    tuned = finetune(settings, Progress())
    assert read_info(tuned).num_classes == 205
    (record,) = [line for line in read_metrics(tuned.parent) if "val_miou_present" in line]
    for path, name, key in ((stores.first, "miou_200", ""), (stores.second, "miou_5", "store2/")):
        scores = evaluate(EvalSettings(store=path, checkpoint=tuned, device="cpu", precision="fp32"), Progress())
        assert scores.to_dict()["vertex"][name] == pytest.approx(record[f"val_{key}{name}"], abs=1e-9)

    anchors = load_anchors(stores.second_anchors)
    network, own = load_network(tuned, vocabulary=digests[1])
    assert (own.num_classes, own.vocabulary_digest, own.vocabularies) == (5, digests[1], ())
    assert network.final is not None
    assert np.array_equal(network.final.kernel.detach().numpy().reshape(-1, 5), anchors.vectors.T)
    assert load_network(tuned)[1].num_classes == 200  # the first vocabulary

    finetune(FinetuneSettings(resume=tuned.parent), Progress())
    (tmp_path / "moved").symlink_to(stores.second)
    for place, error in ((tmp_path / "moved", None), (stores.first, DataError)):
        moved = FinetuneSettings.resolve(environ={}, resume=tuned.parent, also_store=(place,))
        with pytest.raises(error) if error else contextlib.nullcontext():
            finetune(moved, Progress())


def test_a_store_with_several_vocabularies_is_read_with_the_labels_of_its_anchors(
    raw_rooms: Path, stores: Stores, tmp_path: Path
) -> None:
    five = SceneStore(stores.second).vocabulary
    classes = tmp_path / "five.tsv"
    classes.write_text("id\tname\n" + "".join(f"{own.id}\t{own.name}\n" for own in five.categories))
    both = tmp_path / "both"
    prepare_store(
        PrepareSettings(raw=raw_rooms, store=both, jobs=1, vocabulary=("scannet200", str(classes))), Progress()
    )
    notes = Notes()
    settings = PretrainSettings(**training(stores, tmp_path / "runs", store=both, also_store=(both,)))
    first, second = open_training_data(settings, notes).stores
    assert [len(first.store.vocabulary), len(second.store.vocabulary)] == [200, 5]
    assert f"{both}: using the labels of five, the vocabulary of {stores.second_anchors}" in notes.notes
    expected = SceneStore(stores.second)
    for scene_id in expected.scene_ids("train"):
        assert np.array_equal(second.store.read(scene_id).label, expected.read(scene_id).label)
    # The first store, too; --vocabulary wins, and without anchors the first vocabulary is used.
    alone = {"store": both, "anchors": stores.second_anchors, "also_store": (), "also_anchors": ()}
    for changes, count in (({}, 5), ({"vocabulary": "scannet200"}, 200), ({"method": "supcon"}, 200)):
        chosen = PretrainSettings(**training(stores, tmp_path / "runs", **alone, **changes))
        assert len(open_training_data(chosen, Progress()).store.vocabulary) == count


def test_anchors_of_another_space_are_refused(stores: Stores, tmp_path: Path) -> None:
    alone = tmp_path / "alone.safetensors"
    vocabulary = tmp_path / "five.tsv"
    vocabulary.write_text("id\tname\n3\tfloor\n2\tchair\n4\ttable\n6\tcouch\n56\ttrash can\n")
    make_anchors(AnchorsSettings(anchors=alone, encoder="bundled", dim=96, vocabulary=str(vocabulary)), Progress())
    with pytest.raises(
        DataError,
        match=r"not in one space .their projections were fitted to different classes.: run lg3d anchors --like",
    ):
        pretrain(PretrainSettings(**training(stores, tmp_path, also_anchors=(alone,))), Progress())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"also_anchors": ()}, "--also-anchors must be one file for each of 1 --also-store"),
        ({"store_shares": (1.0,)}, "--store-shares must be one number for each of 2 stores"),
        ({"method": "csc"}, "--also-store must be left out without --method language"),
    ],
)
def test_options_that_do_not_fit_several_stores_are_refused(
    stores: Stores, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(SettingsError, match=reason):
        PretrainSettings(**training(stores, tmp_path, **changes))
    with pytest.raises(SettingsError, match="left out without --classifier fixed-anchors"):
        FinetuneSettings(**training(stores, tmp_path))


def test_scores_of_the_second_store_have_its_name_even_if_the_first_one_has_none() -> None:
    own = SimpleNamespace(logged={"miou_present": 0.5})
    assert JointValidation(None, {"store2": own}).logged == {"store2/miou_present": 0.5}  # type: ignore[arg-type, dict-item]
    assert JointValidation(None, {"store1": own}).logged == {"miou_present": 0.5}  # type: ignore[arg-type, dict-item]
