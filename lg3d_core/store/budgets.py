"""Label budgets (limited annotations): the training points that keep their label, chosen once and saved.

Each object in the training scenes keeps label and instance at `max(5, round(ratio x size))` points, or at all if it has
fewer: a random point and those that farthest-point sampling adds. Points that share an instance and a label form an
object; in a scene without any instance, all points of a label form one. Unlabelled points, and labelled points without
an instance in a scene with instances, keep nothing.

File format, with `S` training scenes of `C` classes in the order of their ids and `K` kept points in total:

    scenes   bytes (S,)       ids
    offsets  int64 (S + 1,)   first and last row of each scene
    rows     int32 (K,)       kept points of each scene, ascending
    counts   int64 (S * C,)   number of kept points of each class
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError, UsageError
from lg3d_core.files import is_writable, sweep_temporaries, write_bytes
from lg3d_core.progress import Progress
from lg3d_core.seal import seal
from lg3d_core.store.scene_file import (
    CHUNK_ROWS,
    LIBRARY_VERSIONS,
    add_column,
    open_column,
    open_hdf5,
    read_attributes,
    read_column,
    require_whole,
)

if TYPE_CHECKING:
    from lg3d_core.store.scene_store import SceneStore

BUDGETS_FOLDER = "budgets"
BUDGET_FORMAT = 1
MIN_POINTS = 5
TREE_HEIGHT = 7
ID_TYPE = "|S100"
MAX_KEPT = 1 << 34


@dataclass(frozen=True, eq=False)
class Budget:
    """Points of the training scenes that keep their label. Keeps no file open, and can be pickled.

    Attributes:
        ratio: Fraction of each object's points, in (0, 1].
        seed: Seed of the first point of each object.
        path: Path of the file.
        digest: Digest of ratio, seed and kept rows; equal exactly if two runs saw the same labels.
        train_digest: Digest of the training scenes that the budget was made for.
        extents: Range of each scene's rows in the file.
        counts: Kept points of each class in each scene, in the order of `extents`, shape `(scenes, classes)`, int64.
    """

    ratio: float
    seed: int
    path: Path
    digest: str
    train_digest: str
    extents: dict[str, tuple[int, int]]
    counts: npt.NDArray[np.int64]

    def rows(self, scene_id: str) -> npt.NDArray[np.int64]:
        """Return the points of a training scene that keep their label, ascending, shape `(kept,)`, int64.

        Raises:
            DataError: The scene is not in this budget, or the file is damaged.
        """
        start, stop = self._extent(scene_id)
        with open_hdf5(self.path, again=AGAIN) as file:
            column = open_column(file, "rows", "<i4", 1, path=self.path, max_rows=MAX_KEPT, again=AGAIN)
            rows = read_column(column, slice(start, stop)).astype(np.int64)
        if len(rows) != stop - start or (len(rows) and (rows[0] < 0 or (np.diff(rows) <= 0).any())):
            raise DataError(f"{self.path}: the rows of {scene_id} are invalid; {AGAIN}")
        return rows

    def class_counts(self, scene_id: str) -> npt.NDArray[np.int64]:
        """Return the number of kept points of each class in a training scene, shape `(classes,)`, int64.

        Raises:
            DataError: The scene is not in this budget.
        """
        self._extent(scene_id)
        counts: npt.NDArray[np.int64] = self.counts[self._row_of[scene_id]]
        return counts

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {scene_id: row for row, scene_id in enumerate(self.extents)}

    def _extent(self, scene_id: str) -> tuple[int, int]:
        if scene_id not in self.extents:
            raise DataError(f"the label budget {self.path} has no training scene {scene_id!r}")
        return self.extents[scene_id]


AGAIN = "delete the file; it is created again"


def ensure_budget(
    store: "SceneStore", ratio: float, *, seed: int = 0, progress: Progress, elsewhere: Path | None = None
) -> Budget:
    """Read a label budget of a store, or choose it and write `STORE/budgets/<ratio>-seed<seed>.h5`.

    Labels of another vocabulary than the first one of the store have a budget of their own, whose name ends in that of
    the vocabulary.

    A budget that was made for other training scenes is replaced.

    Args:
        store: Store with the training scenes.
        ratio: Fraction of each object's points, in (0, 1].
        seed: Random seed of the choice.
        progress: Reports the choice.
        elsewhere: Folder for the file if the store is read-only.

    Raises:
        UsageError: `ratio` or `seed` is out of range.
        DataError: The store has no training scenes, or the file cannot be written.
    """
    if not 0 < ratio <= 1:
        raise UsageError(f"--limited must be above 0 and at most 1 (0.05 is 5 %), got {ratio!r}")
    if seed < 0:
        raise UsageError(f"--limited-seed must be 0 or more, got {seed!r}")
    name = f"{float(ratio)!r}-seed{seed}{store.labels_suffix}"
    places = [store.path / BUDGETS_FOLDER / f"{name}.h5"]
    if elsewhere is not None:
        places.append(elsewhere / f"{name}-{store.train_digest}.h5")
    for path in filter(Path.exists, places):
        try:
            found = load_budget(path, num_classes=len(store.vocabulary))
        except DataError as error:
            progress.warn(f"creating the label budget again: {error}")
        else:
            if (found.ratio, found.seed, found.train_digest) == (float(ratio), seed, store.train_digest):
                return found
            progress.note(f"{path} was made for other training scenes and is created again")
    path = places[0]
    if len(places) > 1 and not is_writable(path.parent):
        path = places[1]
        progress.note(f"{store.path} is read-only: writing the label budget to {path}")
    if not store.scene_ids("train"):
        raise DataError(f"{store.path} has no training scenes, so there are no labels to limit")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot create the folder {path.parent} ({error.strerror})") from None
    sweep_temporaries(path.parent)
    write_bytes(path, _encode_budget(store, float(ratio), seed, progress))
    return load_budget(path, num_classes=len(store.vocabulary))


def load_budget(path: Path, *, num_classes: int) -> Budget:
    """Read the file of a label budget; rows are read on demand.

    Raises:
        DataError: The file is missing, damaged or of another version.
    """
    require_whole(path, again=AGAIN)
    with open_hdf5(path, again=AGAIN) as file:
        names = ("format_version", "ratio", "seed", "digest", "train_digest")
        attributes = read_attributes(file, names, path, again=AGAIN)
        ratio, seed = float(attributes["ratio"]), int(attributes["seed"])
        columns = [
            read_column(open_column(file, name, dtype, 1, path=path, again=AGAIN))
            for name, dtype in (("scenes", ID_TYPE), ("offsets", "<i8"), ("counts", "<i8"))
        ]
    scenes, offsets, counts = columns
    fits = len(offsets) == len(scenes) + 1 and len(counts) == len(scenes) * num_classes
    if attributes["format_version"] != BUDGET_FORMAT or not fits or offsets[0] != 0 or (np.diff(offsets) < 0).any():
        raise DataError(f"{path}: not a label budget of this version for {num_classes} classes; {AGAIN}")
    extents = {
        scene_id.decode("utf-8", errors="replace"): (int(start), int(stop))
        for scene_id, start, stop in zip(scenes.tolist(), offsets, offsets[1:], strict=False)
    }
    return Budget(
        ratio=ratio,
        seed=seed,
        path=path,
        digest=str(attributes["digest"]),
        train_digest=str(attributes["train_digest"]),
        extents=extents,
        counts=counts.reshape(-1, num_classes),
    )


def _encode_budget(store: "SceneStore", ratio: float, seed: int, progress: Progress) -> bytes:
    """Choose the rows of every training scene and return the bytes of the file; reads one scene at a time."""
    scene_ids = store.scene_ids("train")
    offsets = np.zeros(len(scene_ids) + 1, dtype=np.int64)
    counts = np.zeros((len(scene_ids), len(store.vocabulary)), dtype=np.int64)
    digest = hashlib.sha256(f"{ratio!r} {seed}".encode())
    image = BytesIO()
    with h5py.File(image, "w", libver=LIBRARY_VERSIONS) as file:
        options: dict[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}
        kept = file.create_dataset(
            "rows", shape=(0,), maxshape=(None,), dtype="<i4", chunks=(CHUNK_ROWS,), track_times=False, **options
        )
        with progress.task("label budget", total=len(scene_ids), unit="scene") as task:
            for k, (scene_id, rows, labels, stray) in enumerate(_choose_scenes(store, scene_ids, ratio, seed)):
                if stray:
                    progress.warn(f"{scene_id}: {stray} labelled points have no instance and lose their label")
                offsets[k + 1] = offsets[k] + len(rows)
                kept.resize((int(offsets[k + 1]),))
                kept[int(offsets[k]) :] = rows
                counts[k] = np.bincount(labels, minlength=len(store.vocabulary))
                digest.update(f"\n{scene_id} {len(rows)}\n".encode())
                digest.update(rows.astype("<i4").tobytes())
                task.advance(status=scene_id)
        add_column(file, "scenes", np.array([scene_id.encode() for scene_id in scene_ids], dtype=ID_TYPE))
        add_column(file, "offsets", offsets)
        add_column(file, "counts", counts.reshape(-1))
        file.attrs.update(
            {
                "format_version": BUDGET_FORMAT,
                "ratio": ratio,
                "seed": seed,
                "digest": np.bytes_(digest.hexdigest()[:16].encode()),
                "train_digest": np.bytes_(store.train_digest.encode()),
            }
        )
    return seal(image.getvalue())


def _choose_scenes(
    store: "SceneStore", scene_ids: list[str], ratio: float, seed: int
) -> Iterator[tuple[str, npt.NDArray[np.int64], npt.NDArray[np.int16], int]]:
    for scene_id in scene_ids:
        scene = store.read(scene_id)
        rows = choose_rows(scene.xyz, scene.label, scene.instance, ratio=ratio, seed=seed, name=scene_id)
        has_objects = bool((scene.instance > 0).any())
        stray = int(((scene.label >= 0) & (scene.instance == 0)).sum()) if has_objects else 0
        yield scene_id, rows, scene.label[rows], stray


def choose_rows(
    xyz: npt.NDArray[np.float32],
    label: npt.NDArray[np.int16],
    instance: npt.NDArray[np.int32],
    *,
    ratio: float,
    seed: int,
    name: str,
) -> npt.NDArray[np.int64]:
    """Choose the points of one scene that keep their label.

    The choice for an object depends only on its own points, instance and label, the seed and the scene's name.

    Args:
        xyz: Points in metres, shape `(points, 3)`, float32.
        label: Label, -1 for none, shape `(points,)`.
        instance: Instance, 0 for none, shape `(points,)`. If it is 0 everywhere, each label is one object.
        ratio: Fraction of each object's points, in (0, 1].
        seed: Random seed.
        name: Id of the scene, so that equal objects of two scenes may keep different points.

    Returns:
        Kept rows, ascending, shape `(kept,)`, int64.
    """
    salt = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    rows = np.flatnonzero((label >= 0) & ((instance > 0) | (not (instance > 0).any())))
    order = rows[np.lexsort((rows, label[rows], instance[rows]))]
    changes = (np.diff(instance[order]) != 0) | (np.diff(label[order]) != 0)
    kept = []
    for members in np.split(order, np.flatnonzero(changes) + 1) if len(order) else []:
        rng = np.random.default_rng((seed, salt, int(instance[members[0]]), int(label[members[0]])))
        num_kept = min(len(members), max(MIN_POINTS, round(ratio * len(members))))
        kept.append(members[sample_farthest(xyz[members], num_kept, rng=rng)])
    return np.sort(np.concatenate(kept)) if kept else np.empty(0, dtype=np.int64)


def sample_farthest(
    points: npt.NDArray[np.float32], num_kept: int, *, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Choose a random point and then, repeatedly, the point farthest from all chosen points.

    fpsample computes this exactly, with two peculiarities that are handled here. Its `start_idx` counts in an internal
    order, so a random index gives a random point but not the point of that row. If points coincide, it may choose one
    twice; the missing rows are then drawn at random from the remaining points, which all coincide with a chosen one.

    Args:
        points: Positions, shape `(points, 3)`, float32.
        num_kept: Number of points to choose, 1 to `len(points)`.
        rng: Source of the first point.

    Returns:
        Distinct rows of `points`, shape `(num_kept,)`, int64.
    """
    if num_kept >= len(points):
        return np.arange(len(points))
    import fpsample  # has no wheel for every platform, and only label budgets need it

    start = int(rng.integers(len(points)))
    height = min(TREE_HEIGHT, len(points).bit_length() - 1)
    centred = points - points.mean(axis=0)
    chosen = np.unique(fpsample.bucket_fps_kdline_sampling(centred, num_kept, h=height, start_idx=start))
    missing = num_kept - len(chosen)
    if missing:
        others = np.setdiff1d(np.arange(len(points)), chosen)
        chosen = np.concatenate([chosen, rng.choice(others, size=missing, replace=False)])
    return chosen.astype(np.int64)
