"""Write and read predictions in the format of the ScanNet and ScanNet200 benchmarks.

A submission is a zip file, or a folder with the same files:

- semantic: `<scene>.txt` with one raw class id per vertex and line, in mesh order;
- instance: `<scene>.txt` with one prediction per line, `predicted_masks/<name>.txt <raw class id> <confidence>`, and
  mask files with one 0 or 1 per vertex and line.

Zip files are never extracted: entries are read by name, up to the size that a valid file could have. Links and paths
that leave the submission are refused.

Source: "Submission policy" and "Data formats" of the ScanNet benchmark's documentation.
"""

import io
import lzma
import math
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError
from lg3d_core.evaluation.instances import PredictedInstances
from lg3d_core.files import atomic_path, recognise_foreign
from lg3d_core.vocabulary import Vocabulary

Task = Literal["semantic", "instance"]

MASK_FOLDER = "predicted_masks"
"""Folder of the masks that lg3d writes. Other submissions may use any folder."""
MAX_LINE = 32
"""Maximum bytes of a number with its line end."""
MAX_INSTANCE_FILE = 1 << 24
"""Maximum bytes of the list of a scene's predictions."""
MAX_PREDICTIONS = 10_000
"""Maximum number of predicted objects of a scene. The benchmark states no limit; a room has far fewer objects."""
MAX_UNCOUNTED = 1 << 26
"""Maximum number of values in a file of a scene whose number of vertices is unknown."""
MASK_LINE = re.compile(r"\s*(?P<path>\S.*\S|\S)\s+(?P<id>[+-]?\d{1,18})(\.0*)?\s+(?P<confidence>\S+)\s*")
INTEGER = re.compile(rb"[+-]?\d{1,18}")
DAMAGED = (OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
"""What zipfile raises for a damaged, encrypted or unsupported entry."""
ZERO, ONE = (np.frombuffer(text, dtype=np.uint16)[0] for text in (b"0\n", b"1\n"))

IntArray = npt.NDArray[np.int64]


class PredictedLine(NamedTuple):
    """One line of the list of a scene's predicted objects.

    Attributes:
        number: Number of the line, from 1.
        mask: Path of the mask in the submission.
        raw_id: Raw class id, 0 or more.
        confidence: Confidence, finite.
    """

    number: int
    mask: str
    raw_id: int
    confidence: float


class Submission:
    """Files of a submission, in a folder or a zip file."""

    def __init__(self, path: Path) -> None:
        """List the files.

        Raises:
            DataError: `path` is neither a folder nor a zip file, or it has links, unsafe paths or no files.
        """
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        try:
            if path.is_dir():
                names = list(_files_in(path))
            elif path.is_file():
                self._zip = zipfile.ZipFile(path)
                names = [name for name in self._zip.namelist() if not name.endswith("/")]
            else:
                raise DataError(f"no predictions at {path}: expected a folder or a zip file in the benchmark's format")
        except DAMAGED as error:
            foreign = recognise_foreign(path)
            raise DataError(
                f"{path} is {foreign}"
                if foreign
                else f"cannot read {path} as a zip file or folder of predictions: {error}"
            ) from None
        try:
            self._require_safe(names)
        except DataError:
            self.close()
            raise
        self.names = frozenset(names)

    def _require_safe(self, names: Sequence[str]) -> None:
        if not names:
            raise DataError(f"{self.path} has no files: expected one <scene>.txt per scene")
        unsafe = [name for name in names if not is_safe_path(name)]
        if unsafe:
            raise DataError(f"{self.path} has an entry {unsafe[0]!r} that points outside it: expected relative paths")
        if self._zip is not None:
            links = [entry.filename for entry in self._zip.infolist() if stat.S_ISLNK(entry.external_attr >> 16)]
            if links:
                raise DataError(f"{self.path} has a symbolic link {links[0]!r}: expected the file itself")
        if len(set(names)) != len(names):
            raise DataError(f"{self.path} has two entries of the same name: expected one file per scene")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the zip file."""
        if self._zip is not None:
            self._zip.close()

    @property
    def num_bytes(self) -> int:
        """Total size of the files, unpacked, in bytes."""
        if self._zip is not None:
            return sum(entry.file_size for entry in self._zip.infolist())
        return sum((self.path / name).stat().st_size for name in self.names)

    @property
    def scene_ids(self) -> list[str]:
        """Ids of the scenes that have a file at the root, sorted."""
        return sorted(name.removesuffix(".txt") for name in self.names if "/" not in name and name.endswith(".txt"))

    @property
    def task(self) -> Task:
        """Kind of the predictions: instance if the first line of a scene has three values, or if no scene has any.

        Raises:
            DataError: There is no text file at the root, or it cannot be read.
        """
        if not self.scene_ids:
            raise DataError(
                f"{self.path} has no <scene>.txt at its root: expected one file per scene, and not inside a folder"
            )
        for scene_id in self.scene_ids:
            start = self._read(f"{scene_id}.txt", limit=4096, truncate=True).split(b"\n")
            values = next((line.split() for line in start if line.strip()), [])
            if values:
                return "instance" if len(values) == 3 else "semantic"
        return "instance"

    def read_labels(self, scene_id: str, vocabulary: Vocabulary, *, num_vertices: int) -> npt.NDArray[np.int16]:
        """Return the vocabulary index of every vertex of a scene, -1 for ids outside the vocabulary.

        Raises:
            DataError: The file is missing or does not have one integer of 0 or more per vertex.
        """
        return class_indices(self.read_ids(scene_id, num_vertices=num_vertices), vocabulary).astype(np.int16)

    def read_ids(self, scene_id: str, *, num_vertices: int | None) -> npt.NDArray[np.integer]:
        """Return the raw class id of every vertex of a scene.

        Args:
            scene_id: Id of the scene.
            num_vertices: Number of vertices of the scene; None accepts any.

        Raises:
            DataError: The file is missing or does not have one integer of 0 or more per vertex.
        """
        name = f"{scene_id}.txt"
        ids = self.read_values(name, num_vertices=num_vertices)
        self._require_not_negative(ids, name, "the class id", hint=" (0 for no class)")
        return ids

    def read_instances(self, scene_id: str, vocabulary: Vocabulary, *, num_vertices: int) -> PredictedInstances:
        """Return the predicted objects of a scene. Predictions with ids outside the vocabulary are skipped.

        Raises:
            DataError: The list or a mask is missing or malformed, an id is negative, or a confidence is not finite.
        """
        known = [own for own in self.iterate_masks(scene_id, vocabulary, num_vertices=num_vertices) if own[1] >= 0]
        rows, classes, confidences = zip(*known, strict=True) if known else ((), (), ())
        return PredictedInstances.from_rows(rows, classes, confidences)

    def iterate_masks(
        self, scene_id: str, vocabulary: Vocabulary, *, num_vertices: int
    ) -> Iterator[tuple[IntArray, int, float]]:
        """Yield vertices, class index and confidence of the predicted objects of a scene, one mask in memory at a time.

        The class index is -1 for ids outside the vocabulary. Of several lines with the same mask only the last one
        counts, as in the benchmark, which stores them by path.

        Raises:
            DataError: The list or a mask is missing or malformed, an id is negative, or a confidence is not finite.
        """
        lines = list({line.mask: line for line in self.read_lines(scene_id)}.values())
        index = class_indices(np.array([line.raw_id for line in lines], dtype=np.int64), vocabulary)
        for line, class_ in zip(lines, index.tolist(), strict=True):
            yield self.read_mask(line.mask, num_vertices=num_vertices), class_, line.confidence

    def read_lines(self, scene_id: str) -> Iterator[PredictedLine]:
        """Yield the predicted objects of a scene, in order.

        Raises:
            DataError: The file is missing or too large, it has too many lines, or a line is malformed.
        """
        for number, line in enumerate(self.list_lines(scene_id), start=1):
            if line.strip():
                yield self.parse_line(scene_id, number, line)

    def list_lines(self, scene_id: str) -> list[str]:
        """Return the lines of a scene's list of predicted objects, without line ends.

        Raises:
            DataError: The file is missing or too large, or it has too many lines.
        """
        text = self._read(f"{scene_id}.txt", limit=MAX_INSTANCE_FILE).decode("utf-8", errors="replace")
        lines = io.StringIO(text, newline=None).read().removesuffix("\n").split("\n")
        if sum(bool(line.strip()) for line in lines) > MAX_PREDICTIONS:
            raise DataError(
                f"{self.path}: {scene_id}.txt has more than {MAX_PREDICTIONS:,} predictions: remove those of low "
                "confidence"
            )
        return lines if text else []

    def parse_line(self, scene_id: str, number: int, line: str) -> PredictedLine:
        """Return the mask, id and confidence of a line.

        Raises:
            DataError: The line is malformed, the id is negative, the confidence is not finite, or the mask is outside
                the submission.
        """
        where = f"{self.path}: {scene_id}.txt, line {number}"
        found = MASK_LINE.fullmatch(line)
        if found is None:
            raise DataError(f"{where}: expected a mask path, a class id and a confidence, got {line[:80]!r}")
        raw_id = int(found["id"])
        if raw_id < 0:
            raise DataError(f"{where}: the class id {raw_id} is negative: expected an id of the vocabulary")
        try:
            confidence = float(found["confidence"])
        except ValueError:
            confidence = math.nan
        if not math.isfinite(confidence):
            raise DataError(f"{where}: expected a finite confidence, got {found['confidence']}")
        if not is_safe_path(found["path"]):
            raise DataError(
                f"{where}: the mask {found['path']!r} is outside the submission: expected a path such as "
                f"{MASK_FOLDER}/{scene_id}_000.txt"
            )
        return PredictedLine(number, PurePosixPath(found["path"]).as_posix(), raw_id, confidence)

    def read_mask(self, name: str, *, num_vertices: int) -> IntArray:
        """Return the vertices of a mask, ascending: those with a value other than 0, as in the benchmark.

        Raises:
            DataError: The file is missing or does not have one integer of 0 or more per vertex.
        """
        values = self.read_values(name, num_vertices=num_vertices)
        self._require_not_negative(values, name, "the value")
        return np.flatnonzero(values)

    def read_values(self, name: str, *, num_vertices: int | None, strict: bool = False) -> npt.NDArray[np.integer]:
        """Return the integers of a file with one per line.

        Args:
            name: Path in the submission.
            num_vertices: Expected number of values; None accepts any.
            strict: Whether to reject empty lines and lines of several values, as the benchmark does.

        Raises:
            DataError: The file is missing or does not have that many integers.
        """
        limit = MAX_UNCOUNTED if num_vertices is None else num_vertices
        return self._parse(name, self._read(name, limit=limit * MAX_LINE + MAX_LINE), num_vertices, strict=strict)

    def _parse(self, name: str, data: bytes, count: int | None, *, strict: bool) -> npt.NDArray[np.integer]:
        mask = _zeros_and_ones(data)
        if mask is not None and count in (None, len(mask)):
            return mask
        tokens = data.split()
        if count is not None and len(tokens) != count:
            raise DataError(
                f"{self.path}: {name} has {len(tokens)} values, the scene has {count} vertices: expected one per "
                "vertex of <scene>_vh_clean_2.ply, in its order"
            )
        sizes = [len(line.split()) for line in data.splitlines()] if strict else []
        wrong = next((number for number, size in enumerate(sizes, start=1) if size != 1), None)
        if wrong is not None:
            raise DataError(f"{self.path}: {name} has {sizes[wrong - 1]} values in line {wrong}: expected one per line")
        # An array of text has the width of its longest entry, and numpy accepts underscores.
        if max(map(len, tokens), default=0) <= MAX_LINE and b"_" not in data:
            with suppress(ValueError, OverflowError):
                return np.array(tokens, dtype=np.bytes_).astype(np.int64) if tokens else np.zeros(0, dtype=np.int64)
        number, token = next((k, token) for k, token in enumerate(tokens, start=1) if not INTEGER.fullmatch(token))
        shown = token[:40].decode("utf-8", errors="replace")
        raise DataError(f"{self.path}: {name} has {shown!r} as value {number}: expected integers, without decimals")

    def _require_not_negative(self, values: npt.NDArray[np.integer], name: str, what: str, *, hint: str = "") -> None:
        if len(values) and values.min() < 0:
            row = int(np.flatnonzero(values < 0)[0])
            raise DataError(f"{self.path}: {name} has {what} {values[row]} for vertex {row}: expected 0 or more{hint}")

    def _read(self, name: str, *, limit: int, truncate: bool = False) -> bytes:
        if name not in self.names:
            raise DataError(f"{self.path} has no {name}")
        try:
            with self._zip.open(name) if self._zip is not None else (self.path / name).open("rb") as stream:
                data = stream.read(limit + 1)
        except DAMAGED as error:
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
            exact = np.format_float_positional(confidence, trim="0")
            lines.append(f"{name} {self._vocabulary.ids[class_]} {exact}\n")
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


def class_indices(ids: npt.NDArray[np.integer], vocabulary: Vocabulary) -> IntArray:
    """Return the class index of raw ids, which are ascending in a vocabulary; -1 for others."""
    at = np.minimum(np.searchsorted(vocabulary.ids, ids), len(vocabulary) - 1)
    return np.where(vocabulary.ids[at] == ids, at, -1)


def is_safe_path(name: str) -> bool:
    """Return whether a relative path stays inside its folder."""
    parts: Sequence[str] = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and "\\" not in name and ".." not in parts and ":" not in parts[0]


def _files_in(folder: Path) -> Iterator[str]:
    """Yield the relative paths of the files of a folder and its folders, sorted.

    Raises:
        DataError: There is a link.
    """
    for file in sorted(folder.rglob("*")):
        if file.is_symlink():
            raise DataError(f"{folder} has a symbolic link {file.relative_to(folder)}: expected the file itself")
        if file.is_file():
            yield file.relative_to(folder).as_posix()


def _zeros_and_ones(data: bytes) -> npt.NDArray[np.uint8] | None:
    """Return the values of the usual form of a mask, a 0 or 1 and a line feed per line; None for any other text."""
    if len(data) % 2:
        data += b"\n"
    lines = np.frombuffer(data, dtype=np.uint16)
    inside = lines == ONE
    usual = np.count_nonzero(inside) + np.count_nonzero(lines == ZERO) == len(lines)
    return inside.view(np.uint8) if usual else None


def _entry(name: str) -> zipfile.ZipInfo:
    """Return a zip entry with a fixed date, so that equal predictions give equal files."""
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry
