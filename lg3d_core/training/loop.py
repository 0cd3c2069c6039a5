"""Training loop: gradient accumulation, schedule, validation, checkpoints and resuming.

Several processes may run it together (see `lg3d_core.training.distributed`): each computes its share of every batch and
of the validation scenes, all take the same steps, and the leader writes.
"""

import dataclasses
import hashlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lg3d_core.devices import autocast
from lg3d_core.errors import CheckpointError, DataError, Interrupted, SettingsError
from lg3d_core.evaluation.confusion import ConfusionMatrix
from lg3d_core.evaluation.evaluate import Counts, Evaluation, count_scenes, score_counts
from lg3d_core.evaluation.predictor import Predictor
from lg3d_core.memory import memory_limits
from lg3d_core.networks.checkpoint import CheckpointInfo, save_checkpoint
from lg3d_core.progress import Progress, Task
from lg3d_core.settings import TrainSettings
from lg3d_core.sparse import SparseTensor, owned_threads, use_backend
from lg3d_core.store.scene_store import SceneStore
from lg3d_core.training.batches import (
    BatchPlan,
    BatchSource,
    TrainingBatch,
    load_batches,
    plan_batches,
    steps_per_epoch,
    without_scenes,
)
from lg3d_core.training.distributed import World
from lg3d_core.training.events import EventFile
from lg3d_core.training.learners import Learner, LossParts
from lg3d_core.training.optimisation import learning_rate_factor, make_optimiser, set_norm_momentum
from lg3d_core.training.outlook import Outlook
from lg3d_core.training.run import Run

B = TypeVar("B", bound=TrainingBatch)
T = TypeVar("T")


FEW_VOXELS = 10
"""Voxels below which batch normalisation has no usable variance: gradients grow about 300 times."""


class _Position(NamedTuple):
    """Position of a run: complete epochs, optimiser steps in the next one, and the best validation score.

    An epoch is complete when it is validated and its checkpoint is written.
    """

    epoch: int
    step: int
    best: float


class _Step(NamedTuple):
    """Result of an optimiser step, summed over all processes.

    Attributes:
        losses: Loss first, then its parts.
        voxels: Number of voxels.
        facts: Counts that describe how the batch was made.
        stopping: Whether any of several processes was asked to stop.
    """

    losses: dict[str, float]
    voxels: int
    facts: dict[str, int]
    stopping: bool


class ForwardPass(nn.Module, Generic[B]):
    """Loss of a batch as a module, which is wrapped for distributed training."""

    def __init__(self, learner: Learner[B]) -> None:
        super().__init__()
        self.network = learner.network
        self.learner = learner

    def forward(self, batch: B, seeds: Sequence[int]) -> LossParts:
        features = self.network(SparseTensor(batch.features, batch.coordinates))
        return self.learner.loss(features, batch, seeds=seeds)


def train(
    learner: Learner[B],
    source: BatchSource[B],
    *,
    store: SceneStore,
    run: Run,
    settings: TrainSettings,
    info: CheckpointInfo,
    world: World,
    precision: str,
    digests: Mapping[str, str],
    progress: Progress,
) -> Evaluation | None:
    """Minimise a learner's loss over its scenes.

    The gradient of a step is that of the mean over all elements of the loss (labelled voxels, sources, matches) in its
    `batch_size` scenes, independent of how many forward passes they are split into. All random draws depend on the seed
    and the position, so a run that is stopped and resumed takes the same steps as an uninterrupted one.

    Args:
        learner: Network and loss; the network is trained in place.
        source: Augmented training scenes.
        store: Store with the validation scenes.
        run: Folder for metrics and checkpoints; a saved state in it is resumed.
        settings: Settings of the run.
        info: Metadata of the checkpoints; `epoch` is filled in.
        world: The processes that train together, and the device of the network.
        precision: `fp32`, or `bf16` for autocast.
        digests: Digests of the inputs, by name; saved with the state and compared when it is resumed.
        progress: Reports epochs and scores.

    Returns:
        The last validation, or None if the store has no validation scenes or the learner cannot classify.

    Raises:
        Interrupted: SIGINT or SIGTERM arrived; the state is saved.
        SettingsError: Loss, weights or running statistics are not finite; the last finite state is kept.
        CheckpointError: The saved state is damaged or does not fit the settings.
        DataError: The resumed run was trained with other data or anchors.
        MemoryLimitError: A forward pass did not fit into memory.
    """
    network = learner.network
    set_norm_momentum(network, settings.norm_momentum)
    optimiser = make_optimiser(network, settings)
    per_epoch = steps_per_epoch(len(source), settings.batch_size)
    position = _restore(run, network, optimiser, world, settings=settings, per_epoch=per_epoch, digests=digests)
    world.require_equal(
        {"the state of epoch": str(position.epoch), "and step": str(position.step)},
        f"its file system shows an outdated {run.resume_file}; start the job again",
    )
    if world.leads and not run.resume_file.is_file():
        # A state without tensors, so that a state that is missing later is known to be lost.
        run.save_resume({"network": None, "optimiser": None, **position._asdict(), "digests": dict(digests)})
    forward = world.together(ForwardPass(learner), network, deterministic=settings.deterministic)
    share = world.share_of(settings.batch_size)
    plans = plan_batches(
        len(source),
        batch_size=settings.batch_size,
        micro_batch=settings.micro_batch or share,
        seed=settings.seed,
        epochs=settings.epochs,
        start_epoch=position.epoch,
        start_step=position.step,
        rank=world.rank,
        size=world.size,
    )
    validation_ids = store.scene_ids("val")
    if not validation_ids:
        progress.warn(f"{store.path} has no validation scenes: training without validation")
    elif learner.scores is None:
        progress.note("this method does not predict classes: training without validation")
        validation_ids = []
    evaluation: Evaluation | None = None
    meter = _Meter()
    with (
        use_backend(settings.backend),
        owned_threads(),
        _event_writer(run, world, purge_step=position.epoch * per_epoch + position.step) as events,
        progress.task(info.kind, total=settings.epochs * per_epoch, unit="step") as task,
        _stop_signals(task, alone=world.size == 1) as stop,
    ):
        task.skip(position.epoch * per_epoch + position.step)
        batches = load_batches(
            source, plans, jobs=settings.jobs, seed=settings.seed, shift=settings.augment, progress=progress
        )
        saved = position
        few = ""
        total_steps = settings.epochs * per_epoch
        outlook = Outlook(settings, steps=total_steps, on_cpu=world.device.type == "cpu", progress=progress)

        def end_epoch(losses: dict[str, float] | None) -> None:
            """Validate if it is due, and write checkpoint and state."""
            nonlocal evaluation, position, saved
            epoch = position.epoch + 1
            last = epoch == settings.epochs
            own_info = dataclasses.replace(info, epoch=epoch)
            _require_finite(network, optimiser, settings, run, epoch=epoch, cause=few)
            if validation_ids and (last or (settings.validate_every and epoch % settings.validate_every == 0)):

                def show_validated(scenes: int) -> None:
                    total = len(validation_ids)
                    task.advance(0, status=f"epoch {epoch}/{settings.epochs}, validation {scenes}/{total}")

                show_validated(0)
                with stop.at_once():
                    evaluation = _validate(
                        learner,
                        store,
                        validation_ids,
                        settings,
                        stop,
                        world=world,
                        precision=precision,
                        progress=_Remarks(progress),
                        show=show_validated,
                    )
                if world.leads:
                    _log_validation(run, events, evaluation, step=epoch * per_epoch, epoch=epoch)
                if losses is not None:
                    task.advance(0, status=_status(position.epoch, settings, losses))
                task.show("validation", {"epoch": epoch, **_group_scores(evaluation)})
                progress.note(_validation_line(evaluation, epoch=epoch, epochs=settings.epochs))
                score = evaluation.vertex.miou_present
                if score > position.best:
                    position = position._replace(best=score)
                    if world.leads:
                        save_checkpoint(run.best, network, own_info)
            position = saved = _Position(epoch, 0, position.best)
            world.doing(f"saving after epoch {epoch}")
            if world.leads:
                save_checkpoint(run.checkpoint, network, own_info)
                _save_state(run, network, optimiser, position, digests)
            meter.restart()

        try:
            if position.step == per_epoch:  # stopped during the validation of an epoch
                end_epoch(None)
            step_parts: list[tuple[BatchPlan, B]] = []
            world.doing("loading scenes")
            for plan, batch in stop.at_once_in(meter.waiting_for(batches)):
                step_parts.append((plan, batch))
                if not few and 0 < len(batch.features) < FEW_VOXELS:
                    few = _describe_few(batch, settings)
                    progress.warn(few)
                if not plan.last:
                    continue
                done = plan.epoch * per_epoch + plan.step + 1
                rate = _set_rate(optimiser, settings, (done - 0.5) / (settings.epochs * per_epoch))
                network.train()
                outlook.before_step(
                    scenes=sum(len(part.scene_ids) for _, part in step_parts),
                    voxels=sum(len(part.coordinates) for _, part in step_parts),
                )
                step = _take_step(
                    learner,
                    source,
                    optimiser,
                    step_parts,
                    settings,
                    stop,
                    forward=forward,
                    run=run,
                    world=world,
                    precision=precision,
                )
                losses = step.losses
                position = position._replace(epoch=plan.epoch, step=plan.step + 1)
                step_parts = []
                speed = meter.report(step.voxels)
                if world.leads:
                    run.log({"step": done, "epoch": plan.epoch, "lr": rate, **losses, **speed, **step.facts})
                    for name, value in losses.items():
                        events.add_scalar(f"train/{name}", value, done)
                    events.add_scalar("train/lr", rate, done)
                task.show("losses", losses)
                task.show("speed", speed)
                task.advance(status=_status(plan.epoch, settings, losses))
                outlook.after_step(seconds=speed["seconds"], left=total_steps - done)
                if step.stopping:
                    raise _Dropped
                if position.step == per_epoch:
                    end_epoch(losses)
                if position.epoch == settings.epochs:
                    break
                world.doing("loading scenes")
        except _Dropped:
            world.doing("saving")
            if position != saved and world.leads:
                _require_finite(network, optimiser, settings, run, epoch=position.epoch + 1, cause=few)
                _save_state(run, network, optimiser, position, digests)
            world.wait()
            raise Interrupted(
                f"stopped and saved; resume with: lg3d {settings.command} --resume {run.folder}"
            ) from None
    return evaluation


def accumulate_gradients(
    learner: Learner[B],
    parts: list[tuple[BatchPlan, B]],
    *,
    seed: int,
    world: World,
    precision: str,
    forward: nn.Module | None = None,
) -> dict[str, float]:
    """Add the gradient of the mean loss over an effective batch to the network's gradients.

    Args:
        learner: Network and loss, which is a mean over the elements that `weight` counts.
        parts: Forward passes of this process's share of the effective batch.
        seed: Seed of the loss's random draws.
        world: The processes that share the batch, and the device of the network.
        precision: `fp32`, or `bf16` for autocast.
        forward: Module from batch and seeds to the loss, as from `World.together`; None calls the learner directly.

    Returns:
        The loss and its parts: this process's contributions to the means over the effective batch.
    """
    forward = forward or ForwardPass(learner)
    weights = [learner.weight(batch) for _, batch in parts]
    shares = world.gather([sum(weights), len(parts)])
    total = max(1, int(shares[:, 0].sum()))
    # All processes do the same number of passes, although their shares may be split differently.
    missing = int(shares[:, 1].max()) - len(parts)
    batches = [batch for _, batch in parts] + [without_scenes(parts[0][1])] * missing
    weights += [0] * missing
    drawn: dict[str, int] = {}
    sums: dict[str, float] = {}
    for number, (batch, weight) in enumerate(zip(batches, weights, strict=True)):
        world.doing(f"computing step {parts[0][0].step + 1} of epoch {parts[0][0].epoch + 1}")
        seeds = _draw_seeds(seed, parts[0][0].epoch, batch.scene_ids, drawn)
        batch = batch.to(world.device)
        waits = isinstance(forward, DistributedDataParallel) and number + 1 < len(batches)
        with forward.no_sync() if waits else nullcontext():  # type: ignore[operator]
            with autocast(world.device, precision):
                loss = forward(batch, seeds)
            share = weight / total
            (loss.total * share).backward()
        for name, value in {"loss": loss.total, **loss.parts}.items():
            sums[name] = sums.get(name, 0.0) + share * float(value.detach())
    return sums


def _take_step(
    learner: Learner[B],
    source: BatchSource[B],
    optimiser: torch.optim.Optimizer,
    parts: list[tuple[BatchPlan, B]],
    settings: TrainSettings,
    stop: "_Stop",
    *,
    forward: nn.Module,
    run: Run,
    world: World,
    precision: str,
) -> _Step:
    """Take one optimiser step over an effective batch; if it is aborted, the network is unchanged.

    Raises:
        _Dropped: A stop was requested before the optimiser stepped.
    """
    statistics = [(buffer, buffer.clone()) for buffer in learner.network.buffers()]
    with memory_limits(world.device, lambda: _describe_step(parts, settings, run)):
        try:
            with stop.at_once():
                optimiser.zero_grad(set_to_none=True)
                losses = accumulate_gradients(
                    learner, parts, seed=settings.seed, world=world, precision=precision, forward=forward
                )
        except _Dropped:
            for buffer, before in statistics:  # the batch normalisation statistics change with every forward pass
                buffer.copy_(before)
            raise
        voxels = sum(len(batch.features) for _, batch in parts)
        facts = _sum_facts(source, parts)
        shares = world.gather([*losses.values(), voxels, *facts.values(), stop.asked])
        diverged = np.flatnonzero(~np.isfinite(shares[:, 0]))
        if len(diverged):
            scenes = ", ".join(dict.fromkeys(scene for _, batch in parts for scene in batch.scene_ids))
            causes = [_describe_few(batch, settings) for _, batch in parts if 0 < len(batch.features) < FEW_VOXELS]
            cause = f"{causes[0]}; or " if causes else ""
            line = f"the loss became {losses['loss']} on scenes {scenes}: {cause}{_describe_way_out(settings, run)}"
            raise SettingsError(world.broadcast(line, source=int(diverged[0])))
        if settings.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(learner.network.parameters(), settings.clip_norm)
        optimiser.step()
    sums = shares.sum(axis=0).tolist()
    counts = [int(count) for count in sums[len(losses) :]]
    return _Step(
        losses=dict(zip(losses, sums, strict=False)),
        voxels=counts[0],
        facts=dict(zip(facts, counts[1:-1], strict=True)),
        stopping=world.size > 1 and counts[-1] > 0,
    )


def _describe_step(parts: list[tuple[BatchPlan, B]], settings: TrainSettings, run: Run) -> tuple[str, str]:
    """Return what a step that ran out of memory contained, and what to change."""
    largest = max((batch for _, batch in parts), key=lambda batch: len(batch.features))
    voxels, scenes = len(largest.features), list(dict.fromkeys(largest.scene_ids))
    names = ", ".join(scenes[:3]) + (f" and {len(scenes) - 3} more" if len(scenes) > 3 else "")
    what = f"in a pass of {voxels} voxels of {names}"
    if voxels < 2000:
        return what, "pass a smaller --network, or use a machine with more memory"
    fewer = f"--max-voxels {voxels // 2000 * 1000}"
    or_scenes = f" or --micro-batch {len(scenes) // 2}" if len(scenes) > 1 else ""
    again = f"lg3d {settings.command} --resume {run.folder} {fewer}"
    return what, f"{fewer}{or_scenes} splits a batch into smaller passes; resume with: {again}"


def _sum_facts(source: BatchSource[B], parts: list[tuple[BatchPlan, B]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for _, batch in parts:
        for name, count in source.facts(batch).items():
            sums[name] = sums.get(name, 0) + count
    return sums


def _set_rate(optimiser: torch.optim.Optimizer, settings: TrainSettings, done: float) -> float:
    factor = learning_rate_factor(
        done,
        schedule=settings.schedule,
        decay=settings.decay,
        milestones=settings.milestones,
        warmup=settings.warmup,
    )
    for group in optimiser.param_groups:
        group["lr"] = settings.learning_rate * factor
    return settings.learning_rate * factor


def _validate(
    learner: Learner[B],
    store: SceneStore,
    scene_ids: list[str],
    settings: TrainSettings,
    stop: "_Stop",
    *,
    world: World,
    precision: str,
    progress: Progress,
    show: Callable[[int], None],
) -> Evaluation:
    """Return the scores on scenes, divided among the processes; `show` receives the number of finished scenes.

    Raises:
        _Dropped: One of several processes was asked to stop.
    """
    start = time.perf_counter()
    predictor = Predictor(
        network=learner.network,
        voxel_size=settings.voxel_size,
        device=world.device,
        precision=precision,
        score=learner.scores,
    )
    classes = len(store.vocabulary)
    at_vertices, at_voxels = ConfusionMatrix(classes), ConfusionMatrix(classes)
    in_scenes = np.zeros((len(scene_ids), 3, classes), dtype=np.int64)
    num_labelled = 0
    for row in range(world.rank, len(scene_ids), world.size):
        if stop.asked:
            break
        world.doing(f"validating {scene_ids[row]}")
        counts = count_scenes(predictor, store, scene_ids[row : row + 1], progress=progress)
        at_vertices.merge(counts.at_vertices)
        at_voxels.merge(counts.at_voxels)
        in_scenes[row] = counts.in_scenes[0]
        num_labelled += counts.num_labelled
        show(row + 1)
    *_, stopping = world.gather([stop.asked]).sum(axis=0)
    if stopping:
        raise _Dropped
    for matrix in (at_vertices, at_voxels):
        matrix.counts = world.add_up(matrix.counts)
    counts = Counts(at_vertices, at_voxels, world.add_up(in_scenes), world.total(num_labelled))
    seconds = time.perf_counter() - start
    return score_counts(counts, store.vocabulary, scene_ids, seconds=seconds, progress=progress)


class _Remarks(Progress):
    """Progress that passes on notes and warnings but no tasks, for work within a task."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def note(self, message: str) -> None:
        self._progress.note(message)

    def warn(self, message: str) -> None:
        self._progress.warn(message)


def _restore(
    run: Run,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    world: World,
    *,
    settings: TrainSettings,
    per_epoch: int,
    digests: Mapping[str, str],
) -> _Position:
    """Load the saved state of a run, if it has one, and return the position.

    Raises:
        CheckpointError: The state is damaged or does not fit the settings.
        DataError: The state was saved by a run with other data or anchors.
    """
    state = run.load_resume()
    if state is None:
        return _Position(0, 0, -math.inf)
    _require_equal_inputs(run, state.get("digests"), digests, settings)
    try:
        is_start = state["network"] is None and (state["epoch"], state["step"]) == (0, 0)
        if not is_start:
            network.load_state_dict(state["network"])
            optimiser.load_state_dict(state["optimiser"])
        position = _Position(int(state["epoch"]), int(state["step"]), float(state["best"]))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
        raise CheckpointError(f"{run.resume_file} does not fit this run's settings: {error}") from None
    in_range = 0 <= position.epoch <= settings.epochs and 0 <= position.step <= per_epoch
    if not in_range or (position.epoch == settings.epochs and position.step) or math.isnan(position.best):
        raise CheckpointError(
            f"{run.resume_file} is damaged: epoch {position.epoch}, step {position.step}, best {position.best}, "
            f"expected at most {settings.epochs} epochs of {per_epoch} steps"
        )
    if world.leads:
        run.drop_metrics_after(position.epoch * per_epoch + position.step, validated=position.step < per_epoch)
    return position


def _require_equal_inputs(run: Run, saved: object, current: Mapping[str, str], settings: TrainSettings) -> None:
    """Reject resuming with another store, split, label budget or text anchors.

    States of older versions have no digests and are accepted.

    Raises:
        DataError: The inputs differ; the message names them.
    """
    if not isinstance(saved, dict):
        return
    different = [name for name, digest in current.items() if saved.get(name, digest) != digest]
    if not different:
        return
    named = ", ".join(f"{name} {current[name]} instead of {saved[name]}" for name in different)
    advice = []
    if different != ["text anchors"]:
        advice.append(f"pass --store with the folder of an equal store (now {settings.store})")
    if "text anchors" in different:
        advice.append("pass --anchors with the file that the run was trained with")
    raise DataError(f"{run.folder} was trained with other data ({named}): {', '.join(advice)}, or start a new run")


def _save_state(
    run: Run,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    position: _Position,
    digests: Mapping[str, str],
) -> None:
    tensors = {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
    run.save_resume({**tensors, **position._asdict(), "digests": dict(digests)})


def _require_finite(
    network: nn.Module, optimiser: torch.optim.Optimizer, settings: TrainSettings, run: Run, *, epoch: int, cause: str
) -> None:
    """Reject weights, running statistics or momenta that are not finite, so that the saved state stays finite.

    Raises:
        SettingsError: A tensor is not finite; the message names the first one.
    """
    named = {**network.state_dict()}
    for name, parameter in network.named_parameters():
        for key, value in optimiser.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                named[f"{key} of {name}"] = value
    broken = [name for name, tensor in named.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        others = f" and {len(broken) - 1} more tensors are" if len(broken) > 1 else " is"
        raise SettingsError(
            f"the run diverged: {broken[0]}{others} not finite in epoch {epoch}, and this state is not saved: "
            f"{cause}{'; or ' if cause else ''}{_describe_way_out(settings, run)}"
        )


def _describe_few(batch: TrainingBatch, settings: TrainSettings) -> str:
    """Return the error message for a forward pass with too few voxels."""
    scenes, count = ", ".join(dict.fromkeys(batch.scene_ids)), len(batch.features)
    return (
        f"{scenes} has {count} voxel{'s' if count > 1 else ''} of {settings.voxel_size:g} m, too few for batch "
        "normalisation, and training on it may diverge: remove the scene, lower --voxel-size, or raise --micro-batch"
    )


def _describe_way_out(settings: TrainSettings, run: Run) -> str:
    """Return the advice for a run that diverges."""
    return (
        "lower --learning-rate, or set --clip-norm 1 in a new run; the last finite state is kept, resume it with: "
        f"lg3d {settings.command} --resume {run.folder} --learning-rate {settings.learning_rate / 10:g}"
    )


def _draw_seeds(seed: int, epoch: int, scene_ids: Sequence[str], drawn: dict[str, int]) -> list[int]:
    """Derive one seed per scene, independent of how a batch is split and of whether the run is resumed.

    Args:
        seed: Seed of the run.
        epoch: Epoch, from 0.
        scene_ids: Scene ids of a forward pass; a scene that is cut into parts occurs several times.
        drawn: Number of earlier occurrences of each scene in this step; updated in place.
    """
    seeds = []
    for scene in scene_ids:
        number = int.from_bytes(hashlib.blake2b(scene.encode(), digest_size=8).digest(), "little")
        sequence = np.random.SeedSequence([seed, epoch, number, drawn.get(scene, 0)])
        drawn[scene] = drawn.get(scene, 0) + 1
        seeds.append(int(sequence.generate_state(1)[0]))
    return seeds


def _log_validation(run: Run, events: Any, evaluation: Evaluation, *, step: int, epoch: int) -> None:
    scores = {
        evaluation.vertex.miou_name: evaluation.vertex.miou_200,
        "miou_present": evaluation.vertex.miou_present,
        "voxel_miou_present": evaluation.voxel.miou_present,
    }
    groups = {group: score for group, score in _group_scores(evaluation).items() if group != "all"}
    scores |= {f"miou_present_{group}": score for group, score in groups.items() if math.isfinite(score)}
    run.log({"step": step, "epoch": epoch, **{f"val_{name}": value for name, value in scores.items()}})
    for name, value in scores.items():
        events.add_scalar(f"val/{name}", value, step)


def _validation_line(evaluation: Evaluation, *, epoch: int, epochs: int) -> str:
    scores = evaluation.vertex
    whole = f"{scores.miou_name} {scores.miou_200:.4f}"
    return f"epoch {epoch}/{epochs}: validation miou_present {scores.miou_present:.4f}, {whole}"


def _group_scores(evaluation: Evaluation) -> dict[str, float]:
    """Return the mean IoU at vertices over the classes present in each group, and over all."""
    return {group: means.iou for group, means in evaluation.vertex.means_present.items()}


def _status(epoch: int, settings: TrainSettings, losses: dict[str, float]) -> str:
    return f"epoch {epoch + 1}/{settings.epochs}, loss {losses['loss']:.4f}"


class _Meter:
    """Timer of training steps and of the time that they wait for data."""

    def __init__(self) -> None:
        self.waited = 0.0
        self.start = time.perf_counter()

    def waiting_for(self, items: Iterator[tuple[BatchPlan, B]]) -> Iterator[tuple[BatchPlan, B]]:
        """Yield the items and add up the time until each arrives."""
        while True:
            before = time.perf_counter()
            item = next(items, None)
            self.waited += time.perf_counter() - before
            if item is None:
                return
            yield item

    def restart(self) -> None:
        """Start timing the next step, without validation and saving."""
        self.start, self.waited = time.perf_counter(), 0.0

    def report(self, voxels: int) -> dict[str, float]:
        """Return the figures since the last report."""
        seconds, waited = time.perf_counter() - self.start, self.waited
        self.restart()
        return {"seconds": seconds, "data_wait": waited, "voxels_per_second": voxels / max(seconds, 1e-9)}


class _Dropped(BaseException):
    """Raised to abort work that is repeated after a resume. Error handlers must not catch it."""


class _Stop:
    """Stop request, and whether the current work may be aborted for it.

    With several processes, none may abort alone: they agree on a stop at the end of a step.
    """

    asked = False
    droppable = False

    def __init__(self, *, alone: bool) -> None:
        self.alone = alone

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise `_Dropped` in the block as soon as a stop is requested; the block must not change saved state."""
        if not self.alone:
            yield
            return
        self.droppable = True
        try:
            if self.asked:
                raise _Dropped
            yield
        finally:
            self.droppable = False

    def at_once_in(self, items: Iterator[T]) -> Iterator[T]:
        """Yield the items; waiting for an item may be aborted, processing it may not."""
        while True:
            with self.at_once():
                item = next(items, None)
            if item is None:
                return
            yield item


@contextmanager
def _stop_signals(task: Task, *, alone: bool) -> Iterator[_Stop]:
    """Turn SIGINT or SIGTERM into a stop request, which takes effect as soon as the current work may be aborted.

    A second Ctrl-C acts at once. A second SIGTERM is ignored: schedulers send it to a process group and its members.
    """
    stop = _Stop(alone=alone)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGINT:
            signal.signal(number, before[signal.SIGINT])
        if stop.asked:
            return
        stop.asked = True
        task.stopping()
        if stop.droppable:
            raise _Dropped

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _event_writer(run: Run, world: World, *, purge_step: int) -> Iterator[Any]:
    """Open the TensorBoard event file of a run; in a resumed run, steps from `purge_step` on are replaced."""
    if not world.leads:
        yield None
        return
    writer = EventFile(run.folder, purge_step=purge_step + 1)
    try:
        yield writer
    finally:
        writer.close()
