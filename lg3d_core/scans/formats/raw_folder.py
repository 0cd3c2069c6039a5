"""Interface of the readers: a raw folder is a list of scenes, each of which can be read and audited on its own."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lg3d_core.errors import DataError
from lg3d_core.scans.files import digest_files
from lg3d_core.scans.scannet import Scan, require_id
from lg3d_core.vocabulary import Vocabulary

MAX_STAMP = 4096
"""Maximum length of a stamp; the attributes of a scene file hold less than 64 KiB."""


class Problem(NamedTuple):
    """One problem of a raw folder.

    Attributes:
        scene: Scene id; "" for a problem of the whole folder.
        file: Path of the file, if the problem concerns one file.
        reason: Message that `prepare` would print.
        fatal: Whether `prepare` would skip the scene, or stop if it concerns the folder; otherwise it only warns.
    """

    scene: str
    file: str
    reason: str
    fatal: bool


class Findings(NamedTuple):
    """Result of auditing one scene.

    Attributes:
        num_vertices: Number of vertices; 0 if they cannot be read.
        problems: Problems of the scene.
        unmapped: Raw labels outside the vocabulary, with their number of objects or points.
    """

    num_vertices: int
    problems: list[Problem]
    unmapped: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class RawScene(ABC):
    """One scene of a raw folder: its files, and how they are read. Instances are picklable.

    Attributes:
        scene_id: Id of the scene in the store.
        split: "train", "val" or "test".
        label_table: Digest of what determines the labels besides the files: a label table, or the choice of an array.
    """

    scene_id: str
    split: str
    label_table: str

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Folder or file that a message about the whole scene names."""

    @property
    @abstractmethod
    def files(self) -> list[Path]:
        """Files that are read, in a fixed order."""

    @abstractmethod
    def read(self) -> Scan:
        """Read the scene.

        Raises:
            DataError: A file is missing, damaged or inconsistent; the message names the file and the reason.
        """

    def require(self) -> None:
        """Check what can be checked without reading the files.

        Raises:
            DataError: The id is invalid, or a required file is missing.
        """
        require_id(self.scene_id)

    def audit(self) -> Findings:
        """Check the scene for everything that `prepare` would reject or warn about."""
        try:
            self.require()
            scan = self.read()
        except DataError as error:
            return Findings(0, [Problem(self.scene_id, str(self.folder), str(error), True)], {})
        problems = [Problem(self.scene_id, str(self.folder), warning, False) for warning in scan.warnings]
        return Findings(len(scan.xyz), problems, scan.unmapped)

    def stamp(self) -> str:
        """Return names, sizes and modification times (in nanoseconds) of the files; a digest of these if they are many.

        Raises:
            DataError: A file is missing.
        """
        try:
            text = json.dumps([[path.name, (stat := path.stat()).st_size, stat.st_mtime_ns] for path in self.files])
        except OSError as error:
            raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from None
        return text if len(text) <= MAX_STAMP else hashlib.sha256(text.encode()).hexdigest()

    def digest(self) -> str:
        """Return `Scan.digest` without parsing the files.

        Raises:
            DataError: A file cannot be read.
        """
        return digest_files(self.files)


@dataclass(frozen=True, kw_only=True)
class RawFolder:
    """A raw folder in one format.

    Attributes:
        path: The folder.
        format: Name of the format.
        vocabularies: Vocabularies of the labels; the first one is the store's default.
        scenes: Scenes, sorted by id; an id may occur twice.
        label_table: Digest of the label table, for provenance.
        problems: Problems of the folder and of scenes that cannot be prepared.
        warnings: Warnings of `prepare`.
        note: What was recognised, in one line; "" if the format was passed.
    """

    path: Path
    format: str
    vocabularies: tuple[Vocabulary, ...]
    scenes: list[RawScene]
    label_table: str
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()
    note: str = ""

    @property
    def splits(self) -> dict[str, str]:
        """Split of each scene."""
        return {scene.scene_id: scene.split for scene in self.scenes}

    @property
    def failed(self) -> dict[str, str]:
        """Reason for each scene that cannot be prepared."""
        return {problem.scene: problem.reason for problem in self.problems if problem.fatal and problem.scene}

    def require(self) -> None:
        """Raise DataError if a problem concerns the whole folder.

        Raises:
            DataError: The message is that of the first such problem.
        """
        stopping = [problem for problem in self.problems if problem.fatal and not problem.scene]
        if stopping:
            raise DataError(stopping[0].reason)


def join_unmapped(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the sums of counts of raw labels, most frequent first."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


def find_repeated(places: list[tuple[str, Path]]) -> list[Problem]:
    """Return a problem for each scene id that several files or folders have: none of them is prepared."""
    by_id: dict[str, list[Path]] = {}
    for scene_id, place in places:
        by_id.setdefault(scene_id, []).append(place)
    return [
        Problem(scene_id, str(found[0]), f"{scene_id} occurs {len(found)} times ({_listed(found)}): rename one", True)
        for scene_id, found in by_id.items()
        if len(found) > 1
    ]


def _listed(paths: list[Path]) -> str:
    return ", ".join(map(str, paths[:3])) + (", ..." if len(paths) > 3 else "")
