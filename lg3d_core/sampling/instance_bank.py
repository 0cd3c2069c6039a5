"""The tail-instance bank: objects of rare classes, cut from the labelled points of the training scenes.

It is built once per store and label budget and stored as `STORE/instances/tail-<key>.h5`; the key is a hash of all its
inputs. A file with `N` objects of `K` points in total has these columns:

    points/xyz       float32 (K, 3)   metres, relative to the centre of the object's box in x and y and its bottom in z
    points/rgb       uint8   (K, 3)
    points/labelled  uint8   (K,)     whether the point keeps its label
    offsets          int64   (N + 1,) first and last row of each object's points
    category         int16   (N,)     class index in the vocabulary
    scene            bytes   (N,)     id of the source scene
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError
from lg3d_core.files import is_writable, sweep_temporaries, write_bytes
from lg3d_core.progress import Progress
from lg3d_core.seal import seal
from lg3d_core.store.scene_file import (
    LIBRARY_VERSIONS,
    add_column,
    open_column,
    open_hdf5,
    read_attributes,
    read_column,
    require_whole,
)

if TYPE_CHECKING:
    from lg3d_core.store.budgets import Budget
    from lg3d_core.store.scene_file import Scene
    from lg3d_core.store.scene_store import SceneStore

BANK_FOLDER = "instances"
BANK_FORMAT = 1
PREFIX = "tail"
MIN_POINTS = 20
"""Smaller objects are indistinguishable from noise at any voxel size."""
CHUNK_ROWS = 2048
"""About one object, so that reading one object decompresses little else."""
MAX_POINTS = 1 << 34
ID_TYPE = "|S100"
AGAIN = "delete the file to have it rebuilt"

COLUMNS = {"points/xyz": ("<f4", 3), "points/rgb": ("|u1", 3), "points/labelled": ("|u1", 1)}


class Instance(NamedTuple):
    """One object, standing at the origin.

    Attributes:
        category: Class index in the vocabulary.
        xyz: Positions in metres, shape `(points, 3)`, float32. The box is centred in x and y, with its bottom at z = 0.
        rgb: Colours, shape `(points, 3)`, uint8.
        labelled: Whether a point keeps its label, shape `(points,)`, bool. Under a label budget most points do not;
            they complete the geometry of the object.
    """

    category: int
    xyz: npt.NDArray[np.float32]
    rgb: npt.NDArray[np.uint8]
    labelled: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class InstanceBank:
    """Index of the objects of a bank. It keeps no file open and is picklable.

    Attributes:
        path: Path of the bank file.
        key: Hash of all inputs of the bank.
        category: Class index of each object, shape `(objects,)`, int16.
        scene: Source scene of each object, shape `(objects,)`, bytes.
        offsets: Row where each object's points begin and end, shape `(objects + 1,)`, int64.
    """

    path: Path
    key: str
    category: npt.NDArray[np.int16]
    scene: npt.NDArray[np.bytes_]
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.category)

    @cached_property
    def categories(self) -> npt.NDArray[np.int16]:
        """Classes with at least one object, ascending."""
        return np.unique(self.category)

    def draw(self, count: int, rng: np.random.Generator, *, scene_id: str) -> npt.NDArray[np.int64]:
        """Draw objects for a scene: uniformly a class, then uniformly one of its objects, with replacement.

        Args:
            count: Number of objects.
            rng: Random generator.
            scene_id: Target scene, whose own objects are excluded.

        Returns:
            Rows of the bank, shape `(count,)`, int64; empty if no other scene has an object.
        """
        rows = np.flatnonzero(self.scene != np.bytes_(scene_id.encode()))
        categories = np.unique(self.category[rows])
        if len(categories) == 0:
            return np.empty(0, dtype=np.int64)
        wanted = rng.choice(categories, size=count)
        members = [rows[self.category[rows] == category] for category in wanted]
        return np.array([rng.choice(own) for own in members], dtype=np.int64)

    def read(self, rows: Iterable[int]) -> list[Instance]:
        """Read the objects of the given rows.

        Raises:
            DataError: The file is missing or damaged.
        """
        found = []
        with open_hdf5(self.path, again=AGAIN) as file:
            columns = [
                open_column(file, name, *form, path=self.path, max_rows=MAX_POINTS, again=AGAIN)
                for name, form in COLUMNS.items()
            ]
            for row in rows:
                part = slice(int(self.offsets[row]), int(self.offsets[row + 1]))
                xyz, rgb, labelled = (read_column(column, part) for column in columns)
                if len(xyz) != part.stop - part.start or not np.isfinite(xyz).all():
                    raise DataError(f"{self.path}: object {row} has missing or non-finite points; {AGAIN}")
                found.append(Instance(int(self.category[row]), xyz, rgb, labelled != 0))
        return found


def ensure_bank(
    store: "SceneStore", *, budget: "Budget | None", progress: Progress, elsewhere: Path | None = None
) -> InstanceBank:
    """Load the bank of a store and label budget, and build it first if it is missing or damaged.

    A new bank is written to the store, or to `elsewhere` if the store is read-only. The bank is empty if the vocabulary
    has no groups or the training scenes have no object of a class of its rarest group.

    Raises:
        DataError: The store is damaged, or the file cannot be written.
    """
    key = bank_key(store, budget)
    name = f"{PREFIX}-{key}.h5"
    places = [store.path / BANK_FOLDER / name] + ([] if elsewhere is None else [elsewhere / name])
    for path in filter(Path.exists, places):
        try:
            return load_bank(path, key=key)
        except DataError as error:
            progress.warn(f"rebuilding the instance bank: {error}")
    path = places[0]
    if len(places) > 1 and not is_writable(path.parent):
        path = places[1]
        progress.note(f"{store.path} is read-only: writing the instance bank to {path}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot create the folder {path.parent} ({error.strerror})") from None
    sweep_temporaries(path.parent)
    write_bytes(path, _encode_bank(store, budget, key, progress))
    return load_bank(path, key=key)


def find_rare_classes(store: "SceneStore", budget: "Budget | None") -> npt.NDArray[np.int64]:
    """Return the classes of the rarest group, by the visible training labels; empty if the vocabulary has no groups."""
    group = store.vocabulary.rarest_group(store.class_counts("train", budget=budget))
    return store.vocabulary.groups.get(group, np.empty(0, dtype=np.int64))


def bank_key(store: "SceneStore", budget: "Budget | None") -> str:
    """Return a hash of the training scenes, their visible labels and the rare classes, as 16 hex digits."""
    tail = find_rare_classes(store, budget)
    parts = (BANK_FORMAT, MIN_POINTS, store.train_digest, budget.digest if budget else "all labels", tail.tolist())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def load_bank(path: Path, *, key: str) -> InstanceBank:
    """Load the index of a bank file. The objects are read on demand by `InstanceBank.read`.

    Raises:
        DataError: The file is missing or damaged, or has another key.
    """
    require_whole(path, again=AGAIN)
    with open_hdf5(path, again=AGAIN) as file:
        found = read_attributes(file, ("key",), path, again=AGAIN)["key"]
        offsets, category, scene = (
            read_column(open_column(file, name, dtype, 1, path=path, again=AGAIN))
            for name, dtype in (("offsets", "<i8"), ("category", "<i2"), ("scene", ID_TYPE))
        )
        points = [
            len(open_column(file, name, *form, path=path, max_rows=MAX_POINTS, again=AGAIN))
            for name, form in COLUMNS.items()
        ]
    fits = len(category) == len(scene) == len(offsets) - 1 and offsets[0] == 0 and (np.diff(offsets) > 0).all()
    if found != key or not fits or any(count != offsets[-1] for count in points):
        raise DataError(f"{path}: expected the instance bank with key {key}, found other or inconsistent data; {AGAIN}")
    return InstanceBank(path=path, key=key, category=category, scene=scene, offsets=offsets)


def _encode_bank(store: "SceneStore", budget: "Budget | None", key: str, progress: Progress) -> bytes:
    """Cut the objects of all training scenes and return the file's bytes. One scene is in memory at a time."""
    tail = find_rare_classes(store, budget)
    scene_ids = [scene_id for scene_id in store.scene_ids("train") if _holds_any(store, budget, scene_id, tail)]
    offsets, categories, scenes = [0], [], []
    image = BytesIO()
    with h5py.File(image, "w", libver=LIBRARY_VERSIONS) as file:
        options: dict[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}
        columns = [
            file.create_dataset(
                name,
                shape=(0, 3) if width == 3 else (0,),
                maxshape=(None, 3) if width == 3 else (None,),
                chunks=(CHUNK_ROWS, 3) if width == 3 else (CHUNK_ROWS,),
                dtype=dtype,
                track_times=False,
                **options,
            )
            for name, (dtype, width) in COLUMNS.items()
        ]
        with progress.task("instance bank", total=len(scene_ids), unit="scene") as task:
            for scene_id in scene_ids:
                found = list(cut_instances(store.read(scene_id, budget=budget), tail))
                for column, name in zip(columns, ("xyz", "rgb", "labelled"), strict=True):
                    _append(column, [getattr(instance, name) for instance in found])
                for instance in found:
                    offsets.append(offsets[-1] + len(instance.xyz))
                    categories.append(instance.category)
                    scenes.append(scene_id.encode())
                task.advance(status=scene_id)
        add_column(file, "offsets", np.array(offsets, dtype=np.int64))
        add_column(file, "category", np.array(categories, dtype=np.int16))
        add_column(file, "scene", np.array(scenes, dtype=ID_TYPE))
        file.attrs["key"] = np.bytes_(key.encode())
    return seal(image.getvalue())


def _append(column: h5py.Dataset, parts: Sequence[npt.NDArray[Any]]) -> None:
    if parts:
        rows = np.concatenate(parts)
        start = column.shape[0]
        column.resize(start + len(rows), axis=0)
        column[start:] = rows


def _holds_any(store: "SceneStore", budget: "Budget | None", scene_id: str, categories: npt.NDArray[np.int64]) -> bool:
    """Return whether a scene has labelled points of these classes, without reading the scene."""
    if budget is not None:
        return bool(budget.class_counts(scene_id)[categories].any())
    return not set(store.entry(scene_id).class_counts).isdisjoint(categories.tolist())


def cut_instances(scene: "Scene", categories: npt.NDArray[np.int64]) -> Iterator[Instance]:
    """Cut the objects of the given classes out of a scene, ordered by instance and label.

    An object is the set of points with the same instance and label. An unlabelled point is added to it, without a
    label, if all labelled points of its segment belong to the object. Segments are geometry, so under a label budget an
    object keeps its surface and not only its few labelled points.

    Args:
        scene: Scene with the visible labels.
        categories: Class indices to cut.
    """
    known = np.flatnonzero((scene.label >= 0) & (scene.instance > 0))
    if len(known) == 0:
        return
    pairs = scene.instance[known].astype(np.int64) << 16 | scene.label[known].astype(np.int64)
    objects, owner = np.unique(pairs, return_inverse=True)
    owner_of_point = np.full(len(scene.label), -1, dtype=np.int64)
    owner_of_point[known] = owner.reshape(-1)
    free = np.flatnonzero((scene.label < 0) & (scene.instance == 0) & (scene.segment >= 0))
    owner_of_point[free] = _owners_of_segments(scene.segment, owner_of_point)[free]
    label_of_object = objects & 0xFFFF
    for index in np.flatnonzero(np.isin(label_of_object, categories)):
        rows = np.flatnonzero(owner_of_point == index)
        if len(rows) >= MIN_POINTS:
            yield Instance(
                category=int(label_of_object[index]),
                xyz=stand_at_origin(scene.xyz[rows]),
                rgb=scene.rgb[rows],
                labelled=scene.label[rows] >= 0,
            )


def _owners_of_segments(segment: npt.NDArray[np.int32], owner_of_point: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return, per point, the object that all owned points of its segment belong to; -1 for none or several."""
    numbers, place = np.unique(segment, return_inverse=True)
    place = place.reshape(-1)
    owned = np.flatnonzero(owner_of_point >= 0)
    low = np.full(len(numbers), np.iinfo(np.int64).max)
    high = np.full(len(numbers), -1, dtype=np.int64)
    np.minimum.at(low, place[owned], owner_of_point[owned])
    np.maximum.at(high, place[owned], owner_of_point[owned])
    owners: npt.NDArray[np.int64] = np.where(low == high, high, -1)[place]
    return owners


def stand_at_origin(xyz: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Move an object so that the centre of its box in x and y and its bottom in z are at the origin."""
    low, high = xyz.min(axis=0), xyz.max(axis=0)
    foot = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]], dtype=np.float32)
    moved: npt.NDArray[np.float32] = xyz - foot
    return moved
