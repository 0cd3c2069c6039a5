"""Fine-tuning of a classifier and its backbone, from a pre-trained network or from scratch."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lg3d_core.errors import CheckpointError, DataError, SettingsError
from lg3d_core.evaluation.instances import scored_classes
from lg3d_core.language.anchors_file import Anchors
from lg3d_core.models.names import find_model
from lg3d_core.networks.checkpoint import CheckpointInfo, load_weights, newest_checkpoint, read_info
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.objectives.classification import inverse_log_alpha, printed_alpha
from lg3d_core.progress import Progress
from lg3d_core.sampling.batch import Batch
from lg3d_core.sampling.joint import first_classes
from lg3d_core.settings import LATEST, SCRATCH, FinetuneSettings
from lg3d_core.training.batches import SceneBatches
from lg3d_core.training.joint import JointLearner
from lg3d_core.training.launch import open_run, train_run
from lg3d_core.training.learners import WEIGHTED_LOSSES, Classification, InstanceSegmentation, Learner
from lg3d_core.training.run import Run
from lg3d_core.training.run_anchors import load_all_anchors, trained_vocabularies
from lg3d_core.training.scenes import ALL_LABELS, TrainingData
from lg3d_core.vocabulary import Vocabulary


def finetune(settings: FinetuneSettings, progress: Progress) -> Path:
    """Fine-tune a network and return the path of its last checkpoint.

    Args:
        settings: Settings of a new run, or with `resume` the folder of the run to resume.
        progress: Reports epochs and scores.

    Raises:
        SettingsError: Settings are incompatible, e.g. the width of the anchors and of the features, or a label budget
            and a start checkpoint that was trained with other labels.
        DataError: The store is missing, damaged or empty, or has no objects to learn from, or the anchors are missing,
            damaged or of another vocabulary.
        CheckpointError: The start checkpoint is missing, or has another network or anchors.
        Interrupted: A signal arrived; the run can be resumed with `--resume`.
    """
    with open_run(settings, progress) as opened:
        settings, data = opened.settings, opened.data
        start = _find_start(settings, opened.run, opened.progress)
        if start is not None and opened.run is None:
            _require_no_leak(start, settings, data, opened.progress)
        network = _build_network(start, settings, data, opened.progress)
        vocabularies = [one.store.vocabulary for one in data.stores]
        anchors_digest = None
        if start is not None:
            anchors_digest = start.info.anchors_of(vocabularies[0].digest) or start.info.anchors_digest
        anchors: list[Anchors] = []
        if settings.classifier != "fresh":
            anchors = load_all_anchors(settings, network, vocabularies)
            if start is not None:
                _require_own_anchors(start.info, settings, vocabularies, anchors)
            _set_classifier_to_anchors(network, anchors, fixed=settings.classifier == "fixed-anchors")
            anchors_digest = anchors[0].digest
        if settings.linear_probe:
            network.freeze_features()
        # "latest" is resolved once, so that a resumed run starts from the same checkpoint.
        settings = dataclasses.replace(settings, start=SCRATCH if start is None else str(start.path))
        return train_run(
            dataclasses.replace(opened, settings=settings),
            _make_learner(settings, network.to(opened.device), data, opened.device),
            SceneBatches(
                data.scenes(settings), max_voxels=settings.max_voxels, with_instances=settings.task == "instance"
            ),
            facts={"from": settings.start, "task": settings.task},
            anchors_digest=anchors_digest,
            labels_before="" if start is None else _labels_seen(start.info, settings, data),
            vocabularies=trained_vocabularies(vocabularies, anchors),
        )


class _Start(NamedTuple):
    """Checkpoint that a run starts from."""

    path: Path
    info: CheckpointInfo


def _make_learner(
    settings: FinetuneSettings, network: MinkUNet, data: TrainingData, device: torch.device
) -> Learner[Batch]:
    """Return the learner of the task; it has one classifier per store.

    Raises:
        DataError: The task is `instance`, and the training scenes have no objects.
    """
    classifiers = _make_classifiers(settings, network, data, device)
    if len(classifiers) > 1:
        return JointLearner(classifiers, data.sizes)
    (semantic,) = classifiers
    if settings.task == "semantic":
        return semantic
    with_instances = scored_classes(data.store.vocabulary)
    _require_objects(data, with_instances)
    return InstanceSegmentation(
        semantic,
        with_instances=torch.from_numpy(with_instances),
        voxel_size=settings.voxel_size,
        offset_weight=settings.offset_weight,
    )


def _make_classifiers(
    settings: FinetuneSettings, network: MinkUNet, data: TrainingData, device: torch.device
) -> list[Classification]:
    """Return the classifier of every store's vocabulary, on its classes of the network."""
    first = first_classes(data.sizes)
    return [
        Classification(
            network,
            loss=settings.loss,
            gamma=settings.gamma,
            alpha=_class_weights(settings, one.store.class_counts("train", budget=one.budget), device),
            classes=slice(*first[number : number + 2]) if data.others else None,
        )
        for number, one in enumerate(data.stores)
    ]


def _require_own_anchors(
    info: CheckpointInfo, settings: FinetuneSettings, vocabularies: Sequence[Vocabulary], anchors: Sequence[Anchors]
) -> None:
    """Reject anchors that differ from those of the start checkpoint.

    Raises:
        CheckpointError: The checkpoint was pre-trained with other anchors of a vocabulary.
    """
    for vocabulary, own, path in zip(vocabularies, anchors, (settings.anchors, *settings.also_anchors), strict=True):
        expected = info.anchors_of(vocabulary.digest)
        if expected not in (None, own.digest):
            raise CheckpointError(
                f"{path} holds anchors {own.digest}, but {settings.start} was pre-trained with {expected}: pass "
                "--anchors FILE"
            )


def _find_start(settings: FinetuneSettings, run: Run | None, progress: Progress) -> _Start | None:
    """Return the checkpoint to start from, or None to start from scratch.

    If the start checkpoint of a resumed run no longer exists, the run's own checkpoint takes its place.
    """
    if settings.start == SCRATCH:
        return None
    path = _find_start_path(settings, run, progress)
    return _Start(path, read_info(path, final_relu=settings.final_relu))


def _find_start_path(settings: FinetuneSettings, run: Run | None, progress: Progress) -> Path:
    if run is not None and not Path(settings.start).exists() and run.checkpoint.is_file():
        return run.checkpoint
    if settings.start != LATEST:
        return find_model(settings.start, progress, final_relu=settings.final_relu)
    newest = newest_checkpoint(settings.runs, "pretrain")
    if newest is None:
        raise CheckpointError(
            f"no pre-training run in {settings.runs}: run lg3d pretrain, or pass --from CHECKPOINT or --from scratch"
        )
    progress.note(f"starting from the newest pre-training run: {newest}")
    return newest


def _build_network(
    start: _Start | None, settings: FinetuneSettings, data: TrainingData, progress: Progress
) -> MinkUNet:
    """Return the network with a new classifier, and with the features of the start checkpoint if there is one.

    Raises:
        CheckpointError: The checkpoint has another network.
    """
    num_classes, offset_head = sum(data.sizes), settings.task == "instance"
    if start is None:
        return MinkUNet(settings.network, num_classes=num_classes, offset_head=offset_head)
    path, info = start
    if info.network != settings.network:
        raise CheckpointError(
            f"{path} holds a {info.network} network, not {settings.network}: pass --network {info.network}"
        )
    if not info.knows(data.store.vocabulary.digest):
        progress.note(
            f"{path} was trained with the vocabulary {info.vocabulary}: its features are used, and the classifier of "
            f"{data.store.vocabulary.name} is new"
        )
    if info.voxel_size != settings.voxel_size:
        progress.note(
            f"{path} was trained with voxels of {info.voxel_size:g} m, this run has {settings.voxel_size:g} m: "
            f"pass --voxel-size {info.voxel_size:g} to match"
        )
    network = dataclasses.replace(info, offset_head=offset_head).build_network(num_classes=num_classes)
    load_weights(network, path, fresh_classifier=True)
    return network


def _require_objects(data: TrainingData, with_instances: npt.NDArray[np.bool_]) -> None:
    """Reject training scenes without any annotated object.

    Raises:
        DataError: No labelled point of a class with instances belongs to an object.
    """
    found: set[int] = set()
    for scene_id in data.store.scene_ids("train"):
        scene = data.store.read(scene_id, budget=data.budget, for_training=True)
        labels = scene.label[(scene.instance > 0) & (scene.label >= 0)]
        if with_instances[labels].any():
            return
        found.update(np.unique(labels).tolist())
    if found:
        names = ", ".join(data.store.vocabulary.names[number] for number in sorted(found))
        raise DataError(
            f"the objects in the training scenes of {data.store.path} are all of classes without instances ({names}): "
            "--task instance needs other classes; --task semantic needs labels only"
        )
    raise DataError(
        f"the training scenes of {data.store.path} have no objects: --task instance needs the object of each vertex "
        "(in ScanNet's files *.aggregation.json), prepared again; --task semantic needs labels only"
    )


def _labels_seen(info: CheckpointInfo, settings: FinetuneSettings, data: TrainingData) -> str | None:
    """Return which labels a checkpoint depends on; older checkpoints get it from the settings of their run."""
    if info.labels_seen is not None:
        return info.labels_seen
    try:
        earlier = json.loads(info.settings)
    except (ValueError, RecursionError):
        return None
    if not isinstance(earlier, dict) or "limited" not in earlier:
        return None
    if earlier.get("method") == "csc":
        return ""
    if earlier["limited"] is None:
        return ALL_LABELS
    same = (earlier["limited"], earlier.get("limited_seed")) == (settings.limited, settings.limited_seed)
    return data.budget.digest if same and data.budget is not None else f"{earlier['limited']}"


def _require_no_leak(start: _Start, settings: FinetuneSettings, data: TrainingData, progress: Progress) -> None:
    """Reject a label budget if the start checkpoint was trained with labels outside the budget.

    Raises:
        SettingsError: The checkpoint has seen other labels and `allow_leak` is not set.
    """
    if data.budget is None or settings.allow_leak:
        return
    seen = _labels_seen(start.info, settings, data)
    if seen is None:
        progress.warn(
            f"{start.path} does not record which labels it was trained with: --limited {settings.limited:g} only "
            "limits the labels of this run"
        )
        return
    others = {*seen.split(",")} - {"", *(one.budget.digest for one in data.stores if one.budget is not None)}
    if not others:
        return
    what = "all labels" if ALL_LABELS in others else "another label budget"
    raise SettingsError(
        f"{start.path} was trained with {what}, so --limited {settings.limited:g} would not hide labels that the "
        f"network has already seen: start from a run with the same --limited {settings.limited:g} and --limited-seed "
        f"{settings.limited_seed}, or pass --allow-leak"
    )


def _set_classifier_to_anchors(network: MinkUNet, anchors: Sequence[Anchors], *, fixed: bool) -> None:
    """Initialise the classifier with the anchors: the first logits are cosines times the norm of the feature.

    The classes of several vocabularies follow each other. A fixed classifier is not trained.
    """
    assert network.final is not None
    assert network.final.bias is not None
    vectors = np.concatenate([own.vectors for own in anchors])
    with torch.no_grad():
        network.final.kernel.copy_(torch.from_numpy(vectors).T.reshape(network.final.kernel.shape))
        network.final.bias.zero_()
    network.final.requires_grad_(not fixed)


def _class_weights(settings: FinetuneSettings, counts: npt.NDArray[np.int64], device: torch.device) -> Tensor | None:
    if settings.loss not in WEIGHTED_LOSSES:
        return None
    number = torch.from_numpy(counts)
    alpha = inverse_log_alpha(number) if settings.alpha == "inverse-log" else printed_alpha(number)
    return alpha.to(device)
