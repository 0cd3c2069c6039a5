"""Datasets that read, augment and voxelise the scenes of a store."""

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
"""Before augmentation a scene is thinned to one point per voxel of this fraction of the voxel size. Half a voxel keeps
about four points per voxel of a dense surface, so the distorted surface has no holes."""


class Sample(NamedTuple):
    """One voxelised scene. Every voxel has the colour, label, instance and position of the one point that it keeps.

    Attributes:
        scene_id: Id of the scene.
        cells: Cell indices, shape `(voxels, 3)`, int32.
        features: Colour / 255 - 0.5, shape `(voxels, 3)`, float32.
        labels: Class index in the vocabulary, -1 for unlabelled, shape `(voxels,)`, int64.
        instances: Instance id, 0 for none, shape `(voxels,)`, int64.
        positions: Positions in metres, augmented like the cells, shape `(voxels, 3)`, float32.
        point_to_voxel: Voxel of every vertex of the scene, shape `(vertices,)`, int64. Empty for augmented samples,
            whose predictions are not mapped back to vertices.
        placed: Number of objects of other scenes that were placed in this one.
        skipped: Number of objects for which no free place was found.
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
    """Voxels of an augmented scene.

    Attributes:
        rows: Row of the scene's point that each voxel keeps, shape `(voxels,)`, int64.
        cells: Cell indices, shape `(voxels, 3)`, int32.
        positions: Positions in metres, shape `(voxels, 3)`, float32.
        colors: Colours in 0..255, shape `(voxels, 3)`, float32.
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
        scene: Scene of the store, with or without placed objects.
        augmentation: Augmentation to apply.
        rng: Random generator.
        voxel_size: Edge of a voxel in metres.
    """
    thinned = voxelize(scene.xyz, THINNING * voxel_size, rng=rng).point
    if augmentation.randomisation is not None:
        thinned = thinned[augmentation.randomisation.keep(scene.xyz.take(thinned, axis=0), rng)]
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
    """Voxelise a scene, with or without augmentation.

    Args:
        scene: Scene of the store, with or without placed objects.
        voxel_size: Edge of a voxel in metres.
        augmentation: Augmentation to apply first; None keeps the first vertex of each voxel of the original scene.
        rng: Random generator of the augmentation and of the kept points; required with an augmentation.
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
    """Return the random generator of a sample's augmentation."""
    return np.random.default_rng([seed, epoch, index])


def pasting_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Return the random generator of a sample's placed objects, independent of the sample's other random draws."""
    return np.random.default_rng(np.random.SeedSequence([seed, epoch, index], spawn_key=(1,)))


class SeededScenes(Dataset[Drawn]):
    """Scenes of a store. Each item depends only on the seed, the epoch and its index.

    The number of worker processes and interruptions therefore do not change the items. The data set is picklable. Each
    worker process has a copy, so call `set_epoch` before the loader's iterator is created, or in the worker.
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
        """Store the settings without reading any scene.

        Args:
            store: Scene store.
            scene_ids: Ids of the scenes, in order.
            voxel_size: Edge of a voxel in metres.
            augmentation: Augmentation of every item; None for validation.
            crop: Edge of the random crop in metres; None keeps whole scenes.
            seed: Random seed.

        Raises:
            DataError: `scene_ids` is empty.
        """
        if not scene_ids:
            raise DataError("expected at least one scene, got none: check the split and the scenes of `lg3d prepare`")
        self.store = store
        self.scene_ids = tuple(scene_ids)
        self.voxel_size = voxel_size
        self.augmentation = augmentation
        self.crop = crop
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next items, from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.scene_ids)

    def __getitem__(self, index: int) -> Drawn:
        if not -len(self) <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        return self.draw(index % len(self))

    @abstractmethod
    def draw(self, index: int) -> Drawn:
        """Read and augment the scene of one index, from 0."""


class SceneDataset(SeededScenes[Sample]):
    """Data set of samples, one per scene of a store."""

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
        """Store the settings without reading any scene.

        Args:
            store: Scene store.
            scene_ids: Ids of the scenes, in order.
            voxel_size: Edge of a voxel in metres.
            augmentation: Augmentation of every item; None for validation.
            budget: Label budget; labels and instances outside it are hidden.
            pasting: Placement of objects of other scenes; None places none.
            crop: Edge of the random crop in metres, cut after objects are placed; None keeps whole scenes.
            seed: Random seed.

        Raises:
            DataError: `scene_ids` is empty.
        """
        super().__init__(store, scene_ids, voxel_size=voxel_size, augmentation=augmentation, crop=crop, seed=seed)
        self.budget = budget
        self.pasting = pasting

    def draw(self, index: int) -> Sample:
        # Placement needs the mesh; without placement, training reads only points.
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
