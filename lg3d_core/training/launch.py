"""What pre-training and fine-tuning share around the loop: opening a run, or the one that goes on, and training it."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from lg3d_core.devices import resolve_device, resolve_precision
from lg3d_core.files import write_text
from lg3d_core.networks.checkpoint import CheckpointInfo
from lg3d_core.progress import Progress
from lg3d_core.settings import RESUMABLE, FinetuneSettings, PretrainSettings, option_name
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
        settings = _take_up_settings(run, settings, progress)
    device = resolve_device(settings.device)
    data = open_training_data(settings, progress)
    torch.manual_seed(settings.seed)
    return OpenedRun(settings=settings, run=run, device=device, data=data)


def _take_up_settings(run: Run, settings: S, progress: Progress) -> S:
    """Those of the run, but for what was given anew of how its batches fit into memory; that holds from now on."""
    own = type(settings).from_json((run.folder / "settings.json").read_text(encoding="utf-8"))
    anew = {field: getattr(settings, field) for field in RESUMABLE if getattr(settings, field) is not None}
    changed = {field: value for field, value in anew.items() if value != getattr(own, field)}
    if not changed:
        return own
    own = dataclasses.replace(own, **changed)
    write_text(run.folder / "settings.json", own.to_json())
    progress.note("from here on with " + ", ".join(f"{option_name(field)} {value}" for field, value in changed.items()))
    return own


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
        run = Run.create(settings, {**describe_data(data, settings), **facts})
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
    with run.sole_writer():
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
