"""Square crops of scenes: training on crops takes many more steps in the same time than training on whole scenes."""

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from lg3d_core.sampling.placement import FurnishedScene
    from lg3d_core.store.scene_file import Scene


AnyScene = TypeVar("AnyScene", "Scene", "FurnishedScene")


def crop_scene(scene: AnyScene, edge: float, rng: np.random.Generator) -> AnyScene:
    """Cut a square, full-height crop out of a scene, centred on one of its points.

    Args:
        scene: Scene of the store, with or without placed objects.
        edge: Edge of the square in metres, along x and y.
        rng: Random generator of the centre point (uniform).

    Returns:
        The scene with the positions, colours, labels and instances inside the crop. Its other arrays are those of the
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
    """Return the random generator of a sample's crop, independent of the sample's other random draws."""
    return np.random.default_rng(np.random.SeedSequence([seed, epoch, index], spawn_key=(2,)))
