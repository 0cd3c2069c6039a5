"""Visualization of a training sample: a scene after augmentation, with inserted objects marked."""

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.inference.heat_colors import ramp_colors
from lg3d_core.progress import Progress
from lg3d_core.sampling.augment import Augmentation
from lg3d_core.sampling.dataset import augment_scene, augmentation_generator, pasting_generator
from lg3d_core.sampling.placement import FurnishedScene, open_pasting, place_instances
from lg3d_core.store.scene_file import Scene
from lg3d_core.viewing.cutaway import find_outward
from lg3d_core.viewing.layers import FULL_SHIFT, PASTED, SHIFT_STOPS, SceneView, build_view

if TYPE_CHECKING:
    from lg3d_core.store.scene_store import SceneStore


def build_augmented_view(
    store: "SceneStore", scene_id: str, *, voxel_size: float, instances: int, seed: int, progress: Progress
) -> SceneView:
    """Return a scene's voxels as the first epoch of training sees them, coloured by annotation and by augmentation.

    The layer `augmentation` shows inserted objects, and the shift of other points by the elastic distortion.

    Args:
        store: Store with the scene, and with the training scenes that objects come from.
        scene_id: Id of a scene of any split.
        voxel_size: Edge of a voxel in metres.
        instances: Number of objects to insert.
        seed: Random seed of training; a training scene looks as in the first epoch of a run with this seed.
        progress: Receives a summary of the inserted objects.

    Raises:
        DataError: The scene does not exist, or a file is damaged.
    """
    scene = store.read(scene_id)
    train = store.scene_ids("train")
    index = train.index(scene_id) if scene_id in train else 0
    rng = pasting_generator(seed, 0, index)
    pasting = open_pasting(store, budget=None, count=instances, progress=progress) if instances else None
    if pasting is None:
        furnished = place_instances(scene, [], rng, voxel_size=voxel_size)
    else:
        furnished = pasting.furnish(scene, rng, voxel_size=voxel_size)
        progress.note(_tell_pasted(furnished, store.vocabulary.names))
    voxels = augment_scene(furnished, Augmentation(), augmentation_generator(seed, 0, index), voxel_size=voxel_size)
    before = furnished.xyz[voxels.rows]
    motion = split_motion(before, voxels.positions)
    pasted = voxels.rows >= furnished.num_own
    normal = np.zeros_like(before)
    normal[~pasted] = scene.normal[voxels.rows[~pasted]]
    normal[pasted] = _round_normals(before[pasted], furnished.part[voxels.rows[pasted] - furnished.num_own])
    instance = furnished.instance[voxels.rows]
    sample = Scene(
        scene_id=scene_id,
        split=scene.split,
        xyz=voxels.positions,
        rgb=np.clip(np.round(voxels.colors), 0, 255).astype(np.uint8),
        normal=normal @ motion.turn.T,
        label=furnished.label[voxels.rows],
        instance=instance,
        segment=np.full(len(before), -1, dtype=np.int32),
        faces=np.zeros((0, 3), dtype=np.int32),
    )
    view = build_view(sample, store.vocabulary)
    # The cutaway uses the original room: a distorted wall is no longer flat.
    outward = find_outward(before, normal, instance) @ motion.turn.T
    layer = ramp_colors(motion.shifted / FULL_SHIFT, SHIFT_STOPS)
    layer[pasted] = PASTED
    return dataclasses.replace(view, layers=view.layers | {"augmentation": layer}, outward=outward)


def _tell_pasted(furnished: FurnishedScene, names: tuple[str, ...]) -> str:
    numbers, first = np.unique(furnished.instance[furnished.num_own :], return_index=True)
    labels = furnished.label[furnished.num_own :][first]
    listed = ", ".join(names[label] for number, label in zip(numbers, labels, strict=True) if number > 0)
    left_out = f"; {furnished.skipped} did not fit" if furnished.skipped else ""
    return f"put in: {listed or 'nothing'}{left_out}"


def _round_normals(xyz: npt.NDArray[np.float32], part: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return directions from the centre of each part, as shading normals: the object bank stores no normals."""
    count = np.maximum(np.bincount(part), 1)
    middle = np.stack([np.bincount(part, weights=xyz[:, axis]) / count for axis in range(3)], axis=1)
    away = xyz - middle[part]
    directions: npt.NDArray[np.float32] = (away / np.maximum(np.linalg.norm(away, axis=1), 1e-6)[:, None]).astype("f4")
    return directions


class Motion(NamedTuple):
    """Decomposition of a motion into a rotation and a remainder.

    Attributes:
        turn: Rotation, possibly with a reflection, shape `(3, 3)`.
        shifted: Distance of each point from its rotated and scaled position in metres, shape `(points,)`.
    """

    turn: npt.NDArray[np.float32]
    shifted: npt.NDArray[np.float32]


def split_motion(before: npt.NDArray[np.float32], after: npt.NDArray[np.float32]) -> Motion:
    """Find the rotation, reflection and scale that explain a motion best, and the remaining shift.

    Args:
        before: Positions in metres, at least one point, shape `(points, 3)`.
        after: Positions of the same points after the motion.

    Source: the orthogonal Procrustes problem, solved by singular value decomposition.
    """
    centred, target = before - before.mean(axis=0), after - after.mean(axis=0)
    u, _, v = np.linalg.svd((target.T @ centred).astype(np.float64))
    turn = (u @ v).astype(np.float32)
    turned = centred @ turn.T
    scale = float((turned * target).sum() / max(float((turned**2).sum()), 1e-12))
    return Motion(turn, np.linalg.norm(target - np.float32(scale) * turned, axis=1).astype(np.float32))
