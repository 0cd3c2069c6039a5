"""Scenes in memory with the face of a scene store, for tests of what comes after it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lg3d_core.vocabulary import Vocabulary
from lg3d_core.vocabulary.categories import Category


class FakeScene(NamedTuple):
    """What sampling and evaluation read of a scene."""

    scene_id: str
    xyz: np.ndarray
    rgb: np.ndarray
    label: np.ndarray
    instance: np.ndarray


@dataclass
class FakeStore:
    """Hands out scenes by id; a budget is a set of rows that keep their label."""

    vocabulary: Vocabulary
    scenes: dict[str, FakeScene] = field(default_factory=dict)
    path: Path = Path("fake")

    def read(self, scene_id: str, *, budget: np.ndarray | None = None, for_training: bool = False) -> FakeScene:
        del for_training
        scene = self.scenes[scene_id]
        if budget is None:
            return scene
        kept = np.zeros(len(scene.label), dtype=bool)
        kept[budget] = True
        return scene._replace(label=np.where(kept, scene.label, -1), instance=np.where(kept, scene.instance, 0))


def make_vocabulary(*groups: str) -> Vocabulary:
    """Categories a, b, c, ... with raw ids 10, 20, 30, ... in the given frequency groups."""
    categories = tuple(
        Category(k, 10 * (k + 1), chr(ord("a") + k), group, True, (0, 0, 0)) for k, group in enumerate(groups)
    )
    return Vocabulary(name="letters", id_column="id", categories=categories)


def make_scene(scene_id: str, *, points: int = 3000, seed: int = 0, classes: int = 3) -> FakeScene:
    """Random points in a box of 2 m, around the origin, with random colours, labels and instances."""
    rng = np.random.default_rng(seed)
    label = rng.integers(-1, classes, size=points).astype(np.int16)
    return FakeScene(
        scene_id=scene_id,
        xyz=rng.uniform(-1, 1, size=(points, 3)).astype(np.float32),
        rgb=rng.integers(0, 256, size=(points, 3)).astype(np.uint8),
        label=label,
        instance=np.where(label >= 0, label + 5, 0).astype(np.int32),
    )
