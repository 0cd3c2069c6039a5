"""Fine-tuning: a classifier on the features, from a pre-trained network or from scratch."""

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lg3d_core.devices import resolve_device, resolve_precision
from lg3d_core.errors import CheckpointError
from lg3d_core.networks.checkpoint import (
    CheckpointInfo,
    load_weights,
    newest_checkpoint,
    read_info,
    resolve_checkpoint,
)
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.objectives.classification import inverse_log_alpha, printed_alpha
from lg3d_core.progress import Progress
from lg3d_core.settings import FinetuneSettings
from lg3d_core.training.learners import Classification
from lg3d_core.training.loop import train
from lg3d_core.training.run import Run
from lg3d_core.training.scenes import TrainingData, describe_data, open_training_data

SCRATCH = "scratch"
LATEST = "latest"


def finetune(settings: FinetuneSettings, progress: Progress) -> Path:
    """Fine-tune a network and return the path of its last checkpoint.

    Raises:
        SettingsError: Settings that cannot work together.
        DataError: The store is missing, damaged or empty.
        CheckpointError: Nothing to start from, or a checkpoint of another network or vocabulary.
        Interrupted: A signal came; the run can be continued with `--resume`.
    """
    run = None
    if settings.resume is not None:
        run = Run.open(settings.resume)
        settings = FinetuneSettings.from_json((settings.resume / "settings.json").read_text(encoding="utf-8"))
    device = resolve_device(settings.device)
    data = open_training_data(settings, progress)
    classes = len(data.store.vocabulary)
    torch.manual_seed(settings.seed)
    network = MinkUNet(settings.network, num_classes=classes)
    start = _find_start(settings, progress)
    if start is not None:
        _load_start(network, start, settings, data)
    if run is None:
        # What "latest" means is settled once: a resumed run starts from the same checkpoint.
        settings = dataclasses.replace(settings, start=str(start) if start is not None else SCRATCH)
        run = Run.create(settings)
        run.write_card("finetune", {**describe_data(data, settings), "from": settings.start})
    counts = data.store.class_counts("train", budget=data.budget)
    learner = Classification(
        network.to(device),
        loss=settings.loss,
        gamma=settings.gamma,
        alpha=_class_weights(settings, counts, device),
    )
    info = CheckpointInfo(
        kind="finetune",
        network=settings.network,
        num_classes=classes,
        voxel_size=settings.voxel_size,
        vocabulary=data.store.vocabulary.name,
        vocabulary_digest=data.store.vocabulary.digest,
        anchors_digest=read_info(start).anchors_digest if start is not None else None,
        settings=settings.to_json(),
    )
    train(
        learner,
        data.dataset,
        store=data.store,
        run=run,
        settings=settings,
        info=info,
        device=device,
        precision=resolve_precision(settings.precision, device),
        progress=progress,
    )
    return run.checkpoint


def _find_start(settings: FinetuneSettings, progress: Progress) -> Path | None:
    if settings.start == SCRATCH:
        return None
    if settings.start != LATEST:
        return resolve_checkpoint(Path(settings.start))
    newest = newest_checkpoint(settings.runs, "pretrain")
    if newest is None:
        raise CheckpointError(
            f"no pre-training run in {settings.runs}: run lg3d pretrain, or say --from CHECKPOINT, or --from scratch"
        )
    progress.note(f"starting from the newest pre-training run: {newest}")
    return newest


def _load_start(network: MinkUNet, start: Path, settings: FinetuneSettings, data: TrainingData) -> None:
    info = read_info(start)
    if info.network != settings.network:
        raise CheckpointError(
            f"{start} holds a {info.network} network, this run wants {settings.network}: say --network {info.network}"
        )
    if info.vocabulary_digest != data.store.vocabulary.digest:
        raise CheckpointError(
            f"{start} was trained with the vocabulary {info.vocabulary} ({info.vocabulary_digest}), the store "
            f"{settings.store} has {data.store.vocabulary.name} ({data.store.vocabulary.digest}): prepare a store with "
            "the vocabulary of the checkpoint, or pre-train on this one"
        )
    load_weights(network, start, fresh_classifier=True)


def _class_weights(settings: FinetuneSettings, counts: npt.NDArray[np.int64], device: torch.device) -> Tensor | None:
    if settings.loss != "class-balanced-focal":
        return None
    number = torch.from_numpy(counts)
    alpha = inverse_log_alpha(number) if settings.alpha == "inverse-log" else printed_alpha(number)
    return alpha.to(device)
