"""Verification of a store: every scene file is read completely and compared with its checksums."""

from pathlib import Path
from typing import NamedTuple

from lg3d_core.errors import DataError
from lg3d_core.processes import run_in_processes
from lg3d_core.progress import Progress
from lg3d_core.seal import sealed_digest
from lg3d_core.settings import StoreCheckSettings
from lg3d_core.store.scene_file import read_scene_file, read_scene_header
from lg3d_core.store.scene_store import SCENES_FOLDER, SceneStore, scene_digest


class VerifyReport(NamedTuple):
    """Result of verifying a store.

    Attributes:
        store: Folder of the store.
        whole: Intact scenes, sorted.
        damaged: Reason for each scene whose file is missing, damaged, or does not match `store.json`.
        unsealed: Scenes, sorted, written by an older version, without a checksum of the whole file.
        strange: Files in the scenes folder that `store.json` does not list; nothing reads them.
    """

    store: Path
    whole: list[str]
    damaged: dict[str, str]
    unsealed: list[str]
    strange: list[str]


class _Job(NamedTuple):
    scene_id: str
    path: Path
    digest: str
    num_classes: dict[str | None, int]


class _Finding(NamedTuple):
    reason: str
    is_sealed: bool


def verify_store(settings: StoreCheckSettings, progress: Progress) -> VerifyReport:
    """Read every scene file of a store completely; nothing is written.

    Raises:
        DataError: The store is missing, or its index is damaged and must be prepared again.
    """
    store = SceneStore(settings.store)
    first, *others = store.vocabularies
    num_classes = {None: len(first)} | {vocabulary.name: len(vocabulary) for vocabulary in others}
    jobs = [
        _Job(scene_id, store.scene_path(scene_id), store.entry(scene_id).digest, num_classes)
        for scene_id in store.scene_ids()
    ]
    whole, unsealed, damaged = [], [], {}
    with progress.task("verify", total=len(jobs), unit="scene") as task:
        for job, found in run_in_processes(_verify_scene, jobs, num_processes=settings.jobs):
            if found.reason:
                damaged[job.scene_id] = found.reason
            else:
                whole.append(job.scene_id)
            if not found.reason and not found.is_sealed:
                unsealed.append(job.scene_id)
            task.advance(status=job.scene_id)
    known = {job.path.name for job in jobs}
    strange = [path.name for path in (store.path / SCENES_FOLDER).glob("*.h5") if path.name not in known]
    return VerifyReport(
        store=settings.store,
        whole=sorted(whole),
        damaged=dict(sorted(damaged.items())),
        unsealed=sorted(unsealed),
        strange=sorted(strange),
    )


def _verify_scene(job: _Job) -> _Finding:
    try:
        header = read_scene_header(job.path)
        if header.scene != job.scene_id or scene_digest(header) != job.digest:
            return _Finding(f"{job.path} is another scene, or made from other input than store.json records", False)
        for labels, num_classes in job.num_classes.items():
            read_scene_file(job.path, num_classes=num_classes, labels=labels)
        return _Finding("", sealed_digest(job.path) is not None)
    except DataError as error:
        return _Finding(str(error), False)
