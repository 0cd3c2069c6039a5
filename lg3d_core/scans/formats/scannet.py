"""ScanNet's raw format: `scans/` and `scans_test/` with a folder per scene, and the label table."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from lg3d_core.errors import DataError
from lg3d_core.scans.files import read_file
from lg3d_core.scans.formats.raw_folder import Findings, Problem, RawFolder, RawScene
from lg3d_core.scans.scannet import (
    Scan,
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
    read_scan,
    require_files,
    require_id,
)
from lg3d_core.vocabulary import LabelTable, Vocabulary, load_scene_splits, read_label_table, read_split_files
from lg3d_core.vocabulary.labels import LABEL_TABLE_NAME
from lg3d_core.vocabulary.splits import describe_missing

T = TypeVar("T")
NO_TABLE = LabelTable({}, "none")


@dataclass(frozen=True, kw_only=True)
class ScanNetScene(RawScene):
    """Scene in ScanNet's files; `tables` has one label table per vocabulary, and none if the table is damaged."""

    scan_files: ScanFiles
    tables: dict[str, LabelTable]

    @property
    def folder(self) -> Path:
        """Folder of the scan."""
        return self.scan_files.folder

    @property
    def files(self) -> list[Path]:
        """Mesh, segments, annotation and alignment."""
        return self.scan_files.present

    def require(self) -> None:
        """Check the id and the presence of the files.

        Raises:
            DataError: The id is invalid, or a file is missing.
        """
        require_files(self.scan_files)

    def read(self) -> Scan:
        """Read the scene.

        Raises:
            DataError: As `read_scan`.
        """
        (_, first), *others = self.tables.items()
        return read_scan(self.scan_files, first, dict(others))

    def audit(self) -> Findings:
        """Check the scene, also after the first problem."""
        table = next(iter(self.tables.values()), None)
        return audit_scan(self.scan_files, None if self.scan_files.is_test else table)


def open_scannet(raw: Path, vocabularies: tuple[Vocabulary, ...]) -> RawFolder:
    """List the scans of a folder in ScanNet's layout.

    The split comes from the split files of the folder, else from the benchmark's; a scene in neither goes to "train",
    with a warning; scans under `scans_test/` go to "test".

    Raises:
        DataError: The folder does not exist or has no scans.
    """
    scans = find_scans(raw)
    problems: list[Problem] = []
    tables: dict[str, LabelTable] = {}
    if not all(files.is_test for files in scans):
        path = raw / LABEL_TABLE_NAME
        try:
            tables = {vocabulary.name: read_label_table(path, vocabulary) for vocabulary in vocabularies}
        except DataError as error:
            problems.append(Problem("", str(path), str(error), True))
    listed: dict[str, str] = {}
    try:
        listed = read_split_files(raw)
    except DataError as error:
        problems.append(Problem("", str(raw), str(error), True))
    known = load_scene_splits() | listed
    counts = Counter(files.scene_id for files in scans)
    for scene_id in (scene_id for scene_id, count in counts.items() if count > 1):
        reason = f"{scene_id} exists in both scans/ and scans_test/: remove one of them"
        problems.append(Problem(scene_id, str(raw), reason, True))
    none = {vocabulary.name: NO_TABLE for vocabulary in vocabularies}
    scenes: list[RawScene] = [
        ScanNetScene(
            scene_id=files.scene_id,
            split="test" if files.is_test else known.get(files.scene_id, "train"),
            label_table=_digest(none if files.is_test else tables),
            scan_files=files,
            tables=none if files.is_test else tables,
        )
        for files in scans
    ]
    unknown = [files.scene_id for files in scans if not files.is_test and files.scene_id not in known]
    some = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
    warning = (
        f"scenes without a split, used for training: {len(unknown)} ({some}): "
        f"list them in {raw}/scannetv2_train.txt, scannetv2_val.txt or scannetv2_test.txt"
    )
    return RawFolder(
        path=raw,
        format="scannet",
        vocabularies=vocabularies,
        scenes=scenes,
        label_table=_digest(tables),
        problems=tuple(problems),
        warnings=(*([warning] if unknown else []), *describe_missing(listed, counts, raw)),
    )


def _digest(tables: dict[str, LabelTable]) -> str:
    """Return the digest of the label table, which is one file for all vocabularies."""
    return next((table.digest for table in tables.values()), NO_TABLE.digest)


def audit_scan(files: ScanFiles, table: LabelTable | None) -> Findings:
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
        require_id(files.scene_id)
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
    return Findings(0 if mesh is None else len(mesh.xyz), problems, unmapped)
