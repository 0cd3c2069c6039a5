"""The command `rooms`: procedural rooms as a raw ScanNet folder with scans, label table and split files."""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lg3d_core.errors import DataError, SettingsError
from lg3d_core.files import TEMPORARY_NAME, lock_file, sweep_temporaries, write_text
from lg3d_core.processes import run_in_processes
from lg3d_core.progress import Progress
from lg3d_core.settings import RoomsSettings
from lg3d_core.synthetic.kinds import KINDS, furnish
from lg3d_core.synthetic.labels import label_table
from lg3d_core.synthetic.modelled.attribution import write_attribution
from lg3d_core.synthetic.modelled.catalog import Catalog, Furniture, FurniturePlan, read_catalog
from lg3d_core.synthetic.modelled.naming import read_names
from lg3d_core.synthetic.scanner import scan_room
from lg3d_core.synthetic.scene_files import write_scene
from lg3d_core.synthetic.varied_rooms import furnish_varied
from lg3d_core.vocabulary.labels import LABEL_TABLE_NAME

MARKER = "rooms.json"
"""File that marks a folder of rooms and records their settings."""
WORKSHOP = ".unfinished"
"""Hidden folder for unfinished rooms, and for reports on finished ones."""
FORMAT = 1
"""Version of the generator; equal settings and versions give equal rooms."""
SCANNED_FORMAT = 1
"""Version of the generator with `--scanned`."""
MODEL_SPACING = 0.018
"""Vertex distance in metres of modelled furniture for the simulated camera."""
WELL_SEEN = 10
"""Minimum number of annotated vertices for a class to count as present in a room."""
FEW_ROOMS = 12
"""With fewer training rooms, validation rooms may contain classes of a single training room."""


def rooms(settings: RoomsSettings, progress: Progress) -> Path:
    """Write furnished rooms in ScanNet's raw format into `settings.out`, in parallel.

    Finished rooms of a previous run with equal settings are kept, so that an interrupted run can be resumed. Training
    rooms are created first; validation rooms contain only classes that occur in a training room (in two of them, from
    twelve training rooms on). Each room depends on the seed, its index, the number of rooms per split and, in
    validation, on the set of these classes, but not on `jobs`.

    Returns:
        `settings.out`, which contains `scans/`, the label table, `scannetv2_train.txt` and `scannetv2_val.txt`.

    Raises:
        SettingsError: `settings.out` is a file, a folder with other content, or has rooms of other settings.
        DataError: The folder cannot be written, a worker process died, or a furniture library or the table of names is
            missing.
        MissingDependencyError: `settings.scanned` without open3d.
    """
    if settings.scanned:
        from lg3d_core.synthetic.camera.raycasting import import_open3d

        import_open3d()  # before anything is written
    catalog = None
    if settings.furniture is not None:
        catalog = read_catalog(settings.furniture, read_names(settings.furniture_names))
        for problem in catalog.problems:
            progress.warn(f"skipped {problem}")
        progress.note(
            f"{len(catalog.models)} models of {len({model.thing for model in catalog.models})} things; "
            f"{catalog.unnamed} are skipped: they have no name in the table, or are too large or too small"
        )
    try:
        _claim(settings.out, settings, catalog)
        with lock_file(settings.out / ".lock", holder="another lg3d rooms", optional=True):
            for folder in (settings.out, settings.out / WORKSHOP):
                sweep_temporaries(folder)
            _write_all(settings, catalog, progress)
    except OSError as error:
        where = error.filename or settings.out
        raise DataError(f"cannot write rooms: {where}: {error.strerror or error}; finished rooms are kept") from None
    return settings.out


def _write_all(settings: RoomsSettings, catalog: Catalog | None, progress: Progress) -> None:
    out = settings.out
    write_text(out / LABEL_TABLE_NAME, label_table())
    splits = plan_splits(settings.scenes, settings.validation)
    seen: Counter[str] = Counter()
    models: set[str] = set()
    malformed: set[str] = set()
    split_models = catalog.split(settings.seed) if catalog else {}
    if settings.scanned:
        _scan_all(settings, catalog, splits, split_models, progress)
        return
    with progress.task("rooms", total=settings.scenes, unit="room") as task:
        for split in ("train", "val"):
            plan = None
            if catalog:
                assert settings.mesh_spacing is not None
                cache = out / WORKSHOP / "models"
                plan = catalog.plan(split_models[split], spacing=settings.mesh_spacing, cache=cache)
            jobs = [
                RoomJob(
                    out=out,
                    index=index,
                    splits=tuple(splits),
                    seed=settings.seed,
                    vertices=settings.vertices,
                    allowed=_well_known(seen, splits.count("train")) if split == "val" else None,
                    spacing=settings.mesh_spacing,
                    furniture=plan,
                )
                for index, own in enumerate(splits)
                if own == split
            ]
            for job, report in run_in_processes(write_room, jobs, num_processes=settings.jobs):
                seen.update(label for label, count in report.counts.items() if count >= WELL_SEEN)
                models.update(report.models)
                for problem in sorted(set(report.problems) - malformed):
                    progress.warn(f"skipped {problem}")
                malformed.update(report.problems)
                task.advance(status=job.scene_id)
            write_text(out / f"scannetv2_{split}.txt", "".join(f"{job.scene_id}\n" for job in jobs))
    if catalog:
        write_attribution(out, catalog, split_models, models)


def _scan_all(
    settings: RoomsSettings,
    catalog: Catalog | None,
    splits: list[str],
    split_models: dict[str, frozenset[str]],
    progress: Progress,
) -> None:
    """Write scanned rooms in the order of their indices; the split files always list the finished ones."""
    out = settings.out
    plans = {
        split: catalog.plan(split_models[split], spacing=MODEL_SPACING, cache=out / WORKSHOP / "models")
        for split in ("train", "val")
        if catalog
    }
    jobs = [
        RoomJob(
            out=out,
            index=index,
            splits=(split,),
            seed=settings.seed,
            vertices=settings.vertices,
            allowed=None,
            furniture=plans.get(split),
            scanned=True,
        )
        for index, split in enumerate(splits)
    ]
    finished: dict[str, list[str]] = {"train": [], "val": []}
    models: set[str] = set()
    malformed: set[str] = set()
    with progress.task("rooms", total=settings.scenes, unit="room") as task:
        for job, report in run_in_processes(write_room, jobs, num_processes=settings.jobs):
            finished[job.splits[0]].append(job.scene_id)
            for split, scenes in finished.items():
                write_text(out / f"scannetv2_{split}.txt", "".join(f"{scene}\n" for scene in sorted(scenes)))
            new = set(report.models) - models
            models.update(new)
            if catalog and new:
                write_attribution(out, catalog, split_models, models)
            for problem in sorted(set(report.problems) - malformed):
                progress.warn(f"skipped {problem}")
            malformed.update(report.problems)
            task.advance(status=job.scene_id)


def _well_known(seen: Counter[str], num_rooms: int) -> frozenset[str]:
    """Return the classes that occur in two training rooms, or in one if there are only a few rooms."""
    return frozenset(label for label, rooms in seen.items() if rooms >= (2 if num_rooms >= FEW_ROOMS else 1))


def scene_id_of(index: int) -> str:
    """Return the id of a room, scene9000_00, scene9001_00, ...; the benchmark's ids end at scene0806."""
    return f"scene9{index % 1000:03d}_{index // 1000:02d}"


def plan_splits(scenes: int, validation: float) -> list[str]:
    """Return the split of each room: validation rooms are spread evenly, and at least one room is for training."""
    splits = [
        "val" if int((index + 1) * validation + 1e-9) > int(index * validation + 1e-9) else "train"
        for index in range(scenes)
    ]
    if "train" not in splits:
        splits[0] = "train"
    return splits


def kind_of(splits: Sequence[str], index: int) -> tuple[str, int]:
    """Return the kind of a room, and its number within the kind; kinds alternate within each split.

    Numbers of validation rooms start far higher, so that they do not repeat training rooms.
    """
    place = list(splits[:index]).count(splits[index])
    # With few rooms, there are fewer kinds, so that training sees each of them about three times.
    names = tuple(KINDS)[: max(3, len(splits) // 4)]
    return names[place % len(names)], place // len(names) + (1000 if splits[index] == "val" else 0)


@dataclass(frozen=True, slots=True)
class RoomJob:
    """Job of one room: `allowed` classes (None for all) and `spacing`, which overrides `vertices`.

    The split of a `scanned` room is the only one in `splits`.
    """

    out: Path
    index: int
    splits: tuple[str, ...]
    seed: int
    vertices: int
    allowed: frozenset[str] | None
    spacing: float | None = None
    furniture: FurniturePlan | None = None
    scanned: bool = False

    @property
    def scene_id(self) -> str:
        """Name of the room's folder."""
        return scene_id_of(self.index)


class RoomReport(NamedTuple):
    """Content of a written room.

    Attributes:
        counts: Number of annotated vertices by class.
        models: Keys of the models in the room.
        problems: One message per malformed model.
    """

    counts: dict[str, int]
    models: list[str]
    problems: list[str]


def write_room(job: RoomJob) -> RoomReport:
    """Create and write one room, unless it exists already."""
    folder = job.out / "scans" / job.scene_id
    counts_file = job.out / WORKSHOP / f"{job.scene_id}.json"
    models_file = job.out / WORKSHOP / f"{job.scene_id}.models.json"
    earlier = _read_report(counts_file, models_file) if folder.is_dir() else None
    if earlier is not None:
        return earlier
    rng = np.random.default_rng([job.seed, job.index])
    furniture = Furniture(job.furniture) if job.furniture else None
    if job.scanned:
        from lg3d_core.synthetic.camera.scan import scan_with_camera

        held_out = job.splits[0] == "val"
        room, scene_type = furnish_varied(rng, furniture=furniture, held_out=held_out)
        scanned = scan_with_camera(room, rng, held_out=held_out)
    else:
        kind, turn = kind_of(job.splits, job.index)
        scene_type = KINDS[kind].scene_type
        room = furnish(KINDS[kind], rng=rng, turn=turn, allowed=job.allowed, furniture=furniture)
        scanned = scan_room(room, vertices=job.vertices, rng=rng, fixed_spacing=job.spacing)
    used, problems = (furniture.used, list(furniture.problems.values())) if furniture else ([], [])
    unfinished = job.out / WORKSHOP / job.scene_id
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        counts = write_scene(unfinished, job.scene_id, room, scanned, scene_type=scene_type, rng=rng)
        if furniture:
            write_text(models_file, json.dumps({"models": used, "problems": problems}))
        write_text(counts_file, json.dumps(counts))
    except (OSError, DataError):
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(exist_ok=True)
    unfinished.rename(folder)
    return RoomReport(counts, used, problems)


def _read_report(counts_file: Path, models_file: Path) -> RoomReport | None:
    """Read the report of an existing room; return None if it is missing or damaged, and the room is created again."""
    try:
        counts = json.loads(counts_file.read_bytes())
        models = json.loads(models_file.read_bytes()) if models_file.exists() else {}
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(counts, dict) or not all(type(count) is int for count in counts.values()):
        return None
    if not isinstance(models, dict):
        return None
    used, problems = models.get("models", []), models.get("problems", [])
    for texts in (used, problems):
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            return None
    return RoomReport(counts, used, problems)


def _claim(out: Path, settings: RoomsSettings, catalog: Catalog | None) -> None:
    """Create the marker of the folder, or check the existing one."""
    mine: dict[str, int | float | str] = {
        "format": FORMAT,
        "scenes": settings.scenes,
        "seed": settings.seed,
        "vertices": settings.vertices,
        "validation": settings.validation,
    }
    if settings.scanned:
        # Rooms depend only on the seed and their index, so that --scenes may be increased.
        mine = {"scanned": SCANNED_FORMAT, "seed": settings.seed, "validation": settings.validation}
    elif settings.mesh_spacing is not None:
        mine["spacing"] = settings.mesh_spacing
    if catalog is not None:
        mine["furniture"] = catalog.digest
    marker = out / MARKER
    if out.exists() and not out.is_dir():
        raise SettingsError(f"{out} is a file; expected a folder for the rooms: pass another path")
    if marker.is_file():
        try:
            theirs = json.loads(marker.read_text(encoding="utf-8"))
        except ValueError:
            theirs = None
        if theirs != mine:
            raise SettingsError(
                f"{out} contains rooms of other settings ({_differences(theirs, mine)}): "
                "pass another folder, or remove this one"
            )
        return
    if out.is_dir() and any(not TEMPORARY_NAME.fullmatch(entry.name) for entry in out.iterdir()):
        raise SettingsError(
            f"{out} is not empty and was not written by lg3d rooms: pass another folder, or empty this one"
        )
    out.mkdir(parents=True, exist_ok=True)
    write_text(marker, json.dumps(mine, indent=1) + "\n")


def _differences(theirs: object, mine: dict[str, int | float | str]) -> str:
    if not isinstance(theirs, dict):
        return f"its {MARKER} cannot be read"
    keys = [key for key in dict.fromkeys([*mine, *theirs]) if theirs.get(key) != mine.get(key)]
    return ", ".join(f"{key} {theirs.get(key, 'none')}, not {mine.get(key, 'none')}" for key in keys)
