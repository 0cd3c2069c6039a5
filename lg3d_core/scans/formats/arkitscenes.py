"""ARKitScenes' format: `Training/ID/ID_3dod_mesh.ply` with oriented boxes in `ID_3dod_annotation.json`.

The annotation has boxes only: a vertex belongs to the smallest box that contains it. Floor and walls have no label, and
points of the floor inside a box get the label of the box.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError
from lg3d_core.scans.files import parse_json_object, read_file
from lg3d_core.scans.formats.assembly import digest_choice
from lg3d_core.scans.formats.groups import PaintedObjects, RawObject, paint_objects
from lg3d_core.scans.formats.listing import list_scenes
from lg3d_core.scans.formats.mesh_scene import MeshScene
from lg3d_core.scans.formats.names import load_vocabularies
from lg3d_core.scans.formats.raw_folder import RawFolder, RawScene
from lg3d_core.scans.formats.splits import Place, place_of
from lg3d_core.scans.surface import Surface
from lg3d_core.settings import PrepareSettings

MESH, ANNOTATION = "_3dod_mesh.ply", "_3dod_annotation.json"


@dataclass(frozen=True, kw_only=True)
class ARKitScene(MeshScene):
    """Mesh with oriented boxes."""

    def paint(self, surface: Surface) -> PaintedObjects:
        """Return the labels and objects of the vertices.

        Raises:
            DataError: The annotation is invalid.
        """
        (path,) = self.annotation
        boxes = parse_json_object(read_file(path), path).get("data")
        if not isinstance(boxes, list):
            raise DataError(f"{path}: expected a list data of boxes")
        xyz = surface.positions(0, surface.num_vertices)
        objects = [_find_points(xyz, box, k, path) for k, box in enumerate(boxes)]
        return paint_objects(objects, len(xyz), self.vocabularies)


def _find_points(xyz: npt.NDArray[np.float64], box: Any, k: int, path: Path) -> RawObject:
    """Return the points inside a box; the rows of `normalizedAxes` are the axes of the box."""
    try:
        name = str(box["label"]).replace("_", " ")
        shape = box["segments"]["obbAligned"]
        center = np.array(shape["centroid"], dtype=np.float64).reshape(3)
        lengths = np.array(shape["axesLengths"], dtype=np.float64).reshape(3)
        axes = np.array(shape["normalizedAxes"], dtype=np.float64).reshape(3, 3)
        if not (np.isfinite(center).all() and np.isfinite(lengths).all() and np.isfinite(axes).all()):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"{path}: box {k} has no label, or no segments.obbAligned with centroid, axesLengths and normalizedAxes"
        ) from None
    with np.errstate(invalid="ignore"):
        inside = (np.abs((xyz - center) @ axes.T) <= lengths / 2).all(axis=1)
    return RawObject(name, np.flatnonzero(inside))


def recognise_arkitscenes(raw: Path) -> str:
    """Return what a folder in this format has, or ""."""
    found = next(iter(_find_meshes(raw)), None)
    return "" if found is None else str(found.relative_to(raw))


def _find_meshes(raw: Path) -> list[Path]:
    return sorted([*raw.glob(f"*/*/*{MESH}"), *raw.glob(f"*/*{MESH}")])


def open_arkitscenes(settings: PrepareSettings) -> RawFolder:
    """List the scenes of a folder in this format.

    Raises:
        DataError: The folder does not exist or has no scenes.
    """
    raw = settings.raw_folder
    meshes = _find_meshes(raw)
    if not meshes:
        raise DataError(f"{raw} contains no scenes: expected files such as {raw}/Training/47333462/47333462{MESH}")
    vocabularies = load_vocabularies(settings.vocabulary or ("arkitscenes",))
    table = digest_choice("arkitscenes", settings.scale, settings.up)

    def scene_of(place: Place, split: str) -> RawScene:
        name = place.path.name
        return ARKitScene(
            scene_id=place.scene_id,
            split=split,
            label_table=table,
            mesh=place.path / f"{name}{MESH}",
            annotation=(place.path / f"{name}{ANNOTATION}",),
            vocabularies=vocabularies,
            scale=settings.scale,
            up=settings.up,
        )

    places = [place_of(raw, mesh.parent) for mesh in meshes]
    return list_scenes(raw, "arkitscenes", vocabularies, places, table, scene_of)
