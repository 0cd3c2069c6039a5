"""Scenes of several stores as one data set, whose labels are numbered over all vocabularies."""

from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from lg3d_core.errors import DataError
from lg3d_core.sampling.dataset import Sample, SceneDataset
from lg3d_core.sampling.placement import InstancePasting


def first_classes(sizes: Sequence[int]) -> tuple[int, ...]:
    """Return the number over all vocabularies of the first class of each vocabulary, and their total."""
    return (0, *np.cumsum(sizes).tolist())


def divide_draws(sizes: Sequence[int], shares: Sequence[float]) -> tuple[int, ...]:
    """Return how many scenes of each store an epoch has.

    An epoch has as many scenes as all stores together. Without shares, every scene occurs once. Otherwise the draws are
    rounded so that their sum is kept, and every store has at least one.

    Args:
        sizes: Number of scenes of each store.
        shares: Relative share of each store, positive; empty for none.
    """
    if not shares:
        return tuple(sizes)
    ends = np.round(np.cumsum(shares) / np.sum(shares) * sum(sizes)).astype(int)
    draws = np.maximum(np.diff(ends, prepend=0), 1)
    return tuple(draws.tolist())


class JointScenes(Dataset[Sample]):
    """Training scenes of several stores. Each item depends only on the seed, the epoch and its index.

    The items of a store are consecutive. Its scenes are drawn in random order, each as often as any other up to one
    draw, over all epochs: draw `n` of a store with `s` scenes is the item of its data set in pass `n // s`, so that
    repeated scenes differ in their augmentation.

    Class `c` of vocabulary `k` has the label `first[k] + c`. The id of a scene of store `k` from the second one on is
    `k+1:ID`, because stores may have equal ids.
    """

    def __init__(self, parts: Sequence[SceneDataset], *, shares: Sequence[float] = (), seed: int = 0) -> None:
        """Store the data sets without reading any scene.

        Args:
            parts: Data set of each store.
            shares: Relative share of each store in an epoch; empty: every scene once.
            seed: Seed of the order of the scenes.

        Raises:
            DataError: There are no stores, or another number of shares.
        """
        if not parts or (shares and len(shares) != len(parts)):
            raise DataError(f"expected one share for each of {len(parts)} stores, got {len(shares)}")
        self.parts = tuple(parts)
        self.seed = seed
        self.epoch = 0
        self.first = first_classes([len(part.store.vocabulary) for part in parts])
        self.draws = divide_draws([len(part) for part in parts], shares)
        self.starts: tuple[int, ...] = (0, *np.cumsum(self.draws).tolist())

    @property
    def pasting(self) -> InstancePasting | None:
        """Instance sampling of the first store that has one; None if no store has."""
        return next((part.pasting for part in self.parts if part.pasting is not None), None)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next items, from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.starts[-1]

    def locate(self, index: int) -> tuple[int, int, int]:
        """Return the store, the pass over its scenes, and the row of the scene for an item of this epoch."""
        store = int(np.searchsorted(self.starts, index, side="right")) - 1
        size = len(self.parts[store])
        repeat, place = divmod(self.epoch * self.draws[store] + index - self.starts[store], size)
        order = np.random.default_rng([self.seed, store, repeat]).permutation(size)
        return store, repeat, int(order[place])

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        store, repeat, row = self.locate(index)
        self.parts[store].set_epoch(repeat)
        sample = self.parts[store][row]
        labels = sample.labels.where(sample.labels < 0, sample.labels + self.first[store])
        name = f"{store + 1}:{sample.scene_id}" if store else sample.scene_id
        return sample._replace(scene_id=name, labels=labels)
