"""A furnished room in memory, every number of it known, for tests of how scenes are shown."""

import numpy as np

from lg3d_core.evaluation.predictor import Prediction
from lg3d_core.store.scene_file import Scene
from lg3d_core.vocabulary import Vocabulary
from lg3d_core.vocabulary.categories import Category
from tests.box_rooms import grid

SIZE = (4.0, 3.0, 2.4)
NAMES = ("wall", "floor", "ceiling", "table", "door", "wardrobe")
COLORS = ((174, 199, 232), (152, 223, 138), (78, 71, 183), (255, 152, 150), (214, 39, 40), (150, 53, 56))
VOCABULARY = Vocabulary(
    name="six",
    id_column="id",
    categories=tuple(Category(k, k + 1, NAMES[k], "head", True, COLORS[k]) for k in range(len(NAMES))),
)
WALL, FLOOR, CEILING, TABLE, DOOR, WARDROBE = range(6)

# label, instance, corner, u, v, normal into the room or out of the object
Surface = tuple[int, int, tuple[float, ...], tuple[float, ...], tuple[float, ...], tuple[float, ...]]


def cuboid(label: int, instance: int, low: tuple[float, ...], size: tuple[float, ...]) -> list[Surface]:
    (x, y, z), (dx, dy, dz) = low, size
    return [
        (label, instance, (x, y, z + dz), (dx, 0, 0), (0, dy, 0), (0, 0, 1)),
        (label, instance, (x, y, z), (dx, 0, 0), (0, 0, dz), (0, -1, 0)),
        (label, instance, (x, y + dy, z), (dx, 0, 0), (0, 0, dz), (0, 1, 0)),
        (label, instance, (x, y, z), (0, dy, 0), (0, 0, dz), (-1, 0, 0)),
        (label, instance, (x + dx, y, z), (0, dy, 0), (0, 0, dz), (1, 0, 0)),
    ]


X, Y, Z = SIZE
ROOM: list[Surface] = [
    (FLOOR, 1, (0, 0, 0), (X, 0, 0), (0, Y, 0), (0, 0, 1)),
    (CEILING, 2, (0, 0, Z), (X, 0, 0), (0, Y, 0), (0, 0, -1)),
    (WALL, 3, (0, 0, 0), (X, 0, 0), (0, 0, Z), (0, 1, 0)),
    (WALL, 4, (0, Y, 0), (X, 0, 0), (0, 0, Z), (0, -1, 0)),
    (WALL, 5, (0, 0, 0), (0, Y, 0), (0, 0, Z), (1, 0, 0)),
    (WALL, 6, (X, 0, 0), (0, Y, 0), (0, 0, Z), (-1, 0, 0)),
    *cuboid(TABLE, 7, (1.5, 1.1, 0.0), (1.0, 0.8, 0.7)),
    *cuboid(DOOR, 8, (0.02, 1.0, 0.0), (0.05, 0.9, 2.0)),
    *cuboid(WARDROBE, 9, (3.38, 0.3, 0.0), (0.6, 0.8, 1.8)),
]


def make_room(*, spacing: float = 0.1, surfaces: list[Surface] | None = None, scene_id: str = "scene0001_00") -> Scene:
    """The room of `SIZE`: everything annotated, a door flush with the wall at x = 0, a wardrobe against x = 4."""
    parts: list[list[np.ndarray]] = []
    count = 0
    for label, instance, corner, u, v, normal in ROOM if surfaces is None else surfaces:
        xyz, faces = grid(corner, u, v, spacing)
        if np.dot(np.cross(u, v), normal) < 0:
            faces = faces[:, ::-1]
        rows = len(xyz)
        parts.append([xyz, np.tile(normal, (rows, 1)), np.full(rows, label), np.full(rows, instance), faces + count])
        count += rows
    xyz, normal, label, instance, faces = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Scene(
        scene_id=scene_id,
        split="val",
        xyz=xyz.astype(np.float32),
        rgb=np.stack([label * 40, 255 - label * 40, np.full(count, 128)], axis=1).astype(np.uint8),
        normal=normal.astype(np.float32),
        label=label.astype(np.int16),
        instance=instance.astype(np.int32),
        segment=instance.astype(np.int32),
        faces=faces.astype(np.int32),
    )


def predict(scene: Scene, **renamed: int) -> Prediction:
    """The truth, but for the categories named: `predict(scene, table=DOOR)` calls every table a door."""
    label = scene.label.copy()
    for name, index in renamed.items():
        label[scene.label == NAMES.index(name)] = index
    confidence = np.where(label == scene.label, 0.9, 0.3).astype(np.float32)
    return Prediction(label=label, confidence=confidence, voxel_label=label, voxel_truth=scene.label)
