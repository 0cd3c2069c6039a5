"""Pieces of scenes: training on them takes many more steps in the same time than training on whole rooms."""

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from lg3d_core.sampling.placement import FurnishedScene
    from lg3d_core.store.scene_file import Scene


AnyScene = TypeVar("AnyScene", "Scene", "FurnishedScene")


def crop_scene(scene: AnyScene, edge: float, rng: np.random.Generator) -> AnyScene:
    """Cut a square piece of the full height out of a scene, around one of its points.

    Args:
        scene: From the store, or with objects put into it.
        edge: Of the square in metres, along x and y.
        rng: Draws the point that is in the middle, uniformly.

    Returns:
        The scene with positions, colours, labels and instances of the piece alone; its other arrays are those of the
        whole scene.
    """
    if len(scene.xyz) == 0:
        return scene
    middle = scene.xyz[rng.integers(len(scene.xyz)), :2]
    inside = (np.abs(scene.xyz[:, :2] - middle) <= edge / 2).all(axis=1)
    return scene._replace(
        xyz=scene.xyz[inside], rgb=scene.rgb[inside], label=scene.label[inside], instance=scene.instance[inside]
    )


def cropping_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """What draws the piece of one sample, apart from all else that is drawn for it."""
    return np.random.default_rng(np.random.SeedSequence([seed, epoch, index], spawn_key=(2,)))
