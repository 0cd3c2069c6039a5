"""Opening and starting a training run, shared by pre-training and fine-tuning."""

import dataclasses
import os
import socket
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from lg3d_core.devices import resolve_precision
from lg3d_core.errors import DataError, SettingsError
from lg3d_core.files import write_text
from lg3d_core.networks.checkpoint import CheckpointInfo, TrainedVocabulary
from lg3d_core.progress import Progress
from lg3d_core.settings import (
    FIT_MEMORY,
    RESUMABLE,
    FinetuneSettings,
    PretrainSettings,
    TrainSettings,
    option_name,
)
from lg3d_core.sparse import trains_faster_in_bf16
from lg3d_core.training.batches import BatchSource, TrainingBatch
from lg3d_core.training.determinism import repeatable, seed_everything
from lg3d_core.training.distributed import World, join
from lg3d_core.training.learners import Learner
from lg3d_core.training.loop import Trainer
from lg3d_core.training.run import SETTINGS_NAME, Run
from lg3d_core.training.scenes import (
    TrainingData,
    describe_data,
    digest_data,
    digest_inputs,
    digest_labels,
    join_labels,
    open_training_data,
)
from lg3d_core.training.snapshots import Snapshots
from lg3d_core.training.wandb_run import import_wandb

S = TypeVar("S", PretrainSettings, FinetuneSettings)
B = TypeVar("B", bound=TrainingBatch)

MAY_CHANGE_ON_RESTART = (
    "recipe",
    "name",
    "runs",
    "resume",
    "start",
    "jobs",
    "rank_timeout",
    "wandb",
    "store",
    "anchors",
    "also_store",
    "also_anchors",
    *FIT_MEMORY,
)
"""Settings that may change when `torchrun` restarts and resumes an existing run."""

MAY_DIFFER_BETWEEN_MACHINES = (
    "recipe",
    "store",
    "anchors",
    "also_store",
    "also_anchors",
    "runs",
    "name",
    "resume",
    "start",
    "jobs",
    "device",
    "rank_timeout",
    "wandb",
)
"""Settings that may differ between the machines of a run: paths, loading processes and logging."""
SEEN_SECONDS = 10.0
"""Seconds that a network file system may take to show a folder that another machine has created."""


@dataclass(frozen=True, kw_only=True)
class OpenedRun(Generic[S]):
    """A run before its network is built."""

    settings: S
    """Settings that were passed, or those of the resumed run."""
    run: Run | None
    """Run to resume; None for a new run, whose folder is created after all checks have passed."""
    world: World
    """Processes that train the run."""
    data: TrainingData
    """Training data."""
    progress: Progress
    """Progress reports; silent in all processes but the leader."""

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.world.device


@contextmanager
def open_run(settings: S, progress: Progress) -> Iterator[OpenedRun[S]]:
    """Open data and device of a run, and set the seed from which the network is initialised.

    If `torchrun` started this process, join the other processes, and resume the run of the given name if it already
    exists.

    Args:
        settings: Settings of a new run. With `resume`, the fields in `RESUMABLE` that are not at their default and
            those named in `overrides` replace the settings of the resumed run.
        progress: Reports what happens.

    Raises:
        SettingsError: A device is missing, the processes do not divide the batch, or a run of this name has other
            settings.
        DataError: The store is missing, damaged or empty.
        CheckpointError: `settings.resume` is not the folder of a run.
        MissingDependencyError: `settings.wandb` without wandb.
        LostProcessError: Another process of this run is gone.
        EndedElsewhere: Another process of this run reports why it ends.
    """
    run = None
    if settings.resume is not None:
        run = Run.open(settings.resume)
        settings = _override(run, settings, {*settings.overrides, *_not_default(settings)})
    if settings.wandb:
        import_wandb()  # before anything is written
    with join(settings, progress) as world:
        if not world.leads:
            progress = Progress()
        if run is None and world.launch is not None:
            settings = dataclasses.replace(settings, name=world.find_name(settings))
            run = _find_run(settings, world, progress)
            if run is not None:
                settings = _override(run, settings, {"store", "anchors", "also_store", "also_anchors", *FIT_MEMORY})
        world.share_of(settings.batch_size)
        shared = [name for name in settings.saved_fields() if name not in MAY_DIFFER_BETWEEN_MACHINES]
        options = {option_name(type(settings), field): str(getattr(settings, field)) for field in shared}
        world.require_equal(options, "use the same options, environment and lg3d.toml on all machines")
        with repeatable(settings):
            world.doing("opening the data")
            with world.leader_first():
                data = _open_data(settings, run, progress, num_processes=world.size)
            world.require_equal(digest_data(data), "copy the store of the first machine to this one")
            world.doing("building the network")
            seed_everything(settings.seed)
            yield OpenedRun(settings=settings, run=run, world=world, data=data, progress=progress)


def _not_default(settings: TrainSettings) -> set[str]:
    """Return the fields in `RESUMABLE` whose value is not the default."""
    defaults = {field.name: field.default for field in dataclasses.fields(settings)}
    return {field for field in RESUMABLE if getattr(settings, field) != defaults[field]}


def _override(run: Run, settings: S, fields: Collection[str]) -> S:
    """Return the settings of a run with some fields replaced; None replaces nothing."""
    given = {field: getattr(settings, field) for field in fields}
    changes = {field: value for field, value in given.items() if value is not None}
    return dataclasses.replace(run.read_settings(type(settings)), **changes)


def _save_overrides(run: Run, settings: S, world: World, progress: Progress) -> None:
    """Write overridden settings to the run's folder, so that they apply from now on.

    The run must be locked, and its saved state must fit them: a resume that fails leaves the settings as they were.
    """
    if not world.leads:
        return
    own = run.read_settings(type(settings))
    changed = [field for field in RESUMABLE if getattr(own, field) != getattr(settings, field)]
    if changed:
        write_text(run.folder / SETTINGS_NAME, settings.to_json())
        values = ", ".join(f"{option_name(type(settings), field)} {getattr(settings, field)}" for field in changed)
        progress.note(f"resuming with {values}")


def _open_data(settings: S, run: Run | None, progress: Progress, *, num_processes: int) -> TrainingData:
    """Open the data of a run; if the store of a resumed run is missing, name the option for its new path.

    Raises:
        DataError: The store is missing, damaged or empty.
    """
    if run is not None and not settings.store.exists():
        raise DataError(
            f"the store {settings.store} of this run is missing: pass --store with the folder where an equal one is"
        )
    return open_training_data(settings, progress, num_processes=num_processes)


def _find_run(settings: S, world: World, progress: Progress) -> Run | None:
    """Return the run of this name if an earlier start of `torchrun` created it; the same in all processes.

    Raises:
        SettingsError: The run has other settings.
    """
    if settings.name is None:
        return None
    folder = settings.runs / settings.name
    if world.broadcast("there" if (folder / SETTINGS_NAME).is_file() else "") == "":
        return None
    run = _see_folder(folder, world)
    own = run.read_settings(type(settings))
    fields = [name for name in settings.saved_fields() if name not in MAY_CHANGE_ON_RESTART]
    other = [field for field in fields if getattr(own, field) != getattr(settings, field)]
    if other:
        values = ", ".join(f"{option_name(type(settings), field)} {getattr(own, field)}" for field in other)
        raise SettingsError(f"{folder} exists and was trained with {values}: pass another --name, or these settings")
    progress.note(f"resuming {folder}")
    return run


def resolve_training_precision(
    settings: PretrainSettings | FinetuneSettings, device: torch.device, run: Run | None
) -> str:
    """Return `fp32` or `bf16`; `auto` keeps the precision of a resumed run, else picks bf16 if it trains faster."""
    if settings.precision != "auto":
        return settings.precision
    recorded = None if run is None else run.card().get("precision")
    if recorded in ("fp32", "bf16"):
        return str(recorded)
    if run is not None:  # started before the precision was recorded
        return resolve_precision("auto", device)
    return "bf16" if trains_faster_in_bf16(settings.backend, device) else "fp32"


def _see_folder(folder: Path, world: World) -> Run:
    """Return the run in a folder that the leader has created.

    Raises:
        SettingsError: This process cannot see the folder.
    """
    deadline = time.monotonic() + SEEN_SECONDS
    while not (folder / SETTINGS_NAME).is_file() and time.monotonic() < deadline:
        with suppress(OSError):
            os.listdir(folder.parent)  # makes a network file system refresh its cache
        time.sleep(0.1)
    if not (folder / SETTINGS_NAME).is_file():
        raise SettingsError(
            f"process {world.rank} on {socket.gethostname()} cannot see {folder.absolute()}: pass --runs with a folder "
            "on a file system that all machines share"
        )
    return Run.open(folder)


def train_run(
    opened: OpenedRun[S],
    learner: Learner[B],
    source: BatchSource[B],
    *,
    facts: Mapping[str, Any],
    anchors_digest: str | None,
    labels_before: str | None = "",
    vocabularies: tuple[TrainedVocabulary, ...] = (),
) -> Path:
    """Create the folder of a new run, train, and return the path of the last checkpoint.

    Args:
        opened: Run from `open_run`.
        learner: Network, on the run's device, and loss.
        source: Training scenes in the form that the learner needs.
        facts: Facts for the run's card, in addition to those on its data.
        anchors_digest: Digest of the text anchors that the features are trained towards, if any.
        labels_before: Labels on which the initial weights depend, as in `CheckpointInfo.labels_seen`.
        vocabularies: Vocabularies of joint training, with the digests of their anchors.

    Raises:
        SettingsError: A folder of that name exists, or the loss became non-finite.
        Interrupted: A signal arrived; the state is saved.
    """
    settings, data, run, world = opened.settings, opened.data, opened.run, opened.world
    world.require_equal(
        {"text anchors of digest": _join_anchors(anchors_digest, vocabularies)},
        "copy --anchors and --from of the first machine to this one",
    )
    precision = resolve_training_precision(settings, world.device, run)
    precision = world.broadcast(precision)  # the machines of a run may have different processors
    if run is None:
        if world.leads:
            about = {**describe_data(data, settings), **facts, "processes": world.size, "precision": precision}
            run = Run.create(settings, about)
        run = _see_folder(Path(world.broadcast(str(run.folder) if run is not None else "")), world)
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
        labels_seen=join_labels(labels_before, digest_labels(data, settings)),
        offset_head=learner.network.offset_head is not None,
        vocabularies=vocabularies,
    )
    digests = digest_inputs(data, _join_anchors(anchors_digest, vocabularies))
    with run.sole_writer() if world.leads else nullcontext():
        trainer = Trainer(
            learner,
            source,
            stores=[one.store for one in data.stores],
            snapshots=Snapshots(run, settings=settings, info=info, digests=digests, leads=world.leads),
            settings=settings,
            world=world,
            precision=precision,
            progress=opened.progress,
        )
        if opened.run is not None:
            _save_overrides(run, settings, world, opened.progress)
        trainer.train()
    return run.checkpoint


def _join_anchors(digest: str | None, vocabularies: Sequence[TrainedVocabulary]) -> str:
    """Return the digest of the text anchors, or those of all vocabularies of joint training."""
    return "+".join(own.anchors_digest for own in vocabularies) or digest or "none"
