"""Raw scans to a scene store: in parallel, resumable, killable at any moment."""

import itertools
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lg3d_core import __version__
from lg3d_core.errors import DataError
from lg3d_core.files import STALE_SECONDS, lock_file, sweep_temporaries
from lg3d_core.progress import Progress
from lg3d_core.scans import Scan, ScanFiles, find_scans, read_scan
from lg3d_core.scans.processes import run_in_processes
from lg3d_core.scans.scannet import digest_scan, require_files
from lg3d_core.settings import PrepareSettings
from lg3d_core.store.scene_file import Scene, SceneHeader, read_scene_header, write_scene_file
from lg3d_core.store.scene_store import INDEX_NAME, SCENES_FOLDER, SceneStore, write_index
from lg3d_core.vocabulary import (
    LabelTable,
    Vocabulary,
    load_scene_splits,
    load_vocabulary,
    read_label_table,
    read_split_files,
)
from lg3d_core.vocabulary.labels import LABEL_TABLE_NAME

NO_TABLE = LabelTable({}, "none")


class PrepareReport(NamedTuple):
    """What became of every scene.

    Attributes:
        store: The store's folder.
        prepared: Scenes written by this run.
        skipped: Scenes that were there already, made from the same input.
        failed: Reason for each scene that could not be prepared; what the store holds of them, if anything, is older.
        unmapped: Raw labels that the label table lacks, with their number of objects, over prepared and skipped scenes.
    """

    store: Path
    prepared: list[str]
    skipped: list[str]
    failed: dict[str, str]
    unmapped: dict[str, int]


class _Job(NamedTuple):
    files: ScanFiles
    split: str
    target: Path
    table: LabelTable
    vocabulary: Vocabulary
    force: bool

    @property
    def scene_id(self) -> str:
        return self.files.scene_id


class _Outcome(NamedTuple):
    state: str
    reason: str
    warnings: tuple[str, ...]
    unmapped: dict[str, int]


def prepare_store(settings: PrepareSettings, progress: Progress) -> PrepareReport:
    """Prepare the scans of a raw folder, one HDF5 file each, and then write `store.json`.

    A scan that cannot be read is reported in `failed` and the others are prepared. A scene is skipped where its file is
    whole and was made from the same input with the same vocabulary, label table and split. The split comes from the raw
    folder's own split files, else from the benchmark's; a scene in neither goes to "train", with a warning; everything
    under `scans_test/` goes to "test".

    With `shard="i/n"` only every n-th scene is done; shards may run at the same time, and the last to end leaves a
    `store.json` with all scenes.

    Raises:
        DataError: No raw folder, no scans, no label table, a store of another vocabulary or in use, a full disk, or a
            worker that died; what was prepared until then stays, and the next run continues.
    """
    vocabulary = load_vocabulary(settings.vocabulary)
    scans = find_scans(settings.raw)
    table = NO_TABLE
    if not all(files.is_test for files in scans):
        table = read_label_table(settings.raw / LABEL_TABLE_NAME, vocabulary)
    failed = {files.scene_id: _twice(files.scene_id) for files in _repeated(scans)}
    splits = _assign_splits(scans, settings.raw, progress)
    index, count = settings.shard_numbers or (1, 1)
    own = [files for files in scans if files.scene_id not in failed][index - 1 :: count]
    scenes_folder = _make_folders(settings.store)
    jobs = [
        _Job(
            files,
            splits[files.scene_id],
            scenes_folder / f"{files.scene_id}.h5",
            NO_TABLE if files.is_test else table,
            vocabulary,
            settings.force,
        )
        for files in own
    ]
    prepared: list[str] = []
    skipped: list[str] = []
    unmapped: dict[str, int] = {}
    with _sole_writer(settings.store, index, count):
        if not settings.force:
            _require_vocabulary(settings.store, vocabulary)
        sweep_temporaries(scenes_folder, older_than=0.0 if count == 1 else STALE_SECONDS)
        with progress.task("prepare", total=len(jobs), unit="scene") as task:
            for job, outcome in run_in_processes(_prepare_scene, jobs, num_processes=settings.jobs):
                scene_id = job.scene_id
                for warning in outcome.warnings:
                    progress.warn(warning)
                if outcome.state == "failed":
                    failed[scene_id] = outcome.reason
                    progress.warn(f"{scene_id} is left out: {outcome.reason}")
                else:
                    (prepared if outcome.state == "prepared" else skipped).append(scene_id)
                    for label, objects in outcome.unmapped.items():
                        unmapped[label] = unmapped.get(label, 0) + objects
                task.advance(status=scene_id)
        _write_index(settings, vocabulary, table, progress)
    return PrepareReport(
        store=settings.store,
        prepared=sorted(prepared),
        skipped=sorted(skipped),
        failed=dict(sorted(failed.items())),
        unmapped=dict(sorted(unmapped.items(), key=lambda item: (-item[1], item[0]))),
    )


def _repeated(scans: list[ScanFiles]) -> list[ScanFiles]:
    return [b for a, b in itertools.pairwise(scans) if a.scene_id == b.scene_id]


def _twice(scene_id: str) -> str:
    return f"{scene_id} lies under both scans/ and scans_test/: remove one"


def _assign_splits(scans: list[ScanFiles], raw: Path, progress: Progress) -> dict[str, str]:
    known = load_scene_splits() | read_split_files(raw)
    unknown = [files.scene_id for files in scans if not files.is_test and files.scene_id not in known]
    if unknown:
        some = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        progress.warn(
            f"{len(unknown)} scenes are in no split and go to train ({some}): "
            f"list them in {raw}/scannetv2_train.txt, scannetv2_val.txt or scannetv2_test.txt"
        )
    return {files.scene_id: "test" if files.is_test else known.get(files.scene_id, "train") for files in scans}


def _make_folders(store: Path) -> Path:
    folder = store / SCENES_FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the store's folder {folder} ({error.strerror}): choose another --store") from None
    return folder


@contextmanager
def _sole_writer(store: Path, index: int, count: int) -> Iterator[None]:
    """Keep out other prepares, but let the shards of one job array run side by side."""
    with ExitStack() as locks:
        locks.enter_context(lock_file(store / ".lock", shared=count > 1, holder="another lg3d prepare"))
        if count > 1:
            name = f".lock-{index}-of-{count}"
            locks.enter_context(lock_file(store / name, holder=f"another lg3d prepare of shard {index}/{count}"))
        yield


def _require_vocabulary(store: Path, vocabulary: Vocabulary) -> None:
    if (store / INDEX_NAME).is_file():
        other = SceneStore(store).vocabulary
        if other.digest != vocabulary.digest:
            raise DataError(
                f"{store} holds scenes of the vocabulary {other.name}, not {vocabulary.name}: "
                "choose another --store, or replace them with --force"
            )


def _prepare_scene(job: _Job) -> _Outcome:
    """Write one scene's file unless it is there; only a failure to write is an error."""
    try:
        require_files(job.files)
        stamp = _stamp(job.files)
        done = None if job.force else _find_done(job, stamp)
        if done is not None:
            return _Outcome("skipped", "", (), done.unmapped)
        scan = read_scan(job.files, job.table)
    except DataError as error:
        return _Outcome("failed", str(error), (), {})
    write_scene_file(job.target, *_scene_of(scan, job, stamp))
    return _Outcome("prepared", "", scan.warnings, scan.unmapped)


def _stamp(files: ScanFiles) -> str:
    """Names, sizes and modification times of a scan's files, in nanoseconds."""
    try:
        return json.dumps([[path.name, (stat := path.stat()).st_size, stat.st_mtime_ns] for path in files.present])
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from None


def _find_done(job: _Job, stamp: str) -> SceneHeader | None:
    """The header of the scene's file, if it is whole and made from the same input in the same way.

    Names, sizes and times decide, as `make` and `git` do it: hashing 20 GB again to find nothing changed would take
    minutes. Where only times differ (a copied folder) the bytes are hashed.
    """
    try:
        header = read_scene_header(job.target)
    except DataError:
        return None  # missing, damaged or of another version: prepared again
    made_so = (header.scene, header.split, header.label_table, header.vocabulary)
    if made_so != (job.files.scene_id, job.split, job.table.digest, job.vocabulary.digest):
        return None
    if header.source_stamp != stamp and header.source_digest != digest_scan(job.files):
        return None
    return header


def _scene_of(scan: Scan, job: _Job, stamp: str) -> tuple[Scene, SceneHeader]:
    labels, counts = np.unique(scan.label[scan.label >= 0], return_counts=True)
    header = SceneHeader(
        scene=scan.scene_id,
        split=job.split,
        axis_alignment=scan.axis_alignment,
        source_digest=scan.digest,
        source_stamp=stamp,
        label_table=job.table.digest,
        vocabulary=job.vocabulary.digest,
        num_points=len(scan.xyz),
        num_faces=len(scan.faces),
        class_counts=dict(zip(labels.tolist(), counts.tolist(), strict=True)),
        unmapped=scan.unmapped,
    )
    scene = Scene(
        scene_id=scan.scene_id,
        split=job.split,
        xyz=scan.xyz,
        rgb=scan.rgb,
        normal=scan.normal,
        label=scan.label,
        instance=scan.instance,
        segment=scan.segment,
        faces=scan.faces,
    )
    return scene, header


def _write_index(settings: PrepareSettings, vocabulary: Vocabulary, table: LabelTable, progress: Progress) -> None:
    """Make `store.json` from the scene files, which alone are the truth: so shards need not know of each other."""
    with lock_file(settings.store / ".lock-index", wait=True):
        headers = []
        for path in sorted((settings.store / SCENES_FOLDER).glob("*.h5")):
            try:
                header = read_scene_header(path)
            except DataError as error:
                progress.warn(f"left out of {INDEX_NAME}: {error}")
                continue
            if header.scene != path.stem or header.vocabulary != vocabulary.digest:
                progress.warn(f"left out of {INDEX_NAME}: {path} is another scene's or another vocabulary's file")
                continue
            headers.append(header)
        if headers:
            provenance = {"lg3d": __version__, "raw": str(settings.raw), "label_table": table.digest}
            write_index(settings.store, vocabulary, headers, provenance)
