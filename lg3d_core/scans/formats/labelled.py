"""The user's own labelled scans: one PLY, PCD, LAS, LAZ or npz file per scene, with a label at each vertex.

The label is a number in a named property, a class name (npz), or the vertex's colour. Splits come from folders `train`,
`val` and `test`, or from files `train.txt`, `val.txt` and `test.txt`. Class names come from a vocabulary file, or from
`classes.tsv` or `classes.json` in the folder.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.arrays import read_npz
from lg3d_core.errors import DataError, UsageError
from lg3d_core.scans.colors import colors_as_bytes
from lg3d_core.scans.files import MAX_FILE_BYTES, digest_files
from lg3d_core.scans.formats.assembly import (
    MappedLabels,
    SceneArrays,
    as_objects,
    assemble,
    digest_choice,
    map_colors,
    map_ids,
    map_names,
    no_labels,
    require_length,
)
from lg3d_core.scans.formats.listing import list_scenes
from lg3d_core.scans.formats.names import find_names, load_vocabularies, missing_names, require_labels
from lg3d_core.scans.formats.raw_folder import RawFolder, RawScene
from lg3d_core.scans.formats.splits import Place, place_of
from lg3d_core.scans.frame import find_frame
from lg3d_core.scans.las import open_las_columns
from lg3d_core.scans.open_scan import open_scan, require_scan
from lg3d_core.scans.pcd import open_pcd_columns
from lg3d_core.scans.ply import open_ply_columns
from lg3d_core.scans.scannet import DENSE_MESH_SUFFIX, MESH_SUFFIX, Scan
from lg3d_core.scans.surface import Column, Surface, held_column, surface_in_memory
from lg3d_core.settings import PrepareSettings
from lg3d_core.vocabulary import Vocabulary

OPENERS: dict[str, Callable[[Path], tuple[Surface, dict[str, Column]]]] = {
    ".ply": open_ply_columns,
    ".pcd": open_pcd_columns,
    ".las": open_las_columns,
    ".laz": open_las_columns,
}
SUFFIXES = (*OPENERS, ".npz")
LABELS_STEMS = (".labels", "_labels")
"""Ends of the stem of a second file whose vertex colours are the labels of a scene."""
COLOR = "color"
PREFIX = "scalar_"
"""Prefix that CloudCompare adds to the names of properties."""
LABEL_NAMES = (
    "label", "labels", "class", "classes", "class_id", "category", "category_id", "semantic", "semantics",
    "semantic_label", "semantic_id", "sem_label", "classification",
)  # fmt: skip
OBJECT_NAMES = (
    "instance", "instances", "instance_id", "instance_ids", "instance_label", "ins_label", "object", "objects",
    "object_id", "object_ids", "objectid",
)  # fmt: skip
XYZ_NAMES = ("xyz", "coord", "coords", "points", "positions", "vertices")
RGB_NAMES = ("rgb", "color", "colors")
FACES_NAMES = ("faces", "face", "triangles")
NORMAL_NAMES = ("normal", "normals")
MAX_DEPTH = 3


class _File(NamedTuple):
    """Content of one file: its surface, number properties by name, and normals."""

    surface: Surface
    columns: Mapping[str, Column]
    normal: npt.NDArray[np.floating] | None


@dataclass(frozen=True, kw_only=True)
class LabelledScene(RawScene):
    """Scene in one file, and a second one if colours of another file are the labels."""

    path: Path
    labels_path: Path | None
    vocabularies: tuple[Vocabulary, ...]
    labels: tuple[str, ...]
    object_ids: str | None
    scale: str
    up: str

    @property
    def folder(self) -> Path:
        """File of the scene."""
        return self.path

    @property
    def files(self) -> list[Path]:
        """File of the scene, and that of the label colours."""
        return [self.path] if self.labels_path is None else [self.path, self.labels_path]

    def read(self) -> Scan:
        """Read the scene.

        Raises:
            DataError: The file is missing or damaged, or lacks the labels.
            MissingDependencyError: The format needs a package that is not installed.
        """
        file = _open(self.path)
        surface = file.surface
        num_points = surface.num_vertices
        labels = [self._read_labels(file, k, vocabulary) for k, vocabulary in enumerate(self.vocabularies)]
        colored = COLOR in self.labels and self.labels_path is None
        rgb = None if surface.colors is None or colored else surface.colors(0, num_points)
        warnings = [f"{self.path}: {doubt}" for doubt in surface.doubts]
        if rgb is None:
            reason = "its colours are the labels" if colored else "no colours"
            warnings.append(f"{self.path}: {reason}: using grey, which reduces accuracy")
        frame = find_frame(surface, scale=self.scale, up=self.up)
        arrays = SceneArrays(
            path=self.path,
            xyz=surface.positions(0, num_points),
            rgb=rgb,
            faces=surface.faces if len(surface.faces) else None,
            normal=None if len(surface.faces) else file.normal,
            labels=labels,
            instance=self._read_objects(file),
            segment=None,
            warnings=tuple(warnings),
        )
        frame = frame._replace(doubts=tuple(f"{self.path}: {doubt}" for doubt in frame.doubts))
        digest = digest_files(self.files)
        return assemble(arrays, frame, scene_id=self.scene_id, vocabularies=self.vocabularies, digest=digest)

    def _read_labels(self, file: _File, k: int, vocabulary: Vocabulary) -> MappedLabels:
        num_points = file.surface.num_vertices
        wanted = self.labels[k] if self.labels else None
        if wanted == COLOR:
            return self._read_colors(file, vocabulary)
        name = _find(file.columns, (wanted,) if wanted else LABEL_NAMES)
        if name is None:
            if self.split == "test":
                return no_labels(num_points)
            looked = f"no property {wanted}" if wanted else f"no property {', '.join(LABEL_NAMES[:4])} or alike"
            raise DataError(
                f"{self.path}: {looked}; it has {', '.join(file.columns) or 'none'}: pass --labels with one of them, "
                f"or --labels {COLOR} if the colours are the labels"
            )
        source = f"{self.path}: {name}"
        values = require_length(file.columns[name](), num_points, source=source)
        return (
            map_names(values, vocabulary)
            if values.dtype.kind == "U"
            else map_ids(values, vocabulary.ids, source=source)
        )

    def _read_colors(self, file: _File, vocabulary: Vocabulary) -> MappedLabels:
        path = self.path if self.labels_path is None else self.labels_path
        surface = file.surface if self.labels_path is None else open_scan(path)
        num_points = file.surface.num_vertices
        if surface.num_vertices != num_points:
            raise DataError(f"{path}: {surface.num_vertices} vertices, expected {num_points} as in {self.path.name}")
        if surface.colors is None:
            raise DataError(f"{path}: no colours, expected those of the classes of {vocabulary.name}")
        return map_colors(surface.colors(0, num_points), vocabulary, path=path)

    def _read_objects(self, file: _File) -> npt.NDArray[np.int32] | None:
        if self.object_ids == "none":
            return None
        name = _find(file.columns, (self.object_ids,) if self.object_ids else OBJECT_NAMES)
        if name is None:
            if self.object_ids and self.split != "test":
                found = ", ".join(file.columns) or "none"
                raise DataError(
                    f"{self.path}: no property {self.object_ids}; it has {found}: pass --object-ids with one of them"
                )
            return None
        source = f"{self.path}: {name}"
        return as_objects(require_length(file.columns[name](), file.surface.num_vertices, source=source), source=source)


def _open(path: Path) -> _File:
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return _open_npz(path)
    require_scan(path)
    surface, columns = OPENERS[suffix](path)
    if surface.num_vertices == 0:
        raise DataError(f"{path}: the scan has no vertices")
    axes = [_find(columns, (name,)) for name in ("nx", "ny", "nz")]
    if None in axes:
        axes = [_find(columns, (f"normal_{axis}",)) for axis in "xyz"]
    normal = None
    if None not in axes:
        normal = np.stack([columns[str(axis)]().astype(np.float64) for axis in axes], axis=1)
    return _File(surface, columns, normal)


def _open_npz(path: Path) -> _File:
    arrays = read_npz(path, max_bytes=MAX_FILE_BYTES)
    columns = {name: held_column(values) for name, values in arrays.items()}

    def find(names: Sequence[str], kinds: str) -> npt.NDArray[Any] | None:
        name = _find(columns, names)
        if name is None:
            return None
        values = arrays[name]
        if values.ndim != 2 or values.shape[1] != 3 or values.dtype.kind not in kinds:
            raise DataError(f"{path}: {name}: expected an array (rows, 3) of numbers, found {values.shape}")
        return values

    xyz = find(XYZ_NAMES, "iuf")
    if xyz is None or not len(xyz):
        raise DataError(f"{path}: expected an array {', '.join(XYZ_NAMES[:3])} or alike with positions, found none")
    colors, faces, normal = find(RGB_NAMES, "iuf"), find(FACES_NAMES, "iu"), find(NORMAL_NAMES, "f")
    if faces is not None and len(faces) and not 0 <= int(faces.min()) <= int(faces.max()) < len(xyz):
        raise DataError(f"{path}: faces use vertices outside of 0 to {len(xyz) - 1}")
    for name, values in (("colours", colors), ("normals", normal)):
        if values is not None and len(values) != len(xyz):
            raise DataError(f"{path}: {len(values)} {name}, expected {len(xyz)}, one per point")
    rgb, doubts = (None, ()) if colors is None else colors_as_bytes(colors)
    surface = surface_in_memory(
        path, xyz if xyz.dtype == np.float32 else xyz.astype(np.float64), rgb, faces, doubts=doubts
    )
    rows = {name: column for name, column in columns.items() if arrays[name].ndim and len(arrays[name]) == len(xyz)}
    labels = {name: column for name, column in columns.items() if name.lower() in (*LABEL_NAMES, *OBJECT_NAMES)}
    return _File(surface, rows | labels, normal)


def _find(columns: Mapping[str, object], names: Sequence[str | None]) -> str | None:
    """Return the first column of one of these names, in any capitals and with or without CloudCompare's prefix."""
    by_name = {name.lower().removeprefix(PREFIX): name for name in reversed(list(columns))}
    wanted = [name.lower().removeprefix(PREFIX) for name in names if name]
    return next((by_name[name] for name in wanted if name in by_name), None)


def recognise_labelled(raw: Path) -> str:
    """Return what a folder in this format has, or ""; ScanNet's meshes have their labels in other files."""
    found = next(_walk(raw), None)
    if found is None or found.name.endswith((MESH_SUFFIX, DENSE_MESH_SUFFIX)):
        return ""
    return str(found.relative_to(raw))


def open_labelled(settings: PrepareSettings) -> RawFolder:
    """List the scenes of a folder of labelled scans.

    Raises:
        DataError: The folder has no scans, or has no class names.
        UsageError: The number of `--labels` is not that of the vocabularies.
    """
    raw = settings.raw_folder
    found = sorted(_walk(raw))
    if not found:
        kinds = ", ".join(suffix.removeprefix(".").upper() for suffix in SUFFIXES)
        raise DataError(f"{raw} contains no scans: expected files such as {raw}/train/room1.ply ({kinds})")
    names = settings.vocabulary or (find_names(raw) or "",)
    if names == ("",):
        raise missing_names(raw)
    vocabularies = load_vocabularies(names)
    require_labels(settings.labels, vocabularies)
    if len(vocabularies) > 1 and not settings.labels:
        raise UsageError(f"{len(vocabularies)} vocabularies: pass --labels once for each", fields=("labels",))
    paths = set(found)
    second = {path: _find_labels(path, paths) if COLOR in settings.labels else None for path in found}
    own = [path for path in found if path not in second.values()]
    places = [place_of(raw, path) for path in own]
    colors = [vocabulary.colors.tolist() for vocabulary in vocabularies] if COLOR in settings.labels else []
    table = digest_choice("labelled", *settings.labels, settings.object_ids, settings.scale, settings.up, *colors)

    def scene_of(place: Place, split: str) -> RawScene:
        return LabelledScene(
            scene_id=place.scene_id,
            split=split,
            label_table=table,
            path=place.path,
            labels_path=second[place.path],
            vocabularies=vocabularies,
            labels=settings.labels,
            object_ids=settings.object_ids,
            scale=settings.scale,
            up=settings.up,
        )

    return list_scenes(raw, "labelled", vocabularies, places, table, scene_of)


def _find_labels(path: Path, paths: set[Path]) -> Path | None:
    """Return the second file of a scene, whose colours are the labels, or None."""
    candidates = (path.with_name(path.stem + end + path.suffix) for end in LABELS_STEMS)
    return next((candidate for candidate in candidates if candidate in paths), None)


def _walk(raw: Path) -> Iterator[Path]:
    """Yield the scans in a folder, at most `MAX_DEPTH` levels deep."""
    for folder, below, names in os.walk(raw, followlinks=True):
        path = Path(folder)
        below[:] = sorted(name for name in below if not name.startswith("."))
        if len(path.relative_to(raw).parts) >= MAX_DEPTH:
            below.clear()
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield path / name
