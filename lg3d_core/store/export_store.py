"""Export of a store to Pointcept's layout: a folder of numpy arrays per scene; resumable and safe to kill."""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError
from lg3d_core.files import require_folder, write_text
from lg3d_core.processes import run_in_processes
from lg3d_core.progress import Progress
from lg3d_core.scans.formats.pointcept import LABEL_ARRAYS, label_array
from lg3d_core.settings import ExportStoreSettings
from lg3d_core.store.scene_store import SceneStore
from lg3d_core.vocabulary import Vocabulary

DIGEST_NAME = ".lg3d"
"""File of a scene's folder with the digest of the scene, by which a later run skips it."""


class ExportStoreReport(NamedTuple):
    """Result of an export.

    Attributes:
        out: Folder of the scenes.
        written: Scenes written by this run.
        skipped: Scenes that were already there.
    """

    out: Path
    written: list[str]
    skipped: list[str]


class _Job(NamedTuple):
    scene_id: str
    store: Path
    vocabularies: tuple[str, ...]
    target: Path
    digest: str


def export_store(settings: ExportStoreSettings, progress: Progress) -> ExportStoreReport:
    """Write every scene of a store as `OUT/SPLIT/SCENE/*.npy`, with the labels of all its vocabularies.

    `coord` (metres, +z up), `color`, `normal`, `segment200`, `segment20` or `segment` (class indices, -1 for none) and
    `instance` (from 0, -1 for none) are read by Pointcept; `face` and `superpoint` by `lg3d prepare`. Class names that
    are not ScanNet's are written to `classes.tsv`. Scenes of the split "test" without any label get no labels.

    Raises:
        DataError: The store or a scene is missing or damaged, or a file cannot be written.
        SettingsError: The folder cannot be written.
    """
    require_folder(settings.out, "OUT")
    store = SceneStore(settings.store)
    names = tuple(vocabulary.name for vocabulary in store.vocabularies)
    others = [SceneStore(settings.store, name) for name in names[1:]]
    jobs = [
        _Job(
            scene_id=scene_id,
            store=settings.store,
            vocabularies=names,
            target=settings.out / store.split_of(scene_id) / scene_id,
            digest=" ".join(one.entry(scene_id).digest for one in (store, *others)),
        )
        for scene_id in store.scene_ids()
    ]
    for k, vocabulary in enumerate(store.vocabularies):
        if vocabulary.name not in LABEL_ARRAYS:
            name = "classes.tsv" if k == 0 else f"classes_{vocabulary.name}.tsv"
            write_text(settings.out / name, _to_tsv(vocabulary))
    done = [] if settings.force else [job.scene_id for job in jobs if _is_done(job)]
    skipped = set(done)
    remaining = [job for job in jobs if job.scene_id not in skipped]
    with progress.task("export", total=len(remaining), unit="scene") as task:
        for job, _ in run_in_processes(_export_scene, remaining, num_processes=settings.jobs):
            task.advance(status=job.scene_id)
    return ExportStoreReport(settings.out, [job.scene_id for job in remaining], done)


def _is_done(job: _Job) -> bool:
    try:
        return (job.target / DIGEST_NAME).read_text() == job.digest
    except (OSError, ValueError):
        return False


def _export_scene(job: _Job) -> None:
    """Write the folder of a scene under a temporary name, and rename it."""
    arrays = _arrays_of(job)
    temporary = job.target.with_name(f".{job.scene_id}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, values in arrays.items():
            np.save(temporary / f"{name}.npy", values, allow_pickle=False)
        (temporary / DIGEST_NAME).write_text(job.digest)
        shutil.rmtree(job.target, ignore_errors=True)
        os.rename(temporary, job.target)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise DataError(f"cannot write {job.target} ({error.strerror}): free space, or pass another OUT") from None


def _arrays_of(job: _Job) -> dict[str, npt.NDArray[np.generic]]:
    """Return the arrays of a scene by name."""
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for k, name in enumerate(job.vocabularies):
        store = SceneStore(job.store, name)
        scene = store.read(job.scene_id)
        if k == 0:
            arrays = {"coord": scene.xyz, "color": scene.rgb, "normal": scene.normal}
            if len(scene.faces):
                arrays["face"] = scene.faces
            if (scene.segment >= 0).any():
                arrays["superpoint"] = scene.segment
        if scene.split != "test" or (scene.label >= 0).any() or (scene.instance > 0).any():
            arrays[label_array(store.vocabulary, is_first=k == 0)] = scene.label.astype(np.int32)
            arrays["instance"] = scene.instance - 1
    return arrays


def _to_tsv(vocabulary: Vocabulary) -> str:
    rows = ["id\tname\tsplit\tin_val\tred\tgreen\tblue"]
    for c in vocabulary.categories:
        name = " ".join(c.name.split())
        rows.append("\t".join(map(str, (c.id, name, c.group, int(c.in_validation), *c.color))))
    return "\n".join(rows) + "\n"
