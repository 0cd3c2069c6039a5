"""Which scenes meet in which batch: a plan that depends on the seed alone, so that an interrupted run can go on."""

import signal
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from lg3d_core.sampling.batch import Batch, collate
from lg3d_core.sampling.dataset import SceneDataset


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


class _PlannedBatches(Dataset[tuple[BatchPlan, Batch]]):
    """Serves a whole batch per plan, so that a worker process does all of a batch's work."""

    def __init__(self, scenes: SceneDataset, *, seed: int, shift: bool) -> None:
        self.scenes = scenes
        self.seed = seed
        self.shift = shift

    def __getitem__(self, plan: BatchPlan) -> tuple[BatchPlan, Batch]:
        self.scenes.set_epoch(plan.epoch)
        rng = np.random.default_rng([self.seed, plan.epoch, plan.step, plan.part]) if self.shift else None
        return plan, collate([self.scenes[row] for row in plan.scenes], rng=rng)


def load_batches(
    scenes: SceneDataset, plans: list[BatchPlan], *, jobs: int, seed: int, shift: bool
) -> Iterator[tuple[BatchPlan, Batch]]:
    """Load planned batches in order, `jobs` processes working ahead.

    Args:
        scenes: The dataset.
        plans: What to load.
        jobs: Worker processes; 0 loads in this one.
        seed: Of the random translation of a batch's coordinates.
        shift: Whether to translate at all.
    """
    loader = DataLoader(
        _PlannedBatches(scenes, seed=seed, shift=shift),
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
