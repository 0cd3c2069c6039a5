"""S3DIS's raw text format: `Area_1/office_1/Annotations/chair_1.txt` with lines of x, y, z, red, green, blue.

A room is the points of its annotated objects. Area 5 is the validation split. Staircases count as clutter, as is usual.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError
from lg3d_core.scans.files import digest_files, read_file
from lg3d_core.scans.formats.assembly import SceneArrays, assemble, digest_choice, metre_frame
from lg3d_core.scans.formats.groups import RawObject, paint_objects
from lg3d_core.scans.formats.listing import list_scenes
from lg3d_core.scans.formats.names import load_vocabularies
from lg3d_core.scans.formats.raw_folder import RawFolder, RawScene
from lg3d_core.scans.formats.splits import Place, place_of
from lg3d_core.scans.scannet import Scan
from lg3d_core.settings import PrepareSettings
from lg3d_core.vocabulary import Vocabulary

ANNOTATIONS = "Annotations"
SAME_CLASS = {"stairs": "clutter"}
NUM_COLUMNS = 6


@dataclass(frozen=True, kw_only=True)
class S3disScene(RawScene):
    """Room with one text file per object."""

    place: Path
    vocabularies: tuple[Vocabulary, ...]
    scale: str
    up: str

    @property
    def folder(self) -> Path:
        """Folder of the room."""
        return self.place

    @property
    def files(self) -> list[Path]:
        """Text files of the objects."""
        return sorted(path for path in (self.place / ANNOTATIONS).glob("*.txt") if not path.name.startswith("."))

    def read(self) -> Scan:
        """Read the room.

        Raises:
            DataError: A file cannot be read, or there are no points.
        """
        files = self.files
        tables, notes = [], []
        for path in files:
            table, num_bad = _read_table(path)
            tables.append(table)
            if num_bad:
                notes.append(f"{path}: {num_bad} lines are not {NUM_COLUMNS} numbers: they are dropped")
        points = np.concatenate(tables) if tables else np.zeros((0, NUM_COLUMNS))
        if not len(points):
            raise DataError(f"{self.place / ANNOTATIONS}: contains no points, expected files such as chair_1.txt")
        ends = np.cumsum([len(table) for table in tables])
        objects = [
            RawObject(_class_of(path), np.arange(end - len(table), end))
            for path, table, end in zip(files, tables, ends, strict=True)
        ]
        painted = paint_objects(objects, len(points), self.vocabularies)
        arrays = SceneArrays(
            path=self.place,
            xyz=points[:, :3],
            rgb=np.clip(points[:, 3:], 0, 255).astype(np.uint8),
            faces=None,
            normal=None,
            labels=painted.labels,
            instance=painted.instance,
            segment=None,
            warnings=tuple(notes),
        )
        frame = metre_frame(arrays, scale=self.scale, up=self.up)
        digest = digest_files(files)
        return assemble(arrays, frame, scene_id=self.scene_id, vocabularies=self.vocabularies, digest=digest)


def _class_of(path: Path) -> str:
    name = path.stem.rpartition("_")[0] or path.stem
    return SAME_CLASS.get(name, name)


def _read_table(path: Path) -> tuple[npt.NDArray[np.float64], int]:
    """Return the lines of six numbers, and the number of other lines; one published file has a control character."""
    data = read_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            numbers = np.fromstring(data, dtype=np.float64, sep=" ")
        except (DeprecationWarning, ValueError):
            numbers = np.zeros(1)
    lines = [line for line in data.splitlines() if line.strip()]
    if len(numbers) == NUM_COLUMNS * len(lines) and all(len(line.split()) == NUM_COLUMNS for line in lines):
        return numbers.reshape(-1, NUM_COLUMNS), 0
    rows = [row for line in lines if (row := _parse_line(line)) is not None]
    return np.array(rows).reshape(-1, NUM_COLUMNS), len(lines) - len(rows)


def _parse_line(line: bytes) -> list[float] | None:
    try:
        row = [float(word) for word in line.split()]
    except ValueError:
        return None
    return row if len(row) == NUM_COLUMNS else None


def recognise_s3dis(raw: Path) -> str:
    """Return what a folder in this format has, or ""."""
    found = next(iter(_find_rooms(raw)), None)
    return "" if found is None else str((found / ANNOTATIONS).relative_to(raw))


def _find_rooms(raw: Path) -> list[Path]:
    return sorted(path.parent for path in raw.glob(f"Area_*/*/{ANNOTATIONS}") if path.is_dir())


def open_s3dis(settings: PrepareSettings) -> RawFolder:
    """List the rooms of a folder in this format.

    Raises:
        DataError: The folder does not exist or has no rooms.
    """
    raw = settings.raw_folder
    rooms = _find_rooms(raw)
    if not rooms:
        raise DataError(f"{raw} contains no rooms: expected folders such as {raw}/Area_1/office_1/{ANNOTATIONS}")
    vocabularies = load_vocabularies(settings.vocabulary or ("s3dis",))
    table = digest_choice("s3dis", settings.scale, settings.up)

    def scene_of(place: Place, split: str) -> RawScene:
        return S3disScene(
            scene_id=place.scene_id,
            split=split,
            label_table=table,
            place=place.path,
            vocabularies=vocabularies,
            scale=settings.scale,
            up=settings.up,
        )

    return list_scenes(raw, "s3dis", vocabularies, [place_of(raw, room) for room in rooms], table, scene_of)
