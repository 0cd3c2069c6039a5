"""Training batches: a plan that depends only on the seed, so that an interrupted run can be resumed."""

import itertools
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from lg3d_core.devices import copies_without_waiting
from lg3d_core.errors import DataError, Lg3dError, first_line
from lg3d_core.progress import Progress
from lg3d_core.sampling.batch import Batch, collate
from lg3d_core.sampling.cut import crop_views, cut_sample, view_cropping_generator
from lg3d_core.sampling.dataset import SceneDataset
from lg3d_core.sampling.joint import JointScenes
from lg3d_core.sampling.views import ViewBatch, ViewDataset, collate_views
from lg3d_core.stopping import leave_stopping_to_parent


class TrainingBatch(Protocol):
    """Batch with what the training loop uses, independent of the loss. Batches are named tuples."""

    @property
    def scene_ids(self) -> tuple[str, ...]:
        """Scene ids, one per scene."""
        ...

    @property
    def coordinates(self) -> Tensor:
        """Voxel coordinates as rows `batch, x, y, z`, shape `(voxels, 4)`, int32."""
        ...

    @property
    def features(self) -> Tensor:
        """Colours / 255 - 0.5, shape `(voxels, 3)`, float32."""
        ...

    @property
    def scene_sizes(self) -> tuple[int, ...]:
        """Number of voxels of each scene."""
        ...

    @property
    def cut(self) -> tuple[str, ...]:
        """Ids of the scenes that were too large for one forward pass."""
        ...

    def select(self, first: int, last: int) -> Self:
        """Return scenes `first` to `last - 1` as a separate batch."""
        ...

    def to(self, device: torch.device | str) -> Self:
        """Return the batch on a device."""
        ...


B = TypeVar("B", bound=TrainingBatch)
T = TypeVar("T")

SHARED_MEMORY = "/dev/shm"
CPU = torch.device("cpu")


class BatchSource(Protocol[B]):
    """Scenes that are loaded as batches."""

    max_voxels: int | None
    """Maximum number of voxels per forward pass; None sets no limit."""

    def __len__(self) -> int:
        """Return the number of scenes."""
        ...

    def load(self, rows: Sequence[int], *, epoch: int, rng: np.random.Generator | None) -> B:
        """Load scenes of an epoch as one batch; `rng` draws a random translation."""
        ...

    def facts(self, batch: B) -> dict[str, int]:
        """Return counts for the log that describe how the batch was made."""
        ...

    def describe_cut(self, batch: B) -> str:
        """Describe in a sentence how the first scene of `batch.cut` was reduced."""
        ...


class SceneBatches:
    """Batches of labelled scenes; a scene with more than `max_voxels` voxels is cut into parts."""

    def __init__(
        self, scenes: SceneDataset | JointScenes, *, max_voxels: int | None = None, with_instances: bool = False
    ) -> None:
        self.scenes = scenes
        self.max_voxels = max_voxels
        self.with_instances = with_instances

    def __len__(self) -> int:
        return len(self.scenes)

    def load(self, rows: Sequence[int], *, epoch: int, rng: np.random.Generator | None) -> Batch:
        """See `BatchSource`."""
        self.scenes.set_epoch(epoch)
        samples = [self.scenes[row] for row in rows]
        if self.max_voxels is None:
            return collate(samples, rng=rng, with_instances=self.with_instances)
        parts = [part for sample in samples for part in cut_sample(sample, self.max_voxels)]
        cut = tuple(sample.scene_id for sample in samples if len(sample.cells) > self.max_voxels)
        return collate(parts, rng=rng, with_instances=self.with_instances)._replace(cut=cut)

    def facts(self, batch: Batch) -> dict[str, int]:
        """Count forward passes, cut scenes, and pasted objects that were placed or skipped."""
        counts = _count_passes(self.max_voxels, batch.cut)
        if self.scenes.pasting is not None:
            counts |= {"instances_placed": batch.placed, "instances_skipped": batch.skipped}
        return counts

    def describe_cut(self, batch: Batch) -> str:
        """See `BatchSource`."""
        parts = [size for scene, size in zip(batch.scene_ids, batch.scene_sizes, strict=True) if scene == batch.cut[0]]
        return (
            f"{batch.cut[0]} has {sum(parts)} voxels, more than --max-voxels {self.max_voxels}: it is cut into "
            f"{len(parts)} parts, as is every scene above the limit; all voxels are used, but context ends at the cuts"
        )


class ViewBatches:
    """Batches of pairs of views; a pair with more than `max_voxels` voxels is cropped around a shared place."""

    def __init__(self, views: ViewDataset, *, max_voxels: int | None = None) -> None:
        self.views = views
        self.max_voxels = max_voxels

    def __len__(self) -> int:
        return len(self.views)

    def load(self, rows: Sequence[int], *, epoch: int, rng: np.random.Generator | None) -> ViewBatch:
        """See `BatchSource`."""
        self.views.set_epoch(epoch)
        pairs = [self.views[row] for row in rows]
        if self.max_voxels is None:
            return collate_views(pairs, rng=rng)
        cropped = [
            crop_views(pair, self.max_voxels, view_cropping_generator(self.views.seed, epoch, row))
            for pair, row in zip(pairs, rows, strict=True)
        ]
        cut = tuple(old.scene_id for old, new in zip(pairs, cropped, strict=True) if new is not old)
        return collate_views(cropped, rng=rng)._replace(cut=cut)

    def facts(self, batch: ViewBatch) -> dict[str, int]:
        """Count the places that are matched in both views, forward passes, and cropped scenes."""
        return {"matches": len(batch.matches)} | _count_passes(self.max_voxels, batch.cut)

    def describe_cut(self, batch: ViewBatch) -> str:
        """See `BatchSource`."""
        return (
            f"the two views of {batch.cut[0]} have more voxels than --max-voxels {self.max_voxels}: they are cropped "
            "around a place that both contain, as are all views above the limit"
        )


def _count_passes(max_voxels: int | None, cut: tuple[str, ...]) -> dict[str, int]:
    return {} if max_voxels is None else {"passes": 1, "scenes_cut": len(cut)}


def split_batch(batch: B, max_voxels: int | None) -> list[B]:
    """Split a batch into batches of whole scenes with at most `max_voxels` voxels; a larger scene stays alone."""
    sizes = batch.scene_sizes
    if max_voxels is None or sum(sizes) <= max_voxels:
        return [batch]
    starts, held = [0], 0
    for scene, size in enumerate(sizes):
        if held and held + size > max_voxels:
            starts.append(scene)
            held = 0
        held += size
    return [batch.select(first, last) for first, last in itertools.pairwise([*starts, len(sizes)])]


def without_scenes(batch: B) -> B:
    """Return a batch of the same type without scenes."""
    return batch.select(len(batch.scene_sizes), len(batch.scene_sizes))


class BatchPlan(NamedTuple):
    """One forward pass of an epoch.

    Attributes:
        epoch: Epoch, from 0.
        step: Optimiser step within the epoch, from 0.
        part: Forward pass within the step, from 0.
        last: Whether the optimiser steps after this pass.
        scenes: Dataset rows.
        piece: Index of the piece, from 0, if the scenes have too many voxels for one pass.
    """

    epoch: int
    step: int
    part: int
    last: bool
    scenes: tuple[int, ...]
    piece: int = 0


def steps_per_epoch(num_scenes: int, batch_size: int) -> int:
    """Return the number of optimiser steps per epoch; the last step may use fewer scenes."""
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
    rank: int = 0,
    size: int = 1,
) -> Iterator[BatchPlan]:
    """Yield every scene once per epoch in a new random order, starting at any step.

    With several processes, each process plans its own contiguous share of every batch; shares differ by at most one
    scene. A process without scenes in the last step of an epoch takes part in that step with an empty batch.

    Args:
        num_scenes: Size of the dataset.
        batch_size: Scenes per optimiser step.
        micro_batch: Maximum number of scenes per forward pass of a process.
        seed: Seed of the scene order.
        epochs: Total number of epochs.
        start_epoch: First epoch.
        start_step: First optimiser step of that epoch.
        rank: Rank of this process, from 0.
        size: Number of processes.
    """
    for epoch in range(start_epoch, epochs):
        order = np.random.default_rng([seed, epoch]).permutation(num_scenes)
        first = start_step if epoch == start_epoch else 0
        for step in range(first, steps_per_epoch(num_scenes, batch_size)):
            scenes = np.array_split(order[step * batch_size : (step + 1) * batch_size], size)[rank]
            parts = [scenes[k : k + micro_batch] for k in range(0, max(1, len(scenes)), micro_batch)]
            for part, rows in enumerate(parts):
                yield BatchPlan(epoch, step, part, part == len(parts) - 1, tuple(int(row) for row in rows))


@dataclass(frozen=True)
class _Loaded(Generic[B]):
    """What a worker process returns: a plan, and its batch or an error."""

    plan: BatchPlan
    batch: B | Exception

    def pin_memory(self) -> "_Loaded[B]":
        """Return it with its tensors in page-locked memory, from which a GPU copies without a wait."""
        if isinstance(self.batch, Exception):
            return self
        pinned = {name: value.pin_memory() for name, value in _tensors(self.batch).items()}
        batch: Any = self.batch
        return _Loaded(self.plan, batch._replace(**pinned))


class _PlannedBatches(Dataset[_Loaded[B]], Generic[B]):
    """Dataset with one whole batch per plan, so that a worker process does all the work for a batch."""

    def __init__(self, source: BatchSource[B], *, seed: int, shift: bool) -> None:
        self.source = source
        self.seed = seed
        self.shift = shift

    def __getitem__(self, plan: BatchPlan) -> _Loaded[B]:
        # Errors are returned: if raised in a worker, they would reach the training process as a traceback in text form.
        try:
            batch = self._load(plan)
            if get_worker_info() is not None:
                _share(batch)
        except (Lg3dError, MemoryError) as error:
            return _Loaded(plan, error)
        return _Loaded(plan, batch)

    def _load(self, plan: BatchPlan) -> B:
        # One translation per step, independent of how the step is split into passes and processes.
        rng = np.random.default_rng([self.seed, plan.epoch, plan.step, 0]) if self.shift else None
        batch = self.source.load(plan.scenes or (0,), epoch=plan.epoch, rng=rng)
        return batch if plan.scenes else without_scenes(batch)


def _tensors(batch: Any) -> dict[str, Tensor]:
    """Return the tensors of a batch, a named tuple, by field."""
    return {name: value for name, value in batch._asdict().items() if isinstance(value, Tensor)}


def _share(batch: TrainingBatch) -> None:
    """Move a batch into shared memory here, where a failure can be reported.

    PyTorch would do this later in a thread of the worker, where a failure is only printed and training waits forever.

    Raises:
        DataError: Shared memory is full.
    """
    try:
        for value in _tensors(batch).values():
            value.share_memory_()  # type: ignore[no-untyped-call]
    except (RuntimeError, OSError) as error:
        raise DataError(_describe_shared_memory(first_line(error))) from None


def _describe_shared_memory(reason: str) -> str:
    """Return the error message for full shared memory."""
    try:
        usage = shutil.disk_usage(SHARED_MEMORY)
        free = f", {usage.free >> 10} of {usage.total >> 10} KiB free"
    except OSError:
        free = ""
    return (
        f"shared memory is full ({SHARED_MEMORY}{free}): batches of worker processes do not fit ({reason}); pass "
        "--jobs 0, or give the container more shared memory (docker run --shm-size 8g)"
    )


def load_batches(
    source: BatchSource[B],
    plans: Iterable[BatchPlan],
    *,
    jobs: int,
    seed: int,
    shift: bool,
    device: torch.device = CPU,
    progress: Progress | None = None,
) -> Iterator[tuple[BatchPlan, B]]:
    """Load planned batches in order with `jobs` worker processes; oversized batches are split into several pieces.

    Args:
        source: The scenes.
        plans: Batches to load; a generator is consumed a few plans at a time.
        jobs: Number of worker processes; 0 loads in this process.
        seed: Seed of the random translation of the coordinates.
        shift: Whether to translate the coordinates.
        device: Device that the batches will be copied to; for a GPU they arrive in page-locked memory.
        progress: Receives a note on the first scene that is too large for one pass.

    Raises:
        DataError: A worker process died, shared memory is full, or a scene is damaged.
    """
    loader = DataLoader(
        _PlannedBatches(source, seed=seed, shift=shift),
        sampler=plans,
        batch_size=None,
        num_workers=jobs,
        worker_init_fn=_start_worker if jobs else None,
        pin_memory=copies_without_waiting(device),
    )
    reported = False
    try:
        loaded = iter(loader)
    except OSError as error:  # the locks of the worker queues are in shared memory, too
        raise DataError(_describe_shared_memory(error.strerror or str(error))) from None
    for item in _watch_workers(loaded):
        plan, batch = item.plan, item.batch
        if isinstance(batch, Exception):
            raise batch
        if batch.cut and not reported and progress is not None:
            reported = True
            progress.note(source.describe_cut(batch))
        pieces = split_batch(batch, source.max_voxels)
        for piece, part in enumerate(pieces):
            yield plan._replace(piece=piece, last=plan.last and piece == len(pieces) - 1), part


def _watch_workers(items: Iterator[T]) -> Iterator[T]:
    """Yield the items, and report a worker process that died as an error in one line."""
    while True:
        try:
            item = next(items, None)
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker (pid"):
                raise
            raise DataError(
                f"a data loading process died, possibly because memory ran out ({error}): pass a smaller --jobs, or "
                "--jobs 0; if shared memory (/dev/shm) is full, give the container more (docker run --shm-size 8g)"
            ) from None
        if item is None:
            return
        yield item


def _start_worker(_: int) -> None:
    """Leave signal handling to the training process, which ends its workers, and the CPU cores to the network."""
    leave_stopping_to_parent()
    torch.set_num_threads(1)
