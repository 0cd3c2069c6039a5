"""What pre-training and fine-tuning share around the loop: opening a run, or the one that goes on, and training it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from lg3d_core.devices import resolve_device, resolve_precision
from lg3d_core.networks.checkpoint import CheckpointInfo
from lg3d_core.progress import Progress
from lg3d_core.settings import FinetuneSettings, PretrainSettings
from lg3d_core.training.batches import BatchSource, TrainingBatch
from lg3d_core.training.learners import Learner
from lg3d_core.training.loop import train
from lg3d_core.training.run import Run
from lg3d_core.training.scenes import TrainingData, describe_data, open_training_data

S = TypeVar("S", PretrainSettings, FinetuneSettings)
B = TypeVar("B", bound=TrainingBatch)


@dataclass(frozen=True, kw_only=True)
class OpenedRun(Generic[S]):
    """A run before its network is built."""

    settings: S
    """Those that were given, or those of the run that goes on."""
    run: Run | None
    """The run that goes on; None for a new one, whose folder is made when nothing can be refused any more."""
    device: torch.device
    """Where it trains."""
    data: TrainingData
    """What it trains on."""


def open_run(settings: S, progress: Progress) -> OpenedRun[S]:
    """Open data and device of a run, and seed PyTorch for its network.

    Raises:
        SettingsError: A device that is not there.
        DataError: The store is missing, damaged or empty.
        CheckpointError: `settings.resume` is no run's folder.
    """
    run = None
    if settings.resume is not None:
        run = Run.open(settings.resume)
        settings = type(settings).from_json((run.folder / "settings.json").read_text(encoding="utf-8"))
    device = resolve_device(settings.device)
    data = open_training_data(settings, progress)
    torch.manual_seed(settings.seed)
    return OpenedRun(settings=settings, run=run, device=device, data=data)


def train_run(
    opened: OpenedRun[S],
    learner: Learner[B],
    source: BatchSource[B],
    *,
    facts: Mapping[str, Any],
    anchors_digest: str | None,
    progress: Progress,
) -> Path:
    """Make the run's folder where it has none, train, and return the path of the last checkpoint.

    Args:
        opened: By `open_run`.
        learner: Network, on the run's device, and loss.
        source: Training scenes as the learner wants them.
        facts: For the run's card, beside those on its data.
        anchors_digest: Of the text anchors that features lie by, if any.
        progress: Told of epochs and scores.

    Raises:
        SettingsError: A folder of that name exists, or the loss is no longer finite.
        Interrupted: A signal came; the state is saved.
    """
    settings, data, run = opened.settings, opened.data, opened.run
    if run is None:
        run = Run.create(settings)
        run.write_card(settings.command, {**describe_data(data, settings), **facts})
    info = CheckpointInfo(
        kind=settings.command,
        network=settings.network,
        num_classes=learner.network.num_classes,
        voxel_size=settings.voxel_size,
        vocabulary=data.store.vocabulary.name,
        vocabulary_digest=data.store.vocabulary.digest,
        anchors_digest=anchors_digest,
        settings=settings.to_json(),
        stem_size=learner.network.stem_size,
        final_relu=learner.network.final_relu,
    )
    train(
        learner,
        source,
        store=data.store,
        run=run,
        settings=settings,
        info=info,
        device=opened.device,
        precision=resolve_precision(settings.precision, opened.device),
        progress=progress,
    )
    return run.checkpoint
