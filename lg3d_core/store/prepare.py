"""Preparation of raw scenes as a scene store: parallel, resumable and safe to kill."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core import __version__
from lg3d_core.errors import DataError
from lg3d_core.files import lock_file, sweep_temporaries, write_bytes
from lg3d_core.processes import run_in_processes
from lg3d_core.progress import Progress
from lg3d_core.scans import Scan
from lg3d_core.scans.files import read_file
from lg3d_core.scans.formats.open_folder import UNMAPPED, open_folder
from lg3d_core.scans.formats.raw_folder import RawFolder, RawScene, join_unmapped
from lg3d_core.seal import seal, sealed_digest
from lg3d_core.settings import PrepareSettings, StoreCheckSettings
from lg3d_core.store.scene_file import (
    MoreLabels,
    Scene,
    SceneHeader,
    read_scene_file,
    read_scene_header,
    write_scene_file,
)
from lg3d_core.store.scene_store import INDEX_NAME, SCENES_FOLDER, SceneStore, write_index
from lg3d_core.store.shards import Shard, digest_plan, read_seals, read_shards, remove_shards, write_shard
from lg3d_core.vocabulary import Vocabulary

MAX_NAMED = 10
"""Number of raw labels listed in a warning, most frequent first."""


class PrepareReport(NamedTuple):
    """Result of preparing a raw folder.

    Attributes:
        store: Folder of the store.
        prepared: Scenes written by this run.
        skipped: Scenes that were already present, made from the same input.
        failed: Reason for each scene that could not be prepared; an older file of it may remain in the store.
        unmapped: Raw labels missing from the label table, with their number of objects, in prepared and skipped scenes.
    """

    store: Path
    prepared: list[str]
    skipped: list[str]
    failed: dict[str, str]
    unmapped: dict[str, int]


class _Job(NamedTuple):
    scene: RawScene
    target: Path
    vocabularies: tuple[Vocabulary, ...]
    force: bool

    @property
    def scene_id(self) -> str:
        return self.scene.scene_id


class _State(Enum):
    PREPARED = "prepared"
    SKIPPED = "skipped"
    FAILED = "failed"


class _Outcome(NamedTuple):
    state: _State
    reason: str
    warnings: tuple[str, ...]
    header: SceneHeader | None


def prepare(settings: PrepareSettings, progress: Progress) -> PrepareReport:
    """Write one HDF5 file per scene of a raw folder, and then `store.json`.

    A scene that cannot be read is reported in `failed`, and the others are prepared. A scene is skipped if its file is
    intact and was made from the same input with the same vocabularies, label table and split.

    With `shard="i/n"` only every n-th scene is prepared, and a shard file is written instead of `store.json`, which
    `merge_shards` writes when all shards are done; shards may run at the same time, on several machines.

    Raises:
        DataError: The raw folder, scenes or label table are missing, the store has another vocabulary or is in use, the
            disk is full, or a worker died. Scenes prepared until then remain, and the next run resumes.
    """
    folder = open_folder(settings)
    folder.require()
    if folder.note:
        progress.note(folder.note)
    for warning in folder.warnings:
        progress.warn(warning)
    failed = folder.failed
    index, count = settings.shard_numbers
    own = [scene for scene in folder.scenes if scene.scene_id not in failed][index - 1 :: count]
    scenes_folder = _make_folders(settings.store)
    jobs = [_Job(scene, scenes_folder / f"{scene.scene_id}.h5", folder.vocabularies, settings.force) for scene in own]
    with _sole_writer(settings.store, index, count, progress):
        if not settings.force:
            _require_vocabulary(settings.store, folder.vocabularies[0], progress)
        for place in (settings.store, scenes_folder):
            sweep_temporaries(place)
        # From here on, the shard files of an earlier array job no longer describe this store.
        remove_shards(settings.store, index, count)
        prepared, skipped, headers, errors = _prepare_scenes(jobs, settings.jobs, progress)
        failed |= errors
        unmapped = join_unmapped(header.unmapped for header in headers)
        if count == 1:
            provenance = _provenance(folder.path, folder.label_table, folder.format)
            _write_index(settings.store, folder.vocabularies, headers, provenance, progress)
        else:
            write_shard(settings.store, _shard_of(folder, (index, count), headers, failed, unmapped, settings.store))
            progress.note(f"when all {count} shards are done, run: lg3d prepare --merge --store {settings.store}")
    _warn_of_labels(unmapped, headers, folder.format, progress)
    _warn_of_units(headers, progress)
    return PrepareReport(
        store=settings.store,
        prepared=sorted(prepared),
        skipped=sorted(skipped),
        failed=dict(sorted(failed.items())),
        unmapped=unmapped,
    )


def _shard_of(
    folder: RawFolder,
    numbers: tuple[int, int],
    headers: list[SceneHeader],
    failed: dict[str, str],
    unmapped: dict[str, int],
    store: Path,
) -> Shard:
    return Shard(
        index=numbers[0],
        count=numbers[1],
        plan=digest_plan(folder.splits, folder.vocabularies, folder.label_table),
        raw=folder.path,
        label_table=folder.label_table,
        vocabularies=folder.vocabularies,
        format=folder.format,
        seals=read_seals(store, headers),
        failed=dict(sorted(failed.items())),
        unmapped=unmapped,
    )


class _Results(NamedTuple):
    prepared: list[str]
    skipped: list[str]
    headers: list[SceneHeader]
    failed: dict[str, str]


def _prepare_scenes(jobs: list[_Job], num_processes: int, progress: Progress) -> _Results:
    """Prepare scenes in several processes, and warn about those that fail."""
    results = _Results([], [], [], {})
    with progress.task("prepare", total=len(jobs), unit="scene") as task:
        for job, outcome in run_in_processes(_prepare_scene, jobs, num_processes=num_processes):
            scene_id = job.scene_id
            for warning in outcome.warnings:
                progress.warn(warning)
            if outcome.state is _State.FAILED:
                results.failed[scene_id] = outcome.reason
                progress.warn(f"{scene_id} could not be prepared: {outcome.reason}")
            else:
                assert outcome.header is not None
                results.headers.append(outcome.header)
                (results.prepared if outcome.state is _State.PREPARED else results.skipped).append(scene_id)
            task.advance(status=scene_id)
    return results


def _warn_of_labels(unmapped: dict[str, int], headers: list[SceneHeader], form: str, progress: Progress) -> None:
    """Warn about raw labels outside the vocabulary, and about scenes without any labelled point."""
    if unmapped:
        some = ", ".join(f"{label!r} {objects}" for label, objects in list(unmapped.items())[:MAX_NAMED])
        rest = f", and {len(unmapped) - MAX_NAMED} more" if len(unmapped) > MAX_NAMED else ""
        unit, table = UNMAPPED.get(form, UNMAPPED[""])
        progress.warn(
            f"{sum(unmapped.values())} {unit} have no label, because {table} lacks their raw labels ({some}{rest})"
        )
    annotated = [header for header in headers if header.split != "test"]
    if annotated and not any(header.class_counts for header in annotated):
        progress.warn(f"no point of these {len(annotated)} scenes has a label of the vocabulary: training rejects them")


def _warn_of_units(headers: list[SceneHeader], progress: Progress) -> None:
    """Warn about scenes whose unit was estimated to differ from that of most scenes."""
    units = {header.scene: round(float(np.cbrt(np.linalg.det(header.axis_alignment[:3, :3]))), 6) for header in headers}
    scenes_of = {unit: sorted(s for s, own in units.items() if own == unit) for unit in set(units.values())}
    usual = max(scenes_of, key=lambda unit: (len(scenes_of[unit]), unit), default=1.0)
    for unit, scenes in sorted(scenes_of.items()):
        if unit != usual:
            some = ", ".join(scenes[:3]) + (", ..." if len(scenes) > 3 else "")
            progress.warn(
                f"mixed units: {len(scenes)} scenes have a unit of {unit:g} m ({some}), the other scenes of "
                f"{usual:g} m; each uses its own unit: pass --scale if all have the same unit"
            )


def _make_folders(store: Path) -> Path:
    folder = store / SCENES_FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot create the folder {folder} ({error.strerror}): choose another --store") from None
    return folder


@contextmanager
def _sole_writer(store: Path, index: int, count: int, progress: Progress) -> Iterator[None]:
    """Lock the store against other preparations, but allow the shards of one array job in parallel.

    Every file is written atomically and shards write different files, so locks only avoid wasted work: on a file system
    without locks, preparation continues with a warning.
    """
    with ExitStack() as locks:
        held = locks.enter_context(
            lock_file(store / ".lock", shared=count > 1, holder="another lg3d prepare", optional=True)
        )
        if count > 1:
            name = f".lock-{index}-of-{count}"
            holder = f"another lg3d prepare of shard {index}/{count}"
            locks.enter_context(lock_file(store / name, holder=holder, optional=True))
        if not held:
            progress.warn(f"the file system of {store} has no locks: do not start a second lg3d prepare on it")
        yield


def _require_vocabulary(store: Path, vocabulary: Vocabulary, progress: Progress) -> None:
    """Reject a store of another vocabulary; if its index is damaged, use the vocabulary of its scene files.

    Raises:
        DataError: The vocabularies differ; the message names `--force`.
    """
    if not (store / INDEX_NAME).exists():
        return
    try:
        other = SceneStore(store).vocabulary
        name, digest = other.name, other.digest
    except DataError as error:
        progress.warn(f"writing {INDEX_NAME} again: {error}")
        name, digest = "another", _vocabulary_of_scenes(store) or vocabulary.digest
    if digest != vocabulary.digest:
        raise DataError(
            f"{store} contains scenes of the vocabulary {name}, not {vocabulary.name}: "
            "choose another --store, or replace them with --force"
        )


def _vocabulary_of_scenes(store: Path) -> str | None:
    """Return the vocabulary digest of a store's first readable scene, or None."""
    for path in sorted((store / SCENES_FOLDER).glob("*.h5")):
        with suppress(DataError):
            return read_scene_header(path).vocabulary
    return None


def _prepare_scene(job: _Job) -> _Outcome:
    """Write the file of a scene unless it is up to date; only a failed write raises."""
    try:
        job.scene.require()
        stamp = job.scene.stamp()
        done = None if job.force else _find_done(job, stamp)
        if done is not None:
            return _Outcome(_State.SKIPPED, "", (), done)
        scan = job.scene.read()
    except DataError as error:
        return _Outcome(_State.FAILED, str(error), (), None)
    scene, header = _scene_of(scan, job, stamp)
    write_scene_file(job.target, scene, header)
    return _Outcome(_State.PREPARED, "", scan.warnings, header)


def _find_done(job: _Job, stamp: str) -> SceneHeader | None:
    """Return the header of the scene's file if it is intact and was made from the same input in the same way.

    Names, sizes and times of the raw files are compared, as `make` and `git` do: hashing 20 GB to find nothing changed
    would take minutes. If only times differ (a copied folder), the bytes are hashed. The scene file is verified by its
    seal; a file of a version without seals is read completely and sealed.
    """
    try:
        header = read_scene_header(job.target)
        is_sealed = sealed_digest(job.target) is not None
        if not is_sealed:
            read_scene_file(job.target, num_classes=len(job.vocabularies[0]))
    except DataError:
        return None  # missing, damaged or of another version: prepare again
    made_so = (header.scene, header.split, header.label_table, _digests_of(header))
    if made_so != (job.scene_id, job.scene.split, job.scene.label_table, _digests(job.vocabularies)):
        return None
    if header.source_stamp != stamp and header.source_digest != job.scene.digest():
        return None
    if not is_sealed:
        write_bytes(job.target, seal(read_file(job.target)))
    return header


def _digests(vocabularies: tuple[Vocabulary, ...]) -> dict[str | None, str]:
    """Return the digest of each vocabulary by name, and of the first one by None."""
    first, *others = vocabularies
    return {None: first.digest, **{vocabulary.name: vocabulary.digest for vocabulary in others}}


def _digests_of(header: SceneHeader) -> dict[str | None, str]:
    """Return `_digests` of the vocabularies that a scene file was made with."""
    return {None: header.vocabulary, **{name: labels.vocabulary for name, labels in header.more_labels.items()}}


def _count_classes(label: npt.NDArray[np.int16]) -> dict[int, int]:
    labels, counts = np.unique(label[label >= 0], return_counts=True)
    return dict(zip(labels.tolist(), counts.tolist(), strict=True))


def _scene_of(scan: Scan, job: _Job, stamp: str) -> tuple[Scene, SceneHeader]:
    header = SceneHeader(
        scene=scan.scene_id,
        split=job.scene.split,
        axis_alignment=scan.axis_alignment,
        source_digest=scan.digest,
        source_stamp=stamp,
        label_table=job.scene.label_table,
        vocabulary=job.vocabularies[0].digest,
        num_points=len(scan.xyz),
        num_faces=len(scan.faces),
        class_counts=_count_classes(scan.label),
        unmapped=scan.unmapped,
        more_labels={
            vocabulary.name: MoreLabels(vocabulary.digest, _count_classes(scan.more_labels[vocabulary.name]))
            for vocabulary in job.vocabularies[1:]
        },
    )
    scene = Scene(
        scene_id=scan.scene_id,
        split=job.scene.split,
        xyz=scan.xyz,
        rgb=scan.rgb,
        normal=scan.normal,
        label=scan.label,
        instance=scan.instance,
        segment=scan.segment,
        faces=scan.faces,
        more_labels=scan.more_labels,
    )
    return scene, header


def _provenance(raw: Path, label_table: str, form: str) -> dict[str, str]:
    return {"lg3d": __version__, "raw": str(raw), "format": form, "label_table": label_table}


def _write_index(
    store: Path,
    vocabularies: tuple[Vocabulary, ...],
    known: list[SceneHeader],
    provenance: dict[str, str],
    progress: Progress,
) -> None:
    """Write `store.json` from the scene files; the headers in `known` are not read again."""
    headers = {header.scene: header for header in known}
    for path in sorted((store / SCENES_FOLDER).glob("*.h5")):
        if path.stem in headers:
            continue
        try:
            header = read_scene_header(path)
        except DataError as error:
            progress.warn(f"not listed in {INDEX_NAME}: {error}")
            continue
        if header.scene != path.stem or _digests_of(header) != _digests(vocabularies):
            progress.warn(f"not listed in {INDEX_NAME}: {path} belongs to another scene or another vocabulary")
            continue
        headers[header.scene] = header
    if headers:
        write_index(store, vocabularies, list(headers.values()), provenance)


class MergeReport(NamedTuple):
    """Result of merging the shards of an array job.

    Attributes:
        store: Folder of the store.
        shards: Number of shards.
        scenes: Scenes that the shards prepared or found up to date.
        failed: Reason for each scene that could not be prepared.
        unmapped: Raw labels missing from the label table, with their number of objects.
    """

    store: Path
    shards: int
    scenes: list[str]
    failed: dict[str, str]
    unmapped: dict[str, int]


def merge_shards(settings: StoreCheckSettings, progress: Progress) -> MergeReport:
    """Check the scenes of all shards of an array job and write `store.json`.

    All shards must be done and belong to one plan; no scene may be in two shards; and every scene file must be byte for
    byte the one that its shard wrote. The index is written atomically, and not at all if a check fails.

    Raises:
        DataError: A shard is missing, still running, or made from other scans; or the file of a scene is missing,
            truncated or different. The message names the shard to run again.
    """
    store = settings.store
    if not (store / SCENES_FOLDER).is_dir():
        raise DataError(f"no shards in {store}: first run lg3d prepare RAW --store {store} --shard 1/2, and so on")
    with lock_file(store / ".lock", holder="a running shard, or another lg3d prepare", optional=True):
        shards = read_shards(store)
        jobs = [
            _FileCheck(scene_id, store / SCENES_FOLDER / f"{scene_id}.h5", seal_digest)
            for shard in shards.parts
            for scene_id, seal_digest in shard.seals.items()
        ]
        headers, wrong = [], {}
        with progress.task("merge", total=len(jobs), unit="scene") as task:
            for job, found in run_in_processes(_check_file, jobs, num_processes=settings.jobs):
                if isinstance(found, str):
                    wrong[job.scene_id] = found
                else:
                    headers.append(found)
                task.advance(status=job.scene_id)
        if wrong:
            again = " and ".join(sorted({shards.name_of(scene_id) for scene_id in wrong}))
            reason = wrong[min(wrong)]
            raise DataError(f"{len(wrong)} scenes differ from what their shards wrote (run {again} again): {reason}")
        first = shards.parts[0]
        provenance = _provenance(first.raw, first.label_table, first.format)
        _write_index(store, first.vocabularies, headers, provenance, progress)
    _warn_of_labels(shards.unmapped, headers, first.format, progress)
    _warn_of_units(headers, progress)
    return MergeReport(
        store=store,
        shards=len(shards.parts),
        scenes=sorted(header.scene for header in headers),
        failed=shards.failed,
        unmapped=shards.unmapped,
    )


class _FileCheck(NamedTuple):
    scene_id: str
    path: Path
    expected: str


def _check_file(job: _FileCheck) -> SceneHeader | str:
    """Return the header of a shard's scene file, or the reason why it is invalid."""
    try:
        header = read_scene_header(job.path)
        if header.scene == job.scene_id and sealed_digest(job.path) == job.expected:
            return header
    except DataError as error:
        return str(error)
    return f"{job.path} was modified after its shard wrote it"
