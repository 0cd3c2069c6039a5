"""Fine-tuning of a classifier and its backbone, from a pre-trained network or from scratch."""

import dataclasses
import json
from pathlib import Path

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
from lg3d_core.settings import FinetuneSettings
from lg3d_core.training.batches import SceneBatches
from lg3d_core.training.launch import open_run, train_run
from lg3d_core.training.learners import WEIGHTED_LOSSES, Classification, InstanceSegmentation, Learner
from lg3d_core.training.run_anchors import load_fitting_anchors
from lg3d_core.training.scenes import ALL_LABELS, TrainingData

SCRATCH = "scratch"
LATEST = "latest"


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
        start = _find_start(settings, opened.progress)
        info = None if start is None else read_info(start, final_relu=settings.final_relu)
        if start is not None and info is not None and opened.run is None:
            _require_no_leak(start, info, settings, data, opened.progress)
        if start is None or info is None:
            network = MinkUNet(
                settings.network,
                num_classes=len(data.store.vocabulary),
                offset_head=settings.task == "instance",
            )
        else:
            network = _load_start(start, info, settings, data, opened.progress)
        anchors_digest = None if info is None else info.anchors_digest
        if settings.classifier != "fresh":
            anchors = load_fitting_anchors(settings, network, data.store.vocabulary)
            if anchors_digest not in (None, anchors.digest):
                raise CheckpointError(
                    f"{settings.anchors} holds anchors {anchors.digest}, but {settings.start} was pre-trained with "
                    f"{anchors_digest}: pass --anchors FILE"
                )
            _start_as_anchors(network, anchors, fixed=settings.classifier == "fixed-anchors")
            anchors_digest = anchors.digest
        # "latest" is resolved once, so that a resumed run starts from the same checkpoint.
        settings = dataclasses.replace(settings, start=str(start) if start is not None else SCRATCH)
        counts = data.store.class_counts("train", budget=data.budget)
        semantic = Classification(
            network.to(opened.device),
            loss=settings.loss,
            gamma=settings.gamma,
            alpha=_class_weights(settings, counts, opened.device),
        )
        learner: Learner[Batch] = semantic
        if settings.task == "instance":
            with_instances = scored_classes(data.store.vocabulary)
            _require_objects(data, with_instances)
            learner = InstanceSegmentation(
                semantic,
                with_instances=torch.from_numpy(with_instances),
                voxel_size=settings.voxel_size,
                offset_weight=settings.offset_weight,
            )
        return train_run(
            dataclasses.replace(opened, settings=settings),
            learner,
            SceneBatches(data.dataset, max_voxels=settings.max_voxels, with_instances=settings.task == "instance"),
            facts={"from": settings.start, "task": settings.task},
            anchors_digest=anchors_digest,
            labels_before="" if info is None else _labels_seen(info, settings, data),
        )


def _find_start(settings: FinetuneSettings, progress: Progress) -> Path | None:
    if settings.start == SCRATCH:
        return None
    if settings.start != LATEST:
        return find_model(settings.start, progress, final_relu=settings.final_relu)
    newest = newest_checkpoint(settings.runs, "pretrain")
    if newest is None:
        raise CheckpointError(
            f"no pre-training run in {settings.runs}: run lg3d pretrain, or pass --from CHECKPOINT or --from scratch"
        )
    progress.note(f"starting from the newest pre-training run: {newest}")
    return newest


def _load_start(
    start: Path, info: CheckpointInfo, settings: FinetuneSettings, data: TrainingData, progress: Progress
) -> MinkUNet:
    if info.network != settings.network:
        raise CheckpointError(
            f"{start} holds a {info.network} network, not {settings.network}: pass --network {info.network}"
        )
    if info.vocabulary_digest not in ("", data.store.vocabulary.digest):
        progress.note(
            f"{start} was trained with the vocabulary {info.vocabulary}: its features are used, and the classifier of "
            f"{data.store.vocabulary.name} is new"
        )
    info = dataclasses.replace(info, offset_head=settings.task == "instance")
    network = info.build_network(num_classes=len(data.store.vocabulary))
    load_weights(network, start, fresh_classifier=True)
    return network


def _require_objects(data: TrainingData, with_instances: npt.NDArray[np.bool_]) -> None:
    """Reject training scenes without any annotated object.

    Raises:
        DataError: No labelled point of a class with instances belongs to an object.
    """
    for scene_id in data.store.scene_ids("train"):
        scene = data.store.read(scene_id, budget=data.budget, for_training=True)
        labels = scene.label[(scene.instance > 0) & (scene.label >= 0)]
        if with_instances[labels].any():
            return
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


def _require_no_leak(
    start: Path, info: CheckpointInfo, settings: FinetuneSettings, data: TrainingData, progress: Progress
) -> None:
    """Reject a label budget if the start checkpoint was trained with labels outside the budget.

    Raises:
        SettingsError: The checkpoint has seen other labels and `allow_leak` is not set.
    """
    if data.budget is None or settings.allow_leak:
        return
    seen = _labels_seen(info, settings, data)
    if seen is None:
        progress.warn(
            f"{start} does not record which labels it was trained with: --limited {settings.limited:g} only limits the "
            "labels of this run"
        )
        return
    others = {*seen.split(",")} - {"", data.budget.digest}
    if not others:
        return
    what = "all labels" if ALL_LABELS in others else "another label budget"
    raise SettingsError(
        f"{start} was trained with {what}, so --limited {settings.limited:g} would not hide labels that the network "
        f"has already seen: start from a run with the same --limited {settings.limited:g} and --limited-seed "
        f"{settings.limited_seed}, or pass --allow-leak"
    )


def _start_as_anchors(network: MinkUNet, anchors: Anchors, *, fixed: bool) -> None:
    """Initialise the classifier with the anchors: the first logits are cosines times the norm of the feature.

    A fixed classifier is not trained.
    """
    assert network.final is not None
    assert network.final.bias is not None
    with torch.no_grad():
        network.final.kernel.copy_(torch.from_numpy(anchors.vectors).T.reshape(network.final.kernel.shape))
        network.final.bias.zero_()
    network.final.requires_grad_(not fixed)


def _class_weights(settings: FinetuneSettings, counts: npt.NDArray[np.int64], device: torch.device) -> Tensor | None:
    if settings.loss not in WEIGHTED_LOSSES:
        return None
    number = torch.from_numpy(counts)
    alpha = inverse_log_alpha(number) if settings.alpha == "inverse-log" else printed_alpha(number)
    return alpha.to(device)
