"""Two augmented views of one scene, and which voxels of them show the same place."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lg3d_core.errors import ShapeError
from lg3d_core.sampling.augment import Augmentation
from lg3d_core.sampling.batch import MAX_SHIFT, collate, renumber
from lg3d_core.sampling.crop import crop_scene, cropping_generator
from lg3d_core.sampling.dataset import Sample, SeededScenes, sample_scene
from lg3d_core.sampling.voxels import voxelize

if TYPE_CHECKING:
    from lg3d_core.store.scene_file import Scene
    from lg3d_core.store.scene_store import SceneStore


class ViewPair(NamedTuple):
    """One scene seen twice. The samples carry no labels and no instances.

    Attributes:
        scene_id: Of the scene.
        first: The first view.
        second: The second view.
        matches: Rows of the first and of the second view that show one place; none appears twice, shape `(matches, 2)`,
            int64.
        places: Where these are in the scene as it is, metres, shape `(matches, 3)`, float32.
    """

    scene_id: str
    first: Sample
    second: Sample
    matches: Tensor
    places: Tensor


class ViewBatch(NamedTuple):
    """Both views of several scenes as one forward pass's input: of scene k, batch indices 2 k and 2 k + 1.

    Attributes:
        scene_ids: One per scene.
        coordinates: Rows `batch, x, y, z`, shape `(voxels, 4)`, int32.
        features: Colour / 255 - 0.5, shape `(voxels, 3)`, float32.
        matches: Rows of the batch that show one place in either view, scene after scene, shape `(matches, 2)`, int64.
        places: Metres, in each scene's own frame, shape `(matches, 3)`, float32.
        scene_matches: Matches of each scene.
        scene_sizes: Voxels of each scene, both views together.
        cut: Scenes whose views were too large for one pass, and are cropped.
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
        """Scenes `first` to `last - 1` as a batch of their own; what was counted stays with scene 0."""
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
        """The same batch on a device, copied without waiting where memory is pinned."""
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
    """Cut two overlapping views out of a scene, augment each by itself, and match them.

    A view is the share of the scene's points that lies nearest, in the plane of the floor, to a random point; that of
    the second view is one of the first view. Two voxels match where the points that they keep lay in one voxel of the
    scene before the augmentation. Labels and instances never enter.

    Args:
        scene: From the store.
        voxel_size: Edge of a voxel in metres.
        augmentation: Drawn anew for each view; None leaves both as they are.
        share: Of the scene's points in each view, above 0 and at most 1.
        max_matches: At most so many matches, drawn at random.
        rng: Draws everything.
    """
    views: list[Sample] = []
    keys: list[npt.NDArray[np.int64]] = []
    rows = np.arange(len(scene.xyz))
    cells = voxelize(scene.xyz, voxel_size).point_to_voxel
    for _ in range(2):
        rows = _nearest_share(scene.xyz, rows, share, rng)
        # Where an instance would stand, each point carries its row: a sample says so which point every voxel keeps.
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
    """Rows of the points that lie nearest in x and y to one of `candidates`, ascending."""
    if share >= 1 or len(xyz) == 0:
        return np.arange(len(xyz))
    middle = xyz[candidates[rng.integers(len(candidates))], :2]
    distance = ((xyz[:, :2] - middle) ** 2).sum(axis=1)
    number = max(1, round(share * len(xyz)))
    return np.sort(np.argpartition(distance, number - 1)[:number])


def collate_views(
    pairs: Sequence[ViewPair], *, rng: np.random.Generator | None = None, max_shift: int = MAX_SHIFT
) -> ViewBatch:
    """Put the views of several scenes one after another, and their matches with them.

    Args:
        pairs: One or more.
        rng: Draws one translation of the whole batch's coordinates; None does not translate.
        max_shift: The translation is 0 to `max_shift - 1` voxels along each axis.

    Raises:
        ShapeError: No pairs.
    """
    if not pairs:
        raise ShapeError("expected at least one pair of views to batch, got none")
    batch = collate([view for pair in pairs for view in (pair.first, pair.second)], rng=rng, max_shift=max_shift)
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
    """Scenes of a store as pairs of views."""

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
        """Describe the pairs; nothing is read yet. The arguments are those of `SeededScenes` and `sample_views`.

        Raises:
            DataError: No scene at all.
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
