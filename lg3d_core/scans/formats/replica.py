"""Replica's format: `SCENE/habitat/mesh_semantic.ply`, whose faces have an object id, and `info_semantic.json`.

The faces are quads. A vertex belongs to the object of most of its faces.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError
from lg3d_core.scans.files import parse_json_object, read_file
from lg3d_core.scans.formats.assembly import MappedLabels, as_whole_numbers, digest_choice, map_ids
from lg3d_core.scans.formats.groups import PaintedObjects
from lg3d_core.scans.formats.listing import list_scenes
from lg3d_core.scans.formats.mesh_scene import MeshScene
from lg3d_core.scans.formats.names import load_vocabularies, make_vocabulary
from lg3d_core.scans.formats.raw_folder import RawFolder, RawScene
from lg3d_core.scans.formats.splits import Place, place_of
from lg3d_core.scans.ply import read_face_values
from lg3d_core.scans.scannet import MAX_ID
from lg3d_core.scans.surface import Surface
from lg3d_core.settings import PrepareSettings
from lg3d_core.vocabulary import Vocabulary

MESH, INFO = "habitat/mesh_semantic.ply", "info_semantic.json"
NO_OBJECT = -1


@dataclass(frozen=True, kw_only=True)
class ReplicaScene(MeshScene):
    """Scene whose faces have an object id."""

    def paint(self, surface: Surface) -> PaintedObjects:
        """Return the labels and objects of the vertices.

        Raises:
            DataError: A file is invalid.
        """
        (path,) = self.annotation
        names = _object_names(parse_json_object(read_file(path), path), path)
        object_ids = _vertex_objects(self.mesh, surface.num_vertices)
        ids = np.array(sorted(names), dtype=np.int64)
        labels = []
        for vocabulary in self.vocabularies:
            found = map_ids(object_ids, ids, source=str(path))  # place of each object in `ids`
            index = np.array([vocabulary.index_by_name.get(names[int(k)], -1) for k in ids], dtype=np.int16)
            label = np.append(index, np.int16(-1))[found.label]
            missing = [names[int(ids[k])] for k in np.unique(found.label[(label < 0) & (found.label >= 0)])]
            unmapped = {name: missing.count(name) for name in missing if name}
            labels.append(MappedLabels(label, unmapped))
        known = np.isin(object_ids, ids)
        return PaintedObjects(labels, np.where(known, object_ids + 1, 0).astype(np.int32))


def _vertex_objects(mesh: Path, num_vertices: int) -> npt.NDArray[np.int64]:
    """Return the most frequent object id of the faces of each vertex, the smallest of several, -1 without a face."""
    faces = read_face_values(mesh, "object_id")
    values = as_whole_numbers(faces.values, source=f"{mesh}: object_id")
    owner = np.repeat(values, faces.counts)
    pairs, counts = np.unique(np.stack([faces.corners, owner], axis=1), axis=0, return_counts=True)
    order = np.lexsort((pairs[:, 1], -counts, pairs[:, 0]))
    first = order[np.unique(pairs[order, 0], return_index=True)[1]]
    found = np.full(num_vertices, NO_OBJECT, dtype=np.int64)
    found[pairs[first, 0]] = pairs[first, 1]
    return found


def _object_names(info: dict[str, Any], path: Path) -> dict[int, str]:
    """Return the class name of each object; "" for objects without a class."""
    objects = info.get("objects")
    try:
        if not isinstance(objects, list):
            raise TypeError
        names = {int(one["id"]): str(one["class_name"]) if int(one.get("class_id", 0)) >= 0 else "" for one in objects}
        if not all(NO_OBJECT <= number <= MAX_ID for number in names):
            raise ValueError
    except (KeyError, TypeError, ValueError, OverflowError):
        raise DataError(f"{path}: expected a list objects with id (up to {MAX_ID}), class_id and class_name") from None
    return names


def _read_classes(paths: list[Path]) -> Vocabulary:
    """Return the classes of all scenes."""
    found: dict[int, str] = {}
    for path in paths:
        classes = parse_json_object(read_file(path), path).get("classes")
        try:
            if not isinstance(classes, list):
                raise TypeError
            own = {int(one["id"]): str(one["name"]) for one in classes if int(one["id"]) >= 0}
        except (KeyError, TypeError, ValueError, OverflowError):
            raise DataError(f"{path}: expected a list classes with id and name") from None
        for number, name in own.items():
            if found.setdefault(number, name) != name:
                raise DataError(f"{path}: class {number} is {name!r}, and {found[number]!r} in another scene")
    try:
        return make_vocabulary("replica", [{"id": number, "name": name} for number, name in found.items()])
    except ValueError as error:
        raise DataError(f"{paths[0]}: {error}: pass --vocabulary FILE") from None


def recognise_replica(raw: Path) -> str:
    """Return what a folder in this format has, or ""."""
    found = next(iter(_find_meshes(raw)), None)
    return "" if found is None else str(found.relative_to(raw))


def _find_meshes(raw: Path) -> list[Path]:
    return sorted([*raw.glob(f"*/{MESH}"), *raw.glob(f"*/*/{MESH}")])


def open_replica(settings: PrepareSettings) -> RawFolder:
    """List the scenes of a folder in this format.

    Raises:
        DataError: The folder has no scenes, or has no class names.
    """
    raw = settings.raw_folder
    meshes = _find_meshes(raw)
    if not meshes:
        raise DataError(f"{raw} contains no scenes: expected files such as {raw}/room_0/{MESH}")
    infos = [path for mesh in meshes if (path := mesh.with_name(INFO)).is_file()]
    if not settings.vocabulary and not infos:
        raise DataError(f"{meshes[0].with_name(INFO)}: missing: it has the class names")
    vocabularies = load_vocabularies(settings.vocabulary) if settings.vocabulary else (_read_classes(infos),)
    table = digest_choice("replica", settings.scale, settings.up)

    def scene_of(place: Place, split: str) -> RawScene:
        return ReplicaScene(
            scene_id=place.scene_id,
            split=split,
            label_table=table,
            mesh=place.path / MESH,
            annotation=((place.path / MESH).with_name(INFO),),
            vocabularies=vocabularies,
            scale=settings.scale,
            up=settings.up,
        )

    places = [place_of(raw, mesh.parent.parent) for mesh in meshes]
    return list_scenes(raw, "replica", vocabularies, places, table, scene_of)
