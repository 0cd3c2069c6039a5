"""Placement of objects in a room where they can stand: on a level surface, without collision, inside the room.

Source: section 3.2, instance sampling. Objects without a free place are skipped and counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.progress import Progress
from lg3d_core.sampling.height_map import HeightMap, build_height_map
from lg3d_core.sampling.instance_bank import Instance, InstanceBank, ensure_bank

if TYPE_CHECKING:
    from lg3d_core.store.budgets import Budget
    from lg3d_core.store.scene_file import Scene
    from lg3d_core.store.scene_store import SceneStore

MAX_TRIES = 50
MAX_TOLERANCE = 0.03
"""Upper limit of the contact tolerance in metres, for large voxels."""
SUPPORT_SHARE = 0.8
"""Required fraction of supported cells in an object's footprint."""
SHELL = ("wall", "floor", "ceiling")
"""Classes whose bounding boxes span the room and are therefore no obstacles."""
SHELL_SHARE = 0.5
"""An object whose box covers more than this fraction of the room's floor plan also counts as shell, of any class."""


class FurnishedScene(NamedTuple):
    """A scene with placed objects. The scene's own points come first, then those of the objects.

    Attributes:
        scene_id: Id of the scene.
        xyz: Positions in metres, shape `(points, 3)`, float32.
        rgb: Colours, shape `(points, 3)`, uint8.
        label: Class index in the vocabulary, -1 for unlabelled, shape `(points,)`, int16.
        instance: Instance id, 0 for none; placed objects have the largest ids, shape `(points,)`, int32.
        part: Index of the placed object of each point after the scene's own points, shape `(points - num_own,)`, int64.
        num_own: Number of points of the scene itself.
        placed: Number of placed objects.
        skipped: Number of objects without a free place.
    """

    scene_id: str
    xyz: npt.NDArray[np.float32]
    rgb: npt.NDArray[np.uint8]
    label: npt.NDArray[np.int16]
    instance: npt.NDArray[np.int32]
    part: npt.NDArray[np.int64]
    num_own: int
    placed: int
    skipped: int


@dataclass(frozen=True, kw_only=True, eq=False)
class InstancePasting:
    """Settings of instance sampling: the source of the objects, their number and their augmentation."""

    bank: InstanceBank
    """Bank of objects."""
    count: int = 5
    """Number of objects to place per scene."""
    scale: tuple[float, float] = (0.9, 1.1)
    """Range of the uniform scale factor of an object."""
    contrast: tuple[float, float] = (0.8, 1.2)
    """Range of the uniform contrast factor of an object's colours about their mean."""
    tint: float = 0.06
    """Largest absolute value added to each channel of an object, as a fraction of 255."""
    shell: frozenset[int] = frozenset()
    """Class indices of the room itself, whose boxes are no obstacles."""

    def furnish(self, scene: "Scene", rng: np.random.Generator, *, voxel_size: float) -> FurnishedScene:
        """Draw objects and place them in a scene.

        Args:
            scene: Scene with the visible labels.
            rng: Random generator.
            voxel_size: Edge of a voxel in metres; an overlap up to this size counts as contact.

        Raises:
            DataError: The bank file is missing or damaged.
        """
        rows = self.bank.draw(self.count, rng, scene_id=scene.scene_id)
        instances = [self.vary(instance, rng) for instance in self.bank.read(rows.tolist())] if len(rows) else []
        return place_instances(scene, instances, rng, voxel_size=voxel_size, shell=self.shell)

    def vary(self, instance: Instance, rng: np.random.Generator) -> Instance:
        """Scale, rotate and recolour an object. It stays at the origin."""
        angle, factor = rng.uniform(0, 2 * np.pi), rng.uniform(*self.scale)
        contrast = rng.uniform(*self.contrast)
        shift = rng.uniform(-1, 1, size=3) * self.tint * 255
        cosine, sine = factor * np.cos(angle), factor * np.sin(angle)
        turn = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, factor]], dtype=np.float32)
        mean = instance.rgb.mean(axis=0)
        colors = (instance.rgb - mean) * contrast + mean + shift
        return instance._replace(xyz=instance.xyz @ turn, rgb=np.clip(np.round(colors), 0, 255).astype(np.uint8))


def open_pasting(
    store: "SceneStore", *, budget: "Budget | None", count: int, progress: Progress, elsewhere: Path | None = None
) -> InstancePasting | None:
    """Set up instance sampling from a store's bank; return None, with a warning, if the bank is empty.

    Args:
        store: Scene store whose training scenes are the source of the objects.
        budget: Label budget; labels outside it are hidden.
        count: Number of objects per scene.
        progress: Progress display; reports the size of the bank.
        elsewhere: Folder of the bank if the store is read-only.

    Raises:
        DataError: The store is damaged, or the bank cannot be written.
    """
    bank = ensure_bank(store, budget=budget, progress=progress, elsewhere=elsewhere)
    group = store.vocabulary.rarest_group(store.class_counts("train", budget=budget))
    if not group:
        progress.warn(
            f"instance sampling is off: the vocabulary {store.vocabulary.name} has no groups; `lg3d vocabulary "
            f"from-store {store.path}` writes it with groups by frequency"
        )
        return None
    if len(bank) == 0:
        progress.warn(f"instance sampling is off: the training scenes have no objects of {group} classes")
        return None
    progress.note(
        f"instance sampling: {count} objects per scene, from {len(bank)} of {len(bank.categories)} {group} classes"
    )
    names = store.vocabulary.index_by_name
    return InstancePasting(bank=bank, count=count, shell=frozenset(names[name] for name in SHELL if name in names))


def place_instances(
    scene: "Scene",
    instances: Sequence[Instance],
    rng: np.random.Generator,
    *,
    voxel_size: float,
    shell: frozenset[int] = frozenset(),
    max_tries: int = MAX_TRIES,
) -> FurnishedScene:
    """Place objects in a scene one after another; later objects avoid earlier ones.

    A candidate is a random position over a supporting cell. The object stands there on the highest point under its box.
    The candidate is rejected if the box leaves the room, lacks a level support, collides with something above, or
    overlaps the box of another object by more than the contact tolerance.

    Args:
        scene: Scene with the visible labels and complete geometry.
        instances: Objects to place, already scaled and rotated.
        rng: Random generator of the candidates.
        voxel_size: Edge of a voxel in metres, which is the contact tolerance up to `MAX_TOLERANCE`.
        shell: Class indices whose boxes are no obstacles.
        max_tries: Number of candidates before an object is skipped.
    """
    if len(scene.xyz) == 0 or not instances:
        return _join(scene, [], skipped=len(instances))
    tolerance = min(voxel_size, MAX_TOLERANCE)
    ground = build_height_map(scene.xyz, scene.normal, scene.faces, tolerance=tolerance / 2)
    boxes = object_boxes(scene, shell)
    cells = np.argwhere(ground.support)
    placed: list[Instance] = []
    for instance in instances:
        foot = _find_foot(ground, cells, boxes, instance, rng, tolerance=tolerance, max_tries=max_tries)
        if foot is None:
            continue
        xyz = instance.xyz + foot
        box = np.array([xyz.min(axis=0), xyz.max(axis=0)])
        boxes = np.concatenate([boxes, box[None]])
        footprint = ground.footprint(box[0, :2].astype(np.float64), box[1, :2].astype(np.float64))
        assert footprint is not None, "a place inside the map"
        ground.occupy(footprint, xyz)
        placed.append(instance._replace(xyz=xyz))
    return _join(scene, placed, skipped=len(instances) - len(placed))


def _find_foot(
    ground: HeightMap,
    cells: npt.NDArray[np.int64],
    boxes: npt.NDArray[np.float32],
    instance: Instance,
    rng: np.random.Generator,
    *,
    tolerance: float,
    max_tries: int,
) -> npt.NDArray[np.float32] | None:
    """Return the position of an object's origin, shape `(3,)`, or None if no candidate is free."""
    if len(cells) == 0:
        return None
    low, high = instance.xyz.min(axis=0), instance.xyz.max(axis=0)
    tall = float(high[2] - low[2])
    chosen = cells[rng.integers(len(cells), size=max_tries)]
    places = (ground.origin + ground.cell * (chosen + rng.random((max_tries, 2)))).astype(np.float32)
    for place in places:
        box_low, box_high = place + low[:2], place + high[:2]
        footprint = ground.footprint(box_low.astype(np.float64), box_high.astype(np.float64))
        if footprint is None:
            continue
        bottom = ground.stand(footprint, tall, tolerance=tolerance, share=SUPPORT_SHARE)
        if bottom is None:
            continue
        beside = (boxes[:, 1, :2] <= box_low) | (boxes[:, 0, :2] >= box_high)
        apart = (boxes[:, 1, 2] <= bottom + tolerance) | (boxes[:, 0, 2] >= bottom + tall)
        if (beside.any(axis=1) | apart).all():
            return np.array([*place, bottom - low[2]], dtype=np.float32)
    return None


def object_boxes(scene: "Scene", shell: frozenset[int]) -> npt.NDArray[np.float32]:
    """Return the corners of the box of every labelled object except the shell, shape `(objects, 2, 3)`.

    Under a label budget the boxes are those of the labelled points, which farthest-point sampling spreads over the
    object.
    """
    # 16-bit keys use a radix sort. Each object is then a contiguous run, and no scattered minimum is needed.
    rank = scene.instance.astype(np.uint16) if scene.instance.max(initial=0) < 1 << 16 else scene.instance
    order = np.argsort(rank, kind="stable")
    number = scene.instance.take(order)
    starts = np.flatnonzero(np.diff(number, prepend=0))  # points without an object (id 0) come first
    if len(starts) == 0:
        return np.empty((0, 2, 3), dtype=np.float32)
    low, high = np.empty((2, len(starts), 3), dtype=np.float32)
    plan = 1.0
    for axis in range(3):
        values = np.ascontiguousarray(scene.xyz[:, axis])
        run = values.take(order)
        low[:, axis], high[:, axis] = np.minimum.reduceat(run, starts), np.maximum.reduceat(run, starts)
        plan *= float(np.ptp(values)) if axis < 2 else 1
    named = np.isin(scene.label[order[starts]], list(shell))
    wide = (high - low)[:, :2].prod(axis=1) > SHELL_SHARE * plan
    boxes: npt.NDArray[np.float32] = np.stack([low, high], axis=1)[~(named | wide)]
    return boxes


def _join(scene: "Scene", placed: list[Instance], *, skipped: int) -> FurnishedScene:
    first = int(scene.instance.max(initial=0)) + 1
    labels = [np.where(one.labelled, one.category, -1).astype(np.int16) for one in placed]
    numbers = [np.where(one.labelled, first + k, 0).astype(np.int32) for k, one in enumerate(placed)]
    return FurnishedScene(
        scene_id=scene.scene_id,
        xyz=np.concatenate([scene.xyz, *(one.xyz for one in placed)]),
        rgb=np.concatenate([scene.rgb, *(one.rgb for one in placed)]),
        label=np.concatenate([scene.label, *labels]),
        instance=np.concatenate([scene.instance, *numbers]),
        part=np.repeat(np.arange(len(placed)), [len(one.xyz) for one in placed]),
        num_own=len(scene.xyz),
        placed=len(placed),
        skipped=skipped,
    )
