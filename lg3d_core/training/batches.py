"""Which scenes meet in which batch: a plan that depends on the seed alone, so that an interrupted run can go on."""

import signal
from collections.abc import Iterator, Sequence
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lg3d_core.sampling.batch import Batch, collate
from lg3d_core.sampling.dataset import SceneDataset
from lg3d_core.sampling.views import ViewBatch, ViewDataset, collate_views


class TrainingBatch(Protocol):
    """What the training loop asks of a batch, whatever else it holds for the loss."""

    @property
    def scene_ids(self) -> tuple[str, ...]:
        """One per scene."""
        ...

    @property
    def coordinates(self) -> Tensor:
        """Rows `batch, x, y, z`, shape `(voxels, 4)`, int32."""
        ...

    @property
    def features(self) -> Tensor:
        """Colour / 255 - 0.5, shape `(voxels, 3)`, float32."""
        ...

    def to(self, device: torch.device | str) -> Self:
        """The same batch on a device."""
        ...


B = TypeVar("B", bound=TrainingBatch)


class BatchSource(Protocol[B]):
    """Scenes that come as batches."""

    def __len__(self) -> int:
        """Number of scenes."""
        ...

    def load(self, rows: Sequence[int], *, epoch: int, rng: np.random.Generator | None) -> B:
        """These scenes of an epoch as one batch, translated by what `rng` draws."""
        ...

    def facts(self, batch: B) -> dict[str, int]:
        """Counts of what was done to a batch, for the log."""
        ...


class SceneBatches:
    """Batches of labelled scenes."""

    def __init__(self, scenes: SceneDataset) -> None:
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def load(self, rows: Sequence[int], *, epoch: int, rng: np.random.Generator | None) -> Batch:
        """See `BatchSource`."""
        self.scenes.set_epoch(epoch)
        return collate([self.scenes[row] for row in rows], rng=rng)

    def facts(self, batch: Batch) -> dict[str, int]:
        """Objects of other scenes that found a place, and those that did not."""
        if self.scenes.pasting is None:
            return {}
        return {"instances_placed": batch.placed, "instances_skipped": batch.skipped}


class ViewBatches:
    """Batches of pairs of views."""

    def __init__(self, views: ViewDataset) -> None:
        self.views = views

    def __len__(self) -> int:
        return len(self.views)

    def load(self, rows: Sequence[int], *, epoch: int, rng: np.random.Generator | None) -> ViewBatch:
        """See `BatchSource`."""
        self.views.set_epoch(epoch)
        return collate_views([self.views[row] for row in rows], rng=rng)

    def facts(self, batch: ViewBatch) -> dict[str, int]:
        """Places that are matched in both views."""
        return {"matches": len(batch.matches)}


class BatchPlan(NamedTuple):
    """One forward pass of one epoch.

    Attributes:
        epoch: From 0.
        step: Optimiser step within the epoch, from 0.
        part: Forward pass within the step, from 0.
        last: Whether the optimiser steps after it.
        scenes: Rows of the dataset.
    """

    epoch: int
    step: int
    part: int
    last: bool
    scenes: tuple[int, ...]


def steps_per_epoch(num_scenes: int, batch_size: int) -> int:
    """Optimiser steps of an epoch; the last one may see fewer scenes."""
    return -(-num_scenes // batch_size)


def plan_batches(
    num_scenes: int,
    *,
    batch_size: int,
    micro_batch: int,
    seed: int,
    epochs: int,
    start_epoch: int = 0,
    start_step: int = 0,
) -> Iterator[BatchPlan]:
    """Every scene once an epoch in a fresh random order, from any step on.

    Args:
        num_scenes: Size of the dataset.
        batch_size: Scenes per optimiser step.
        micro_batch: Scenes per forward pass, at most.
        seed: Of the order.
        epochs: Where to end.
        start_epoch: Epoch to begin with.
        start_step: Optimiser step of that epoch to begin with.
    """
    for epoch in range(start_epoch, epochs):
        order = np.random.default_rng([seed, epoch]).permutation(num_scenes)
        first = start_step if epoch == start_epoch else 0
        for step in range(first, steps_per_epoch(num_scenes, batch_size)):
            scenes = order[step * batch_size : (step + 1) * batch_size]
            parts = [scenes[k : k + micro_batch] for k in range(0, len(scenes), micro_batch)]
            for part, rows in enumerate(parts):
                yield BatchPlan(epoch, step, part, part == len(parts) - 1, tuple(int(row) for row in rows))


class _PlannedBatches(Dataset[tuple[BatchPlan, B]], Generic[B]):
    """Serves a whole batch per plan, so that a worker process does all of a batch's work."""

    def __init__(self, source: BatchSource[B], *, seed: int, shift: bool) -> None:
        self.source = source
        self.seed = seed
        self.shift = shift

    def __getitem__(self, plan: BatchPlan) -> tuple[BatchPlan, B]:
        rng = np.random.default_rng([self.seed, plan.epoch, plan.step, plan.part]) if self.shift else None
        return plan, self.source.load(plan.scenes, epoch=plan.epoch, rng=rng)


def load_batches(
    source: BatchSource[B], plans: list[BatchPlan], *, jobs: int, seed: int, shift: bool
) -> Iterator[tuple[BatchPlan, B]]:
    """Load planned batches in order, `jobs` processes working ahead.

    Args:
        source: The scenes.
        plans: What to load.
        jobs: Worker processes; 0 loads in this one.
        seed: Of the random translation of a batch's coordinates.
        shift: Whether to translate at all.
    """
    loader = DataLoader(
        _PlannedBatches(source, seed=seed, shift=shift),
        sampler=plans,
        batch_size=None,
        num_workers=jobs,
        worker_init_fn=_start_worker if jobs else None,
    )
    return iter(loader)


def _start_worker(_: int) -> None:
    """Leave stopping to the training process, which ends its workers itself, and its cores to the network."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
