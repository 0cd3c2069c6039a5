"""ScanNet++'s format: `data/ID/scans/` with a mesh, `segments.json` and `segments_anno.json`.

Splits come from `splits/`, the classes of the benchmark from `metadata/semantic_benchmark/top100.txt`, and names that
count as one of them from `map_benchmark.csv` beside it. A vertex in several objects belongs to the smallest one.
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError
from lg3d_core.scans.files import digest_contents, parse_json_object, read_file
from lg3d_core.scans.formats.assembly import digest_choice
from lg3d_core.scans.formats.groups import PaintedObjects, RawObject, paint_objects
from lg3d_core.scans.formats.listing import list_scenes
from lg3d_core.scans.formats.mesh_scene import MeshScene
from lg3d_core.scans.formats.names import load_vocabularies, make_vocabulary
from lg3d_core.scans.formats.raw_folder import RawFolder, RawScene
from lg3d_core.scans.formats.splits import Place
from lg3d_core.scans.surface import Surface
from lg3d_core.settings import PrepareSettings
from lg3d_core.vocabulary import Vocabulary

MESH = "mesh_aligned_0.05.ply"
SEGMENTS, ANNOTATION = "segments.json", "segments_anno.json"
BENCHMARK = Path("metadata/semantic_benchmark")
SPLIT_FILES = {
    "splits/nvs_sem_train.txt": "train",
    "splits/nvs_sem_val.txt": "val",
    "splits/sem_test.txt": "test",
    "train.txt": "train",
    "val.txt": "val",
    "test.txt": "test",
}


@dataclass(frozen=True, kw_only=True)
class ScanNetPPScene(MeshScene):
    """Scene with segments and annotated groups of them; `same_class` has names that count as another class."""

    same_class: dict[str, str]

    def paint(self, surface: Surface) -> PaintedObjects:
        """Return the labels, objects and segments of the vertices.

        Raises:
            DataError: A file is invalid, or belongs to another mesh.
        """
        path, groups_path = self.annotation
        values = _whole_numbers(parse_json_object(read_file(path), path).get("segIndices"), "segIndices", path)
        if len(values) != surface.num_vertices:
            raise DataError(
                f"{path}: segIndices has {len(values)} entries, expected {surface.num_vertices}, one per vertex of "
                f"{MESH}"
            )
        known, segment = np.unique(values, return_inverse=True)
        groups = parse_json_object(read_file(groups_path), groups_path).get("segGroups")
        if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
            raise DataError(f"{groups_path}: expected a list segGroups of objects")
        objects = []
        for k, group in enumerate(groups):
            if not isinstance(group.get("label"), str):
                raise DataError(f"{groups_path}: group {k} has no label")
            ids = _whole_numbers(group.get("segments"), f"segments of group {k}", groups_path)
            name = group["label"]
            objects.append(RawObject(self.same_class.get(name, name), np.flatnonzero(np.isin(known, ids)[segment])))
        if objects and not any(len(one.rows) for one in objects):
            raise DataError(f"{groups_path}: no group refers to a segment of the mesh: does it belong to another scan?")
        painted = paint_objects(objects, surface.num_vertices, self.vocabularies)
        return painted._replace(segment=segment.astype(np.int32))


def _whole_numbers(value: Any, what: str, path: Path) -> npt.NDArray[np.int64]:
    if not isinstance(value, list) or not set(map(type, value)) <= {int}:
        raise DataError(f"{path}: expected {what} as a list of integers")
    try:
        return np.array(value, dtype=np.int64)
    except OverflowError:
        raise DataError(f"{path}: {what} has a number that is too large") from None


def recognise_scannetpp(raw: Path) -> str:
    """Return what a folder in this format has, or ""."""
    found = next(iter(_find_meshes(raw)), None)
    return "" if found is None else str(found.relative_to(raw))


def _find_meshes(raw: Path) -> list[Path]:
    return sorted(raw.glob(f"data/*/scans/{MESH}"))


def open_scannetpp(settings: PrepareSettings) -> RawFolder:
    """List the scenes of a folder in this format.

    Raises:
        DataError: The folder has no scenes, or has no class names.
    """
    raw = settings.raw_folder
    meshes = _find_meshes(raw)
    if not meshes:
        raise DataError(f"{raw} contains no scenes: expected files such as {raw}/data/0a5c013435/scans/{MESH}")
    vocabularies = load_vocabularies(settings.vocabulary) if settings.vocabulary else (_read_classes(raw),)
    same_class, mapping = _read_mapping(raw / BENCHMARK / "map_benchmark.csv")
    table = digest_choice("scannetpp", mapping, settings.scale, settings.up)

    def scene_of(place: Place, split: str) -> RawScene:
        return ScanNetPPScene(
            scene_id=place.scene_id,
            split=split,
            label_table=table,
            mesh=place.path / MESH,
            annotation=(place.path / SEGMENTS, place.path / ANNOTATION),
            vocabularies=vocabularies,
            scale=settings.scale,
            up=settings.up,
            same_class=same_class,
        )

    places = [Place(mesh.parent.parent.name, mesh.parent, None) for mesh in meshes]
    return list_scenes(raw, "scannetpp", vocabularies, places, table, scene_of, split_files=SPLIT_FILES)


def _read_classes(raw: Path) -> Vocabulary:
    path = raw / BENCHMARK / "top100.txt"
    if not path.is_file():
        raise DataError(f"{path}: missing: download the metadata of ScanNet++, or pass --vocabulary FILE")
    names = [line.strip() for line in _read_text(path).splitlines() if line.strip()]
    try:
        return make_vocabulary("scannetpp", [{"id": index, "name": name} for index, name in enumerate(names)])
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None


def _read_mapping(path: Path) -> tuple[dict[str, str], str]:
    """Return the class that a name counts as, and the digest of the table; both empty without one."""
    if not path.is_file():
        return {}, ""
    data = read_file(path)
    found = {}
    for row in csv.DictReader(io.StringIO(_read_text(path))):
        name, target = (row.get("class") or "").strip(), (row.get("semantic_map_to") or "").strip()
        if name and target and target != "None":
            found[name] = target
    return found, digest_contents([(path, data)])


def _read_text(path: Path) -> str:
    try:
        return read_file(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
