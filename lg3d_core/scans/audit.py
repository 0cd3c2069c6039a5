"""Audit of a raw ScanNet folder; nothing is written."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from lg3d_core.errors import DataError
from lg3d_core.processes import run_in_processes
from lg3d_core.progress import Progress
from lg3d_core.scans.files import read_file
from lg3d_core.scans.scannet import (
    ScanFiles,
    count_unmapped,
    describe_groups,
    drop_repeated,
    find_scans,
    missing_files,
    missing_info,
    parse_alignment,
    parse_groups,
    parse_mesh,
    parse_segments,
    require_id,
)
from lg3d_core.vocabulary import LabelTable, Vocabulary, read_label_table, read_split_files
from lg3d_core.vocabulary.labels import LABEL_TABLE_NAME

T = TypeVar("T")


class Problem(NamedTuple):
    """One problem of a scan.

    Attributes:
        scene: Scene id; "" for a problem of the whole folder.
        file: Path of the file, if the problem concerns one file.
        reason: Message that `prepare` would print.
        fatal: Whether `prepare` would skip the scene; otherwise it only warns.
    """

    scene: str
    file: str
    reason: str
    fatal: bool


@dataclass(frozen=True)
class AuditReport:
    """Result of an audit.

    Attributes:
        raw: Folder that was audited.
        num_scenes: Number of audited scans.
        num_vertices: Number of vertices of the readable meshes.
        problems: Problems, sorted by scene.
        unmapped: Raw labels missing from the label table, with their number of objects, most frequent first.
    """

    raw: Path
    num_scenes: int
    num_vertices: int
    problems: list[Problem] = field(default_factory=list)
    unmapped: dict[str, int] = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        """Whether every scene can be prepared."""
        return not any(problem.fatal for problem in self.problems)

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON-serializable object."""
        return {
            "raw": str(self.raw),
            "scenes": self.num_scenes,
            "vertices": self.num_vertices,
            "problems": [problem._asdict() for problem in self.problems],
            "unmapped": self.unmapped,
        }


class _Findings(NamedTuple):
    num_vertices: int
    problems: list[Problem]
    unmapped: dict[str, int]


def audit_scans(raw: Path, vocabulary: Vocabulary, *, jobs: int, progress: Progress) -> AuditReport:
    """Check a raw folder for everything that `prepare` would reject or warn about.

    The checks cover missing and damaged files, lengths that differ from the mesh's, raw labels missing from the table,
    repeated ids, non-finite coordinates, and groups without segments or with unknown segments. Unlike `prepare`, the
    audit continues within a scene after the first problem.

    Args:
        raw: ScanNet folder.
        vocabulary: Vocabulary whose ids are looked up in the label table.
        jobs: Number of processes; 0 uses one per core.
        progress: Receives one step per scene.

    Raises:
        DataError: The folder does not exist or contains no scans.
    """
    scans = find_scans(raw)
    problems: list[Problem] = []
    table: LabelTable | None = None
    if not all(files.is_test for files in scans):
        try:
            table = read_label_table(raw / LABEL_TABLE_NAME, vocabulary)
        except DataError as error:
            problems.append(Problem("", str(raw / LABEL_TABLE_NAME), str(error), True))
    try:
        read_split_files(raw)
    except DataError as error:
        problems.append(Problem("", str(raw), str(error), True))
    counts: dict[str, int] = {}
    for files in scans:
        counts[files.scene_id] = counts.get(files.scene_id, 0) + 1
    for scene_id, count in counts.items():
        if count > 1:
            reason = f"{scene_id} exists in both scans/ and scans_test/: remove one of them"
            problems.append(Problem(scene_id, str(raw), reason, True))
    num_vertices = 0
    unmapped: dict[str, int] = {}
    with progress.task("check", total=len(scans), unit="scene") as task:
        for job, found in run_in_processes(_audit_job, [_Job(files, table) for files in scans], num_processes=jobs):
            problems += found.problems
            num_vertices += found.num_vertices
            for label, objects in found.unmapped.items():
                unmapped[label] = unmapped.get(label, 0) + objects
            task.advance(status=job.scene_id)
    return AuditReport(
        raw=raw,
        num_scenes=len(scans),
        num_vertices=num_vertices,
        problems=sorted(problems),
        unmapped=dict(sorted(unmapped.items(), key=lambda item: (-item[1], item[0]))),
    )


class _Job(NamedTuple):
    files: ScanFiles
    table: LabelTable | None

    @property
    def scene_id(self) -> str:
        return self.files.scene_id


def _audit_job(job: _Job) -> _Findings:
    return audit_scan(job.files, job.table)


def audit_scan(files: ScanFiles, table: LabelTable | None) -> _Findings:
    """Audit one scan; without a `table`, labels are not looked up."""
    problems: list[Problem] = []

    def note(reason: str, path: Path | None, *, fatal: bool = True) -> None:
        problems.append(Problem(files.scene_id, str(path or files.folder), reason, fatal))

    def attempt(path: Path, parse: Callable[[bytes], T]) -> T | None:
        try:
            return parse(read_file(path))
        except DataError as error:
            note(str(error), path)
            return None

    try:
        require_id(files)
    except DataError as error:
        note(str(error), files.folder)
    for missing in missing_files(files):
        note(missing.reason, missing.path)
    if files.info is None:
        note(missing_info(files), files.folder / f"{files.scene_id}.txt", fatal=False)
    else:
        info = files.info
        attempt(info, lambda data: parse_alignment(data, info))
    mesh = attempt(files.mesh, lambda data: parse_mesh(files, data)) if files.mesh.exists() else None
    segments = None
    if files.segments is not None:
        segments = attempt(
            files.segments, lambda data: parse_segments(files, data, None if mesh is None else len(mesh.xyz))
        )
    unmapped: dict[str, int] = {}
    if files.aggregation is not None:
        groups = attempt(files.aggregation, lambda data: parse_groups(files, data))
        if groups is not None:
            unmapped = {} if table is None else count_unmapped(drop_repeated(groups), table)
            if segments is not None:
                try:
                    for line in describe_groups(files, groups, np.unique(segments)):
                        note(line, files.aggregation, fatal=False)
                except DataError as error:
                    note(str(error), files.aggregation)
    return _Findings(0 if mesh is None else len(mesh.xyz), problems, unmapped)
