"""One optimiser step: gradients over an effective batch, the learning rate, and checks that everything is finite."""

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lg3d_core.devices import autocast, training_products
from lg3d_core.errors import SettingsError
from lg3d_core.memory import memory_limits
from lg3d_core.settings import TrainSettings
from lg3d_core.sparse import SparseTensor
from lg3d_core.training.batches import BatchPlan, BatchSource, TrainingBatch, without_scenes
from lg3d_core.training.distributed import World
from lg3d_core.training.learners import Learner, LossParts
from lg3d_core.training.optimisation import learning_rate_factor
from lg3d_core.training.run import Run
from lg3d_core.training.stop import Dropped, Stop

B = TypeVar("B", bound=TrainingBatch)

FEW_VOXELS = 10
"""Voxels below which batch normalisation has no usable variance: gradients grow about 300 times."""


class StepResult(NamedTuple):
    """Result of an optimiser step, summed over all processes.

    Attributes:
        losses: Loss first, then its parts.
        voxels: Number of voxels.
        facts: Counts that describe how the batch was made.
        stopping: Whether a stop was requested in any of several processes.
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

    def forward(self, batch: B, seeds: Sequence[int]) -> tuple[LossParts, ...]:
        features = self.network(SparseTensor(batch.features, batch.coordinates))
        return self.learner.loss(features, batch, seeds=seeds)


class KeptBuffers:
    """Copies of a network's buffers, made with one operation per data type."""

    def __init__(self, network: nn.Module) -> None:
        groups: dict[torch.dtype, list[Tensor]] = {}
        for buffer in network.buffers():
            groups.setdefault(buffer.dtype, []).append(buffer)
        self._kept = [(buffers, [torch.empty_like(buffer) for buffer in buffers]) for buffers in groups.values()]
        for buffers, copies in self._kept:
            torch._foreach_copy_(copies, buffers)

    def restore(self) -> None:
        """Write the copies back."""
        for buffers, copies in self._kept:
            torch._foreach_copy_(buffers, copies)


class Stepper(Generic[B]):
    """Takes the optimiser steps of a run, together with the other processes.

    Args:
        learner: Network and loss.
        source: Training scenes, which describe their batches.
        optimiser: Optimiser of the network.
        forward: Module from batch and seeds to the loss, as from `World.together`.
        settings: Settings of the run.
        run: Folder of the run, for messages.
        world: The processes that share each batch, and the device of the network.
        precision: `fp32`, or `bf16` for autocast.
    """

    def __init__(
        self,
        learner: Learner[B],
        source: BatchSource[B],
        *,
        optimiser: torch.optim.Optimizer,
        forward: nn.Module,
        settings: TrainSettings,
        run: Run,
        world: World,
        precision: str,
    ) -> None:
        self.learner = learner
        self.source = source
        self.optimiser = optimiser
        self.forward = forward
        self.settings = settings
        self.run = run
        self.world = world
        self.precision = precision

    def set_rate(self, done: float) -> float:
        """Set the learning rate at a completed fraction of the training, and return it."""
        settings = self.settings
        factor = learning_rate_factor(
            done,
            schedule=settings.schedule,
            decay=settings.decay,
            milestones=settings.milestones,
            warmup=settings.warmup,
        )
        for group in self.optimiser.param_groups:
            group["lr"] = settings.learning_rate * factor
        return settings.learning_rate * factor

    def take(self, parts: list[tuple[BatchPlan, B]], stop: Stop) -> StepResult:
        """Take one optimiser step over an effective batch; if it is aborted, the network is unchanged.

        Raises:
            Dropped: A stop was requested before the optimiser stepped.
            SettingsError: The loss is not finite; raised in all processes.
            MemoryLimitError: A forward or backward pass did not fit into memory.
        """
        with memory_limits(self.world.device, lambda: _describe_step(parts, self.settings, self.run)):
            losses = self._accumulate(parts, stop)
            voxels = sum(len(batch.features) for _, batch in parts)
            facts = _sum_facts(self.source, parts)
            shares = self.world.gather([*losses.values(), voxels, *facts.values(), stop.asked])
            self._require_finite_loss(np.flatnonzero(~np.isfinite(shares[:, 0])).tolist(), losses["loss"], parts)
            if self.settings.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(self.learner.network.parameters(), self.settings.clip_norm)
            self.optimiser.step()
        sums = shares.sum(axis=0).tolist()
        counts = [int(count) for count in sums[len(losses) :]]
        return StepResult(
            losses=dict(zip(losses, sums, strict=False)),
            voxels=counts[0],
            facts=dict(zip(facts, counts[1:-1], strict=True)),
            stopping=self.world.size > 1 and counts[-1] > 0,
        )

    def _accumulate(self, parts: list[tuple[BatchPlan, B]], stop: Stop) -> dict[str, float]:
        """Compute the gradients; if this is aborted, the statistics of batch normalisation are restored."""
        statistics = KeptBuffers(self.learner.network)
        try:
            with stop.at_once():
                self.optimiser.zero_grad(set_to_none=True)
                return accumulate_gradients(
                    self.learner,
                    parts,
                    seed=self.settings.seed,
                    world=self.world,
                    precision=self.precision,
                    forward=self.forward,
                )
        except Dropped:
            statistics.restore()  # those of batch normalisation change with every forward pass
            raise

    def _require_finite_loss(self, diverged: list[int], loss: float, parts: list[tuple[BatchPlan, B]]) -> None:
        """Raise the error of the first of the processes whose loss diverged."""
        if not diverged:
            return
        scenes = ", ".join(dict.fromkeys(scene for _, batch in parts for scene in batch.scene_ids))
        causes = [describe_few(batch, self.settings) for _, batch in parts if 0 < len(batch.features) < FEW_VOXELS]
        cause = f"{causes[0]}; or " if causes else ""
        line = f"the loss became {loss} on scenes {scenes}: {cause}{_describe_way_out(self.settings, self.run)}"
        raise SettingsError(self.world.broadcast(line, source=diverged[0]))

    def require_finite(self, *, epoch: int, cause: str) -> None:
        """Reject weights, running statistics or momenta that are not finite, so that the saved state stays finite.

        Args:
            epoch: Epoch for the message, from 1.
            cause: Known possible cause, or "".

        Raises:
            SettingsError: A tensor is not finite; the message names the first one.
        """
        network = self.learner.network
        named = {**network.state_dict()}
        for name, parameter in network.named_parameters():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor):
                    named[f"{key} of {name}"] = value
        broken = [name for name, tensor in named.items() if not bool(torch.isfinite(tensor).all())]
        if broken:
            others = f" and {len(broken) - 1} more tensors are" if len(broken) > 1 else " is"
            raise SettingsError(
                f"the run diverged: {broken[0]}{others} not finite in epoch {epoch}, and this state is not saved: "
                f"{cause}{'; or ' if cause else ''}{_describe_way_out(self.settings, self.run)}"
            )


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
        learner: Network and loss, a sum of means over the elements that `weights` counts.
        parts: Forward passes of this process's share of the effective batch.
        seed: Seed of the loss's random draws.
        world: The processes that share the batch, and the device of the network.
        precision: `fp32`, or `bf16` for autocast.
        forward: Module from batch and seeds to the loss, as from `World.together`; None calls the learner directly.

    Returns:
        The loss and its parts: this process's contributions to the means over the effective batch.
    """
    forward = forward or ForwardPass(learner)
    weights = np.array([learner.weights(batch) for _, batch in parts])  # elements of each pass and term
    gathered = world.gather([len(parts), *weights.sum(axis=0)])
    totals = np.maximum(1, gathered[:, 1:].sum(axis=0))
    # All processes do the same number of passes, although their shares may be split differently.
    missing = int(gathered[:, 0].max()) - len(parts)
    batches = [batch for _, batch in parts] + [without_scenes(parts[0][1])] * missing
    shares = np.pad(weights / totals, [(0, missing), (0, 0)]).tolist()
    drawn: dict[str, int] = {}
    sums: dict[str, float] = {}
    for number, (batch, share) in enumerate(zip(batches, shares, strict=True)):
        world.doing(f"computing step {parts[0][0].step + 1} of epoch {parts[0][0].epoch + 1}", is_pass=True)
        seeds = _draw_seeds(seed, parts[0][0].epoch, batch.scene_ids, drawn)
        batch = batch.to(world.device)
        waits = isinstance(forward, DistributedDataParallel) and number + 1 < len(batches)
        with (
            forward.no_sync() if waits else nullcontext(),  # type: ignore[operator]
            training_products(world.device, precision),
        ):
            with autocast(world.device, precision):
                terms: tuple[LossParts, ...] = forward(batch, seeds)
            loss = torch.stack([term.total * own for term, own in zip(terms, share, strict=True)]).sum()
            loss.backward()  # type: ignore[no-untyped-call]
        for term, own in zip(terms, share, strict=True):
            for name, value in {"loss": term.total, **term.parts}.items():
                sums[name] = sums.get(name, 0.0) + own * float(value.detach())
    return sums


def describe_few(batch: TrainingBatch, settings: TrainSettings) -> str:
    """Return the message for a forward pass with too few voxels."""
    scenes, count = ", ".join(dict.fromkeys(batch.scene_ids)), len(batch.features)
    return (
        f"{scenes} has {count} voxel{'s' if count > 1 else ''} of {settings.voxel_size:g} m, too few for batch "
        "normalisation, and training on it may diverge: remove the scene, lower --voxel-size, or raise --micro-batch"
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
    again = f"lg3d {settings.command} {run.resume_option} {fewer}"
    return what, f"{fewer}{or_scenes} splits a batch into smaller passes; resume with: {again}"


def _describe_way_out(settings: TrainSettings, run: Run) -> str:
    """Return the advice for a run that diverges."""
    return (
        "lower --learning-rate, or set --clip-norm 1 in a new run; the last finite state is kept, resume it with: "
        f"lg3d {settings.command} {run.resume_option} --learning-rate {settings.learning_rate / 10:g}"
    )


def _sum_facts(source: BatchSource[B], parts: list[tuple[BatchPlan, B]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for _, batch in parts:
        for name, count in source.facts(batch).items():
            sums[name] = sums.get(name, 0) + count
    return sums


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
