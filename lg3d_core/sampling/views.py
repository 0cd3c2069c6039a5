"""Pairs of augmented views of one scene, with matches between voxels that show the same place."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lg3d_core.errors import ShapeError
from lg3d_core.sampling.augment import Augmentation
from lg3d_core.sampling.batch import collate, renumber
from lg3d_core.sampling.crop import crop_scene, cropping_generator
from lg3d_core.sampling.dataset import Sample, SeededScenes, sample_scene
from lg3d_core.sampling.voxels import voxelize

if TYPE_CHECKING:
    from lg3d_core.store.scene_file import Scene
    from lg3d_core.store.scene_store import SceneStore


class ViewPair(NamedTuple):
    """Two views of one scene. The samples have no labels and no instances.

    Attributes:
        scene_id: Id of the scene.
        first: The first view.
        second: The second view.
        matches: Rows of the first and second view that show the same place, each row at most once, shape
            `(matches, 2)`, int64.
        places: Positions of the matches in the original scene in metres, shape `(matches, 3)`, float32.
    """

    scene_id: str
    first: Sample
    second: Sample
    matches: Tensor
    places: Tensor


class ViewBatch(NamedTuple):
    """Both views of several scenes as the input of one forward pass. Scene k has batch indices 2 k and 2 k + 1.

    Attributes:
        scene_ids: Id of each scene.
        coordinates: Rows `batch, x, y, z`, shape `(voxels, 4)`, int32.
        features: Colour / 255 - 0.5, shape `(voxels, 3)`, float32.
        matches: Rows of the batch that show the same place in the two views, by scene, shape `(matches, 2)`, int64.
        places: Positions in metres in each scene's own frame, shape `(matches, 3)`, float32.
        scene_matches: Number of matches of each scene.
        scene_sizes: Number of voxels of each scene, both views together.
        cut: Ids of scenes whose views exceeded the voxel limit of one pass and were cropped.
    """

    scene_ids: tuple[str, ...]
    coordinates: Tensor
    features: Tensor
    matches: Tensor
    places: Tensor
    scene_matches: tuple[int, ...]
    scene_sizes: tuple[int, ...]
    cut: tuple[str, ...] = ()

    def select(self, first: int, last: int) -> "ViewBatch":
        """Return scenes `first` to `last - 1` as a new batch. The cropped ids stay with the part that has scene 0."""
        start = sum(self.scene_sizes[:first])
        rows = slice(start, sum(self.scene_sizes[:last]))
        matches = slice(sum(self.scene_matches[:first]), sum(self.scene_matches[:last]))
        return ViewBatch(
            scene_ids=self.scene_ids[first:last],
            coordinates=renumber(self.coordinates[rows], 2 * first),
            features=self.features[rows],
            matches=self.matches[matches] - start,
            places=self.places[matches],
            scene_matches=self.scene_matches[first:last],
            scene_sizes=self.scene_sizes[first:last],
            cut=() if first else self.cut,
        )

    def to(self, device: torch.device | str) -> "ViewBatch":
        """Return the batch on a device. Copies from pinned memory are asynchronous."""
        return self._replace(
            coordinates=self.coordinates.to(device, non_blocking=True),
            features=self.features.to(device, non_blocking=True),
            matches=self.matches.to(device, non_blocking=True),
            places=self.places.to(device, non_blocking=True),
        )


def sample_views(
    scene: "Scene",
    *,
    voxel_size: float,
    augmentation: Augmentation | None,
    share: float,
    max_matches: int,
    rng: np.random.Generator,
) -> ViewPair:
    """Cut two overlapping views out of a scene, augment them independently and match their voxels.

    A view has the given fraction of the scene's points, those horizontally nearest to a random point. The centre of the
    second view is a point of the first view. Two voxels match if their kept points were in the same voxel of the scene
    before augmentation. Labels and instances are not used.

    Args:
        scene: Scene of the store.
        voxel_size: Edge of a voxel in metres.
        augmentation: Augmentation, drawn independently for each view; None leaves both views unchanged.
        share: Fraction of the scene's points in each view, above 0 and at most 1.
        max_matches: Maximum number of matches; a random subset is kept.
        rng: Random generator.
    """
    views: list[Sample] = []
    keys: list[npt.NDArray[np.int64]] = []
    rows = np.arange(len(scene.xyz))
    cells = voxelize(scene.xyz, voxel_size).point_to_voxel
    for _ in range(2):
        rows = _nearest_share(scene.xyz, rows, share, rng)
        # The instance column carries each point's row, so that a sample shows which point every voxel keeps.
        part = scene._replace(
            xyz=scene.xyz[rows], rgb=scene.rgb[rows], label=scene.label[rows], instance=rows.astype(np.int32)
        )
        sample = sample_scene(part, voxel_size=voxel_size, augmentation=augmentation, rng=rng)
        keys.append(sample.instances.numpy())
        views.append(
            sample._replace(labels=torch.full_like(sample.labels, -1), instances=torch.zeros_like(sample.instances))
        )
    _, first, second = np.intersect1d(cells[keys[0]], cells[keys[1]], return_indices=True)
    kept = np.sort(rng.permutation(len(first))[:max_matches])
    first, second = first[kept], second[kept]
    return ViewPair(
        scene_id=scene.scene_id,
        first=views[0],
        second=views[1],
        matches=torch.from_numpy(np.stack([first, second], axis=1).astype(np.int64)),
        places=torch.from_numpy(scene.xyz[keys[0][first]]),
    )


def _nearest_share(
    xyz: npt.NDArray[np.float32], candidates: npt.NDArray[np.int64], share: float, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Return the ascending rows of the points that are horizontally nearest to a random one of `candidates`."""
    if share >= 1 or len(xyz) == 0:
        return np.arange(len(xyz))
    middle = xyz[candidates[rng.integers(len(candidates))], :2]
    distance = ((xyz[:, :2] - middle) ** 2).sum(axis=1)
    number = max(1, round(share * len(xyz)))
    return np.sort(np.argpartition(distance, number - 1)[:number])


def collate_views(pairs: Sequence[ViewPair], *, rng: np.random.Generator | None = None) -> ViewBatch:
    """Concatenate the views of several scenes and offset their matches.

    Args:
        pairs: At least one pair.
        rng: Random generator of one translation of the whole batch's coordinates; None disables the translation.

    Raises:
        ShapeError: `pairs` is empty.
    """
    if not pairs:
        raise ShapeError("expected at least one pair of views per batch, got none")
    batch = collate([view for pair in pairs for view in (pair.first, pair.second)], rng=rng)
    ends = np.cumsum([0, *batch.scene_sizes])
    starts = torch.from_numpy(ends[:-1].reshape(-1, 2))
    return ViewBatch(
        scene_ids=tuple(pair.scene_id for pair in pairs),
        coordinates=batch.coordinates,
        features=batch.features,
        matches=torch.cat([pair.matches + start for pair, start in zip(pairs, starts, strict=True)]),
        places=torch.cat([pair.places for pair in pairs]),
        scene_matches=tuple(len(pair.matches) for pair in pairs),
        scene_sizes=tuple(len(pair.first.cells) + len(pair.second.cells) for pair in pairs),
    )


class ViewDataset(SeededScenes[ViewPair]):
    """Data set of view pairs, one per scene of a store."""

    def __init__(
        self,
        store: "SceneStore",
        scene_ids: Sequence[str],
        *,
        voxel_size: float,
        augmentation: Augmentation | None,
        share: float,
        max_matches: int,
        crop: float | None = None,
        seed: int = 0,
    ) -> None:
        """Store the settings without reading any scene. For the arguments see `SeededScenes` and `sample_views`.

        Raises:
            DataError: `scene_ids` is empty.
        """
        super().__init__(store, scene_ids, voxel_size=voxel_size, augmentation=augmentation, crop=crop, seed=seed)
        self.share = share
        self.max_matches = max_matches

    def draw(self, index: int) -> ViewPair:
        scene = self.store.read(self.scene_ids[index], for_training=True)
        if self.crop is not None:
            scene = crop_scene(scene, self.crop, cropping_generator(self.seed, self.epoch, index))
        return sample_views(
            scene,
            voxel_size=self.voxel_size,
            augmentation=self.augmentation,
            share=self.share,
            max_matches=self.max_matches,
            rng=np.random.default_rng([self.seed, self.epoch, index]),
        )
