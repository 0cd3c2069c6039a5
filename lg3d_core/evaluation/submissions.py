"""Write, read and check predictions in the format of the ScanNet and ScanNet200 benchmarks.

A submission is a zip file, or a folder with the same files:

- semantic: `<scene>.txt` with one raw class id per vertex and line, in mesh order;
- instance: `<scene>.txt` with one prediction per line, `predicted_masks/<name>.txt <raw class id> <confidence>`, and
  mask files with one 0 or 1 per vertex and line.

Zip files are never extracted: entries are read by name, up to the size that a valid file could have.

Source: "Submission policy" and "Data formats" of the ScanNet benchmark's documentation.
"""

import math
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError
from lg3d_core.evaluation.instances import PredictedInstances, scored_classes
from lg3d_core.files import atomic_path
from lg3d_core.vocabulary import Vocabulary

Task = Literal["semantic", "instance"]

MASK_FOLDER = "predicted_masks"
MAX_LINE = 32
"""Maximum bytes of a number with its line end."""
MAX_INSTANCE_FILE = 1 << 24
"""Maximum bytes of the list of a scene's predictions."""
MAX_SHOWN = 10
"""Maximum number of listed problems of one kind."""
MASK_LINE = re.compile(r"(?P<path>\S.*\S|\S)\s+(?P<id>[+-]?\d+)\s+(?P<confidence>\S+)")


class Problem(NamedTuple):
    """A problem that the benchmark's server would reject.

    Attributes:
        scene_id: Id of the scene, "" for the submission as a whole.
        message: What was found and what was expected, in one line.
    """

    scene_id: str
    message: str


class Submission:
    """Files of a submission, in a folder or a zip file."""

    def __init__(self, path: Path) -> None:
        """List the files.

        Raises:
            DataError: `path` does not exist, is neither a folder nor a zip file, or has entries with unsafe paths.
        """
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        try:
            if path.is_dir():
                names = [file.relative_to(path).as_posix() for file in sorted(path.rglob("*")) if file.is_file()]
            elif path.is_file():
                self._zip = zipfile.ZipFile(path)
                names = [entry.filename for entry in self._zip.infolist() if not entry.is_dir()]
            else:
                raise DataError(f"no predictions at {path}: expected a folder or a zip file in the benchmark's format")
        except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise DataError(f"cannot read {path} as a zip file or folder of predictions: {error}") from None
        unsafe = [name for name in names if not _is_safe(name)]
        if unsafe:
            raise DataError(f"{path} has an entry {unsafe[0]!r} that points outside it: expected relative paths")
        if len(set(names)) != len(names):
            raise DataError(f"{path} has two entries of the same name: expected one file per scene")
        self.names = frozenset(names)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._zip is not None:
            self._zip.close()

    @property
    def num_bytes(self) -> int:
        """Size of the zip file, or of the files in the folder, in bytes."""
        files = [self.path] if self._zip is not None else [self.path / name for name in self.names]
        return sum(file.stat().st_size for file in files)

    @property
    def task(self) -> Task:
        """Kind of the predictions, determined from the first file at the root.

        Raises:
            DataError: There is no text file at the root.
        """
        lists = sorted(name for name in self.names if "/" not in name and name.endswith(".txt"))
        if not lists:
            raise DataError(f"{self.path} has no <scene>.txt at its root: expected one per scene, not inside a folder")
        if any(name.startswith(f"{MASK_FOLDER}/") for name in self.names):
            return "instance"
        head = self._read(lists[0], limit=MAX_INSTANCE_FILE, truncate=True)[:4096].split(b"\n")[0]
        return "instance" if len(head.split()) == 3 else "semantic"

    def read_labels(self, scene_id: str, vocabulary: Vocabulary, *, num_vertices: int) -> npt.NDArray[np.int16]:
        """Return the vocabulary index of every vertex of a scene, -1 for ids outside the vocabulary.

        Raises:
            DataError: The file is missing or does not have one integer per vertex.
        """
        ids = self._integers(f"{scene_id}.txt", num_vertices)
        return _index_of(ids, vocabulary).astype(np.int16)

    def read_instances(self, scene_id: str, vocabulary: Vocabulary, *, num_vertices: int) -> PredictedInstances:
        """Return the predicted objects of a scene. Predictions with ids outside the vocabulary are skipped.

        Raises:
            DataError: The list or a mask is missing or malformed, or a confidence is not finite.
        """
        rows, ids, confidences = [], [], []
        for mask, raw_id, confidence in self._instance_lines(f"{scene_id}.txt"):
            rows.append(np.flatnonzero(self._integers(mask, num_vertices)))
            ids.append(raw_id)
            confidences.append(confidence)
        index = _index_of(np.array(ids, dtype=np.int64), vocabulary)
        known = np.flatnonzero(index >= 0).tolist()
        return PredictedInstances.from_rows(
            [rows[k] for k in known], index[known].tolist(), [confidences[k] for k in known]
        )

    def _instance_lines(self, name: str) -> Iterator[tuple[str, int, float]]:
        text = self._read(name, limit=MAX_INSTANCE_FILE).decode("utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            found = MASK_LINE.fullmatch(line.strip())
            where = f"{self.path}: {name}, line {number}"
            if found is None:
                raise DataError(f"{where}: expected a mask path, a class id and a confidence, got {line[:80]!r}")
            try:
                confidence = float(found["confidence"])
            except ValueError:
                confidence = math.nan
            if not math.isfinite(confidence):
                raise DataError(f"{where}: expected a finite confidence, got {found['confidence']}")
            if not _is_safe(found["path"]):
                raise DataError(f"{where}: the mask {found['path']!r} is outside the submission")
            yield found["path"], int(found["id"]), confidence

    def _integers(self, name: str, count: int) -> npt.NDArray[np.int64]:
        """Return the integers of a file with one per line."""
        data = self._read(name, limit=count * MAX_LINE + MAX_LINE)
        raw = np.frombuffer(data, dtype=np.uint8)
        if len(raw) == 2 * count and (raw[1::2] == ord("\n")).all() and (raw[::2] >> 1 == ord("0") >> 1).all():
            return (raw[::2] - ord("0")).astype(np.int64)  # zeros and ones, the usual form of a mask
        tokens = data.split()
        if len(tokens) != count:
            raise DataError(
                f"{self.path}: {name} has {len(tokens)} values, the scene has {count} vertices: expected one per "
                "vertex of <scene>_vh_clean_2.ply, in its order"
            )
        try:
            return np.array(tokens, dtype=np.bytes_).astype(np.int64) if tokens else np.zeros(0, dtype=np.int64)
        except (ValueError, OverflowError):
            raise DataError(f"{self.path}: {name} has values that are not integers") from None

    def _read(self, name: str, *, limit: int, truncate: bool = False) -> bytes:
        if name not in self.names:
            raise DataError(f"{self.path} has no {name}")
        try:
            with self._zip.open(name) if self._zip is not None else (self.path / name).open("rb") as stream:
                data = stream.read(limit + 1)
        except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
            raise DataError(f"{self.path}: cannot read {name}: {error}") from None
        if len(data) > limit and not truncate:
            raise DataError(f"{self.path}: {name} has more than {limit} bytes, more than one value per vertex needs")
        return data


class SubmissionWriter:
    """Writer of scenes into the zip file of a submission."""

    def __init__(self, archive: zipfile.ZipFile, vocabulary: Vocabulary) -> None:
        self._archive = archive
        self._vocabulary = vocabulary

    def add_labels(self, scene_id: str, labels: npt.NDArray[np.integer]) -> None:
        """Add the semantic prediction of a scene: one class index per vertex. -1 is written as id 0."""
        self._archive.writestr(_entry(f"{scene_id}.txt"), label_text(labels, self._vocabulary))

    def add_instances(self, scene_id: str, predicted: PredictedInstances, *, num_vertices: int) -> None:
        """Add the predicted objects of a scene."""
        lines = []
        for number, (rows, class_, confidence) in enumerate(
            zip(predicted.mask_rows(), predicted.classes.tolist(), predicted.confidences.tolist(), strict=True)
        ):
            name = f"{MASK_FOLDER}/{scene_id}_{number:03d}.txt"
            mask = np.full((num_vertices, 2), ord("0"), dtype=np.uint8)
            mask[rows, 0] = ord("1")
            mask[:, 1] = ord("\n")
            self._archive.writestr(_entry(name), mask.tobytes())
            lines.append(f"{name} {self._vocabulary.ids[class_]} {confidence:.6f}\n")
        self._archive.writestr(_entry(f"{scene_id}.txt"), "".join(lines))


@contextmanager
def write_submission(path: Path, vocabulary: Vocabulary) -> Iterator[SubmissionWriter]:
    """Yield a writer of a zip file that replaces `path` if the block ends without an error.

    Raises:
        DataError: `path` does not end in .zip, or writing failed.
    """
    if path.suffix.lower() != ".zip":
        raise DataError(f"expected a file name that ends in .zip for a submission, got {path}")
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=4) as archive,
    ):
        yield SubmissionWriter(archive, vocabulary)


def label_text(labels: npt.NDArray[np.integer], vocabulary: Vocabulary) -> str:
    """Return one raw id per line for class indices; 0 for indices outside the vocabulary."""
    inside = (labels >= 0) & (labels < len(vocabulary))
    ids = np.where(inside, vocabulary.ids[np.where(inside, labels, 0)], 0)
    return "".join(f"{raw_id}\n" for raw_id in ids.tolist())


def check_submission(
    submission: Submission, scenes: Mapping[str, int], vocabulary: Vocabulary, *, task: Task
) -> list[Problem]:
    """Return the problems that the benchmark's server would reject; an empty list for a valid submission.

    Args:
        submission: Files to check.
        scenes: Number of vertices of every scene of the split.
        vocabulary: Vocabulary with the valid raw ids.
        task: Kind of the predictions.
    """
    problems = _check_names(submission, scenes, task)
    valid = set(vocabulary.ids.tolist())
    if task == "instance":
        valid = set(vocabulary.ids[scored_classes(vocabulary)].tolist())
    for scene_id, num_vertices in scenes.items():
        if f"{scene_id}.txt" not in submission.names:
            continue
        try:
            if task == "semantic":
                found = set(np.unique(submission._integers(f"{scene_id}.txt", num_vertices)).tolist())
            else:
                found = set()
                for mask, raw_id, _ in submission._instance_lines(f"{scene_id}.txt"):
                    values = submission._integers(mask, num_vertices)
                    if not np.isin(values, [0, 1]).all():
                        problems.append(Problem(scene_id, f"{mask} has values other than 0 and 1"))
                    found.add(raw_id)
        except DataError as error:
            problems.append(Problem(scene_id, str(error).removeprefix(f"{submission.path}: ")))
            continue
        unknown = sorted(found - valid)
        if unknown:
            shown = ", ".join(map(str, unknown[:MAX_SHOWN])) + (", ..." if len(unknown) > MAX_SHOWN else "")
            problems.append(Problem(scene_id, f"class ids that the benchmark does not have: {shown}"))
    return problems


def _check_names(submission: Submission, scenes: Mapping[str, int], task: Task) -> list[Problem]:
    expected = {f"{scene_id}.txt" for scene_id in scenes}
    missing = sorted(expected - submission.names)
    extra = sorted(
        name
        for name in submission.names - expected
        if not (task == "instance" and re.fullmatch(rf"{MASK_FOLDER}/[^/]+\.txt", name))
    )
    problems = []
    for names, what in ((missing, "missing"), (extra, "not expected")):
        problems += [Problem("", f"{name} is {what}") for name in names[:MAX_SHOWN]]
        if len(names) > MAX_SHOWN:
            problems.append(Problem("", f"{len(names) - MAX_SHOWN} more files are {what}"))
    if missing and any(PurePosixPath(name).name in expected for name in extra):
        problems.append(Problem("", "the files are in a folder: put them at the root of the zip file"))
    return problems


def _index_of(ids: npt.NDArray[np.int64], vocabulary: Vocabulary) -> npt.NDArray[np.int64]:
    """Return the class index of raw ids, which are ascending in a vocabulary; -1 for others."""
    at = np.minimum(np.searchsorted(vocabulary.ids, ids), len(vocabulary) - 1)
    return np.where(vocabulary.ids[at] == ids, at, -1)


def _is_safe(name: str) -> bool:
    """Return whether a relative path stays inside its folder."""
    parts: Sequence[str] = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and "\\" not in name and ".." not in parts and ":" not in parts[0]


def _entry(name: str) -> zipfile.ZipInfo:
    """Return a zip entry with a fixed date, so that equal predictions give equal files."""
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry
