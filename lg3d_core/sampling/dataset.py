"""Scenes as samples: read, augmented, voxelised."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lg3d_core.errors import DataError
from lg3d_core.sampling.augment import Augmentation
from lg3d_core.sampling.crop import AnyScene, crop_scene, cropping_generator
from lg3d_core.sampling.placement import FurnishedScene, InstancePasting
from lg3d_core.sampling.voxels import voxelize

if TYPE_CHECKING:
    from lg3d_core.store.budgets import Budget
    from lg3d_core.store.scene_file import Scene
    from lg3d_core.store.scene_store import SceneStore

Drawn = TypeVar("Drawn", covariant=True)

THINNING = 0.5
"""Before an augmentation, a scene is thinned to one point per voxel of this share of the voxel size. Half a voxel keeps
about four points for every voxel of a dense surface, so that the distorted surface still has no holes."""


class Sample(NamedTuple):
    """One voxelised scene; every voxel has the colour, label, instance and position of the point it keeps.

    Attributes:
        scene_id: Of the scene.
        cells: Shape `(voxels, 3)`, int32.
        features: Colour / 255 - 0.5, shape `(voxels, 3)`, float32.
        labels: Vocabulary index, -1 none, shape `(voxels,)`, int64.
        instances: 0 none, shape `(voxels,)`, int64.
        positions: Metres, augmented like the cells, shape `(voxels, 3)`, float32.
        point_to_voxel: Voxel of every vertex of the scene, shape `(vertices,)`, int64; empty when augmented, since
            nothing is read off at the vertices then.
        placed: Objects of other scenes that were put into this one.
        skipped: Objects that found no place in it.
    """

    scene_id: str
    cells: Tensor
    features: Tensor
    labels: Tensor
    instances: Tensor
    positions: Tensor
    point_to_voxel: Tensor
    placed: int = 0
    skipped: int = 0


class AugmentedVoxels(NamedTuple):
    """The voxels of an augmented scene.

    Attributes:
        rows: Point of the scene that each voxel keeps, shape `(voxels,)`, int64.
        cells: Shape `(voxels, 3)`, int32.
        positions: Metres, shape `(voxels, 3)`, float32.
        colors: 0..255, shape `(voxels, 3)`, float32.
    """

    rows: npt.NDArray[np.int64]
    cells: npt.NDArray[np.int32]
    positions: npt.NDArray[np.float32]
    colors: npt.NDArray[np.float32]


def augment_scene(
    scene: "Scene | FurnishedScene", augmentation: Augmentation, rng: np.random.Generator, *, voxel_size: float
) -> AugmentedVoxels:
    """Thin, move, voxelise, mirror and recolour a scene.

    Args:
        scene: From the store, or with objects put into it.
        augmentation: What may happen to it.
        rng: Draws everything.
        voxel_size: Edge of a voxel in metres.
    """
    thinned = voxelize(scene.xyz, THINNING * voxel_size, rng=rng).point
    moved = augmentation.move(scene.xyz.take(thinned, axis=0), rng)
    voxels = voxelize(moved, voxel_size, rng=rng)
    rows = thinned[voxels.point]
    cells, positions = augmentation.mirror(voxels.cells, moved.take(voxels.point, axis=0), rng, voxel_size=voxel_size)
    return AugmentedVoxels(rows, cells, positions, augmentation.recolor(scene.rgb.take(rows, axis=0), rng))


def sample_scene(
    scene: "Scene | FurnishedScene",
    *,
    voxel_size: float,
    augmentation: Augmentation | None = None,
    rng: np.random.Generator | None = None,
) -> Sample:
    """Voxelise a scene, augmented or as it is.

    Args:
        scene: From the store, or with objects put into it.
        voxel_size: Edge of a voxel in metres.
        augmentation: What to do to it first; None leaves it, and keeps the first vertex of each voxel.
        rng: Draws the augmentation and the kept points; must be given with an augmentation.
    """
    if augmentation is None:
        voxels = voxelize(scene.xyz, voxel_size)
        rows, cells, positions = voxels.point, voxels.cells, scene.xyz[voxels.point]
        colors, point_to_voxel = scene.rgb[rows].astype(np.float32), voxels.point_to_voxel
    else:
        assert rng is not None, "an augmentation needs a random generator"
        rows, cells, positions, colors = augment_scene(scene, augmentation, rng, voxel_size=voxel_size)
        point_to_voxel = np.zeros(0, dtype=np.int64)
    return Sample(
        scene_id=scene.scene_id,
        cells=torch.from_numpy(cells),
        features=torch.from_numpy(colors / np.float32(255) - np.float32(0.5)),
        labels=torch.from_numpy(scene.label[rows].astype(np.int64)),
        instances=torch.from_numpy(scene.instance[rows].astype(np.int64)),
        positions=torch.from_numpy(positions.astype(np.float32, copy=False)),
        point_to_voxel=torch.from_numpy(point_to_voxel),
        placed=scene.placed if isinstance(scene, FurnishedScene) else 0,
        skipped=scene.skipped if isinstance(scene, FurnishedScene) else 0,
    )


def augmentation_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """What draws the augmentation of one sample."""
    return np.random.default_rng([seed, epoch, index])


def pasting_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """What draws the objects of one sample and their places; however long it looks for them, nothing else changes."""
    return np.random.default_rng(np.random.SeedSequence([seed, epoch, index], spawn_key=(1,)))


class SeededScenes(Dataset[Drawn]):
    """Scenes of a store, each drawn from the seed, the epoch and its index alone.

    So worker processes, their number and an interruption change nothing. Picklable; a worker process holds a copy, so
    tell the epoch before the loader's iterator is made, or in the worker.
    """

    def __init__(
        self,
        store: "SceneStore",
        scene_ids: Sequence[str],
        *,
        voxel_size: float,
        augmentation: Augmentation | None,
        crop: float | None,
        seed: int,
    ) -> None:
        """Describe what is drawn; nothing is read yet.

        Args:
            store: Holds the scenes.
            scene_ids: Which of them, in order.
            voxel_size: Edge of a voxel in metres.
            augmentation: Applied to everything drawn; None for validation.
            crop: Edge in metres of the piece that is drawn of each scene; None takes all of it.
            seed: Of all that is drawn.

        Raises:
            DataError: No scene at all.
        """
        if not scene_ids:
            raise DataError("expected at least one scene, got none: check the split, and that `lg3d prepare` filled it")
        self.store = store
        self.scene_ids = tuple(scene_ids)
        self.voxel_size = voxel_size
        self.augmentation = augmentation
        self.crop = crop
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the pass over the scenes that comes next, from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.scene_ids)

    def __getitem__(self, index: int) -> Drawn:
        if not -len(self) <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        return self.draw(index % len(self))

    @abstractmethod
    def draw(self, index: int) -> Drawn:
        """Read and draw one scene, from 0."""


class SceneDataset(SeededScenes[Sample]):
    """Scenes of a store as samples."""

    def __init__(
        self,
        store: "SceneStore",
        scene_ids: Sequence[str],
        *,
        voxel_size: float,
        augmentation: Augmentation | None,
        budget: "Budget | None" = None,
        pasting: InstancePasting | None = None,
        crop: float | None = None,
        seed: int = 0,
    ) -> None:
        """Describe the samples; nothing is read yet.

        Args:
            store: As for `SeededScenes`.
            scene_ids: Likewise.
            voxel_size: Likewise.
            augmentation: Likewise.
            budget: Labels and instances outside it are hidden.
            pasting: Objects of other scenes that are put into each; None puts in none.
            crop: As for `SeededScenes`; the piece is cut when the objects are in.
            seed: As for `SeededScenes`.

        Raises:
            DataError: No scene at all.
        """
        super().__init__(store, scene_ids, voxel_size=voxel_size, augmentation=augmentation, crop=crop, seed=seed)
        self.budget = budget
        self.pasting = pasting

    def draw(self, index: int) -> Sample:
        # Where an object may stand is read off the mesh; else training takes nothing but points.
        scene = self.store.read(self.scene_ids[index], budget=self.budget, for_training=self.pasting is None)
        if self.pasting is None:
            return self._sample(scene, index)
        own = pasting_generator(self.seed, self.epoch, index)
        return self._sample(self.pasting.furnish(scene, own, voxel_size=self.voxel_size), index)

    def _sample(self, scene: AnyScene, index: int) -> Sample:
        if self.crop is not None:
            scene = crop_scene(scene, self.crop, cropping_generator(self.seed, self.epoch, index))
        rng = augmentation_generator(self.seed, self.epoch, index)
        return sample_scene(scene, voxel_size=self.voxel_size, augmentation=self.augmentation, rng=rng)
