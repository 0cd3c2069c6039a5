"""Training loop: the order of steps, validation and saving in an epoch, and resuming.

Several processes may run it together (see `lg3d_core.training.distributed`): each computes its share of every batch and
of the validation scenes, all take the same steps, and the leader writes.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Generic, TypeVar

import torch

from lg3d_core.errors import Interrupted
from lg3d_core.evaluation.predictor import Predictor
from lg3d_core.memory import kept_memory
from lg3d_core.progress import Progress
from lg3d_core.settings import TrainSettings
from lg3d_core.sparse import owned_threads, use_backend
from lg3d_core.store.scene_store import SceneStore
from lg3d_core.training.batches import (
    BatchPlan,
    BatchSource,
    TrainingBatch,
    load_batches,
    plan_batches,
    steps_per_epoch,
)
from lg3d_core.training.distributed import World
from lg3d_core.training.forecast import choose_jobs, model_step
from lg3d_core.training.joint import JointValidator, separate
from lg3d_core.training.learners import Learner
from lg3d_core.training.log import Meter, TrainingLog, open_trackers
from lg3d_core.training.optimisation import make_optimiser, set_norm_momentum
from lg3d_core.training.outlook import Outlook
from lg3d_core.training.snapshots import Position, Snapshots
from lg3d_core.training.step import FEW_VOXELS, ForwardPass, Stepper, describe_few
from lg3d_core.training.stop import Dropped, Stop, stop_signals
from lg3d_core.training.validation import Validator

B = TypeVar("B", bound=TrainingBatch)


class Trainer(Generic[B]):
    """Minimises a learner's loss over its scenes.

    The gradient of a step is that of the mean over all elements of the loss (labelled voxels, sources, matches) in its
    `batch_size` scenes, independent of how many forward passes they are split into. All random draws depend on the seed
    and the position, so a run that is stopped and resumed takes the same steps as an uninterrupted one.
    """

    def __init__(
        self,
        learner: Learner[B],
        source: BatchSource[B],
        *,
        stores: Sequence[SceneStore],
        snapshots: Snapshots,
        settings: TrainSettings,
        world: World,
        precision: str,
        progress: Progress,
    ) -> None:
        """Restore the saved state of the run, if there is one.

        Args:
            learner: Network and loss; the network is trained in place.
            source: Augmented training scenes.
            stores: Stores with the validation scenes: one for each learner of a joint learner, else one.
            snapshots: Checkpoints and saved state of the run.
            settings: Settings of the run.
            world: The processes that train together, and the device of the network.
            precision: `fp32`, or `bf16` for autocast.
            progress: Reports epochs and scores.

        Raises:
            CheckpointError: The saved state is damaged or does not fit the settings.
            DataError: The resumed run was trained with other data or anchors.
            SettingsError: The processes see different states.
        """
        network = learner.network
        self.network = network
        self.source = source
        self.snapshots = snapshots
        self.run = snapshots.run
        self.settings = settings
        self.world = world
        self.precision = precision
        self.progress = progress
        self.per_epoch = steps_per_epoch(len(source), settings.batch_size)
        self.total_steps = settings.epochs * self.per_epoch

        set_norm_momentum(network, settings.norm_momentum)
        self.optimiser = make_optimiser(network, settings)
        self.position = snapshots.restore(network, self.optimiser, per_epoch=self.per_epoch)
        world.require_equal(
            {"the state of epoch": str(self.position.epoch), "and step": str(self.position.step)},
            f"its file system shows an outdated {self.run.resume_file}; start the job again",
        )
        snapshots.save_start(self.position)
        self.saved = self.position
        """Position of the saved state."""

        self.stepper = Stepper(
            learner,
            source,
            optimiser=self.optimiser,
            forward=world.together(ForwardPass(learner), network, deterministic=settings.deterministic),
            settings=settings,
            run=self.run,
            world=world,
            precision=precision,
        )
        self.validator = _make_validator(learner, stores, settings, world=world, precision=precision, progress=progress)
        self.outlook = Outlook(
            settings,
            steps=self.total_steps - self.steps_done,
            on_cpu=world.device.type == "cpu",
            model=partial(model_step, settings.network, precision=precision, device=world.device),
            progress=progress,
        )
        self.meter = Meter()
        self.few = ""
        """Message on the first forward pass with too few voxels."""

    @property
    def steps_done(self) -> int:
        """Optimiser steps of the run so far."""
        return self.position.epoch * self.per_epoch + self.position.step

    def train(self) -> None:
        """Train to the last epoch.

        Raises:
            Interrupted: SIGINT or SIGTERM arrived; the state is saved.
            SettingsError: Loss, weights or running statistics are not finite; the last finite state is kept.
            MemoryLimitError: A forward pass did not fit into memory.
        """
        settings = self.settings
        with (
            use_backend(settings.backend),
            owned_threads(),
            kept_memory(),
            open_trackers(self.run, settings, leads=self.world.leads, purge_step=self.steps_done) as trackers,
            self.progress.task(settings.command, total=self.total_steps, unit="step") as task,
            stop_signals(task, alone=self.world.size == 1) as stop,
        ):
            task.skip(self.steps_done)
            log = TrainingLog(self.run, trackers, task, epochs=settings.epochs, per_epoch=self.per_epoch)
            try:
                self._train_epochs(log, stop)
            except Dropped:
                self._save_unfinished()
                raise Interrupted(
                    f"stopped and saved; resume with: lg3d {settings.command} {self.run.resume_option}"
                ) from None

    def _train_epochs(self, log: TrainingLog, stop: Stop) -> None:
        """Take the remaining steps, and end every epoch.

        Raises:
            Dropped: A stop was requested.
        """
        if self.position.step == self.per_epoch:  # stopped during the validation of an epoch
            self.end_epoch(log, stop)
        if self.position.epoch == self.settings.epochs:
            return
        batches = self._load_batches()
        self.meter.restart()
        parts: list[tuple[BatchPlan, B]] = []
        self.world.doing("loading scenes")
        for plan, batch in stop.at_once_in(self.meter.waiting_for(batches)):
            parts.append((plan, batch))
            self._warn_of_few(batch)
            if not plan.last:
                continue
            self.step(parts, log, stop)
            parts = []
            if self.position.step == self.per_epoch:
                self.end_epoch(log, stop)
            if self.position.epoch == self.settings.epochs:
                break
            self.world.doing("loading scenes")

    def _load_batches(self) -> Iterator[tuple[BatchPlan, B]]:
        """Load the batches from the current position on."""
        settings, world = self.settings, self.world
        share = world.share_of(settings.batch_size)
        plans = plan_batches(
            len(self.source),
            batch_size=settings.batch_size,
            micro_batch=settings.micro_batch or share,
            seed=settings.seed,
            epochs=settings.epochs,
            start_epoch=self.position.epoch,
            start_step=self.position.step,
            rank=world.rank,
            size=world.size,
        )
        jobs = self._choose_jobs(share) if settings.jobs is None else settings.jobs
        return load_batches(
            self.source,
            plans,
            jobs=jobs,
            seed=settings.seed,
            shift=settings.augment,
            device=world.device,
            progress=self.progress,
        )

    def _choose_jobs(self, share: int) -> int:
        """Return the number of loading processes for steps of `share` scenes, and report it."""

        def load_one() -> int:
            return len(self.source.load((0,), epoch=self.position.epoch, rng=None).coordinates)

        jobs = choose_jobs(
            load_one,
            self.settings.network,
            scenes=min(share, len(self.source)),
            device=self.world.device,
            precision=self.precision,
            processes=1 if self.world.launch is None else self.world.launch.local_size,
        )
        where = f"{jobs} process{'es' * (jobs > 1)}" if jobs else "the training process"
        self.progress.note(f"loading scenes in {where} (--jobs auto)")
        return jobs

    def _warn_of_few(self, batch: B) -> None:
        if not self.few and 0 < len(batch.features) < FEW_VOXELS:
            self.few = describe_few(batch, self.settings)
            self.progress.warn(self.few)

    def step(self, parts: list[tuple[BatchPlan, B]], log: TrainingLog, stop: Stop) -> None:
        """Take one optimiser step over the forward passes of an effective batch, and log it.

        Raises:
            Dropped: A stop was requested; the step was taken if the position has advanced.
        """
        plan = parts[-1][0]
        done = plan.epoch * self.per_epoch + plan.step + 1
        rate = self.stepper.set_rate((done - 0.5) / self.total_steps)
        self.network.train()
        self.outlook.before_step(
            scenes=sum(len(batch.scene_ids) for _, batch in parts),
            voxels=sum(len(batch.coordinates) for _, batch in parts),
        )
        result = self.stepper.take(parts, stop)
        self.position = self.position._replace(epoch=plan.epoch, step=plan.step + 1)
        speed = self.meter.report(result.voxels)
        log.step(result, epoch=plan.epoch, done=done, rate=rate, speed=speed)
        self.outlook.after_step(seconds=speed["seconds"], left=self.total_steps - done)
        if result.stopping:
            raise Dropped

    def end_epoch(self, log: TrainingLog, stop: Stop) -> None:
        """Validate if it is due, and write checkpoint and state.

        Raises:
            Dropped: A stop was requested during the validation.
            SettingsError: Weights or running statistics are not finite.
        """
        epoch, settings = self.position.epoch + 1, self.settings
        self.stepper.require_finite(epoch=epoch, cause=self.few)
        is_due = epoch == settings.epochs or (settings.validate_every and epoch % settings.validate_every == 0)
        if self.validator.scene_ids and is_due:
            self.validate(epoch, log, stop)
        self.save(epoch)
        self.meter.restart()

    def validate(self, epoch: int, log: TrainingLog, stop: Stop) -> None:
        """Score the network on the validation scenes, log the scores, and write the checkpoint if it is the best one.

        Args:
            epoch: Epoch that ends, from 1.
            log: Log of the run.
            stop: Stop request.

        Raises:
            Dropped: A stop was requested.
        """
        total = len(self.validator.scene_ids)
        log.validating(epoch=epoch, done=0, total=total)
        with stop.at_once():
            validation = self.validator.validate(
                stop, lambda scenes: log.validating(epoch=epoch, done=scenes, total=total)
            )
        log.validation(validation, epoch=epoch)
        self.progress.note(validation.describe(epoch=epoch, epochs=self.settings.epochs))
        if validation.score > self.position.best:
            self.position = self.position._replace(best=validation.score)
            self.snapshots.save_best(self.network, epoch=epoch)

    def save(self, epoch: int) -> None:
        """Write checkpoint and state after an epoch, from 1."""
        self.position = self.saved = Position(epoch, 0, self.position.best)
        self.world.doing(f"saving after epoch {epoch}")
        self.snapshots.save_checkpoint(self.network, epoch=epoch)
        self.snapshots.save_state(self.network, self.optimiser, self.position)

    def _save_unfinished(self) -> None:
        """Write the state within an epoch, after a stop request.

        Raises:
            SettingsError: Weights or running statistics are not finite.
        """
        self.world.doing("saving")
        if self.position != self.saved and self.world.leads:
            self.stepper.require_finite(epoch=self.position.epoch + 1, cause=self.few)
            self.snapshots.save_state(self.network, self.optimiser, self.position)
        self.world.wait()


def _make_validator(
    learner: Learner[B],
    stores: Sequence[SceneStore],
    settings: TrainSettings,
    *,
    world: World,
    precision: str,
    progress: Progress,
) -> Validator | JointValidator:
    """Return the validator of a learner, or of the learners of each store in joint training."""
    validators = [
        Validator(
            _make_predictor(own, settings, device=world.device, precision=precision),
            store,
            _find_validation_scenes(own, store, progress),
            world=world,
            progress=progress,
        )
        for own, store in zip(separate(learner), stores, strict=True)
    ]
    if len(validators) == 1:
        return validators[0]
    return JointValidator({f"store{number}": own for number, own in enumerate(validators, start=1)})


def _make_predictor(learner: Learner[B], settings: TrainSettings, *, device: torch.device, precision: str) -> Predictor:
    """Return a predictor with the network and the class scores of a learner."""
    return Predictor(
        network=learner.network,
        voxel_size=settings.voxel_size,
        device=device,
        precision=precision,
        score=learner.scores,
    )


def _find_validation_scenes(learner: Learner[B], store: SceneStore, progress: Progress) -> list[str]:
    """Return the validation scenes that the learner can classify; none if it predicts no classes."""
    scene_ids = store.scene_ids("val")
    if not scene_ids:
        progress.warn(f"{store.path} has no validation scenes: training without validation")
    elif learner.scores is None:
        progress.note("this method does not predict classes: training without validation")
        return []
    return scene_ids
