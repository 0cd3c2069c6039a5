"""Procedural rooms as a raw ScanNet folder: scans, label table and split files."""

import json
import multiprocessing
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from lg3d_core.errors import SettingsError
from lg3d_core.progress import Progress, Task
from lg3d_core.rooms.kinds import KINDS, furnish
from lg3d_core.rooms.labels import label_table
from lg3d_core.rooms.scanner import scan_room
from lg3d_core.rooms.scene_files import write_scene
from lg3d_core.settings import RoomsSettings
from lg3d_core.vocabulary.labels import LABEL_TABLE_NAME

MARKER = "rooms.json"
"""Says that a folder is one of ours, and of which settings."""
FORMAT = 1
"""Counts changes of what equal settings give."""
WELL_SEEN = 30
"""A category counts as known to the training rooms from so many annotated vertices."""


def write_rooms(settings: RoomsSettings, progress: Progress) -> Path:
    """Write furnished rooms in ScanNet's raw format into `settings.out`, in parallel.

    Rooms that a previous run with equal settings has finished are kept, so a second run does nothing and an interrupted
    one continues. Training rooms are made first; a validation room then holds only categories that some training room
    has. Every room depends on the seed, its index and (in validation) the set of those categories, never on `jobs`.

    Returns:
        `settings.out`, which then holds `scans/`, the label table, `scannetv2_train.txt` and `scannetv2_val.txt`.

    Raises:
        SettingsError: `settings.out` is a file, or a folder with other content, or has rooms of other settings.
    """
    out = settings.out
    _claim(out, settings)
    (out / LABEL_TABLE_NAME).write_text(label_table(), encoding="utf-8")
    splits = plan_splits(settings.scenes, settings.validation)
    with progress.task("rooms", total=settings.scenes, unit="room") as task, _pool(settings.jobs) as pool:
        known: set[str] = set()
        for split in ("train", "val"):
            allowed = frozenset(known) if split == "val" and known else None
            rows = [index for index, own in enumerate(splits) if own == split]
            make = partial(write_room, out, settings.seed, settings.vertices, splits, allowed)
            for counts in _all_done(pool, make, rows, task):
                known |= {label for label, count in counts.items() if count >= WELL_SEEN}
    for split in ("train", "val"):
        lines = [f"{scene_id_of(index)}\n" for index, own in enumerate(splits) if own == split]
        (out / f"scannetv2_{split}.txt").write_text("".join(lines), encoding="utf-8")
    return out


def scene_id_of(index: int) -> str:
    """scene9000_00, scene9001_00, ...: the benchmark's own ids end at scene0806."""
    return f"scene9{index % 1000:03d}_{index // 1000:02d}"


def plan_splits(scenes: int, validation: float) -> list[str]:
    """Split of each room: validation rooms evenly between the training rooms, and never all of them."""
    splits = [
        "val" if int((index + 1) * validation + 1e-9) > int(index * validation + 1e-9) else "train"
        for index in range(scenes)
    ]
    if "train" not in splits:
        splits[0] = "train"
    return splits


def kind_of(splits: list[str], index: int) -> tuple[str, int]:
    """Kind of a room, and the how-manieth of its kind it is: kinds take turns within each split.

    Validation rooms count on from a far number, so that they are no repetition of training rooms.
    """
    place = splits[:index].count(splits[index])
    names = tuple(KINDS)
    return names[place % len(names)], place // len(names) + (1000 if splits[index] == "val" else 0)


def write_room(
    out: Path, seed: int, vertices: int, splits: list[str], allowed: frozenset[str] | None, index: int
) -> dict[str, int]:
    """Make one room and write it, unless it is there already; returns annotated vertices per category."""
    scene_id = scene_id_of(index)
    folder = out / "scans" / scene_id
    counts_file = out / ".counts" / f"{scene_id}.json"
    if folder.is_dir() and counts_file.is_file():
        found: dict[str, int] = json.loads(counts_file.read_text(encoding="utf-8"))
        return found
    rng = np.random.default_rng([seed, index])
    kind, turn = kind_of(splits, index)
    room = furnish(KINDS[kind], rng=rng, turn=turn, allowed=allowed)
    scanned = scan_room(room, vertices=vertices, rng=rng)
    unfinished = out / "scans" / f".{scene_id}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    counts = write_scene(unfinished, scene_id, room, scanned, scene_type=KINDS[kind].scene_type, rng=rng)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    counts_file.parent.mkdir(exist_ok=True)
    counts_file.write_text(json.dumps(counts), encoding="utf-8")
    return counts


def _claim(out: Path, settings: RoomsSettings) -> None:
    """Make the folder ours, or check that it is."""
    mine = {
        "format": FORMAT,
        "scenes": settings.scenes,
        "seed": settings.seed,
        "vertices": settings.vertices,
        "validation": settings.validation,
    }
    marker = out / MARKER
    if out.exists() and not out.is_dir():
        raise SettingsError(f"{out} is a file; expected a folder to write rooms into: name another one")
    if marker.is_file():
        try:
            theirs = json.loads(marker.read_text(encoding="utf-8"))
        except ValueError:
            theirs = None
        if theirs != mine:
            raise SettingsError(
                f"{out} holds rooms of other settings ({_differences(theirs, mine)}): name another folder, or remove it"
            )
        return
    if out.is_dir() and any(out.iterdir()):
        raise SettingsError(f"{out} is not empty and holds no rooms of lg3d: name another folder, or empty it")
    out.mkdir(parents=True, exist_ok=True)
    temporary = out / f"{MARKER}.unfinished"
    temporary.write_text(json.dumps(mine, indent=1) + "\n", encoding="utf-8")
    temporary.rename(marker)


def _differences(theirs: object, mine: dict[str, int | float]) -> str:
    if not isinstance(theirs, dict):
        return f"its {MARKER} cannot be read"
    return ", ".join(f"{key} {theirs.get(key)}, not {value}" for key, value in mine.items() if theirs.get(key) != value)


@contextmanager
def _pool(jobs: int) -> Iterator[ProcessPoolExecutor | None]:
    """Worker processes, or None for one job, which then runs here."""
    workers = jobs or len(os.sched_getaffinity(0))
    if workers == 1:
        yield None
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _all_done(
    pool: ProcessPoolExecutor | None, make: "partial[dict[str, int]]", rows: list[int], task: Task
) -> Iterable[dict[str, int]]:
    if pool is None:
        for index in rows:
            yield make(index)
            task.advance(status=scene_id_of(index))
        return
    futures = {pool.submit(make, index): index for index in rows}
    for future in as_completed(futures):
        yield future.result()
        task.advance(status=scene_id_of(futures[future]))
